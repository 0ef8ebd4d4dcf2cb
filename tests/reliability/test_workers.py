"""Workers that die, and evaluators that cannot be sent to them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from reliability_cases import (
    SCRIPTS,
    Returns,
    Sums,
    all_of,
    finish,
    lines_of,
    networks_in,
    processes_of_session,
    space_of,
    start,
    wait_for,
)

from mathnas import EvaluationError, Evaluator, FunctionEvaluator, Network, Study, evaluate
from mathnas._workers import Failed, Task, evaluate_task

sys.path.insert(0, str(SCRIPTS))


@pytest.mark.parametrize("position", [0, 7], ids=["first", "in-the-middle"])
def test_the_network_that_kills_its_worker_is_named_and_the_rest_goes_on(
    tmp_path: Path, position: int
) -> None:
    space = space_of()
    networks = all_of(space, 20)
    killer = networks[position]
    with Study(tmp_path / "a.study", space) as study:
        report = evaluate(study, networks, Sums(kills=killer), workers=2)
        assert report.done == 19
        assert set(networks_in(study)) == set(networks) - {killer}
        assert [failure.network for failure in report.failures] == [killer]
        assert "worker process died" in report.failures[0].error
        assert [failure.network for failure in study.failures()] == [killer]
        # the next run tries it again, and only it
        again = evaluate(study, networks, Sums(), workers=2)
        assert (again.done, again.already) == (1, 19)
    assert not multiprocessing.active_children()


def test_of_a_batch_only_the_network_that_kills_is_lost(tmp_path: Path) -> None:
    space = space_of()
    networks = all_of(space, 12)
    with Study(tmp_path / "a.study", space) as study:
        report = evaluate(study, networks, Sums(kills=networks[6], batch_size=4), workers=2)
        assert [failure.network for failure in report.failures] == [networks[6]]
        assert set(networks_in(study)) == set(networks) - {networks[6]}


def test_several_that_kill(tmp_path: Path) -> None:
    space = space_of()
    networks = all_of(space, 10)
    with Study(tmp_path / "a.study", space) as study:
        wanted = [networks[3], networks[3], networks[3], *networks[:2]]
        report = evaluate(study, wanted, Sums(kills=networks[3]), workers=2)
        assert report.done == 2
        assert len(report.failures) == 3


def test_workers_that_die_on_import_are_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from dies_on_import import DiesOnImport

    space = space_of()
    with Study(tmp_path / "a.study", space) as study:
        with pytest.raises(EvaluationError, match=r"die before they evaluate.*__main__"):
            evaluate(study, all_of(space, 10), DiesOnImport(), workers=2)
        assert len(study) == 0
        assert not study.failures()
    assert not multiprocessing.active_children()


def test_workers_that_cannot_start_any_more_end_the_run(tmp_path: Path) -> None:
    # as when a module is edited and broken while a long run uses it
    from dies_later import DiesLater

    space = space_of()
    with Study(tmp_path / "a.study", space) as study:
        evaluator = DiesLater(tmp_path / "broken", network=(0, 0, 1, 3))
        with pytest.raises(EvaluationError, match="die before they evaluate"):
            evaluate(study, all_of(space, 200), evaluator, workers=2)
        assert 3 <= len(study) < 200
        assert not study.failures()


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_workers_end_when_their_driver_is_killed(tmp_path: Path) -> None:
    arguments = ["killed.study", "--last", 600, "--nap", 0.05, "--workers", 2]
    process = start("drive.py", *arguments, cwd=tmp_path)
    wait_for(lambda: len(lines_of(tmp_path / "calls")) > 4)
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: not processes_of_session(process.pid), 10)


class TestNotSendable:
    """Evaluators that cannot be pickled get our error before anything runs."""

    def test_lambda(self, tmp_path: Path) -> None:
        space = space_of()
        with (
            Study(tmp_path / "a.study", space) as study,
            pytest.raises(EvaluationError, match=r"FunctionEvaluator cannot be pickled"),
        ):
            evaluate(study, all_of(space, 3), FunctionEvaluator(lambda n: 1.0, ["loss"]), workers=2)

    def test_local_class(self, tmp_path: Path) -> None:
        class Local(Sums):
            pass

        space = space_of()
        with (
            Study(tmp_path / "a.study", space) as study,
            pytest.raises(EvaluationError, match=r"Local cannot be pickled.*top level"),
        ):
            evaluate(study, all_of(space, 3), Local(), workers=2)

    def test_open_file(self, tmp_path: Path) -> None:
        space = space_of()
        with (
            (tmp_path / "log").open("w") as file,
            Study(tmp_path / "a.study", space) as study,
            pytest.raises(EvaluationError, match=r"open files and models inside evaluate"),
        ):
            evaluate(study, all_of(space, 3), Returns(file), workers=2)

    def test_here_they_all_run(self, tmp_path: Path) -> None:
        space = space_of()
        with Study(tmp_path / "a.study", space) as study:
            report = evaluate(study, all_of(space, 3), FunctionEvaluator(lambda n: 1.0, ["loss"]))
        assert report.done == 3


def run_program(arguments: list[str], folder: Path, source: str = "") -> str:
    """What a program prints, within a minute."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        input=source,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begin < 30
    return done.stdout


class TestProgramsWithoutAGuard:
    """Each gets our error, soon, and starts a handful of processes at most."""

    @pytest.mark.parametrize("how", ["pool", "executor"])
    def test_script(self, tmp_path: Path, how: str) -> None:
        output = run_program([str(SCRIPTS / "no_guard.py"), how], tmp_path)
        assert "EvaluationError" in output
        assert "if __name__ == '__main__':" in output
        assert 2 <= len(lines_of(tmp_path / "starts")) <= 5

    def test_command(self, tmp_path: Path) -> None:
        source = (SCRIPTS / "no_guard.py").read_text()
        output = run_program(["-c", source, "pool"], tmp_path)
        assert "typed into a shell or given by `python -c`" in output
        assert len(lines_of(tmp_path / "starts")) == 1

    def test_standard_input(self, tmp_path: Path) -> None:
        source = (SCRIPTS / "no_guard.py").read_text()
        output = run_program(["-", "pool"], tmp_path, source)
        assert "put it into a script file" in output
        assert len(lines_of(tmp_path / "starts")) == 1

    def test_evaluator_from_a_module_in_a_command(self, tmp_path: Path) -> None:
        source = (
            f"import sys; sys.path.insert(0, {str(SCRIPTS.parent)!r})\n"
            "from mathnas import *\n"
            "from reliability_cases import *\n"
            "with Study('a.study', space_of()) as study:\n"
            "    print(evaluate(study, all_of(space_of(), 3), Sums(), workers=2))\n"
        )
        assert "3 evaluated" in run_program(["-c", source], tmp_path)


def test_a_script_with_a_guard_evaluates_its_own_class(tmp_path: Path) -> None:
    output, _ = finish(start("drive.py", "a.study", "--last", 6, "--workers", 2, cwd=tmp_path))
    assert "6 evaluated" in output


class Batches(Evaluator):
    """Returns what it was given for a batch."""

    metrics = Sums.metrics
    batch_size = 3

    def __init__(self, batch: object) -> None:
        self.batch = batch

    def evaluate(self, network: Network, seed: int) -> dict[str, float]:
        return {"latency_ms": 5.0}

    def evaluate_batch(self, networks: object, seeds: object) -> object:  # type: ignore[override]
        if isinstance(self.batch, Exception):
            raise self.batch
        return self.batch


def outcomes_of(batch: object) -> list[object]:
    networks = tuple(all_of(space_of(), 3))
    return list(evaluate_task(Batches(batch), Task(networks, (0, 0, 0))))


class TestBatches:
    def test_one_mapping_for_each_network(self) -> None:
        found = outcomes_of([{"latency_ms": 1}, {"latency_ms": 2}, {"latency_ms": 3}])
        assert [outcome["latency_ms"].value for outcome in found] == [1, 2, 3]  # type: ignore[index]

    def test_an_iterator_serves(self) -> None:
        found = outcomes_of(iter([{"latency_ms": 1}] * 3))
        assert not any(isinstance(outcome, Failed) for outcome in found)

    def test_too_few_are_failures(self) -> None:
        found = outcomes_of([{"latency_ms": 1}])
        assert len(found) == 3
        for outcome in found:
            assert isinstance(outcome, Failed)
            assert "gave 1 for 3" in outcome.error

    def test_a_wrong_one_does_not_hurt_the_others(self) -> None:
        good, bad, last = outcomes_of([{"latency_ms": 1}, None, {"latency_ms": 3}])
        assert isinstance(bad, Failed)
        assert not isinstance(good, Failed)
        assert not isinstance(last, Failed)

    def test_small_samples_are_shared_out(self, tmp_path: Path) -> None:
        space = space_of()
        with Study(tmp_path / "a.study", space) as study:
            report = evaluate(study, all_of(space, 6), BatchSizes(), workers=2)
            assert report.done == 6
            # each batch tells how many networks it had
            assert {found.measurement.value for found in study.evaluations()} == {3.0}

    def test_one_that_raises_is_tried_network_by_network(self) -> None:
        found = outcomes_of(RuntimeError("out of memory"))
        assert [outcome["latency_ms"].value for outcome in found] == [5, 5, 5]  # type: ignore[index]


class BatchSizes(Evaluator):
    """The value is the number of networks in the batch."""

    metrics = Sums.metrics
    batch_size = 100

    def evaluate(self, network: Network, seed: int) -> dict[str, float]:
        return {"latency_ms": 1.0}

    def evaluate_batch(
        self, networks: Sequence[Network], seeds: Sequence[int]
    ) -> list[dict[str, float]]:
        return [{"latency_ms": float(len(networks))}] * len(networks)


class Stream(Sums):
    """Gives the last network of a batch first; then does what the fields say."""

    def __init__(
        self, *, gap: float = 0.0, dies_after: int = 99, raises_after: int = 99, gives: int = 0
    ) -> None:
        super().__init__(batch_size=100)
        self.gap = gap
        self.dies_after = dies_after
        self.raises_after = raises_after
        self.gives = gives

    def evaluate_each(
        self, networks: Sequence[Network], seeds: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, float]]]:
        for done, place in enumerate(reversed(range(len(networks)))):
            time.sleep(self.gap)
            if done == self.dies_after:
                os.kill(os.getpid(), signal.SIGKILL)
            if done == self.raises_after:
                raise RuntimeError("out of memory")
            yield place + self.gives, {"latency_ms": 10.0 * sum(networks[place])}


class TestBatchesThatComeOneByOne:
    def test_values_belong_to_their_networks(self, tmp_path: Path) -> None:
        space = space_of()
        for workers in (1, 2):
            with Study(tmp_path / f"{workers}.study", space) as study:
                report = evaluate(study, all_of(space, 9), Stream(), workers=workers)
                assert report.done == 9
                found = {f.network: f.measurement.value for f in study.evaluations()}
            assert found == {network: 10.0 * sum(network) for network in all_of(space, 9)}

    def test_after_one_that_raises_the_rest_is_tried_one_by_one(self) -> None:
        networks = tuple(all_of(space_of(), 4))
        found = evaluate_task(Stream(raises_after=2), Task(networks, (0,) * 4))
        values = [outcome["latency_ms"].value for outcome in found]  # type: ignore[index]
        # two came from the batch, two one by one
        assert values == [0, 1, 20, 30]

    def test_places_outside_of_the_batch_are_failures(self) -> None:
        networks = tuple(all_of(space_of(), 4))
        for outcome in evaluate_task(Stream(gives=1), Task(networks, (0,) * 4)):
            assert isinstance(outcome, Failed)
            assert "each place in the batch once, 0 to 3, but Stream gave 4" in outcome.error

    def test_a_kill_loses_only_what_had_not_come(self, tmp_path: Path) -> None:
        space = space_of()
        child = os.fork()
        if child == 0:
            with Study(tmp_path / "a.study", space) as study:
                evaluate(study, all_of(space, 9), Stream(gap=0.6, dies_after=4))
            os._exit(0)
        os.waitpid(child, 0)
        with Study(tmp_path / "a.study", space) as study:
            # what comes within a second is written together
            assert set(networks_in(study)) == set(all_of(space, 9)[5:])
            assert evaluate(study, all_of(space, 9), Stream()).done == 5
