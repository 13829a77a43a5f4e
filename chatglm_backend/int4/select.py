"""Which kernel multiplies: by name, or the fastest that runs on this CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chatglm_backend.errors import ConfigError
from chatglm_backend.int4.bigdl import BigdlKernel, BigdlLibrary, default_library
from chatglm_backend.int4.exact import ExactKernel
from chatglm_backend.int4.kernel import Kernel, KernelName

__all__ = ["KernelChoice", "select_kernel"]


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """A kernel and why it was chosen, in words for a report."""

    kernel: Kernel
    reason: str


def select_kernel(name: KernelName = "auto", *, library: Callable[[], BigdlLibrary] = default_library) -> KernelChoice:
    """Make the kernel called ``name``. Raises ConfigError for an unknown name and NativeLibraryError."""
    if name == "exact":
        return KernelChoice(ExactKernel(), "dequantised weights, as asked for")
    if name in ("auto", "bigdl"):
        chosen = library()
        return KernelChoice(BigdlKernel(chosen), chosen.reason)
    raise ConfigError(name="kernel", value=name, reason="use auto, vnni, bigdl or exact")
