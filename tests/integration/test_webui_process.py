"""The whole page as a process: its end, its door, its links, its log."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from webui_process import ROOT, Running, ask_page, free_port, running_page, token_of

pytest.importorskip("gradio")
signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")


class Stream(threading.Thread):
    """Reads a stream of events to its end. ``began`` is set by the first line."""

    def __init__(self, page: Running, method: str, path: str, **options: Any) -> None:
        super().__init__(daemon=True)
        self.lines: list[str] = []
        self.began = threading.Event()
        self._page, self._request, self._options = page, (method, path), options
        self.start()

    def run(self) -> None:
        """Read."""
        try:
            with self._page.client() as client, client.stream(*self._request, **self._options) as reply:
                for line in reply.iter_lines():
                    self.lines.append(line)
                    self.began.set()
        except httpx.TransportError as error:
            self.lines.append(type(error).__name__)


def ask(content: str, **fields: Any) -> dict[str, Any]:
    """A request to the endpoint."""
    return {"json": {"messages": [{"role": "user", "content": content}], **fields}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A page that asks for a token, as on a network, but on this machine's own address."""
    folder = tmp_path_factory.mktemp("shared")
    with running_page(folder, "--listen", "--host", "127.0.0.1", CHATGLM_DATA=str(folder)) as page:
        yield page


@signals
def test_asked_to_end_running_answers_are_finished_and_open_pages_do_not_hold_it_up(tmp_path: Path) -> None:
    """The accepted answer comes to its end, new ones are refused politely, and the exit code is 0."""
    with running_page(tmp_path, "--drain-seconds", "30") as page:
        heartbeat = Stream(page, "GET", "/en/gradio_api/heartbeat/a-page")
        answer = Stream(page, "POST", "/v1/chat/completions", **ask("slow", stream=True, max_tokens=80))
        assert heartbeat.began.wait(20)
        assert answer.began.wait(20)
        page.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with page.client() as client:
            refused = client.post("/v1/chat/completions", **ask("hello"))
            alive = client.get("/health")
        assert page.process.wait(60) == 0
        answer.join(10)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert alive.status_code == 200
    assert answer.lines[-2] == "data: [DONE]"
    assert '"finish_reason":"length"' in "".join(answer.lines)


@signals
@pytest.mark.parametrize(("seconds", "sent"), [("0.5", [signal.SIGTERM]), ("600", [signal.SIGINT, signal.SIGINT])])
def test_an_answer_without_end_is_cut_off(tmp_path: Path, seconds: str, sent: list[signal.Signals]) -> None:
    """When the time is up, or at once when asked a second time; the reader is told, and the exit code is 0."""
    with running_page(tmp_path, "--drain-seconds", seconds) as page:
        answer = Stream(page, "POST", "/v1/chat/completions", **ask("slow", stream=True, max_tokens=2000))
        assert answer.began.wait(20)
        for number in sent:
            page.process.send_signal(number)
            time.sleep(1)
        assert page.process.wait(60) == 0
        answer.join(10)
    assert "data: [DONE]" not in answer.lines
    assert "Traceback" not in page.log


@signals
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_asked_to_end_while_it_is_still_starting_it_just_ends(tmp_path: Path, number: int, expected: int) -> None:
    """There is nobody to wait for yet, and nothing to say."""
    code = "import sys, webui\nprint('begun', flush=True)\nsys.exit(webui.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--port", str(free_port()), "--data", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.5)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in said) == (expected, False)


def test_the_named_endpoint_of_the_page_answers_gradios_own_client(shared: Running) -> None:
    """With the token as its key; the scripted answer comes out."""
    answer = ask_page(shared, "What is AI?", authorization=f"Bearer {token_of(shared.log)}")
    assert "AI is the study of machines that learn." in answer


def test_a_conversation_larger_than_other_requests_can_be_imported(shared: Running) -> None:
    """Up to its own limit; the same body anywhere else, or a larger one, is refused."""
    turns = [{"role": "user", "text": "x" * 1_500_000}]
    small, large = json.dumps({"conversations": [{"turns": turns}]}), b" " * 9_000_000
    kind = {"content-type": "application/json", "origin": shared.url}
    with shared.client() as client:
        client.get(f"/?token={token_of(shared.log)}")
        client.get("/en/", headers={"accept": "text/html"})
        replies = [
            client.post("/en/history/import", content=small, headers=kind).status_code,
            client.post("/en/history/import", content=large, headers=kind).status_code,
            client.post("/v1/completions", content=small, headers=kind).status_code,
            client.post("/en/gradio_api/queue/join", content=small, headers=kind).status_code,
        ]
    assert replies[0] in (200, 400)  # it was read and judged
    assert replies[1:] == [413, 413, 413]


@pytest.mark.parametrize(
    ("flags", "word"),
    [(["--port", "seven"], "port"), (["--token", "short"], "token"), (["--host", "192.0.2.1"], "host")],
)
def test_a_bad_setting_ends_with_2_and_one_sentence(flags: list[str], word: str) -> None:
    """Whether the settings, the policy or the socket refuses it; before anything heavy is loaded."""
    done = subprocess.run([sys.executable, str(ROOT / "webui.py"), *flags], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1
    assert word in done.stderr


def test_under_a_root_path_everything_is_addressed_below_it(tmp_path: Path) -> None:
    """Through a proxy that takes the path off, as the notes for proxies say."""
    flags = ["--root-path", "/chat", "--allowed-hosts", "glm.example.org", "--trusted-proxies", "127.0.0.1"]
    with running_page(tmp_path, *flags) as page:
        proxy = {"host": "glm.example.org", "x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https"}
        with page.client(headers=proxy) as client:
            html = client.get("/", headers={"accept": "text/html"}).text
            local = [a for a in re.findall(r'(?:src|href)="([^"#]+)"', html) if not a.startswith(("data:", "http"))]
            roots = set(re.findall(r'"root":\s*"([^"]*)"', html))
            assets = [a for a in local if "/assets/" in a or "theme.css" in a]
            assert assets
            for address in assets:
                public = str(httpx.URL("https://glm.example.org/chat/").join(address).path)
                assert public.startswith("/chat/")
                assert client.get(public.removeprefix("/chat")).status_code == 200, address
            assert roots
            assert all(root.endswith(("/chat", "/chat/en")) for root in roots), roots
            config = client.get("/en/config").json()
            assert config["root"] == "https://glm.example.org/chat/en"


def test_with_a_certificate_the_page_is_served_over_https(tmp_path: Path) -> None:
    """And the cookie is for https only."""
    make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    try:
        subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    files = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    with running_page(tmp_path, *files, "--token", "a-token-for-tests", scheme="https") as page:
        assert "https://127.0.0.1" in page.log
        with page.client(verify=False) as client:
            reply = client.get("/?token=a-token-for-tests")
    assert reply.status_code == 303
    assert "Secure" in reply.headers["set-cookie"]
