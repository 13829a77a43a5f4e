"""Starting the page: flags, the port, and the language at the door."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from chatglm_backend.errors import ConfigError, PortInUse
from chatglm_backend.ui.gradio_insides.html import polish_html
from chatglm_backend.ui.gradio_insides.languages import LanguageRoot
from chatglm_backend.ui.listen import take_port
from chatglm_backend.ui.options import page_settings


@pytest.mark.parametrize("flag", ["--model", "--repo-id-or-model-path"])
def test_both_names_of_the_model_flag_mean_the_same(flag: str) -> None:
    """The original recipe's flag works on the page too."""
    assert page_settings([flag, "folder"]).model == "folder"


def test_n_predict_sets_the_slider() -> None:
    """The recipe's flag decides where the slider stands; without it, whole sentences fit."""
    assert page_settings(["--n-predict", "64"]).answer_tokens(128) == 64
    assert page_settings([]).answer_tokens(128) == 128


def test_a_taken_port_names_a_free_one() -> None:
    """The sentence says what to type instead, and that port is free indeed."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUse) as caught:
            take_port("127.0.0.1", taken.getsockname()[1])
    take_port("127.0.0.1", int(str(caught.value.fields["free_port"]))).close()


def test_an_address_of_another_machine_is_refused() -> None:
    """An address that cannot be listened on is not taken for a busy port."""
    with pytest.raises(ConfigError, match="host"):
        take_port("203.0.113.7", 7860)


def _visit(path: str, headers: Mapping[str, str], query: str = "") -> tuple[str, dict[bytes, bytes]]:
    sent: list[dict[str, Any]] = []

    def page(name: str) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
            body = f"{name} {scope['root_path']} {scope['path']}".encode()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
            await send({"type": "http.response.body", "body": body})

        return app

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    root = LanguageRoot({"zh": page("zh"), "en": page("en")}, "", {"zh": "", "en": ""})
    asyncio.run(root(scope, None, send))  # type: ignore[arg-type]
    return sent[1]["body"].decode(), dict(sent[0]["headers"])


@pytest.mark.parametrize(
    ("path", "headers", "query", "expected"),
    [
        ("/", {"accept-language": "zh-CN"}, "", "zh /zh /zh/"),
        ("/", {"accept-language": "en"}, "", "en /en /en/"),
        ("/", {"accept-language": "en", "cookie": "a=b; chatglm_language=zh"}, "", "zh /zh /zh/"),
        ("/", {"accept-language": "zh"}, "lang=en", "en /en /en/"),
        ("/zh/", {"accept-language": "zh"}, "lang=en", "en /en /en/"),
        ("/zh/config", {"accept-language": "en"}, "", "zh /zh /zh/config"),
        ("/assets/x.js", {}, "", "en /en /en/assets/x.js"),
    ],
)
def test_a_visitor_gets_the_page_in_their_language(
    path: str, headers: dict[str, str], query: str, expected: str
) -> None:
    """Address, then cookie, then browser; a page's own requests stay with it."""
    assert _visit(path, headers, query)[0] == expected


def test_only_a_chosen_language_is_remembered() -> None:
    """Following the browser sets no cookie; a choice does."""
    assert b"set-cookie" not in _visit("/", {"accept-language": "zh"})[1]
    assert b"chatglm_language=en" in _visit("/", {"accept-language": "zh"}, "lang=en")[1][b"set-cookie"]


def test_the_served_document_names_its_language_and_no_foreign_picture() -> None:
    """Language and title are set, our script comes first, preview pictures from elsewhere are gone."""
    picture = '<meta\nproperty="og:image"\ncontent="https://elsewhere/x.jpg" />'
    html = f'<html\n lang="en">\n<head>\n{picture}\n<script>1</script>'
    shown = polish_html(html, "zh-CN", "A & B", "ours()")
    assert 'lang="zh-CN"' in shown
    assert "<title>A &amp; B</title>" in shown
    assert "elsewhere" not in shown
    assert shown.index("ours()") < shown.index("<script>1")
