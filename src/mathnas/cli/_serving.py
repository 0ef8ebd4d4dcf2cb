"""The loop of ``mathnas run``: what feeds a server, what stops it, and what is told at the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mathnas.cli._live import LiveView
from mathnas.errors import InvalidInputError
from mathnas.metrics import Metric
from mathnas.runtime.policy import Reason
from mathnas.runtime.resident import Images
from mathnas.runtime.serving import Overloaded, Served, Server
from mathnas.runtime.status import Status
from mathnas.space import network_text

if TYPE_CHECKING:
    from mathnas.runtime.http import Listener

_IN_FLIGHT = 2  # batches: while one runs the next is there
_REDRAWN_S = 0.2
_LEAST_WAIT_S, _MOST_WAIT_S = 0.001, 1.0  # for room in the queue
_SHOWN = 8  # networks in a summary


@dataclass
class Feed:
    """Images that are served again and again, a batch at a time; the last batch of a round takes
    its missing images from the beginning.

    Args:
        images: float32, shape (k, channels, height, width).
        labels: class indices, shape (k,); None where they are not known.
        batch: images of a request.

    Attributes:
        scored, correct: images with labels that were answered, and answered right.

    Raises:
        InvalidInputError: a batch would hold an image twice.
    """

    images: Images
    labels: npt.NDArray[np.intp] | None
    batch: int
    scored: int = 0
    correct: int = 0
    _starts: Iterator[int] = field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= len(self.images):
            raise InvalidInputError(
                f"a batch has 1 to {len(self.images)} images, as many as there are, but got "
                f"{self.batch}."
            )
        self._starts = itertools.count(0, self.batch)

    async def drive(self, server: Server, stopped: asyncio.Event) -> None:
        """Send batch after batch, each when the one before is answered; where others fill the
        queue, a little later."""
        while not stopped.is_set():
            start = next(self._starts) % len(self.images)
            chosen = np.arange(start, start + self.batch) % len(self.images)
            served = await self._answered(server, self.images[chosen], stopped)
            if served is None:
                return
            if self.labels is not None:
                self.scored += self.batch
                right = served.outputs.argmax(axis=1) == self.labels[chosen]
                self.correct += int(right.sum())

    async def _answered(
        self, server: Server, images: Images, stopped: asyncio.Event
    ) -> Served | None:
        """None where it was stopped before there was room in the queue."""
        while not stopped.is_set():
            try:
                return await server.submit(images)
            except Overloaded as full:
                with contextlib.suppress(asyncio.TimeoutError):
                    wait = min(max(full.retry_after_s, _LEAST_WAIT_S), _MOST_WAIT_S)
                    await asyncio.wait_for(stopped.wait(), wait)
        return None

    @property
    def accuracy(self) -> float | None:
        """In percent; None without labels."""
        return 100 * self.correct / self.scored if self.scored else None


@dataclass(frozen=True)
class Summary:
    """What a server did until it was stopped.

    Attributes:
        status: at the end, when everything that waited was answered.
        seconds: that it served.
        accuracy: measured on labelled images, in percent; None without.
        stopped_by: the signal, or None.
    """

    status: Status
    seconds: float
    accuracy: float | None
    stopped_by: signal.Signals | None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "seconds": self.seconds,
            **self.status.to_dict(),
            "measured_accuracy": self.accuracy,
            "stopped_by": None if self.stopped_by is None else self.stopped_by.name,
        }

    def text(self, quality: Metric | None) -> str:
        """For people."""
        status = self.status
        rate = status.images / self.seconds if self.seconds > 0 else 0.0
        lines = [f"{self.seconds:.1f} s: {status.runs} runs, {status.images} images ({rate:.4g}/s)"]
        if status.deadline_ms is not None and status.latency_ms is not None:
            share = 100 * status.misses / status.runs
            lines.append(
                f"deadline {status.deadline_ms:.4g} ms: missed {status.misses} times "
                f"({share:.2f} %), latency {status.latency_ms:.4g} ms at the end"
            )
        lines.append(
            f"{status.switches} switches of {status.changed} blocks, among "
            f"{len(status.networks)} networks"
        )
        if quality is not None and status.mean_quality is not None:
            measured = "" if self.accuracy is None else f", measured {self.accuracy:.2f} %"
            lines.append(f"{quality.name} expected {quality.format(status.mean_quality)}{measured}")
        elif self.accuracy is not None:
            lines.append(f"accuracy measured {self.accuracy:.2f} %")
        for network, images in itertools.islice(status.networks.items(), _SHOWN):
            lines.append(f"  {network_text(network)}: {100 * images / status.images:.1f} %")
        if len(status.networks) > _SHOWN:
            lines.append(f"  and {len(status.networks) - _SHOWN} more")
        if status.reason is Reason.UNREACHABLE:
            lines.append("at the end no network met the goal, and the fastest served")
        troubles = (
            (status.refused, "requests were refused: the queue was full"),
            (status.failures, "runs failed"),
            (status.faults, f"other faults, the last: {status.last_fault}"),
        )
        lines += [f"{count} {what}" for count, what in troubles if count]
        return "\n".join(lines)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """What is loaded stays until the end: a full collection would look through all of it, for 0.1 s
    in the middle of some run."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def serve(
    server: Server,
    *,
    feed: Feed | None = None,
    listener: Listener | None = None,
    seconds: float | None = None,
    view: LiveView | None = None,
    started: Callable[[], None] = lambda: None,
) -> Summary:
    """Start a server, serve until `seconds` have passed or a signal stops it, and stop it.

    What waits then is answered. Another Ctrl-C does not wait for that.

    Args:
        feed: images that are served; None where requests come from elsewhere.
        listener: of the server's endpoint.
        view: that is drawn meanwhile.
        started: is called when it serves.

    Raises:
        ServingError: a run of the feed's failed.
    """
    stopped = asyncio.Event()
    signals: list[signal.Signals] = []
    with _stopping(stopped, signals), _uncollected():
        began = time.perf_counter()
        async with AsyncExitStack() as open_things:
            await open_things.enter_async_context(server)
            if listener is not None:
                await open_things.enter_async_context(listener)
            started()
            drivers = [
                asyncio.create_task(feed.drive(server, stopped))
                for _ in range(_IN_FLIGHT)
                if feed is not None
            ]
            drawing = asyncio.create_task(_draw(view, stopped))
            ends: Sequence[asyncio.Task[object]] = [
                asyncio.create_task(stopped.wait()),
                *drivers,
            ]
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            stopped.set()
            await asyncio.gather(*ends, drawing)
        took = time.perf_counter() - began
    accuracy = None if feed is None else feed.accuracy
    return Summary(server.status, took, accuracy, signals[0] if signals else None)


async def _draw(view: LiveView | None, stopped: asyncio.Event) -> None:
    if view is None:
        return
    with view:
        while not stopped.is_set():
            view.refresh()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stopped.wait(), _REDRAWN_S)


@contextlib.contextmanager
def _stopping(stopped: asyncio.Event, signals: list[signal.Signals]) -> Iterator[None]:
    """Inside, the first Ctrl-C or SIGTERM sets `stopped`; what comes then acts as usual."""
    loop = asyncio.get_running_loop()
    known = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in known}

    def stop(number: int, frame: object) -> None:
        restore()
        signals.append(signal.Signals(number))
        loop.call_soon_threadsafe(stopped.set)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in known:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()
