# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["open-webui==0.12.4"]
# [tool.uv]
# override-dependencies = ["torch ; sys_platform == 'never'"]
# ///
"""Open WebUI's own server, which asks the endpoint for the people at its page.

Installed without torch, with which it would compute embeddings.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from checks import ANSWER, ASK_WEATHER, BUNDLED, KEY, QUESTION, TOOLS, WEATHER, check, done, holds, same

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
folder = Path(tempfile.mkdtemp())
environment = {
    "DATA_DIR": str(folder), "WEBUI_AUTH": "False", "WEBUI_SECRET_KEY": "for this check only", "OFFLINE_MODE": "true",
    "OPENAI_API_BASE_URLS": f"{BUNDLED}/v1;{TOOLS}/v1", "OPENAI_API_KEYS": f"{KEY};{KEY}", "ENABLE_OLLAMA_API": "false",
    "RAG_EMBEDDING_ENGINE": "openai", "ENABLE_PERSISTENT_CONFIG": "false", "GLOBAL_LOG_LEVEL": "WARNING",
}  # fmt: skip
with (folder / "log.txt").open("wb") as log:
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name("open-webui")), "serve", "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, **environment}, cwd=folder, stdout=log, stderr=log,
    )  # fmt: skip


def ask(method: str, path: str, **fields: object) -> httpx.Response:
    """A request of its page."""
    reply = site.request(method, path, **fields)
    if reply.is_error:
        raise AssertionError(f"{path}: {reply.status_code} {reply.text}")
    return reply


try:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as site:
        until = time.monotonic() + 180
        while server.poll() is None and time.monotonic() < until:
            try:
                if site.get("/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        with check("its server starts, and lists both models"):
            token = ask("POST", "/api/v1/auths/signin", json={"email": "", "password": ""}).json()["token"]
            site.headers["authorization"] = f"Bearer {token}"
            names = [one["id"] for one in ask("GET", "/api/models").json()["data"] if one.get("owned_by") == "openai"]
            small, scripted = sorted(names, key=lambda name: "scripted" in name)[:2]
        said = [{"role": "user", "content": QUESTION}]
        with check("a chat, whole"):
            reply = ask("POST", "/api/chat/completions", json={"model": small, "messages": said}).json()
            holds(reply["choices"][0]["message"]["content"], ANSWER)
        with check("a chat, streamed"):
            text = ask("POST", "/api/chat/completions", json={"model": small, "messages": said, "stream": True}).text
            chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
            found = [one["choices"][0]["delta"].get("content") or "" for one in chunks if one.get("choices")]
            holds("".join(found), ANSWER)
        with check("a title for the conversation, by its own prompt"):
            talk = [*said, {"role": "assistant", "content": "the study of machines"}]
            body = {"model": scripted, "messages": talk, "chat_id": "local"}
            assert "choices" in ask("POST", "/api/v1/tasks/title/completions", json=body).json()
        with check("tools passed through"):
            tools = [{"type": "function", "function": WEATHER}]
            given = {"model": scripted, "messages": [{"role": "user", "content": ASK_WEATHER}], "tools": tools}
            (choice,) = ask("POST", "/api/chat/completions", json=given).json()["choices"]
            same(choice["message"]["tool_calls"][0]["function"]["name"], "get_weather")
finally:
    if server.poll() is None:
        server.terminate()
        server.wait(60)
    if os.environ.get("SHOW_LOG"):
        print((folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-6000:])
done("open-webui")
