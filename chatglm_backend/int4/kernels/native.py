"""Turns the kernels' LLVM code into machine code in this process, and hands out its addresses.

Compiling takes up to a quarter of a second a module; with a folder to keep it in, only the first time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
from llvmlite.ir import Module

from chatglm_backend.int4.kernels.emit import build_module
from chatglm_backend.int4.kernels.objects import ObjectCode, keep_object, kept_object, source_digest
from chatglm_backend.int4.kernels.variants import Variant


@dataclass(frozen=True, slots=True)
class NativeKernels:
    """Addresses of one variant's kernels, by name; valid as long as this object lives.

    ``kept`` says that the machine code was found on disk.
    """

    variant: Variant
    addresses: dict[str, int]
    kept: bool = False
    assembly: str = field(repr=False, default="")
    _engine: object = field(repr=False, default=None)


@lru_cache(maxsize=8)
def compile_variant(variant: Variant, cache: Path | None = None, *, with_assembly: bool = False) -> NativeKernels:
    """Compile all products of ``variant``. The CPU must have its features; running them elsewhere crashes.

    The result is remembered: the code depends on nothing else. ``cache`` as for :func:`compile_module`.
    """
    return compile_module(variant, "products", partial(build_module, variant), cache, with_assembly=with_assembly)


def compile_module(
    variant: Variant,
    name: str,
    build: Callable[[str], Module],
    cache: Path | None = None,
    *,
    with_assembly: bool = False,
) -> NativeKernels:
    """Compile what ``build`` makes for a target triple, with the instructions of ``variant``.

    ``name`` says what it makes, to find its machine code again below the folder ``cache`` (``None``: keep nothing).
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple = llvm.get_process_triple()
    machine = llvm.Target.from_triple(triple).create_target_machine(
        cpu=variant.target, features=variant.features, opt=3, jit=True
    )
    folder = None if cache is None or with_assembly else cache / "native"
    title = f"{name}-{variant.name}"
    # Sets have no order, and what a variant needs is not what it is compiled for.
    key = "\n".join((source_digest(), llvmlite.__version__, triple, repr(replace(variant, needs=frozenset()))))
    found = kept_object(folder, title, key) if folder else None
    if found is not None:
        return _loaded(variant, found, machine, triple, kept=True)
    source = build(triple)
    module = llvm.parse_assembly(str(source))
    module.verify()
    _optimise(module, machine)
    functions = tuple(function.name for function in source.functions if not function.is_declaration)
    assembly = machine.emit_assembly(module) if with_assembly else ""
    compiled = ObjectCode(functions, bytes(machine.emit_object(module)))
    if folder:
        keep_object(folder, title, key, compiled)
    return _loaded(variant, compiled, machine, triple, assembly=assembly)


def _optimise(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """The loops are written as they should run: no unrolling, no vectors made of scalars."""
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_unrolling = False
    tuning.slp_vectorization = tuning.loop_vectorization = False
    passes = llvm.create_pass_builder(machine, tuning)
    passes.getModulePassManager().run(module, passes)


def _loaded(
    variant: Variant,
    compiled: ObjectCode,
    machine: llvm.TargetMachine,
    triple: str,
    *,
    kept: bool = False,
    assembly: str = "",
) -> NativeKernels:
    """The object file in executable memory."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(f'target triple = "{triple}"'), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(compiled.code))
    engine.finalize_object()
    addresses = {name: int(engine.get_function_address(name)) for name in compiled.functions}
    return NativeKernels(variant, addresses, kept, assembly, engine)
