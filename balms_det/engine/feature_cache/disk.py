"""Room on the disk: how much is needed, and whether it is there."""

from __future__ import annotations

import shutil
from pathlib import Path

from balms_det.engine.feature_cache.layout import FeatureCacheError

# Images differ: so much more than estimated must be free, and so many bytes in any case.
MARGIN = 0.1
SPARE = 64 * 2**20


def check_room(folder: Path, needed: int) -> None:
    """Refuse to begin what would fill the disk.

    Args:
        folder: where it is to be written.
        needed: estimated bytes.

    Raises:
        FeatureCacheError: there is less room than that and a margin.
    """
    free = shutil.disk_usage(folder).free
    wanted = int(needed * (1 + MARGIN)) + SPARE
    if wanted > free:
        raise FeatureCacheError(
            f"{folder}: the cache needs about {readable(needed)} ({readable(wanted)} with a "
            f"margin), and {readable(free)} are free. Keep fewer background RoIs, views or images, "
            "take float16, or choose another disk"
        )


def readable(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
