"""What each method is known for, on functions whose best network is known."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import mathnas as mn
from mathnas.baselines import (
    best_blocks,
    evolution,
    local_search,
    nsga2,
    ofa_finder,
    ofa_search,
    random_search,
    single_sampling_search,
)
from mathnas.baselines.nsga2 import valid
from mathnas.search import exclude
from mathnas.spaces import MobileNetV3
from mathnas.testing import best_by_brute_force, random_program

PYMOO = importlib.util.find_spec("pymoo") is not None
needs_pymoo = pytest.mark.skipif(not PYMOO, reason="needs pymoo")


def space_of(sizes: Sequence[int], rules: Sequence[mn.DepthRule] = ()) -> mn.SearchSpace:
    nodes = [
        mn.BlockNode(f"n{i}", tuple(mn.Block(f"b{j}", macs=1.0 + j) for j in range(size)))
        for i, size in enumerate(sizes)
    ]
    return mn.SearchSpace(nodes, depth_rules=rules)


def additive(network: mn.Network) -> Mapping[str, float]:
    """The best network has the last block everywhere; costs grow with it."""
    return {
        "accuracy": 60.0 + sum((i + 1) * j for i, j in enumerate(network)),
        "latency_ms": 1.0 + sum(network),
    }


def crossed(network: mn.Network) -> Mapping[str, float]:
    """Nodes 0 and 1 are good at (2, 2), and at (0, 0) where a single switch does not lead out."""
    hill = {(2, 2): 5.0, (0, 0): 3.0}.get((network[0], network[1]), 0.0)
    return {"accuracy": 60.0 + hill + network[2]}


@pytest.fixture
def study(tmp_path: Path) -> mn.Study:
    return mn.Study(tmp_path / "my.study", space_of((4,) * 5))


EVALUATOR = mn.FunctionEvaluator(additive, ["accuracy", "latency_ms"])


# ---- evolution -----------------------------------------------------------------------------------


def test_evolution_finds_the_optimum_of_an_additive_function(study: mn.Study) -> None:
    """1,024 networks, of which 150 random ones seldom hold the best."""
    found = evolution(study, EVALUATOR, maximize="accuracy", budget=150, population=10, sample=5)
    assert found.network == (3,) * 5


def test_evolution_climbs_back_below_a_limit(study: mn.Study) -> None:
    limits = {"latency_ms": 6}
    found = evolution(study, EVALUATOR, maximize="accuracy", limits=limits, budget=200)
    # five units of latency: three for the last node, two for the one before
    assert found.values["accuracy"] >= 60 + 3 * 5 + 2 * 4 - 2


def test_children_of_evolution_differ_by_one_switch(study: mn.Study) -> None:
    found = evolution(study, EVALUATOR, maximize="accuracy", budget=60, population=10, sample=3)
    networks = [network for done in found.rounds for network in done.proposed]
    for place in range(10, len(networks)):
        changes = [
            sum(a != b for a, b in zip(networks[place], old, strict=True))
            for old in networks[:place]
        ]
        assert min(changes) == 1
    assert len(set(networks)) == 60


@pytest.mark.parametrize(("population", "sample"), [(3, 4), (3, 0)])
def test_evolution_refuses_samples_beyond_its_population(
    study: mn.Study, population: int, sample: int
) -> None:
    with pytest.raises(mn.InvalidInputError, match="sample"):
        evolution(study, EVALUATOR, maximize="accuracy", population=population, sample=sample)


# ---- local search --------------------------------------------------------------------------------


@pytest.mark.parametrize("improvement", ["first", "best"])
def test_local_search_reaches_a_local_optimum_and_begins_again(
    tmp_path: Path, improvement: str
) -> None:
    evaluator = mn.FunctionEvaluator(crossed, ["accuracy"])
    with mn.Study(tmp_path / "my.study", space_of((3, 3, 3))) as study:
        found = local_search(
            study,
            evaluator,
            maximize="accuracy",
            budget=26,
            improvement=improvement,  # type: ignore[arg-type]
        )
        measured = {f.network: f.measurement.value for f in study.evaluations("accuracy")}
    tops = [
        network
        for network, value in measured.items()
        if all(
            measured.get((*network[:i], j, *network[i + 1 :]), 1e9) <= value
            for i in range(3)
            for j in range(3)
            if j != network[i]
        )
    ]
    assert tops  # all around it was measured, and nothing is better
    assert found.values["accuracy"] == max(measured.values())


def test_local_search_climbs_an_additive_function_without_restart(study: mn.Study) -> None:
    found = local_search(study, EVALUATOR, maximize="accuracy", budget=80)
    assert found.network == (3,) * 5


def test_local_search_knows_two_kinds_of_improvement(study: mn.Study) -> None:
    with pytest.raises(mn.InvalidInputError, match="first or best"):
        local_search(study, EVALUATOR, maximize="accuracy", improvement="any")  # type: ignore[arg-type]


# ---- NSGA-II -------------------------------------------------------------------------------------


@needs_pymoo
def test_nsga2_is_better_than_random_networks(tmp_path: Path) -> None:
    reached: dict[str, list[float]] = {"nsga2": [], "random": []}
    for seed in range(3):
        for name, method in (("nsga2", nsga2), ("random", random_search)):
            with mn.Study(tmp_path / f"{name}{seed}.study", space_of((4,) * 8)) as study:
                found = method(
                    study,
                    EVALUATOR,
                    maximize="accuracy",
                    limits={"latency_ms": 14},
                    budget=100,
                    seed=seed,
                )
            reached[name].append(found.values["accuracy"])
    assert np.mean(reached["nsga2"]) > np.mean(reached["random"])


@needs_pymoo
def test_nsga2_leaves_the_global_random_state_alone(study: mn.Study) -> None:
    if not hasattr(importlib.import_module("pymoo.util"), "default_random_state"):
        pytest.skip("this pymoo draws from numpy's global state")
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    nsga2(study, EVALUATOR, maximize="accuracy", budget=30)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]  # noqa: NPY002


def test_nsga2_says_which_extra_it_needs(study: mn.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(mn.MissingExtraError, match=r"mathnas\[baselines\]"):
        nsga2(study, EVALUATOR, maximize="accuracy")


def test_integers_become_networks() -> None:
    space = space_of((3, 3, 3, 2), [mn.DepthRule((1, 2), (0, 2))])
    assert valid(space, [1, 0, 1, 1]) == (1, 0, 2, 1)
    assert valid(space, [1, 1, 1, 1]) == (1, 1, 1, 1)


# ---- OFA's finder --------------------------------------------------------------------------------


def test_the_finder_finds_what_a_brute_force_finds() -> None:
    for seed in range(3):
        program = random_program((4, 4, 4, 4), seed, senses=("<=", "<="), tightness=0.5)
        ranking = best_by_brute_force(program)
        finding = ofa_finder(
            program.table,
            maximize=program.objective.name,
            limits=list(program.limits),
            generations=60,
            count=3,
            seed=seed,
        )
        assert finding.network == ranking[0][1]
        assert finding.predictions[program.objective.name] == pytest.approx(ranking[0][0])
        assert finding.ranking[0] == finding.network
        assert len(set(finding.ranking)) == 3
        assert finding.predicted > finding.generations * 100
        assert "generations" in str(finding)


def test_the_finder_respects_depth_rules_and_rules() -> None:
    program = random_program((4, 3, 4, 3), 1, kind="staged", senses=("<=",), tightness=0.6)
    space = program.space
    rules = [exclude(space, {0: [1]})]
    finding = ofa_finder(
        program.table, maximize="accuracy", limits=list(program.limits), rules=rules, count=20
    )
    best = max(value for value, network in best_by_brute_force(program) if rules[0].holds(network))
    assert finding.predictions["accuracy"] == pytest.approx(best)
    for network in finding.ranking:
        assert space.check(network) == network
        assert program.holds(network)
        assert rules[0].holds(network)


def test_the_finder_starts_from_shallow_networks_too() -> None:
    # uniform over networks, one in millions has all stages at their lowest depth
    space = MobileNetV3()
    table = mn.BlockTable(space, space.reference, {})
    limit = 1.1 * min(table.predict(space.sample(20_000, seed=0, distinct=False), "macs"))
    shallow = space.from_config([5] * 20, [4] * 20, [2] * 5)
    assert table.predict([shallow], "macs")[0] < limit
    finding = ofa_finder(table, maximize="macs", limits={"macs": limit}, generations=0)
    assert finding.predictions["macs"] <= limit


def test_the_finder_ends_where_nothing_meets_the_limits() -> None:
    program = random_program((4, 4, 4), 0, senses=("<=",), tightness=-0.1)
    finding = ofa_finder(program.table, maximize="accuracy", limits=list(program.limits))
    assert not finding
    assert finding.generations == 0
    assert 0 < finding.predicted <= 10_000
    assert "none of" in str(finding)


def test_the_finder_takes_any_predictor() -> None:
    class Sum:
        space = space_of((3, 3))

        def predict(self, networks: npt.ArrayLike, metric: str) -> npt.NDArray[np.float64]:
            return np.array([sum(row) for row in np.asarray(networks).tolist()], dtype=np.float64)

    limit = mn.Limit(mn.metric_named("latency_ms"), "<=", 3.0)
    finding = ofa_finder(Sum(), maximize="accuracy", limits=[limit], generations=5)
    assert finding.predictions == {"accuracy": 3.0, "latency_ms": 3.0}
    assert ofa_finder(Sum(), minimize="accuracy", generations=5).network == (0, 0)
    with pytest.raises(mn.InvalidInputError, match=r"mathnas\.Limit"):
        ofa_finder(Sum(), maximize="accuracy", limits={"latency_ms": 3})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of them"),
        ({"maximize": "accuracy", "parent_ratio": 0.0}, "parent"),
        ({"maximize": "accuracy", "mutation_ratio": 1.5}, "ratios"),
        ({"maximize": "accuracy", "mutation_probability": 2.0}, "probability"),
        ({"maximize": "accuracy", "count": 0}, "count"),
    ],
)
def test_the_finder_refuses_what_cannot_be(arguments: dict[str, object], message: str) -> None:
    table = random_program((3, 3), 0).table
    with pytest.raises(mn.InvalidInputError, match=message):
        ofa_finder(table, **arguments)  # type: ignore[arg-type]


def test_a_fit_of_ones_own_serves_the_finder(study: mn.Study) -> None:
    seen: list[int] = []

    class Known:
        space = study.space

        def predict(self, networks: npt.ArrayLike, metric: str) -> npt.NDArray[np.float64]:
            return np.array([additive(tuple(row))[metric] for row in np.asarray(networks).tolist()])

    def fit(networks: Sequence[mn.Network], values: Mapping[str, Sequence[float]]) -> Known:
        assert set(values) == {"accuracy", "latency_ms"}
        seen.append(len(networks))
        return Known()

    limits = {"latency_ms": 8, "macs": 12}
    found = ofa_search(
        study, EVALUATOR, maximize="accuracy", limits=limits, budget=20, kept=0.2, fit=fit
    )
    assert seen == [16]
    assert found.values["accuracy"] == 60 + 3 * 5 + 3 * 4 + 1 * 3  # with knowledge, at once


@pytest.mark.parametrize("more", [{"budget": 3}, {"kept": 1.0}, {"kept": 0.0}])
def test_the_finder_needs_something_to_learn_from(study: mn.Study, more: dict[str, float]) -> None:
    with pytest.raises(mn.InvalidInputError, match="kept"):
        ofa_search(study, EVALUATOR, maximize="accuracy", **more)  # type: ignore[arg-type]


# ---- single sampling -----------------------------------------------------------------------------


def test_single_sampling_is_followed_by_the_best_predicted_networks(study: mn.Study) -> None:
    found = single_sampling_search(
        study, EVALUATOR, maximize="accuracy", limits={"latency_ms": 8}, budget=20
    )
    sample, ranked = found.rounds
    assert sample.proposed == mn.single_sampling(study.space, study.reference).networks
    values = [additive(network)["accuracy"] for network in ranked.proposed]
    assert values == sorted(values, reverse=True)  # effects are exact here, and so is the order
    assert len(values) == 20 - 16
    assert found.values["accuracy"] == values[0] == 60 + 3 * 5 + 3 * 4 + 1 * 3


@pytest.mark.parametrize("method", [single_sampling_search, best_blocks])
def test_single_sampling_must_fit_the_budget(study: mn.Study, method: object) -> None:
    with pytest.raises(mn.InvalidInputError, match="costs 16 evaluations"):
        method(study, EVALUATOR, maximize="accuracy", budget=15)  # type: ignore[operator]
    assert len(study) == 0


def test_single_sampling_needs_all_of_its_sample(study: mn.Study) -> None:
    def fails(network: mn.Network) -> Mapping[str, float]:
        if network[4] == 3:
            raise RuntimeError("out of memory")
        return additive(network)

    evaluator = mn.FunctionEvaluator(fails, ["accuracy", "latency_ms"])
    for _ in range(3):
        with pytest.raises(mn.EvaluationError, match="1 failed"):
            single_sampling_search(study, evaluator, maximize="accuracy", budget=20)


def test_the_best_blocks_ignore_limits(study: mn.Study) -> None:
    found = best_blocks(study, EVALUATOR, maximize="accuracy", limits={"latency_ms": 8}, budget=40)
    assert found.rounds[-1].proposed == ((3,) * 5,)  # 16 ms
    assert found.evaluated == 17
    assert found.reason == "exhausted"
    assert found.values["latency_ms"] <= 8  # the best of the sample
