"""The variables that keep the page local and quiet."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatglm_backend.network import QUIET, give_home, quiet_environment


def test_an_empty_environment_becomes_quiet() -> None:
    """Telemetry is off."""
    environ: dict[str, str] = {}
    quiet_environment(environ)
    assert {name: environ[name] for name in QUIET} == QUIET


def test_the_users_choices_stay() -> None:
    """A variable the user has set is not rewritten."""
    environ = {"GRADIO_ANALYTICS_ENABLED": "True"}
    quiet_environment(environ)
    assert environ["GRADIO_ANALYTICS_ENABLED"] == "True"


def test_a_user_that_no_one_knows_gets_a_home(monkeypatch: pytest.MonkeyPatch, project_root: Path) -> None:
    """A container's --user 12345 has no HOME: caches and settings get a folder of the program's own."""
    pwd = pytest.importorskip("pwd")

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for given in ({}, {"HOME": ""}):
        environ = dict(given)
        give_home(environ)
        assert Path(environ["HOME"]).parent == project_root
    environ = {"HOME": "/mine"}
    give_home(environ)
    assert environ == {"HOME": "/mine"}
