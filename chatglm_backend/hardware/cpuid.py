"""CPU feature names from the ``cpuid`` instruction, for systems without ``/proc/cpuinfo``.

The names are Linux's (``avx2``, ``avx512_vnni``, …), so that one set of rules chooses libraries everywhere.
The instruction is run through a few bytes of machine code in a page of our own; where a system forbids
that, callers fall back to what its own API tells.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable

CpuId = Callable[[int, int], tuple[int, int, int, int]]
"""(leaf, subleaf) -> (eax, ebx, ecx, edx)."""

# name: (leaf, subleaf, register index in eax/ebx/ecx/edx, bit)
_BITS: dict[str, tuple[int, int, int, int]] = {
    "sse2": (1, 0, 3, 26),
    "ssse3": (1, 0, 2, 9),
    "fma": (1, 0, 2, 12),
    "sse4_1": (1, 0, 2, 19),
    "sse4_2": (1, 0, 2, 20),
    "avx": (1, 0, 2, 28),
    "f16c": (1, 0, 2, 29),
    "avx2": (7, 0, 1, 5),
    "avx512f": (7, 0, 1, 16),
    "avx512dq": (7, 0, 1, 17),
    "avx512cd": (7, 0, 1, 28),
    "avx512bw": (7, 0, 1, 30),
    "avx512vl": (7, 0, 1, 31),
    "avx512vbmi": (7, 0, 2, 1),
    "avx512_vnni": (7, 0, 2, 11),
    "amx_bf16": (7, 0, 3, 22),
    "amx_tile": (7, 0, 3, 24),
    "amx_int8": (7, 0, 3, 25),
    "avx_vnni": (7, 1, 0, 4),
    "avx512_bf16": (7, 1, 0, 5),
}
_YMM, _ZMM, _TILE = 0x06, 0xE6, 0x60000

# Entry: SysV (rdi, esi, edx) or Windows (rcx, edx, r8d) -> r9 = result, eax = leaf, ecx = subleaf.
_ENTRY_SYSV = bytes.fromhex("4989f9 89f0 89d1")
_ENTRY_WINDOWS = bytes.fromhex("4989c9 89d0 4489c1")
# push rbx; cpuid; mov [r9], eax; mov [r9+4], ebx; mov [r9+8], ecx; mov [r9+12], edx; pop rbx; ret
_BODY = bytes.fromhex("53 0fa2 418901 41895904 41894908 4189510c 5b c3")


def flags_from_cpuid(cpuid: CpuId, enabled_state: int) -> frozenset[str]:
    """Return the feature names a CPU has and the system has switched on.

    ``enabled_state`` is the XCR0 register: which vector registers the system saves.
    """
    highest = cpuid(0, 0)[0]
    leaves: dict[tuple[int, int], tuple[int, int, int, int]] = {}
    for leaf, subleaf, _, _ in _BITS.values():
        known = leaf <= highest and (subleaf == 0 or cpuid(leaf, 0)[0] >= subleaf)
        leaves[leaf, subleaf] = cpuid(leaf, subleaf) if known else (0, 0, 0, 0)
    found = {name for name, (leaf, sub, reg, bit) in _BITS.items() if leaves[leaf, sub][reg] >> bit & 1}
    return frozenset(name for name in found if enabled_state & _needed_state(name) == _needed_state(name))


def _needed_state(name: str) -> int:
    if name.startswith("avx512"):
        return _ZMM
    if name.startswith("amx"):
        return _TILE
    return _YMM if name.startswith("avx") or name in ("fma", "f16c") else 0


def native_cpuid() -> CpuId:
    """Return a function that runs ``cpuid`` here. Raises ``OSError`` where code pages are forbidden."""
    windows = sys.platform == "win32"
    code = (_ENTRY_WINDOWS if windows else _ENTRY_SYSV) + _BODY
    address, owner = _windows_page(code) if windows else _posix_page(code)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)(address)

    def cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        registers = (ctypes.c_uint32 * 4)()
        function(ctypes.addressof(registers), leaf, subleaf)
        return registers[0], registers[1], registers[2], registers[3]

    cpuid.__dict__["page"] = owner  # the code must stay mapped as long as the function lives
    return cpuid


def _posix_page(code: bytes) -> tuple[int, object]:
    if sys.platform == "win32":
        raise OSError
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    return ctypes.addressof(ctypes.c_char.from_buffer(page)), page


def _windows_page(code: bytes) -> tuple[int, object]:
    if sys.platform != "win32":
        raise OSError
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel32.VirtualAlloc.restype = ctypes.c_void_p
    kernel32.VirtualAlloc.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint32)
    kernel32.VirtualProtect.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_uint32,
        ctypes.POINTER(ctypes.c_uint32),
    )
    address = kernel32.VirtualAlloc(None, 4096, 0x3000, 0x04)
    if not address:
        raise OSError(ctypes.get_last_error(), "VirtualAlloc failed")
    ctypes.memmove(address, code, len(code))
    before = ctypes.c_uint32()
    if not kernel32.VirtualProtect(address, 4096, 0x20, ctypes.byref(before)):
        raise OSError(ctypes.get_last_error(), "VirtualProtect failed")
    return int(address), kernel32
