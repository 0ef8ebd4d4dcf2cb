"""Latency relative to a reference, on a simulated device with a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from building_cases import QUICK, SimulatedDevice, additive_ms, chain_space, latency_of

from mathnas import EvaluationError, Evaluator, InvalidInputError, Measurement, Network, Study
from mathnas import evaluate as run
from mathnas.devices.relative import RelativeLatencyEvaluator
from mathnas.testing import EvaluatorContract

SPACE = chain_space()
SMALL, LARGE = (0, 0, 0, 0, 0), (3, 3, 3, 3, 3)


def measured(evaluator: RelativeLatencyEvaluator[float], *networks: Network) -> list[Measurement]:
    found = []
    for row in evaluator.evaluate_batch(networks):
        value = row["latency_ms"]
        assert isinstance(value, Measurement)
        found.append(value)
    return found


class TestRelativeLatency(EvaluatorContract):
    deterministic = False

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return latency_of(SimulatedDevice(noise=0.01), additive_ms, SPACE)

    @pytest.fixture
    def networks(self) -> Sequence[Network]:
        return [SMALL, LARGE]


def test_a_quiet_device_gives_its_latencies() -> None:
    small, large = measured(latency_of(SimulatedDevice(), additive_ms, SPACE), SMALL, LARGE)
    assert small.value == pytest.approx(additive_ms(SMALL))
    assert large.value == pytest.approx(additive_ms(LARGE))
    assert small.repeats == QUICK.rounds
    assert small.spread == 0.0


def test_the_ratio_does_not_see_that_the_device_became_slower() -> None:
    device = SimulatedDevice(noise=0.02, spikes=0.05)
    evaluator = latency_of(device, additive_ms, SPACE)
    (before,) = measured(evaluator, LARGE)
    device.busy = (device.now, device.now + 1e6)
    (after,) = measured(evaluator, LARGE)
    assert after.value == pytest.approx(before.value, rel=0.02)
    # the notes tell what happened
    slower = float(after.notes["reference_ms"]) / float(before.notes["reference_ms"])
    assert slower == pytest.approx(1.6, rel=0.05)
    assert float(after.notes["own_ms"]) > 1.4 * after.value


def test_measurements_join_those_that_a_study_has(tmp_path: Path) -> None:
    with Study(tmp_path / "s.study", SPACE) as study:
        first = latency_of(SimulatedDevice(), additive_ms, SPACE)
        run(study, [SMALL], first, progress=False)
        slow = SimulatedDevice(busy=(0.0, 1e6))
        second = latency_of(slow, additive_ms, SPACE)
        second.settle(study)
        assert second.conditions == first.conditions
        run(study, [LARGE], second, progress=False)
        data = study.measurements("latency_ms")
    assert data.values == pytest.approx([additive_ms(SMALL), additive_ms(LARGE)])


def test_conditions_name_the_reference_and_its_latency() -> None:
    evaluator = latency_of(SimulatedDevice(), additive_ms, SPACE)
    conditions = evaluator.conditions
    assert conditions["device"] == "box"
    assert conditions["reference"] == ",".join(map(str, SPACE.reference))
    assert float(conditions["reference_ms"]) == pytest.approx(additive_ms(SPACE.reference))
    assert "ratio" in conditions["statistic"]


def test_a_device_that_is_too_noisy_is_refused_and_may_be_accepted() -> None:
    wild = SimulatedDevice(noise=1.0)
    with pytest.raises(EvaluationError, match=r"known to 2\.0%.*after 80 rounds.*accept"):
        measured(latency_of(wild, additive_ms, SPACE), LARGE)
    accepting = latency_of(wild, additive_ms, SPACE, accept_noise=True)
    (found,) = measured(accepting, LARGE)
    assert "at most 2.0%" in found.notes["flags"]
    assert accepting.conditions["noise"] == "accepted"


def test_the_reference_is_prepared_once() -> None:
    device = SimulatedDevice()
    evaluator = latency_of(device, additive_ms, SPACE)
    for _ in range(3):
        evaluator.evaluate(SMALL)
    assert device.prepared == 1 + 3


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="batch_size is at least 1"):
        RelativeLatencyEvaluator(additive_ms, SimulatedDevice(), SMALL, batch_size=0)
