"""``verify``: compare a folder's logits, or its tokenizer, with recorded values."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, cast

import typer

from chatglm_backend.cli import options
from chatglm_backend.cli.output import emit_json, guarded, note, say
from chatglm_backend.errors import ConfigError, ModelNotFound
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import Settings

if TYPE_CHECKING:
    from chatglm_backend.engine.verify import Precision
    from chatglm_backend.models.config import Family


@guarded
@options.with_settings("adapter", "kernel", "family", "threads")
def verify(
    *,
    folder: Annotated[Optional[Path], typer.Argument(help="Folder with weights and expected values.")] = None,  # noqa: UP045
    precision: Annotated[str, typer.Option("--precision", help="fp32 or int4.")] = "fp32",
    tolerance: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--tolerance", help="Largest relative error; default 1e-4 for fp32, 5e-2 for int4."),
    ] = None,
    tokenizer: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--tokenizer", help="Check this folder's tokenizer instead."),
    ] = None,
    cases: Annotated[Optional[Path], typer.Option("--cases", help="File with the tokenizer's cases.")] = None,  # noqa: UP045
    json_output: options.Json = False,
    settings: Settings,
) -> int:
    """Check that this program computes what the authors' own code computes.

    The folder holds expected.json and expected_logits.safetensors (for int4:
    expected_int4_logits.safetensors); with --adapter it is the fine-tune's folder that
    holds them. Exit code 0 exactly when everything is within the tolerance.

    \b
    Examples:
      python -m chatglm_backend verify tests/golden/chatglm-6b
      python -m chatglm_backend verify tests/golden/chatglm-6b --precision int4 --kernel exact --tolerance 1e-4
      python -m chatglm_backend verify ./base --adapter ./base/lora-qkv
      python -m chatglm_backend verify --tokenizer ./chatglm3-6b --cases tests/golden/tokenizer_cases.json
      python -m chatglm_backend verify --tokenizer ./chatglm3-6b --cases tests/golden/tool_cases.json
    """  # noqa: D301
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ConfigError(name="tolerance", value=tolerance, reason=Sentence("use.number_from_0"))
    from chatglm_backend.checkpoint.places import expanded

    folder, tokenizer, cases = (path and expanded(path) for path in (folder, tokenizer, cases))
    if (folder is None) == (tokenizer is None):
        raise ConfigError(
            name="folder", value=folder or Sentence("value.left_out"), reason=Sentence("use.folder_or_tokenizer")
        )
    if tokenizer is not None:
        if cases is None:
            raise ConfigError(name="cases", value=Sentence("value.left_out"), reason=Sentence("use.cases"))
        if not tokenizer.is_dir():
            raise ModelNotFound(path=tokenizer)
        if not cases.is_file():
            raise ConfigError(name="cases", value=cases, reason=Sentence("file.absent"))
        return _verify_tokenizer(tokenizer, cases, settings.fixed("family"), json_output=json_output)
    if precision not in ("fp32", "int4"):
        raise ConfigError(name="precision", value=precision, reason=Sentence("use.precision"))
    return _verify_logits(
        cast("Path", folder), cast("Precision", precision), settings, tolerance, json_output=json_output
    )


def _verify_tokenizer(folder: Path, cases: Path, family: Family | None, *, json_output: bool) -> int:
    from chatglm_backend.checkpoint.family import tokenizer_family
    from chatglm_backend.tokenizers.verify import verify_tokenizer

    choice = tokenizer_family(folder, family)
    report = verify_tokenizer(folder, cases, choice.family)
    if json_output:
        kinds = ("texts", "chats", "conversations", "replies")
        outcome = {name: getattr(report, name) for name in (*(f"{kind}_ok" for kind in kinds), "ok")}
        emit_json({**asdict(report), "family_reason": str(choice.reason), **outcome})
    else:
        for failure in report.failures:
            expected, actual = ascii(failure.expected), ascii(failure.actual)
            say(f"{failure.kind} {failure.index}: {failure.what}: expected {expected}, got {actual}")
        counts = {name: getattr(report, name) for name in ("texts", "chats", "conversations", "replies")}
        checked = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no cases"
        say(f"{report.family} ({choice.reason}): {checked}: {_word(report.ok)}")
    return 0 if report.ok else 1


def _verify_logits(
    folder: Path, precision: Precision, settings: Settings, tolerance: float | None, *, json_output: bool
) -> int:
    from chatglm_backend.service.verifying import verify_folder

    report, kernel = verify_folder(folder, precision, settings, tolerance=tolerance)
    if json_output:
        emit_json({**report.to_json(), "kernel": kernel})
        return 0 if report.ok else 1
    for index, case in enumerate(report.cases):
        if case.problem:
            say(f"case {index}: {case.problem}")
            continue
        greedy = "" if case.greedy_match is None else f", greedy ids {'match' if case.greedy_match else 'differ'}"
        prefill, decode = _figure(case.prefill_rel_error), _figure(case.decode_rel_error)
        say(f"case {index}: relative error {prefill} prefill, {decode} decode{greedy}")
    if report.problem:
        note(report.problem)
    found = _figure(report.max_rel_error)
    say(f"{kernel}: largest relative error {found}, tolerance {report.tolerance:g}: {_word(report.ok)}")
    return 0 if report.ok else 1


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1e}"


def _word(ok: bool) -> str:  # noqa: FBT001
    return "ok" if ok else "NOT ok"
