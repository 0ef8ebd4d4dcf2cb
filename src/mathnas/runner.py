"""Runs evaluations: picks what the study lacks, evaluates it here or in workers, writes it down.

Each finished evaluation is written before the next result is looked at, so that killing the
process at any moment loses at most what is in flight.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.process
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from mathnas._filelock import FileLock
from mathnas._progress import Progress, progress_bar
from mathnas.errors import EvaluationError, FileFormatError, InvalidInputError
from mathnas.evaluation import Evaluation, Evaluator, Measurement
from mathnas.sampling import Sample
from mathnas.space import Network
from mathnas.study import Failure, Study

_THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What a run of `evaluate` did.

    Attributes:
        done: evaluations made and stored now.
        already: evaluations that the study had before.
        failures: evaluations that raised; they are tried again by the next run.
        seconds: wall time.
    """

    done: int
    already: int
    failures: tuple[Failure, ...]
    seconds: float

    def __str__(self) -> str:
        text = f"{self.done} evaluated in {self.seconds:.1f} s, {self.already} already there"
        if not self.failures:
            return text + "."
        shown = [f"\n  {_name(f.network)}: {f.error}" for f in self.failures[:5]]
        more = f"\n  ... and {len(self.failures) - 5} more" * (len(self.failures) > 5)
        return f"{text}, {len(self.failures)} failed:{''.join(shown)}{more}"


@dataclass(frozen=True, slots=True)
class _Task:
    """Evaluations that go to a worker together."""

    networks: tuple[Network, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Failed:
    """What a worker returns for a network whose evaluation raised."""

    error: str
    traceback: str


_Outcome: TypeAlias = Mapping[str, Measurement | float] | _Failed
_Results: TypeAlias = Generator[tuple[_Task, list[_Outcome]], None, None]


@dataclass
class _Tally:
    done: int = 0
    failures: list[Failure] = field(default_factory=list)


def evaluate(
    study: Study,
    networks: Sample | Iterable[Sequence[int]],
    evaluator: Evaluator,
    *,
    repeats: int = 1,
    seed: int = 0,
    workers: int = 1,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> EvaluationReport:
    """Evaluate networks that the study lacks.

    A network that stands k times in `networks` is to be measured k * `repeats` times; what the
    study has already (the same metrics under the same conditions) is not repeated.

    Args:
        networks: a `Sample` (its design is noted in the study) or networks.
        evaluator: see `Evaluator` for what it declares.
        seed: evaluations get seeds that depend on this, the network and the repeat alone.
        workers: processes of the spawn pool; 1 evaluates in this process.
        executor: where to evaluate instead, any `concurrent.futures.Executor`.
        progress: show progress; by default where standard error is a terminal.

    Returns:
        What was done and what failed; a failing evaluation does not stop the others.

    Raises:
        InvalidInputError: a network does not belong to the study's space.
        EvaluationError: the evaluator cannot be sent to workers, must run alone, or its workers
            die at once.
        FileFormatError: the study cannot be written; the message holds the value.
        KeyboardInterrupt: after Ctrl-C, when what had finished is stored and workers have ended.
    """
    _refuse_bootstrapping()
    start = time.monotonic()
    wanted = Counter(study.space.check(network) for network in networks)
    names = [metric.name for metric in evaluator.metrics]
    if not names:
        raise EvaluationError(f"{type(evaluator).__name__} declares no metrics: name them.")
    if repeats < 1 or workers < 1:
        raise InvalidInputError(
            f"repeats and workers are at least 1, but got {repeats} and {workers}."
        )
    parallel = executor is not None or workers > 1
    if evaluator.exclusive and parallel:
        raise EvaluationError(
            f"{', '.join(names)} must be measured alone, with nothing beside it, so one at a time "
            "in this process: leave out workers and executor."
        )
    study.declare(evaluator.metrics)
    if isinstance(networks, Sample):
        study.add_sample(networks)
    there = study.counts(names, evaluator.conditions)
    missing = [
        (network, have)
        for network, number in wanted.items()
        for have in range(min(there[network], number * repeats), number * repeats)
    ]
    # round by round, so that repeats of one network are spread over time
    missing.sort(key=lambda item: item[1])
    already = sum(wanted.values()) * repeats - len(missing)
    tasks = list(_tasks(missing, evaluator, seed))
    tally = _Tally()
    title = f"evaluating {', '.join(names)}"
    if parallel:
        _check_picklable(evaluator)
    if executor is not None:
        results = _run_on(evaluator, tasks, executor)
    elif parallel:
        results = _run_in_workers(evaluator, tasks, workers)
    else:
        results = _run_here(evaluator, tasks)
    with (
        progress_bar(title, len(missing), progress if missing else False) as bar,
        _threads(evaluator.threads),
        closing(results),
    ):
        for task, outcomes in results:
            _store(study, evaluator, task, outcomes, tally, bar)
    return EvaluationReport(tally.done, already, tuple(tally.failures), time.monotonic() - start)


def _tasks(
    missing: Sequence[tuple[Network, int]], evaluator: Evaluator, seed: int
) -> Iterator[_Task]:
    size = max(1, evaluator.batch_size)
    for begin in range(0, len(missing), size):
        part = missing[begin : begin + size]
        yield _Task(
            tuple(network for network, _ in part),
            tuple(_seed_of(seed, network, repeat) for network, repeat in part),
        )


def _seed_of(seed: int, network: Network, repeat: int) -> int:
    digest = hashlib.sha256(f"{seed}/{_name(network)}/{repeat}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _name(network: Network) -> str:
    return ",".join(map(str, network))


# ---- running --------------------------------------------------------------------------------


def _run_here(evaluator: Evaluator, tasks: Sequence[_Task]) -> _Results:
    with ExitStack() as stack:
        if evaluator.exclusive and tasks:
            # two exclusive runs on one machine would measure each other
            lock = Path(tempfile.gettempdir()) / f"mathnas-{_user()}.exclusive.lock"
            say = "waiting for another measurement on this machine to end ..."
            stack.enter_context(FileLock(lock, timeout=24 * 3600.0, waiting=say))
        for task in tasks:
            yield task, _evaluate_task(evaluator, task)


def _run_on(evaluator: Evaluator, tasks: Sequence[_Task], executor: Executor) -> _Results:
    flight = _Flight(executor, evaluator, limit=4 * (os.cpu_count() or 1))
    try:
        yield from flight.run(tasks)
    except BrokenExecutor as error:
        raise EvaluationError(
            f"the executor {type(executor).__name__} died ({_describe(error)}). What had finished "
            "is stored: give a new executor and run again."
        ) from error


def _run_in_workers(evaluator: Evaluator, tasks: Sequence[_Task], workers: int) -> _Results:
    """As `_run_on` in a spawn pool of our own, which is replaced when a worker dies.

    The tasks that were in flight then run again, one at a time, to find which of them kills.
    """
    waiting = list(tasks)
    suspects: list[_Task] = []
    finished = 0
    while waiting or suspects:
        alone = not waiting
        batch, waiting = ([suspects.pop()], []) if alone else (waiting, [])
        before = set(multiprocessing.active_children())
        pool = _spawn_pool(evaluator, 1 if alone else workers)
        flight = _Flight(pool, None, limit=1 if alone else 2 * workers)
        try:
            for result in flight.run(batch):
                finished += 1
                yield result
        except BrokenExecutor as error:
            if alone:
                failed = _Failed("the worker process died (out of memory, or killed)", "")
                yield batch[0], [failed] * len(batch[0].networks)
            elif finished == 0 and not _worker_starts(evaluator):
                raise EvaluationError(
                    "the workers died before the first evaluation. A script that evaluates with "
                    "workers needs `if __name__ == '__main__':` around its own code, and the "
                    "evaluator's class must be importable by the workers (defined in a module or "
                    "script file, not typed into a shell)."
                ) from error
            else:
                suspects += flight.in_flight
                waiting = flight.queued
        except (KeyboardInterrupt, GeneratorExit):
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _worker_starts(evaluator: Evaluator) -> bool:
    """Whether a worker comes up at all, without evaluating anything."""
    pool = _spawn_pool(evaluator, 1)
    try:
        return bool(pool.submit(_alive).result())
    except BrokenExecutor:
        return False
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Flight:
    """Keeps a bounded number of tasks in an executor and yields outcomes as they come.

    `evaluator` is None where the workers have it already.
    """

    def __init__(self, executor: Executor, evaluator: Evaluator | None, limit: int) -> None:
        self._executor = executor
        self._evaluator = evaluator
        self._limit = limit
        self._futures: dict[Future[list[_Outcome]], _Task] = {}
        self._queue: deque[_Task] = deque()

    @property
    def in_flight(self) -> list[_Task]:
        return list(self._futures.values())

    @property
    def queued(self) -> list[_Task]:
        return list(self._queue)

    def run(self, tasks: Sequence[_Task]) -> _Results:
        self._queue.extend(tasks)
        while self._queue or self._futures:
            while self._queue and len(self._futures) < self._limit:
                future = self._submit(self._queue[0])
                self._futures[future] = self._queue.popleft()
            done = wait(self._futures, return_when=FIRST_COMPLETED).done
            # when the pool breaks, keep the results that came just before
            for future in sorted(done, key=lambda future: future.exception() is not None):
                error = future.exception()
                if isinstance(error, BrokenExecutor):
                    raise error
                task = self._futures.pop(future)
                if error is None:
                    yield task, future.result()
                else:
                    yield task, [_Failed(_describe(error), "")] * len(task.networks)

    def _submit(self, task: _Task) -> Future[list[_Outcome]]:
        if self._evaluator is None:
            return self._executor.submit(_evaluate_in_worker, task)
        return self._executor.submit(_evaluate_task, self._evaluator, task)


_worker_evaluator: Evaluator | None = None


def _spawn_pool(evaluator: Evaluator, workers: int) -> ProcessPoolExecutor:
    """Workers that got the evaluator once and use its number of threads."""
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(evaluator, evaluator.threads),
    )


def _start_worker(evaluator: Evaluator, threads: int) -> None:
    global _worker_evaluator
    # Ctrl-C reaches the whole process group; the driver decides what happens then
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker_evaluator = evaluator
    _set_torch_threads(threads)


def _alive() -> bool:
    return True


def _evaluate_in_worker(task: _Task) -> list[_Outcome]:
    assert _worker_evaluator is not None
    return _evaluate_task(_worker_evaluator, task)


def _evaluate_task(evaluator: Evaluator, task: _Task) -> list[_Outcome]:
    """The outcomes of a task; one that raises does not hurt the others of its batch."""
    if len(task.networks) > 1:
        try:
            found = evaluator.evaluate_batch(task.networks, task.seeds)
            if len(found) == len(task.networks):
                return list(found)
        except Exception:
            pass  # find out below which network it was
    outcomes: list[_Outcome] = []
    for network, seed in zip(task.networks, task.seeds, strict=True):
        try:
            outcomes.append(evaluator.evaluate(network, seed))
        except Exception as error:
            outcomes.append(_Failed(_describe(error), traceback.format_exc()))
    return outcomes


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """`count` threads for numerical libraries: of torch here, of all in processes started inside.

    The libraries read the environment when they are loaded, so it is set while workers may start.
    """
    saved = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(count)))
    before = _set_torch_threads(count)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if before is not None:
            _set_torch_threads(before)


def _set_torch_threads(count: int) -> int | None:
    """Set torch's threads where torch is loaded; returns how many there were."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    before: int = torch.get_num_threads()
    torch.set_num_threads(count)
    return before


# ---- storing --------------------------------------------------------------------------------


def _store(
    study: Study,
    evaluator: Evaluator,
    task: _Task,
    outcomes: Sequence[_Outcome],
    tally: _Tally,
    bar: Progress,
) -> None:
    """Write what a task gave, whole: values that are refused become failures."""
    facts: list[Evaluation] = []
    failures: list[Failure] = []
    now = time.time()
    for network, seed, outcome in zip(task.networks, task.seeds, outcomes, strict=True):
        try:
            if isinstance(outcome, _Failed):
                failures.append(_failure(network, outcome, seed, evaluator))
                continue
            facts += _facts(evaluator, network, seed, outcome, now)
        except (InvalidInputError, EvaluationError, TypeError, ValueError) as error:
            failures.append(_failure(network, _Failed(_describe(error), ""), seed, evaluator))
    try:
        study.add(facts)
        for failure in failures:
            study.add_failure(failure)
    except FileFormatError as error:
        values = "; ".join(
            f"{_name(fact.network)} {fact.metric}={fact.measurement.value!r}" for fact in facts
        )
        raise FileFormatError(f"{error} Measured but not stored: {values or 'nothing'}.") from error
    tally.done += len(task.networks) - len(failures)
    tally.failures += failures
    last = failures[-1].error if failures else _note(evaluator, facts)
    bar.advance(len(task.networks), last)


def _facts(
    evaluator: Evaluator,
    network: Network,
    seed: int,
    outcome: Mapping[str, Measurement | float],
    now: float,
) -> list[Evaluation]:
    facts = []
    for metric in evaluator.metrics:
        if metric.name not in outcome:
            raise EvaluationError(
                f"an evaluator returns a value for each metric that it declares, but "
                f"{type(evaluator).__name__} gave {sorted(outcome)} without {metric.name!r}."
            )
        value = outcome[metric.name]
        measurement = value if isinstance(value, Measurement) else Measurement(value)
        metric.check(measurement.value)
        facts.append(Evaluation(network, metric.name, measurement, seed, evaluator.conditions, now))
    return facts


def _failure(network: Network, failed: _Failed, seed: int, evaluator: Evaluator) -> Failure:
    return Failure(network, failed.error, failed.traceback, seed, evaluator.conditions)


def _note(evaluator: Evaluator, facts: Sequence[Evaluation]) -> str:
    last = {fact.metric: fact.measurement.value for fact in facts}
    return ", ".join(
        f"{metric.name} {metric.format(last[metric.name])}"
        for metric in evaluator.metrics
        if metric.name in last
    )


def _describe(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# ---- guards ---------------------------------------------------------------------------------


def _check_picklable(evaluator: Evaluator) -> None:
    try:
        pickle.dumps(evaluator)
    except Exception as error:
        raise EvaluationError(
            f"an evaluator is sent to workers by pickle, but {type(evaluator).__name__} cannot be "
            f"pickled ({_describe(error)}): use a class or function at the top level of a module, "
            "open files and models inside evaluate(), or run with workers=1."
        ) from error


def _refuse_bootstrapping() -> None:
    """End a spawned worker that imports a script without a main guard and lands here again."""
    if getattr(multiprocessing.process.current_process(), "_inheriting", False):
        # the parent sees its worker die and explains; a traceback here would only hide that
        raise SystemExit(1)


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
