"""The file that ``launch.sh`` and ``launch.ps1`` run with an isolated Python (``python -I``)."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from chatglm_backend.launcher.main import main

    sys.exit(main(sys.argv[1:], ROOT))
