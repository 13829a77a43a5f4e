#!/bin/sh
# ray 2.60.0, seen 2026-11-28. Linux.
# What one would expect: a program that leaves a cluster whose head has died is told so, or leaves at once.
# What happens: ray.shutdown() waits for the dead head and says nothing. In a program of a larger cluster, whose node was started
# by `ray start`, it waited 12 to 17 seconds.
# Seen: "leaving a cluster took 1.4 s, and 7.0 s when its head had died"
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ray==2.60.0
cat > "$folder/try.py" <<'PY'
import os
import signal
import sys
import time
from pathlib import Path

import ray


def head(session):
    """The process id of the session's own head."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if words.split("\0")[0].endswith("gcs_server") and session in words:
            return int(place.parent.name)
    sys.exit("no head was found")


def leave(*, died):
    """Seconds that leaving a cluster of our own takes."""
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    if died:
        os.kill(head(ray._private.worker._global_node.get_session_dir_path()), signal.SIGKILL)
        time.sleep(1)
    began = time.monotonic()
    ray.shutdown()
    return time.monotonic() - began


well, ill = leave(died=False), leave(died=True)
print(f"leaving a cluster took {well:.1f} s, and {ill:.1f} s when its head had died")
sys.exit(0 if ill > well + 3 else 1)
PY
cd "$folder" && HOME="$folder" RAY_TMPDIR="$folder" RAY_USAGE_STATS_ENABLED=0 timeout 240 "$folder/venv/bin/python" try.py 2>/dev/null
