"""Makes the pictures for the README and the guide, with the bundled model: ``python tests/browser/screenshots.py``.

Every page, wide and narrow, light and dark, in both languages, into ``docs/images`` or the folder that is named. It
starts a page of its own, in an empty home, so that nothing of this computer's user is in the pictures.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from browser_helpers import answers, free_port, until
from PIL import Image
from playwright.sync_api import Page, sync_playwright

_ROOT = Path(__file__).resolve().parents[2]
_EXAMPLES = _ROOT / "chatglm_backend" / "demo_model" / "examples.json"
_LOCALES = {"zh": "zh-CN", "en": "en-US"}
_WIDTHS = {"wide": (1280, 860), "narrow": (360, 780)}
_PATIENCE_MS = 300_000
_DOCUMENTS = {
    "zh": ("说明.pdf", ("ChatGLM 是一个对话模型。", "INT4 量化用四位整数保存权重。"), "什么是INT4量化？"),
    "en": (
        "notes.pdf",
        ("ChatGLM is a model for conversations.", "INT4 quantization keeps weights as integers of four bits."),
        "What is INT4 quantization?",
    ),
}
_COLOURS = 128


def _asked(language: str) -> list[str]:
    return [str(prompt) for prompt in json.loads(_EXAMPLES.read_text(encoding="utf-8"))[language]]


def _done(page: Page, selector: str) -> None:
    page.locator(f"{selector} .cg-status[data-phase=done]").wait_for()


def _start(page: Page, language: str) -> None:
    """The page as it is opened."""


def _prompt(page: Page, language: str) -> None:
    page.get_by_role("tab").nth(1).click()
    page.fill("#cg-prompt textarea", _asked(language)[0])
    page.keyboard.press("Control+Enter")
    _done(page, "#cg-answer-status")


def _chat(page: Page, language: str) -> None:
    page.get_by_role("tab").nth(0).click()
    for number, prompt in enumerate(_asked(language)[:3:2]):
        page.fill("#cg-chat-box textarea", prompt)
        page.press("#cg-chat-box textarea", "Enter")
        page.locator("#cg-chat .bot.message").nth(number).wait_for()
        _done(page, "#cg-chat-status")


def _versions(page: Page, language: str) -> None:
    """A second version of an answer, and a prompt of one's own; on a phone the drawer that has it."""
    page.locator("#cg-chat [class*=message-buttons]").last.locator("button").nth(1).click()  # retry
    page.locator("#cg-chat .cg-versions", has_text="2/2").wait_for()
    _done(page, "#cg-chat-status")
    page.fill("#cg-chat-box textarea", _asked(language)[-1])
    drawer = page.locator("[data-action=drawer]")
    if drawer.is_visible():
        drawer.click()
    page.click(".cg-saved summary")
    page.click("[data-save-prompt]")
    page.keyboard.press("Enter")
    page.locator(".cg-saved .cg-open").wait_for()


def _documents(page: Page, language: str) -> None:
    """A question about a PDF, and the sources of its answer."""
    if page.locator("[data-action=drawer]").is_visible():
        page.keyboard.press("Escape")
        page.click("[data-action=drawer]")
    page.click("#cg-chat-clear")
    name, text, question = _DOCUMENTS[language]
    browser = page.context.browser
    assert browser is not None
    paper = browser.new_page()
    paper.set_content("".join(f'<p style="break-after: page">{line}</p>' for line in text))
    data = paper.pdf()
    paper.close()
    page.set_input_files("#cg-chat-attach", {"name": name, "mimeType": "application/pdf", "buffer": data})
    page.locator("#cg-chat-cards .cg-doc").wait_for()
    page.fill("#cg-chat-box textarea", question)
    page.press("#cg-chat-box textarea", "Enter")
    page.locator("#cg-chat .cg-sources summary").click()
    _done(page, "#cg-chat-status")


def _compare(page: Page, language: str) -> None:
    page.get_by_role("tab").nth(2).click()
    page.fill("#cg-compare-prompt textarea", _asked(language)[0])
    page.click("#cg-compare-settings-b > button")
    page.locator("#cg-compare-kernel-b input[value=bigdl]").check()
    page.click("#cg-compare-settings-b > button")
    page.click("#cg-compare-generate")
    for side in ("a", "b"):
        _done(page, f"#cg-compare-status-{side}")


def _speed(page: Page, language: str) -> None:  # noqa: ARG001
    page.get_by_role("tab").nth(3).click()
    page.click("#cg-speed-start")
    page.locator("#cg-speed-download a").wait_for()


def _model(page: Page, language: str) -> None:  # noqa: ARG001
    page.get_by_role("tab").nth(4).click()
    page.fill("#cg-model-source :is(input, textarea)", "THUDM/chatglm3-6b")
    page.locator("#cg-model-needs p").wait_for()


def _batch(page: Page, language: str) -> None:  # noqa: ARG001
    page.get_by_role("tab").nth(5).click()
    page.locator("#cg-tab-batch button").first.wait_for()


_VISITS = (
    ("start", _start),
    ("chat", _chat),
    ("versions", _versions),
    ("documents", _documents),
    ("prompt", _prompt),
    ("compare", _compare),
    ("speed", _speed),
    ("model", _model),
    ("batch", _batch),
)


@contextmanager
def _page() -> Iterator[str]:
    """The program as a new user starts it; gives its address."""
    with tempfile.TemporaryDirectory(prefix="chatglm-") as home:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHATGLM_", "XDG_", "HF_"))}
        port = free_port()
        command = [sys.executable, str(_ROOT / "webui.py"), "--port", str(port)]
        with subprocess.Popen(command, env={**kept, "HOME": home, "USERPROFILE": home}) as program:
            try:
                url = f"http://127.0.0.1:{port}"
                until(lambda: answers(url) or program.poll() is not None, 120)
                yield url
            finally:
                program.terminate()


def _keep(picture: bytes, path: Path) -> None:
    """Save with few colours: pages are flat, and the pictures lie in the repository."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Visit the page in every look and keep what it looks like."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the page ends with this program
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else _ROOT / "docs" / "images"
    target.mkdir(parents=True, exist_ok=True)
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    flags = ["--headless", "--no-sandbox", "--disable-gpu"]
    with _page() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        for language, locale in _LOCALES.items():
            for width, (pixels, height) in _WIDTHS.items():
                for scheme in ("light", "dark"):
                    page = browser.new_page(
                        locale=locale, viewport={"width": pixels, "height": height}, color_scheme=scheme
                    )
                    page.set_default_timeout(_PATIENCE_MS)
                    page.goto(url)
                    page.locator(".cg-model[data-state=ready]").wait_for()
                    for name, visit in _VISITS:
                        visit(page, language)
                        page.mouse.move(0, 0)
                        page.wait_for_timeout(700)
                        # Chat fits the window; drawn at full length its message box would lie over what follows.
                        whole = name not in ("start", "chat", "versions", "documents")
                        _keep(page.screenshot(full_page=whole), target / f"{name}-{language}-{width}-{scheme}.png")
                    page.close()
        browser.close()


if __name__ == "__main__":
    main()
