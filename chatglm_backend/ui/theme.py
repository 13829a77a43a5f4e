"""How the page looks: our colours and type as a Gradio theme, and where the style sheet and script lie.

Only fonts that the reader's system has are named, so nothing is fetched for them.
"""

from __future__ import annotations

from importlib.resources import files

import gradio as gr

__all__ = ["page_script", "page_styles", "page_theme"]

_SANS = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "sans-serif",
)
_MONO = ("ui-monospace", "Cascadia Mono", "Consolas", "DejaVu Sans Mono", "Noto Sans Mono CJK SC", "monospace")

_PINE = gr.themes.Color(
    name="pine",
    c50="#effaf7",
    c100="#d5f0e9",
    c200="#abe0d4",
    c300="#79cabb",
    c400="#45ab9b",
    c500="#1f8a7c",
    c600="#0f6e64",
    c700="#0d5851",
    c800="#0e4641",
    c900="#0e3a37",
    c950="#062321",
)
_PAPER = gr.themes.Color(
    name="paper",
    c50="#faf9f6",
    c100="#f3f2ed",
    c200="#e6e4dc",
    c300="#d0cfc6",
    c400="#9ba19f",
    c500="#66706f",
    c600="#4b5655",
    c700="#354040",
    c800="#222c2d",
    c900="#182022",
    c950="#10171a",
)


def page_theme() -> gr.themes.Base:
    """The theme, light and dark."""
    theme = gr.themes.Base(
        primary_hue=_PINE,
        secondary_hue=_PINE,
        neutral_hue=_PAPER,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        font=_SANS,
        font_mono=_MONO,
    )
    return theme.set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        body_text_color="#1b2526",
        body_text_color_dark="#e7ecea",
        body_text_color_subdued="#566160",
        body_text_color_subdued_dark="#a3b0ad",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="#141c1f",
        border_color_primary="*neutral_200",
        border_color_primary_dark="#2c383a",
        block_background_fill="#ffffff",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_radius="12px",
        input_radius="9px",
        button_large_radius="10px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_color="#445150",
        block_label_text_color_dark="#b5c1be",
        block_label_text_weight="600",
        block_title_text_color="#445150",
        block_title_text_color_dark="#b5c1be",
        block_title_text_weight="600",
        block_info_text_color="#566160",
        block_info_text_color_dark="#a3b0ad",
        block_shadow="0 1px 2px rgb(20 40 38 / 5%)",
        block_shadow_dark="none",
        input_background_fill="#ffffff",
        input_background_fill_dark="#131b1e",
        input_border_width="1px",
        input_border_color="#8c9492",
        input_border_color_dark="#5d6b6d",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_placeholder_color="#66706f",
        input_placeholder_color_dark="#93a09d",
        checkbox_border_color="#7d8583",
        checkbox_border_color_dark="#7d8a8c",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_300",
        button_primary_background_fill_hover_dark="*primary_200",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#06211d",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="#202b2d",
        button_secondary_background_fill_hover_dark="#2a3739",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="#3b494b",
        button_secondary_text_color="#263332",
        button_secondary_text_color_dark="#e7ecea",
        button_border_width="1px",
        accordion_text_color="#445150",
        accordion_text_color_dark="#b5c1be",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )


def page_styles() -> str:
    """The style sheet."""
    return _asset("page.css")


def page_script() -> str:
    """The scripts for keys, reading, conversations, the connection: plain, local, small."""
    return "\n".join(_asset(f"{name}.js") for name in ("page", "reading", "history", "connection", "labels"))


def _asset(name: str) -> str:
    return (files("chatglm_backend.ui") / "assets" / name).read_text(encoding="utf-8")
