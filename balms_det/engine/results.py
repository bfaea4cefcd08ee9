"""``results.json``: what an evaluation found, for tables and scripts."""

import json
import math
from pathlib import Path

from balms_det.files import write_atomically


def write_results(cfg, results: dict) -> Path:
    """Write evaluation results to ``OUTPUT_DIR/results.json``, whole or not at all.

    Args:
        cfg: reads ``OUTPUT_DIR``.
        results: ``{task: {metric: value}}``, or one such mapping per test dataset. An undefined
            value (a group without categories: NaN, or negative in LVIS) is written as null.

    Returns:
        The file's path.
    """
    path = Path(cfg.OUTPUT_DIR, "results.json")
    write_atomically(path, json.dumps(_plain(results), indent=1))
    return path


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    number = float(value)
    return None if math.isnan(number) or number < 0 else number
