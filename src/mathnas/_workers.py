"""Where evaluations run: in this process, on an executor, or in a pool of our own.

`run_here`, `run_on` and `run_in_workers` are generators of a task and its outcomes, in the order in
which they finish. Nothing in here knows the study.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from mathnas._filelock import FileLock
from mathnas._interrupts import Interrupts, hidden_from_children
from mathnas._records import shown
from mathnas._threads import set_torch_threads, torch_threads
from mathnas.errors import EvaluationError
from mathnas.evaluation import BatchError, Evaluator, Measurement
from mathnas.space import Network

_IN_FLIGHT = 64  # evaluations handed to a foreign executor at a time: it does not say its size
_TOGETHER = 1.0  # seconds whose outcomes are written together
_PATIENCE = 3.0  # seconds that a worker has to end before it is killed
_MAIN_GUARD = (
    "A script that evaluates with workers needs `if __name__ == '__main__':` around its own code, "
    "and the evaluator's class must be importable by the workers (defined in a module or script "
    "file, not typed into a shell)."
)


@dataclass(frozen=True, slots=True)
class Task:
    """Evaluations that go to a worker together."""

    networks: tuple[Network, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """What there is instead of measurements for a network whose evaluation raised."""

    error: str
    traceback: str = ""


Outcome: TypeAlias = Mapping[str, Measurement] | Failed
Results: TypeAlias = Generator[tuple[Task, list[Outcome]], None, None]


# ---- one task -------------------------------------------------------------------------------


def evaluate_task(evaluator: Evaluator, task: Task) -> list[Outcome]:
    """The outcomes of a task; one that raises does not hurt the others of its batch."""
    found = dict(evaluate_each(evaluator, task))
    return [found[place] for place in range(len(task.networks))]


def evaluate_each(evaluator: Evaluator, task: Task) -> Iterator[tuple[int, Outcome]]:
    """As `evaluate_task`: each outcome with its place in the task, as they come."""
    left = dict.fromkeys(range(len(task.networks)))
    if len(left) > 1:
        try:
            for place, returned in evaluator.evaluate_each(task.networks, task.seeds):
                if place not in left:
                    raise BatchError(
                        f"evaluate_each gives each place in the batch once, 0 to "
                        f"{len(task.networks) - 1}, but {type(evaluator).__name__} gave "
                        f"{shown(place)} too many."
                    )
                del left[place]
                yield place, _outcome(evaluator, returned)
        except BatchError as error:
            yield from ((place, Failed(str(error))) for place in left)
            return
        except Exception:
            pass  # find out below which network it was
    for place in left:
        try:
            found = evaluator.evaluate(task.networks[place], task.seeds[place])
            yield place, _measured(evaluator, found)
        except Exception as error:
            yield place, Failed(describe(error), traceback.format_exc())


def _outcome(evaluator: Evaluator, returned: object) -> Outcome:
    try:
        return _measured(evaluator, returned)
    except Exception as error:
        return Failed(describe(error))


def _measured(evaluator: Evaluator, returned: object) -> dict[str, Measurement]:
    """What an evaluator returned, checked; plain numbers, which cost nothing to send."""
    name = type(evaluator).__name__
    if not isinstance(returned, Mapping):
        raise EvaluationError(
            f"an evaluator returns a mapping of metric names to values, but {name} gave "
            f"{shown(returned)}."
        )
    found = {}
    for metric in evaluator.metrics:
        if metric.name not in returned:
            raise EvaluationError(
                f"an evaluator returns a value for each metric that it declares, but {name} gave "
                f"{sorted(map(str, returned))} without {metric.name!r}."
            )
        value = returned[metric.name]
        if not isinstance(value, Measurement):
            value = Measurement(_number(value, f"{name} gave {metric.name}"))
        metric.check(value.value)
        found[metric.name] = value
    return found


def _number(value: object, where: str) -> float:
    try:
        if not isinstance(value, str):
            return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        pass
    raise EvaluationError(
        f"the value of a metric is a number or a Measurement, but {where} = {shown(value)}."
    )


def describe(error: BaseException) -> str:
    """An error in one phrase, whatever its class does."""
    try:
        text = str(error).strip()
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# ---- in this process ------------------------------------------------------------------------


def run_here(evaluator: Evaluator, tasks: Sequence[Task], interrupts: Interrupts) -> Results:
    with ExitStack() as stack:
        if evaluator.exclusive and tasks:
            # two exclusive runs on one machine would measure each other
            lock = Path(tempfile.gettempdir()) / f"mathnas-{_user()}.exclusive.lock"
            say = "waiting for another measurement on this machine to end ..."
            with interrupts.allowed():
                stack.enter_context(FileLock(lock, timeout=24 * 3600.0, waiting=say))
        for task in tasks:
            yield from _portions(evaluator, task, interrupts)


def _portions(evaluator: Evaluator, task: Task, interrupts: Interrupts) -> Results:
    """The outcomes of a task; those of a second together, as each is to be written."""
    each = evaluate_each(evaluator, task)
    pending: dict[int, Outcome] = {}
    since = time.monotonic()
    try:
        while True:
            with interrupts.allowed():
                found = next(each, None)
            if found is None:
                break
            pending[found[0]] = found[1]
            if time.monotonic() - since >= _TOGETHER:
                yield _part(task, pending)
                pending, since = {}, time.monotonic()
    except KeyboardInterrupt:
        if pending:
            yield _part(task, pending)
        raise
    if pending:
        yield _part(task, pending)


def _part(task: Task, outcomes: Mapping[int, Outcome]) -> tuple[Task, list[Outcome]]:
    places = sorted(outcomes)
    networks = tuple(task.networks[place] for place in places)
    seeds = tuple(task.seeds[place] for place in places)
    return Task(networks, seeds), [outcomes[place] for place in places]


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")


# ---- on an executor -------------------------------------------------------------------------


def run_on(
    evaluator: Evaluator, tasks: Sequence[Task], executor: Executor, interrupts: Interrupts
) -> Results:
    if isinstance(executor, ProcessPoolExecutor):
        _pickled(evaluator)
    evaluate = partial(_evaluate_elsewhere, evaluator)
    flight = _Flight(executor, evaluate, _IN_FLIGHT, interrupts)
    try:
        yield from flight.run(tasks)
    except (BrokenExecutor, CancelledError) as error:
        hint = f" {_MAIN_GUARD}" if isinstance(executor, ProcessPoolExecutor) else ""
        raise EvaluationError(
            f"the executor {type(executor).__name__} gave up ({describe(error)}). What had "
            f"finished is stored: give a new executor and run again.{hint}"
        ) from error
    finally:
        flight.cancel()


def _evaluate_elsewhere(evaluator: Evaluator, task: Task) -> list[Outcome]:
    with torch_threads(evaluator.threads):
        return evaluate_task(evaluator, task)


class _Flight:
    """Keeps a bounded number of tasks in an executor and yields outcomes as they come."""

    def __init__(
        self,
        executor: Executor,
        evaluate: Callable[[Task], list[Outcome]],
        limit: int,
        interrupts: Interrupts,
    ) -> None:
        self._executor = executor
        self._evaluate = evaluate
        self._limit = limit
        self._interrupts = interrupts
        self._futures: dict[Future[list[Outcome]], Task] = {}
        self._queue: deque[Task] = deque()
        self._end: Exception | None = None

    @property
    def in_flight(self) -> list[Task]:
        return list(self._futures.values())

    @property
    def queued(self) -> list[Task]:
        return list(self._queue)

    def run(self, tasks: Sequence[Task]) -> Results:
        """Every result; then, where the executor gave up, the error that says so.

        Raises:
            BrokenExecutor, CancelledError: `in_flight` and `queued` tell what is left.
            KeyboardInterrupt: after Ctrl-C, when everything that had come back was yielded.
        """
        self._queue.extend(tasks)
        try:
            while self._queue or self._futures:
                self._fill()
                with self._interrupts.allowed():
                    wait(self._futures, return_when=FIRST_COMPLETED)
                yield from self._arrived()
                if self._end is not None:
                    raise self._end
        except KeyboardInterrupt:
            yield from self._arrived()
            raise

    def cancel(self) -> None:
        """Take back what has not begun."""
        for future in self._futures:
            future.cancel()

    def _fill(self) -> None:
        while self._end is None and self._queue and len(self._futures) < self._limit:
            try:
                with self._quietly():
                    future = self._executor.submit(self._evaluate, self._queue[0])
            except BrokenExecutor as error:
                self._end = error
                return
            except RuntimeError as error:
                raise EvaluationError(
                    f"the executor {type(self._executor).__name__} takes no work ({error}). What "
                    "had finished is stored: give an executor that is not shut down."
                ) from error
            self._futures[future] = self._queue.popleft()
            if future.done():
                return  # store it first: an executor may do the work while it is handed over

    def _quietly(self) -> AbstractContextManager[None]:
        """Worker processes start when they get their first work."""
        processes = isinstance(self._executor, ProcessPoolExecutor)
        return hidden_from_children() if processes else nullcontext()

    def _arrived(self) -> Results:
        """What has come back; of a broken executor, the results from before it broke."""
        for future in [future for future in self._futures if future.done()]:
            if future.cancelled():
                self._end = CancelledError("its work was cancelled")
                continue
            error = future.exception()
            if isinstance(error, BrokenExecutor):
                self._end = error
                continue
            task = self._futures.pop(future)
            yield task, _outcomes(future, task)


def _outcomes(future: Future[list[Outcome]], task: Task) -> list[Outcome]:
    error = future.exception()
    if error is not None:
        return [Failed(describe(error))] * len(task.networks)
    found: object = future.result()
    if isinstance(found, list) and len(found) == len(task.networks):
        return found
    failed = Failed(f"the executor returned {shown(found)} instead of what was evaluated.")
    return [failed] * len(task.networks)


# ---- in workers of our own ------------------------------------------------------------------


def run_in_workers(
    evaluator: Evaluator, tasks: Sequence[Task], workers: int, interrupts: Interrupts
) -> Results:
    """A spawn pool, which is replaced when a worker dies.

    The tasks that were in flight when it died run again at the end, one at a time in one worker:
    the one that is alone when its worker dies is the one that kills.
    """
    _check_importable(evaluator, _pickled(evaluator))
    queue, suspects = list(tasks), list[Task]()
    while queue or suspects:
        alone = not queue
        pool = _spawn_pool(evaluator, 1 if alone else workers)
        flight = _Flight(pool, _evaluate_in_worker, 1 if alone else 2 * workers, interrupts)
        came = at_rest = False
        try:
            for result in flight.run(suspects if alone else queue):
                came = True
                yield result
            at_rest = True
        except BrokenExecutor as error:
            if not came and not _worker_starts(evaluator, interrupts):
                raise EvaluationError(
                    "the workers die before they evaluate anything; what they wrote on standard "
                    f"error may say why. {_MAIN_GUARD}"
                ) from error
        finally:
            _end(pool, at_once=not at_rest)
        if not alone:
            queue = flight.queued
            suspects += flight.in_flight
            continue
        suspects = flight.queued
        for task in flight.in_flight:
            if len(task.networks) > 1:
                suspects = [*_singles(task), *suspects]
            else:
                yield task, [Failed("the worker process died (out of memory, or killed)")]


def _singles(task: Task) -> Iterator[Task]:
    for network, seed in zip(task.networks, task.seeds, strict=True):
        yield Task((network,), (seed,))


def _spawn_pool(evaluator: Evaluator, workers: int) -> ProcessPoolExecutor:
    """Workers that got the evaluator once and use its number of threads."""
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(evaluator, evaluator.threads),
    )


def _end(pool: ProcessPoolExecutor, *, at_once: bool) -> None:
    if at_once:
        # nobody waits for what they evaluate now
        processes = list((getattr(pool, "_processes", None) or {}).values())
        for process in processes:
            process.terminate()
        limit = time.monotonic() + _PATIENCE
        while any(process.is_alive() for process in processes) and time.monotonic() < limit:
            time.sleep(0.01)
        for process in processes:
            process.kill()
    pool.shutdown(wait=True, cancel_futures=True)


def _worker_starts(evaluator: Evaluator, interrupts: Interrupts) -> bool:
    """Whether a worker comes up at all, without evaluating anything."""
    pool = _spawn_pool(evaluator, 1)
    at_rest = False
    try:
        with hidden_from_children():
            future = pool.submit(_alive)
        with interrupts.allowed():
            future.result()
        at_rest = True
    except BrokenExecutor:
        pass
    finally:
        _end(pool, at_once=not at_rest)
    return at_rest


def _alive() -> bool:
    return True


_worker_evaluator: Evaluator | None = None


def _start_worker(evaluator: Evaluator, threads: int) -> None:
    global _worker_evaluator
    # Ctrl-C reaches the whole process group; the driver decides what happens then
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_driver, daemon=True).start()
    _worker_evaluator = evaluator
    set_torch_threads(threads)


def _end_with_driver() -> None:
    """A worker whose driver was killed would wait for work for ever."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)


def _evaluate_in_worker(task: Task) -> list[Outcome]:
    assert _worker_evaluator is not None
    return evaluate_task(_worker_evaluator, task)


def _pickled(evaluator: Evaluator) -> bytes:
    """The evaluator as it is sent; `EvaluationError` where that is not possible."""
    try:
        return pickle.dumps(evaluator)
    except Exception as error:
        raise EvaluationError(
            f"an evaluator is sent to workers by pickle, but {type(evaluator).__name__} cannot be "
            f"pickled ({describe(error)}): use a class or function at the top level of a module, "
            "open files and models inside evaluate(), or run with workers=1."
        ) from error


def _check_importable(evaluator: Evaluator, sent: bytes) -> None:
    """Raise `EvaluationError` where workers would look in vain for the program's file."""
    program = sys.modules["__main__"]
    if getattr(program, "__spec__", None) is not None:
        return  # started by `python -m`: found by its name
    file = getattr(program, "__file__", None)
    if file is None and b"__main__" in sent:
        raise EvaluationError(
            f"workers import the evaluator, but {type(evaluator).__name__}, or something in it, "
            "was typed into a shell or given by `python -c`: put it into a module or script file, "
            "or run with workers=1."
        )
    if file is not None and not os.path.exists(file):
        raise EvaluationError(
            f"workers import the program, but it has no file ({file}): put it into a script file, "
            "or run with workers=1."
        )
