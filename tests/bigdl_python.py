"""bigdl-llm's own Python in a process of its own, without the packages that this project does without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_IMPORTS = """
import importlib.util, sys, torch, types
root = importlib.util.find_spec('bigdl').submodule_search_locations[0]
for name in ('llm', 'llm.transformers'):
    package = types.ModuleType('bigdl.' + name)
    package.__path__ = [root + '/' + name.replace('.', '/')]
    sys.modules['bigdl.' + name] = package
cpu = sys.modules['cpuinfo'] = types.ModuleType('cpuinfo')
class CPUID:
    get_max_extension_support = lambda self: 0
    get_flags = lambda self, extension: []
    _run_asm = lambda self, *code: 0
cpu.CPUID = CPUID
try:
    from bigdl.llm.transformers.low_bit_linear import FP4Params, ggml_convert_qtype
except ImportError as error:
    print(error, file=sys.stderr); sys.exit(77)
"""


def run_bigdl(script: str, *arguments: Path) -> None:
    """Run a script that may use ``FP4Params`` and ``ggml_convert_qtype``; skips the test where they do not import."""
    command = [sys.executable, "-c", _IMPORTS + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode == 77:
        pytest.skip("bigdl's own Python does not import with these packages " + done.stderr.strip()[-80:])
    assert done.returncode == 0, done.stderr
