"""Processes that compete for the machine: busy loops, and streams through memory.

They are started once and wait; loads are switched on and off in an instant.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event, Semaphore
from types import TracebackType

import numpy as np

_STARTING = 120.0  # seconds at most
_SLICE = 0.002  # seconds of work between two looks at the switch
_STREAMED = 2**23  # numbers of 8 bytes: larger than caches
KINDS = ("busy", "half", "stream")
_CONTEXT = get_context("spawn")


@dataclass(frozen=True)
class Phase:
    """A load from some time on.

    Attributes:
        start: in seconds.
        loads: how many processes of each of `KINDS`: busy loops, busy loops that rest half of the
            time, streams through memory.
    """

    start: float
    loads: tuple[int, int, int]

    def __str__(self) -> str:
        named = [f"{count} {kind}" for count, kind in zip(self.loads, KINDS, strict=True) if count]
        return f"{self.start:.0f} s: {' + '.join(named) or 'quiet'}"


class Stress:
    """Processes for the heaviest phase, all at rest; use it in a ``with``."""

    def __init__(self, phases: Sequence[Phase]) -> None:
        self.phases = sorted(phases, key=lambda phase: phase.start)
        self.changes: list[float] = []
        self._next = 0
        self._ready = _CONTEXT.Semaphore(0)
        self._workers: list[tuple[str, Event, BaseProcess]] = []
        for place, kind in enumerate(KINDS):
            for _ in range(max(phase.loads[place] for phase in phases)):
                event = _CONTEXT.Event()
                process = _CONTEXT.Process(
                    target=_work, args=(kind, event, self._ready), daemon=True
                )
                self._workers.append((kind, event, process))

    def __enter__(self) -> Stress:
        for _, _, process in self._workers:
            process.start()
        for _ in self._workers:  # until each has imported what it needs
            if not self._ready.acquire(timeout=_STARTING):
                raise TimeoutError(f"a process did not start within {_STARTING} s")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _, _, process in self._workers:
            process.terminate()
            process.join()

    def advance(self, now: float) -> None:
        """Switch to the phase of this time, and note when where it is another one."""
        while self._next < len(self.phases) and self.phases[self._next].start <= now:
            self.apply(self.phases[self._next].loads)
            if now > 0 and self._next:
                self.changes.append(now)
            self._next += 1

    def apply(self, loads: Sequence[int]) -> None:
        """Let so many processes of each kind work."""
        left = dict(zip(KINDS, loads, strict=True))
        for kind, event, _ in self._workers:
            if left[kind] > 0:
                event.set()
                left[kind] -= 1
            else:
                event.clear()


def _work(kind: str, event: Event, ready: Semaphore) -> None:
    source = np.ones(_STREAMED if kind == "stream" else 1)
    target = source.copy()
    ready.release()
    while True:
        event.wait()
        end = time.perf_counter() + _SLICE
        while time.perf_counter() < end:
            if kind == "stream":
                np.copyto(target, source)
        if kind == "half":
            time.sleep(_SLICE)
