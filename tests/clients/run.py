"""Real clients against the real endpoint: ``.venv/bin/python tests/clients/run.py [openai langchain …]``.

No part of the test suite: it fetches the packages that each script beside it pins, with uv and npm, into their own
caches. A client that cannot be installed is skipped with the reason. Two servers answer on this machine: ``webui.py``
with the bundled model, and for tools, which that model does not know, the same endpoint in front of a scripted model
that writes a call the way ChatGLM3-6B does. Prints a table; ends with the number of clients that failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "integration")]

from api_site import TOKEN, serving  # noqa: E402
from webui_process import running_page  # noqa: E402

from chatglm_backend.testing import Script, ScriptedModel, scripted_info, scripted_service  # noqa: E402

CALLS = {
    "weather": "get_weather\n ```python\ntool_call(city='Beijing')\n```",
    "Which city": "City\n ```python\ntool_call(name='Berlin', capital=True)\n```",
}
SCENES = {word: Script((*call.partition("\n"),)) for word, call in CALLS.items()} | {
    "21": Script(("\n", " It is", " sunny.")),
    "as JSON": Script(('{"name": "Berlin",', ' "capital": true}')),
}
CLIENTS = {path.stem.removeprefix("with_").replace("_", "-"): path for path in sorted(HERE.glob("with_*.py"))}
NODE = "openai-npm"


def run(command: Sequence[str], cwd: Path, environment: Mapping[str, str], seconds: int) -> tuple[int, str]:
    """The exit code, and all that was said; 127 where there is no such program."""
    if shutil.which(command[0]) is None:
        return 127, f"{command[0]} is not installed"
    try:
        ended = subprocess.run(
            command, cwd=cwd, env=environment, timeout=seconds, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, f"FAILED {command[0]} took more than {seconds} s"
    return ended.returncode, ended.stdout + ended.stderr


def ask(name: str, environment: Mapping[str, str], folder: Path) -> tuple[str, str, str]:
    """The versions, the checks that passed, and the verdict of one client."""
    install: list[str]
    if name == NODE:
        for file in ("package.json", "with_openai.mjs"):
            shutil.copy(HERE / file, folder)
        install, check, place = ["npm", "install", "--silent"], ["node", "with_openai.mjs"], folder
    else:
        script = str(CLIENTS[name])
        install, check, place = ["uv", "sync", "--script", script], ["uv", "run", "--script", script], HERE
    code, said = run(install, place, environment, 1200)
    if code:
        return "", "", f"skipped: {said.strip().splitlines()[-1]}"
    code, said = run(check, place, environment, 600)
    lines = said.splitlines()
    versions = next((line.removeprefix("versions ") for line in lines if line.startswith("versions ")), name)
    passed = "; ".join(line.removeprefix("ok ") for line in lines if line.startswith("ok "))
    bad = [line for line in lines if line.startswith("FAILED")] or lines[-1:]
    return versions, passed, f"failed: {'; '.join(bad)}" if code else "all right"


def main(chosen: Sequence[str]) -> int:
    """Run the chosen clients, or all."""
    model = ScriptedModel(
        SCENES, info=replace(scripted_info(), name="scripted-chatglm3", family="chatglm3", tools=True)
    )
    service = scripted_service(model)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_page(folder, "--token", TOKEN, real=True) as page, serving(service) as site:
            urls = {"BUNDLED_URL": page.url, "TOOLS_URL": site.url, "KEY": TOKEN}
            environment = {**os.environ, **urls, "NO_PROXY": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"}
            print("| client | checked | result |\n|---|---|---|", flush=True)
            for client in chosen or [*CLIENTS, NODE]:
                versions, passed, verdict = ask(client, environment, folder)
                failed += verdict.startswith("failed")
                print(f"| {versions or client} | {passed} | {verdict} |", flush=True)
    service.close()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
