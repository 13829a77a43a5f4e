"""The launcher's flags, platform check, and choice of torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatglm_backend.errors import ConfigError, UnsupportedPlatform
from chatglm_backend.hardware import Wishes
from chatglm_backend.launcher.options import LaunchOptions, parse_options
from chatglm_backend.launcher.platform_check import check_platform
from chatglm_backend.launcher.torch_source import CPU_INDEX, cuda_in_report, torch_index, torch_requirement
from chatglm_backend.sentences import Sentence

REPORTS = Path(__file__).resolve().parents[1] / "golden" / "pip_reports"
ROOT = Path(__file__).resolve().parents[2]


def test_own_flags_are_taken_and_the_rest_handed_on() -> None:
    """Flags of both kinds may be mixed; the page's keep their order and spelling."""
    found = parse_options(
        ["--model", "a b", "--profile", "server", "--threads=4", "--adapter", "x=y/z", "--allocator", "tcmalloc"]
    )
    assert found == LaunchOptions(
        wishes=Wishes(profile="server", threads=4, allocator="tcmalloc"),
        page_args=("--model", "a b", "--adapter", "x=y/z"),
    )


@pytest.mark.parametrize("argv", [["--dry-run", "--setup-only"], ["--setup-only", "--dry-run", "--print-env"]])
def test_dry_run_wins_over_what_would_do_something(argv: list[str]) -> None:
    """Whoever asks for a dry run gets one, in whatever order the flags stand."""
    assert parse_options(argv).action == "dry-run"


def test_two_dashes_end_the_launchers_flags() -> None:
    """After ``--`` even a flag of the launcher's name goes to the page."""
    assert parse_options(["--dry-run", "--", "--help"]) == LaunchOptions(action="dry-run", page_args=("--help",))


def test_a_machine_that_joins_takes_no_settings_of_the_page() -> None:
    """They are the front's; what would be ignored is refused."""
    assert parse_options(["--join", "10.0.0.1:6379", "--threads", "4"]).join == "10.0.0.1:6379"
    with pytest.raises(ConfigError, match="CHATGLM_CACHE"):
        parse_options(["--join", "10.0.0.1:6379", "--cache", "/big"])


@pytest.mark.parametrize(
    "argv",
    [
        ["--profile", "fast"],
        ["--profile"],
        ["--threads", "two"],
        ["--threads", "0"],
        ["--threads=-1"],
        ["--allocator="],
    ],
)
def test_wrong_values_are_one_sentence(argv: list[str]) -> None:
    """A wrong value names the flag and what to use."""
    with pytest.raises(ConfigError) as caught:
        parse_options(argv)
    assert "threads" in str(caught.value) or argv[0].partition("=")[0] in str(caught.value)
    assert "use" in str(caught.value)


@pytest.mark.parametrize("name", ["linux-pypi-cuda", "linux-nvidia-only"])
def test_reports_with_cuda(name: str) -> None:
    """A torch that is not a +cpu build, or any CUDA package, is found by its canonical name, and the saving told."""
    finding = cuda_in_report(json.loads((REPORTS / f"{name}.json").read_text(encoding="utf-8")))
    assert finding
    assert finding.saving == Sentence("launch.saving", count=len(finding.packages))
    if name == "linux-pypi-cuda":
        assert {"nvidia-cublas", "nvidia-cudnn-cu13", "triton"} <= set(finding.packages)
        assert finding.cuda_torch


@pytest.mark.parametrize(
    "report",
    ["linux-cpu-build", "already-installed", {}, {"install": None}, {"install": [1, {}, {"metadata": 3}]}],
    ids=str,
)
def test_reports_without_cuda(report: str | dict[str, object]) -> None:
    """A +cpu build, a torch that is there already, and a document of another shape need no other index."""
    if isinstance(report, str):
        report = json.loads((REPORTS / f"{report}.json").read_text(encoding="utf-8"))
    assert not cuda_in_report(report)


@pytest.mark.parametrize(
    ("environ", "index"),
    [
        ({}, CPU_INDEX),
        ({"CHATGLM_TORCH_INDEX": "https://mirror.example/cpu"}, "https://mirror.example/cpu"),
        ({"CHATGLM_TORCH_INDEX": "none"}, None),
    ],
)
def test_the_index_can_be_chosen(environ: dict[str, str], index: str | None) -> None:
    """PyTorch's own index by default, a mirror or none if the user says so."""
    assert torch_index(environ) == index


def test_the_torch_line_is_found_in_our_requirements() -> None:
    """The pinned torch is what pip is asked about, without its comment; torchaudio is another package."""
    assert torch_requirement((ROOT / "requirements.txt").read_text(encoding="utf-8")) == "torch==2.13.0"
    assert torch_requirement("torchaudio\n# torch\n") is None


@pytest.mark.parametrize(
    ("system", "machine", "bits", "libc", "found"),
    [
        ("Darwin", "arm64", 64, "", Sentence("platform.on", system="macOS", machine="arm64")),
        ("Linux", "aarch64", 64, "glibc", Sentence("platform.on", system="Linux", machine="aarch64")),
        ("Windows", "ARM64", 64, "", Sentence("platform.on", system="Windows", machine="ARM64")),
        ("Windows", "AMD64", 32, "", Sentence("platform.python_32")),
        ("Linux", "x86_64", 64, "", Sentence("platform.no_glibc")),
        ("FreeBSD", "amd64", 64, "", Sentence("platform.on", system="FreeBSD", machine="amd64")),
    ],
)
def test_unsupported_platforms_get_one_sentence(
    system: str, machine: str, bits: int, libc: str, found: Sentence
) -> None:
    """Other systems, ARM, 32 bits and musl are refused by name."""
    with pytest.raises(UnsupportedPlatform) as caught:
        check_platform(system, machine, bits, libc)
    assert caught.value.fields == {"platform": found}
    check_platform("Linux", "x86_64", 64, "glibc")
    check_platform("Windows", "AMD64", 64, "")
