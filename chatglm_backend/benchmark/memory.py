"""The most memory this process has had resident."""

from __future__ import annotations

import sys

import psutil


def peak_rss_gb() -> float:
    """GB of 10⁹ bytes, mapped weights included; on Windows the peak working set."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e9
    import resource

    # Linux counts kibibytes here.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
