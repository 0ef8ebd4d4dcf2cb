"""Change detection: how late, and how seldom without cause."""

from __future__ import annotations

import numpy as np
import pytest

from mathnas.runtime.change import ChangeDetector


def first_alarm(errors: list[float]) -> tuple[int, int]:
    """After how many errors the first alarm came, and its direction; (-1, 0) where none did."""
    detector = ChangeDetector()
    for count, error in enumerate(errors, start=1):
        direction = detector.observe(error)
        if direction:
            return count, direction
    return -1, 0


@pytest.mark.parametrize(("shift", "most"), [(2.0, 12.0), (4.0, 5.0), (20.0, 1.0)])
def test_the_delay_is_about_the_threshold_over_the_shift(shift: float, most: float) -> None:
    for direction in (1, -1):
        delays = []
        for seed in range(30):
            noise = np.random.default_rng(seed).normal(size=200)
            count, found = first_alarm((direction * shift + noise).tolist())
            assert found == direction
            delays.append(count)
        assert np.mean(delays) <= most


def test_false_alarms_are_rare() -> None:
    detector = ChangeDetector()
    noise = np.random.default_rng(0).normal(size=60_000)
    alarms = sum(detector.observe(error) != 0 for error in noise.tolist())
    assert alarms <= 20


def test_noise_that_was_underestimated_makes_no_flood_of_alarms() -> None:
    detector = ChangeDetector()
    noise = 3.0 * np.random.default_rng(0).normal(size=6000)
    alarms = [detector.observe(error) != 0 for error in noise.tolist()]
    assert sum(alarms[1000:]) <= 10
    assert detector.scale == pytest.approx(3.0, rel=0.3)


def test_it_begins_anew_after_an_alarm() -> None:
    detector = ChangeDetector()
    assert detector.observe(50.0) == 1
    assert (detector.up, detector.down) == (0.0, 0.0)
    assert detector.observe(0.0) == 0
