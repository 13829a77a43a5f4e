"""Puts a model together as ``verify`` wants it, and compares its logits with a folder's expected ones.

Prints nothing. Heavy packages are imported inside the function.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from chatglm_backend.service.adapters import BaseParts, named_source, read_adapter
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from chatglm_backend.adapters.load import AdaptableWeights
    from chatglm_backend.checkpoint.source import CheckpointFolder
    from chatglm_backend.engine.verify import Precision, VerifyReport
    from chatglm_backend.int4.kernel import KernelName
    from chatglm_backend.models.base import ChatModel


def verify_folder(
    folder: Path, precision: Precision, settings: Settings, *, tolerance: float | None = None
) -> tuple[VerifyReport, str]:
    """Return the report and the name of what multiplied. Raises a CheckpointError for unreadable folders."""
    import torch

    from chatglm_backend.adapters.find import find_adapter
    from chatglm_backend.adapters.load import own_prefix
    from chatglm_backend.checkpoint.adapters import PREFIX_ROWS
    from chatglm_backend.checkpoint.plan import read_dense
    from chatglm_backend.checkpoint.source import inspect_folder
    from chatglm_backend.engine.verify import verify_logits
    from chatglm_backend.models.base import build_model
    from chatglm_backend.models.weights import DenseWeights

    torch.set_num_threads(settings.fixed("threads") or torch.get_num_threads())
    source = inspect_folder(folder, family=settings.fixed("family"))
    if precision == "fp32":
        dense = read_dense(source)
        base: AdaptableWeights = DenseWeights(dense)
        model: ChatModel = build_model(source.config, base, kv_dtype=torch.float32)
        kernel, rows = "fp32", dense.get(PREFIX_ROWS)
    else:
        model, base, kernel, rows = _int4_model(source, settings)
    kv_dtype = model.new_cache(1).dtype
    adapter = None if rows is None else own_prefix(rows, kv_dtype, folder)
    if settings.adapter:
        parts = BaseParts(source.config, base, kv_dtype, kernel in ("fp32", "exact"), adapter)
        folder = find_adapter(named_source(settings.adapter[0])[1])
        adapter = read_adapter(str(folder), parts)[1]
    return verify_logits(folder, model, precision=precision, tolerance=tolerance, adapter=adapter), kernel


def _int4_model(source: CheckpointFolder, settings: Settings) -> tuple[ChatModel, AdaptableWeights, str, Tensor | None]:
    import torch

    from chatglm_backend.checkpoint.prepare import Preparation
    from chatglm_backend.int4.select import select_kernel
    from chatglm_backend.int4.weights import Int4Weights
    from chatglm_backend.models.base import build_model

    checkpoint = Preparation(use_cache=False).open_folder(source)
    choice = select_kernel(cast("KernelName", settings.kernel), cache=kernel_cache(settings))
    # The exact product is checked to 1e-4, which a 16-bit cache would hide.
    kv_dtype = torch.float32 if settings.kernel == "exact" else getattr(torch, settings.kv_dtype)
    weights = Int4Weights(checkpoint, choice.kernel)
    model = build_model(checkpoint.config, weights, kv_dtype=kv_dtype, ops=choice.ops)
    return model, weights, choice.kernel.name, checkpoint.prefix
