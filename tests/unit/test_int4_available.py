"""The list of kernels in reports: each with why it runs here or does not."""

from __future__ import annotations

import pytest

from chatglm_backend.int4.available import available_kernels
from chatglm_backend.int4.kernels.variants import AVX512AMX, HostCpu, permitted
from chatglm_backend.sentences import Sentence

AVX2 = frozenset({"avx2", "fma", "f16c", "bmi", "bmi2"})
FLAGS = frozenset({"avx", "ssse3", "avx2", "fma", "f16c"})


def test_a_desktop_without_vnni() -> None:
    """What the CPU lacks is named for each variant that it cannot run, and the slower ones are told apart."""
    listed = available_kernels(HostCpu("x", AVX2), FLAGS, kernel="vnni", library="avx2", platform="linux")
    told = {(one.kernel, one.variant): (one.usable, one.reason) for one in listed}
    assert told["vnni", "avxvnni"] == (False, Sentence("available.needs", features="avxvnni"))
    assert told["vnni", "avx2"][0]
    assert told["bigdl", "avxvnni"] == (False, Sentence("available.needs", features="avx_vnni"))
    assert told["bigdl", "avx2"] == (True, Sentence("available.quantises"))
    assert told["bigdl", "avx"] == (True, Sentence("available.slower", faster="avx2"))
    assert told["exact", "torch"][0]


def test_a_library_that_failed_is_not_called_usable() -> None:
    """A library before the chosen one that the CPU could run was tried, and failed."""
    listed = available_kernels(HostCpu("x", AVX2), FLAGS, kernel="bigdl", library="avx", platform="linux")
    told = {(one.kernel, one.variant): (one.usable, one.reason) for one in listed}
    assert told["bigdl", "avx2"] == (False, Sentence("available.passed_over"))
    assert told["bigdl", "avx"] == (True, Sentence("available.multiplies"))


def test_amx_that_the_system_withholds_is_told_apart_from_none() -> None:
    """The CPU has it, and other variants run; what the CPU lacks besides is what is named."""
    for lacking, told in (
        (frozenset[str](), Sentence("available.withheld")),
        (frozenset({"gfni"}), Sentence("available.needs", features="gfni")),
    ):
        cpu = permitted(HostCpu("x", AVX512AMX.needs - lacking), lambda: False)
        listed = available_kernels(cpu, FLAGS, kernel="vnni", library="avx2", platform="linux")
        assert {one.variant: one.reason for one in listed}["avx512amx"] == told
        assert next(one.usable for one in listed if one.variant == "avx512vnni")
    assert permitted(HostCpu("x", AVX512AMX.needs), lambda: True).features == AVX512AMX.needs


def test_only_a_cpu_with_amx_makes_us_ask_for_it() -> None:
    """Asking changes what the process may do: signal stacks of the usual size are refused afterwards."""
    cpu = HostCpu("x", AVX512AMX.needs - {"amx-int8"})
    assert permitted(cpu, lambda: pytest.fail("asked")) == cpu


def test_windows_has_its_own_libraries() -> None:
    """The list is the platform's."""
    listed = available_kernels(HostCpu("x", AVX2), FLAGS, kernel=None, library=None, platform="win32")
    assert [one.variant for one in listed if one.kernel == "bigdl"] == ["avxvnni", "avx2", "avx"]
