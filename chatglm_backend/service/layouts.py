"""The kernel's own layout of a checkpoint: made once, kept beside it as a mapped file, shared between processes.

Portable bytes and laid-out bytes are never both resident: pages go back as soon as a tensor is
laid out. Knows checkpoints and kernels; nothing of status or engines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from chatglm_backend.core import CancelToken, LoadProgress
from chatglm_backend.errors import NotEnoughDisk

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from chatglm_backend.checkpoint.lowbit import Checkpoint
    from chatglm_backend.int4.kernel import Kernel
    from chatglm_backend.int4.kernels.product import CompiledKernel
    from chatglm_backend.int4.weights import Int4Weights

_log = logging.getLogger(__name__)
_WORTH_KEEPING = 256_000_000
"""Checkpoints below this many bytes are laid out in memory at every start: that takes less than a second."""


def map_weights(
    checkpoint: Checkpoint,
    kernel: Kernel,
    *,
    progress: Callable[[LoadProgress], None],
    cancel: CancelToken,
    keep: bool = True,
    worth_keeping: int = _WORTH_KEEPING,
) -> Int4Weights:
    """Return weights that multiply with ``kernel``, from its kept layout where it has one of its own.

    ``keep`` False writes nothing. Without room on disk the layout is made in memory. Raises LoadCancelled, and
    DamagedLowBit where the bytes that are to be used are not as they were written.
    """
    from chatglm_backend.checkpoint.lowbit import LowBitCheckpoint
    from chatglm_backend.int4.kernels.product import CompiledKernel
    from chatglm_backend.int4.weights import Int4Weights

    if (
        isinstance(kernel, CompiledKernel)
        and keep
        and isinstance(checkpoint, LowBitCheckpoint)
        and checkpoint.nbytes >= worth_keeping
    ):
        try:
            return Int4Weights(checkpoint, kernel, layouts=_layouts(checkpoint, kernel, progress, cancel))
        except (NotEnoughDisk, OSError) as error:
            _log.warning("the kernel's layout is made in memory: %s", error)
    checkpoint.check(checkpoint.names())
    release = checkpoint.release if isinstance(kernel, CompiledKernel) else None
    return Int4Weights(checkpoint, kernel, release=release)


def _layouts(
    checkpoint: Checkpoint, kernel: CompiledKernel, progress: Callable[[LoadProgress], None], cancel: CancelToken
) -> Callable[[str], Tensor]:
    import torch

    from chatglm_backend.checkpoint.lowbit import LowBitCheckpoint
    from chatglm_backend.int4.kernels.layout import layout_nbytes, repack
    from chatglm_backend.int4.kernels.product import reads_layout
    from chatglm_backend.models.layout import tensor_specs

    if not isinstance(checkpoint, LowBitCheckpoint):
        raise TypeError("only a checkpoint on disk keeps layouts")
    found = checkpoint.layouts.find(kernel.layout_tag)
    if found is None:
        linears = [spec for spec in tensor_specs(checkpoint.config) if spec.kind in ("linear", "output")]
        shapes = {spec.name: (spec.shape[0], spec.shape[1]) for spec in linears}
        sizes = {name: layout_nbytes(out, in_) for name, (out, in_) in shapes.items()}
        total, done = sum(sizes.values()), 0

        def produce(name: str) -> Iterator[Tensor]:
            nonlocal done
            progress(LoadProgress("map", done, total))
            checkpoint.check([name])
            out, in_ = shapes[name]
            laid_out = torch.empty(sizes[name], dtype=torch.uint8)
            repack(checkpoint.get(name).contiguous().numpy(), out, in_, laid_out.numpy(), threads=kernel.team.threads)
            yield laid_out
            done += sizes[name]

        layouts = {name: (torch.uint8, (size,)) for name, size in sizes.items()}
        found = checkpoint.layouts.publish(kernel.layout_tag, layouts, produce, readable=reads_layout, cancel=cancel)
    return found.get
