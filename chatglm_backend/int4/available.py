"""Every kernel and library of the project, whether this machine can run it, and why not. For reports; loads nothing."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass

from chatglm_backend.int4.kernels.variants import VARIANTS, HostCpu
from chatglm_backend.int4.libraries import missing_features, shipped_variants
from chatglm_backend.sentences import Sentence


@dataclass(frozen=True, slots=True)
class Available:
    """One way to multiply. ``kernel`` is what --kernel takes, ``variant`` the instructions or library behind it."""

    kernel: str
    variant: str
    usable: bool
    reason: Sentence


def available_kernels(
    cpu: HostCpu, flags: Collection[str], *, kernel: str | None, library: str | None, platform: str = sys.platform
) -> tuple[Available, ...]:
    """All of them, fastest first.

    ``cpu`` has LLVM's names of the features and ``flags`` those of /proc/cpuinfo; ``kernel`` and
    ``library`` are the ones chosen, ``None`` where nothing could be.
    """
    exact = Sentence("available.exact_used" if kernel == "exact" else "available.exact")
    found = [*_compiled(cpu, kernel), *_libraries(flags, kernel, library, platform)]
    return (*found, Available("exact", "torch", usable=True, reason=exact))


def _compiled(cpu: HostCpu, kernel: str | None) -> list[Available]:
    found = []
    for variant in VARIANTS:
        missing = variant.needs - cpu.features
        if not missing:
            why = Sentence("available.used" if kernel == "vnni" else "available.would_run")
        elif missing <= cpu.withheld:
            why = Sentence("available.withheld")
        else:
            why = Sentence("available.needs", features=", ".join(sorted(missing - cpu.withheld)))
        found.append(Available("vnni", variant.name, not missing, why))
    return found


def _libraries(flags: Collection[str], kernel: str | None, library: str | None, platform: str) -> list[Available]:
    found, passed = [], False
    for variant in shipped_variants(platform):
        missing = ", ".join(missing_features(variant, flags)) if flags else ""
        if variant.name == library:
            passed, usable = True, True
            why = Sentence("available.multiplies" if kernel == "bigdl" else "available.quantises")
        elif missing:
            usable, why = False, Sentence("available.needs", features=missing)
        else:
            usable = passed
            why = Sentence("available.slower", faster=library) if passed else Sentence("available.passed_over")
        found.append(Available("bigdl", variant.name, usable, why))
    return found
