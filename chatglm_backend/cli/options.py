"""The flags that commands share: one name, one help text, one meaning. Bounds and texts come from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Optional

import typer

from chatglm_backend.settings import spec, specs

__all__ = [
    "DraftTokens",
    "Family",
    "Json",
    "Kernel",
    "KvDtype",
    "LogLevel",
    "Model",
    "NPredict",
    "NoCache",
    "PromptFormatOption",
    "RepetitionPenalty",
    "Revision",
    "Seed",
    "Stop",
    "Temperature",
    "Threads",
    "TopK",
    "TopP",
    "chosen",
]


def _option(name: str, *flags: str) -> Any:  # noqa: ANN401 - typer's own type is private
    found = spec(name)
    text = found.help
    if found.choices:
        text += f" One of {', '.join(found.choices)}."
    if found.default is not None and found.kind != "bool":
        text += f" Default: {found.default}."
    return typer.Option(*(flags or (found.flag,)), help=f"{text} [{found.variable}]", show_default=False)


# typer reads these at run time, on Python 3.10 too, so Optional and not ``| None``.
Model = Annotated[Optional[str], _option("model", "--model", "--repo-id-or-model-path")]  # noqa: UP045
Family = Annotated[Optional[str], _option("family")]  # noqa: UP045
Revision = Annotated[Optional[str], _option("revision")]  # noqa: UP045
NoCache = Annotated[Optional[bool], _option("no_cache", "--no-cache")]  # noqa: UP045
Threads = Annotated[Optional[str], _option("threads")]  # noqa: UP045
Kernel = Annotated[Optional[str], _option("kernel")]  # noqa: UP045
KvDtype = Annotated[Optional[str], _option("kv_dtype")]  # noqa: UP045
DraftTokens = Annotated[Optional[str], _option("draft_tokens")]  # noqa: UP045
LogLevel = Annotated[Optional[str], _option("log_level")]  # noqa: UP045
NPredict = Annotated[Optional[int], _option("max_new_tokens", "--n-predict", "--max-new-tokens")]  # noqa: UP045
Temperature = Annotated[Optional[float], _option("temperature")]  # noqa: UP045
TopP = Annotated[Optional[float], _option("top_p")]  # noqa: UP045
TopK = Annotated[Optional[int], _option("top_k")]  # noqa: UP045
RepetitionPenalty = Annotated[Optional[float], _option("repetition_penalty")]  # noqa: UP045
Seed = Annotated[Optional[int], _option("seed")]  # noqa: UP045
Stop = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--stop", help="End the answer before this text; may be given several times.", show_default=False),
]
PromptFormatOption = Annotated[
    str,
    typer.Option("--prompt-format", help="recipe (问：…答：), chat (the family's own form) or raw (as typed)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead, notes go to stderr.")]


def chosen(parameters: Mapping[str, object]) -> dict[str, object]:
    """The settings among a command's parameters, under the settings' own names; what is no setting is left out."""
    known = specs()
    named = {"max_new_tokens" if name == "n_predict" else name: value for name, value in parameters.items()}
    # A switch that was not given must not hide the environment's.
    return {name: None if value is False else value for name, value in named.items() if name in known}
