"""How the page looks: our colours and type as a Gradio theme, and where the style sheet and script lie.

Only fonts that the reader's system has are named, so nothing is fetched for them.
"""

from __future__ import annotations

from importlib.resources import files

import gradio as gr

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

# Tints from 50 to 950.
_PINE = "#effaf7 #d5f0e9 #abe0d4 #79cabb #45ab9b #1f8a7c #0f6e64 #0d5851 #0e4641 #0e3a37 #062321"
_PAPER = "#faf9f6 #f3f2ed #e6e4dc #d0cfc6 #9ba19f #66706f #4b5655 #354040 #222c2d #182022 #10171a"
# In the light, and in the dark where that differs.
_LOOK: dict[str, tuple[str, ...]] = {
    "body_background_fill": ("*neutral_100", "*neutral_950"),
    "body_text_color": ("#1b2526", "#e7ecea"),
    "body_text_color_subdued": ("#566160", "#a3b0ad"),
    "background_fill_primary": ("#ffffff", "*neutral_900"),
    "background_fill_secondary": ("*neutral_50", "#141c1f"),
    "border_color_primary": ("*neutral_200", "#2c383a"),
    "block_background_fill": ("#ffffff", "*neutral_900"),
    "block_border_width": ("1px",),
    "block_radius": ("12px",),
    "input_radius": ("9px",),
    "button_large_radius": ("10px",),
    "block_label_background_fill": ("transparent", "transparent"),
    "block_label_border_width": ("0px",),
    "block_label_text_color": ("#445150", "#b5c1be"),
    "block_label_text_weight": ("600",),
    "block_title_text_color": ("#445150", "#b5c1be"),
    "block_title_text_weight": ("600",),
    "block_info_text_color": ("#566160", "#a3b0ad"),
    "block_shadow": ("0 1px 2px rgb(20 40 38 / 5%)", "none"),
    "input_background_fill": ("#ffffff", "#131b1e"),
    "input_border_width": ("1px",),
    "input_border_color": ("#8c9492", "#5d6b6d"),
    "input_border_color_focus": ("*primary_600", "*primary_400"),
    "input_placeholder_color": ("#66706f", "#93a09d"),
    "checkbox_border_color": ("#7d8583", "#7d8a8c"),
    "slider_color": ("*primary_600", "*primary_400"),
    "button_primary_background_fill": ("*primary_600", "*primary_300"),
    "button_primary_background_fill_hover": ("*primary_700", "*primary_200"),
    "button_primary_text_color": ("#ffffff", "#06211d"),
    "button_secondary_background_fill": ("#ffffff", "#202b2d"),
    "button_secondary_background_fill_hover": ("*neutral_100", "#2a3739"),
    "button_secondary_border_color": ("*neutral_300", "#3b494b"),
    "button_secondary_text_color": ("#263332", "#e7ecea"),
    "button_border_width": ("1px",),
    "accordion_text_color": ("#445150", "#b5c1be"),
    "link_text_color": ("*primary_700", "*primary_300"),
}


def page_theme() -> gr.themes.Base:
    """The theme, light and dark."""
    pine, paper = gr.themes.Color(*_PINE.split(), name="pine"), gr.themes.Color(*_PAPER.split(), name="paper")
    theme = gr.themes.Base(
        primary_hue=pine,
        secondary_hue=pine,
        neutral_hue=paper,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        font=_SANS,
        font_mono=_MONO,
    )
    light = {name: values[0] for name, values in _LOOK.items()}
    return theme.set(**light, **{f"{name}_dark": values[1] for name, values in _LOOK.items() if len(values) > 1})


def page_styles() -> str:
    """The style sheet."""
    return _asset("page.css") + _asset("documents.css") + _asset("writing.css")


def page_script() -> str:
    """The scripts for keys, reading, conversations, the connection: plain, local, small."""
    names = ("page", "reading", "history", "documents", "writing", "batch", "connection", "labels")
    return "\n".join(_asset(f"{name}.js") for name in names)


def _asset(name: str) -> str:
    return (files("chatglm_backend.ui") / "assets" / name).read_text(encoding="utf-8")
