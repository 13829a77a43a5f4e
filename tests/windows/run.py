"""bigdl-llm's Windows libraries through Wine against the Linux ones: ``.venv/bin/python tests/windows/run.py``.

No part of the test suite. Needs Wine and mingw (``apt install wine gcc-mingw-w64-x86-64``). pip downloads the wheels
for Windows: bigdl-llm's for the libraries, scikit-learn's for Microsoft's OpenMP (Wine 8's own lacks a loop that they
use). ``product.c`` quantises a matrix and multiplies by it with each of the builds that :func:`shipped_variants`
names for Windows and this CPU has the features for. Prints a table of the packed bytes that differ from those of the
Linux build of the same kind, and of the products of the same bytes. The exit code is 1 where more than one byte of a
million or a product differs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from chatglm_backend.hardware import read_machine  # noqa: E402
from chatglm_backend.int4.bigdl import NativeApi, library_folder, load_native  # noqa: E402
from chatglm_backend.int4.libraries import missing_features, shipped_variants  # noqa: E402
from chatglm_backend.int4.packing import row_bytes  # noqa: E402

SHAPES = ((64, 64, 1), (4608, 4096, 1), (128, 13696, 3), (4096, 4096, 33))
ROUNDING = 1e-4
WHEELS = ("bigdl-llm==2.4.0", "scikit-learn==1.9.1")
PIP = ("download", "-q", "--no-deps", "--platform", "win_amd64", "--python-version", "3.11", "--only-binary=:all:")


def linux_result(native: NativeApi, weight: torch.Tensor, x: torch.Tensor, theirs: bytes) -> tuple[bytes, torch.Tensor]:
    """Packed bytes, and the product of ``theirs``, fp32 [rows, out], of the library that is installed here."""
    out, in_ = weight.shape
    packed, result = torch.zeros(out, row_bytes(in_), dtype=torch.uint8), torch.zeros(x.shape[0], out)
    native.quantize(weight, packed)
    native.matmul(torch.frombuffer(bytearray(theirs), dtype=torch.uint8), out, in_, x, result)
    return packed.numpy().tobytes(), result


def windows_result(
    wine: list[str], library: Path, weight: torch.Tensor, x: torch.Tensor, folder: Path
) -> tuple[bytes, torch.Tensor]:
    """The same of a Windows library. Raises CalledProcessError where it cannot be loaded or used."""
    out, in_ = weight.shape
    (folder / "weight.bin").write_bytes(weight.numpy().tobytes())
    (folder / "x.bin").write_bytes(x.numpy().tobytes())
    sizes = [str(out), str(in_), str(x.shape[0])]
    subprocess.run([*wine, str(library), *sizes, str(folder)], check=True, timeout=300)
    result = torch.frombuffer(bytearray((folder / "result.bin").read_bytes()), dtype=torch.float32)
    return (folder / "packed.bin").read_bytes(), result.view(x.shape[0], out)


def main() -> int:
    """Compare, and say what was found."""
    wine, gcc = shutil.which("wine64") or shutil.which("wine"), shutil.which("x86_64-w64-mingw32-gcc")
    if wine is None or gcc is None:
        print("not run: apt install wine gcc-mingw-w64-x86-64")
        return 0
    flags, wrong = read_machine().flags, 0
    linux = {one.name: one for one in shipped_variants("linux")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ |= {
            "WINEPREFIX": str(folder / "wine"),
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree,mshtml=;vcomp140=n",
        }
        subprocess.run([sys.executable, "-m", "pip", *PIP, "-d", folder, *WHEELS], check=True)
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as files:
                for name in files.namelist():
                    if name.endswith(("/vcomp140.dll", *(f"/{one.file}" for one in shipped_variants("win32")))):
                        (folder / name.rpartition("/")[2]).write_bytes(files.read(name))
        subprocess.run([gcc, "-O2", "-o", folder / "product.exe", HERE / "product.c"], check=True)
        print("| Windows library | Linux library | out × in, rows | packed bytes | products |\n|---|---|---|---|---|")
        for variant in shipped_variants("win32"):
            if missing := missing_features(variant, flags):
                print(f"| {variant.file} | | | not run: this CPU lacks {', '.join(missing)} | |")
                continue
            native = load_native(library_folder() / linux[variant.name].file)
            for out, in_, rows in SHAPES:
                torch.manual_seed(out)
                weight, x = torch.randn(out, in_), torch.randn(rows, in_)
                command = [wine, str(folder / "product.exe")]
                theirs, product = windows_result(command, folder / variant.file, weight, x, folder)
                packed, result = linux_result(native, weight, x, theirs)
                different = sum(one != other for one, other in zip(packed, theirs, strict=True))
                error = float((product - result).abs().max() / result.abs().max())
                wrong += different > len(packed) / 1e6 + 1 or not error < ROUNDING
                same = "the same bits" if torch.equal(product, result) else f"differ by {error:.1e} of the largest"
                told = f"{different} of {len(packed)} differ" if different else "the same"
                print(f"| {variant.file} | {linux[variant.name].file} | {out} × {in_}, {rows} | {told} | {same} |")
        subprocess.run([wine, "wineboot", "-k"], check=False, timeout=60)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
