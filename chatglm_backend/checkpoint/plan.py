"""Which stored tensor becomes what: every tensor of the model found and of the right shape, and none left over.

A stored tensor that the model does not use is known to be harmless, or the folder is refused by its name.
Reads no values but THUDM's scales.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from chatglm_backend.checkpoint.adapters import PREFIX, PREFIX_ROWS, refuse_lone_prefix
from chatglm_backend.checkpoint.prefix import TrainedPrefix, read_prefix
from chatglm_backend.checkpoint.source import CheckpointFolder
from chatglm_backend.checkpoint.tensors import StoredTensor, open_tensors
from chatglm_backend.checkpoint.thudm import dequantize_rows
from chatglm_backend.checkpoint.writer import TensorLayout, tensor_bytes
from chatglm_backend.errors import CheckpointError, UnsupportedQuantization, WrongShape
from chatglm_backend.int4.blocks import dequantize
from chatglm_backend.int4.packing import BLOCK_BYTES
from chatglm_backend.int4.packing import BLOCK_WEIGHTS as BLOCK
from chatglm_backend.models.layout import TensorSpec, names_in_transformers, tensor_specs
from chatglm_backend.sentences import Sentence

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
# Rotary frequencies follow from the config; the value head is what reward training leaves behind.
_HARMLESS = re.compile(r"(.*\.)?inv_freq|v_head\..*")


@dataclass(frozen=True, slots=True)
class Job:
    """One stored tensor and what is made of it. With ``scales`` [rows], it holds THUDM's int8 [rows, in · bits/8].

    Without, uint8 are ``sym_int4`` bytes, as bigdl-llm saved them. Of a target that is stored in parts it becomes
    the rows from ``first`` on.
    """

    source: StoredTensor
    scales: Tensor | None
    targets: tuple[TensorSpec, ...]
    first: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return self.source.nbytes + (0 if self.scales is None else self.scales.nbytes)

    @property
    def bits(self) -> int:
        """THUDM's bits per weight, 4 or 8; 0 for a tensor in full precision."""
        return 0 if self.scales is None else 8 * self.source.shape[1] // self.targets[0].shape[1]

    @property
    def packed(self) -> bool:
        """Whether it is in ``sym_int4`` already."""
        return self.scales is None and self.source.dtype == torch.uint8

    def dense(self) -> Tensor:
        """The whole tensor: as stored, INT4 dequantised to fp32."""
        rows = self.source.rows()
        if self.packed:
            return dequantize(rows.contiguous(), rows.shape[0], self.targets[0].shape[1])
        return rows if self.scales is None else dequantize_rows(rows, self.scales, bits=self.bits)


@dataclass(frozen=True)
class Plan:
    """All jobs: vectors first (they share one file), then the matrices in the order in which they lie on disk.

    ``prefix`` is that of a whole P-Tuning fine-tune.
    """

    jobs: tuple[Job, ...]
    prefix: TrainedPrefix | None = None

    @cached_property
    def layouts(self) -> Mapping[str, TensorLayout]:
        """Dtype and shape of each tensor of the low-bit checkpoint."""
        made = {spec.name: stored_layout(spec) for job in self.jobs for spec in job.targets}
        return made if self.prefix is None else {**made, PREFIX_ROWS: (torch.float32, self.prefix.shape)}

    @property
    def nbytes(self) -> int:
        """The size of what is made, in bytes."""
        return sum(map(tensor_bytes, self.layouts.values()))


def make_plan(folder: CheckpointFolder) -> Plan:
    """Open a source checkpoint and find everything that its model needs.

    Raises DamagedFile, UnsafeCheckpoint, WrongShape, UnsupportedQuantization, CheckpointError, and what reading a
    prefix raises.
    """
    specs = tensor_specs(folder.config)
    stored = open_tensors(folder)
    if folder.packed:
        stored |= _packed_rows(stored, specs)
    refuse_lone_prefix(folder.path, folder.config_json, stored)
    prefix = _prefix(folder, stored)
    tied = [names for spec in (specs[0], specs[-1]) for names in _names_of(spec)] if folder.config.ties_output else []
    if folder.packed:
        tied = []  # the output layer was quantised on its own
    targets: dict[tuple[str, ...], list[TensorSpec]] = {}
    used = {name for names in tied for one in names for name in (one, f"{one}_scale")}
    for spec in specs:
        ways = tied if (spec.name,) in tied else _names_of(spec)
        parts = next((names for names in ways if all(name in stored for name in names)), None)
        if parts is None:
            raise CheckpointError(path=folder.path, reason=Sentence("folder.tensor_missing", tensor=spec.name))
        targets.setdefault(parts, []).append(spec)
        used |= {*parts, *(f"{name}_scale" for name in parts)}
    for name in stored:
        if name not in used and not name.startswith(PREFIX) and not _HARMLESS.fullmatch(name):
            raise CheckpointError(path=stored[name].file, reason=Sentence("folder.tensor_unused", tensor=name))
    bits = folder.thudm_bits or 4
    found = [_jobs(stored, names, tuple(specs), bits) for names, specs in targets.items()]
    found.sort(key=lambda jobs: (jobs[0].targets[0].kind != "vector", jobs[0].source.position))
    return Plan(tuple(job for jobs in found for job in jobs), prefix)


def read_dense(folder: CheckpointFolder) -> Mapping[str, Tensor]:
    """All tensors by the authors' names, for fp32 checks: mapped as stored, THUDM's dequantised when read.

    Of a prefix the finished rows.

    Raises as :func:`make_plan` does; a low-bit checkpoint has no dense weights.
    """
    if folder.format == "lowbit":
        raise CheckpointError(path=folder.path, reason=Sentence("folder.int4_only"))
    plan = make_plan(folder)
    parts: dict[str, list[Job]] = {}
    for job in plan.jobs:
        for spec in job.targets:
            parts.setdefault(spec.name, []).append(job)
    return _Dense(parts, plan.prefix)


def stored_layout(spec: TensorSpec) -> TensorLayout:
    """Dtype and shape of a tensor in a low-bit checkpoint: INT4 bytes, an fp16 embedding, fp32 vectors."""
    if spec.kind == "vector":
        return torch.float32, spec.shape
    if spec.kind == "embedding":
        return torch.float16, spec.shape
    return torch.uint8, (spec.shape[0], spec.shape[1] // BLOCK * BLOCK_BYTES)


class _Dense(Mapping[str, Tensor]):
    def __init__(self, jobs: Mapping[str, Sequence[Job]], prefix: TrainedPrefix | None) -> None:
        self._jobs, self._prefix = jobs, prefix
        self._names = (*jobs, *((PREFIX_ROWS,) if prefix else ()))

    def __getitem__(self, name: str) -> Tensor:
        if name == PREFIX_ROWS and self._prefix is not None:
            return torch.stack(list(self._prefix.parts()))
        parts = [job.dense() for job in self._jobs[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _prefix(folder: CheckpointFolder, stored: Mapping[str, StoredTensor]) -> TrainedPrefix | None:
    found = {name: tensor for name, tensor in stored.items() if name.startswith(PREFIX)}
    said = folder.config_json.get("pre_seq_len")
    if found:
        file = next(iter(found.values())).file
        return read_prefix({name: tensor.rows() for name, tensor in found.items()}, folder.config, file, said)
    if said:
        raise CheckpointError(path=folder.path, reason=Sentence("folder.tensor_missing", tensor=f"{PREFIX}embedding"))
    return None


def _names_of(spec: TensorSpec) -> list[tuple[str, ...]]:
    """The names under which a tensor is stored, or its parts; some trainers wrap the output layer in a list."""
    wrapped = [(spec.name.replace(".weight", ".0.weight"),)] if spec.kind == "output" else []
    return [(spec.name,), *wrapped, names_in_transformers(spec.name)]


def _packed_rows(stored: Mapping[str, StoredTensor], specs: Iterable[TensorSpec]) -> dict[str, StoredTensor]:
    """The matrices that bigdl-llm saved as one flat row of bytes, in their own rows."""
    found = {}
    for spec in specs:
        tensor = stored.get(spec.name)
        if tensor is not None and spec.kind in ("linear", "output") and tensor.dtype == torch.uint8:
            shape = stored_layout(spec)[1]
            if tensor.shape == (math.prod(shape),):
                found[spec.name] = replace(tensor, data=tensor.data.view(shape), shape=shape)
    return found


def _scales(stored: Mapping[str, StoredTensor], name: str) -> Tensor | None:
    scales = stored.get(f"{name}_scale")
    return None if scales is None else scales.rows()


def _jobs(
    stored: Mapping[str, StoredTensor], names: tuple[str, ...], targets: tuple[TensorSpec, ...], bits: int
) -> list[Job]:
    """A job for each of the parts, checked: alone it has all rows, and together they have them."""
    jobs: list[Job] = []
    first = 0
    for name in names:
        source, scales = stored[name], _scales(stored, name)
        for spec in targets:
            rows = spec.shape[0] if len(names) == 1 else source.shape[0] if source.shape else 0
            _check(TensorSpec(spec.name, (rows, *spec.shape[1:]), spec.kind), source, scales, bits)
        jobs.append(Job(source, scales, targets, first))
        first += source.shape[0]
    if first != targets[0].shape[0]:
        found, expected = (first, *targets[0].shape[1:]), targets[0].shape
        raise WrongShape(tensor=targets[0].name, path=jobs[0].source.file, found=found, expected=expected)
    return jobs


def _check(spec: TensorSpec, tensor: StoredTensor, scales: Tensor | None, bits: int) -> None:
    expected, dtype = spec.shape, str(tensor.dtype)
    if scales is not None:
        if spec.kind == "vector" or tensor.dtype not in (torch.int8, torch.uint8):
            raise UnsupportedQuantization(
                path=tensor.file, found=Sentence("quantised.scales", dtype=dtype, tensor=spec.name)
            )
        expected = (spec.shape[0], spec.shape[1] * bits // 8)
        _check_scales(spec, tensor, scales, bits)
    elif tensor.dtype == torch.uint8 and spec.kind in ("linear", "output"):
        expected = stored_layout(spec)[1]
    elif tensor.dtype not in _FLOATS:
        raise UnsupportedQuantization(
            path=tensor.file, found=Sentence("quantised.dtype", dtype=dtype, tensor=spec.name)
        )
    if tensor.shape != expected:
        raise WrongShape(tensor=spec.name, path=tensor.file, found=tensor.shape, expected=expected)
    if spec.kind in ("linear", "output") and spec.shape[1] % BLOCK:
        raise CheckpointError(path=tensor.file, reason=Sentence("folder.row_multiple", tensor=spec.name, block=BLOCK))


def _check_scales(spec: TensorSpec, tensor: StoredTensor, scales: Tensor, bits: int) -> None:
    if scales.numel() != spec.shape[0]:
        raise WrongShape(
            tensor=f"{spec.name}_scale", path=tensor.file, found=tuple(scales.shape), expected=(spec.shape[0],)
        )
    if bits == 4 and not torch.equal(scales.to(torch.float16).to(scales.dtype), scales):
        raise UnsupportedQuantization(
            path=tensor.file, found=Sentence("quantised.wide_scales", dtype=str(scales.dtype))
        )
