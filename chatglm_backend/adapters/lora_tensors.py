"""The tensors of a LoRA adapter, as they are stored and each with its place in the base; nothing is left over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chatglm_backend.adapters.folder import AdapterFolder
from chatglm_backend.adapters.lora import read_lora_config
from chatglm_backend.checkpoint.tensors import open_file
from chatglm_backend.errors import AdapterDamaged, AdapterEmpty, AdapterMismatch, AdapterUnsupported
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.layout import TensorSpec, names_in_transformers, tensor_specs
from chatglm_backend.sentences import Sentence

_PEFT_START = "base_model.model."
_FACTORS = ("lora_A", "lora_B")


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """``scale * b @ a`` is added to a product's weights: ``a`` [rank, in], ``b`` [out, rank]."""

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class LoraTensors:
    """Factors by the products' names without ``.weight``, whole biases by their names; the others replace the base's.

    ``identity`` is a hash of all that changes answers.
    """

    identity: str
    factors: dict[str, Factors] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)
    embedding: Tensor | None = None
    output: Tensor | None = None


def read_lora(folder: AdapterFolder, config: ModelConfig) -> LoraTensors:
    """Read and check a LoRA adapter for the base of ``config``; its tensors stay mapped.

    Raises AdapterEmpty, AdapterMismatch, AdapterUnsupported, AdapterDamaged, and what reading files raises.
    """
    return _Reader(folder, config).read({one.name: one.rows() for one in open_file(folder.file)})


def identity_of(folder: AdapterFolder, tensors: Iterable[Tensor]) -> str:
    """A hash of all that changes answers: the tensors, and PEFT's settings."""
    digest = hashlib.sha256(repr(sorted((k, str(v)) for k, v in folder.config.items())).encode())
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class _Reader:
    def __init__(self, folder: AdapterFolder, config: ModelConfig) -> None:
        self._folder = folder
        self._settings = read_lora_config(folder.config, str(folder.path))
        self._specs = {spec.name: spec for spec in tensor_specs(config)}
        # Of transformers' names: the tensor that is ours, and which part of it where it has several.
        self._theirs: dict[str, tuple[str, int | None]] = {}
        for name in self._specs if config.family == "glm4" else ():
            names = names_in_transformers(name)
            self._theirs |= {one: (name, at if len(names) > 1 else None) for at, one in enumerate(names)}
        self._part_rows = [heads * config.head_dim for heads in (config.num_heads, *2 * [config.num_kv_heads])]

    def read(self, tensors: Mapping[str, Tensor]) -> LoraTensors:
        """Each tensor belongs somewhere, or is refused by its name."""
        pairs: dict[str, dict[str, Tensor]] = {}
        biases: dict[str, Tensor] = {}
        whole: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            name = key.removeprefix(_PEFT_START).replace(".modules_to_save", "").replace(".default", "")
            name = self._theirs.get(name, (name,))[0]
            module, _, last = name.removesuffix(".weight").rpartition(".")
            spec = self._spec(name, "embedding", "output")
            if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                raise AdapterDamaged(path=self._folder.file, tensor=key)
            if last in _FACTORS and name.endswith(".weight"):
                pairs.setdefault(module, {})[last] = tensor
            elif name.endswith(".bias") and self._settings.takes_bias:
                biases[name] = self._bias(name, tensor)
            elif spec is not None and self._settings.saved_modules:
                self._fits(name, tensor, spec.shape)
                whole[spec.kind] = tensor
            else:
                raise self._unsupported(key)
        if not pairs and not biases and not whole:
            raise AdapterEmpty(path=self._folder.path)
        return LoraTensors(
            identity_of(self._folder, [tensors[name] for name in sorted(tensors)]),
            self._all_factors(pairs),
            biases,
            **whole,
        )

    def _all_factors(self, pairs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Factors]:
        """By our products' names; what is apart in transformers' layout and one product here becomes one pair."""
        found: dict[str, Factors] = {}
        apart: dict[str, dict[int, Factors]] = {}
        for module, pair in pairs.items():
            name, at = self._theirs.get(f"{module}.weight", (f"{module}.weight", None))
            spec = self._spec(name, "linear", "output")
            if spec is None:
                raise self._mismatch("adapter.no_product", tensor=module)
            rows = spec.shape[0] if at is None else self._part_rows[at]
            one = self._factors(module, pair, (rows, spec.shape[1]))
            if at is None:
                found[name.removesuffix(".weight")] = one
            else:
                apart.setdefault(name.removesuffix(".weight"), {})[at] = one
        return found | {name: _below_one_another(parts, self._part_rows) for name, parts in apart.items()}

    def _factors(self, module: str, pair: Mapping[str, Tensor], shape: tuple[int, int]) -> Factors:
        a, b = (pair.get(name) for name in _FACTORS)
        if a is None or b is None:
            missing = next(name for name in _FACTORS if name not in pair)
            raise self._mismatch("adapter.absent", tensor=f"{module}.{missing}.weight")
        if self._settings.transposed:
            a, b = a.T, b.T
        rank = a.shape[0] if a.dim() == 2 else 0
        self._fits(f"{module}.lora_A.weight", a, (rank, shape[1]))
        self._fits(f"{module}.lora_B.weight", b, (shape[0], rank))
        return Factors(a, b, self._settings.scale(module, rank))

    def _bias(self, name: str, bias: Tensor) -> Tensor:
        spec = self._spec(name.removesuffix(".bias") + ".weight", "linear", "output")
        if spec is None:
            raise self._unsupported(name)
        self._fits(name, bias, spec.shape[:1])
        return bias

    def _spec(self, name: str, *kinds: str) -> TensorSpec | None:
        spec = self._specs.get(name)
        return spec if spec is not None and spec.kind in kinds else None

    def _unsupported(self, name: str) -> AdapterUnsupported:
        return AdapterUnsupported(path=self._folder.file, field=name, value=Sentence("adapter.a_tensor"))

    def _fits(self, name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != expected or 0 in expected:
            raise self._mismatch("adapter.shape", tensor=name, found=tuple(tensor.shape), expected=expected)

    def _mismatch(self, code: str, **fields: object) -> AdapterMismatch:
        return AdapterMismatch(path=self._folder.path, reason=Sentence(code, **fields))


def _below_one_another(parts: Mapping[int, Factors], rows: Sequence[int]) -> Factors:
    """One pair for a product whose rows are those of several; what has no side path adds nothing."""
    scale = next(iter(parts.values())).scale
    blocks = [
        parts[at].b * (parts[at].scale / scale) if at in parts else torch.zeros(count, 0)
        for at, count in enumerate(rows)
    ]
    b = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return Factors(torch.cat([parts[at].a for at in sorted(parts)]), b, scale)
