"""Conversion with bigdl's own quantiser: the golden folders, and processes that die or race."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chatglm_backend.checkpoint.convert import convert
from chatglm_backend.checkpoint.lowbit import open_low_bit
from chatglm_backend.checkpoint.manifest import read_manifest, verify_files
from chatglm_backend.checkpoint.plan import make_plan, read_dense
from chatglm_backend.checkpoint.prepare import Preparation
from chatglm_backend.checkpoint.source import inspect_folder
from chatglm_backend.int4.bigdl import dequantize, quantize
from chatglm_backend.models.layout import tensor_specs
from chatglm_backend.sentences import Sentence
from tests.bigdl_python import run_bigdl
from tests.golden_folders import rel_error
from tests.tiny import Family, build_checkpoint

pytestmark = pytest.mark.model
ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"

# Converts slowly enough to be killed at a chosen moment, which it announces.
CHILD = """
import sys, time
from pathlib import Path
from chatglm_backend.checkpoint.convert import ConvertOptions, convert
from chatglm_backend.checkpoint.source import inspect_folder
source, target, moment = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
seen = 0
def progress(_):
    global seen
    seen += 1
    if seen == moment:
        print("now", flush=True)
        time.sleep(int(sys.argv[4]))
convert(inspect_folder(source), target, progress=progress, options=ConvertOptions(threads=1, slice_bytes=16384))
print("done", flush=True)
"""


def child(source: Path, target: Path, moment: int, seconds: int = 60) -> subprocess.Popen[str]:
    """Start a conversion in another process, and wait for the moment: for so many seconds nothing happens there."""
    command = [sys.executable, "-c", CHILD, *map(str, (source, target, moment, seconds))]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    return process


@pytest.mark.parametrize("name", ["chatglm-6b", "chatglm-6b-int8", "chatglm2-6b", "chatglm3-6b"])
def test_golden_folders_convert_to_bigdls_bytes(name: str, tmp_path: Path) -> None:
    """Every matrix holds exactly what bigdl makes of it; the rest keeps its values."""
    source = inspect_folder(GOLDEN / name)
    made, dense = open_low_bit(convert(source, tmp_path / "out")), read_dense(source)
    for spec in tensor_specs(source.config):
        weight, stored = dense[spec.name], made.get(spec.name)
        expected = quantize(weight.float()) if spec.kind in ("linear", "output") else weight.to(stored.dtype)
        assert torch.equal(expected.view(-1), stored.view(-1)), spec.name


def test_golden_4_bit_folder_keeps_every_weight(tmp_path: Path) -> None:
    """Bigdl reads from the re-encoded bytes exactly the weights that THUDM's 4-bit folder holds."""
    source = inspect_folder(GOLDEN / "chatglm-6b-int4")
    made, dense = open_low_bit(convert(source, tmp_path / "out")), read_dense(source)
    quantised = {spec.name for job in make_plan(source).jobs if job.scales is not None for spec in job.targets}
    checked = 0
    for spec in tensor_specs(source.config):
        if spec.name in quantised:
            restored = dequantize(made.get(spec.name), spec.shape[0], spec.shape[1])
            assert torch.equal(dense[spec.name], restored), spec.name
            checked += 1
    assert checked == 4 * source.config.num_layers


def test_golden_8_bit_folder_is_rounded_aloud(tmp_path: Path) -> None:
    """Eight bits become four with a note, and every matrix comes within what the note says."""
    source, notes = inspect_folder(GOLDEN / "chatglm-6b-int8"), list[Sentence]()
    made = Preparation(note=notes.append, env={"CHATGLM_CACHE": str(tmp_path)}).open_folder(source)
    assert notes == [Sentence("note.rounded", name=source.name)]
    jobs = [job for job in make_plan(source).jobs if job.bits == 8]
    assert len(jobs) == 4 * source.config.num_layers
    for job in jobs:
        (spec,) = job.targets
        assert 0.06 < rel_error(dequantize(made.get(spec.name), *spec.shape), job.dense()) < 0.12


# What bigdl's load_in_4bit and save_low_bit do to a model: linear layers become FP4Params, the rest fp32.
SAVE_LOW_BIT = """
state = torch.load(sys.argv[1], weights_only=True)
made = {
    name: FP4Params(data=tensor.float(), qtype=2).to('cpu').detach() if tensor.dim() == 2 and 'embedding' not in name
    else tensor.float() for name, tensor in state.items()
}
torch.save(made, sys.argv[1])
"""


@pytest.mark.parametrize("family", ["chatglm", "chatglm3"])
def test_a_folder_that_bigdl_saved_in_low_bits_is_opened_without_loss(family: Family, tmp_path: Path) -> None:
    """Every tensor is the same byte by byte as from the folder that bigdl read."""
    folder = build_checkpoint(tmp_path / "chatglm3-6b", family, shards=1)
    expected = open_low_bit(convert(inspect_folder(folder), tmp_path / "expected"))
    run_bigdl(SAVE_LOW_BIT, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    saved = {"bigdl_transformers_low_bit": "sym_int4", "tie_word_embeddings": False, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config | saved))
    source = inspect_folder(folder)
    assert source.quantized
    assert "save_low_bit" in str(source.reason)
    made = open_low_bit(convert(source, tmp_path / "out"))
    for spec in tensor_specs(source.config):
        assert torch.equal(made.get(spec.name), expected.get(spec.name)), spec.name
    last = tensor_specs(source.config)[-1]
    assert torch.equal(read_dense(source)[last.name], dequantize(expected.get(last.name), *last.shape))


def test_a_quantised_embedding_keeps_its_values_and_serves_as_the_output_layer(tmp_path: Path) -> None:
    """THUDM's int4-qe: two columns a byte, the first in the high nibble; by the formula, not seen with their file."""
    folder = build_checkpoint(tmp_path / "chatglm-6b-int4-qe", "chatglm", shards=1)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    name = "transformer.word_embeddings.weight"
    scales = state[name].float().abs().amax(1).div(7).half()
    integers = (state[name].float() / scales.float()[:, None]).round().clamp(-7, 7).to(torch.int8)
    packed = (integers[:, ::2] << 4) | (integers[:, 1::2] & 15)
    state |= {name: packed, f"{name}_scale": scales, "lm_head.weight": packed, "lm_head.weight_scale": scales}
    torch.save(state, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_bit": 4, "quantization_embeddings": True}))
    made = open_low_bit(convert(inspect_folder(folder), tmp_path / "out"))
    exact = integers.float() * scales.float()[:, None]
    assert torch.equal(made.get(name), exact.half())
    assert torch.equal(dequantize(made.get("lm_head.weight"), *exact.shape), exact)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("moment", [1, 8, 25])
def test_killed_conversion_leaves_the_old_state(moment: int, tmp_path: Path) -> None:
    """Killed outright early, midway or late, the earlier checkpoint opens, and the next run finishes and tidies up."""
    folder = build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2")
    target = convert(inspect_folder(folder), tmp_path / "out")
    before = read_manifest(target)
    build_checkpoint(folder, "chatglm2", seed=3)
    with child(folder, target, moment) as process:
        process.send_signal(signal.SIGKILL)
    assert before == read_manifest(target)
    verify_files(target, read_manifest(target), full=True)
    source = inspect_folder(folder)
    convert(source, target)
    assert source.fingerprint == read_manifest(target).source_fingerprint
    verify_files(target, read_manifest(target), full=True)
    assert [path.name for path in target.glob("data-*")] == [read_manifest(target).data]


def test_two_processes_convert_once(tmp_path: Path) -> None:
    """While one converts, the other waits; then it finds the result."""
    folder = build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2")
    target = tmp_path / "out"
    with child(folder, target, 8, seconds=1) as process:
        convert(inspect_folder(folder), target, quantize=lambda _: pytest.fail("converted twice"))
        assert process.communicate(timeout=60)[0] == "done\n"
    verify_files(target, read_manifest(target), full=True)
    assert len(list(target.glob("data-*"))) == 1
