"""The page starts in environments that desktops really have: it needs no way to other machines, nor a shared folder."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
from webui_process import ask_page, running_page

pytest.importorskip("gradio")

_ODD = {
    # no HTTP client understands these
    "all_proxy": "socks://127.0.0.1:7891/",
    "ALL_PROXY": "gibberish://x",
    "http_proxy": "127.0.0.1:7890",
    "no_proxy": "localhost,[::1],fd00::/8",
    "SSL_CERT_FILE": "/no/such.pem",
    "SSL_CERT_DIR": "/no/such",
    "REQUESTS_CA_BUNDLE": "/no/such.pem",
    "CURL_CA_BUNDLE": "/no/such.pem",
    # a home that is none, and no other places for what is kept, made and set
    "HOME": "/dev/null/home",
    **dict.fromkeys(("CHATGLM_CACHE", "CHATGLM_DATA", "CHATGLM_CONFIG", "HF_HOME"), ""),
    **dict.fromkeys(("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), ""),
    # meant for other programs, or wrong
    "GRADIO_TEMP_DIR": "/dev/null/gradio",
    "GRADIO_SERVER_PORT": "odd",
    "GRADIO_NUM_PORTS": "odd",
    "GRADIO_ROOT_PATH": "/elsewhere",
    "GRADIO_ALLOWED_PATHS": "/",
    "GRADIO_MCP_SERVER": "True",
    "GRADIO_DEFAULT_CONCURRENCY_LIMIT": "odd",
    "WEB_CONCURRENCY": "odd",
    "HF_HUB_DOWNLOAD_TIMEOUT": "odd",
    "HF_HUB_OFFLINE": "maybe",
    "MPLBACKEND": "odd",
    "COLUMNS": "odd",
    "LANG": "xx_XX.odd",
}


def test_the_page_starts_and_answers_in_an_odd_environment(tmp_path: Path) -> None:
    """All at once; the temporary folder is its own, private, and gone afterwards."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "gradio").write_text("somebody else's")
    places = dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(shared))
    with running_page(tmp_path, **_ODD, **places) as page:
        assert "AI is the study of machines that learn." in ask_page(page, "What is AI?")
        (own,) = shared.glob("chatglm-page-*")
        assert sys.platform == "win32" or stat.S_IMODE(own.stat().st_mode) == 0o700
        page.end()
        assert "Traceback" not in page.log
    assert sorted(path.name for path in shared.iterdir()) == ["gradio"]
