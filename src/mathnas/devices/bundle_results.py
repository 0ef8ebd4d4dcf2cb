"""The results of a bundle: one JSON line a measurement, written as soon as it is there.

Each line is on the disk before the next measurement begins, so a runner may be killed at any
moment: a line that was torn then is dropped. Every line holds a digest of itself and of the lines
before it, beginning with the bundle's: an edited, foreign, missing or moved line is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from mathnas._files import sync_folder
from mathnas._records import Record, check_header
from mathnas.device import Device
from mathnas.devices.bundle_plan import text_mapping
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.evaluation import Measurement
from mathnas.metrics import metric_named
from mathnas.space import Network

_FORMAT = "mathnas-bundle-results"
_VERSION = 1
_MAX_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Run:
    """One start of the runner, for one metric.

    Attributes:
        metric: what it measured.
        conditions: under which conditions.
        device: the machine.
        software: versions by name.
        time: when it began, seconds since 1970.
    """

    metric: str
    conditions: Mapping[str, str]
    device: Device
    software: Mapping[str, str]
    time: float


@dataclass(frozen=True)
class Measured:
    """A measurement of a network by a run (its place in `BundleResults.runs`)."""

    run: int
    network: tuple[int, ...]
    measurement: Measurement
    seed: int
    time: float


@dataclass(frozen=True)
class NotMeasured:
    """A measurement that failed; the next start of the runner tries it again."""

    run: int
    network: tuple[int, ...]
    error: str
    seed: int
    time: float


@dataclass
class BundleResults:
    """What a results file holds.

    Attributes:
        runs, measured, failed: in the order of writing.
        torn: bytes at its end that are no whole line: what was being written when the runner was
            killed.
    """

    runs: list[Run] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    failed: list[NotMeasured] = field(default_factory=list)
    torn: int = 0

    def counts(self, metric: str, conditions: Mapping[str, str]) -> Counter[Network]:
        """How often each network was measured on a metric under these conditions."""
        fitting = {
            number
            for number, run in enumerate(self.runs)
            if run.metric == metric and run.conditions == conditions
        }
        return Counter(found.network for found in self.measured if found.run in fitting)


def read_results(path: Path, bundle: str) -> BundleResults:
    """Read the results of a bundle.

    Args:
        bundle: the bundle's digest.

    Raises:
        FileFormatError: the file cannot be read, is of another bundle, or was changed; the message
            names the line.
    """
    return _read(path, bundle)[0]


class ResultsFile:
    """A results file to append to; use it as a context.

    Args:
        path: made where it is missing. A torn line at its end is cut off.
        bundle: the bundle's digest.

    Raises:
        FileFormatError: as `read_results`, or the file cannot be written.
    """

    def __init__(self, path: Path, bundle: str) -> None:
        self.path = path
        self.results = BundleResults()
        self._last = bundle
        if path.exists():
            self.results, self._last = _read(path, bundle)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            if self.results.torn:
                self._file.truncate(path.stat().st_size - self.results.torn)
            sync_folder(path.parent)
        except OSError as error:
            raise self._unwritten(error) from error

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def begin(self, run: Run) -> int:
        """Write down a run; returns its number, which its measurements are added with."""
        self._write(
            {
                "kind": "run",
                "format": _FORMAT,
                "version": _VERSION,
                "metric": run.metric,
                "conditions": dict(run.conditions),
                "device": run.device.to_dict(),
                "software": dict(run.software),
                "time": run.time,
            }
        )
        self.results.runs.append(run)
        return len(self.results.runs) - 1

    def add(self, found: Measured | NotMeasured) -> None:
        """Append a measurement or a failure; it is on the disk when this returns.

        Raises:
            FileFormatError: it cannot be written; the message holds the value.
        """
        line: dict[str, object] = {
            "kind": "measured",
            "run": found.run,
            "network": list(found.network),
        }
        if isinstance(found, Measured):
            measurement = found.measurement
            line["value"], line["repeats"] = measurement.value, measurement.repeats
            if measurement.spread is not None:
                line["spread"] = measurement.spread
            if measurement.notes:
                line["notes"] = dict(measurement.notes)
        else:
            line["kind"], line["error"] = "failed", found.error
        self._write({**line, "seed": found.seed, "time": found.time})
        if isinstance(found, Measured):
            self.results.measured.append(found)
        else:
            self.results.failed.append(found)

    def _write(self, line: dict[str, object]) -> None:
        digest = _digest(self._last, line)
        text = json.dumps({**line, "digest": digest}, allow_nan=False) + "\n"
        try:
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritten(error, f" Not written: {text.strip()}") from error
        self._last = digest

    def _unwritten(self, error: OSError, more: str = "") -> FileFormatError:
        return FileFormatError(
            f"{self.path} cannot be written: {error.strerror or error}. Free some space, or name "
            f"another place with --results.{more}"
        )


def _read(path: Path, bundle: str) -> tuple[BundleResults, str]:
    """The results and the digest of the last line."""
    results = BundleResults()
    last = bundle
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FileFormatError(f"{path}: larger than {_MAX_BYTES} bytes, so not read.")
        content = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    whole, _, rest = content.rpartition(b"\n")
    results.torn = len(rest)
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        where = f"{path}, line {number}"
        try:
            value = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"{where}: it is damaged or not JSON ({error}).") from error
        record = Record(value, where)
        stated = record.get("digest", str)
        record.value.pop("digest")
        if _digest(last, record.value) != stated:
            reason = (
                "these are results of another bundle, or the line was changed"
                if number == 1
                else "the line, or one before it, was changed, moved or removed"
            )
            raise FileFormatError(
                f"{where}: {reason}, as its digest tells. Fetch the file again from the machine "
                "that measured."
            )
        last = stated
        try:
            _take(results, record)
        except InvalidInputError as error:
            raise FileFormatError(f"{where}: {error}") from error
    return results, last


def _take(results: BundleResults, record: Record) -> None:
    kind = record.get("kind", str)
    time = record.get("time", float)
    if kind == "run":
        check_header(record.value, _FORMAT, _VERSION, record.where)
        metric = metric_named(record.get("metric", str)).name
        conditions = text_mapping(record, "conditions")
        software = text_mapping(record, "software")
        device = Device.from_dict(record.get("device", dict), f"{record.where}.device")
        results.runs.append(Run(metric, conditions, device, software, time))
        return
    run = record.get("run", int)
    if not 0 <= run < len(results.runs):
        raise FileFormatError(f"{record.where}: there is no run {run} before it.")
    network = tuple(_whole_numbers(record, "network"))
    seed = record.get("seed", int)
    if kind == "failed":
        results.failed.append(NotMeasured(run, network, record.get("error", str), seed, time))
    elif kind == "measured":
        measurement = Measurement(
            metric_named(results.runs[run].metric).check(record.get("value", float)),
            record.number("spread"),
            record.get("repeats", int),
            text_mapping(record, "notes") if "notes" in record else {},
        )
        results.measured.append(Measured(run, network, measurement, seed, time))
    else:
        raise FileFormatError(
            f"{record.where}: a line is a run, measured or failed, but got {kind!r}."
        )


def _whole_numbers(record: Record, key: str) -> Iterator[int]:
    for value in record.get(key, list):
        if isinstance(value, bool) or not isinstance(value, int):
            raise FileFormatError(f"{record.where}.{key}: expected whole numbers.")
        yield value


def _digest(last: str, line: Mapping[str, object]) -> str:
    text = json.dumps(line, sort_keys=True)
    return hashlib.sha256(f"{last}\n{text}".encode()).hexdigest()[:32]
