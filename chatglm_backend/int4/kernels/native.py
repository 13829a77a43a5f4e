"""Turns the kernels' LLVM code into machine code in this process, and hands out its addresses.

Takes about a quarter of a second a variant, so nothing of it is kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import llvmlite.binding as llvm
from llvmlite.ir import Module

from chatglm_backend.int4.kernels.emit import build_module
from chatglm_backend.int4.kernels.variants import Variant

__all__ = ["NativeKernels", "compile_module", "compile_variant"]


@dataclass(frozen=True, slots=True)
class NativeKernels:
    """Addresses of one variant's kernels, by name; valid as long as this object lives."""

    variant: Variant
    addresses: dict[str, int]
    assembly: str = field(repr=False, default="")
    _engine: object = field(repr=False, default=None)


@lru_cache(maxsize=8)
def compile_variant(variant: Variant, *, with_assembly: bool = False) -> NativeKernels:
    """Compile all products of ``variant``. The CPU must have its features; running them elsewhere crashes.

    The result is remembered: the code depends on nothing else.
    """
    return compile_module(variant, lambda triple: build_module(variant, triple), with_assembly=with_assembly)


def compile_module(variant: Variant, build: Callable[[str], Module], *, with_assembly: bool = False) -> NativeKernels:
    """Compile what ``build`` makes for a target triple, with the instructions of ``variant``."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple = llvm.get_process_triple()
    source = build(triple)
    module = llvm.parse_assembly(str(source))
    module.verify()
    machine = llvm.Target.from_triple(triple).create_target_machine(
        cpu=variant.target, features=variant.features, opt=3, jit=True
    )
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_unrolling = False
    tuning.slp_vectorization = tuning.loop_vectorization = False
    passes = llvm.create_pass_builder(machine, tuning)
    passes.getModulePassManager().run(module, passes)
    assembly = machine.emit_assembly(module) if with_assembly else ""
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    names = [function.name for function in source.functions if not function.is_declaration]
    addresses = {name: int(engine.get_function_address(name)) for name in names}
    return NativeKernels(variant, addresses, assembly, engine)
