"""What every method keeps that searches by evaluations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from mathnas.evaluation import Evaluator
from mathnas.metrics import metric_named
from mathnas.search import exclude, fix
from mathnas.space import Block, BlockNode, DepthRule, Network, SearchSpace
from mathnas.study import Study
from mathnas.trials import Outcome, Round

Method = Callable[..., Outcome]

_GAINS = ((0.0, 1.1, 2.3), (0.0, 0.7, 1.6), (0.0, 0.4, 0.9), (0.0, 1.3, 1.9))
_COSTS = ((0.0, 0.8, 2.1), (0.0, 0.9, 1.3), (0.0, 0.2, 1.0), (0.0, 0.7, 2.0))


class MethodContract:
    """Inherit and override the fixture `method`.

    A method is called as `mathnas.refine` is and returns an `Outcome`.

    Attributes:
        budget: of a search over four nodes with three blocks, 81 networks.
        samples_freely: whether it measures networks that break rules to learn from them, as single
            sampling does, which needs every block. Its answer keeps them all the same.
        goes_on_alike: whether a run that was stopped and goes on measures what it would have
            measured.

    Example::

        class TestMyMethod(MethodContract):
            @pytest.fixture
            def method(self) -> Method:
                return my_method
    """

    budget: ClassVar[int] = 30
    samples_freely: ClassVar[bool] = False
    goes_on_alike: ClassVar[bool] = True

    @pytest.fixture
    def method(self) -> Method:
        """The method under test."""
        raise NotImplementedError("override the fixture `method` and return your method.")

    def test_the_budget_holds_and_no_network_is_measured_twice(
        self, method: Method, tmp_path: Path
    ) -> None:
        rounds: list[Round] = []
        world = World()
        with Study(tmp_path / "my.study", _space()) as study:
            found = method(
                study,
                world,
                maximize="accuracy",
                limits={"latency_ms": 7},
                budget=self.budget,
                on_round=rounds.append,
            )
            assert found.evaluated == len(_held(study)) == sum(world.done.values()) <= self.budget
        assert max(world.done.values()) == 1
        assert tuple(rounds) == found.rounds
        assert rounds[-1].evaluated == found.evaluated
        assert found.reason == "budget" or found.evaluated < self.budget

    def test_the_answer_is_the_best_measured_one_that_meets_measured_limits(
        self, method: Method, tmp_path: Path
    ) -> None:
        for limit in (6.2, 8.5):
            with Study(tmp_path / f"{limit}.study", _space()) as study:
                found = method(
                    study,
                    World(),
                    maximize="accuracy",
                    limits={"latency_ms": limit, "macs": 40.0},
                    budget=self.budget,
                )
                meet = {
                    network: facts["accuracy"]
                    for network, facts in _held(study).items()
                    if facts["latency_ms"] <= limit and study.space.macs([network])[0] <= 40
                }
                assert bool(found) == bool(meet)
                if found.network is None:
                    continue
                assert meet[found.network] == max(meet.values())
                assert found.values["accuracy"] == meet[found.network]
                assert found.values["macs"] <= 40

    def test_it_minimizes(self, method: Method, tmp_path: Path) -> None:
        with Study(tmp_path / "my.study", _space()) as study:
            found = method(
                study, World(), minimize="latency_ms", limits={"accuracy": 72}, budget=self.budget
            )
            meet = [f["latency_ms"] for f in _held(study).values() if f["accuracy"] >= 72]
            assert found.values["latency_ms"] == min(meet)

    def test_relative_limits_refer_to_what_is_measured_of_the_reference(
        self, method: Method, tmp_path: Path
    ) -> None:
        with Study(tmp_path / "my.study", _space()) as study:
            found = method(
                study,
                World(),
                maximize="accuracy",
                limits=["latency_ms=-2%", "macs=+30%"],
                budget=self.budget,
            )
            own = _held(study)[study.reference]
            macs = float(study.space.macs([study.reference])[0])
            assert found
            assert found.values["latency_ms"] <= own["latency_ms"] * (1 - 0.02)
            assert found.values["macs"] <= 1.3 * macs

    def test_it_says_so_where_nothing_meets_the_limits(
        self, method: Method, tmp_path: Path
    ) -> None:
        with Study(tmp_path / "my.study", _space()) as study:
            found = method(
                study, World(), maximize="accuracy", limits={"latency_ms": 1.0}, budget=self.budget
            )
        assert not found
        assert found.network is None
        assert found.values == {}
        assert "no measured network meets the limits" in str(found)

    def test_the_answer_keeps_rules(self, method: Method, tmp_path: Path) -> None:
        space = _space()
        rules = [fix(space, {"n0": "b1"}), exclude(space, {"n1": ["b2"]})]
        with Study(tmp_path / "my.study", space) as study:
            found = method(study, World(), maximize="accuracy", rules=rules, budget=self.budget)
            assert found.network is not None
            assert all(rule.holds(found.network) for rule in rules)
            if not self.samples_freely:
                assert all(rule.holds(n) for n in _held(study) for rule in rules)

    def test_depth_rules(self, method: Method, tmp_path: Path) -> None:
        space = _space(DepthRule((2, 3), (0, 0)))
        with Study(tmp_path / "my.study", space) as study:
            found = method(
                study, World(), maximize="accuracy", limits={"latency_ms": 8}, budget=self.budget
            )
            assert found
            assert all(space.check(network) == network for network in _held(study))

    def test_the_seed_decides(self, method: Method, tmp_path: Path) -> None:
        measured = []
        for name in ("one", "other"):
            with Study(tmp_path / f"{name}.study", _space()) as study:
                method(
                    study,
                    World(),
                    maximize="accuracy",
                    limits={"latency_ms": 7},
                    budget=self.budget,
                    seed=3,
                )
                measured.append(list(_held(study)))
        assert measured[0] == measured[1]

    @pytest.mark.parametrize("calls", [1, 4, 13])
    def test_it_goes_on_where_it_was_stopped(
        self, method: Method, tmp_path: Path, calls: int
    ) -> None:
        wanted = {"maximize": "accuracy", "limits": {"latency_ms": 7}, "budget": self.budget}
        with Study(tmp_path / "whole.study", _space()) as study:
            whole = method(study, World(), **wanted)
            all_at_once = set(_held(study))
        world = World(stops_at=calls)
        with Study(tmp_path / "stopped.study", _space()) as study:
            try:
                method(study, world, **wanted)
            except KeyboardInterrupt:
                assert sum(world.done.values()) == calls - 1
            found = method(study, world, **wanted)
            assert max(world.done.values()) == 1
            assert len(_held(study)) == found.evaluated <= self.budget
            if self.goes_on_alike:
                assert set(_held(study)) == all_at_once
                assert (found.network, found.values) == (whole.network, whole.values)
            again = method(study, world, **wanted)
            assert again.network == found.network
            assert again.evaluated == found.evaluated
            assert again.rounds == ()

    def test_what_the_study_holds_counts(self, method: Method, tmp_path: Path) -> None:
        wanted = {"maximize": "accuracy", "limits": {"latency_ms": 7}}
        world = World()
        with Study(tmp_path / "my.study", _space()) as study:
            first = method(study, world, **wanted, budget=self.budget)
            more = method(study, world, **wanted, budget=self.budget + 10)
            assert first.evaluated <= more.evaluated <= self.budget + 10
            assert more.values["accuracy"] >= first.values["accuracy"]
            assert max(world.done.values()) == 1


class World(Evaluator):
    """Accuracy and latency that add up; it counts what it measured, and can be stopped."""

    metrics = (metric_named("accuracy"), metric_named("latency_ms"))

    def __init__(self, stops_at: int | None = None) -> None:
        self.stops_at, self.calls = stops_at, 0
        self.done: Counter[Network] = Counter()

    def evaluate(self, network: Network, seed: int) -> Mapping[str, float]:
        self.calls += 1
        if self.calls == self.stops_at:
            raise KeyboardInterrupt
        self.done[network] += 1
        return {
            "accuracy": 70 + sum(own[j] for own, j in zip(_GAINS, network, strict=True)),
            "latency_ms": 5 + sum(own[j] for own, j in zip(_COSTS, network, strict=True)),
        }


def _space(*rules: DepthRule) -> SearchSpace:
    return SearchSpace(
        [
            BlockNode(f"n{i}", tuple(Block(f"b{j}", macs=1.0 + i + 3 * j) for j in range(3)))
            for i in range(4)
        ],
        name="contract",
        fixed_macs=2.0,
        depth_rules=rules,
    )


def _held(study: Study) -> dict[Network, dict[str, float]]:
    """What was measured of each network, in the order of measurement."""
    found: dict[Network, dict[str, float]] = {}
    for fact in study.evaluations():
        found.setdefault(fact.network, {})[fact.metric] = fact.measurement.value
    return found
