"""Which of bigdl's libraries is chosen: by features first, then by a product that must be right."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from chatglm_backend.errors import ConfigError, NativeLibraryError, UnsupportedPlatform, WrongShape
from chatglm_backend.int4.bigdl import OVERRIDE, BigdlLibrary, NativeApi, choose_library, dequantize
from chatglm_backend.int4.kernel import KernelName
from chatglm_backend.int4.libraries import shipped_variants
from chatglm_backend.int4.packing import row_bytes
from chatglm_backend.int4.select import select_kernel
from chatglm_backend.sentences import Sentence

AVX = {"avx", "ssse3"}
AVX2 = AVX | {"avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx512_vnni"}


class FakeNative:
    """Quantises to a fixed pattern and multiplies exactly, ``factor`` times."""

    def __init__(self, factor: float = 1.0) -> None:
        self._factor = factor

    def quantize(self, weight: Tensor, packed: Tensor) -> None:  # noqa: ARG002
        """Fill with scale 1 and changing nibbles."""
        blocks = packed.view(-1, 34)
        blocks[:, :2] = torch.tensor([0x00, 0x3C], dtype=torch.uint8)
        blocks[:, 2:] = torch.arange(blocks.shape[0] * 32, dtype=torch.int64).view(-1, 32).remainder(251).byte()

    def matmul(self, packed: Tensor, out: int, in_: int, x: Tensor, result: Tensor) -> None:
        """Multiply with the dequantised weights."""
        result.copy_(x @ dequantize(packed, out, in_).T * self._factor)


def choose(
    flags: set[str], wanted: str = "", *, platform: str = "linux", broken: tuple[str, ...] = (), folder: Path = Path()
) -> BigdlLibrary:
    """Choose among fakes; ``broken`` libraries multiply wrongly."""

    def load(path: Path) -> NativeApi:
        return FakeNative(1.5 if path.name in broken else 1.0)

    override = {OVERRIDE: wanted} if wanted else {}
    return choose_library(flags, override, folder=folder, platform=platform, load=load)


@pytest.mark.parametrize(
    ("flags", "platform", "variant"),
    [
        (AVX512 | {"amx_tile", "amx_int8"}, "linux", "amx"),
        (AVX512 | {"avx_vnni"}, "linux", "avx512"),
        (AVX2 | {"avx_vnni"}, "linux", "avxvnni"),
        (AVX2 | {"avx512f"}, "linux", "avx2"),
        (AVX, "linux", "avx"),
        (set(), "linux", "avx"),
        (AVX2 | {"avx_vnni"}, "win32", "avxvnni"),
        (AVX512, "win32", "avx2"),
        (AVX, "win32", "avx"),
    ],
)
def test_the_fastest_that_the_features_allow(flags: set[str], platform: str, variant: str) -> None:
    """A build whose instructions the CPU lacks is never loaded."""
    assert choose(flags, platform=platform).variant == variant


def test_a_wrong_product_falls_back_and_says_so() -> None:
    """A library that multiplies wrongly is passed over, and the reason tells."""
    library = choose(AVX512, broken=("libllama_avx512.so",))
    assert library.variant == "avx2"
    passed_over = cast("tuple[Sentence, ...]", library.reason.fields["passed_over"])
    assert ("library.failed", "avx512") in [(one.code, one.fields["name"]) for one in passed_over]


def test_nothing_usable_is_one_error() -> None:
    """Every build's reason is in the sentence."""
    with pytest.raises(NativeLibraryError) as caught:
        choose({"sse2"})
    reasons = cast("tuple[Sentence, ...]", caught.value.fields["reason"])
    assert [one.fields["name"] for one in reasons] == [one.name for one in shipped_variants("linux")]
    with pytest.raises(UnsupportedPlatform):
        choose(AVX512, platform="darwin")


def test_the_override_names_a_variant_or_a_file(tmp_path: Path) -> None:
    """Both ways load that file and say that it was asked for."""
    for variant in shipped_variants("linux"):
        (tmp_path / variant.file).touch()
    (tmp_path / "mine.so").touch()
    assert choose(AVX512, "avx2", folder=tmp_path).path == tmp_path / "libllama_avx2.so"
    mine = choose(AVX512, str(tmp_path / "mine.so"))
    assert (mine.variant, mine.reason) == ("mine", Sentence("library.asked", variable=OVERRIDE))


@pytest.mark.parametrize(
    ("wanted", "reason"), [("sse9", "library.choices"), ("amx", "library.lacks"), ("avx2", "library.fails")]
)
def test_a_bad_override_is_a_setting_to_correct(tmp_path: Path, wanted: str, reason: str) -> None:
    """Unknown, impossible on this CPU, or broken: never a crash, never silently another one."""
    for variant in shipped_variants("linux"):
        (tmp_path / variant.file).touch()
    with pytest.raises(ConfigError) as caught:
        choose(AVX512, wanted, folder=tmp_path, broken=("libllama_avx2.so",))
    assert reason == cast("Sentence", caught.value.fields["reason"]).code


def test_a_block_is_decoded_as_documented() -> None:
    """Byte j holds weight j in its low nibble and weight j + 32 in the high one; the scale is signed."""
    block = torch.zeros(1, 34, dtype=torch.uint8)
    block[0, :2] = torch.tensor([-0.5]).half().view(torch.uint8)
    block[0, 2] = 0x1F
    block[0, 33] = 0x90
    weights = dequantize(block, 1, 64)[0]
    assert (weights[0], weights[32], weights[31], weights[63], weights[1]) == (-3.5, 3.5, 4.0, -0.5, 4.0)


def test_columns_must_fill_blocks() -> None:
    """Widths that INT4 cannot hold are a named error."""
    with pytest.raises(WrongShape, match="64"):
        row_bytes(65)
    with pytest.raises(WrongShape, match="bytes"):
        dequantize(torch.zeros(2, 33, dtype=torch.uint8), 2, 64)


@pytest.mark.parametrize("kernel", ["auto", "vnni", "bigdl"])
def test_an_override_that_cannot_be_used_is_an_error_with_every_kernel(
    kernel: KernelName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not passed over because another kernel multiplies."""
    monkeypatch.setenv(OVERRIDE, "nonsense")
    with pytest.raises(ConfigError, match="nonsense"):
        select_kernel(kernel, library=lambda: choose(AVX2, "nonsense"))
