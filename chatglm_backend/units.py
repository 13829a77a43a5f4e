"""Sizes, times and rates for people: three digits that mean something, in the unit that suits."""

from __future__ import annotations


def digits(value: float) -> str:
    """Three significant digits, all of them where the number is larger; ``"0"`` for nothing."""
    if not value:
        return "0"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def size(nbytes: float) -> str:
    """Bytes as GB, MB, kB or B; GB are 10⁹ bytes."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor * 0.9995:
            return f"{digits(nbytes / factor)} {unit}"
    return f"{nbytes:.0f} B"


def seconds(value: float) -> str:
    """A time in seconds, or in milliseconds below one."""
    return f"{digits(value * 1000)} ms" if 0 < value < 0.9995 else f"{digits(value)} s"


def rate(value: float) -> str:
    """Tokens per second."""
    return f"{digits(value)} tok/s"


def clock_time(value: float) -> str:
    """Seconds as a clock has them: 0:07, 12:30, 1:02:03."""
    minutes, rest = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
