"""Ctrl-C: what has come back is stored, workers end, and KeyboardInterrupt is raised."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from reliability_cases import (
    Sums,
    all_of,
    finish,
    lines_of,
    networks_in,
    numbers,
    processes_of_session,
    space_of,
    start,
    wait_for,
)

from mathnas import Evaluation, Failure, FunctionEvaluator, Study, evaluate
from mathnas._interrupts import Interrupts

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals need the main thread"
)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("group", [True, False], ids=["terminal", "driver-only"])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_driver_ends_soon_and_whole(
    tmp_path: Path, workers: int, group: bool
) -> None:
    arguments = ["stopped.study", "--last", 600, "--nap", 0.02, "--workers", workers]
    process = start("drive.py", *arguments, cwd=tmp_path)
    wait_for(lambda: len(lines_of(tmp_path / "stored")) >= 5)
    # a terminal sends Ctrl-C to every process of the group
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    sent = time.monotonic()
    output, errors = finish(process)
    assert time.monotonic() - sent < 10
    assert errors == ""
    assert "interrupted" in output
    # the tracker of shared memory ends by itself a moment after its driver
    wait_for(lambda: not processes_of_session(process.pid), 5)
    with Study(tmp_path / "stopped.study") as study:
        stored = networks_in(study)
    acknowledged = {numbers(line) for line in lines_of(tmp_path / "stored")}
    assert len(stored) >= 5
    assert set(stored) == acknowledged


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("delay", [0.0, 0.15, 0.3])
def test_workers_that_are_starting_stay_quiet(tmp_path: Path, delay: float) -> None:
    arguments = ["stopped.study", "--last", 600, "--nap", 0.02, "--workers", 2]
    process = start("drive.py", *arguments, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "evaluating\n"
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = finish(process)
    assert errors == ""
    assert "interrupted" in output
    wait_for(lambda: not processes_of_session(process.pid), 5)


def test_a_worker_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    process = start("stubborn.py", "stopped.study", cwd=tmp_path)
    wait_for(lambda: len(lines_of(tmp_path / "began")) == 2)
    os.killpg(process.pid, signal.SIGINT)
    sent = time.monotonic()
    output, errors = finish(process)
    assert time.monotonic() - sent < 15
    assert (output, errors) == ("interrupted\n", "")


def test_a_value_that_is_being_stored_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Study):
        def add(self, evaluations: Iterable[Evaluation], failures: Iterable[Failure] = ()) -> None:
            signal.raise_signal(signal.SIGINT)
            super().add(evaluations, failures)

    space = space_of()
    with Interrupted(tmp_path / "a.study", space) as study:
        with pytest.raises(KeyboardInterrupt):
            evaluate(study, all_of(space, 10), Sums())
        assert networks_in(study) == {(0, 0, 0, 0): 1}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_evaluation_is_interrupted_at_once(tmp_path: Path) -> None:
    def measure(network: tuple[int, ...]) -> float:
        if network == (0, 0, 0, 2):
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not interrupted")
        return 1.0

    space = space_of()
    with Study(tmp_path / "a.study", space) as study:
        with pytest.raises(KeyboardInterrupt):
            evaluate(study, all_of(space, 5), FunctionEvaluator(measure, ["latency_ms"]))
        assert len(study) == 2
        assert not study.failures()


class SlowToReturn(Executor):
    """Gives results only when it has three, and Ctrl-C in the same moment."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Any]] = []
        self.futures: list[Future[Any]] = []

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, function(*arguments, **options)))
        self.futures.append(future)
        if len(self.waiting) == 3:
            for waiting, result in self.waiting:
                waiting.set_result(result)
            signal.raise_signal(signal.SIGINT)
        return future


def test_results_that_came_back_are_stored(tmp_path: Path) -> None:
    space = space_of()
    executor = SlowToReturn()
    with Study(tmp_path / "a.study", space) as study:
        with pytest.raises(KeyboardInterrupt):
            evaluate(study, all_of(space, 10), Sums(), executor=executor)
        assert len(study) == 3
    assert all(future.done() or future.cancelled() for future in executor.futures)


def test_what_has_not_begun_in_an_executor_is_taken_back(tmp_path: Path) -> None:
    space = space_of()
    calls: list[tuple[int, ...]] = []

    def measure(network: tuple[int, ...]) -> float:
        calls.append(network)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
        return 1.0

    with Study(tmp_path / "a.study", space) as study, ThreadPoolExecutor(1) as executor:
        evaluator = FunctionEvaluator(measure, ["latency_ms"])
        with pytest.raises(KeyboardInterrupt):
            evaluate(study, all_of(space, 40), evaluator, executor=executor)
    assert len(calls) <= 4


def test_a_handler_of_the_program_is_left_alone(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:

        def measure(network: tuple[int, ...]) -> float:
            signal.raise_signal(signal.SIGINT)
            return 1.0

        space = space_of()
        with Study(tmp_path / "a.study", space) as study:
            evaluate(study, all_of(space, 3), FunctionEvaluator(measure, ["latency_ms"]))
            assert len(study) == 3
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(heard) == 3


def test_one_press_that_comes_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("mathnas._interrupts.time.monotonic", lambda: now[0])
    interrupts = Interrupts()
    interrupts.__enter__()
    signal.raise_signal(signal.SIGINT)
    now[0] += 0.9
    signal.raise_signal(signal.SIGINT)
    now[0] += 0.9
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupts.__exit__(None, None, None)


def test_ctrl_c_that_came_last_is_not_forgotten() -> None:
    def work() -> None:
        with Interrupts() as interrupts:
            with interrupts.allowed():
                pass
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        work()


def test_evaluating_outside_of_the_main_thread(tmp_path: Path) -> None:
    space = space_of()
    with Study(tmp_path / "a.study", space) as study:
        thread = threading.Thread(target=lambda: evaluate(study, all_of(space, 5), Sums()))
        thread.start()
        thread.join()
        assert len(study) == 5
