"""Which networks a refinement evaluates next, on spaces that are small enough to list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any, get_args

import numpy as np
import pytest
from core_cases import Floats, space_of

import mathnas as mn
from mathnas.acquisition import Choice, Proposal, propose
from mathnas.regression import regress
from mathnas.space import Indices, SearchSpace
from mathnas.trials import Trials

SIZES = (3, 4, 3, 3)
CHOICES: tuple[Choice, ...] = get_args(Choice)
Values = Callable[[mn.Network], dict[str, float]]
Case = Callable[..., tuple[Trials, mn.BlockTable]]


def world(network: mn.Network, *, noise: float = 0.1) -> dict[str, float]:
    """An accuracy with some noise, and a latency that is an exact sum."""
    rng = np.random.default_rng(3)
    gains, costs = rng.random((len(network), 9)), rng.integers(1, 20, (len(network), 9))
    own = np.random.default_rng(network).normal() * noise
    nodes = range(len(network))
    return {
        "accuracy": 80 + 3 * float(gains[nodes, list(network)].sum()) + own,
        "latency_ms": 5 + float(costs[nodes, list(network)].sum()) / 4,
    }


def hazy(network: mn.Network) -> dict[str, float]:
    """Where a few networks leave much open."""
    return world(network, noise=1.0)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """Makes trials of what a study holds, and the table that a refinement fits to it."""
    studies: list[mn.Study] = []

    def made(
        space: SearchSpace,
        measured: list[mn.Network],
        values: Values = world,
        metrics: tuple[str, ...] = ("accuracy", "latency_ms"),
        **options: Any,
    ) -> tuple[Trials, mn.BlockTable]:
        study = mn.Study(tmp_path / f"{len(studies)}.study", space)
        studies.append(study)
        evaluator = mn.FunctionEvaluator(values, metrics)
        mn.evaluate(study, measured, evaluator, progress=False)
        trials = Trials(study, evaluator, **{"maximize": "accuracy", **options})
        return trials, mn.fit(study, trials.measured, method="regression", reference=measured[0])

    yield made
    for study in studies:
        study.close()


def new(trials: Trials) -> list[mn.Network]:
    held = set(trials.held())
    return [network for network in trials.space.enumerate() if network not in held]


def ranked(networks: list[mn.Network], scores: Floats) -> list[mn.Network]:
    return [networks[place] for place in np.argsort(-scores, kind="stable").tolist()]


def thompson(trials: Trials, table: mn.BlockTable, count: int, seed: int) -> Proposal:
    return propose(trials, table, count, "thompson", np.random.default_rng(seed))


# ---- the choices ---------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_mean_is_the_best_predicted(case: Case, direction: str) -> None:
    space = space_of(SIZES)
    wanted: dict[str, Any] = {"maximize": None, "limits": {"latency_ms": 15}, direction: "accuracy"}
    trials, table = case(space, space.sample(30, seed=1), **wanted)
    others = new(trials)
    meet = [n for n in others if table.predict([n], "latency_ms")[0] <= 15 + 1e-3]
    sign = 1 if direction == "maximize" else -1
    expected = ranked(meet, sign * table.responses(meet, "accuracy"))
    found = propose(trials, table, 6, "mean")
    assert found.networks == tuple(expected[:6])
    assert 0 < found.odds <= 1


def test_optimistic_is_the_best_of_prediction_and_deviation(case: Case) -> None:
    space = space_of(SIZES)
    trials, table = case(space, space.sample(14, seed=1))
    others = new(trials)
    scores = table.responses(others, "accuracy") + table.response_deviation(others, "accuracy")
    best = ranked(others, scores)[:5]
    assert propose(trials, table, 5, "optimistic").networks == tuple(best)
    assert best != ranked(others, table.responses(others, "accuracy"))[:5]


def test_promising_is_the_mean_until_it_is_stale(case: Case) -> None:
    space = space_of(SIZES)
    trials, table = case(space, space.sample(14, seed=1), hazy, limits={"latency_ms": 16})
    means = propose(trials, table, 8, "mean").networks
    assert propose(trials, table, 8).networks == means
    stale = propose(trials, table, 8, stale=True).networks
    assert len(set(stale)) == 8
    assert stale[0] == means[0]
    assert stale != means
    rest = iter(stale)
    assert all(network in rest for network in means[:4])  # in their order


def test_promising_looks_at_the_odds_of_an_improvement(case: Case) -> None:
    space = space_of(SIZES)
    trials, table = case(space, space.sample(14, seed=1))
    column, (_, best) = table.column("accuracy"), trials.best()
    assert best is not None
    assert column.uncertainty is not None
    others = new(trials)
    responses = table.responses(others, "accuracy")
    noises = column.uncertainty.noises(column.metric.scale.inverse(responses))
    gains = responses - column.metric.scale.forward(np.array([best]))
    scores = gains / np.hypot(table.response_deviation(others, "accuracy"), noises)
    likely = ranked(others, scores)
    found = propose(trials, table, 4, stale=True)
    assert likely[0] in found.networks[:2]
    assert found.odds == pytest.approx(NormalDist().cdf(float(scores.max())))


def test_thompson_draws_differ_and_the_seed_decides(case: Case) -> None:
    space = space_of(SIZES)
    trials, table = case(space, space.sample(14, seed=1), hazy, limits={"latency_ms": 16})
    found = thompson(trials, table, 10, 0).networks
    assert len(set(found)) == len(found) >= 9
    assert not set(found) & set(trials.held())
    assert thompson(trials, table, 10, 0).networks == found
    drawn = {n for seed in range(10) for n in thompson(trials, table, 3, seed).networks}
    assert len(drawn) > 6
    assert drawn & set(propose(trials, table, 3, "mean").networks)
    assert table.predict(list(drawn), "latency_ms").max() <= 16.001


# ---- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", CHOICES)
def test_the_best_one_may_lie_exactly_at_its_limit(case: Case, choice: Choice) -> None:
    space = space_of(SIZES)
    measured = space.sample(25, seed=1)

    def exact(network: mn.Network) -> dict[str, float]:
        return world(network, noise=0.0)

    outside = [n for n in space.enumerate() if n not in set(measured)]
    best = max(outside, key=lambda n: exact(n)["accuracy"] - 0.2 * exact(n)["latency_ms"])
    limit = exact(best)["latency_ms"]
    meet = [n for n in outside if exact(n)["latency_ms"] <= limit]
    assert best == max(meet, key=lambda n: exact(n)["accuracy"])
    trials, table = case(space, measured, exact, limits={"latency_ms": limit})
    for stale in (False, True):
        rng = np.random.default_rng(0)
        found = propose(trials, table, 2, choice, rng, stale=stale).networks
        assert best in found
        assert max(exact(network)["latency_ms"] for network in found) <= limit


def test_limits_that_nothing_is_predicted_to_meet_bring_the_nearest(case: Case) -> None:
    space, rng = space_of(SIZES), np.random.default_rng(1)

    def noisy(network: mn.Network) -> dict[str, float]:
        found = world(network)
        return {**found, "latency_ms": found["latency_ms"] + rng.normal()}

    trials, table = case(space, space.sample(25, seed=1), noisy, limits={"latency_ms": 99})
    others = new(trials)
    predicted = table.predict(others, "latency_ms")
    deviations = table.deviation(others, "latency_ms")
    usual = float(np.median(deviations))
    limit = float(predicted.min()) - 1.0 * usual
    trials = Trials(
        trials.study, trials.evaluator, maximize="accuracy", limits={"latency_ms": limit}
    )
    found = propose(trials, table, 5, "mean").networks
    assert found
    near = table.predict(list(found), "latency_ms")
    assert near.max() <= limit + 1.5 * usual
    far = Trials(trials.study, trials.evaluator, maximize="accuracy", limits={"latency_ms": -50})
    nothing = propose(far, table, 5, "mean")
    assert (nothing.networks, nothing.odds, nothing.proven) == ((), 0.0, True)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_large_space_is_not_exhausted_while_networks_may_meet_the_limits(
    case: Case, choice: Choice
) -> None:
    """The best predicted under loosened limits may all be unlikely to meet them: where errors are
    relative and the limit is low, their deviations are below the usual one."""
    space, rng = space_of((6,) * 12), np.random.default_rng(4)
    gains = np.abs(rng.normal(size=(12, 6)))
    costs = 0.02 + gains**1.5 * np.exp(0.3 * rng.normal(size=(12, 6)))

    def noisy(network: mn.Network) -> dict[str, float]:
        chosen = (range(12), list(network))
        return {
            "accuracy": 70 + 0.3 * float(gains[chosen].sum()) + 0.05 * rng.normal(),
            "latency_ms": float(costs[chosen].sum()) * (1 + 0.05 * rng.normal()),
        }

    least, mean = costs.min(axis=1).sum(), costs.mean(axis=1).sum()
    limit = float(least + 0.25 * (mean - least))
    trials, table = case(
        space, list(mn.balanced_sampling(space, 60)), noisy, limits={"latency_ms": limit}
    )
    for step in range(8):
        found = propose(trials, table, 3, choice, np.random.default_rng(step), stale=True)
        assert found.networks
        networks = list(found.networks)
        missed = table.predict(networks, "latency_ms") - limit
        # of their own deviations, as tables of few networks miss by more
        assert (missed <= 2.5 * table.deviation(networks, "latency_ms") + 1e-9).all()
        trials.measure(networks)
        table = mn.fit(trials.study, trials.measured, method="regression")


@pytest.mark.parametrize("choice", CHOICES)
def test_nothing_where_all_are_known(case: Case, choice: Choice) -> None:
    space = space_of((2, 3))
    trials, table = case(space, list(space.enumerate()))
    found = propose(trials, table, 3, choice, np.random.default_rng(0), stale=True)
    assert (found.networks, found.odds, found.proven) == ((), 0.0, True)


def test_of_few_that_are_left_all_are_proposed(case: Case) -> None:
    space = space_of((2, 3))
    trials, table = case(space, list(space.enumerate())[:4])
    for choice in ("mean", "promising", "optimistic"):
        found = propose(trials, table, 5, choice, stale=True)
        assert set(found.networks) == set(new(trials))
        assert found.proven


# ---- networks that are the same ------------------------------------------------------------------


def in_order(network: mn.Network) -> mn.Network:
    return tuple(sorted(network))


def sorted_rows(networks: Indices) -> Indices:
    return np.sort(networks, axis=1)


def twins_space(**options: Any) -> SearchSpace:
    nodes = [mn.BlockNode(f"n{i}", tuple(mn.Block(f"b{j}") for j in range(3))) for i in range(4)]
    return SearchSpace(nodes, **options)


@pytest.mark.parametrize("choice", CHOICES)
def test_canonical_forms_come_once(case: Case, choice: Choice) -> None:
    space = twins_space(canonical=in_order)

    def values(network: mn.Network) -> dict[str, float]:
        found = world(in_order(network), noise=0.3)
        return {**found, "accuracy": found["accuracy"] + 3 * sum(network)}

    measured = list(dict.fromkeys([(0,) * 4, *space.sample(14, seed=2)]))
    trials, table = case(space, measured, values, limits={"latency_ms": 15})
    known = {in_order(network) for network in trials.feasible()}
    broken = {in_order(network) for network in measured} - known
    assert known
    assert broken
    for seed in range(5):
        rng = np.random.default_rng(seed)
        found = propose(trials, table, 6, choice, rng, stale=True).networks
        forms = list(map(in_order, found))
        assert found
        assert len(set(forms)) == len(forms)
        assert not known & set(forms)


@pytest.mark.parametrize("choice", ["mean", "promising", "optimistic"])
def test_what_the_model_cannot_tell_apart_waits(case: Case, choice: Choice) -> None:
    """The order of blocks does not count, and the space says so by a form."""
    space = twins_space(forms={"sorted": sorted_rows})

    def values(network: mn.Network) -> dict[str, float]:
        return world(in_order(network), noise=0.0)

    trials, table = case(
        space, list(dict.fromkeys([(0,) * 4, *space.sample(30, seed=2)])), values, ("accuracy",)
    )
    assert table.column("accuracy").network_form == "sorted"
    others = {in_order(network) for network in new(trials)}
    for stale in (False, True):
        found = propose(trials, table, len(others), choice, stale=stale).networks
        assert {in_order(network) for network in found} == others
        more = propose(trials, table, len(others) + 2, choice, stale=stale).networks
        assert more[: len(others)] == found  # others come where these are not enough
        assert len(set(more)) == len(others) + 2


# ---- a Gaussian process --------------------------------------------------------------------------


def counts(networks: Indices) -> Floats:
    """How often each block stands in a network."""
    return np.stack([(networks == block).sum(axis=1) for block in range(3)], axis=1).astype(float)


@pytest.mark.parametrize("choice", CHOICES)
def test_processes_go_with_every_choice(case: Case, choice: Choice) -> None:
    space = twins_space(features=counts)

    def values(network: mn.Network) -> dict[str, float]:
        one, two = network.count(1), network.count(2)
        return {"accuracy": 80 - 2.0 * (one - 1.5) ** 2 - (two - 1) ** 2 + one * two}

    measured = list(dict.fromkeys([(0,) * 4, *space.sample(12, seed=4)]))
    trials, table = case(space, measured, values, ("accuracy",))
    assert table.column("accuracy").process is not None
    found = propose(trials, table, 3, choice, np.random.default_rng(0), stale=True)
    assert len(set(found.networks)) == 3
    assert not set(found.networks) & set(measured)
    assert 0 <= found.odds <= 1
    again = propose(trials, table, 3, choice, np.random.default_rng(0), stale=True)
    assert again == found


# ---- drawn tables --------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [False, True])
def test_drawn_tables_vary_as_the_posterior_says(case: Case, pairs: bool) -> None:
    space = space_of((3, 2, 3))
    rng = np.random.default_rng(0)

    def values(network: mn.Network) -> dict[str, float]:
        crossed = 8.0 * (network[0] == 2) * (network[1] == 1) * pairs
        return {"latency_ms": 50 + 3 * sum(network) + crossed + rng.normal()}

    wanted: dict[str, Any] = {"maximize": None, "minimize": "latency_ms"}
    trials, _ = case(space, list(space.enumerate()), values, ("latency_ms",), **wanted)
    data = trials.study.measurements("latency_ms")
    column = regress(space, data, (0, 0, 0), pairs=pairs).column(space, data)
    table = mn.BlockTable(space, (0, 0, 0), {"latency_ms": column})
    assert bool(column.pairs) == pairs
    assert column.posterior is not None
    every = list(space.enumerate())
    count = 4000
    draws = np.array(
        [table.drawn("latency_ms", rng).responses(every, "latency_ms") for _ in range(count)]
    )
    # the constant stays where it is: deviations are those of differences
    deviations = draws - draws[:, :1]
    expected = table.responses(every, "latency_ms")
    factor = _indicators(space, every, column.pairs) @ column.posterior.factor
    differences = factor - factor[:1]
    covariance = differences @ differences.T
    sd = np.sqrt(np.diag(covariance))
    error = np.abs(deviations.mean(axis=0) - (expected - expected[0]))
    assert (error <= 5 * sd / np.sqrt(count) + 1e-9).all()
    np.testing.assert_allclose(np.cov(deviations.T), covariance, atol=0.12 * float(sd.max()) ** 2)
    # about the middle of what was measured they are those of a prediction
    wide = np.sqrt(
        ((factor - column.posterior.centre) ** 2).sum(axis=1) + column.posterior.constant
    )
    np.testing.assert_allclose(table.response_deviation(every, "latency_ms"), wide)
    assert table.drawn("latency_ms", rng).column("latency_ms").posterior is None


def _indicators(
    space: SearchSpace, networks: list[mn.Network], pairs: tuple[mn.PairEffects, ...]
) -> Floats:
    rows = []
    for network in networks:
        parts = [np.eye(size)[block] for size, block in zip(space.sizes, network, strict=True)]
        for pair in pairs:
            entry = np.zeros(pair.effects.shape)
            entry[network[pair.first], network[pair.second]] = 1
            parts.append(entry.ravel())
        rows.append(np.concatenate(parts))
    return np.array(rows)


def test_tables_without_a_posterior_are_not_drawn(case: Case) -> None:
    space = space_of((3, 2, 3), range(8))
    trials, table = case(space, list(mn.single_sampling(space)), metrics=("accuracy",))
    rng = np.random.default_rng(0)
    with pytest.raises(mn.InvalidInputError, match="regression"):
        mn.fit(trials.study).drawn("accuracy", rng)
    with pytest.raises(mn.InvalidInputError, match="'bleu'"):
        table.drawn("bleu", rng)
