"""Predictions of several processes, streamed to disk and joined into one results file."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

_COPY_BYTES = 1 << 20


class PredictionShards:
    """A file of predictions per rank: ``<stem>.rank0``, ``<stem>.rank1``, ...

    A rank writes ``<stem>.rank0.part`` and renames it when it is done, so a file of the final name
    is whole. A new evaluation removes the shard that its rank may have left in an earlier one.

    Args:
        target: the results file; the shards lie beside it, on a file system that all ranks share.
        rank: this process.
    """

    def __init__(self, target: Path, rank: int) -> None:
        self.target = target
        self._own = self._shard(rank)
        self._part = self._own.with_name(self._own.name + ".part")
        self._file = None

    def open(self) -> None:
        """Start anew, without predictions."""
        self.close()
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._own.unlink(missing_ok=True)
        self._file = self._part.open("wb")

    def write(self, entries: list[dict]) -> None:
        """Append entries of the results list."""
        if entries:
            self._file.write(msgspec.json.encode(entries)[1:-1] + b"\n")

    def finish(self) -> None:
        """Declare this rank's shard whole."""
        self.close()
        os.replace(self._part, self._own)

    def close(self) -> None:
        """Close the file; what it holds stays a part."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def join(self, world_size: int) -> bool:
        """Join the whole shards of all ranks into the results file, a json list, and remove them.

        Returns:
            Whether there is any prediction.

        Raises:
            FileNotFoundError: the shard of a rank is not there.
        """
        shards = [self._shard(rank) for rank in range(world_size)]
        missing = [shard for shard in shards if not shard.exists()]
        if missing:
            raise FileNotFoundError(
                f"the predictions of {len(missing)} of {world_size} ranks are missing, e.g. "
                f"{missing[0]}: all machines must share the folder {self.target.parent}."
            )
        # One name, not a new one each time: what a kill leaves, the next evaluation writes over.
        part = self.target.with_name(self.target.name + ".part")
        with open(part, "wb") as file:
            first = True
            file.write(b"[")
            for shard in shards:
                first = _append(file, shard, first)
            file.write(b"]")
        os.replace(part, self.target)
        for shard in shards:
            shard.unlink()
        return not first

    def _shard(self, rank: int) -> Path:
        return self.target.with_name(f"{self.target.stem}.rank{rank}")


def _append(file, shard: Path, first: bool) -> bool:
    """Copy a shard's lines, commas between them; whether still nothing is written."""
    with open(shard, "rb", buffering=_COPY_BYTES) as lines:
        for line in lines:
            file.write(line if first else b"," + line)
            first = False
    return first
