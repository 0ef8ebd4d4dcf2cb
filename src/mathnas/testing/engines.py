"""What every latency engine keeps."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from mathnas.devices.common import Engine, LatencyEvaluator, engine_conditions
from mathnas.devices.noise import NoiseRule
from mathnas.devices.timing import TimingSettings, time_in_turns
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Measurement

_QUICK = TimingSettings(rounds=5, slice_ms=1.0, warmup_ms=20.0)


class EngineContract:
    """Inherit and override the fixtures `engine`, `model`, `larger` and `misfit`.

    Example::

        class TestMyEngine(EngineContract):
            @pytest.fixture
            def engine(self) -> Engine[bytes]:
                return MyEngine(threads=1, batch=1)

            @pytest.fixture
            def model(self) -> bytes:
                return graph(layers=1, batch=1)

            @pytest.fixture
            def larger(self) -> bytes:
                return graph(layers=20, batch=1)

            @pytest.fixture
            def misfit(self) -> bytes:
                return graph(layers=1, batch=2)
    """

    @pytest.fixture
    def engine(self) -> Engine[Any]:
        """The engine under test."""
        raise NotImplementedError("override the fixture `engine` and return your engine.")

    @pytest.fixture
    def model(self) -> object:
        """A small model in the form that the engine reads."""
        raise NotImplementedError("override the fixture `model` and return a small model.")

    @pytest.fixture
    def larger(self) -> object:
        """One of at least five times the work."""
        raise NotImplementedError("override the fixture `larger` and return a larger model.")

    @pytest.fixture
    def misfit(self) -> object:
        """One that does not fit the settings, such as one with another batch."""
        raise NotImplementedError("override the fixture `misfit` and return what does not fit.")

    def test_it_says_what_it_is(self, engine: Engine[Any]) -> None:
        assert engine.name
        assert engine.version
        assert engine.precision
        assert engine.threads >= 1
        assert engine.batch >= 1

    def test_its_conditions_are_texts_that_can_be_stored(self, engine: Engine[Any]) -> None:
        conditions = engine_conditions(engine)
        assert all(isinstance(part, str) for pair in conditions.items() for part in pair)
        assert json.loads(json.dumps(conditions)) == conditions

    def test_what_was_prepared_runs_again_and_again(
        self, engine: Engine[Any], model: object
    ) -> None:
        run = engine.prepare(model)
        for _ in range(3):
            run()

    def test_more_work_takes_longer_in_turns(
        self, engine: Engine[Any], model: object, larger: object
    ) -> None:
        """Prepared models live side by side."""
        short, long = time_in_turns([engine.prepare(model), engine.prepare(larger)], _QUICK)
        assert 0 < short.minimum < long.minimum

    def test_what_does_not_fit_is_refused(self, engine: Engine[Any], misfit: object) -> None:
        with pytest.raises(InvalidInputError):
            engine.prepare(misfit)

    def test_an_evaluator_measures_with_it(self, engine: Engine[Any], model: object) -> None:
        evaluator = LatencyEvaluator(
            lambda network: model,
            engine,
            timing=_QUICK,
            statistics=["median", "min", "trimmed", "cpu"],
            noise=NoiseRule(attempts=1),
            accept_noise=True,
        )
        found = evaluator.evaluate((0,))
        assert evaluator.threads == engine.threads
        assert evaluator.conditions.items() >= engine_conditions(engine).items()
        for metric in evaluator.metrics:
            value = found[metric.name]
            assert isinstance(value, Measurement)
            assert math.isfinite(value.value)
            assert value.value >= 0
