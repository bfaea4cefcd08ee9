"""``metrics.json`` of a run that was killed and goes on.

Detectron2 appends a line of json for each record. A kill may cut the last line off, and the resumed
run records once more what came after its checkpoint.
"""

import json
import os
from pathlib import Path

METRICS = "metrics.json"


def keep_metrics_before(path: Path, iteration: int) -> None:
    """Leave the records of the iterations before ``iteration`` in the file, and nothing else.

    The file stays the same one, as Detectron2 has opened it already to append to it. Records of
    one iteration may lie in front of those of an earlier one, though not across a checkpoint.

    Args:
        path: a metrics file; nothing happens where there is none.
        iteration: the first one of the resumed run.
    """
    if not path.exists():
        return
    kept = 0
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n") or _iteration(line) >= iteration:
                break
            kept += len(line)
    os.truncate(path, kept)


def _iteration(line: bytes) -> float:
    try:
        return json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
