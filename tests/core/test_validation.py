"""Validation: the figures against scipy, what is held out, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from core_cases import space_of, usual
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

import mathnas as mn
from mathnas.validation import _near

SPACE = space_of((3, 3, 4, 3), macs=range(1, 14))


def latency(network: Sequence[int]) -> float:
    return 1.0 + 0.5 * network[0] + 0.2 * network[1] ** 2 + 0.7 * network[2] + 0.1 * network[3]


def accuracy(network: Sequence[int]) -> float:
    return 60.0 + 2 * network[0] + network[1] - network[2] + 0.3 * network[0] * network[3]


BOTH = mn.FunctionEvaluator(
    lambda network: {"latency_ms": latency(network), "accuracy": accuracy(network)},
    ["latency_ms", "accuracy"],
)


@pytest.fixture
def study(tmp_path: Path) -> mn.Study:
    """A single sample of both metrics."""
    made = mn.Study(tmp_path / "a.study", SPACE)
    mn.evaluate(made, mn.single_sampling(SPACE), BOTH)
    return made


def held(study: mn.Study, metric: str = "latency_ms") -> set[tuple[int, ...]]:
    return {tuple(row) for row in study.measurements(metric).networks.tolist()}


# ---- the figures ---------------------------------------------------------------------------------

ties = st.integers(-3, 3).map(float)
columns = st.integers(3, 25).flatmap(
    lambda n: st.tuples(*[st.lists(ties | st.floats(-1e6, 1e6), min_size=n, max_size=n)] * 2)
)


@given(columns)
@usual
def test_rank_correlations_are_those_of_scipy(pair: tuple[list[float], list[float]]) -> None:
    predicted, measured = pair
    found = mn.quality(predicted, measured)
    assume(not found.undefined)
    assert found.spearman == pytest.approx(spearmanr(predicted, measured).statistic, abs=1e-12)
    assert found.kendall == pytest.approx(kendalltau(predicted, measured).statistic, abs=1e-12)


def test_rank_correlations_of_many_networks_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    measured = rng.normal(size=3000).round(2)  # with ties
    predicted = (measured + rng.normal(size=3000)).round(1)
    found = mn.quality(predicted, measured)
    assert found.spearman == pytest.approx(spearmanr(predicted, measured).statistic, abs=1e-12)
    assert found.kendall == pytest.approx(kendalltau(predicted, measured).statistic, abs=1e-12)


def test_errors_and_coverage_are_what_they_say() -> None:
    found = mn.quality([1, 4, 10], [2, 4, 8], ([0, 4, 9], [2, 5, np.inf]))
    assert (found.networks, found.spearman, found.kendall) == (3, 1.0, 1.0)
    assert found.mae == pytest.approx(1.0)
    assert found.bias == pytest.approx(1 / 3)  # predicted - measured
    assert found.mape == pytest.approx(100 * (1 / 2 + 0 + 2 / 8) / 3)
    assert found.coverage == pytest.approx(2 / 3)  # ends belong to the interval
    assert mn.quality([1, 2, 3], [1, 0, 3]).mape is None
    assert mn.quality([1, 2, 3], [1, 0, 3]).coverage is None


@pytest.mark.parametrize(
    ("predicted", "measured", "said"),
    [
        ([5.0, 5.0, 5.0], [1.0, 2.0, 3.0], "all predictions are equal"),
        ([0.1 + 0.2, 0.3, 0.3], [1.0, 2.0, 3.0], "all predictions are equal"),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], "all measurements are equal"),
    ],
)
def test_constant_values_have_no_correlation_and_it_is_said(
    predicted: list[float], measured: list[float], said: str
) -> None:
    found = mn.quality(predicted, measured)
    assert found.spearman is None
    assert found.kendall is None
    assert found.undefined == found.to_dict()["undefined"] == said
    assert np.isfinite(found.mae)


@pytest.mark.parametrize(
    ("predicted", "measured", "interval", "message"),
    [
        ([1, 2], [1, 2], None, "at least 3 networks, but got 2"),
        ([1, 2, 3], [1, 2], None, "3 predictions and 2 measurements"),
        ([1, 2, np.nan], [1, 2, 3], None, "predictions are finite, but number 2 is nan"),
        ([[1, 2, 3]], [1, 2, 3], None, r"shape \(1, 3\)"),
        ([1, 2, 3], [1, 2, 3], ([0, 0], [1, 1]), "lower and an upper end for each of the 3"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    predicted: object, measured: object, interval: object, message: str
) -> None:
    with pytest.raises(mn.InvalidInputError, match=message):
        mn.quality(predicted, measured, interval)  # type: ignore[arg-type]


# ---- which networks ------------------------------------------------------------------------------


def test_validation_networks_are_no_single_sample_and_grow_with_their_number() -> None:
    small, large = (mn.validation_sampling(SPACE, count, seed=3) for count in (10, 40))
    assert small.kind == "random"
    assert large.networks[:10] == small.networks
    assert large.cost == 40
    assert not set(large) & set(mn.single_sampling(SPACE).networks)
    assert set(mn.validation_sampling(SPACE, 10, seed=4)) != set(small)
    rest = SPACE.num_networks - mn.single_sampling(SPACE).cost
    assert mn.validation_sampling(SPACE, rest).cost == rest  # all that there are


def test_neighbours_of_a_reference_with_absent_nodes_are_left_out() -> None:
    space = space_of((2, 2, 2, 3), rules=[mn.DepthRule((0, 1, 2), (0, 0, 0))])
    reference = (1, 0, 0, 0)
    sample = mn.validation_sampling(space, 4, reference=reference)
    assert not set(sample) & {reference, (0, 0, 0, 0), (1, 1, 0, 0), (1, 0, 0, 1), (1, 0, 0, 2)}
    assert set(_near(space, reference)) <= set(space.enumerate())


@pytest.mark.parametrize(
    ("count", "seed", "message"),
    [(2, 0, "at least 3"), (99, 0, "has 98 networks .* but 99 were asked"), (5, -1, "seed")],
)
def test_impossible_samples_are_refused(count: int, seed: int, message: str) -> None:
    with pytest.raises(mn.InvalidInputError, match=message):
        mn.validation_sampling(SPACE, count, seed=seed)


@pytest.mark.parametrize("method", ["paired", "single", "means", "regression"])
def test_held_out_networks_do_not_change_the_fit(study: mn.Study, method: str) -> None:
    sample = mn.validation_sampling(SPACE, 20, seed=1, reference=study.reference)
    before = mn.fit(study, method=method)  # type: ignore[arg-type]
    mn.evaluate(study, sample, BOTH)
    assert set(sample) <= held(study)
    table = mn.fit_without(study, sample, method=method)  # type: ignore[arg-type]
    assert table.reference == before.reference
    for name in ("latency_ms", "accuracy"):
        np.testing.assert_array_equal(table.columns[name].effects, before.columns[name].effects)
        assert table.columns[name].base == before.columns[name].base
    assert table.provenance["networks"] == before.provenance["networks"]
    found = mn.validate(table, study)
    assert found["latency_ms"].networks == 20
    assert {tuple(row) for row in found.metrics["accuracy"].networks.tolist()} == set(sample)
    if method in ("paired", "single"):
        assert found["latency_ms"].mae < 1e-9
        assert found["latency_ms"].spearman == pytest.approx(1)
        assert found["accuracy"].mae > 0.01


def test_networks_of_the_fits_own_sample_are_held_out_of_it(tmp_path: Path) -> None:
    study = mn.Study(tmp_path / "full.study", SPACE)
    mn.evaluate(study, mn.full_sampling(SPACE), BOTH)
    sample = mn.validation_sampling(SPACE, 15)
    table = mn.fit_without(study, sample, ["accuracy"], method="means")
    assert table.provenance["networks"] == SPACE.num_networks - 15
    everything = mn.fit(study, ["accuracy"], method="means")
    assert (table.columns["accuracy"].effects != everything.columns["accuracy"].effects).any()
    assert mn.validate(table, study)["accuracy"].networks == 15


def test_nothing_left_to_fit_is_said(study: mn.Study) -> None:
    with pytest.raises(mn.InvalidInputError, match="left out alone"):
        mn.fit_without(study, held(study), ["latency_ms"])
    with pytest.raises(mn.InvalidInputError, match="evaluate a sample first"):
        mn.fit_without(study, held(study))


# ---- the comparison ------------------------------------------------------------------------------


def test_a_regression_says_how_many_intervals_hold(study: mn.Study) -> None:
    rng = np.random.default_rng(0)
    noisy = mn.FunctionEvaluator(
        lambda network: latency(network) + 0.1 * rng.normal(), ["latency_ms"]
    )
    mn.evaluate(study, mn.random_sampling(SPACE, 40, seed=9), noisy)
    sample = mn.validation_sampling(SPACE, 40, reference=study.reference)
    mn.evaluate(study, sample, noisy)
    table = mn.fit_without(study, sample, ["latency_ms"], method="regression")
    narrow, wide = (mn.validate(table, study, confidence=c)["latency_ms"] for c in (0.1, 0.999))
    assert narrow.coverage is not None
    assert wide.coverage is not None
    assert narrow.coverage < 0.4
    assert wide.coverage > 0.9
    result = mn.validate(table, study).metrics["latency_ms"]
    low, high = table.interval(result.networks, "latency_ms", 0.9)
    inside = (low <= result.measured) & (result.measured <= high)
    assert result.quality.coverage == inside.mean()
    assert f"90 % intervals hold {inside.sum()} of 40 measurements" in str(result)


def test_networks_of_the_fit_are_refused_by_name(study: mn.Study) -> None:
    table = mn.fit(study)
    sample = mn.validation_sampling(SPACE, 5, reference=study.reference)
    mn.evaluate(study, sample, BOTH)
    assert mn.validate(table, study, sample)["latency_ms"].networks == 5  # evaluated after it
    fitted = (0, *study.reference[1:])
    with pytest.raises(mn.InvalidInputError, match=r"1 of 6 are: 0,.*fit_without"):
        mn.validate(table, study, [*sample, fitted])
    later = mn.fit(study)
    with pytest.raises(mn.InvalidInputError, match=r"5 of 5 are: .*; "):
        mn.validate(later, study, sample)
    # single sampling's fit reads the reference's neighbours and nothing else
    single = mn.fit(study, method="single")
    assert mn.validate(single, study, sample)["latency_ms"].networks == 5
    # of a table that held some out, the others are in the fit still
    some = mn.fit_without(study, sample.networks[:4])
    with pytest.raises(mn.InvalidInputError, match="1 of 5 are"):
        mn.validate(some, study, sample)


def test_a_saved_table_knows_what_it_held_out(study: mn.Study, tmp_path: Path) -> None:
    sample = mn.validation_sampling(SPACE, 5, reference=study.reference)
    mn.fit_without(study, sample).save(tmp_path / "t.json")
    mn.evaluate(study, sample, BOTH)
    found = mn.validate(mn.BlockTable.load(tmp_path / "t.json"), study)
    assert found["latency_ms"].networks == 5


def test_measurements_can_be_given_by_metric(study: mn.Study) -> None:
    table = mn.fit(study, ["latency_ms"])
    data = study.measurements("latency_ms")
    assert mn.validate(table, {"latency_ms": data})["latency_ms"].networks == len(data)
    some = data.networks[:4].tolist()
    assert mn.validate(table, {"latency_ms": data}, some)["latency_ms"].networks == 4
    with pytest.raises(mn.InvalidInputError, match="not for 'macs'"):
        mn.validate(table, {"latency_ms": data}, metrics=["macs"])


def test_wrong_questions_get_an_answer(study: mn.Study) -> None:
    table = mn.fit(study)
    sample = mn.validation_sampling(SPACE, 5, reference=study.reference)
    with pytest.raises(mn.InvalidInputError, match="name the networks"):
        mn.validate(table, study)
    with pytest.raises(mn.InvalidInputError, match="was measured for 0 of those"):
        mn.validate(table, study, sample)
    with pytest.raises(mn.InvalidInputError, match="confidence"):
        mn.validate(table, study, sample, confidence=90)
    with pytest.raises(mn.InvalidInputError, match="no metric 'energy_mj'"):
        mn.validate(table, study, sample, metrics=["energy_mj"])
    with pytest.raises(mn.InvalidInputError, match="none of the table's metrics"):
        mn.validate(table, {})
    mn.evaluate(study, sample, BOTH)
    with pytest.raises(mn.InvalidInputError, match="not 'energy_mj'"):
        _ = mn.validate(table, study, sample)["energy_mj"]


# ---- showing -------------------------------------------------------------------------------------


def test_what_is_printed_and_written(study: mn.Study) -> None:
    sample = mn.validation_sampling(SPACE, 12, reference=study.reference)
    table = mn.fit_without(study, sample)
    mn.evaluate(study, sample, BOTH)
    found = mn.validate(table, study)
    text = str(found)
    assert "latency_ms: 12 networks" in text
    assert "% of the measured" in text.split("accuracy:")[0]
    assert "% of the measured" not in text.split("accuracy:")[1]  # it is not additive
    written = json.loads(json.dumps(found.to_dict()))["metrics"]
    assert written["accuracy"]["mape"] is None
    assert written["latency_ms"]["networks"] == len(written["latency_ms"]["points"]) == 12
    assert written["latency_ms"]["confidence"] is None


def drawn(table: mn.BlockTable, values: Sequence[float]) -> list[str]:
    """The plot of networks (i,) measured to have `values`."""
    data = mn.Measurements(
        mn.metric_named("latency_ms"),
        {},
        np.arange(len(values))[:, None],
        np.array(values, dtype=float),
        np.full(len(values), np.nan),
        np.ones(len(values)),
    )
    found = mn.validate(table, {"latency_ms": data})
    return [line.split("|")[1] for line in str(found).splitlines() if "|" in line]


def test_the_plot_has_right_predictions_on_its_diagonal() -> None:
    space = space_of((3,))
    effects = np.array([0.0, 5.0, 10.0])
    zeros = np.zeros(3)
    column = mn.BlockEffects(mn.metric_named("latency_ms"), 0.0, effects, zeros, zeros)
    table = mn.BlockTable(space, (0,), {"latency_ms": column})
    right = drawn(table, [0.0, 5.0, 10.0])
    assert len(right) == 16
    assert right[0].endswith(".o")  # the top right corner
    assert right[-1].startswith("o.")
    assert sum(row.count("o") for row in right) == 3
    above = drawn(table, [0.0, 0.0, 10.0])  # the middle one predicted too high
    row = next(row for row in above[1:-1] if "o" in row)
    assert row.index("o") < row.index(".")
