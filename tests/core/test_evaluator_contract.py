"""The evaluators of the core keep the contract that mathnas ships for evaluators."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from core_cases import space_of

from mathnas import Evaluator, FunctionEvaluator, Measurement, Network, TabularEvaluator
from mathnas.metrics import metric_named
from mathnas.testing import EvaluatorContract

SPACE = space_of([3, 3, 2])
NETWORKS = SPACE.sample(6, seed=0)


def latency(network: Network) -> float:
    return 1.5 + sum(network)


def several(network: Network) -> Mapping[str, Measurement | float]:
    return {"accuracy": 70.0 + network[0], "latency_ms": Measurement(latency(network), 0.1, 20)}


class TestFunctionOfOneMetric(EvaluatorContract):
    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return FunctionEvaluator(latency, ["latency_ms"], conditions={"device": "laptop"})

    @pytest.fixture
    def networks(self) -> Sequence[Network]:
        return NETWORKS


class TestFunctionOfSeveralMetrics(TestFunctionOfOneMetric):
    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return FunctionEvaluator(several, ["accuracy", "latency_ms"], exclusive=True)


class TestTabular(TestFunctionOfOneMetric):
    @pytest.fixture
    def evaluator(self) -> Evaluator:
        rows = {network: several(network) for network in SPACE.enumerate()}
        return TabularEvaluator(SPACE, rows, ["accuracy", "latency_ms"])


class Seeded(Evaluator):
    """Draws from the seed that it is given, as a training run would."""

    metrics = (metric_named("accuracy"),)

    def evaluate(self, network: Network, seed: int) -> Mapping[str, float]:
        return {"accuracy": 70 + float(np.random.default_rng([seed, *network]).normal())}


class TestInherited(TestFunctionOfOneMetric):
    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return Seeded()


class Drifting(Seeded):
    """Forgets to use its seed: the state of one evaluation leaks into the next."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def evaluate(self, network: Network, seed: int) -> Mapping[str, float]:
        return {"accuracy": float(self.rng.normal())}


class TestNotDeterministic(TestFunctionOfOneMetric):
    deterministic = False

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return Drifting()


class Wrong(Seeded):
    """Breaks one promise at a time."""

    def __init__(self, outcome: Mapping[str, float]) -> None:
        self.outcome = outcome

    def evaluate(self, network: Network, seed: int) -> Mapping[str, float]:
        return self.outcome

    def evaluate_batch(
        self, networks: Sequence[Network], seeds: Sequence[int]
    ) -> Sequence[Mapping[str, float]]:
        return [self.outcome for _ in itertools.islice(networks, 1)]


def test_the_contract_finds_a_missing_metric() -> None:
    with pytest.raises(AssertionError, match="declared but not returned"):
        EvaluatorContract().test_every_declared_metric_is_returned_and_finite(
            Wrong({"loss": 1.0}), NETWORKS
        )


def test_the_contract_finds_a_value_that_is_not_finite() -> None:
    with pytest.raises(AssertionError, match="nan"):
        EvaluatorContract().test_every_declared_metric_is_returned_and_finite(
            Wrong({"accuracy": float("nan")}), NETWORKS
        )


def test_the_contract_finds_a_short_batch() -> None:
    with pytest.raises(AssertionError):
        EvaluatorContract().test_a_batch_gives_what_single_evaluations_give(
            Wrong({"accuracy": 1.0}), NETWORKS
        )


def test_the_contract_finds_leaking_state() -> None:
    contract = EvaluatorContract()
    for check in (
        contract.test_the_same_seed_gives_the_same_values,
        contract.test_one_evaluation_leaves_no_trace_in_the_next,
        contract.test_a_batch_gives_what_single_evaluations_give,
    ):
        with pytest.raises(AssertionError):
            check(Drifting(), NETWORKS)


def test_the_contract_finds_what_cannot_be_sent_to_workers() -> None:
    evaluator = FunctionEvaluator(lambda network: 1.0, ["accuracy"])
    with pytest.raises(Exception, match="pickle"):
        EvaluatorContract().test_it_can_be_sent_to_workers_unless_it_is_exclusive(
            evaluator, NETWORKS
        )
