"""What a run cost is in the study, also where the run was killed or stopped."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from reliability_cases import (
    Sums,
    all_of,
    check_intact,
    fact,
    finish,
    networks_in,
    space_of,
    start,
)

from mathnas import (
    Evaluation,
    EvaluationError,
    FileFormatError,
    InvalidInputError,
    MathNASWarning,
    Study,
    evaluate,
)
from mathnas.costs import RunCost

SPACE = space_of()
NETWORKS = all_of(SPACE, 10)


class Meter:
    """Gives what it was told to give; an error is raised."""

    name = "told"

    def __init__(self, *readings: float | Exception) -> None:
        self.readings = list(readings)
        self.stopped = 0

    def start(self) -> None:
        pass

    def joules(self) -> float:
        reading = self.readings.pop(0)
        if isinstance(reading, Exception):
            raise reading
        return reading

    def stop(self) -> None:
        self.stopped += 1


class Absent(Meter):
    def start(self) -> None:
        raise EvaluationError("no sensor")


def test_a_run_is_recorded_with_what_was_evaluated(tmp_path: Path) -> None:
    meter = Meter(7.2e6)
    with Study(tmp_path / "a.study", SPACE) as study:
        with study.recording("estimation", meter=meter, grid_intensity=50.0):
            evaluate(study, NETWORKS, Sums(nap=0.01), repeats=2)
            (begun,) = study.runs
            assert (begun.finished, begun.joules) == (False, None)
        (run,) = study.runs
    assert (run.what, run.networks, run.finished) == ("estimation", 20, True)
    assert run.seconds >= 0.2
    assert run.cpu_seconds < run.seconds  # it slept
    assert (run.meter, run.joules, run.co2_grams) == ("told", 7.2e6, 100.0)
    assert meter.stopped == 1


def test_evaluations_are_counted_however_many_metrics_they_have(tmp_path: Path) -> None:
    with Study(tmp_path / "a.study", SPACE) as study:
        with study.recording("search") as recorder:
            study.add([fact(n, metric=m) for n in NETWORKS[:3] for m in ("latency_ms", "loss")])
            assert recorder.cost.networks == 3
        study.add([fact(NETWORKS[4])])  # nobody counts
        assert [run.networks for run in study.runs] == [3]


def test_processor_time_of_workers_counts(tmp_path: Path) -> None:
    with Study(tmp_path / "a.study", SPACE) as study:
        with study.recording("estimation"):
            evaluate(study, NETWORKS[:2], Sums(), workers=2)
        assert study.runs[0].cpu_seconds > 0.2  # both imported numpy


def test_a_run_that_fails_is_recorded_and_the_error_stays(tmp_path: Path) -> None:
    with Study(tmp_path / "a.study", SPACE) as study:
        with pytest.raises(KeyboardInterrupt):
            stopped(study)
        with (
            pytest.raises(EvaluationError, match="no sensor"),
            study.recording("estimation", meter=Absent()),
        ):
            pytest.fail("a meter that cannot begin says so first")
        with study.recording("search"):
            pass
        assert [(r.what, r.networks, r.finished) for r in study.runs] == [
            ("refinement", 1, True),
            ("search", 0, True),
        ]


def stopped(study: Study) -> None:
    with study.recording("refinement"):
        study.add([fact(NETWORKS[0])])
        raise KeyboardInterrupt


def test_a_meter_that_disappears_costs_the_energy_alone(tmp_path: Path) -> None:
    meter = Meter(5.0, OSError("sensor gone"))
    with Study(tmp_path / "a.study", SPACE) as study:
        recording = study.recording("estimation", meter=meter)
        recorder = recording.__enter__()
        recorder.interval = 0.0
        study.add([fact(NETWORKS[0])])
        assert study.runs[0].joules == 5.0
        with pytest.warns(MathNASWarning, match=r"told failed \(OSError: sensor gone\)"):
            recording.__exit__(None, None, None)
        (run,) = study.runs
        assert (run.joules, run.networks, run.finished) == (None, 1, True)
        assert len(study) == 1
    assert meter.stopped == 1


def test_runs_are_not_nested(tmp_path: Path) -> None:
    with Study(tmp_path / "a.study", SPACE) as study, study.recording("search"):
        with (
            pytest.raises(InvalidInputError, match="one run is recorded at a time"),
            study.recording("search"),
        ):
            pass
        with Study(study.path) as other, other.recording("search"):
            pass  # another driver has its own
        assert len(study.runs) == 2


def test_a_study_that_is_only_read_records_nothing(tmp_path: Path) -> None:
    Study(tmp_path / "a.study", SPACE).close()
    content = (tmp_path / "a.study").read_bytes()
    with Study(tmp_path / "a.study", read_only=True) as study:
        with pytest.raises(FileFormatError, match="to read only"), study.recording("search"):
            pytest.fail("it began")
        with pytest.raises(FileFormatError, match="to read only"):
            study.add_run(RunCost("search"))
    assert (tmp_path / "a.study").read_bytes() == content


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_keeps_what_was_spent_until_the_last_report(tmp_path: Path) -> None:
    process = start("recorded.py", 100, cwd=tmp_path)
    assert process.stdout is not None
    for _ in range(25):
        assert process.stdout.readline() == "evaluated\n"
    process.kill()
    process.communicate()
    check_intact(tmp_path / "recorded.study", tmp_path)
    with Study(tmp_path / "recorded.study", read_only=True) as study:
        (killed,) = study.runs
        assert not killed.finished
        # a report is due after 0.1 s, which is three or four evaluations
        assert len(study) - 8 <= killed.networks <= len(study)
        assert killed.seconds >= killed.networks * 0.03
        assert killed.cpu_seconds > killed.networks * 0.025
        assert killed.joules is not None
        assert killed.joules >= 3
        stored = len(study)
    finish(start("recorded.py", 30, cwd=tmp_path))
    with Study(tmp_path / "recorded.study", read_only=True) as study:
        first, second = study.runs
        assert (first, second.finished) == (killed, True)
        assert second.networks == 30 - stored


# ---- threads ------------------------------------------------------------------------------------


def test_what_is_added_while_a_run_ends_belongs_to_it(tmp_path: Path) -> None:
    with Study(tmp_path / "a.study", SPACE) as study:
        recording = study.recording("search")
        recording.__enter__()

        def ending() -> Iterator[Evaluation]:
            recording.__exit__(None, None, None)  # as another thread would
            yield fact(NETWORKS[0])

        study.add(ending())
        assert len(study) == 1
        assert [(run.networks, run.finished) for run in study.runs] == [(1, True)]


def test_two_threads_cannot_begin_a_run_at_once(tmp_path: Path) -> None:
    class Slow(Meter):
        """While it starts, another thread asks for a recording."""

        def start(self) -> None:
            with ThreadPoolExecutor(1) as threads:
                second = threads.submit(study.recording("search").__enter__)
                with pytest.raises(InvalidInputError, match="one run is recorded at a time"):
                    second.result()

    with Study(tmp_path / "a.study", SPACE) as study:
        with study.recording("search", meter=Slow(1.0)):
            study.add([fact(NETWORKS[0])])
        with pytest.raises(InvalidInputError, match="grams of CO2"):
            study.recording("search", grid_intensity=-1.0).__enter__()
        with study.recording("search"):
            pass  # a run that could not begin is in nobody's way
        assert [(run.networks, run.finished) for run in study.runs] == [(1, True), (0, True)]


def test_runs_begin_and_end_while_threads_add(tmp_path: Path) -> None:
    switched = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads take turns in the middle of everything
    try:
        with Study(tmp_path / "a.study", SPACE) as study, ThreadPoolExecutor(4) as threads:
            added = []
            for part in range(10):
                with study.recording("search") as recorder:
                    recorder.interval = 0.0
                    networks = all_of(SPACE, 80)[8 * part : 8 * part + 8]
                    added += [threads.submit(study.add, [fact(n)]) for n in networks]
            for done in added:
                done.result()
            assert len(study) == 80
            runs = study.runs
        assert [run.finished for run in runs] == [True] * 10
        # what began between two runs is no run's
        assert sum(run.networks for run in runs) <= 80
    finally:
        sys.setswitchinterval(switched)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_keeps_what_threads_added(tmp_path: Path) -> None:
    process = start("threads.py", 600, cwd=tmp_path)
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(40)]
    process.kill()
    told += process.communicate()[0].splitlines()
    check_intact(tmp_path / "threads.study", tmp_path)
    with Study(tmp_path / "threads.study", read_only=True) as study:
        stored = networks_in(study)
        (killed,) = study.runs
    assert {SPACE.parse(text) for text in told} <= set(stored)
    assert set(stored.values()) == {1}
    # each of the threads may have stored a network and not counted it yet
    assert not killed.finished
    assert len(stored) - 8 <= killed.networks <= len(stored)
    finish(start("threads.py", 50, cwd=tmp_path))
    with Study(tmp_path / "threads.study", read_only=True) as study:
        first, second = study.runs
        assert (first, second.finished, second.networks) == (killed, True, 50)
        assert len(study) == len(stored) + 50
