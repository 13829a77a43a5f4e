"""Small plots as SVG, without a library: bars, a sparkline. Colours come from the style sheet.

Attributes carry the light colours too, so that a plot saved on its own is readable. It knows no components.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from chatglm_backend import units
from chatglm_backend.units import digits

_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 460, 260, 66, 18, 34, 44
Spread = tuple[float, float, float]
"""The lowest, the middle and the highest of several."""

_INK, _ACCENT, _GRID = "#445150", "#1f8a7c", "#d0cfc6"


def bar_plot(title: str, bars: Sequence[tuple[str, Spread]], x_label: str, y_label: str) -> str:
    """One bar for each label, as high as the middle of its spread; a line over it from the lowest to the highest."""
    top = _ceiling([spread[2] for _, spread in bars])
    width = (_W - _LEFT - _RIGHT) / max(len(bars), 1)
    body = ""
    for index, (label, spread) in enumerate(bars):
        x, middle = _LEFT + width * index, _LEFT + width * (index + 0.5)
        low, y, high = (_y(value, top) for value in spread)
        body += (
            f'<rect class="cg-mark" fill="{_ACCENT}" x="{x + width * 0.22:.1f}" y="{y:.1f}" width="{width * 0.56:.1f}" '
            f'height="{_H - _BOTTOM - y:.1f}" rx="4"/>{_text(middle, high - 6, digits(spread[1]), strong=True)}'
            f"{_text(middle, _H - _BOTTOM + 17, label)}"
        )
        if spread[0] < spread[2]:
            ends = "".join(f"M{middle - 7:.1f} {end:.1f}h14" for end in (low, high))
            path = f"M{middle:.1f} {low:.1f}V{high:.1f}{ends}"
            body += f'<path class="cg-spread" fill="none" stroke="{_INK}" stroke-width="1.5" d="{path}"/>'
    figures = [f"{label}: {units.spread(digits, spread)}" for label, spread in bars]
    return _frame(title, _grid(top) + body, x_label, y_label, figures)


def sparkline(values: Sequence[float], label: str) -> str:
    """The last values above zero as a line without axes, the median at two fifths; empty below two values."""
    if len(values) < 2:
        return ""
    top = max(max(values), 2.5 * sorted(values)[len(values) // 2], 1e-9)
    step = 120 / (len(values) - 1)
    path = " ".join(f"{index * step:.1f},{27 - 24 * value / top:.1f}" for index, value in enumerate(values))
    return (
        f'<svg class="cg-spark" viewBox="0 0 120 30" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">'
        f'<polyline class="cg-line" fill="none" stroke="{_ACCENT}" stroke-width="1.5" '
        f'vector-effect="non-scaling-stroke" points="{path}"/></svg>'
    )


def _frame(title: str, body: str, x_label: str, y_label: str, figures: Sequence[str]) -> str:
    told = escape(f"{title}. {x_label} / {y_label}: {', '.join(figures)}")
    heading = (
        f'<text class="cg-ink" fill="{_INK}" x="{_LEFT}" y="18" font-size="14" font-weight="600">{escape(title)}</text>'
    )
    axes = _text((_LEFT + _W - _RIGHT) / 2, _H - 8, x_label) + _text(14, (_TOP + _H - _BOTTOM) / 2, y_label, turn=-90)
    return (
        f'<svg class="cg-plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_W} {_H}" role="img" '
        f'aria-label="{told}" font-family="system-ui, sans-serif">{heading}{body}{axes}</svg>'
    )


def _grid(top: float) -> str:
    lines = ""
    for part in range(5):
        value = top * part / 4
        y = _y(value, top)
        lines += f'<line class="cg-grid" stroke="{_GRID}" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        lines += _text(_LEFT - 6, y + 4, _tick(value), anchor="end")
    return lines


def _y(value: float, top: float) -> float:
    return _H - _BOTTOM - (_H - _TOP - _BOTTOM) * value / top


def _tick(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ceiling(values: Sequence[float]) -> float:
    """A round number a little above all values."""
    most = max(values, default=0.0) * 1.15
    if most <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(most))
    return next(unit * factor for factor in (1, 1.6, 2, 3, 4, 6, 8, 10) if unit * factor >= most)


def _text(x: float, y: float, text: str, *, anchor: str = "middle", turn: int = 0, strong: bool = False) -> str:
    weight = ' font-weight="600"' if strong else ""
    rotate = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return (
        f'<text class="cg-ink" fill="{_INK}" x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}"'
        f"{weight}{rotate}>{escape(text)}</text>"
    )
