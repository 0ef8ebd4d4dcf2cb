"""The additivity test on numbers that are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from building_cases import additive_ms, chain_space, interacting_ms

from mathnas import Measurements, SearchSpace, metric_named
from mathnas.devices.additivity import TOLERATED, Additivity, check_additivity, noise_of_repeats
from mathnas.validation import MetricValidation, quality

SPACE = chain_space()
METRIC = metric_named("latency_ms")
ROWS = np.array(SPACE.sample(40, seed=7))
Floats = npt.NDArray[np.float64]


def compared(
    predicted: Floats,
    measured: Floats,
    noise: float | None = None,
    deviation: float | None = None,
    space: SearchSpace = SPACE,
) -> Additivity:
    held = MetricValidation(
        METRIC, ROWS, predicted, measured, None, 0.9, quality(predicted, measured)
    )
    nan, ones = np.full(len(ROWS), np.nan), np.ones(len(ROWS))
    data = Measurements(METRIC, {}, ROWS, measured, nan, ones)
    known = {
        name: None if value is None else np.full(len(ROWS), value)
        for name, value in (("noise", noise), ("deviations", deviation))
    }
    return check_additivity(space, held, data, space.reference, **known)


def truth() -> Floats:
    return np.array([additive_ms(tuple(row)) for row in ROWS.tolist()])


def noisy(size: float, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0.0, size, len(ROWS))


def test_shares_are_those_of_the_variances() -> None:
    measured = truth()
    predicted = measured + noisy(0.2)
    found = compared(predicted, measured, noise=0.05, deviation=0.02)
    residual = float(np.var(predicted - measured, ddof=1))
    left = residual - 0.05**2 - 0.02**2
    mean = float(measured.mean())
    assert found.residual == pytest.approx(np.sqrt(residual) / mean)
    assert found.noise == pytest.approx(0.05 / mean)
    assert found.uncertainty == pytest.approx(0.02 / mean)
    assert found.unexplained == pytest.approx(np.sqrt(left) / mean)
    assert found.share == pytest.approx(left / float(np.var(measured, ddof=1)))
    assert found.significant
    assert found.share > TOLERATED
    assert not found.holds
    assert found.advice


@pytest.mark.parametrize("seed", range(5))
def test_noise_that_is_known_explains_residuals(seed: int) -> None:
    found = compared(truth(), truth() + noisy(0.1, seed), noise=0.1)
    assert found.holds
    assert not found.significant
    assert found.advice == []
    assert found.alternatives == ()


def test_what_is_significant_but_small_does_not_fail() -> None:
    found = compared(truth(), truth() + noisy(0.02), noise=0.001)
    assert found.significant
    assert found.share < TOLERATED
    assert found.holds


def test_a_shift_that_all_networks_share_says_nothing_of_blocks() -> None:
    found = compared(truth() + 1.0, truth())
    assert found.residual == pytest.approx(0.0, abs=1e-9)
    assert found.holds


def test_what_interacts_is_found_among_the_alternatives() -> None:
    measured = np.array([interacting_ms(tuple(row)) for row in ROWS.tolist()])
    found = compared(truth(), measured)
    assert not found.holds
    assert {item.kind for item in found.alternatives} == {"interactions", "response scale"}
    assert found.to_dict()["holds"] is False
    assert "blocks do NOT add up" in str(found)


def test_noise_is_pooled_over_networks_that_were_repeated() -> None:
    found = noise_of_repeats([[1.0, 3.0], [2.0, 2.0], [5.0]])
    assert found is not None
    # variances 2 and 0, one degree of freedom each; then by the number of repeats
    assert found == pytest.approx([np.sqrt(0.5), np.sqrt(0.5), 1.0])
    assert noise_of_repeats([[1.0], [2.0]]) is None
