#!/bin/sh
# CPython 3.10.13, 3.11.7 and 3.12.1, seen 2026-11-28; 3.13.0 is right.
# What one would expect: Ctrl-C during Thread.join(timeout) raises KeyboardInterrupt and says nothing about the thread.
# What happens: the thread is marked as ended while it goes on: is_alive() is False, and every later join() returns at once. Whoever
# then closes what the thread uses pulls it from under its feet.
# Seen: "is_alive: False, still running: True"
set -eu
python3 - <<'PY'
import os
import signal
import sys
import threading
import time

thread = threading.Thread(target=time.sleep, args=(3,), daemon=True)
thread.start()
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    while True:
        thread.join(0.2)
except KeyboardInterrupt:
    print(f"{sys.version.split()[0]} is_alive: {thread.is_alive()}, still running: {thread.ident in sys._current_frames()}")
PY
