"""Latency on an engine of our own making."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import mathnas as mn
from mathnas import Evaluator, InvalidInputError, Measurement, Network
from mathnas.devices.common import LatencyEvaluator
from mathnas.devices.host import Device
from mathnas.devices.noise import NoiseError, NoiseRule
from mathnas.devices.state import Usage
from mathnas.devices.timing import TimingSettings
from mathnas.testing import EvaluatorContract

QUICK = TimingSettings(rounds=4, slice_ms=1.0, warmup_ms=5.0)
ACCEPTED = {"noise": "accepted"}
DEVICE = Device("box", "a processor", 2, "an operating system")


class Counting:
    """An engine whose models are loops of a given length."""

    name = "loops"
    version = "1.5"
    threads = 3
    precision = "int"
    batch = 4

    def __init__(self) -> None:
        self.prepared: list[int] = []

    def prepare(self, model: int) -> Callable[[], object]:
        self.prepared.append(model)
        return lambda: sum(range(model))


def loops(network: Network) -> int:
    return 2000 * (1 + sum(network))


def evaluator_of(engine: Counting, batch_size: int = 1, **settings: Any) -> LatencyEvaluator[int]:
    """By default noise does not count: these tests run on whatever machine."""
    settings = {"noise": NoiseRule(attempts=1), "accept_noise": True, **settings}
    return LatencyEvaluator(
        loops, engine, device=DEVICE, timing=QUICK, batch_size=batch_size, **settings
    )


class TestLatency(EvaluatorContract):
    deterministic = False

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return evaluator_of(Counting())

    @pytest.fixture
    def networks(self) -> Sequence[Network]:
        return [(0, 0), (1, 2)]


def test_more_work_takes_longer() -> None:
    short, long = evaluator_of(Counting()).evaluate_batch([(0, 0), (4, 5)])
    assert isinstance(short["latency_ms"], Measurement)
    assert isinstance(long["latency_ms"], Measurement)
    assert 5 < long["latency_ms"].value / short["latency_ms"].value < 20
    assert short["latency_ms"].repeats >= 4 * 5


def test_conditions_tell_device_engine_and_statistic() -> None:
    accepting = evaluator_of(Counting()).conditions
    assert accepting == {**evaluator_of(Counting(), accept_noise=False).conditions, **ACCEPTED}
    assert evaluator_of(Counting(), accept_noise=False).conditions == {
        "device": "box",
        "engine": "loops",
        "engine_version": "1.5",
        "threads": "3",
        "precision": "int",
        "batch": "4",
        "statistic": "0.1 quantile of 4 medians of 1 ms of runs",
    }


def test_it_must_be_alone_and_uses_the_threads_of_the_engine() -> None:
    evaluator = evaluator_of(Counting(), batch_size=7)
    assert evaluator.exclusive
    assert evaluator.threads == 3
    assert evaluator.batch_size == 7


def test_every_network_is_prepared_once() -> None:
    engine = Counting()
    evaluator_of(engine).evaluate_batch([(0, 0), (1, 2)])
    assert engine.prepared == [2000, 8000]


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="batch_size is at least 1, but got 0"):
        evaluator_of(Counting(), batch_size=0)


# ---- noise: what the machine does is made up, times are real -------------------------------------

CALM = Usage(seconds=1.0, own=1.0, cores=4, busy=1.0, stolen=0.0, waited=0.01)
BUSY = Usage(seconds=1.0, own=0.5, cores=4, busy=1.5, stolen=0.0, waited=0.4)
TOLERANT = NoiseRule(spread=1e9, drift=1e9, reference=1e9, pause_s=1.5)  # of real times


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


class Machine:
    """Does what its plan says in one attempt after another, and sleeps at once.

    Attributes:
        plan: for the attempts to come.
        slept: the pauses that were made.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan: Iterator[Usage] = iter(())
        self.slept: list[float] = []
        monkeypatch.setattr(Usage, "until_now", lambda before, root: next(self.plan))
        monkeypatch.setattr(time, "sleep", self.slept.append)


def latency(found: object) -> Measurement:
    assert isinstance(found, dict)
    value = found["latency_ms"]
    assert isinstance(value, Measurement)
    return value


def test_a_calm_measurement_is_made_once(machine: Machine) -> None:
    machine.plan = iter([CALM])
    strict = evaluator_of(Counting(), accept_noise=False, noise=TOLERANT)
    notes = latency(strict.evaluate((0, 0))).notes
    assert notes["attempts"] == "1"
    assert notes["waited"] == "0.0100"
    assert notes["others_cores"] == "0.00"
    assert {"median_ms", "minimum_ms", "cpu_ms", "drift"} <= set(notes)
    assert "flags" not in notes
    assert machine.slept == []


def test_a_disturbed_one_is_made_again_after_a_pause(machine: Machine) -> None:
    machine.plan = iter([BUSY, BUSY, CALM])
    strict = evaluator_of(Counting(), accept_noise=False, noise=TOLERANT)
    notes = latency(strict.evaluate((0, 0))).notes
    assert notes["attempts"] == "3"
    assert "flags" not in notes
    assert machine.slept == [1.5, 1.5]


def test_what_stays_disturbed_is_refused(machine: Machine) -> None:
    machine.plan = iter([BUSY] * 3)
    strict = evaluator_of(Counting(), accept_noise=False, noise=TOLERANT)
    message = (
        r"0,0 and 1 more stayed noisy in 3 attempts \(waiting: share of time waited for a core "
        r"40.0% \(at most 5%\)\): .*accept_noise=True"
    )
    with pytest.raises(NoiseError, match=message):
        strict.evaluate_batch([(0, 0), (1, 2)])


def test_or_kept_with_its_flags(machine: Machine) -> None:
    machine.plan = iter([BUSY] * 3)
    lenient = evaluator_of(Counting(), noise=TOLERANT)
    found = latency(lenient.evaluate((0, 0)))
    assert found.notes["attempts"] == "3"
    assert found.notes["flags"].startswith("waiting: ")
    assert lenient.conditions["noise"] == "accepted"


def test_a_refusal_costs_a_study_only_what_was_disturbed(machine: Machine, tmp_path: Path) -> None:
    """The second batch is disturbed: it fails as one, and the next run measures it alone."""
    machine.plan = iter([CALM, BUSY, BUSY, BUSY])
    strict = evaluator_of(Counting(), batch_size=2, accept_noise=False, noise=TOLERANT)
    space = mn.SearchSpace([mn.BlockNode("n", tuple(mn.Block(f"b{i}", i + 1) for i in range(4)))])
    networks = list(space.enumerate())
    with mn.Study(tmp_path / "my.study", space) as study:
        report = mn.evaluate(study, networks, strict)
        assert [failure.network for failure in report.failures] == networks[2:]
        assert all("stayed noisy" in failure.error for failure in report.failures)
        machine.plan = iter([CALM])
        again = mn.evaluate(study, networks, strict)
        assert (again.already, again.done, again.failures) == (2, 2, ())


def test_a_reference_tells_of_a_machine_that_changed(machine: Machine) -> None:
    """From the second batch on the engine is twice as slow, for whatever reason."""

    class Tiring(Counting):
        def prepare(self, model: int) -> Callable[[], object]:
            self.prepared.append(model)
            return lambda: sum(range(model * (1 if len(self.prepared) < 3 else 2)))

    machine.plan = iter([CALM] * 4)
    noise = NoiseRule(spread=1e9, drift=1e9, reference=0.5, attempts=2)
    strict = evaluator_of(Tiring(), reference=(9, 9), accept_noise=False, noise=noise)
    assert float(latency(strict.evaluate((0, 0))).notes["reference_ms"]) > 0
    with pytest.raises(NoiseError, match="reference: the reference network's time changed by"):
        strict.evaluate((0, 1))


def test_further_statistics_are_further_metrics() -> None:
    evaluator = evaluator_of(Counting(), statistics=["median", "min"])
    names = ["latency_ms", "latency_ms_median", "latency_ms_min"]
    assert [metric.name for metric in evaluator.metrics] == names
    found = evaluator.evaluate((0, 0))
    low, middle = found["latency_ms_min"], found["latency_ms_median"]
    assert isinstance(low, Measurement)
    assert isinstance(middle, Measurement)
    assert low.value <= latency(found).value <= middle.value
    with pytest.raises(
        InvalidInputError, match="median, min, trimmed, cpu, each once, but got 'mean'"
    ):
        evaluator_of(Counting(), statistics=["mean"])


def test_measuring_needs_neither_torch_nor_an_engine() -> None:
    code = (
        "import sys, mathnas.devices.common; "
        "sys.exit(bool({'torch', 'onnx', 'onnxruntime', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
