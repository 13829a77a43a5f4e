"""From a source tensor to the tensors of a low-bit checkpoint, slice of rows by slice of rows, on all cores.

Each source byte is read once (a tied embedding feeds both of its uses from one slice), at most
a few slices exist in fp32 at a time, and their mapped pages are given back. Knows nothing of files.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from chatglm_backend.checkpoint.mapping import release_pages, will_read
from chatglm_backend.checkpoint.plan import Job, Plan
from chatglm_backend.checkpoint.thudm import dequantize_rows, reencode_rows
from chatglm_backend.errors import DamagedFile
from chatglm_backend.int4.packing import BLOCK_BYTES
from chatglm_backend.sentences import Sentence

Quantize = Callable[[Tensor], Tensor]
"""fp32 [rows, in], contiguous -> ``sym_int4`` bytes, uint8 [rows, in // 64 * 34]. Called from several threads."""


class Merge(Protocol):
    """What is added to the weights before they are encoded; its methods are called from several threads."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def identity(self) -> str:
        """A hash of it."""

    def apply(self, name: str, start: int, rows: Tensor) -> None:
        """Change ``rows`` of the tensor ``name``, the first of which is ``start``, in place."""


SLICE_BYTES = 32 << 20
"""The largest fp32 slice, in bytes (one row at least)."""

_MOST_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Encoded:
    """The next rows of each target, in the job's order; ``source_bytes`` were read for them."""

    pieces: tuple[tuple[str, Tensor], ...]
    source_bytes: int


def workers(threads: int | None) -> int:
    """How many slices are worked on at once: on each core that this process may use, and never more than 8.

    Eight read faster than disks do, and hold as much in fp32 as one large tensor of a 6B model has.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(threads or cores, _MOST_WORKERS)


def encode(
    plan: Plan,
    quantize: Quantize,
    merge: Merge | None = None,
    *,
    threads: int | None = None,
    slice_bytes: int = SLICE_BYTES,
) -> Generator[Encoded, None, None]:
    """Work through all jobs in order; the order of the results is that of the jobs and their rows.

    Closing the iterator early abandons the rest. Raises DamagedFile for a value that is no finite number.
    """
    count = workers(threads)
    waiting: deque[Future[Encoded]] = deque()
    pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix="convert")
    try:
        for job, start, end in _slices(plan, slice_bytes):
            if job.source.mapped:
                will_read(job.source.data[start:end])
            waiting.append(pool.submit(_encode_rows, job, start, end, quantize, merge))
            if len(waiting) > count + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _slices(plan: Plan, slice_bytes: int) -> Iterator[tuple[Job, int, int]]:
    for job in plan.jobs:
        rows, columns = job.source.shape[0], job.targets[0].shape[1:]
        step = max(1, slice_bytes // (4 * math.prod(columns)))
        for start in range(0, rows, step):
            yield job, start, min(start + step, rows)


def _encode_rows(job: Job, start: int, end: int, quantize: Quantize, merge: Merge | None) -> Encoded:
    rows = job.source.rows(start, end)
    scales = None if job.scales is None else job.scales.reshape(-1)[start:end]
    nbytes = rows.nbytes + (0 if scales is None else scales.nbytes)
    if scales is not None and job.bits == 8:
        rows, scales = dequantize_rows(rows, _finite(job, scales), bits=8), None
    pieces = []
    for spec in job.targets:
        if job.packed:
            blocks = rows.reshape(len(rows), -1, BLOCK_BYTES)[..., :2].contiguous()
            _finite(job, blocks.view(torch.float16))
            pieces.append((spec.name, rows.clone()))
        elif scales is not None and spec.kind == "embedding":
            pieces.append((spec.name, dequantize_rows(rows, _finite(job, scales)).half()))
        elif scales is None:
            wide = rows.to(torch.float16 if spec.kind == "embedding" else torch.float32, copy=True).contiguous()
            if merge is not None:
                merge.apply(spec.name, job.first + start, wide)
            _finite(job, wide)
            pieces.append((spec.name, quantize(wide) if spec.kind in ("linear", "output") else wide))
        else:
            pieces.append((spec.name, reencode_rows(rows, _finite(job, scales))))
    part = job.source.data[start:end]
    if job.source.mapped and part.is_contiguous():
        release_pages(part)
    return Encoded(tuple(pieces), nbytes)


def _finite(job: Job, values: Tensor) -> Tensor:
    """The values themselves; an infinity or something that is no number would spoil every answer in silence."""
    low, high = torch.aminmax(values)
    if not math.isfinite(float(low) + float(high)):
        raise DamagedFile(path=job.source.file, reason=Sentence("folder.not_finite", tensor=job.source.name))
    return values
