"""The flags of the terminal. Those of settings are made from the settings: one name, one help text, one meaning."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Optional

import typer

from chatglm_backend.settings import Settings, SettingSpec, load_settings, spec

ENGINE = ("adapter", "threads", "kernel", "draft_tokens", "kv_dtype", "context", "family", "revision", "no_cache")
"""The settings of commands that answer, beside model and sampling."""

Stop = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it on Python 3.10 too
    typer.Option("--stop", help="End the answer before this text; may be given several times.", show_default=False),
]
PromptFormatOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--prompt-format",
        help="recipe (问：…答：), chat (the family's own form) or raw (as typed). Default: recipe; for CodeGeeX2 raw.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead, notes go to stderr.")]


def read_settings(flags: Mapping[str, object], defaults: Mapping[str, object] | None = None) -> Settings:
    """All layers of settings, with logging set up as they say. Raises ConfigError."""
    # A switch that was not given must not hide the environment's.
    given = {name: value for name, value in flags.items() if value is not False}
    settings = load_settings(given, defaults=defaults)
    logging.getLogger().setLevel(logging.CRITICAL)
    logging.getLogger("chatglm_backend").setLevel(settings.log_level.upper())
    return settings


def with_settings(*names: str, **defaults: object) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Give a command the flags of these settings; it gets all settings in its parameter ``settings``.

    ``defaults`` are the command's own. Reading the settings raises ConfigError.
    """

    def decorate(command: Callable[..., object]) -> Callable[..., object]:
        own = inspect.signature(command, eval_str=True).parameters
        added = [_parameter(spec(name), defaults.get(name, spec(name).default)) for name in names]

        @functools.wraps(command)
        def run(**given: object) -> object:
            flags = {name: given.pop(name) for name in names}
            return command(**given, settings=read_settings(flags, defaults))

        parameters = [one for name, one in own.items() for one in (added if name == "settings" else [one])]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _parameter(found: SettingSpec, default: object) -> inspect.Parameter:
    text = found.help
    if found.choices:
        text += f" One of {', '.join(found.choices)}."
    if default not in (None, ()) and found.kind != "bool":
        text += f" Default: {default}."
    option: Any = typer.Option(*found.flags, help=f"{text} [{found.variable}]", show_default=False)
    kind: Any = {"int": int, "float": float, "bool": bool, "texts": list[str]}.get(found.kind, str)
    annotation = Annotated[Optional[kind], option]  # noqa: UP045
    return inspect.Parameter(found.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
