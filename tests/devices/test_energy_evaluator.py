"""Energy of networks: what is measured, what is only stated, and how each says so."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from energy_cases import Board, lenient

import mathnas as mn
from mathnas import Evaluator, InvalidInputError, Measurement, Network
from mathnas.devices.common import LatencyEvaluator
from mathnas.devices.energy import MeterKind, StatedPower
from mathnas.devices.energy.evaluator import EnergyEvaluator, StatedEnergyEvaluator
from mathnas.devices.energy.windows import EnergySettings
from mathnas.devices.host import Device
from mathnas.devices.noise import NoiseError
from mathnas.devices.timing import TimingSettings
from mathnas.testing import EvaluatorContract

DEVICE = Device("box", "a processor", 2, "an operating system")
QUICK = EnergySettings(rounds=2, window_s=0.02, readings=5)
SPACE = mn.SearchSpace([mn.BlockNode("a", (mn.Block("x"), mn.Block("y")))], name="one")
TIMING = TimingSettings(rounds=3, slice_ms=2.0, warmup_ms=5.0)


class Engine:
    """Runs a model, which is a number of watts, for a millisecond."""

    name, version, threads, precision, batch = "board", "2.1", 3, "int8", 4

    def __init__(self, board: Board) -> None:
        self.board = board

    def prepare(self, model: float) -> Callable[[], object]:
        return self.board.call(model)


def watts(network: Network) -> float:
    return 2.0 + 3.0 * sum(network)


def measured(board: Board, batch_size: int = 1) -> EnergyEvaluator[float]:
    return EnergyEvaluator(
        watts,
        Engine(board),
        board,
        device=DEVICE,
        settings=QUICK,
        batch_size=batch_size,
        noise=lenient(),
    )


def stated(board: Board) -> StatedEnergyEvaluator[float]:
    latency = LatencyEvaluator(watts, Engine(board), device=DEVICE, timing=TIMING, noise=lenient())
    return StatedEnergyEvaluator(latency, StatedPower(5.0, "datasheet"))


class TestEnergy(EvaluatorContract):
    deterministic = False

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return measured(Board(MeterKind.COUNTER))

    @pytest.fixture
    def networks(self) -> Sequence[Network]:
        return [(0, 0), (1, 2)]


class TestStatedEnergy(TestEnergy):
    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return stated(Board())


def test_networks_that_draw_more_use_more() -> None:
    board = Board(MeterKind.COUNTER)
    small, large = measured(board, 2).evaluate_batch([(0, 0), (1, 2)])
    for row, power in ((small, 2.0), (large, 11.0)):
        energy = row["energy_mj"]
        assert isinstance(energy, Measurement)
        expected = power * float(energy.notes["run_ms"])
        assert energy.value == pytest.approx(expected, rel=0.2)


def test_conditions_tell_what_was_measured_and_how() -> None:
    evaluator = measured(Board(MeterKind.COUNTER), 7)
    assert evaluator.conditions == {
        "device": "box",
        "engine": "board",
        "engine_version": "2.1",
        "threads": "3",
        "precision": "int8",
        "batch": "4",
        "energy": "measured, idle power subtracted",
        "meter": "board",
        "covers": "a board",
        "statistic": "median of 2 windows of 0.02 s",
    }
    assert evaluator.exclusive
    assert (evaluator.threads, evaluator.batch_size) == (3, 7)
    assert [metric.name for metric in evaluator.metrics] == ["energy_mj"]


def test_a_stated_power_is_never_a_measurement() -> None:
    evaluator = stated(Board())
    assert [metric.name for metric in evaluator.metrics] == ["energy_mj_stated"]
    assert evaluator.metrics[0].unit == "mJ"
    assert evaluator.conditions["energy"] == "stated power 5 W x latency"
    assert evaluator.conditions["energy_source"] == "datasheet"
    assert evaluator.conditions["engine"] == "board"
    (energy,) = evaluator.evaluate((0, 0)).values()
    assert isinstance(energy, Measurement)
    assert energy.notes["energy"] == "stated power 5 W x latency, not measured"
    assert energy.notes["energy_source"] == "datasheet"
    assert energy.value == pytest.approx(5 * float(energy.notes["latency_ms"]), rel=1e-5)
    assert energy.spread is not None
    with pytest.raises(InvalidInputError, match="a stated power is no measurement"):
        EnergyEvaluator(watts, Engine(Board()), StatedPower(5.0))  # type: ignore[arg-type]


def test_a_stated_power_says_what_it_is() -> None:
    assert StatedPower(0.25).label == "stated power 0.25 W x latency"
    assert StatedPower(5.0).source == "typed in by the user"
    with pytest.raises(InvalidInputError, match="says where it comes from"):
        StatedPower(5.0, " ")


def test_a_study_keeps_measured_and_stated_energy_apart(tmp_path: Path) -> None:
    board = Board(MeterKind.COUNTER)
    with mn.Study(tmp_path / "x.study", SPACE) as study:
        assert mn.evaluate(study, list(SPACE.enumerate()), measured(board)).done == 2
        assert mn.evaluate(study, list(SPACE.enumerate()), stated(board)).done == 2
        assert len(study.measurements("energy_mj")) == 2
        assert study.measurements("energy_mj_stated").conditions["energy"].startswith("stated")


def test_a_meter_that_fails_is_a_failed_evaluation(tmp_path: Path) -> None:
    board = Board(MeterKind.COUNTER)
    board.gone = True
    with mn.Study(tmp_path / "x.study", SPACE) as study:
        report = mn.evaluate(study, list(SPACE.enumerate()), measured(board))
        assert report.done == 0
        assert {failure.error for failure in report.failures} == {
            "MeterAbsentError: the board was unplugged."
        }


class Fan(Board):
    """A board whose fan turns faster for the first `restless` rounds of its life."""

    def __init__(self, restless: int) -> None:
        super().__init__(MeterKind.COUNTER, self._watts_of_fan)
        self.restless = restless
        self.rounds = 0

    def _watts_of_fan(self, _: float) -> float:
        return 2.0 + 2.0 * self.rounds if self.rounds < self.restless else 2.0

    def call(self, watts: float, milliseconds: float = 1.0) -> Callable[[], None]:
        run, last = super().call(watts, milliseconds), 0.0

        def counted() -> None:
            nonlocal last
            now = time.monotonic()
            self.rounds += now - last > 0.05  # it was idle before
            run()
            last = time.monotonic()

        return counted


def fanned(board: Board, **options: Any) -> EnergyEvaluator[float]:
    return EnergyEvaluator(
        watts, Engine(board), board, settings=QUICK, noise=lenient(attempts=2), **options
    )


def test_what_was_disturbed_is_measured_again() -> None:
    (energy,) = fanned(Fan(restless=3)).evaluate((1,)).values()
    assert isinstance(energy, Measurement)
    assert energy.notes["attempts"] == "2"
    assert "flags" not in energy.notes
    assert energy.value == pytest.approx(5.0 * float(energy.notes["run_ms"]), rel=0.2)


def test_what_stays_disturbed_is_refused_or_accepted() -> None:
    with pytest.raises(NoiseError, match=r"that of 1 stayed noisy in 2 attempts \(idle: the idle"):
        fanned(Fan(restless=99)).evaluate((1,))
    evaluator = fanned(Fan(restless=99), accept_noise=True)
    (energy,) = evaluator.evaluate((1,)).values()
    assert isinstance(energy, Measurement)
    assert "idle: the idle power moved by" in energy.notes["flags"]
    assert evaluator.conditions["noise"] == "accepted"
    assert "noise" not in fanned(Board()).conditions


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="batch_size is at least 1, but got 0"):
        measured(Board(), 0)


def test_energy_on_the_engine_that_serves_networks() -> None:
    """A counter that is made of this process's own work: 10 W while it runs, 2 W always."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    from mathnas.devices.onnxruntime import OnnxRuntimeEngine

    class Processor(Board):
        def read(self) -> tuple[float, ...]:
            return (2 * time.monotonic() + 10 * time.process_time(),)

    def graph(network: Network) -> bytes:
        names = [f"y{step}" for step in range(2 + 8 * network[0])]
        nodes = [helper.make_node("Mul", [a, a], [b]) for a, b in itertools.pairwise(names)]
        kind = TensorProto.FLOAT
        model = helper.make_model(
            helper.make_graph(
                nodes,
                "squares",
                [helper.make_tensor_value_info(names[0], kind, [1, 100_000])],
                [helper.make_tensor_value_info(names[-1], kind, None)],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        return bytes(model.SerializeToString())

    settings = EnergySettings(rounds=3, window_s=0.1)
    evaluator = EnergyEvaluator(
        graph,
        OnnxRuntimeEngine(),
        Processor(MeterKind.COUNTER),
        settings=settings,
        noise=lenient(),
    )
    short, long = (row["energy_mj"] for row in evaluator.evaluate_batch([(0,), (1,)]))
    assert isinstance(short, Measurement)
    assert isinstance(long, Measurement)
    assert long.value > 2 * short.value
    assert long.value <= 10.5 * float(long.notes["run_ms"])
    assert float(long.notes["idle_w"]) == pytest.approx(2.0, abs=0.5)
