"""The terminal's outside: help, usage errors, streams, and how little is imported for it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from chatglm_backend.cli.app import main
from chatglm_backend.cli.output import guarded, prepare_streams
from chatglm_backend.cli.progress import LoadBar
from chatglm_backend.core import LoadProgress

COMMANDS = ("generate", "chat", "batch", "download", "convert", "verify", "benchmark", "doctor", "cache")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help works for every command and shows examples where a command does something."""
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Usage: python -m chatglm_backend" in out
    assert "python -m chatglm_backend " + command in out


@pytest.mark.parametrize("command", ["generate", "chat", "batch", "convert", "download", "benchmark"])
def test_both_names_of_the_model_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe's long name and ours are one flag."""
    main([command, "--help"])
    out = capsys.readouterr().out
    assert "--model" in out
    assert "--repo-id-or-model-path" in out


def test_help_loads_nothing_heavy(project_root: Path) -> None:
    """--help answers without torch, gradio, transformers, numba or bigdl."""
    code = (
        "import sys\nfrom chatglm_backend.cli.app import main\nmain(['generate', '--help'])\n"
        "heavy = {'torch', 'gradio', 'transformers', 'bigdl', 'numba', 'numpy', 'sentencepiece'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project_root, check=True)
    assert done.stderr.strip() == "[]"


def test_a_python_without_the_packages_is_told_what_to_run(project_root: Path) -> None:
    """The system's Python, where .venv was meant, gets one sentence and one document, and no traceback."""
    command = [sys.executable, "-S", "-m", "chatglm_backend", "generate", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=project_root, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--setup-only" in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "not_installed"


@pytest.mark.parametrize("arguments", ["nonsense", "generate --nonsense", "convert", "verify", "generate --seed x"])
def test_wrong_usage_is_exit_code_2(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What was typed wrongly is said on stderr; stdout stays empty, or holds one document where it was asked for."""
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err != ""
    assert main([*arguments.split(), "--json"]) == 2
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["ok"], document["error"]["code"]) == (False, "config" if arguments == "verify" else "usage")
    assert arguments == "verify" or "Usage:" in captured.err


REFUSED: list[tuple[list[str], int, str]] = [
    (["cache", "delete", "nothing", "--yes"], 1, "nothing"),
    (["download", "--model", "."], 2, "nothing to fetch"),
    (["download", "--model", "THUDM/chatglm2-6b"], 1, "HF_HUB_OFFLINE"),
    (["generate", "--model", "THUDM/chatglm2-6b"], 1, "HF_HUB_OFFLINE"),
    (["convert", "--model", "/no/such/folder", "--out", "x"], 1, "/no/such/folder"),
    (["convert", "--model", __file__, "--out", "x"], 1, "give the folder"),
    (["convert", "--model", "/no/such/folder", "--out", "x", "--merge"], 2, "--adapter FOLDER"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), REFUSED)
def test_a_refusal_is_one_sentence(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was typed is checked before anything is loaded, and the advice fits: nothing is to be fetched in vain."""
    if arguments[0] in ("generate", "convert"):
        pytest.importorskip("torch")
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert code == 2 or captured.err.count("\n") == 1
    assert "Traceback" not in captured.err


def test_json_errors_are_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json a failure, too, is exactly one document on stdout."""
    pytest.importorskip("torch")
    assert main(["convert", "--model", "/no/such/folder", "--out", "x", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["error"]["code"]) == (False, "model_not_found")


def test_a_mistake_of_ours_is_one_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody foresaw still leaves JSON on stdout, and goes on as a traceback."""

    def command(*, json_output: bool) -> None:  # noqa: ARG001
        raise ZeroDivisionError("oh")

    with pytest.raises(ZeroDivisionError):
        guarded(command)(json_output=True)
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unexpected"


def test_a_package_that_is_not_installed_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """An installation that broke off half-way is told what to run; a module of ours that is missing is a mistake."""

    def command(*, name: str, json_output: bool) -> None:  # noqa: ARG001
        raise ModuleNotFoundError(name=name)

    with pytest.raises(typer.Exit) as ended:
        guarded(command)(name="torch", json_output=True)
    captured = capsys.readouterr()
    assert (ended.value.exit_code, json.loads(captured.out)["error"]["code"]) == (1, "not_installed")
    assert "torch is not installed" in captured.err
    assert "--setup-only" in captured.err
    with pytest.raises(ModuleNotFoundError):
        guarded(command)(name="chatglm_backend.nothing", json_output=False)


def test_an_empty_cache_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Listing nothing works, in JSON too."""
    assert main(["cache", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "entries": [], "bytes": 0}


def test_a_console_with_a_small_character_set_gets_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream in a Windows code page is switched; half characters are replaced and never an error."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    stream.write("答：\ud800😀")
    stream.flush()
    assert raw.getvalue().decode("utf-8") == "答：?😀"


def test_the_progress_line_has_bytes_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    """A long conversion says how far it is and how long it takes."""
    times = iter([0.0, 2.0])
    with LoadBar(terminal=True, clock=lambda: next(times)) as bar:
        bar(LoadProgress("convert", 0, 4_000_000_000))
        bar(LoadProgress("convert", 1_000_000_000, 4_000_000_000))
    err = capsys.readouterr().err
    assert "1.00 GB of 4.00 GB, 500 MB/s, 0:06 left" in err
    assert err.endswith("\r\x1b[K")


def test_no_bar_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe or a log file gets no bars, and nothing at all about what is quick."""
    with LoadBar() as bar:
        bar(LoadProgress("convert", 1, 2))
    assert capsys.readouterr().err == ""


def test_a_log_gets_a_plain_line_about_what_is_slow(capsys: pytest.CaptureFixture[str]) -> None:
    """After a quarter of a minute one line, without control characters, and then one a minute."""
    times = iter([0.0, 10.0, 16.0, 30.0, 77.0, 78.0, 90.0])
    with LoadBar(terminal=False, clock=lambda: next(times)) as bar:
        for done in range(5):
            bar(LoadProgress("convert", done * 10**9, 4 * 10**9))
        bar(LoadProgress("map"))
        bar(LoadProgress("map"))
    lines = capsys.readouterr().err.splitlines()
    assert [line[:18] for line in lines] == ["Converting to INT4", "Converting to INT4"]
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_full_disk_behind_stdout_is_one_sentence(extra: list[str], project_root: Path) -> None:
    """Where the result cannot be written, the exit code is 1 and no traceback appears."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "chatglm_backend", "verify", "/no/such", *extra],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=project_root,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_closed_stdout_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Started with its output closed, as some services do, a command still ends in order."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["cache", "list", "--json"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ["nan", "-1", "inf"])
def test_a_tolerance_that_means_nothing_is_wrong_usage(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It would only ever fail, or never."""
    assert main(["verify", "tests/golden/chatglm2-6b", "--tolerance", value]) == 2
    assert "tolerance" in capsys.readouterr().err
