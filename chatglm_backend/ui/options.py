"""The page's flags: one for each setting, with the setting's own help, default and names.

It knows no page: it turns a command line into settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from chatglm_backend.settings import Settings, SettingSpec, load_settings, specs


def page_settings(argv: Sequence[str] | None = None) -> Settings:
    """Settings from flags, environment and file.

    Raises:
        ConfigError: for a bad value or an unknown name. ``SystemExit`` for an unknown flag or ``--help``.
    """
    parser = argparse.ArgumentParser(
        prog="webui.py", description="Open ChatGLM as a page in the browser.", allow_abbrev=False
    )
    for spec in specs().values():
        _add(parser, spec)
    return load_settings({name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None})


def _add(parser: argparse.ArgumentParser, spec: SettingSpec) -> None:
    text = spec.help.replace("%", "%%")
    if spec.kind == "bool":
        # A flag that already says no has no opposite: "--no-no-cache" helps nobody.
        action = "store_true" if spec.flags[0].startswith("--no-") else argparse.BooleanOptionalAction
        parser.add_argument(*spec.flags, dest=spec.name, action=action, default=None, help=text)
        return
    if spec.kind == "texts":
        parser.add_argument(*spec.flags, dest=spec.name, action="append", help=text, metavar=spec.name.upper())
        return
    if spec.default not in (None, ""):
        text += f" Default: {spec.default}."
    parser.add_argument(
        *spec.flags, dest=spec.name, default=None, help=text,
        choices=spec.choices or None, metavar=None if spec.choices else spec.name.upper(),
    )  # fmt: skip
