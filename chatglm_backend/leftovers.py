"""What a process that was killed in the middle of writing leaves behind. Knows no formats."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

_SURELY_LEFT_S = 3600.0


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove what matches and is older than any writing takes; what cannot be removed now is left for later."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _SURELY_LEFT_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
