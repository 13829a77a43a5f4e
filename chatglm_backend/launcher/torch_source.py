"""Decides where torch comes from on Linux: plain pip, or PyTorch's own index of builds without CUDA.

Pure: the decision is made on pip's report of what it would install.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from chatglm_backend.sentences import Sentence

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True, slots=True)
class CudaFinding:
    """What plain pip would bring: ``packages`` are CUDA packages, ``cuda_torch`` a torch not marked ``+cpu``."""

    packages: tuple[str, ...] = ()
    cuda_torch: bool = False

    def __bool__(self) -> bool:
        return bool(self.packages) or self.cuda_torch

    @property
    def saving(self) -> Sentence:
        """What leaving them out saves."""
        return Sentence("launch.saving", count=len(self.packages))


def cuda_in_report(report: Mapping[str, object]) -> CudaFinding:
    """Look for CUDA in a ``pip install --dry-run --report`` document; odd documents count as none."""
    packages: list[str] = []
    cuda_torch = False
    entries = report.get("install")
    for entry in entries if isinstance(entries, list) else []:
        metadata = entry.get("metadata") if isinstance(entry, dict) else None
        if not isinstance(metadata, dict):
            continue
        name = re.sub(r"[-_.]+", "-", str(metadata.get("name", ""))).lower()
        local = str(metadata.get("version", "")).partition("+")[2]
        if name.startswith(("nvidia-", "cuda-")) or name in ("triton", "pytorch-triton"):
            packages.append(name)
        elif name == "torch" and local != "cpu":
            cuda_torch = True
    return CudaFinding(tuple(sorted(packages)), cuda_torch)


def torch_index(environ: Mapping[str, str]) -> str | None:
    """Return the index for torch without CUDA: ``CHATGLM_TORCH_INDEX``, else PyTorch's; ``None`` for ``none``."""
    chosen = environ.get("CHATGLM_TORCH_INDEX", "").strip() or CPU_INDEX
    return None if chosen.lower() == "none" else chosen


def torch_requirement(requirements: str) -> str | None:
    """Return the line of a requirements file that asks for torch, without its comment."""
    for line in requirements.splitlines():
        bare = line.partition("#")[0].strip()
        if re.match(r"torch\s*([=<>~!;\[@]|$)", bare, re.IGNORECASE):
            return bare
    return None
