"""Merging a LoRA adapter into its base while that is converted: ``W + scale * B A`` in fp32, block of rows by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from chatglm_backend.adapters.folder import AdapterFolder
from chatglm_backend.adapters.lora_tensors import Factors, read_lora
from chatglm_backend.checkpoint.adapters import PREFIX
from chatglm_backend.checkpoint.source import CheckpointFolder
from chatglm_backend.errors import AdapterError
from chatglm_backend.models.layout import tensor_specs
from chatglm_backend.sentences import Sentence


@dataclass(frozen=True, slots=True, eq=False)
class LoraMerge:
    """What ``convert`` makes of the weights: products are added to ``factors``, ``whole`` tensors take their places.

    ``identity`` is a hash of all; the tensors stay mapped from their file.
    """

    name: str
    identity: str
    factors: Mapping[str, Factors]
    whole: Mapping[str, Tensor]

    def apply(self, name: str, start: int, rows: Tensor) -> None:
        """Change ``rows`` of the tensor ``name``, the first of which is ``start``, in place."""
        factors = self.factors.get(name.removesuffix(".weight"))
        if name in self.whole:
            rows.copy_(self.whole[name][start : start + len(rows)])
        if factors is not None:
            rows.addmm_(factors.b[start : start + len(rows)].float(), factors.a.float(), alpha=factors.scale)


def open_merge(folder: AdapterFolder, base: CheckpointFolder) -> LoraMerge:
    """Read a LoRA for merging. Raises AdapterError for what is none, or a base that cannot take it, and as loading."""
    if folder.kind == "prefix" or base.config_json.get("pre_seq_len"):
        raise _refused(PREFIX, folder, folder if folder.kind == "prefix" else base)
    if base.quantized:
        raise _refused("quantization_bit" if base.thudm_bits else "sym_int4", folder, base)
    found = read_lora(folder, base.config)
    specs = tensor_specs(base.config)
    missing = sorted(set(found.biases) - {spec.name for spec in specs})
    if missing:
        raise _refused(missing[0], folder, folder)
    saved = {"embedding": found.embedding, "output": found.output}
    whole = {spec.name: tensor for spec in specs if (tensor := saved.get(spec.kind)) is not None}
    return LoraMerge(folder.name, found.identity, found.factors, found.biases | whole)


def _refused(what: str, folder: AdapterFolder, place: AdapterFolder | CheckpointFolder) -> AdapterError:
    return AdapterError(reason=Sentence("adapter.merge", what=what, path=place.path, folder=folder.path))
