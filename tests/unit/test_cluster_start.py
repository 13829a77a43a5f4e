"""Starting a node: what is refused before anything starts, and what is said when it does not, with a node played."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatglm_backend.cluster.node import Node, node_command, split_address
from chatglm_backend.cluster.start import Joining, main, require_token
from chatglm_backend.errors import ClusterError

FAILING = "print('starting'); raise RuntimeError('Version mismatch:\\n  the head has 3.12\\n')"
JOINED = "print('Ray runtime started.'); print('raylet is gone'); raise SystemExit(1)"
SOON = Joining(trying_s=600.0, again_s=0.0, reaching_s=0.3, look_s=0.01)


def token(path: Path, content: str = "secret", mode: int = 0o600) -> str:
    """A file with a token."""
    path.write_text(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({}, "no token in .*auth_token"),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "t"}, "RAY_AUTH_MODE is disabled"),
        ({"RAY_AUTH_TOKEN_PATH": "missing"}, "no token in missing"),
        ({"RAY_AUTH_TOKEN": " "}, "no token in"),
        ({"RAY_AUTH_TOKEN": "t"}, ""),
    ],
)
def test_nothing_starts_without_token_authentication(tmp_path: Path, environ: dict[str, str], why: str) -> None:
    """One sentence that says what to do; with a token, Ray is told to use it, and never to begin a cluster unasked."""
    environ["HOME"] = str(tmp_path)
    if why:
        with pytest.raises(ClusterError, match=why):
            require_token(environ)
    else:
        require_token(environ)
        assert (environ["RAY_AUTH_MODE"], environ["RAY_ENABLE_AUTO_CONNECT"]) == ("token", "0")


def test_a_token_is_one_of_this_user_alone(tmp_path: Path) -> None:
    """An empty file is none, and one that others may read is refused with the command that mends it."""
    require_token({"RAY_AUTH_TOKEN_PATH": token(tmp_path / "kept")})
    with pytest.raises(ClusterError, match="no token in"):
        require_token({"RAY_AUTH_TOKEN_PATH": token(tmp_path / "empty", "\n")})
    for mode in (0o640, 0o666):
        with pytest.raises(ClusterError, match="chmod 600"):
            require_token({"RAY_AUTH_TOKEN_PATH": token(tmp_path / "open", mode=mode)})


def test_the_command_that_is_shown_makes_the_token_that_lacked(tmp_path: Path) -> None:
    """Also where a variable names the file, in a folder that is not there."""
    environ = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "a folder" / "token")}
    with pytest.raises(ClusterError) as refused:
        require_token(environ)
    subprocess.run(["sh", "-c", str(refused.value).split("make one with '", 1)[1].rsplit("', and", 1)[0]], check=True)
    require_token(environ)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        *((bad, "HOST:PORT") for bad in ("", "host", "host:", ":6379", "host:port", "host:99999")),
        ("[fe80::1]:6379", "IPv4"),
        ("::1:6379", "IPv4"),
        ("0.0.0.0:6379", "the head's own"),
        ("0:6379", "the head's own"),
    ],
)
def test_an_address_is_one_that_others_can_use(address: str, why: str) -> None:
    """Anything else is refused before anything starts."""
    with pytest.raises(ClusterError, match=why):
        split_address(address)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of somebody who listens, and a token."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def playing(*nodes: str) -> Callable[[str], list[str]]:
    """Commands that play one node after the other; then somebody presses Ctrl-C."""
    left = list(nodes)

    def command(_: str) -> list[str]:
        if not left:
            raise KeyboardInterrupt
        return [sys.executable, "-c", left.pop(0)]

    return command


def test_a_node_that_does_not_start_is_tried_again_and_then_given_up(
    head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """However long each start takes; the reason is Ray's own, and no command that starts a node without a token."""
    assert main([head], playing(FAILING, FAILING), SOON) == 130
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all("RuntimeError: Version mismatch: the head has 3.12" in line for line in told)
    assert all("up to 10 more minutes" in line for line in told)
    assert main([head], playing(FAILING), Joining(trying_s=0.0, again_s=0.0, look_s=0.01)) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("Ray did not start on this machine: RuntimeError: Version mismatch")
    assert "ray.scripts" not in told[0]


def test_what_was_a_node_is_started_again_without_end(head: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The time for trying begins anew with each, but not with one that never was a node."""
    assert main([head], playing(JOINED, FAILING), Joining(trying_s=600.0, again_s=0.0, look_s=0.01)) == 130
    assert "The node has ended: raylet is gone." in capsys.readouterr().err
    assert main([head], playing(JOINED), Joining(trying_s=0.0, again_s=0.0, look_s=0.01)) == 130


def test_nobody_at_the_address_is_said_at_once(head: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And an address that is none."""
    with socket.create_server(("127.0.0.1", 0)) as ended:
        address = f"127.0.0.1:{ended.getsockname()[1]}"
    assert main([address], playing(), SOON) == 1
    assert main([], playing(), SOON) == 1
    nobody, none = capsys.readouterr().err.splitlines()
    assert "Nobody answers at" in nobody
    assert "HOST:PORT" in none
    assert head not in nobody


def test_a_node_keeps_the_end_of_what_it_said() -> None:
    """Not all of it; without a word its exit code is the reason."""
    node = Node([sys.executable, "-c", "print('x' * 10**6); print('the last'); raise SystemExit(3)"])
    assert node.wait(20.0)
    assert node.reason() == "the last"
    silent = Node([sys.executable, "-c", "raise SystemExit(3)"])
    assert silent.wait(20.0)
    assert silent.reason() == "exit code 3"
    assert not silent.joined.is_set()


def test_a_head_and_a_node_ask_for_what_they_need() -> None:
    """The head listens at its own address, a node goes to it."""
    first, second = node_command("127.0.0.1:6379", head=True), node_command("127.0.0.1:6379", head=False)
    assert {"--head", "--node-ip-address=127.0.0.1", "--port=6379", "--include-dashboard=false"} <= set(first)
    assert {"--address=127.0.0.1:6379", "--node-ip-address=127.0.0.1", "--block"} <= set(second)
