"""From a source tensor to the tensors of a low-bit checkpoint, slice of rows by slice of rows, on all cores.

Each source byte is read once (a tied embedding feeds both of its uses from one slice), at most
a few slices exist in fp32 at a time, and their mapped pages are given back. Knows nothing of files.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from chatglm_backend.checkpoint.mapping import release_pages, will_read
from chatglm_backend.checkpoint.readers import SourceTensor, SourceTensors
from chatglm_backend.checkpoint.thudm import BLOCK, BLOCK_BYTES, reencode_rows
from chatglm_backend.checkpoint.writer import TensorLayout
from chatglm_backend.models.layout import TensorSpec

__all__ = ["SLICE_BYTES", "Encoded", "Job", "Quantize", "encode", "plan", "stored_layout", "workers"]

Quantize = Callable[[Tensor], Tensor]
"""fp32 [rows, in], contiguous -> ``sym_int4`` bytes, uint8 [rows, in // 64 * 34]. Called from several threads."""

SLICE_BYTES = 32 << 20
"""The largest fp32 slice, in bytes (one row at least)."""

_MOST_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Job:
    """One stored tensor and what is made of it."""

    source: SourceTensor
    targets: tuple[TensorSpec, ...]

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return self.source.data.nbytes + (0 if self.source.scales is None else self.source.scales.nbytes)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The next rows of each target, in the job's order; ``source_bytes`` were read for them."""

    pieces: tuple[tuple[str, Tensor], ...]
    source_bytes: int


def plan(source: SourceTensors) -> tuple[Job, ...]:
    """All jobs: vectors first (they share one file), then the matrices in the order in which they lie on disk."""
    targets: dict[str, list[TensorSpec]] = {}
    tensors: dict[str, SourceTensor] = {}
    for spec in source.specs:
        tensor = source.get(spec.name)
        tensors[tensor.name] = tensor
        targets.setdefault(tensor.name, []).append(spec)
    jobs = [Job(tensors[name], tuple(specs)) for name, specs in targets.items()]
    return tuple(sorted(jobs, key=lambda job: (job.targets[0].kind != "vector", job.source.position)))


def stored_layout(spec: TensorSpec) -> TensorLayout:
    """Dtype and shape of a tensor in a low-bit checkpoint: INT4 bytes, an fp16 embedding, fp32 vectors."""
    if spec.kind == "vector":
        return torch.float32, spec.shape
    if spec.kind == "embedding":
        return torch.float16, spec.shape
    return torch.uint8, (spec.shape[0], spec.shape[1] // BLOCK * BLOCK_BYTES)


def workers(threads: int | None) -> int:
    """How many slices are worked on at once: on each core that this process may use, and never more than 8.

    Eight read faster than disks do, and hold as much in fp32 as one large tensor of a 6B model has.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(threads or cores, _MOST_WORKERS)


def encode(
    jobs: tuple[Job, ...], quantize: Quantize, *, threads: int | None = None, slice_bytes: int = SLICE_BYTES
) -> Generator[Encoded, None, None]:
    """Work through all jobs in order; the order of the results is that of the jobs and their rows.

    Closing the iterator early abandons the rest.
    """
    count = workers(threads)
    waiting: deque[Future[Encoded]] = deque()
    pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix="convert")
    try:
        for job, start, end in _slices(jobs, slice_bytes):
            if job.source.mapped:
                will_read(job.source.data[start:end])
            waiting.append(pool.submit(_encode_rows, job, start, end, quantize))
            if len(waiting) > count + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _slices(jobs: tuple[Job, ...], slice_bytes: int) -> Iterator[tuple[Job, int, int]]:
    for job in jobs:
        shape = job.targets[0].shape
        row_bytes = 4 * (shape[1] if len(shape) > 1 else 1)
        step = max(1, slice_bytes // row_bytes)
        for start in range(0, shape[0], step):
            yield job, start, min(start + step, shape[0])


def _encode_rows(job: Job, start: int, end: int, quantize: Quantize) -> Encoded:
    rows = job.source.data[start:end]
    scales = None if job.source.scales is None else job.source.scales.reshape(-1)[start:end]
    pieces = tuple((spec.name, _encode(spec, rows, scales, quantize)) for spec in job.targets)
    nbytes = rows.nbytes + (0 if scales is None else scales.nbytes)
    if job.source.mapped and rows.is_contiguous():
        release_pages(rows)
    return Encoded(pieces, nbytes)


def _encode(spec: TensorSpec, rows: Tensor, scales: Tensor | None, quantize: Quantize) -> Tensor:
    if spec.kind == "vector":
        return rows.to(torch.float32, copy=True).contiguous()
    if spec.kind == "embedding":
        return rows.to(torch.float16, copy=True).contiguous()
    if scales is not None:
        return reencode_rows(rows, scales)
    return quantize(rows.to(torch.float32).contiguous())
