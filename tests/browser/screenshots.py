"""Makes the pictures for the README and the guide: ``screenshots.py URL``, where a page is running.

Every page, wide and narrow, light and dark, in both languages, into ``docs/images``.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

_PROMPTS = {"zh": "AI是什么？", "en": "What is AI?"}
_LOCALES = {"zh": "zh-CN", "en": "en-US"}
_WIDTHS = {"wide": (1280, 860), "narrow": (360, 780)}
_TARGET = Path(__file__).resolve().parents[2] / "docs" / "images"


def _prompt(page: Page, language: str) -> None:
    page.fill("#cg-prompt textarea", _PROMPTS[language])
    page.keyboard.press("Control+Enter")
    page.locator("#cg-answer-status .cg-status[data-phase=done]").wait_for(timeout=120_000)


def _chat(page: Page, language: str) -> None:
    page.get_by_role("tab").nth(1).click()
    page.fill("#cg-chat-box textarea", _PROMPTS[language])
    page.keyboard.press("Enter")
    page.locator("#cg-chat-status .cg-status[data-phase=done]").wait_for(timeout=120_000)


def _compare(page: Page, language: str) -> None:
    page.get_by_role("tab").nth(2).click()
    page.fill("#cg-compare-prompt textarea", _PROMPTS[language])
    page.locator("#cg-compare-kernel-b input[value=bigdl]").check()
    page.click("#cg-compare-generate")
    for side in ("a", "b"):
        page.locator(f"#cg-compare-status-{side} .cg-status[data-phase=done]").wait_for(timeout=120_000)


def _speed(page: Page, language: str) -> None:  # noqa: ARG001
    page.get_by_role("tab").nth(3).click()
    page.click("#cg-speed-start")
    page.locator("#cg-speed-download a").wait_for(timeout=300_000)


def _model(page: Page, language: str) -> None:  # noqa: ARG001
    page.get_by_role("tab").nth(4).click()
    page.locator("#cg-model-facts").wait_for()
    page.fill("#cg-model-source input, #cg-model-source textarea", "THUDM/chatglm3-6b")
    page.locator("#cg-model-needs p").wait_for()


_VISITS = (("prompt", _prompt), ("chat", _chat), ("compare", _compare), ("speed", _speed), ("model", _model))


def main() -> None:
    """Visit the page in every look and keep what it looks like."""
    url, target = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else _TARGET
    target.mkdir(parents=True, exist_ok=True)
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox", "--disable-gpu"])
        for language, locale in _LOCALES.items():
            for width, (pixels, height) in _WIDTHS.items():
                for scheme in ("light", "dark"):
                    page = browser.new_page(
                        locale=locale, viewport={"width": pixels, "height": height}, color_scheme=scheme
                    )
                    page.goto(url)
                    page.locator(".cg-model[data-state=ready]").wait_for(timeout=300_000)
                    for name, visit in _VISITS:
                        visit(page, language)
                        page.wait_for_timeout(500)
                        page.screenshot(path=target / f"{name}-{language}-{width}-{scheme}.png", full_page=True)
                    page.close()
        browser.close()


if __name__ == "__main__":
    main()
