"""The training schedule: by steps alone, so that a paused run is none the worse."""

from __future__ import annotations

import pytest

from tools.demo_model.train import rate_at

STEPS, DECAY, PEAK = 1000, 400, 2e-3


@pytest.mark.parametrize(("step", "share"), [(0, 0.01), (49, 0.5), (99, 1.0), (600, 1.0), (800, 0.51), (1000, 0.02)])
def test_the_rate_warms_up_stays_level_and_falls(step: int, share: float) -> None:
    """A hundred steps up, level to the last 400, then straight down to a fiftieth."""
    assert rate_at(step, STEPS, DECAY, PEAK) == pytest.approx(share * PEAK)


def test_the_rate_never_rises_after_the_warm_up() -> None:
    """Also beyond the end, should a run be told to go on with a smaller total."""
    rates = [rate_at(step, STEPS, DECAY, PEAK) for step in range(100, STEPS + 200)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0
