"""Latency on an engine of our own making."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from mathnas import Evaluator, InvalidInputError, Measurement, Network
from mathnas.devices.common import LatencyEvaluator
from mathnas.devices.host import Device
from mathnas.devices.timing import TimingSettings
from mathnas.testing import EvaluatorContract

QUICK = TimingSettings(rounds=4, slice_ms=1.0, warmup_ms=5.0)
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


def evaluator_of(engine: Counting, batch_size: int = 1) -> LatencyEvaluator[int]:
    return LatencyEvaluator(loops, engine, device=DEVICE, timing=QUICK, batch_size=batch_size)


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
    assert evaluator_of(Counting()).conditions == {
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


def test_measuring_needs_neither_torch_nor_an_engine() -> None:
    code = (
        "import sys, mathnas.devices.common; "
        "sys.exit(bool({'torch', 'onnx', 'onnxruntime', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
