"""``python -m chatglm_backend``."""

from __future__ import annotations

import sys

from chatglm_backend.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
