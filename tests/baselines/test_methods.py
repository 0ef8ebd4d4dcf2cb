"""Every method keeps the contract of methods; what they share beyond it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import mathnas as mn
from mathnas.baselines import METHODS, TRAINED_METHODS, learned_search
from mathnas.baselines._driver import Score, relative_violation
from mathnas.baselines._permitted import draw, neighbours
from mathnas.search import Limit, fix
from mathnas.space import Floats, Indices
from mathnas.testing import MethodContract
from mathnas.trials import Outcome, Trials

Method = Callable[..., Outcome]
PYMOO = importlib.util.find_spec("pymoo") is not None
SEQUENTIAL = [name for name in METHODS if name not in ("mathnas", "single", "best-blocks")]


class TestRandom(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return METHODS["random"]


class TestEvolution(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return METHODS["evolution"]


class TestLocal(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return METHODS["local"]


@pytest.mark.skipif(not PYMOO, reason="needs pymoo")
class TestNSGA2(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return METHODS["nsga2"]


class TestOFAFinder(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return METHODS["ofa-finder"]


class TestHATFinder(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return METHODS["hat-finder"]


class Ridge:
    """A predictor that needs no training: least squares on blocks, nearly."""

    def __init__(self, space: mn.SearchSpace) -> None:
        self.space = space

    def _blocks(self, networks: Indices) -> Floats:
        blocks = np.zeros((len(networks), self.space.num_blocks))
        np.put_along_axis(blocks, networks + self.space.offsets[:-1], 1.0, axis=1)
        return blocks

    def fit(self, networks: Indices, values: Floats) -> None:
        own = self._blocks(networks)
        weights = np.linalg.solve(own.T @ own + 1e-3 * np.eye(own.shape[1]), own.T @ values)
        self.weights: Floats = weights

    def predict(self, networks: Indices) -> Floats:
        found: Floats = self._blocks(networks) @ self.weights
        return found


def ridge_search(*args: Any, **wanted: Any) -> Outcome:
    return learned_search(*args, make=lambda space, objective, seed: Ridge(space), **wanted)


class TestLearned(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return ridge_search


@pytest.mark.parametrize("name", list(TRAINED_METHODS))
def test_trained_methods_answer_with_what_was_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    mlp = importlib.import_module("mathnas.baselines.mlp")
    graphs = importlib.import_module("mathnas.baselines.brp_nas")
    for module, settings, less in (
        (mlp, "OFA", {"steps": 60}),
        (mlp, "HAT", {"steps": 60}),
        (graphs, "ACCURACY", {"epochs": 2}),
        (graphs, "LATENCY", {"epochs": 2}),
    ):
        monkeypatch.setattr(module, settings, replace(getattr(module, settings), **less))
    blocks = tuple(mn.Block(f"b{j}") for j in range(3))
    space = mn.SearchSpace([mn.BlockNode(f"n{i}", blocks) for i in range(4)])
    evaluator = mn.FunctionEvaluator(
        lambda n: {"accuracy": 60.0 + 2 * sum(n), "latency_ms": 1.0 + sum(n)},
        ["accuracy", "latency_ms"],
        noisy=False,
    )
    with mn.Study(tmp_path / "learned.study", space) as study:
        found = TRAINED_METHODS[name](
            study, evaluator, maximize="accuracy", limits={"latency_ms": 6}, budget=20
        )
        assert found.evaluated <= 20
        assert found.network in {fact.network for fact in study.evaluations("accuracy")}
    assert found.values["latency_ms"] <= 6


class TestSingle(MethodContract):
    samples_freely: ClassVar[bool] = True

    @pytest.fixture
    def method(self) -> Method:
        return METHODS["single"]


class TestBestBlocks(MethodContract):
    samples_freely: ClassVar[bool] = True

    @pytest.fixture
    def method(self) -> Method:
        return METHODS["best-blocks"]


class TestRefine(MethodContract):
    goes_on_alike: ClassVar[bool] = False

    @pytest.fixture
    def method(self) -> Method:
        return METHODS["mathnas"]


# ---- the contract finds what is wrong ------------------------------------------------------------


def test_the_contract_finds_a_method_that_spends_too_much(tmp_path: Path) -> None:
    def spends(*args: object, budget: int, **wanted: object) -> Outcome:
        return METHODS["random"](*args, budget=budget + 1, **wanted)

    with pytest.raises(AssertionError):
        MethodContract().test_the_budget_holds_and_no_network_is_measured_twice(spends, tmp_path)


def test_the_contract_finds_a_method_that_forgets_the_seed(tmp_path: Path) -> None:
    seeds = iter(range(9))

    def forgets(*args: object, seed: int = 0, **wanted: object) -> Outcome:
        return METHODS["random"](*args, seed=next(seeds), **wanted)

    with pytest.raises(AssertionError):
        MethodContract().test_the_seed_decides(forgets, tmp_path)


# ---- spaces of their own -------------------------------------------------------------------------


def space_of(sizes: tuple[int, ...], **more: object) -> mn.SearchSpace:
    nodes = [
        mn.BlockNode(f"n{i}", tuple(mn.Block(f"b{j}", macs=1.0 + j) for j in range(size)))
        for i, size in enumerate(sizes)
    ]
    return mn.SearchSpace(nodes, **more)  # type: ignore[arg-type]


def total(network: mn.Network) -> Mapping[str, float]:
    return {"accuracy": 50.0 + sum(network)}


@pytest.mark.parametrize("name", [name for name in METHODS if name != "nsga2" or PYMOO])
@pytest.mark.parametrize("sizes", [(3, 1, 2), (2, 2, 2)])
def test_small_spaces_are_exhausted(name: str, sizes: tuple[int, ...], tmp_path: Path) -> None:
    evaluator = mn.FunctionEvaluator(total, ["accuracy"])
    with mn.Study(tmp_path / "small.study", space_of(sizes)) as study:
        found = METHODS[name](study, evaluator, maximize="accuracy", budget=40)
        assert found.reason in ("exhausted", "unlikely")
        assert found.values["accuracy"] == 50 + sum(sizes) - len(sizes)
        if name in SEQUENTIAL:
            assert found.evaluated == study.space.num_networks


@pytest.mark.parametrize("name", [name for name in SEQUENTIAL if name != "nsga2" or PYMOO])
def test_declared_limits_are_kept_before_anything_is_measured(name: str, tmp_path: Path) -> None:
    evaluator = mn.FunctionEvaluator(total, ["accuracy"])
    space = space_of((3, 3, 3, 3))
    with mn.Study(tmp_path / "my.study", space) as study:
        found = METHODS[name](study, evaluator, maximize="accuracy", limits={"macs": 8}, budget=40)
        held = [fact.network for fact in study.evaluations()]
        assert max(space.macs(held)) <= 8
        assert found.values["accuracy"] == 54
        assert found.reason in ("budget", "exhausted")


@pytest.mark.parametrize("name", [name for name in SEQUENTIAL if name != "nsga2" or PYMOO])
def test_failed_networks_are_passed_by(name: str, tmp_path: Path) -> None:
    def fails(network: mn.Network) -> Mapping[str, float]:
        if network[0] == 1:
            raise RuntimeError("out of memory")
        return total(network)

    evaluator = mn.FunctionEvaluator(fails, ["accuracy"])
    with mn.Study(tmp_path / "my.study", space_of((3, 3, 3))) as study:
        try:
            found = METHODS[name](study, evaluator, maximize="accuracy", budget=40)
        except mn.EvaluationError:  # several in a row: it may as well be the evaluator
            found = METHODS[name](study, evaluator, maximize="accuracy", budget=40)
        assert found.values["accuracy"] == 56


@pytest.mark.parametrize("name", [name for name in SEQUENTIAL if name != "nsga2" or PYMOO])
def test_an_evaluator_that_always_fails_is_told(name: str, tmp_path: Path) -> None:
    def fails(network: mn.Network) -> float:
        raise RuntimeError("out of memory")

    evaluator = mn.FunctionEvaluator(fails, ["accuracy"])
    with (
        mn.Study(tmp_path / "my.study", space_of((3, 3, 3, 3))) as study,
        pytest.raises(mn.EvaluationError, match="out of memory"),
    ):
        METHODS[name](study, evaluator, maximize="accuracy", budget=40)


def test_a_failing_reference_of_relative_limits_is_told(tmp_path: Path) -> None:
    def fails(network: mn.Network) -> Mapping[str, float]:
        raise RuntimeError("out of memory")

    evaluator = mn.FunctionEvaluator(fails, ["accuracy", "latency_ms"])
    with (
        mn.Study(tmp_path / "my.study", space_of((3, 3))) as study,
        pytest.raises(mn.EvaluationError, match="refer to what is measured of the reference"),
    ):
        METHODS["random"](study, evaluator, maximize="accuracy", limits={"latency_ms": "-5%"})


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of them"),
        ({"maximize": "bleu"}, "not 'bleu'"),
        ({"maximize": "accuracy", "limits": {"energy_mj": 3}}, "'energy_mj'"),
    ],
)
def test_what_cannot_be_is_refused(
    name: str, arguments: dict[str, object], message: str, tmp_path: Path
) -> None:
    if name == "nsga2" and not PYMOO:
        pytest.skip("needs pymoo")
    evaluator = mn.FunctionEvaluator(total, ["accuracy"])
    with (
        mn.Study(tmp_path / "my.study", space_of((3, 3))) as study,
        pytest.raises(mn.InvalidInputError, match=message),
    ):
        METHODS[name](study, evaluator, **arguments)


# ---- what they are made of -----------------------------------------------------------------------


def trials_of(study: mn.Study, **more: object) -> Trials:
    evaluator = mn.FunctionEvaluator(total, ["accuracy"])
    return Trials(study, evaluator, maximize="accuracy", **more)  # type: ignore[arg-type]


def test_scores_order_by_violation_first() -> None:
    assert Score(0.0, -3.0) < Score(0.0, -2.0) < Score(0.1, -9.0) < Score(0.2, -99.0)
    latency = mn.metric_named("latency_ms")
    assert relative_violation(Limit(latency, "<=", 4.0), 4.0) == 0
    assert relative_violation(Limit(latency, "<=", 4.0), 5.0) == 0.25
    assert relative_violation(Limit(latency, ">=", -4.0), -5.0) == 0.25
    assert 0 < relative_violation(Limit(latency, "<=", 0.0), 1.0) < float("inf")


def test_draws_are_uniform_and_find_the_last_ones(tmp_path: Path) -> None:
    import numpy as np

    space = space_of((3,) * 12)  # too many to list
    rules = [fix(space, dict.fromkeys(range(1, 12), 1))]  # three are left, of 531,441
    with mn.Study(tmp_path / "my.study", space) as study:
        found = draw(trials_of(study, rules=rules), 5, np.random.default_rng(0))
        assert sorted(found) == [(j, *(1,) * 11) for j in range(3)]
    with mn.Study(tmp_path / "small.study", space_of((3, 3))) as study:
        trials = trials_of(study)
        rng = np.random.default_rng(0)
        counts = [draw(trials, 1, rng)[0] for _ in range(900)]
        assert min(counts.count(n) for n in study.space.enumerate()) > 60


def test_neighbours_differ_in_one_switch(tmp_path: Path) -> None:
    space = space_of((3, 2, 3), depth_rules=[mn.DepthRule((1, 2), (0, 0))])
    with mn.Study(tmp_path / "my.study", space) as study:
        own = neighbours(trials_of(study), (0, 1, 2))
        assert own == [[(1, 1, 2), (2, 1, 2)], [(0, 0, 0)], [(0, 1, 0), (0, 1, 1)]]
        assert neighbours(trials_of(study), (0, 0, 0))[2] == []
