"""Runs evaluations: picks what the study lacks, evaluates it here or in workers, writes it down.

Each finished evaluation is written before the next result is looked at, so that killing the
process at any moment loses at most what is in flight.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing.process
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, field

from mathnas._interrupts import Interrupts
from mathnas._progress import Progress, Show, progress_bar
from mathnas._threads import numerical_threads
from mathnas._workers import (
    Failed,
    Outcome,
    Results,
    Task,
    run_here,
    run_in_workers,
    run_on,
)
from mathnas.errors import EvaluationError, FileFormatError, InvalidInputError, MathNASError
from mathnas.evaluation import Evaluation, Evaluator
from mathnas.metrics import Metric
from mathnas.sampling import Sample
from mathnas.space import Network, network_text
from mathnas.study import Failure, Study


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
        shown = [f"\n  {network_text(f.network)}: {_line(f.error)}" for f in self.failures[:5]]
        more = f"\n  ... and {len(self.failures) - 5} more" * (len(self.failures) > 5)
        return f"{text}, {len(self.failures)} failed:{''.join(shown)}{more}"


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
    progress: Show = None,
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
        progress: show progress; by default where standard error is a terminal. A function of a
            title and a number of steps makes the display.

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
    names = [metric.name for metric in _metrics(evaluator)]
    parallel = executor is not None or workers > 1
    if repeats < 1 or workers < 1:
        raise InvalidInputError(
            f"repeats and workers are at least 1, but got {repeats} and {workers}."
        )
    if evaluator.exclusive and parallel:
        raise EvaluationError(
            f"{', '.join(names)} must be measured alone, with nothing beside it, so one at a time "
            "in this process: leave out workers and executor."
        )
    if study.read_only:
        raise FileFormatError(
            f"{study.path} was opened to read only, but what is evaluated is written: open it "
            "without read_only."
        )
    study.declare(evaluator.metrics)
    if evaluator.device is not None:
        study.add_device(evaluator.device)
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
    tasks = list(_tasks(missing, evaluator, seed, workers))
    tally = _Tally()
    title = f"evaluating {', '.join(names)}"
    with (
        Interrupts() as interrupts,
        progress_bar(title, len(missing), progress if missing else False) as bar,
        numerical_threads(evaluator.threads),
        closing(_run(evaluator, tasks, workers, executor, interrupts)) as results,
    ):
        for task, outcomes in results:
            _store(study, evaluator, task, outcomes, tally, bar)
    return EvaluationReport(tally.done, already, tuple(tally.failures), time.monotonic() - start)


def _metrics(evaluator: Evaluator) -> tuple[Metric, ...]:
    name = type(evaluator).__name__
    metrics = tuple(evaluator.metrics)
    if not metrics:
        raise EvaluationError(f"{name} declares no metrics: name them.")
    for metric in metrics:
        if not isinstance(metric, Metric):
            raise EvaluationError(
                f"an evaluator declares metrics as Metric, but {name} has {metric!r}: use "
                "metric_named(name), or Metric(...)."
            )
    if evaluator.threads < 1:
        raise EvaluationError(
            f"an evaluation uses at least 1 thread, but {name} declares {evaluator.threads}."
        )
    return metrics


def _run(
    evaluator: Evaluator,
    tasks: Sequence[Task],
    workers: int,
    executor: Executor | None,
    interrupts: Interrupts,
) -> Results:
    if executor is not None:
        return run_on(evaluator, tasks, executor, interrupts)
    if workers > 1:
        return run_in_workers(evaluator, tasks, workers, interrupts)
    return run_here(evaluator, tasks, interrupts)


def _tasks(
    missing: Sequence[tuple[Network, int]], evaluator: Evaluator, seed: int, workers: int
) -> Iterator[Task]:
    # one batch a worker at least, where there are fewer networks than would fill them
    size = max(1, min(evaluator.batch_size, math.ceil(len(missing) / workers)))
    for begin in range(0, len(missing), size):
        part = missing[begin : begin + size]
        yield Task(
            tuple(network for network, _ in part),
            tuple(_seed_of(seed, network, repeat) for network, repeat in part),
        )


def _seed_of(seed: int, network: Network, repeat: int) -> int:
    digest = hashlib.sha256(f"{seed}/{network_text(network)}/{repeat}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _store(
    study: Study,
    evaluator: Evaluator,
    task: Task,
    outcomes: Sequence[Outcome],
    tally: _Tally,
    bar: Progress,
) -> None:
    """Write what a task gave, measurements and failures, whole."""
    facts: list[Evaluation] = []
    failures: list[Failure] = []
    now = time.time()
    conditions = evaluator.conditions
    for network, seed, outcome in zip(task.networks, task.seeds, outcomes, strict=True):
        if isinstance(outcome, Failed):
            failures.append(
                Failure(network, outcome.error, outcome.traceback, seed, conditions, now)
            )
            continue
        for name, measurement in outcome.items():
            facts.append(Evaluation(network, name, measurement, seed, conditions, now))
    try:
        study.add(facts, failures)
    except MathNASError as error:
        values = "; ".join(
            f"{network_text(fact.network)} {fact.metric}={fact.measurement.value!r}"
            for fact in facts
        )
        raise type(error)(f"{error} Measured but not stored: {values or 'nothing'}.") from error
    tally.done += len(task.networks) - len(failures)
    tally.failures += failures
    last = failures[-1].error if failures else _note(evaluator, facts)
    bar.advance(len(task.networks), last)


def _note(evaluator: Evaluator, facts: Sequence[Evaluation]) -> str:
    last = {fact.metric: fact.measurement.value for fact in facts}
    return ", ".join(
        f"{metric.name} {metric.format(last[metric.name])}"
        for metric in evaluator.metrics
        if metric.name in last
    )


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."


def _refuse_bootstrapping() -> None:
    """End a spawned worker that imports a script without a main guard and lands here again."""
    if getattr(multiprocessing.process.current_process(), "_inheriting", False):
        # the parent sees its worker die and explains; a traceback here would only hide that
        raise SystemExit(1)
