"""Threads are what was asked for, whoever multiplies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chatglm_backend.int4.kernels.choose import CPU_TOO_OLD
from chatglm_backend.int4.kernels.variants import host_cpu, usable_variants

pytestmark = pytest.mark.model

PROGRAM = """
import os, sys, time
import numba, torch
from chatglm_backend.int4.select import select_kernel

def ticks():
    found = {}
    for task in os.listdir("/proc/self/task"):
        fields = open(f"/proc/self/task/{task}/stat").read().rpartition(")")[2].split()
        found[task] = int(fields[11]) + int(fields[12])
    return found

def busy(work):
    "Threads that had a processor for 50 ms or more while the process worked for most of a second."
    work()
    before, until = ticks(), time.process_time() + 0.8
    while time.process_time() < until:
        work()
    return {task for task, now in ticks().items() if now - before.get(task, 0) >= 5}

packed = torch.zeros(2048, 2048 // 64 * 34, dtype=torch.uint8)
x, square = torch.ones(128, 2048), torch.ones(1500, 1500)
for count in map(int, sys.argv[1:]):
    torch.set_num_threads(count)
    ours = select_kernel("vnni", threads=count).kernel.prepare(packed, 2048, 2048)
    bigdl = select_kernel("bigdl", threads=count).kernel.prepare(packed, 2048, 2048)
    seen = [busy(lambda: ours(x)), busy(lambda: square @ square), busy(lambda: bigdl(x))]
    print(count, numba.threading_layer(), *map(len, seen), len(seen[0] | seen[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux counts a process's threads in a folder")
@pytest.mark.skipif(not usable_variants(host_cpu()), reason=CPU_TOO_OLD)
def test_only_the_threads_asked_for_are_at_work() -> None:
    """Our kernels, torch and bigdl's library have the threads at work that were asked for; ours are torch's."""
    counts = [str(count) for count in (1, 2) if count <= (os.cpu_count() or 1)]
    root = Path(__file__).resolve().parents[2]
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *counts], cwd=root, env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(counts)
    for line in done.stdout.splitlines():
        count, layer, *busy, ours_and_torch = line.split()
        assert all(1 <= int(threads) <= int(count) for threads in busy), done.stdout
        assert layer != "omp" or int(ours_and_torch) <= int(count), done.stdout
