"""The variables that keep the page local and quiet."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatglm_backend.network import LOCAL_HOSTS, QUIET, give_home, quiet_environment


def test_an_empty_environment_becomes_quiet() -> None:
    """Telemetry is off and both spellings of NO_PROXY name this machine."""
    environ: dict[str, str] = {}
    quiet_environment(environ)
    assert {name: environ[name] for name in QUIET} == QUIET
    assert environ["NO_PROXY"] == environ["no_proxy"] == ",".join(LOCAL_HOSTS)


def test_the_users_choices_stay() -> None:
    """A variable the user has set is not rewritten."""
    environ = {"GRADIO_ANALYTICS_ENABLED": "True"}
    quiet_environment(environ)
    assert environ["GRADIO_ANALYTICS_ENABLED"] == "True"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"NO_PROXY": "corp, localhost"}, "corp,localhost,127.0.0.1,::1"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, "a,b,localhost,127.0.0.1,::1"),
        ({"no_proxy": "*"}, "*"),
        ({"no_proxy": " , "}, "localhost,127.0.0.1,::1"),
    ],
)
def test_exceptions_are_added_once(before: dict[str, str], after: str) -> None:
    """The user's exceptions are kept in both spellings, ours are added, and twice is the same as once."""
    environ = dict(before)
    quiet_environment(environ)
    quiet_environment(environ)
    assert (environ["no_proxy"], environ["NO_PROXY"]) == (after, after)


@pytest.mark.parametrize("url", ["http://localhost:7860/", "http://127.0.0.1:7860/", "http://[::1]:7860/"])
def test_httpx_goes_straight_to_this_machine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a dead SOCKS proxy for everything, requests to this machine choose no proxy."""
    httpx = pytest.importorskip("httpx")
    environ: dict[str, str] = {"ALL_PROXY": "socks5://127.0.0.1:1"}
    quiet_environment(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with httpx.Client() as client:
        direct = client._transport_for_url(httpx.URL(url))
        proxied = client._transport_for_url(httpx.URL("http://example.org/"))
    assert direct is client._transport
    assert proxied is not client._transport


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
