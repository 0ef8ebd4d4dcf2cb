"""What `evaluate` promises whatever it runs on: resume, seeds, threads, failures, executors."""

from __future__ import annotations

import os
import sys
import tempfile
import types
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reliability_cases import (
    Returns,
    Seeds,
    Sums,
    Threads,
    all_of,
    finish,
    lines_of,
    networks_in,
    space_of,
    start,
    wait_for,
)

from mathnas import (
    EvaluationError,
    Evaluator,
    FileFormatError,
    FunctionEvaluator,
    InvalidInputError,
    Measurement,
    Network,
    Study,
    evaluate,
    metric_named,
    single_sampling,
)

SPACE = space_of()
NETWORKS = all_of(SPACE, 12)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "a.study", SPACE)


# ---- resume ---------------------------------------------------------------------------------


class Counting(Sums):
    """Notes its calls."""

    def __init__(self, conditions: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.conditions = dict(conditions or {})
        self.calls: list[Network] = []

    def evaluate(self, network: Network, seed: int) -> Mapping[str, Measurement | float]:
        self.calls.append(network)
        return super().evaluate(network, seed)


def test_only_what_is_missing_is_evaluated(study: Study) -> None:
    evaluate(study, NETWORKS[:5], Counting())
    evaluator = Counting()
    report = evaluate(study, NETWORKS, evaluator)
    assert evaluator.calls == list(NETWORKS[5:])
    assert (report.done, report.already, report.failures) == (7, 5, ())
    assert str(report).endswith("5 already there.")


def test_other_conditions_are_other_evaluations(study: Study) -> None:
    evaluate(study, NETWORKS, Counting({"device": "desk"}))
    evaluator = Counting({"device": "phone"})
    assert evaluate(study, NETWORKS, evaluator).done == len(NETWORKS)
    assert evaluate(study, NETWORKS, evaluator).already == len(NETWORKS)


def test_a_network_that_stands_twice_is_measured_twice(study: Study) -> None:
    wanted = [NETWORKS[0], NETWORKS[1], NETWORKS[0]]
    evaluator = Counting()
    evaluate(study, wanted, evaluator, repeats=2)
    assert Counter(evaluator.calls) == {NETWORKS[0]: 4, NETWORKS[1]: 2}
    # one round after another
    assert set(evaluator.calls[:2]) == set(evaluator.calls[2:4]) == set(NETWORKS[:2])
    assert evaluate(study, wanted, evaluator, repeats=3).done == 3


def test_all_metrics_of_an_evaluation_are_stored_or_none(study: Study) -> None:
    class Two(Evaluator):
        metrics = (metric_named("latency_ms"), metric_named("accuracy"))

        def evaluate(self, network: Network, seed: int) -> Mapping[str, Measurement | float]:
            return {"latency_ms": 1.0, "accuracy": float("nan")}

    report = evaluate(study, NETWORKS[:2], Two())
    assert len(study) == 0
    assert len(report.failures) == 2


def test_a_study_that_was_opened_to_read_refuses_before_measuring(tmp_path: Path) -> None:
    with Study(tmp_path / "a.study", SPACE) as study:
        study.declare(Sums.metrics)
    evaluator = Counting()
    with (
        Study(tmp_path / "a.study", read_only=True) as study,
        pytest.raises(FileFormatError, match="opened to read only"),
    ):
        evaluate(study, NETWORKS, evaluator)
    assert not evaluator.calls


def test_a_closed_study_refuses_before_measuring(study: Study) -> None:
    study.close()
    evaluator = Counting()
    with pytest.raises(FileFormatError, match="is closed"):
        evaluate(study, NETWORKS, evaluator)
    assert not evaluator.calls


# ---- seeds ----------------------------------------------------------------------------------


def seeds_of(path: Path, networks: Any, **options: Any) -> dict[Network, list[float]]:
    found: dict[Network, list[float]] = {}
    with Study(path, SPACE) as study:
        evaluate(study, networks, Seeds(), repeats=2, **options)
        for item in study.evaluations():
            assert item.measurement.value == item.seed
            found.setdefault(item.network, []).append(item.measurement.value)
    return {network: sorted(values) for network, values in found.items()}


def test_seeds_depend_on_seed_network_and_repeat_alone(tmp_path: Path) -> None:
    here = seeds_of(tmp_path / "1.study", NETWORKS)
    assert here == seeds_of(tmp_path / "2.study", NETWORKS[::-1])
    assert here == seeds_of(tmp_path / "3.study", NETWORKS, workers=2)
    with ThreadPoolExecutor(3) as executor:
        assert here == seeds_of(tmp_path / "4.study", NETWORKS, executor=executor)
    other = seeds_of(tmp_path / "5.study", NETWORKS, seed=1)
    assert all(set(other[network]).isdisjoint(here[network]) for network in NETWORKS)
    values = [value for pair in here.values() for value in pair]
    assert len(set(values)) == len(values)


def test_an_interrupted_list_gets_the_same_seeds(tmp_path: Path) -> None:
    whole = seeds_of(tmp_path / "1.study", NETWORKS)
    seeds_of(tmp_path / "2.study", NETWORKS[3:7])
    assert whole == seeds_of(tmp_path / "2.study", NETWORKS)


# ---- threads --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_use_the_declared_number_of_threads(
    study: Study, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    evaluate(study, NETWORKS, Threads(3), workers=workers)
    assert {item.measurement.value for item in study.evaluations()} == {3.0}
    assert len(study) == 2 * len(NETWORKS)
    assert os.environ["OMP_NUM_THREADS"] == "17"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def test_the_environment_is_restored_after_an_error(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    with pytest.raises(EvaluationError):
        evaluate(study, NETWORKS, FunctionEvaluator(lambda n: 1.0, ["loss"]), workers=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(study, NETWORKS, FunctionEvaluator(interrupt, ["loss"]))
    assert os.environ["OMP_NUM_THREADS"] == "17"


def interrupt(network: Network) -> float:
    raise KeyboardInterrupt


def test_torch_gets_the_declared_number_and_its_own_back(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = types.ModuleType("torch")
    set_to: list[int] = [8]
    torch.get_num_threads = lambda: set_to[-1]  # type: ignore[attr-defined]
    torch.set_num_threads = set_to.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    seen: list[int] = []

    def measure(network: Network) -> float:
        seen.append(set_to[-1])
        return 1.0

    evaluator = FunctionEvaluator(measure, ["loss"], threads=2)
    evaluate(study, NETWORKS[:4], evaluator)
    with ThreadPoolExecutor(2) as executor:
        evaluate(study, NETWORKS, evaluator, executor=executor)
    assert set(seen) == {2}
    assert set_to[-1] == 8


@pytest.mark.parametrize("threads", [0, -1])
def test_an_evaluation_uses_a_thread_at_least(study: Study, threads: int) -> None:
    with pytest.raises(EvaluationError, match=f"at least 1 thread.*{threads}"):
        evaluate(study, NETWORKS, Sums(threads=threads))


# ---- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_recorded_and_the_rest_goes_on(study: Study, workers: int) -> None:
    report = evaluate(study, NETWORKS, Sums(raises=NETWORKS[4]), workers=workers)
    assert report.done == len(NETWORKS) - 1
    (failure,) = report.failures
    assert failure.network == NETWORKS[4]
    assert failure.error == "RuntimeError: no such luck"
    assert "in evaluate" in failure.traceback
    (stored,) = study.failures()
    assert stored == failure
    assert "1 failed:\n  0,0,0,4: RuntimeError: no such luck" in str(report)
    assert evaluate(study, NETWORKS, Sums(), workers=workers).done == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "returns a mapping of metric names to values, but Returns gave None"),
        (3.5, "returns a mapping of metric names to values, but Returns gave 3.5"),
        ([1.0], "returns a mapping"),
        ({}, "gave [] without 'latency_ms'"),
        ({"latency_us": 1.0}, "gave ['latency_us'] without 'latency_ms'"),
        ({"latency_ms": None}, "is a number or a Measurement, but Returns gave latency_ms = None"),
        ({"latency_ms": "fast"}, "is a number or a Measurement"),
        ({"latency_ms": "1.5"}, "is a number or a Measurement"),
        ({"latency_ms": [1.0, 2.0]}, "is a number or a Measurement"),
        ({"latency_ms": 1j}, "is a number or a Measurement"),
        ({"latency_ms": float("nan")}, "must be finite, but latency_ms = nan"),
        ({"latency_ms": float("inf")}, "must be finite, but latency_ms = inf"),
        ({"latency_ms": np.float32("-inf")}, "must be finite, but latency_ms = -inf"),
        ({"latency_ms": Measurement(float("nan"))}, "must be finite, but latency_ms = nan"),
    ],
)
def test_what_is_not_a_measurement_is_a_failure(study: Study, value: object, words: str) -> None:
    report = evaluate(study, NETWORKS[:2], Returns(value))
    assert report.done == 0
    assert words in report.failures[0].error
    assert len(study) == 0


@pytest.mark.parametrize(
    "value",
    [2, 2.0, np.float64(2), np.float32(2), np.int64(2), np.array(2.0), Measurement(2.0, 0.5, 3)],
    ids=lambda value: type(value).__name__,
)
def test_numbers_of_every_kind_are_stored(study: Study, value: Any) -> None:
    returned = {"latency_ms": value, "extra": "is ignored"}
    report = evaluate(study, NETWORKS[:1], Returns(returned))
    assert report.failures == ()
    (item,) = study.evaluations()
    assert item.measurement.value == 2.0
    assert type(item.measurement.value) is float


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("half a character: \udcff"),
        RuntimeError("zero \0 inside"),
        RuntimeError("[/markup] that is none"),
        Unprintable(),
        RuntimeError("x" * 100_000),
    ],
    ids=["surrogate", "zero", "markup", "unprintable", "long"],
)
@pytest.mark.parametrize("progress", [False, True])
def test_any_error_can_be_recorded(study: Study, error: Exception, progress: bool) -> None:
    def raise_it(network: Network) -> float:
        raise error

    evaluator = FunctionEvaluator(raise_it, ["loss"])
    report = evaluate(study, NETWORKS[:2], evaluator, progress=progress)
    assert len(report.failures) == 2
    assert [item.error[:12] for item in study.failures()] == [
        item.error[:12] for item in report.failures
    ]
    assert len(str(report)) < 1000


def test_wrong_networks_are_refused_before_measuring(study: Study) -> None:
    evaluator = Counting()
    with pytest.raises(InvalidInputError, match="blocks 0 to 4, but got 9"):
        evaluate(study, [NETWORKS[0], (0, 0, 0, 9)], evaluator)
    assert not evaluator.calls


@pytest.mark.parametrize("options", [{"repeats": 0}, {"workers": 0}, {"workers": -2}])
def test_repeats_and_workers_are_positive(study: Study, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="at least 1, but got"):
        evaluate(study, NETWORKS, Sums(), **options)


def test_metrics_are_declared(study: Study) -> None:
    evaluator = Sums()
    evaluator.metrics = ()  # type: ignore[assignment]
    with pytest.raises(EvaluationError, match="declares no metrics"):
        evaluate(study, NETWORKS, evaluator)
    evaluator.metrics = ("latency_ms",)  # type: ignore[assignment]
    with pytest.raises(EvaluationError, match="declares metrics as Metric, but Sums has 'lat"):
        evaluate(study, NETWORKS, evaluator)


def test_a_sample_notes_its_reference(study: Study) -> None:
    sample = single_sampling(SPACE, (1, 2, 3, 4))
    evaluate(study, sample, Sums())
    assert study.reference == (1, 2, 3, 4)


# ---- executors ------------------------------------------------------------------------------


class AtOnce(Executor):
    """The smallest executor: does the work while it is handed over."""

    def __init__(self, breaks_at: int = -1, error: type[Exception] = BrokenExecutor) -> None:
        self.submitted = 0
        self.breaks_at = breaks_at
        self.error = error

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        self.submitted += 1
        if self.submitted == self.breaks_at:
            raise self.error("out of order")
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **options))
        except BaseException as error:
            future.set_exception(error)
        return future


def test_threads_need_no_pickling(study: Study) -> None:
    with ThreadPoolExecutor(3) as executor:
        evaluator = FunctionEvaluator(lambda network: float(sum(network)), ["loss"])
        report = evaluate(study, NETWORKS, evaluator, executor=executor)
    assert report.done == len(NETWORKS)
    assert all(item.measurement.value == sum(item.network) for item in study.evaluations())


def test_a_process_pool_of_ones_own(study: Study) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        first = evaluate(study, NETWORKS[:6], Sums(raises=NETWORKS[1]), executor=executor)
        second = evaluate(study, NETWORKS, Sums(), executor=executor)
        with pytest.raises(EvaluationError, match="cannot be pickled"):
            evaluate(study, NETWORKS, FunctionEvaluator(lambda n: 1.0, ["loss"]), executor=executor)
    assert (first.done, len(first.failures), second.done) == (5, 1, 7)


def test_a_process_pool_that_starts_here_gets_the_threads(study: Study) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        evaluate(study, NETWORKS, Threads(5), executor=executor)
    assert {item.measurement.value for item in study.evaluations()} == {5.0}


def test_any_executor_serves(study: Study) -> None:
    executor = AtOnce()
    assert evaluate(study, NETWORKS, Sums(), executor=executor).done == len(NETWORKS)
    assert executor.submitted == len(NETWORKS)


def test_what_is_done_is_stored_before_more_is_handed_over(study: Study) -> None:
    stored: list[int] = []

    class Looks(AtOnce):
        def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
            stored.append(len(study))
            return super().submit(function, *arguments, **options)

    evaluate(study, NETWORKS, Sums(), executor=Looks())
    assert stored == list(range(len(NETWORKS)))


def test_an_executor_that_breaks_on_submit_loses_nothing(study: Study) -> None:
    with pytest.raises(EvaluationError, match=r"AtOnce gave up .*out of order.*new executor"):
        evaluate(study, NETWORKS, Sums(), executor=AtOnce(breaks_at=6))
    assert networks_in(study) == Counter(NETWORKS[:5])
    assert evaluate(study, NETWORKS, Sums(), executor=AtOnce()).done == len(NETWORKS) - 5


def test_a_process_pool_that_breaks_loses_nothing(study: Study) -> None:
    networks = all_of(SPACE, 40)
    with (
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor,
        pytest.raises(EvaluationError, match="ProcessPoolExecutor gave up"),
    ):
        evaluate(study, networks, Sums(kills=networks[20]), executor=executor)
    assert len(study) >= 15
    assert not study.failures()


def test_an_executor_that_was_shut_down_is_an_error(study: Study) -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(EvaluationError, match=r"takes no work.*not shut down"):
        evaluate(study, NETWORKS, Sums(), executor=executor)


def test_work_that_others_cancel_is_an_error(study: Study) -> None:
    class Cancels(AtOnce):
        def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
            future = super().submit(function, *arguments, **options)
            if self.submitted == 4:
                future = Future()
                future.cancel()
                future.set_running_or_notify_cancel()
            return future

    with pytest.raises(EvaluationError, match=r"Cancels gave up.*cancelled"):
        evaluate(study, NETWORKS, Sums(), executor=Cancels())
    assert len(study) == 3


@pytest.mark.parametrize("answer", [None, [], [1.0, 2.0], {"latency_ms": 1.0}])
def test_an_executor_that_returns_something_else(study: Study, answer: object) -> None:
    class Forgetful(AtOnce):
        def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
            future = super().submit(function, *arguments, **options)
            if self.submitted == 2:
                future = Future()
                future.set_result(answer)
            return future

    report = evaluate(study, NETWORKS, Sums(), executor=Forgetful())
    assert report.done == len(NETWORKS) - 1
    assert "the executor returned" in report.failures[0].error


def test_an_error_of_the_executor_is_a_failure_of_that_network(study: Study) -> None:
    class Fails(AtOnce):
        def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
            future = super().submit(function, *arguments, **options)
            if self.submitted == 2:
                future = Future()
                future.set_exception(ConnectionError("node 7 is gone"))
            return future

    report = evaluate(study, NETWORKS, Sums(), executor=Fails())
    assert [failure.error for failure in report.failures] == ["ConnectionError: node 7 is gone"]
    assert report.failures[0].network == NETWORKS[1]


# ---- alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"workers": 2}, {"executor": AtOnce()}])
def test_what_must_run_alone_refuses_company(study: Study, options: dict[str, Any]) -> None:
    evaluator = FunctionEvaluator(lambda n: 1.0, ["latency_ms"], exclusive=True)
    with pytest.raises(EvaluationError, match=r"latency_ms must be measured alone.*leave out"):
        evaluate(study, NETWORKS, evaluator, **options)
    assert len(study) == 0


def test_two_exclusive_runs_take_turns(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path)}
    runs = [start("alone.py", f"{i}.study", 0.05, cwd=tmp_path, **environment) for i in range(2)]
    for run in runs:
        finish(run)
    spans = [tuple(map(float, line.split())) for line in lines_of(tmp_path / "spans")]
    assert len(spans) == 20
    spans.sort()
    for (_, end), (begin, _) in pairwise(spans):
        assert begin >= end, "two measurements ran beside one another"


def test_an_exclusive_run_says_what_it_waits_for(
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    other = start("alone.py", "other.study", 2.5, cwd=tmp_path, TMPDIR=str(tmp_path))
    wait_for((tmp_path / "spans").exists)
    evaluator = FunctionEvaluator(lambda n: 1.0, ["latency_ms"], exclusive=True)
    assert evaluate(study, NETWORKS[:1], evaluator).done == 1
    assert "waiting for another measurement" in capsys.readouterr().err
    finish(other)


def test_nothing_to_measure_waits_for_nobody(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    evaluator = FunctionEvaluator(lambda n: 1.0, ["latency_ms"], exclusive=True)
    assert evaluate(study, [], evaluator).done == 0
