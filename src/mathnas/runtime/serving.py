"""Serving with a dynamic network: a bounded queue, one run after the other, switches in between.

Requests come from an event loop or from threads; one worker thread runs them in their order, hands
each run's times to the policy, and switches before the next run where the policy decides so. An
answer comes from one network, whatever is decided meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mathnas._records import is_number
from mathnas.errors import InvalidInputError, MathNASError
from mathnas.runtime.decisions import Recorder
from mathnas.runtime.goals import Goal
from mathnas.runtime.observation import Observation
from mathnas.runtime.policy import Decision, Policy
from mathnas.runtime.resident import Images
from mathnas.runtime.status import Status, Tally
from mathnas.space import Network, SearchSpace


class Overloaded(MathNASError):
    """The queue is full: the request was not taken.

    Attributes:
        retry_after_s: when the queue is expected to have been served.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServingError(MathNASError):
    """A request was not answered: its run failed, or the server is not running."""


class RunResult(Protocol):
    """What a run gives."""

    @property
    def outputs(self) -> npt.NDArray[np.float32]: ...

    @property
    def observation(self) -> Observation: ...


class SwitchResult(Protocol):
    """What a switch gives: the nodes whose blocks it changed."""

    @property
    def changed(self) -> Sequence[int]: ...


class Switchable(Protocol):
    """What is served: `mathnas.runtime.dynamic.DynamicNetwork`, or anything like it."""

    @property
    def space(self) -> SearchSpace: ...

    @property
    def network(self) -> Network: ...

    def run(self, images: Images) -> RunResult: ...

    def switch(self, network: Network) -> SwitchResult: ...


@runtime_checkable
class KeepsGoal(Protocol):
    """A policy whose goal may be set anew while it serves, from any thread."""

    @property
    def goal(self) -> Goal: ...

    def set_goal(self, goal: Goal) -> None: ...


@dataclass(frozen=True, slots=True)
class Served:
    """The answer to a request.

    Attributes:
        outputs: shape (images of the request, classes).
        network: that gave it.
        latency_ms: of the run that it was part of.
        waited_ms: from when it was taken until that run began.
    """

    outputs: npt.NDArray[np.float32]
    network: Network
    latency_ms: float
    waited_ms: float


@dataclass(slots=True)
class _Request:
    images: Images
    taken: float
    future: Future[Served] = field(default_factory=Future)


class Server:
    """Answers requests with a dynamic network that a policy switches.

    The life of a request: `submit` checks it and puts it into the queue, or raises `Overloaded`.
    The worker takes the oldest, with as many of the next as fit into `max_batch`, and runs them
    together; each gets its part of the outputs. Then the policy sees the run and may switch. So a
    decision never delays the answer that led to it, and requests are answered in their order.

    A run that raises answers its request with `ServingError`, and the next is served; of several
    requests that ran together, each is run once more alone. A policy or a switch that raises leaves
    the network as it was, and is counted in `status.faults`.

    Args:
        dynamic: what runs.
        policy: which network it is to be; it is called by the worker alone. A
            `mathnas.runtime.decisions.Recorder` writes down what it observes and decides.
        deadline_ms: of a run; misses are counted against it. By default that of the policy's goal,
            where it has one.
        input_shape: of one image; requests of another are refused.
        queue: requests that may wait.
        max_batch: images that are run together; a request with more runs alone.
        max_wait_ms: how long the oldest request waits for others.
        fixed_batch: every run has exactly `max_batch` images: zeros fill it up, and a request with
            more is refused. So the times of runs can be compared, which policies rely on.
        quality: what a network is expected to reach, for `status`; by default what decisions say.
        clock: of the observations that `dynamic` makes, in seconds.

    Raises:
        InvalidInputError: a number is out of its range.
    """

    def __init__(
        self,
        dynamic: Switchable,
        policy: Policy,
        *,
        deadline_ms: float | None = None,
        input_shape: Sequence[int] | None = None,
        queue: int = 64,
        max_batch: int = 1,
        max_wait_ms: float = 0.0,
        fixed_batch: bool = False,
        quality: Callable[[Network], float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        for name, count in (("queue", queue), ("max_batch", max_batch)):
            if count < 1:
                raise InvalidInputError(f"{name} is at least 1, but got {count}.")
        if not 0 <= max_wait_ms < math.inf:
            raise InvalidInputError(f"max_wait_ms is 0 or more, but got {max_wait_ms}.")
        decides = policy.policy if isinstance(policy, Recorder) else policy
        self._keeper = decides if isinstance(decides, KeepsGoal) else None
        if deadline_ms is None and self._keeper is not None:
            deadline_ms = self._keeper.goal.deadline_ms
        self.input_shape = None if input_shape is None else tuple(input_shape)
        self._dynamic = dynamic
        self._policy = policy
        self._deadline_ms = None if deadline_ms is None else _checked_deadline(deadline_ms)
        self._queue_size = queue
        self._max_batch = max_batch
        self._max_wait = max_wait_ms / 1000
        self._fixed_batch = fixed_batch
        self._clock = clock
        self._setting = threading.Lock()  # so that goal and deadline are of the same call
        # everything below is read and written under this lock
        self._changed = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._accepting = False
        self._worker: threading.Thread | None = None
        self._tally = Tally(quality)

    # ---- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Switch to the network that the policy starts with, and take requests.

        Raises:
            ServingError: it was started before.
        """
        if self._worker is not None:
            raise ServingError("a server is started once: make another for another run.")
        decision = self._policy.start(self._clock())
        self._dynamic.switch(decision.network)
        self._remember(decision)
        self._worker = threading.Thread(target=self._work, name="mathnas-serving", daemon=True)
        with self._changed:
            self._accepting = True
        self._worker.start()

    def close(self) -> None:
        """Take no more requests, answer those that wait, and end the worker."""
        with self._changed:
            self._accepting = False
            self._changed.notify_all()
        if self._worker is not None:
            self._worker.join()

    async def stop(self) -> None:
        """`close` without blocking the event loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    async def __aenter__(self) -> Server:
        self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    # ---- requests ------------------------------------------------------------------------------

    async def submit(self, images: Images) -> Served:
        """Run images, as `request`; a task that is cancelled takes its request back.

        Raises:
            InvalidInputError, Overloaded, ServingError: as `request`, and as its future.
        """
        return await asyncio.wrap_future(self.request(images))

    def request(self, images: Images) -> Future[Served]:
        """Put images into the queue, from any thread.

        Args:
            images: float32 of shape (images, channels, height, width), at least one.

        Returns:
            The answer to come. It raises `ServingError` where the run failed.

        Raises:
            InvalidInputError: they are not that.
            Overloaded: the queue is full.
            ServingError: the server is not running.
        """
        self._check(images)
        with self._changed:
            if not self._accepting:
                raise ServingError(
                    "the server is not running, so the request was not taken: send it to one that "
                    "is started and not stopped."
                )
            if len(self._waiting) >= self._queue_size:
                self._tally.refused += 1
                raise self._overloaded()
            request = _Request(images, self._clock())
            self._waiting.append(request)
            self._changed.notify_all()
        return request.future

    def _check(self, images: Images) -> None:
        wanted = "(images, channels, height, width)"
        if self.input_shape is not None:
            wanted = f"(images, {', '.join(map(str, self.input_shape))})"
        if not isinstance(images, np.ndarray) or images.dtype != np.float32:
            found = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
            raise InvalidInputError(f"images are a float32 array, but got {found}: convert them.")
        fits = self.input_shape is None or images.shape[1:] == self.input_shape
        if images.ndim < 2 or not len(images) or not fits:
            raise InvalidInputError(
                f"images have the shape {wanted}, at least one of them, but got {images.shape}."
            )
        if self._fixed_batch and len(images) > self._max_batch:
            raise InvalidInputError(
                f"a request has at most {self._max_batch} images, as many as a run, but got "
                f"{len(images)}: send them in parts."
            )

    def _overloaded(self) -> Overloaded:
        latency = self._tally.latency_ms or 0.0
        images = sum(len(request.images) for request in self._waiting)
        runs = min(len(self._waiting), math.ceil(images / self._max_batch))
        seconds = (runs + 1) * latency / 1000  # the one that runs now as well
        return Overloaded(
            f"{len(self._waiting)} requests wait, and no more may: send fewer at a time, try again "
            f"after {seconds:.3g} s, set a shorter deadline, or give the server a longer queue.",
            seconds,
        )

    # ---- the deadline --------------------------------------------------------------------------

    @property
    def deadline_ms(self) -> float | None:
        """Of a run; None where there is none."""
        with self._changed:
            return self._deadline_ms

    def set_deadline(self, deadline_ms: float) -> None:
        """Set the deadline anew, from any thread; the policy takes it in with the next run.

        Raises:
            InvalidInputError: it is not a positive number of milliseconds, or the policy keeps no
                goal, or cannot keep this one.
        """
        value = _checked_deadline(deadline_ms)
        if self._keeper is None:
            raise InvalidInputError(
                f"the policy {self._policy.name!r} keeps no goal, so no deadline can be set: serve "
                "with one that does, such as the controller."
            )
        with self._setting:
            self._keeper.set_goal(replace(self._keeper.goal, deadline_ms=value))
            with self._changed:
                self._deadline_ms = value

    # ---- what happened -------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """Now, from any thread."""
        network = self._dynamic.network
        with self._changed:
            return self._tally.status(network, self._deadline_ms, len(self._waiting))

    @property
    def latencies_ms(self) -> tuple[float, ...]:
        """Of the latest runs, the oldest first."""
        with self._changed:
            return self._tally.latencies_ms

    # ---- the worker ----------------------------------------------------------------------------

    def _work(self) -> None:
        wanted: list[_Request] = []
        try:
            while (requests := self._take()) is not None:
                # cancelled ones are no longer waited for
                wanted = [one for one in requests if one.future.set_running_or_notify_cancel()]
                if wanted:
                    self._serve(wanted)
        except BaseException as error:  # whatever ends the worker, nobody waits for ever
            with self._changed:
                self._accepting = False
                self._tally.fault(error)
                left = list(self._waiting)
                self._waiting.clear()
            left = [one for one in left if one.future.set_running_or_notify_cancel()]
            for request in (*wanted, *left):
                if not request.future.done():
                    request.future.set_exception(
                        ServingError(f"the server ended by {type(error).__name__}: start another.")
                    )

    def _take(self) -> list[_Request] | None:
        """What runs next; None at the end."""
        with self._changed:
            while not self._waiting:
                if not self._accepting:
                    return None
                self._changed.wait()
            until = self._waiting[0].taken + self._max_wait
            while self._accepting and self._fitting()[1]:
                rest = until - self._clock()
                if rest <= 0:
                    break
                self._changed.wait(rest)
            count, _ = self._fitting()
            return [self._waiting.popleft() for _ in range(count)]

    def _fitting(self) -> tuple[int, bool]:
        """How many of the oldest requests make a batch, and whether more would fit."""
        shape = self._waiting[0].images.shape[1:]
        count, images = 0, 0
        for request in self._waiting:
            more = images + len(request.images)
            if count and (more > self._max_batch or request.images.shape[1:] != shape):
                return count, False
            count, images = count + 1, more
        return count, images < self._max_batch

    def _serve(self, requests: Sequence[_Request]) -> None:
        began = self._clock()
        parts = [request.images for request in requests]
        try:
            images = self._batch(parts)
            run = self._dynamic.run(images)
            outputs = _split(run.outputs, [len(part) for part in parts], len(images))
        except Exception as error:
            if len(requests) > 1:  # one of them may be at fault: the others get their answers
                for request in requests:
                    self._serve([request])
                return
            with self._changed:
                self._tally.failures += 1
            failure = ServingError(f"the run failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            requests[0].future.set_exception(failure)
            return
        observation = run.observation
        self._count(observation, len(requests), sum(map(len, parts)))
        for request, output in zip(requests, outputs, strict=True):
            waited = 1000 * (began - request.taken)
            request.future.set_result(
                Served(output, observation.network, observation.latency_ms, waited)
            )
        with self._noting_faults():
            decision = self._policy.observe(observation)
            if decision is not None:
                self._apply(decision)

    def _batch(self, parts: Sequence[Images]) -> Images:
        """What is run for these."""
        missing = self._max_batch - sum(map(len, parts)) if self._fixed_batch else 0
        if missing:
            parts = [*parts, np.zeros((missing, *parts[0].shape[1:]), np.float32)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _count(self, observation: Observation, requests: int, images: int) -> None:
        with self._changed:
            late = self._deadline_ms is not None and observation.latency_ms > self._deadline_ms
            self._tally.answered(observation, requests, images, late)

    def _apply(self, decision: Decision) -> None:
        changed = len(self._dynamic.switch(decision.network).changed)
        with self._changed:
            self._tally.switched(changed)
        self._remember(decision)

    def _remember(self, decision: Decision) -> None:
        with self._changed:
            self._tally.decided(decision)

    @contextmanager
    def _noting_faults(self) -> Iterator[None]:
        """Around what must not end the serving: an exception is counted, and its text kept."""
        try:
            yield
        except Exception as error:
            with self._changed:
                self._tally.fault(error)


def _split(outputs: Any, counts: Sequence[int], ran: int) -> list[npt.NDArray[np.float32]]:
    """Outputs of a run, by request; what filled the batch up is left out."""
    if len(outputs) != ran:
        raise ServingError(f"a run of {ran} images gave {len(outputs)} outputs.")
    return np.split(outputs[: sum(counts)], np.cumsum(counts)[:-1])


def _checked_deadline(deadline_ms: float) -> float:
    value = float(deadline_ms) if is_number(deadline_ms) else math.nan
    if not value > 0:
        raise InvalidInputError(f"a deadline is positive milliseconds, but got {deadline_ms}.")
    return value
