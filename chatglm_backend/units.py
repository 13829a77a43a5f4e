"""Sizes, times and rates for people: three digits that mean something, in the unit that suits, and never 0.00."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence


def digits(value: float) -> str:
    """Three significant digits, all of them where the number is larger; ``"0"`` for nothing, ``"<0.001"`` below."""
    if not value:
        return "0"
    if abs(value) < 0.001:
        return "<0.001"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def size(nbytes: float) -> str:
    """Bytes as TB, GB, MB, kB or B; GB are 10⁹ bytes."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor * 0.9995:
            return f"{digits(nbytes / factor)} {unit}"
    return f"{nbytes:.0f} B"


def seconds(value: float) -> str:
    """A time that was measured: in milliseconds below a second, in minutes from two of them on."""
    if value < 0.001:
        return "<1 ms"
    if value < 0.9995:
        return f"{digits(value * 1000)} ms"
    return f"{digits(value)} s" if value < 119.5 else whole_seconds(value)


def whole_seconds(value: float) -> str:
    """A time that is expected or allowed: 7 s, 3 min 20 s, 2 h 5 min; at least a second."""
    count = max(1, round(value))
    if count < 120:
        return f"{count} s"
    unit, smaller = ("min", "s") if count < 7200 else ("h", "min")
    whole, rest = divmod(count if smaller == "s" else round(value / 60), 60)
    return f"{whole} {unit}" + (f" {rest} {smaller}" if rest else "")


def rate(value: float) -> str:
    """Tokens per second."""
    return f"{digits(value)} tok/s"


def clock_time(value: float) -> str:
    """Seconds as a clock has them: 0:07, 12:30, 1:02:03."""
    minutes, rest = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def spread(form: Callable[[float], str], values: Sequence[float]) -> str:
    """The middle of several values, and in brackets how far they go."""
    low, middle, high = map(form, (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low} – {high})"
