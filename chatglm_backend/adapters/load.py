"""Fine-tunes from their folders, checked against the base model's sizes.

A wrong pair of base and adapter is one sentence that names the first tensor that does not fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from chatglm_backend.adapters.folder import AdapterFolder
from chatglm_backend.adapters.lora import LoraConfig, read_lora_config
from chatglm_backend.checkpoint.prefix import read_prefix
from chatglm_backend.checkpoint.tensors import open_file
from chatglm_backend.errors import AdapterDamaged, AdapterEmpty, AdapterMismatch, AdapterUnsupported
from chatglm_backend.models.adapter import Adapter, Delta, Prefix
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.layout import TensorSpec, tensor_specs
from chatglm_backend.models.low_rank import low_rank
from chatglm_backend.models.weights import Linear, Weights

_PEFT_START = "base_model.model."
_FACTORS = ("lora_A", "lora_B")


class AdaptableWeights(Weights, Protocol):
    """The base's weights, which also make products of other matrices."""

    def own_linear(self, matrix: Tensor) -> tuple[Linear, int]:
        """The product with ``matrix`` [out, in] in the base's precision, and the bytes that it takes."""
        ...


def load_adapter(
    folder: AdapterFolder,
    config: ModelConfig,
    *,
    base: AdaptableWeights,
    dtype: torch.dtype = torch.float16,
    kv_dtype: torch.dtype = torch.float16,
) -> Adapter:
    """Read a fine-tune for the base of ``config``; factors are kept in ``dtype``, prefix rows in ``kv_dtype``.

    Raises AdapterEmpty, AdapterMismatch, AdapterUnsupported, AdapterDamaged, and what reading files raises.
    """
    tensors = {one.name: one.rows() for one in open_file(folder.file)}
    if folder.kind == "prefix":
        trained = read_prefix(tensors, config, folder.file, folder.config.get("pre_seq_len"))
        prefix = _prefix(trained.parts(), kv_dtype, folder.file)
        return Adapter(folder.name, _identity(folder, (*prefix.keys, *prefix.values)), prefix=prefix)
    settings = read_lora_config(folder.config, str(folder.path))
    return _Lora(folder, settings, config, base, dtype).read(tensors)


def own_prefix(rows: Tensor, kv_dtype: torch.dtype, path: Path) -> Adapter:
    """What a model with a prefix inside answers with by itself; ``rows`` are its checkpoint's finished ones.

    Raises AdapterDamaged.
    """
    return Adapter("", "own", prefix=_prefix(rows, kv_dtype, path))


def _prefix(parts: Iterable[Tensor], dtype: torch.dtype, path: Path) -> Prefix:
    cast = tuple(part.to(dtype) for part in parts)
    for index, part in enumerate(cast):
        if not bool(part.isfinite().all()):
            raise AdapterDamaged(path=path, tensor=f"the prefix of layer {index // 2}")
    return Prefix(cast[0::2], cast[1::2])


class _Lora:
    """One LoRA adapter being read."""

    def __init__(
        self,
        folder: AdapterFolder,
        settings: LoraConfig,
        config: ModelConfig,
        base: AdaptableWeights,
        dtype: torch.dtype,
    ) -> None:
        self._folder, self._settings, self._base, self._dtype = folder, settings, base, dtype
        self._specs = {spec.name: spec for spec in tensor_specs(config)}

    def read(self, tensors: Mapping[str, Tensor]) -> Adapter:
        """The adapter of all tensors; each belongs somewhere, or is refused by its name."""
        factors: dict[str, dict[str, Tensor]] = {}
        biases: dict[str, Tensor] = {}
        whole: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            name = key.removeprefix(_PEFT_START).replace(".modules_to_save", "").replace(".default", "")
            module, _, last = name.removesuffix(".weight").rpartition(".")
            if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                raise AdapterDamaged(path=self._folder.file, tensor=key)
            if last in _FACTORS and name.endswith(".weight"):
                factors.setdefault(module, {})[last] = tensor
            elif name.endswith(".bias") and self._settings.takes_bias:
                biases[name] = tensor
            elif self._spec(name, "embedding", "output") is not None and self._settings.saved_modules:
                whole[name] = tensor
            else:
                raise AdapterUnsupported(path=self._folder.file, field=key, value="this tensor")
        deltas = {module: self._low_rank(module, pair) for module, pair in factors.items()}
        for name, bias in biases.items():
            module = name.removesuffix(".bias")
            before = deltas.get(module, Delta())
            deltas[module] = Delta(before.low_rank, self._bias(name, bias))
        if not deltas and not whole:
            raise AdapterEmpty(path=self._folder.path)
        table, matrix = self._whole(whole, "embedding"), self._whole(whole, "output")
        output, nbytes = (None, 0) if matrix is None else self._base.own_linear(matrix)
        half = None if table is None else table.half()
        return Adapter(
            self._folder.name,
            _identity(self._folder, [tensors[name] for name in sorted(tensors)]),
            deltas,
            embedding=None if half is None else lambda ids: half[ids].float(),
            output=output,
            replaced_nbytes=nbytes + (0 if half is None else half.nbytes),
        )

    def _low_rank(self, module: str, pair: Mapping[str, Tensor]) -> Delta:
        spec = self._spec(f"{module}.weight", "linear", "output")
        if spec is None:
            raise AdapterMismatch(path=self._folder.path, tensor=module, found="-", expected="a product of the base")
        a, b = (pair.get(name) for name in _FACTORS)
        if a is None or b is None:
            missing = next(name for name in _FACTORS if name not in pair)
            raise AdapterMismatch(
                path=self._folder.path, tensor=f"{module}.{missing}.weight", found="-", expected="both factors"
            )
        if self._settings.transposed:
            a, b = a.T, b.T
        rank = a.shape[0] if a.dim() == 2 else 0
        self._fits(f"{module}.lora_A.weight", a, (rank, spec.shape[1]))
        self._fits(f"{module}.lora_B.weight", b, (spec.shape[0], rank))
        return Delta(low_rank(a, b, self._settings.scale(module, rank), dtype=self._dtype))

    def _bias(self, name: str, bias: Tensor) -> Tensor:
        spec = self._spec(name.removesuffix(".bias") + ".weight", "linear", "output")
        if spec is None:
            raise AdapterUnsupported(path=self._folder.file, field=name, value="this tensor")
        self._fits(name, bias, spec.shape[:1])
        before = self._base.vector(name) if name in self._specs else torch.zeros(spec.shape[0])
        return bias.float() - before

    def _whole(self, found: Mapping[str, Tensor], kind: str) -> Tensor | None:
        for name, tensor in found.items():
            if self._specs[name].kind == kind:
                self._fits(name, tensor, self._specs[name].shape)
                return tensor
        return None

    def _spec(self, name: str, *kinds: str) -> TensorSpec | None:
        spec = self._specs.get(name)
        return spec if spec is not None and spec.kind in kinds else None

    def _fits(self, name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != expected or 0 in expected:
            raise AdapterMismatch(path=self._folder.path, tensor=name, found=tuple(tensor.shape), expected=expected)


def _identity(folder: AdapterFolder, tensors: Iterable[Tensor]) -> str:
    """A hash of all that changes answers: the tensors, and PEFT's settings."""
    digest = hashlib.sha256(repr(sorted((k, str(v)) for k, v in folder.config.items())).encode())
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
