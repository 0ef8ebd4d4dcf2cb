"""What a run costs: time, energy where a meter exists, and an estimate of the CO2 of that energy.

Energy is only ever measured. CO2 is only ever an estimate, made of measured energy and an intensity
of the grid that somebody stated; without either there is none.
"""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, get_args

from mathnas._records import Record, read_json, write_json
from mathnas.errors import InvalidInputError, MathNASError, MathNASWarning

Work = Literal["training", "estimation", "validation", "refinement", "search"]
COSTS_FILE = "costs.json"
COSTS_FORMAT = "mathnas-costs"
COSTS_VERSION = 1
WORKS: tuple[Work, ...] = get_args(Work)
_JOULES_IN_KWH = 3.6e6
_INTERVAL = 5.0  # seconds between two reports of a run that goes on


class RunMeter(Protocol):
    """Measures the energy of this machine, or of a part of it.

    Attributes:
        name: of the meter and of what it measures.
    """

    @property
    def name(self) -> str: ...

    def start(self) -> object:
        """Begin to measure."""
        ...

    def joules(self) -> float:
        """Energy since `start`; may be asked again and again."""
        ...

    def stop(self) -> object:
        """End to measure."""
        ...


@dataclass(frozen=True, slots=True)
class RunCost:
    """What one run cost.

    Attributes:
        what: kind of work.
        seconds: wall time.
        cpu_seconds: processor time of this process and of those children that have ended.
        networks: evaluations of networks.
        joules: measured energy; None without a meter.
        meter: what measured it.
        grid_intensity: grams of CO2 for a kWh, as the user stated it; None where nobody did.
        begun: seconds since 1970.
        finished: False for a run that goes on or was killed: then the cost is that until the last
            report.
    """

    what: Work
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    networks: int = 0
    joules: float | None = None
    meter: str | None = None
    grid_intensity: float | None = None
    begun: float = 0.0
    finished: bool = True

    def __post_init__(self) -> None:
        if self.what not in WORKS:
            raise InvalidInputError(f"a cost is that of {', '.join(WORKS)}, but got {self.what!r}.")
        check_intensity(self.grid_intensity)
        for name in ("seconds", "cpu_seconds", "networks", "joules"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InvalidInputError(f"{name} of a cost is at least 0, but got {value}.")

    @property
    def co2_grams(self) -> float | None:
        """An estimate, made of the energy and the stated intensity; None without either."""
        if self.joules is None or self.grid_intensity is None:
            return None
        return self.joules / _JOULES_IN_KWH * self.grid_intensity

    def to_dict(self) -> dict[str, object]:
        """For JSON; what is not known is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, value: Mapping[str, object], where: str = "a cost") -> RunCost:
        """Read what `to_dict` wrote.

        Raises:
            FileFormatError: a field is missing or of another type.
            InvalidInputError: a number is negative, or the kind of work is unknown.
        """
        record = Record(value, where)
        record.only(*cls.__dataclass_fields__)
        return cls(
            record.get("what", str),  # type: ignore[arg-type]  # checked when it is made
            record.get("seconds", float),
            record.get("cpu_seconds", float),
            record.get("networks", int),
            record.number("joules"),
            record.get("meter", str) if "meter" in record else None,
            record.number("grid_intensity"),
            record.get("begun", float),
            record.get("finished", bool),
        )

    def __str__(self) -> str:
        return CostSum.of([self]).line(self.what)


def check_intensity(value: float | None) -> float | None:
    """`value`, which is grams of CO2 for a kWh.

    Raises:
        InvalidInputError: it is negative or not finite.
    """
    if value is not None and not 0 <= value < math.inf:
        raise InvalidInputError(
            f"an intensity of the grid is in grams of CO2 for a kWh, at least 0, but got {value}."
        )
    return value


class CostRecorder:
    """Measures what a run costs; use it as a context.

    A meter that fails while it is needed costs the run its energy and nothing else, with a warning.

    Args:
        what: kind of work.
        meter: measures energy.
        grid_intensity: grams of CO2 for a kWh, for the estimate.
        told: called with the cost at the start, now and then in `add`, and at the end, so that a
            run that is killed has told what it cost. Nothing happens between: a measurement has
            the machine to itself.
        interval: seconds between two reports.

    Example:
        >>> with CostRecorder("search") as recorder:
        ...     recorder.add(networks=3)
        >>> recorder.cost.networks, recorder.cost.finished
        (3, True)
    """

    def __init__(
        self,
        what: Work,
        *,
        meter: RunMeter | None = None,
        grid_intensity: float | None = None,
        told: Callable[[RunCost], None] | None = None,
        interval: float = _INTERVAL,
    ) -> None:
        self.cost = RunCost(
            what,
            meter=None if meter is None else meter.name,
            grid_intensity=check_intensity(grid_intensity),
            finished=False,
        )
        self.interval = interval
        self._meter, self._told = meter, told
        self._wall = self._cpu = self._last = 0.0
        self._metering = False
        self._lock = threading.RLock()  # a study may be used by several threads

    def __enter__(self) -> CostRecorder:
        if self._meter is not None:
            self._meter.start()  # a meter that cannot begin says so before anything is done
            self._metering = True
        self._wall = self._last = time.monotonic()
        self._cpu = _cpu_seconds()
        self.cost = replace(self.cost, begun=time.time())
        try:
            self._tell()
        except BaseException:
            self._stop()
            raise
        return self

    def add(self, networks: int = 0) -> None:
        """Count evaluations; report the cost where the last report is some seconds old.

        What another thread counts a moment after the end is told at once.
        """
        with self._lock:
            self.cost = replace(self.cost, networks=self.cost.networks + networks)
            if self.cost.finished:
                self._tell()
            elif time.monotonic() - self._last >= self.interval:
                self.report()

    def report(self) -> None:
        """Bring `cost` up to now, and tell it."""
        with self._lock:
            self._measure()
            self._last = time.monotonic()
            self._tell()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # whole, so that what other threads count is neither lost nor told as unfinished after it
        with self._lock:
            self._measure()
            self._stop()
            self.cost = replace(self.cost, finished=True)
            try:
                self._tell()
            except MathNASError:
                if error is None:  # what ended the run says more
                    raise

    def _tell(self) -> None:
        if self._told is not None:
            self._told(self.cost)

    def _measure(self) -> None:
        joules = self.cost.joules
        if self._meter is not None and self._metering:
            try:
                joules = max(0.0, float(self._meter.joules()))
            except Exception as error:
                self._stop(error)
                joules = None
        self.cost = replace(
            self.cost,
            seconds=time.monotonic() - self._wall,
            cpu_seconds=max(0.0, _cpu_seconds() - self._cpu),
            joules=joules,
        )

    def _stop(self, failed: Exception | None = None) -> None:
        """End to measure, also where the meter has failed: it may read on in the background."""
        if self._meter is None or not self._metering:
            return
        self._metering = False
        try:
            self._meter.stop()
        except Exception as error:
            failed = failed or error
        if failed is not None:
            warnings.warn(
                f"the meter {self.cost.meter} failed ({type(failed).__name__}: {failed}): the "
                "energy of this run is not known.",
                MathNASWarning,
                stacklevel=4,
            )


def _cpu_seconds() -> float:
    """Of this process with all its threads, and of its children that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


@dataclass(frozen=True)
class CostSum:
    """Several runs taken together.

    Attributes:
        runs: how many.
        unfinished: how many of them go on or were killed.
        seconds, cpu_seconds, networks: of all.
        joules, metered: measured energy, and of how many runs; None of none.
        co2_grams, estimated: the estimate, and of how many runs; None of none.
        intensities: what the estimate was made from, g/kWh, each once.
    """

    runs: int = 0
    unfinished: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    networks: int = 0
    joules: float | None = None
    metered: int = 0
    co2_grams: float | None = None
    estimated: int = 0
    intensities: tuple[float, ...] = ()

    @classmethod
    def of(cls, runs: Sequence[RunCost]) -> CostSum:
        """The sum of these."""
        joules = [run.joules for run in runs if run.joules is not None]
        estimated = [run for run in runs if run.co2_grams is not None]
        grams = [run.co2_grams or 0.0 for run in estimated]
        made = [run.grid_intensity or 0.0 for run in estimated]
        return cls(
            len(runs),
            sum(not run.finished for run in runs),
            math.fsum(run.seconds for run in runs),
            math.fsum(run.cpu_seconds for run in runs),
            sum(run.networks for run in runs),
            math.fsum(joules) if joules else None,
            len(joules),
            math.fsum(grams) if grams else None,
            len(grams),
            tuple(dict.fromkeys(made)),
        )

    def to_dict(self) -> dict[str, object]:
        """For JSON; CO2 with the mark that it is an estimate, and from what."""
        return {
            "runs": self.runs,
            "unfinished": self.unfinished,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "networks": self.networks,
            "joules": self.joules,
            "metered_runs": self.metered,
            "co2": None
            if self.co2_grams is None
            else {
                "grams": self.co2_grams,
                "estimate": True,
                "grid_intensities_g_per_kwh": list(self.intensities),
                "estimated_runs": self.estimated,
            },
        }

    def line(self, name: str) -> str:
        """For people."""
        parts = [f"{name}: {self.runs} {'run' if self.runs == 1 else 'runs'}"]
        if self.unfinished:
            parts[0] += f" ({self.unfinished} not finished)"
        parts.append(f"{_time(self.seconds)} ({_time(self.cpu_seconds)} of processors)")
        if self.networks:
            parts.append(f"{self.networks} evaluations")
        if self.joules is not None:
            of = "" if self.metered == self.runs else f" (measured in {self.metered} of them)"
            parts.append(f"{_energy(self.joules)}{of}")
        if self.co2_grams is not None:
            made = " and ".join(f"{value:g}" for value in self.intensities)
            of = "" if self.estimated == self.runs else f", {self.estimated} runs"
            parts.append(f"about {self.co2_grams:.3g} g CO2 (estimate at {made} g/kWh{of})")
        return ", ".join(parts)


@dataclass(frozen=True)
class Account:
    """What runs cost, by kind of work and in total."""

    runs: Sequence[RunCost]

    @property
    def by_work(self) -> dict[Work, CostSum]:
        """The sums of the kinds of work that there are."""
        return {
            work: CostSum.of(own)
            for work in WORKS
            if (own := [run for run in self.runs if run.what == work])
        }

    @property
    def total(self) -> CostSum:
        return CostSum.of(self.runs)

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "by_work": {work: own.to_dict() for work, own in self.by_work.items()},
            "total": self.total.to_dict(),
            "runs": [run.to_dict() for run in self.runs],
        }

    def __str__(self) -> str:
        if not self.runs:
            return "no runs are recorded."
        lines = [own.line(work) for work, own in self.by_work.items()]
        return "\n".join([*lines, self.total.line("total")] if len(lines) > 1 else lines)


def read_runs(folder: Path) -> list[RunCost]:
    """The runs that a folder's account, ``costs.json``, holds.

    Raises:
        FileFormatError: it is missing, damaged, foreign or newer.
        InvalidInputError: a cost in it cannot be.
    """
    record = read_json(folder / COSTS_FILE, COSTS_FORMAT, COSTS_VERSION)
    return [RunCost.from_dict(entry, where) for where, entry in record.items("runs")]


def write_runs(folder: Path, runs: Sequence[RunCost]) -> None:
    """Write a folder's account, whole or not at all.

    Raises:
        FileFormatError: it cannot be written.
    """
    records = [run.to_dict() for run in runs]
    header = {"format": COSTS_FORMAT, "version": COSTS_VERSION}
    write_json(folder / COSTS_FILE, {**header, "runs": records})


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _energy(joules: float) -> str:
    if joules < 1e3:
        return f"{joules:.3g} J"
    return f"{joules / 1e3:.3g} kJ" if joules < 1e6 else f"{joules / _JOULES_IN_KWH:.3g} kWh"
