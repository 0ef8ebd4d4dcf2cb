"""Two columns as one: the weight by what neither was fitted to, and the mixture's uncertainty."""

from __future__ import annotations

import numpy as np
import pytest
from core_cases import Floats, space_of, usual
from hypothesis import given
from hypothesis import strategies as st

import mathnas as mn
from mathnas.posterior import Posterior
from mathnas.stacking import HeldOut, calibration, mixture, weight_of, widened

SIZES = (3, 2, 4)
LATENCY = mn.metric_named("latency_ms")


def held(values: Floats, deviation: float = 1.0) -> HeldOut:
    return HeldOut(values, np.full(len(values), deviation))


def drawn(seed: int, count: int, share: float, noise: float) -> tuple[Floats, HeldOut, HeldOut]:
    """Measurements around a mean of two predictions."""
    rng = np.random.default_rng(seed)
    one, other = 20 + 3 * rng.standard_normal((2, count))
    measured = share * one + (1 - share) * other + noise * rng.standard_normal(count)
    return measured, held(one), held(other)


# ---- the weight ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_mean_that_is_exact_is_found(share: float) -> None:
    measured, one, other = drawn(0, 12, share, 0.0)
    assert weight_of(measured, one, other, np.ones(12)) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_many_measurements_give_the_weight_that_made_them(share: float) -> None:
    measured, one, other = drawn(1, 4000, share, 2.0)
    assert weight_of(measured, one, other, np.ones(4000)) == pytest.approx(share, abs=0.03)


def test_few_measurements_leave_the_first_where_it_is() -> None:
    """Neither is better: what 8 measurements say of it is chance, what 4000 say is a half."""
    few = [weight_of(*drawn(seed, 8, 0.5, 8.0), np.ones(8)) for seed in range(40)]
    many = weight_of(*drawn(0, 4000, 0.5, 8.0), np.ones(4000))
    assert np.mean(few) > 0.65
    assert many < 0.6


def test_the_weight_is_by_hand_the_best_one_and_a_standard_error() -> None:
    # without outlying measurements: a residual of 1 or -1 in each, along which nothing is apart
    other = np.full(6, 10.0)
    one = other + np.array([1.0, 1.0, 2.0, 2.0, 1.0, 1.0])
    residual = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    measured = 0.25 * one + 0.75 * other + residual
    count = 5 / (4 + (1 / 1.4826) ** 2)  # of Student's t with 4 degrees of freedom
    error = np.sqrt(count * 6 / 5 / (count * 12 * 5 / 7))
    assert weight_of(measured, held(one), held(other), np.ones(6)) == pytest.approx(0.25 + error)


def test_predictions_that_agree_leave_all_to_the_first() -> None:
    measured = np.random.default_rng(0).uniform(5, 9, 10)
    same = held(measured + 0.1)
    assert weight_of(measured, same, same, np.ones(10)) == 1.0


def test_a_measurement_that_is_far_from_both_hardly_counts() -> None:
    measured, one, other = drawn(3, 30, 0.2, 0.3)
    before = weight_of(measured, one, other, np.ones(30))
    measured[7] += 60 * np.sign(one.values[7] - other.values[7])  # towards the first
    assert weight_of(measured, one, other, np.ones(30)) == pytest.approx(before, abs=0.1)


def test_errors_are_seen_in_proportion_to_the_noise() -> None:
    measured, one, other = drawn(4, 20, 0.4, 1.0)
    unit = np.where(np.arange(20) < 10, 1.0, 1e6)  # the later ones say nothing
    early = [HeldOut(model.values[:10], model.deviations[:10]) for model in (one, other)]
    expected = weight_of(measured[:10], early[0], early[1], np.ones(10))
    assert weight_of(measured, one, other, unit) == pytest.approx(expected, abs=0.15)


@usual
@given(st.integers(0, 10_000), st.integers(5, 40), st.floats(0.0, 20.0))
def test_a_weight_is_a_share(seed: int, count: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    measured, one, other = rng.uniform(0, 10, (3, count))
    found = weight_of(measured + noise, held(one), held(other), rng.uniform(0.5, 2, count))
    assert 0.0 <= found <= 1.0


# ---- deviations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("stated", "expected"), [(2.0, 1.0), (1.0, 2.0), (4.0, 1.0)])
def test_deviations_are_widened_to_what_was_seen_and_never_narrowed(
    stated: float, expected: float
) -> None:
    predicted = np.full(20_000, 50.0)
    measured = predicted + 2.0 * np.random.default_rng(0).standard_normal(20_000)
    assert calibration(measured, held(predicted, stated)) == pytest.approx(expected, rel=0.02)


def test_few_measurements_widen_less_and_exact_ones_not() -> None:
    off = np.tile([3.0, -3.0], 10)
    factors = [calibration(off[:count], held(np.zeros(count), 1.0)) for count in (2, 6, 20)]
    assert 1 < factors[0] < factors[1] < factors[2] < 3
    assert calibration(np.zeros(4), held(np.zeros(4), 0.0)) == 1.0


def column(seed: int, *, pairs: bool) -> mn.BlockEffects:
    rng = np.random.default_rng(seed)
    effects = rng.standard_normal(9)
    effects[[0, 3, 5]] = 0.0  # those of the reference
    entry = rng.standard_normal((3, 4))
    entry[0], entry[:, 0] = 0.0, 0.0
    both = (mn.PairEffects(0, 2, entry),) if pairs else ()
    root = rng.standard_normal((21 if pairs else 9, 30))
    known = Posterior(root, rng.standard_normal(30), 0.3 + seed, 0.2 + seed)
    spread = rng.uniform(0.1, 1, 9)
    return mn.BlockEffects(
        LATENCY, 8.0 + seed, effects, spread, np.ones(9), pairs=both, posterior=known
    )


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_a_mixture_has_the_mean_and_the_variance_of_one(weight: float, pairs: bool) -> None:
    space = space_of(SIZES)
    columns = column(0, pairs=False), column(1, pairs=pairs)
    tables = [mn.BlockTable(space, (0, 0, 0), {"latency_ms": one}) for one in columns]
    both = mn.BlockTable(space, (0, 0, 0), {"latency_ms": mixture(*columns, weight)})
    every = space.all_networks()
    one, other = (
        HeldOut(own.predict(every, "latency_ms"), own.deviation(every, "latency_ms"))
        for own in tables
    )
    expected = one.mixed(other, weight)
    assert both.predict(every, "latency_ms") == pytest.approx(expected.values)
    assert both.deviation(every, "latency_ms") == pytest.approx(expected.deviations)
    # as a draw of one of the two, and of its error
    rng = np.random.default_rng(0)
    first = rng.random(200_000) < weight
    row = int(np.argmax(np.abs(one.values - other.values)))
    draws = np.where(first, one.values[row], other.values[row])
    draws += rng.standard_normal(len(draws)) * np.where(
        first, one.deviations[row], other.deviations[row]
    )
    assert both.deviation(every[[row]], "latency_ms") == pytest.approx(draws.std(), rel=0.02)


def test_a_mixture_keeps_no_more_numbers_than_it_needs() -> None:
    found = mixture(column(0, pairs=False), column(1, pairs=True), 0.5).posterior
    assert found is not None
    assert found.factor.shape == (21, 22)


def test_a_widened_column_predicts_the_same_with_larger_deviations() -> None:
    space, before = space_of(SIZES), column(0, pairs=False)
    every = space.all_networks()
    after = mn.BlockTable(space, (0, 0, 0), {"latency_ms": widened(before, 1.5)})
    table = mn.BlockTable(space, (0, 0, 0), {"latency_ms": before})
    assert (after.predict(every, "latency_ms") == table.predict(every, "latency_ms")).all()
    assert after.deviation(every, "latency_ms") == pytest.approx(
        1.5 * table.deviation(every, "latency_ms")
    )
    assert after.column("latency_ms").spread == pytest.approx(1.5 * before.spread)


def test_a_mixture_is_symmetric_where_neither_has_pairs() -> None:
    one, other = column(0, pairs=False), column(1, pairs=False)
    space, every = space_of(SIZES), space_of(SIZES).all_networks()
    found = [
        mn.BlockTable(space, (0, 0, 0), {"latency_ms": own}).deviation(every, "latency_ms")
        for own in (mixture(one, other, 0.3), mixture(other, one, 0.7))
    ]
    assert found[0] == pytest.approx(found[1])
    assert mixture(one, other, 0.3).spread == pytest.approx(mixture(other, one, 0.7).spread)
