"""What every evaluator keeps."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pytest

from mathnas.device import Device
from mathnas.evaluation import Evaluator, Measurement
from mathnas.metrics import Metric
from mathnas.space import Network

Outcome = Mapping[str, Measurement | float]


class EvaluatorContract:
    """Inherit and override the fixtures `evaluator` and `networks`.

    Attributes:
        deterministic: whether the same network and seed give the same values. Leave it True for
            accuracy; measured times and energies are never the same twice.

    Example::

        class TestMyEvaluator(EvaluatorContract):
            @pytest.fixture
            def evaluator(self) -> Evaluator:
                return MyEvaluator(space)

            @pytest.fixture
            def networks(self) -> list[Network]:
                return space.sample(5)
    """

    deterministic: ClassVar[bool] = True

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        """The evaluator under test."""
        raise NotImplementedError("override the fixture `evaluator` and return your evaluator.")

    @pytest.fixture
    def networks(self) -> Sequence[Network]:
        """A few networks that it can evaluate, at least two."""
        raise NotImplementedError("override the fixture `networks` and return a few networks.")

    def test_it_declares_what_it_measures(self, evaluator: Evaluator) -> None:
        names = [metric.name for metric in evaluator.metrics]
        assert names, "an evaluator declares at least one metric"
        assert len(set(names)) == len(names)
        assert all(isinstance(metric, Metric) for metric in evaluator.metrics)

    def test_its_conditions_are_texts_that_can_be_stored(self, evaluator: Evaluator) -> None:
        conditions = dict(evaluator.conditions)
        assert all(isinstance(key, str) for key in conditions)
        assert all(isinstance(value, str) for value in conditions.values())
        assert json.loads(json.dumps(conditions)) == conditions

    def test_its_device_is_among_its_conditions(self, evaluator: Evaluator) -> None:
        device = evaluator.device
        if device is not None:
            assert isinstance(device, Device)
            assert evaluator.conditions.get("device") == device.name

    def test_it_says_how_it_may_be_run(self, evaluator: Evaluator) -> None:
        assert isinstance(evaluator.exclusive, bool)
        assert evaluator.threads >= 1
        assert evaluator.batch_size >= 1

    def test_every_declared_metric_is_returned_and_finite(
        self, evaluator: Evaluator, networks: Sequence[Network]
    ) -> None:
        for network in networks:
            for name, value in _values(evaluator, evaluator.evaluate(network, 0)).items():
                assert math.isfinite(value), f"{name} of {network} is {value}"

    def test_the_same_seed_gives_the_same_values(
        self, evaluator: Evaluator, networks: Sequence[Network]
    ) -> None:
        if not self.deterministic:
            pytest.skip("declared as not deterministic")
        for network in networks:
            first = _values(evaluator, evaluator.evaluate(network, 3))
            assert _values(evaluator, evaluator.evaluate(network, 3)) == first

    def test_one_evaluation_leaves_no_trace_in_the_next(
        self, evaluator: Evaluator, networks: Sequence[Network]
    ) -> None:
        """The value of a network does not depend on what was evaluated before it."""
        if not self.deterministic:
            pytest.skip("declared as not deterministic")
        forwards = {n: _values(evaluator, evaluator.evaluate(n, 3)) for n in networks}
        backwards = {n: _values(evaluator, evaluator.evaluate(n, 3)) for n in reversed(networks)}
        assert backwards == forwards

    def test_a_batch_gives_what_single_evaluations_give(
        self, evaluator: Evaluator, networks: Sequence[Network]
    ) -> None:
        seeds = list(range(len(networks)))
        batch = [
            _values(evaluator, outcome)
            for outcome in evaluator.evaluate_batch(list(networks), seeds)
        ]
        assert len(batch) == len(networks)
        if self.deterministic:
            each = list(evaluator.evaluate_each(list(networks), seeds))
            assert sorted(place for place, _ in each) == seeds, "each network comes once"
            assert [_values(evaluator, dict(each)[place]) for place in seeds] == batch
            assert batch == [
                _values(evaluator, evaluator.evaluate(network, seed))
                for network, seed in zip(networks, seeds, strict=True)
            ]

    def test_it_can_be_sent_to_workers_unless_it_is_exclusive(
        self, evaluator: Evaluator, networks: Sequence[Network]
    ) -> None:
        if evaluator.exclusive:
            pytest.skip("an exclusive evaluator stays in its process")
        received: Evaluator = pickle.loads(pickle.dumps(evaluator))
        assert received.metrics == evaluator.metrics
        assert dict(received.conditions) == dict(evaluator.conditions)
        there = _values(received, received.evaluate(networks[0], 0))
        here = _values(evaluator, evaluator.evaluate(networks[0], 0))
        assert there.keys() == here.keys()
        if self.deterministic:
            assert there == here


def _values(evaluator: Evaluator, outcome: Outcome) -> dict[str, float]:
    """The declared metrics as numbers."""
    missing = [metric.name for metric in evaluator.metrics if metric.name not in outcome]
    assert not missing, f"declared but not returned: {missing}"
    values = {metric.name: outcome[metric.name] for metric in evaluator.metrics}
    return {
        name: value.value if isinstance(value, Measurement) else float(value)
        for name, value in values.items()
    }
