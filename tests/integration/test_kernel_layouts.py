"""The kernel's own layout as a mapped file: made once, used again, made anew when doubted, never required."""

from __future__ import annotations

import errno
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from torch import Tensor

from chatglm_backend.checkpoint.lowbit import LowBitCheckpoint, open_low_bit
from chatglm_backend.checkpoint.prepare import Preparation, prepare
from chatglm_backend.checkpoint.writer import TensorLayout
from chatglm_backend.core import CancelToken, LoadProgress
from chatglm_backend.errors import LoadCancelled
from chatglm_backend.int4.kernels.choose import CPU_TOO_OLD, build_kernel
from chatglm_backend.int4.kernels.layout import LAYOUT_TAG
from chatglm_backend.int4.kernels.product import CompiledKernel
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.models.base import build_model
from chatglm_backend.service.layouts import map_weights
from tests import tiny
from tests.small_models import read_prompt
from tests.unit.checkpoint_helpers import flip_byte

pytestmark = pytest.mark.model
PROMPT = tuple(range(5, 25))


@pytest.fixture(scope="module")
def kernel() -> CompiledKernel:
    """The widest variant that this CPU runs, on one thread."""
    built = build_kernel(1)
    if built is None:
        pytest.skip(CPU_TOO_OLD)
    return built


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small low-bit folder."""
    root = tmp_path_factory.mktemp("layouts")
    source = tiny.build_checkpoint(root / "chatglm2-6b", "chatglm2")
    made = prepare(str(source), Preparation(env={"CHATGLM_CACHE": str(root / "cache")}))
    assert isinstance(made, LowBitCheckpoint)
    return made.folder


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    """A copy of it for one test, without any layout."""
    return Path(shutil.copytree(converted, tmp_path / "model", ignore=shutil.ignore_patterns("derived")))


class Reports(list[LoadProgress]):
    """Takes progress; a report with bytes to do means that a tensor is being laid out."""

    def __call__(self, progress: LoadProgress) -> None:
        """Keep a report."""
        self.append(progress)

    @property
    def repacked(self) -> int:
        """How many tensors were laid out."""
        return sum(report.total > 0 for report in self)


def opened(
    checkpoint: LowBitCheckpoint, kernel: CompiledKernel, *, worth_keeping: int = 0, cancel: CancelToken | None = None
) -> tuple[Int4Weights, int]:
    """Return the weights and how many tensors had to be laid out for the file."""
    reports = Reports()
    token = cancel or CancelToken()
    weights = map_weights(checkpoint, kernel, progress=reports, cancel=token, worth_keeping=worth_keeping)
    return weights, reports.repacked


def logits(checkpoint: LowBitCheckpoint, weights: Int4Weights) -> Tensor:
    """Return the logits [rows, vocab] of a short prompt."""
    model = build_model(checkpoint.config, weights)
    return read_prompt(model, PROMPT, model.new_cache(32), logit_rows=len(PROMPT))


def layout_files(folder: Path) -> list[Path]:
    """The kept layouts, unfinished ones too."""
    return sorted(folder.glob("derived/*.safetensors"))


def test_a_mapped_layout_changes_no_bit(folder: Path, kernel: CompiledKernel) -> None:
    """Logits through the file equal those through a layout in memory."""
    in_memory, none = opened(open_low_bit(folder), kernel, worth_keeping=1 << 40)
    expected = logits(open_low_bit(folder), in_memory)
    checkpoint = open_low_bit(folder)
    mapped, some = opened(checkpoint, kernel)
    assert (none, len(layout_files(folder))) == (0, 1)
    assert some > 0
    assert torch.equal(expected, logits(checkpoint, mapped))


def test_the_second_start_uses_the_same_file(folder: Path, kernel: CompiledKernel) -> None:
    """Nothing is laid out again, and the file stays as it was."""
    opened(open_low_bit(folder), kernel)
    before = [(path, path.stat().st_mtime_ns) for path in layout_files(folder)]
    _, repacked = opened(open_low_bit(folder), kernel)
    assert repacked == 0
    assert before == [(path, path.stat().st_mtime_ns) for path in layout_files(folder)]


def test_other_cpu_features_make_a_layout_of_their_own(folder: Path, kernel: CompiledKernel) -> None:
    """One made where the CPU had wider instructions does not count on a CPU without them; the logits agree."""
    checkpoint = open_low_bit(folder)
    expected = logits(checkpoint, opened(checkpoint, kernel)[0])
    lesser = build_kernel(1, only="avx2")
    assert lesser is not None
    if lesser.layout_tag == kernel.layout_tag:
        pytest.skip("this CPU has nothing wider than AVX2")
    weights, made = opened(open_low_bit(folder), lesser)
    assert made > 0
    torch.testing.assert_close(logits(checkpoint, weights), expected, rtol=1e-4, atol=1e-4)
    assert opened(open_low_bit(folder), kernel)[1] == opened(open_low_bit(folder), lesser)[1] == 0


def test_a_layout_that_no_kernel_reads_any_more_is_removed(folder: Path, kernel: CompiledKernel) -> None:
    """An earlier version's file does not stay for ever; one for another CPU does."""
    checkpoint = open_low_bit(folder)
    specs: dict[str, TensorLayout] = {"x": (torch.uint8, (4,))}
    other_cpu = f"{LAYOUT_TAG}-another-cpu"
    for tag in ("rows8-block64-v0-avx2", other_cpu):
        checkpoint.layouts.publish(tag, specs, lambda _: [torch.zeros(4, dtype=torch.uint8)])
    opened(checkpoint, kernel)
    assert checkpoint.layouts.find("rows8-block64-v0-avx2") is None
    assert checkpoint.layouts.find(other_cpu) is not None
    assert len(layout_files(folder)) == 2


def test_a_touched_file_is_made_again(folder: Path, kernel: CompiledKernel) -> None:
    """A layout that somebody wrote to is not trusted, and its numbers do not reach an answer."""
    checkpoint = open_low_bit(folder)
    expected = logits(checkpoint, opened(checkpoint, kernel)[0])
    file = layout_files(folder)[0]
    flip_byte(file)
    again = open_low_bit(folder)
    weights, repacked = opened(again, kernel)
    assert repacked > 0
    assert torch.equal(expected, logits(again, weights))


def test_without_room_the_layout_is_made_in_memory(
    folder: Path, kernel: CompiledKernel, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk costs the file, not the model: a warning, the same logits, nothing left behind."""
    checkpoint = open_low_bit(folder)
    expected = logits(checkpoint, opened(checkpoint, kernel, worth_keeping=1 << 40)[0])
    full = open_low_bit(folder)

    def refuse(path: Path) -> BinaryIO:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    full.layouts.opener = refuse
    with caplog.at_level(logging.WARNING):
        weights, _ = opened(full, kernel)
    assert torch.equal(expected, logits(full, weights))
    assert "in memory" in caplog.text
    assert layout_files(folder) == []


def test_cancelling_leaves_no_half_file(folder: Path, kernel: CompiledKernel) -> None:
    """Stopped in the middle: LoadCancelled, no file, and the next start makes it."""
    token = CancelToken()

    def stop_halfway(progress: LoadProgress) -> None:
        if progress.done:
            token.cancel()

    with pytest.raises(LoadCancelled):
        map_weights(open_low_bit(folder), kernel, progress=stop_halfway, cancel=token, worth_keeping=0)
    assert layout_files(folder) == []
    assert opened(open_low_bit(folder), kernel)[1] > 0


def test_no_cache_keeps_no_layout(folder: Path, kernel: CompiledKernel) -> None:
    """keep=False writes nothing."""
    token = CancelToken()
    map_weights(open_low_bit(folder), kernel, progress=Reports(), cancel=token, keep=False, worth_keeping=0)
    assert layout_files(folder) == []


ANOTHER_PROCESS = """
import sys
from pathlib import Path
from chatglm_backend.checkpoint.lowbit import open_low_bit
from chatglm_backend.int4.kernels.choose import build_kernel
from tests.integration.test_kernel_layouts import layout_files, logits, mapped_bytes, opened

folder = Path(sys.argv[1])
checkpoint = open_low_bit(folder)
weights, repacked = opened(checkpoint, build_kernel(1))
logits(checkpoint, weights)
print(repacked, *mapped_bytes(layout_files(folder)[0]))
"""


def mapped_bytes(file: Path) -> tuple[int, int]:
    """Kibibytes of ``file`` that this process has resident and shares with others, and has to itself."""
    shared = own = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if "-" in name and " " in name:
            inside = line.endswith(f" {file}")
        elif inside and name.startswith("Shared_"):
            shared += int(value.split()[0])
        elif inside and name.startswith("Private_"):
            own += int(value.split()[0])
    return shared, own


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells which pages are shared")
def test_processes_share_the_layouts_pages(folder: Path, kernel: CompiledKernel) -> None:
    """A second process maps the same file: what it has resident of it, it shares with the first."""
    checkpoint = open_low_bit(folder)
    weights, _ = opened(checkpoint, kernel)
    logits(checkpoint, weights)
    root = Path(__file__).resolve().parents[2]
    second = subprocess.run(
        [sys.executable, "-c", ANOTHER_PROCESS, str(folder)], cwd=root, capture_output=True, text=True, check=False
    )
    assert second.returncode == 0, second.stderr
    repacked, shared, own = map(int, second.stdout.split())
    assert (repacked, own) == (0, 0)
    assert shared > 0
