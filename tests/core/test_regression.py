"""Regression: the model's algebra against dense matrices, what the evidence chooses, calibration.

The reference is a Gaussian process over networks that is written out below: nothing of the code
under test is in it but the hyperparameters and the scale that the fit chose.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from core_cases import BruteForce, Floats, networks_of, space_of

from mathnas import (
    Answer,
    Block,
    BlockEffects,
    BlockNode,
    BlockTable,
    Evaluation,
    Form,
    Infeasible,
    InvalidInputError,
    Limit,
    MathNASWarning,
    Measurement,
    Measurements,
    Network,
    PowerScale,
    ResponseScale,
    SearchSpace,
    Study,
    fit,
    metric_named,
    random_sampling,
    responses,
    search,
    single_sampling,
)
from mathnas import regression as module
from mathnas.regression import Regression, regress
from mathnas.scales import IDENTITY
from mathnas.space import Indices

SIZES = (3, 4, 2, 3, 4)
CURVED = PowerScale(limit=105.0, exponent=2.0, low=40.0, high=90.0)


# ---- the same model, dense -----------------------------------------------------------------------


@dataclass(frozen=True)
class DenseProcess:
    """Responses are a constant with a flat prior, plus a process with the covariance `kernel`, plus
    noise; both relative to an amplitude that is at its maximum likelihood."""

    space: SearchSpace
    networks: Indices
    responses: Floats
    weights: Floats
    correlation: float
    pair_share: float
    noise_share: float
    pairs: Sequence[tuple[int, int]]

    def kernel(self, one: Indices, other: Indices) -> Floats:
        names = np.array([block.name for node in self.space.nodes for block in node.blocks])
        nodes = np.arange(self.space.num_nodes)
        first, second = (names[rows + self.space.offsets[:-1]] for rows in (one, other))
        same = first[:, None, :, None] == second[None, :, None, :]
        nearby = self.correlation ** np.abs(nodes[:, None] - nodes)
        found: Floats = (same * nearby).sum(axis=(2, 3))
        equal = one[:, None] == other[None]
        for i, k in self.pairs:
            found = found + self.pair_share * (equal[:, :, i] & equal[:, :, k])
        return found

    @property
    def covariance(self) -> Floats:
        noise = self.noise_share * np.diag(self.weights**2)
        return np.asarray(self.kernel(self.networks, self.networks) + noise)

    def _solved(self) -> tuple[Floats, Floats, float, float]:
        """Inverse covariance, its row sums, the constant and the amplitude."""
        inverse: Floats = np.linalg.inv(self.covariance).astype(np.float64)
        ones = inverse.sum(axis=0)
        constant = float(ones @ self.responses / ones.sum())
        rest = self.responses - constant
        amplitude = math.sqrt(float(rest @ inverse @ rest) / (len(rest) - 1))
        return inverse, ones, constant, amplitude

    def mean(self, networks: Indices) -> Floats:
        inverse, _, constant, _ = self._solved()
        cross = self.kernel(networks, self.networks)
        return np.asarray(constant + cross @ inverse @ (self.responses - constant))

    def deviation(self, networks: Indices) -> Floats:
        """Of responses, without the noise of a new measurement."""
        inverse, ones, _, amplitude = self._solved()
        cross = self.kernel(networks, self.networks)
        own = np.array([self.kernel(row[None], row[None])[0, 0] for row in networks])
        known = np.einsum("ij,jk,ik->i", cross, inverse, cross)
        constant = (1 - cross @ ones) ** 2 / ones.sum()
        return np.asarray(amplitude * np.sqrt(own - known + constant))

    @property
    def noise(self) -> float:
        return self._solved()[3] * math.sqrt(self.noise_share)

    def evidence(self) -> float:
        """Log marginal likelihood of the responses, without what depends on their number alone."""
        _, ones, _, amplitude = self._solved()
        log_determinant = float(np.linalg.slogdet(self.covariance)[1])
        own = len(self.responses) - 1
        return -0.5 * (2 * own * math.log(amplitude) + log_determinant + math.log(ones.sum()))

    def without(self, row: int) -> DenseProcess:
        return replace(
            self,
            networks=np.delete(self.networks, row, axis=0),
            responses=np.delete(self.responses, row),
            weights=np.delete(self.weights, row),
        )


def dense(space: SearchSpace, data: Measurements, found: Regression) -> DenseProcess:
    geometric = float(np.exp(np.log(data.values).mean())) if found.relative else 1.0
    return DenseProcess(
        space,
        data.networks,
        found.scale.forward(data.values),
        data.values / geometric if found.relative else np.ones(len(data)),
        found.correlation,
        found.pair_share,
        found.noise_share,
        [(pair.first, pair.second) for pair in found.pairs],
    )


# ---- data ----------------------------------------------------------------------------------------


def measured(
    networks: Indices,
    values: Floats,
    metric: str = "accuracy",
    spread: Floats | None = None,
    repeats: Floats | None = None,
) -> Measurements:
    return Measurements(
        metric_named(metric),
        {},
        networks,
        values,
        np.full(len(values), np.nan) if spread is None else spread,
        np.ones(len(values)) if repeats is None else repeats,
    )


def drawn(space: SearchSpace, count: int, seed: int = 0) -> tuple[Indices, Indices]:
    """Networks to measure, and others."""
    every = np.random.default_rng(seed).permutation(networks_of(space)).astype(np.intp)
    return every[:count], every[count:]


def additive(space: SearchSpace, networks: Indices, seed: int = 0) -> Floats:
    """A sum of effects of size 1, independent of each other."""
    effects = np.random.default_rng([seed, 1]).normal(size=space.num_blocks)
    return np.asarray(effects[networks + space.offsets[:-1]].sum(axis=1))


def interacting(space: SearchSpace, networks: Indices, seed: int = 0) -> Floats:
    """A sum of entries of size 1, one for each two nodes."""
    rng, total = np.random.default_rng([seed, 2]), np.zeros(len(networks))
    for i, k in itertools.combinations(range(space.num_nodes), 2):
        entries = rng.normal(size=(space.sizes[i], space.sizes[k]))
        total += entries[networks[:, i], networks[:, k]]
    return total


def noise(count: int, seed: int = 0) -> Floats:
    return np.random.default_rng([seed, 3]).normal(size=count)


def column_of(space: SearchSpace, data: Measurements, found: Regression) -> BlockEffects:
    return BlockEffects(
        replace(data.metric, scale=found.scale),
        found.base,
        found.effects,
        found.spread,
        np.ones(space.num_blocks),
        pairs=found.pairs,
        posterior=found.posterior,
    )


def table_of(
    space: SearchSpace,
    data: Measurements,
    reference: Network | None = None,
    *,
    scale: ResponseScale | None = None,
    pairs: bool | None = None,
) -> BlockTable:
    own = (0,) * space.num_nodes if reference is None else reference
    found = regress(space, data, own, scale=scale, pairs=pairs)
    return BlockTable(space, own, {data.metric.name: column_of(space, data, found)})


@dataclass(frozen=True)
class Case:
    """What is measured, and how it is fitted."""

    metric: str = "accuracy"
    scale: ResponseScale | None = IDENTITY
    pairs: bool | None = False
    count: int = 60
    shared_names: bool = True

    def space(self) -> SearchSpace:
        if self.shared_names:
            return space_of(SIZES)
        return SearchSpace(
            [
                BlockNode(f"n{i}", tuple(Block(f"b{i}{j}") for j in range(size)))
                for i, size in enumerate(SIZES)
            ]
        )

    def data(self) -> tuple[Measurements, Indices]:
        """Measurements, and the networks that were not measured."""
        space = self.space()
        networks, others = drawn(space, self.count)
        values = additive(space, networks)
        if self.pairs:
            values = values + 0.5 * interacting(space, networks)
        if self.metric == "latency_ms":  # from about 10 to 90, with errors of 10 %
            values = 5 * (values + 10) * np.exp(0.1 * noise(len(values)))
            assert values.min() > 0
        else:
            values = 70 + 3 * values + noise(len(values))
        return measured(networks, values, self.metric), others


CASES = {
    "identity": Case(),
    "names apart": Case(shared_names=False),
    "few networks": Case(count=9),
    "more than effects": Case(count=120),
    "pairs": Case(pairs=True, count=150),
    "few networks with pairs": Case(pairs=True, count=25),
    "curved": Case(scale=CURVED),
    "curved pairs": Case(scale=CURVED, pairs=True, count=150),
    "additive metric": Case("latency_ms", None, count=90),
    "additive metric with pairs": Case("latency_ms", None, pairs=True, count=150),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
def test_predictions_are_the_dense_posterior_s_mean(case: Case) -> None:
    space, (data, others) = case.space(), case.data()
    found = regress(space, data, (0, 1, 0, 2, 3), scale=case.scale, pairs=case.pairs)
    table = BlockTable(space, (0, 1, 0, 2, 3), {case.metric: column_of(space, data, found)})
    networks = np.vstack([data.networks, others])
    responses = [table.response(tuple(row), case.metric) for row in networks.tolist()]
    near = 1e-6 * float(np.ptp(responses))
    expected = dense(space, data, found).mean(networks)
    np.testing.assert_allclose(responses, expected, rtol=0, atol=near)
    values = found.scale.inverse(expected)
    near = 1e-6 * float(np.ptp(values))
    np.testing.assert_allclose(table.predict(networks, case.metric), values, rtol=0, atol=near)


@cases
def test_deviations_are_the_dense_posterior_s(case: Case) -> None:
    space, (data, others) = case.space(), case.data()
    found = regress(space, data, (0, 1, 0, 2, 3), scale=case.scale, pairs=case.pairs)
    process = dense(space, data, found)
    networks = np.vstack([data.networks, others])
    pairs = [(pair.first, pair.second) for pair in found.pairs]
    assert found.posterior is not None
    np.testing.assert_allclose(
        found.posterior.deviations(space, networks, pairs), process.deviation(networks), rtol=1e-6
    )
    assert found.posterior.noise == pytest.approx(process.noise, rel=1e-6)


@cases
def test_values_left_out_are_those_of_fits_without_them(case: Case) -> None:
    space, (data, _) = case.space(), case.data()
    found = regress(space, data, (0, 0, 0, 0, 0), scale=case.scale, pairs=case.pairs)
    process = dense(space, data, found)
    refitted = np.array(
        [process.without(row).mean(data.networks[[row]])[0] for row in range(len(data))]
    )
    expected = found.scale.inverse(refitted)
    near = 1e-6 * float(np.ptp(data.values))
    np.testing.assert_allclose(found.left_out, expected, rtol=0, atol=near)
    assert found.left_out_error == pytest.approx(np.abs(expected - data.values).mean(), rel=1e-5)


def test_the_cases_are_of_all_kinds() -> None:
    """Otherwise the tests above say less than they seem to."""
    found = {
        name: regress(case.space(), case.data()[0], (0,) * 5, scale=case.scale, pairs=case.pairs)
        for name, case in CASES.items()
    }
    for name in ("pairs", "curved pairs", "additive metric with pairs"):
        assert found[name].pair_share > 0
        assert len(found[name].pairs) == 10
    assert found["additive metric"].relative
    assert found["additive metric with pairs"].relative
    assert not found["identity"].relative


# ---- evidence ------------------------------------------------------------------------------------


def fitted_with(
    monkeypatch: pytest.MonkeyPatch,
    case: Case,
    correlation: float,
    pair_share: float,
    noise_share: float,
) -> Regression:
    """A fit that has no choice."""
    monkeypatch.setattr(module, "_CORRELATIONS", (correlation,))
    monkeypatch.setattr(module, "_PAIR_SHARES", (pair_share,))
    monkeypatch.setattr(module, "NOISES", np.array([noise_share]))
    monkeypatch.setattr(responses, "NOISES", np.array([noise_share]))
    monkeypatch.setattr(responses, "NOISE_PRIOR", np.array([log_prior(noise_share)]))
    pairs = pair_share > 0
    return regress(case.space(), case.data()[0], (0,) * 5, scale=case.scale, pairs=pairs)


def log_prior(noise_share: float) -> float:
    """Of the noise: log-normal around 0.05, with a width of 2.5."""
    return -0.5 * (math.log(noise_share / 0.05) / 2.5) ** 2


def standardised(data: Measurements, found: Regression) -> tuple[Floats, float]:
    """Responses with mean 0 and deviation 1, and the log of their density over the values'."""
    responses = found.scale.forward(data.values)
    unit = float(responses.std())
    slopes = float(np.log(found.scale.derivative(data.values)).sum())
    return (responses - responses.mean()) / unit, slopes - len(data) * math.log(unit)


@pytest.mark.parametrize("name", ["identity", "curved", "few networks", "pairs", "additive metric"])
def test_evidence_is_the_dense_marginal_likelihood(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    space, (data, _) = case.space(), case.data()
    choices = list(itertools.product((0.0, 0.5, 0.95, 1.0), (0.0, 0.03, 0.3), (1e-4, 0.03, 5.0)))
    differences = []
    for choice in choices:
        found = fitted_with(monkeypatch, case, *choice)
        assert (found.correlation, found.pair_share, found.noise_share) == choice
        responses, jacobian = standardised(data, found)
        process = replace(dense(space, data, found), responses=responses)
        expected = process.evidence() + jacobian + log_prior(found.noise_share)
        differences.append(found.evidence - expected)
    np.testing.assert_allclose(differences, differences[0], rtol=0, atol=1e-3)


def test_evidence_of_scales_is_about_the_same_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = []
    for scale in (IDENTITY, CURVED, replace(CURVED, exponent=4.0), replace(CURVED, limit=91.0)):
        case = Case(scale=scale)
        data, _ = case.data()
        found = fitted_with(monkeypatch, case, 0.5, 0.0, 0.1)
        responses, jacobian = standardised(data, found)
        process = replace(dense(case.space(), data, found), responses=responses)
        differences.append(found.evidence - process.evidence() - jacobian)
    np.testing.assert_allclose(differences, differences[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["identity", "pairs", "additive metric"])
def test_the_choice_has_the_most_evidence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    best = regress(case.space(), case.data()[0], (0,) * 5, scale=case.scale)
    for choice in itertools.product((0.0, 0.8), (0.0, 0.1), (1e-3, 0.1)):
        assert fitted_with(monkeypatch, case, *choice).evidence <= best.evidence + 1e-9


# ---- effects and their reference -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["curved pairs", "additive metric", "pairs"])
def test_predictions_are_base_effects_and_pairs_on_the_scale(name: str) -> None:
    case = CASES[name]
    space, (data, _) = case.space(), case.data()
    table = table_of(space, data, (2, 1, 0, 2, 3), scale=case.scale, pairs=case.pairs)
    column, networks = table.column(case.metric), networks_of(space)
    responses = []
    for network in networks:
        terms = [column.effects[space.offsets[i] + j] for i, j in enumerate(network)]
        terms += [p.effects[network[p.first], network[p.second]] for p in column.pairs]
        responses.append(column.base + math.fsum(terms))
    found = [table.response(network, case.metric) for network in networks]
    np.testing.assert_allclose(found, responses, rtol=1e-12)
    values = column.metric.scale.inverse(np.array(responses))
    np.testing.assert_allclose(table.predict(networks, case.metric), values, rtol=1e-10)
    exact = [table.exact(network, case.metric) for network in networks]
    np.testing.assert_allclose(exact, values, rtol=1e-10)


@pytest.mark.parametrize("name", ["identity", "curved pairs", "additive metric"])
def test_any_reference_gives_the_same_predictions_and_has_no_effects(name: str) -> None:
    case = CASES[name]
    space, (data, others) = case.space(), case.data()
    plain = table_of(space, data, scale=case.scale, pairs=case.pairs)
    for reference in [(2, 3, 1, 2, 3), (1, 0, 0, 2, 1)]:
        table = table_of(space, data, reference, scale=case.scale, pairs=case.pairs)
        column = table.column(case.metric)
        own = space.offsets[:-1] + np.array(reference)
        assert not column.effects[own].any()
        assert not column.spread[own].any()
        for pair in column.pairs:
            assert not pair.effects[reference[pair.first]].any()
            assert not pair.effects[:, reference[pair.second]].any()
        assert table.response(reference, case.metric) == column.base
        np.testing.assert_allclose(
            table.predict(others, case.metric), plain.predict(others, case.metric), rtol=1e-9
        )
        np.testing.assert_allclose(
            table.deviation(others, case.metric), plain.deviation(others, case.metric), rtol=1e-6
        )


def test_the_spread_of_an_effect_is_the_posterior_s() -> None:
    case = CASES["identity"]
    space, (data, _) = case.space(), case.data()
    found = regress(space, data, (0, 0, 0, 0, 0), scale=IDENTITY, pairs=False)
    process = dense(space, data, found)
    # of the difference between two networks that differ in one block
    one, other = np.array([[0, 0, 0, 0, 0], [0, 3, 0, 0, 0]])
    both = np.array([one, other])
    cross = process.kernel(both, data.networks)
    inverse = np.linalg.inv(process.covariance)
    ones = inverse.sum(axis=0)
    at = np.array([-1.0, 1.0])
    known = at @ cross @ inverse @ cross.T @ at - (at @ cross @ ones) ** 2 / ones.sum()
    variance = at @ process.kernel(both, both) @ at - known
    amplitude = process.noise / math.sqrt(found.noise_share)
    expected = amplitude * math.sqrt(variance)
    assert found.spread[space.offsets[1] + 3] == pytest.approx(expected, rel=1e-6)


# ---- what data show ------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "latency_ms"])
def test_an_additive_table_is_recovered(metric: str) -> None:
    space = space_of(SIZES)
    networks, others = drawn(space, 60)
    data = measured(networks, 50 + 3 * additive(space, networks), metric)
    table = table_of(space, data)
    truth = 50 + 3 * additive(space, others)
    np.testing.assert_allclose(table.predict(others, metric), truth, rtol=0, atol=2e-3)
    assert table.deviation(others, metric).max() < 0.05


def test_pairs_are_recovered_in_a_small_space() -> None:
    space = space_of((3, 3, 3))
    networks, others = drawn(space, 25)
    truth = additive(space, networks) + interacting(space, networks)
    found = regress(space, measured(networks, truth), (0, 0, 0), scale=IDENTITY)
    assert found.pair_share > 0
    table = table_of(space, measured(networks, truth), scale=IDENTITY)
    expected = additive(space, others) + interacting(space, others)
    np.testing.assert_allclose(table.predict(others, "accuracy"), expected, rtol=0, atol=0.01)
    predicted = table.predict(networks, "accuracy")
    np.testing.assert_allclose(predicted, truth, rtol=0, atol=0.01)


def test_values_below_a_ceiling_get_a_curved_scale_that_predicts_better() -> None:
    space = space_of((4, 4, 4, 4, 4))
    networks, others = drawn(space, 100)

    def truth(rows: Indices) -> Floats:
        """Additive in (105 - y)^-2."""
        return np.asarray(105 - (0.004 + 0.0004 * (additive(space, rows) + 9)) ** -0.5)

    data = measured(networks, truth(networks))
    found = regress(space, data, (0, 0, 0, 0, 0), pairs=False)
    assert found.scale.name != "identity"
    curved = table_of(space, data, pairs=False).predict(others, "accuracy")
    plain = table_of(space, data, pairs=False, scale=IDENTITY).predict(others, "accuracy")
    error, plain_error = np.abs([curved - truth(others), plain - truth(others)]).mean(axis=1)
    assert error < plain_error / 5
    # a scale explains here what would be pairs without it
    assert regress(space, data, (0, 0, 0, 0, 0)).evidence >= found.evidence


def test_pairs_are_chosen_where_there_are_some() -> None:
    space = space_of(SIZES)
    networks, others = drawn(space, 150)
    values = 70 + additive(space, networks) + interacting(space, networks)
    data = measured(networks, values + 0.1 * noise(len(values)))
    truth = 70 + additive(space, others) + interacting(space, others)

    def error(table: BlockTable) -> float:
        return float(np.abs(table.predict(others, "accuracy") - truth).mean())

    chosen, paired, plain = (
        table_of(space, data, scale=IDENTITY, pairs=p) for p in (None, True, False)
    )
    assert len(chosen.column("accuracy").pairs) == len(paired.column("accuracy").pairs) == 10
    assert not plain.column("accuracy").pairs
    assert error(chosen) == pytest.approx(error(paired))
    assert error(chosen) < 0.7 * error(plain)


def test_pairs_are_left_out_where_there_are_none() -> None:
    space = space_of(SIZES)
    networks, others = drawn(space, 150)
    data = measured(networks, 70 + additive(space, networks) + 0.5 * noise(150))
    chosen, plain = (table_of(space, data, scale=IDENTITY, pairs=p) for p in (None, False))
    assert not chosen.column("accuracy").pairs
    np.testing.assert_array_equal(
        chosen.predict(others, "accuracy"), plain.predict(others, "accuracy")
    )


def test_only_neighbours_interact_in_large_spaces() -> None:
    """Ten nodes of five blocks have 1,125 entries, neighbours 225 of them; of 20 x 9 they have
    1,539, so that they interact only if one says so."""
    for sizes, count in (((5,) * 10, 9), ((9,) * 20, 19)):
        space = space_of(sizes)
        networks = np.array(space.sample(200))
        values = 70 + np.sin(3.0 * networks[:, :-1] * networks[:, 1:]).sum(axis=1)
        data = measured(networks, values)
        reference = (0,) * len(sizes)
        found = regress(space, data, reference, scale=IDENTITY, pairs=True)
        assert [(p.first, p.second) for p in found.pairs] == [(i, i + 1) for i in range(count)]
    assert not regress(space, data, reference, scale=IDENTITY).pairs


def test_effects_that_are_alike_in_all_nodes_are_learned_faster() -> None:
    space = space_of((4,) * 5)
    networks, others = drawn(space, 14)
    profile = np.array([0.0, 1.0, -2.0, 3.0])
    data = measured(networks, 60 + profile[networks].sum(axis=1) + 0.05 * noise(14))
    found = regress(space, data, (0,) * 5, scale=IDENTITY, pairs=False)
    assert found.correlation >= 0.95
    table = table_of(space, data, scale=IDENTITY, pairs=False)
    truth = 60 + profile[others].sum(axis=1)
    assert np.abs(table.predict(others, "accuracy") - truth).max() < 0.5


def test_errors_in_proportion_to_values_are_seen() -> None:
    space = space_of(SIZES)
    networks, _ = drawn(space, 150)
    values = 32 + 4 * additive(space, networks)
    assert 0 < values.min() < values.max() / 3
    apart = measured(networks, values + noise(150), "latency_ms")
    alike = measured(networks, values * np.exp(0.1 * noise(150)), "latency_ms")
    assert not regress(space, apart, (0,) * 5).relative
    assert regress(space, alike, (0,) * 5).relative
    assert regress(space, alike, (0,) * 5).to_dict()["errors"] == "relative"


@pytest.mark.parametrize("metric", ["accuracy", "latency_ms"])
def test_values_may_all_be_the_same(metric: str) -> None:
    space = space_of((2, 3))
    networks = np.array(networks_of(space))
    table = table_of(space, measured(networks, np.full(6, 12.5), metric))
    np.testing.assert_allclose(table.predict(networks, metric), 12.5, rtol=1e-12)
    assert table.deviation(networks, metric).max() < 1e-4


@pytest.mark.parametrize("values", [[0.0, 1.0, 2.0, 3.0], [-1.0, 5.0, 2.0, 8.0]])
def test_additive_metrics_that_are_not_positive_have_absolute_errors(values: list[float]) -> None:
    space = space_of((2, 2))
    data = measured(np.array(networks_of(space)), np.array(values), "latency_ms")
    assert not regress(space, data, (0, 0)).relative


# ---- the paper's differences ---------------------------------------------------------------------


def test_a_flat_prior_on_single_sampling_gives_the_paper_s_differences(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_CORRELATIONS", (0.0,))
    monkeypatch.setattr(module, "NOISES", np.array([1e-7]))
    monkeypatch.setattr(responses, "NOISES", np.array([1e-7]))
    monkeypatch.setattr(responses, "NOISE_PRIOR", np.zeros(1))
    space, reference = space_of(SIZES), (1, 2, 0, 1, 3)
    networks = list(single_sampling(space, reference))
    values = 20 + 4 * noise(len(networks), seed=5)
    facts = [
        Evaluation(network, "latency_ms", Measurement(value))
        for network, value in zip(networks, values.tolist(), strict=True)
    ]
    with Study(tmp_path / "single.study", space) as study:
        study.add(facts)
        paper = fit(study, reference=reference).column("latency_ms")
    data = measured(np.array(networks), values, "latency_ms")
    found = regress(space, data, reference, pairs=False)
    near = 1e-4 * float(np.ptp(values))
    np.testing.assert_allclose(found.effects, paper.effects, rtol=0, atol=near)
    assert found.base == pytest.approx(paper.base, abs=near)


# ---- noise ---------------------------------------------------------------------------------------


def test_nine_of_ten_intervals_cover() -> None:
    """Of networks that were not measured, drawn with measurements of them from the model."""
    space = space_of((4, 3, 4, 3, 4))
    inside, count = 0, 0
    for seed in range(40):
        networks, others = drawn(space, 40, seed)
        others = others[:100]
        sd = (0.3, 1.0)[seed % 2]
        data = measured(
            networks, 30 + additive(space, networks, seed) + sd * noise(40, seed), "latency_ms"
        )
        table = table_of(space, data, pairs=False)
        low, high = table.interval(others, "latency_ms", 0.9)
        values = 30 + additive(space, others, seed) + sd * noise(100, seed + 1000)
        inside += int(((low <= values) & (values <= high)).sum())
        count += len(values)
    assert 0.85 < inside / count < 0.95


def test_intervals_cover_large_and_small_values_where_errors_are_relative() -> None:
    """Errors of 10 % are ten times as large at 100 ms as at 10 ms."""
    space = space_of((4, 3, 4, 3, 4))
    effects = np.random.default_rng(0).exponential(8.0, space.num_blocks)
    covered: list[list[bool]] = [[], []]
    for seed in range(10):
        networks, others = drawn(space, 120, seed)
        both = np.vstack([networks, others])
        truth = 3 + effects[both + space.offsets[:-1]].sum(axis=1)
        values = truth * np.exp(0.1 * noise(len(both), seed))
        data = measured(networks, values[:120], "latency_ms")
        table = table_of(space, data, pairs=False)
        low, high = table.interval(others, "latency_ms", 0.9)
        inside = (low <= values[120:]) & (values[120:] <= high)
        order = np.argsort(truth[120:])
        covered[0] += inside[order[:60]].tolist()
        covered[1] += inside[order[-60:]].tolist()
    small, large = (np.mean(each) for each in covered)
    assert 0.82 < small < 0.97, f"small {small:.2f}, large {large:.2f}"
    assert 0.82 < large < 0.97, f"small {small:.2f}, large {large:.2f}"


def test_a_measurement_that_scatters_moves_the_fit_less() -> None:
    space = space_of(SIZES)
    networks, _ = drawn(space, 60)
    truth = 30 + additive(space, networks)
    values = truth + 0.1 * noise(60)
    values[7] += 12.0
    repeats = np.full(60, 4.0)
    quiet = measured(networks, values, "latency_ms", np.full(60, 0.2), repeats)
    spread = np.full(60, 0.2)
    spread[7] = 30.0
    loud = measured(networks, values, "latency_ms", spread, repeats)

    def error(data: Measurements) -> float:
        predicted = table_of(space, data, pairs=False).predict(networks, "latency_ms")
        return float(np.abs(np.delete(predicted - truth, 7)).mean())

    assert error(loud) < 0.4 * error(quiet)


@pytest.mark.parametrize("spread", [math.nan, 0.0, 0.2])
def test_repeats_that_scatter_alike_change_nothing(spread: float) -> None:
    space = space_of(SIZES)
    networks, others = drawn(space, 60)
    values = 30 + additive(space, networks) + 0.2 * noise(60)
    plain = table_of(space, measured(networks, values))
    alike = table_of(
        space, measured(networks, values, spread=np.full(60, spread), repeats=np.full(60, 3.0))
    )
    np.testing.assert_array_equal(
        plain.predict(others, "accuracy"), alike.predict(others, "accuracy")
    )


# ---- refused and warned of -----------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_networks_are_refused(count: int) -> None:
    space = space_of((2, 2))
    networks = np.array(networks_of(space), dtype=np.intp)[:count]
    with pytest.raises(InvalidInputError, match=f"at least 3 measured networks.*has {count}"):
        regress(space, measured(networks, np.arange(float(count))), (0, 0))


def test_three_networks_are_enough() -> None:
    space = space_of((2, 2))
    networks = np.array([(0, 0), (1, 0), (0, 1)])
    table = table_of(space, measured(networks, np.array([70.0, 72.0, 75.0])))
    assert np.isfinite(table.predict_all("accuracy")).all()
    assert np.isfinite(table.deviation(space.all_networks(), "accuracy")).all()


def test_blocks_that_were_never_measured_are_warned_of() -> None:
    space = space_of((3, 3, 3))
    networks = np.array([n for n in networks_of(space) if n[1] != 2 and n[2] == 0])
    data = measured(networks, 60 + 2.0 * networks.sum(axis=1) + 0.1 * noise(len(networks)))
    with pytest.warns(MathNASWarning, match="3 blocks are in no network.*'b2' of 'n1'"):
        table = table_of(space, data, scale=IDENTITY)
    unseen, seen = np.array([[0, 2, 2]]), np.array([[0, 0, 0]])
    assert np.isfinite(table.predict(unseen, "accuracy")).all()
    unknown = table.deviation(unseen, "accuracy")[0]
    assert table.deviation(seen, "accuracy")[0] < unknown < math.inf


# ---- studies -------------------------------------------------------------------------------------


def facts_of(networks: Sequence[Network], values: Floats, metric: str) -> list[Evaluation]:
    return [
        Evaluation(network, metric, Measurement(value))
        for network, value in zip(networks, values.tolist(), strict=True)
    ]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Accuracies below a ceiling with interactions, and latencies with relative errors."""
    space = space_of(SIZES)
    sample = random_sampling(space, 120, seed=3)
    rows = np.array(sample.networks)
    response = 0.012 + 0.0015 * additive(space, rows) + 0.0007 * interacting(space, rows)
    latency = (30 + 3 * additive(space, rows, seed=9)) * np.exp(0.05 * noise(len(rows)))
    found = Study(tmp_path / "regression.study", space)
    found.add_sample(sample)
    found.add(facts_of(sample.networks, 105 - np.maximum(response, 2e-4) ** -0.5, "accuracy"))
    found.add(facts_of(sample.networks, latency, "latency_ms"))
    return found


def test_a_study_is_fitted_and_the_table_says_what_was_chosen(study: Study) -> None:
    with study:
        table = fit(study, method="regression")
        rows = np.array([fact.network for fact in study.evaluations("accuracy")])
        data = {name: study.measurements(name) for name in ("accuracy", "latency_ms")}
    assert set(table.columns) == {"accuracy", "latency_ms"}
    assert table.provenance["method"] == "regression"
    assert table.provenance["networks"] == 120
    chosen = table.provenance["chosen"]
    assert isinstance(chosen, dict)
    for name, measurements in data.items():
        found = regress(table.space, measurements, table.reference)
        assert chosen[name] == found.to_dict()
        column = table.column(name)
        assert column.form is Form.LINEAR
        assert column.metric.scale == found.scale
        np.testing.assert_array_equal(column.effects, found.effects)
        assert str(column.metric.scale) == chosen[name]["scale"]
    counts = np.bincount((rows + table.space.offsets[:-1]).ravel())
    assert table.column("accuracy").contexts.tolist() == counts.tolist()
    assert table.column("latency_ms").metric.scale == IDENTITY


def test_the_reference_of_a_regression_need_not_be_measured(study: Study) -> None:
    with study:
        known = {fact.network for fact in study.evaluations("accuracy")}
        other = next(n for n in networks_of(study.space) if n not in known)
        table = fit(study, ["accuracy"], method="regression", reference=other)
    assert table.reference == other
    assert table.response(other, "accuracy") == table.column("accuracy").base


def test_only_the_metrics_that_are_asked_for_are_fitted(study: Study) -> None:
    with study:
        table = fit(study, ["latency_ms"], method="regression")
    assert list(table.columns) == ["latency_ms"]
    assert list(table.provenance["chosen"]) == ["latency_ms"]  # type: ignore[call-overload]


@pytest.mark.parametrize("form", [Form.SPACE_MEAN, "inverse-macs-block-mean", {"accuracy": "x"}])
def test_a_regression_takes_no_form(form: Form | str | dict[str, str], study: Study) -> None:
    with study, pytest.raises(InvalidInputError, match="takes no form"):
        fit(study, method="regression", form=form)


def test_unknown_methods_are_refused(study: Study) -> None:
    with study, pytest.raises(InvalidInputError, match=r"one of .*regression, but got 'median'"):
        fit(study, method="median")  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [Form.LINEAR, "linear"])
def test_linear_is_what_a_regression_is(form: Form | str, study: Study) -> None:
    with study:
        assert fit(study, ["latency_ms"], method="regression", form=form).columns


# ---- search --------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 1.0])
def test_search_finds_the_best_network_under_limits(share: float, study: Study) -> None:
    with study:
        table = fit(study, method="regression")
    accuracy = table.column("accuracy")
    assert accuracy.pairs
    assert accuracy.metric.scale.name != "identity"
    brute = BruteForce(table)
    latency = table.column("latency_ms").metric
    limits = [Limit(latency, "<=", float(np.quantile(brute.values["latency_ms"], share)))]
    limits.append(
        Limit(accuracy.metric, ">=", float(np.quantile(brute.values["accuracy"], 1 - share)))
    )
    for some in (limits[:1], limits):
        answer = search(table, maximize="accuracy", limits=some, verify=True)
        best = brute.best("accuracy", True, some)
        if best is None:
            assert isinstance(answer, Infeasible)
            continue
        assert isinstance(answer, Answer)
        assert answer.value == pytest.approx(best, abs=brute.tolerance("accuracy"))
    fastest = search(table, minimize="latency_ms", limits=limits[1:])
    assert isinstance(fastest, Answer)
    quickest = brute.best("latency_ms", False, limits[1:])
    assert fastest.value == pytest.approx(quickest, abs=brute.tolerance("latency_ms"))


def test_no_network_where_limits_allow_none(study: Study) -> None:
    with study:
        table = fit(study, method="regression")
    values = BruteForce(table).values["latency_ms"]
    limit = Limit(table.column("latency_ms").metric, "<=", float(values.min()) - 1)
    assert isinstance(search(table, maximize="accuracy", limits=[limit]), Infeasible)


# ---- speed ---------------------------------------------------------------------------------------


def test_a_thousand_evaluations_of_a_large_space_take_half_a_second() -> None:
    space = space_of((9,) * 20)
    networks = np.array(space.sample(1000))
    data = measured(networks, 70 + additive(space, networks) + 0.3 * noise(1000))
    seconds = []
    for _ in range(3):
        start = time.process_time()  # other tests run at the same time
        regress(space, data, (0,) * 20)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1.5  # 0.1 to 0.5 on an idle machine


# ---- a prior along another table's effects ------------------------------------------------------


def test_a_prior_that_is_alike_helps_and_one_that_is_not_is_left_out() -> None:
    rng = np.random.default_rng(2)
    space = SearchSpace(
        [BlockNode(f"n{i}", tuple(Block(f"{i}.{j}") for j in range(6))) for i in range(8)]
    )
    truth = rng.normal(size=space.num_blocks)
    alike = 3 * truth + 0.3 * rng.normal(size=space.num_blocks)
    networks, others = np.array(space.sample(24, seed=1)), np.array(space.sample(300, seed=2))

    def values(rows: Indices) -> Floats:
        total: Floats = 50 + truth[rows + space.offsets[:-1]].sum(axis=1)
        return total

    noisy = values(networks) + 0.1 * rng.normal(size=len(networks))
    unknown, once = np.full(len(networks), np.nan), np.ones(len(networks))
    data = Measurements(metric_named("latency_ms"), {}, networks, noisy, unknown, once)
    error, shares = {}, {}
    for name, prior in {"none": None, "alike": alike, "other": rng.permutation(truth)}.items():
        found = regress(space, data, space.reference, prior=prior)
        table = BlockTable(space, space.reference, {"latency_ms": found.column(space, data)})
        error[name] = float(np.abs(table.predict(others, "latency_ms") - values(others)).mean())
        shares[name] = found.prior_share
    assert shares["alike"] > 0
    assert error["alike"] < error["none"] / 2
    assert error["other"] < 1.2 * error["none"]


def test_a_prior_fits_the_space() -> None:
    case = CASES["identity"]
    with pytest.raises(InvalidInputError, match="one finite effect for each of its"):
        regress(case.space(), case.data()[0], (0,) * 5, prior=np.ones(3))
