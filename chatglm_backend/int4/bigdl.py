"""bigdl-llm 2.4.0: the only module that touches it.

Loads its native library directly. Importing ``bigdl.llm`` itself would pull in transformers,
take seconds, log to the terminal, and pick plain AVX on CPUs that it does not recognise.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from chatglm_backend.errors import ConfigError, NativeLibraryError, UnsupportedPlatform
from chatglm_backend.hardware import read_machine
from chatglm_backend.int4.blocks import check_packed, dequantize
from chatglm_backend.int4.kernel import Product
from chatglm_backend.int4.kernels.variants import may_use_tiles
from chatglm_backend.int4.libraries import LibraryVariant, missing_features, shipped_variants
from chatglm_backend.int4.packing import row_bytes
from chatglm_backend.sentences import Sentence

OVERRIDE = "CHATGLM_INT4_LIBRARY"

_SYM_INT4 = 2
_CHECK_TOLERANCE = 0.03
"""Activations rounded to int8 cost about 0.006 on random data; a wrong product is near 1."""


class NativeApi:
    """The two native functions in use of one loaded library, on raw tensors that are contiguous already."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, int32 = ctypes.c_void_p, ctypes.c_int
        self._quantize = library.ggml_quantize_tensor
        self._quantize.argtypes = [pointer, pointer, int32, ctypes.c_size_t, int32, pointer]
        self._quantize.restype = ctypes.c_size_t
        self._matmul = library.ggml_compute_forward_mul_mat_q_fp32
        self._matmul.argtypes = [pointer, pointer, int32, pointer, pointer, pointer]
        self._matmul.restype = None
        # Fills the library's fp16 tables; without it every product is zero.
        library.llama_init_backend.argtypes = []
        library.llama_init_backend.restype = None
        library.llama_init_backend()

    def quantize(self, weight: Tensor, packed: Tensor) -> None:
        """fp32 [out, in] into uint8 [out, in // 64 * 34]."""
        histogram = (ctypes.c_int64 * 16)()
        self._quantize(
            weight.data_ptr(),
            packed.data_ptr(),
            _SYM_INT4,
            weight.numel(),
            weight.shape[-1],
            ctypes.addressof(histogram),
        )

    def matmul(self, packed: Tensor, out: int, in_: int, x: Tensor, result: Tensor) -> None:
        """``x`` fp32 [rows, in] into ``result`` fp32 [rows, out]."""
        torch.get_num_threads()  # In a thread that is new to torch, this is what gives OpenMP torch's number.
        weight_shape, x_shape = (ctypes.c_int64 * 2)(in_, out), (ctypes.c_int64 * 2)(in_, x.shape[0])
        self._matmul(
            ctypes.addressof(weight_shape),
            packed.data_ptr(),
            _SYM_INT4,
            ctypes.addressof(x_shape),
            x.data_ptr(),
            result.data_ptr(),
        )


@dataclass(frozen=True, slots=True)
class BigdlLibrary:
    """A loaded library: where it lies, which build it is, and why it was chosen."""

    path: Path
    variant: str
    reason: Sentence
    native: NativeApi

    def quantize(self, weight: Tensor) -> Tensor:
        """fp32 [out, in] -> uint8 [out, in // 64 * 34]; several threads may call it. Raises WrongShape."""
        out, in_ = weight.shape
        packed = torch.empty(out, row_bytes(in_), dtype=torch.uint8)
        self.native.quantize(weight.detach().float().contiguous(), packed)
        return packed


class BigdlKernel:
    """The native library as a :class:`~chatglm_backend.int4.kernel.Kernel`; uses the packed bytes as they are."""

    def __init__(self, library: BigdlLibrary) -> None:
        self.library = library
        self.name = f"bigdl-{library.variant}"

    def prepare(self, packed: Tensor, out: int, in_: int) -> Product:
        """See :class:`~chatglm_backend.int4.kernel.Kernel`. Rounds activations to int8 per 64 values."""
        check_packed(packed, out, in_)
        native = self.library.native

        def product(x: Tensor) -> Tensor:
            if x.shape[1] != in_ or x.dtype is not torch.float32:
                raise ValueError(f"expected fp32 rows of {in_}, not {tuple(x.shape)} {x.dtype}")
            x = x.contiguous()
            result = torch.empty(x.shape[0], out, dtype=torch.float32)
            native.matmul(packed, out, in_, x, result)
            return result

        return product


Loader = Callable[[Path], NativeApi]


def library_folder() -> Path:
    """Where bigdl-llm keeps its libraries. Raises NativeLibraryError when it is not installed."""
    spec = importlib.util.find_spec("bigdl")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "llm" / "libs"
        if folder.is_dir():
            return folder
    raise NativeLibraryError(reason=Sentence("library.not_installed"))


def load_native(path: Path) -> NativeApi:
    """Load one library file. Raises OSError where the system cannot, AttributeError where it is another library."""
    if sys.platform == "win32":
        # Spinning OpenMP threads of this library would take the CPU from torch's.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with os.add_dll_directory(str(path.parent)):
            return NativeApi(ctypes.CDLL(str(path), winmode=0))
    if "_amx" in path.name and not may_use_tiles():
        raise OSError("the system does not permit AMX")
    return NativeApi(ctypes.CDLL(str(path)))


def choose_library(
    cpu_flags: Collection[str],
    override: Mapping[str, str] | None = None,
    *,
    folder: Path | None = None,
    platform: str = sys.platform,
    load: Loader = load_native,
) -> BigdlLibrary:
    """Load the fastest library that ``cpu_flags`` (named as in /proc/cpuinfo) allow and that multiplies right.

    ``override`` is the environment: ``CHATGLM_INT4_LIBRARY`` names a variant or a file. Raises
    ConfigError for an unusable override, UnsupportedPlatform and NativeLibraryError where nothing runs.
    """
    variants = shipped_variants(platform)
    if not variants:
        raise UnsupportedPlatform(platform=platform)
    wanted = (os.environ if override is None else override).get(OVERRIDE, "").strip()
    if wanted:
        return _overridden(wanted, cpu_flags, variants, folder, load)
    place = folder or library_folder()
    passed_over: list[Sentence] = []
    # Where the features are unknown, only the build that every CPU of the last decade runs is tried.
    for variant in variants if cpu_flags else variants[-1:]:
        missing = missing_features(variant, cpu_flags) if cpu_flags else ()
        if missing:
            passed_over.append(Sentence("library.needs", name=variant.name, features=_join(missing)))
            continue
        try:
            native = _checked(place / variant.file, load)
        except (OSError, AttributeError, ArithmeticError) as error:
            passed_over.append(Sentence("library.failed", name=variant.name, problem=str(error)))
            continue
        why = Sentence("library.fastest") if cpu_flags else Sentence("library.unknown_cpu")
        reason = Sentence("library.chosen", why=why, passed_over=tuple(passed_over)) if passed_over else why
        return BigdlLibrary(place / variant.file, variant.name, reason, native)
    raise NativeLibraryError(reason=tuple(passed_over))


@functools.cache
def default_library() -> BigdlLibrary:
    """The library for this machine and environment, chosen at the first call."""
    return choose_library(read_machine().flags)


def quantize(weight: Tensor) -> Tensor:
    """fp32 [out, in] -> uint8 [out, in // 64 * 34] in bigdl's ``sym_int4`` form. Raises WrongShape."""
    return default_library().quantize(weight)


def _overridden(
    wanted: str, flags: Collection[str], variants: tuple[LibraryVariant, ...], folder: Path | None, load: Loader
) -> BigdlLibrary:
    named = next((variant for variant in variants if variant.name == wanted), None)
    path = (folder or library_folder()) / named.file if named else Path(wanted).expanduser()
    known = named or next((variant for variant in variants if variant.file == path.name), None)
    if not path.is_file():
        names = ", ".join(variant.name for variant in variants)
        raise ConfigError(name=OVERRIDE, value=wanted, reason=Sentence("library.choices", names=names))
    missing = missing_features(known, flags) if known and flags else ()
    if missing:
        raise ConfigError(name=OVERRIDE, value=wanted, reason=Sentence("library.lacks", features=_join(missing)))
    try:
        native = _checked(path, load)
    except (OSError, AttributeError, ArithmeticError) as error:
        raise ConfigError(name=OVERRIDE, value=wanted, reason=Sentence("library.fails", problem=str(error))) from error
    return BigdlLibrary(path, known.name if known else path.stem, Sentence("library.asked", variable=OVERRIDE), native)


def _checked(path: Path, load: Loader) -> NativeApi:
    """Load a library and compare one small product with exact arithmetic. Raises ArithmeticError."""
    native = load(path)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 256, generator=generator)
    x = torch.randn(3, 256, generator=generator)
    packed = torch.empty(64, row_bytes(256), dtype=torch.uint8)
    native.quantize(weight, packed)
    result = torch.zeros(3, 64)
    native.matmul(packed, 64, 256, x, result)
    expected = x @ dequantize(packed, 64, 256).T
    error = float((result - expected).norm() / expected.norm())
    if not error <= _CHECK_TOLERANCE:
        raise ArithmeticError(f"its product is off by {error:.2g}")
    return native


def _join(names: tuple[str, ...]) -> str:
    return ", ".join(names)
