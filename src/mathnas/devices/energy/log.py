"""Joules over time, in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from mathnas.devices.energy.meter import MOST_WATTS, Meter, MeterKind, joules_between
from mathnas.errors import InvalidInputError, MeterError

_LONGEST_POLL_S = 10.0


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a log.

    Attributes:
        time_s: on a monotonic clock.
        joules: since the log was started.
        samples: readings since then.
    """

    time_s: float
    joules: float
    samples: int


class EnergyLog:
    """Adds up what a meter says, in a thread of its own, for as long as a run takes.

    Sampled power is integrated by the trapezoid rule over the times at which it was read; counters
    are added up by differences, and polled often enough that none starts again unseen. Nothing is
    subtracted. When the meter fails, the log ends, and `joules` raises from then on.

    Args:
        meter: what is read.
        clock: monotonic seconds.

    Attributes:
        name: of the meter and of what it covers.
        longest_gap_s: between two readings until now. Power in between is taken to change evenly,
            which a process that was stopped for a while makes doubtful.

    Example:
        >>> from mathnas.devices.energy import Channel, MeterKind
        >>> class Lamp:
        ...     name, kind, covers, interval_s, resolution = "lamp", MeterKind.POWER, "it", 0.01, 1
        ...     channels = (Channel("bulb"),)
        ...     def read(self):
        ...         return (60.0,)
        >>> import time
        >>> with EnergyLog(Lamp()) as log:
        ...     time.sleep(0.05)
        >>> 3.0 <= log.joules() < 60.0
        True
    """

    def __init__(self, meter: Meter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.meter = meter
        self.name = f"{meter.name} ({meter.covers})"
        self.longest_gap_s = 0.0
        self._clock = clock
        self._period_s = _period_s(meter)
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._last: tuple[float, Sequence[float]] | None = None
        self._joules = 0.0
        self._samples = 0
        self._failure: MeterError | None = None

    def start(self) -> None:
        """Read once, and go on in the background.

        Raises:
            MeterError: the meter cannot be read.
            InvalidInputError: the log was started before.
        """
        if self._thread is not None:
            raise InvalidInputError("an EnergyLog is started once: make another one.")
        self.mark()
        self._thread = threading.Thread(
            target=self._run, name=f"meter {self.meter.name}", daemon=True
        )
        self._thread.start()

    def joules(self) -> float:
        """Joules from the start until now, or until `stop`.

        Raises:
            MeterError: the meter failed at some time since the start.
        """
        return self.mark().joules

    def mark(self) -> Mark:
        """Read the meter now, unless the log has ended; where the log stands then.

        Raises:
            MeterError: as `joules`.
        """
        with self._lock:
            if not self._ending.is_set():
                self._read()
            if self._failure is not None:
                raise self._failure
            assert self._last is not None  # it was read
            return Mark(self._last[0], self._joules, self._samples)

    @property
    def failed(self) -> bool:
        """Whether the meter has failed."""
        return self._failure is not None

    def stop(self) -> None:
        """Read a last time and end the thread. A meter that fails now is reported by `joules`."""
        if self._thread is None:
            raise InvalidInputError("an EnergyLog is started before it is stopped.")
        with self._lock:
            try:
                if not self._ending.is_set():
                    self._read()
            finally:
                self._ending.set()
        self._thread.join()

    def __enter__(self) -> EnergyLog:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._ending.wait(self._period_s):
            with self._lock:
                if self._ending.is_set():
                    return
                self._read()

    def _read(self) -> None:
        """Take a reading into the sum; the lock is held."""
        try:
            before = self._clock()
            values = self.meter.read()
            now = (before + self._clock()) / 2
            if self._last is not None:
                then, old = self._last
                self._joules += self._between(old, values, now - then)
                self.longest_gap_s = max(self.longest_gap_s, now - then)
        except MeterError as error:
            since = "" if self._last is None else f" ({self._joules:.6g} J had been counted)"
            self._failure = type(error)(f"{error}{since}")
            self._failure.__cause__ = error
            self._ending.set()  # the thread too, whoever asked
            return
        self._last = (now, values)
        self._samples += 1

    def _between(self, old: Sequence[float], new: Sequence[float], seconds: float) -> float:
        if self.meter.kind is MeterKind.COUNTER:
            return joules_between(self.meter, old, new, seconds)
        return (sum(old) + sum(new)) / 2 * seconds


def _period_s(meter: Meter) -> float:
    """Between readings: as often as power changes; for counters, well before they start again."""
    if meter.kind is MeterKind.POWER:
        return meter.interval_s
    wraps = [channel.wraps_j for channel in meter.channels if channel.wraps_j is not None]
    shortest = min(wraps, default=float("inf")) / MOST_WATTS / 4
    return max(meter.interval_s, min(_LONGEST_POLL_S, shortest))
