"""The study: an append-only store of evaluations in one SQLite file.

Facts are written once and never changed; tables are derived from them and can always be fitted
again. Only the driver process writes; workers return results to it. How the file is kept safe is
told in `mathnas._store`.
"""

from __future__ import annotations

import contextlib
import json
import math
import operator
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mathnas._exchange import read_rows, write_rows
from mathnas._store import Store
from mathnas._version import __version__
from mathnas.costs import CostRecorder, RunCost, RunMeter, Work
from mathnas.device import Device
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.evaluation import Evaluation, Measurement
from mathnas.metrics import Floats, Metric, metric_named
from mathnas.sampling import Sample
from mathnas.space import Indices, Network, SearchSpace, network_text

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE metrics (name TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE samples (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, reference TEXT NOT NULL, networks INTEGER NOT NULL,
    share REAL, seed INTEGER, time REAL NOT NULL
);
CREATE TABLE evaluations (
    id INTEGER PRIMARY KEY, network TEXT NOT NULL, metric TEXT NOT NULL, value REAL NOT NULL,
    spread REAL, repeats INTEGER NOT NULL, seed INTEGER, conditions TEXT NOT NULL,
    time REAL NOT NULL, notes TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX evaluations_by_metric ON evaluations (metric, network);
CREATE TABLE failures (
    id INTEGER PRIMARY KEY, network TEXT NOT NULL, error TEXT NOT NULL, traceback TEXT NOT NULL,
    seed INTEGER, conditions TEXT NOT NULL, time REAL NOT NULL
);
"""
_DEVICES_AND_RUNS = """
CREATE TABLE devices (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, record TEXT NOT NULL, time REAL NOT NULL
);
CREATE TABLE runs (id INTEGER PRIMARY KEY, record TEXT NOT NULL)
"""
# from a version to the next; the default serves drivers of the older version
_UPGRADES = {
    1: "ALTER TABLE evaluations ADD COLUMN notes TEXT NOT NULL DEFAULT '{}';" + _DEVICES_AND_RUNS
}
_COLUMNS: dict[str, type] = {
    "network": str,
    "metric": str,
    "value": float,
    "spread": float,
    "repeats": int,
    "seed": int,
    "conditions": str,
    "time": float,
    "notes": str,
}
_INSERT = f"INSERT INTO evaluations ({', '.join(_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DEVICE = "device"  # the condition that names what a metric was measured on
_Row: TypeAlias = tuple[str, str, float, float | None, int, int | None, str, float, str]


@dataclass(frozen=True, slots=True)
class Failure:
    """An evaluation that raised; the next run tries it again."""

    network: Network
    error: str
    traceback: str
    seed: int | None = None
    conditions: Mapping[str, str] | None = None
    time: float = 0.0


@dataclass(frozen=True)
class Measurements:
    """All measurements of one metric under one set of conditions, one row a network.

    Attributes:
        metric: what was measured.
        conditions: under which conditions.
        networks: shape (k, m), distinct, in the order of first measurement.
        values: shape (k,): means over repeats.
        spread: shape (k,): standard deviation of one repeat; NaN where there is a single one
            without a spread.
        repeats: shape (k,): how many repeats stand behind each value.
    """

    metric: Metric
    conditions: Mapping[str, str]
    networks: Indices
    values: Floats
    spread: Floats
    repeats: Floats

    def __len__(self) -> int:
        return len(self.values)

    def lookup(self, network: Network) -> int | None:
        """The row of a network, or None where it was not measured."""
        rows = np.flatnonzero((self.networks == np.array(network)).all(axis=1))
        return int(rows[0]) if len(rows) else None

    def where(self, kept: Sequence[bool] | npt.NDArray[np.bool_]) -> Measurements:
        """Those of the networks for which `kept`, of shape (k,), is true."""
        rows = np.array(kept, dtype=bool)
        return replace(
            self,
            networks=self.networks[rows],
            values=self.values[rows],
            spread=self.spread[rows],
            repeats=self.repeats[rows],
        )


class Study:
    """Opens a study, or creates it.

    A study may be used by several threads, and several may be open on one file.

    Args:
        path: the study's file; beside it stand its lock and, while open, SQLite's journal.
        space: needed to create; where the study exists it must be the space that it was made for.
        read_only: never write, lock or create the study; for files on a read-only disk, and to
            look while a driver writes. While it is open SQLite may have its index beside the file.

    Raises:
        FileFormatError: the file is damaged, foreign, newer, missing (read-only) or cannot be
            written; it is left as it was.
        InvalidInputError: the space differs from the study's.
    """

    def __init__(
        self, path: str | Path, space: SearchSpace | None = None, *, read_only: bool = False
    ) -> None:
        self.path = Path(path)
        self.read_only = read_only
        fill = None if space is None else partial(_fill, space)
        self._store = Store(self.path, fill, read_only=read_only)
        self._recorder: CostRecorder | None = None
        self._recording = threading.Lock()  # held while a run is recorded, from before its start
        try:
            self.space = self._space(space)
            if not read_only:
                # not before it is known to be sound, and the study that is meant
                self._store.upgrade(_UPGRADES)
        except BaseException:
            self._store.close()
            raise
        self._store.warn_of_network(stacklevel=2)

    # ---- facts in ---------------------------------------------------------------------------

    def declare(self, metrics: Iterable[Metric]) -> None:
        """Make metrics known; one that is known already must be declared the same way.

        Raises:
            InvalidInputError: a metric of this name is declared differently.
        """
        declared = list(metrics)
        known = self.metrics
        if any(known.get(metric.name) != metric for metric in declared):
            with self._store.writing() as connection:
                self._declare(connection, declared)

    def add(self, evaluations: Iterable[Evaluation], failures: Iterable[Failure] = ()) -> None:
        """Append evaluations and failures: all of them or, where one is refused, none.

        Metrics that were not declared are declared from their names.

        Raises:
            InvalidInputError: a network does not belong to the space, or a value is not finite.
            FileFormatError: the file cannot be written (full disk, no permission).
        """
        # looked at once: another thread may end the recording meanwhile
        recorder = self._recorder
        now = time.time()
        known = self.metrics
        rows = [self._row(fact, known, now) for fact in evaluations]
        failed = [
            (
                network_text(failure.network),
                _storable(failure.error),
                _storable(failure.traceback),
                None if failure.seed is None else _whole(failure.seed, "a seed"),
                conditions_text(failure.conditions or {}),
                failure.time or now,
            )
            for failure in failures
        ]
        self._append(rows, known, failed)
        if recorder is not None:
            # one evaluation of a network has a row for each of its metrics
            networks = max(Counter(row[1] for row in rows).values(), default=0)
            # these are stored; a disk that is full now says so to the next ones
            with contextlib.suppress(FileFormatError):
                recorder.add(networks)

    def add_failure(self, failure: Failure) -> None:
        """Record an evaluation that raised."""
        self.add((), [failure])

    def add_sample(self, sample: Sample) -> None:
        """Record which design is evaluated; its reference becomes the study's."""
        with self._store.writing() as connection:
            connection.execute(
                "INSERT INTO samples (kind, reference, networks, share, seed, time) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    sample.kind,
                    network_text(sample.reference),
                    len(sample),
                    None if sample.share is None else float(sample.share),
                    None if sample.seed is None else _whole(sample.seed, "a seed"),
                    time.time(),
                ),
            )

    def add_device(self, device: Device) -> None:
        """Keep a device's record; one that says something new is kept beside the older ones.

        Raises:
            InvalidInputError: a device of this name has another processor.
        """
        with self._store.writing() as connection:
            known = self.devices.get(device.name)
            if known == device:
                return
            if known is not None and known.cpu != device.cpu:
                raise InvalidInputError(
                    f"one name is one device, but {device.name!r} in {self.path} has the processor "
                    f"{known.cpu!r} and now {device.cpu!r}: name one of them differently."
                )
            connection.execute(
                "INSERT INTO devices (name, record, time) VALUES (?, ?, ?)",
                (device.name, json.dumps(device.to_dict()), time.time()),
            )

    def add_run(self, cost: RunCost) -> None:
        """Keep what a run cost that was not made in `recording`."""
        self._write_run(cost, None)

    @contextlib.contextmanager
    def recording(
        self, what: Work, *, meter: RunMeter | None = None, grid_intensity: float | None = None
    ) -> Iterator[CostRecorder]:
        """Keep what happens in this context as a run: its cost, and how much is evaluated.

        The run is written down at the start, now and then while evaluations come in, and at the
        end, whatever ends it: a kill loses the last seconds of its cost.

        Args:
            what: kind of work.
            meter: measures energy, in any way that has `mathnas.costs.RunMeter`'s members.
            grid_intensity: grams of CO2 for a kWh, for the estimate.

        Raises:
            InvalidInputError: a run is recorded already, or the intensity is negative.
            FileFormatError: the study cannot be written.
        """
        if not self._recording.acquire(blocking=False):
            raise InvalidInputError(
                "one run is recorded at a time, but this one would begin inside another: leave "
                "out the inner one."
            )
        row: int | None = None

        def keep(cost: RunCost) -> None:
            nonlocal row
            row = self._write_run(cost, row)

        try:
            with CostRecorder(
                what, meter=meter, grid_intensity=grid_intensity, told=keep
            ) as recorder:
                self._recorder = recorder
                try:
                    yield recorder
                finally:
                    self._recorder = None
        finally:
            self._recording.release()

    # ---- facts out --------------------------------------------------------------------------

    @property
    def metrics(self) -> dict[str, Metric]:
        """The declared metrics by name, in the order of declaration."""
        rows = self._store.read("SELECT record FROM metrics ORDER BY rowid", decode=_metric)
        return {metric.name: metric for metric in rows}

    @property
    def reference(self) -> Network:
        """The reference of the newest single, partial or full sample; else the space's."""
        rows = self._store.read(
            "SELECT reference FROM samples WHERE kind IN ('single', 'partial', 'full') "
            "ORDER BY id DESC LIMIT 1",
            decode=self._member,
        )
        return rows[0] if rows else self.space.reference

    def __len__(self) -> int:
        """How many evaluations there are."""
        return int(self._store.read("SELECT COUNT(*) FROM evaluations")[0][0])

    def evaluations(
        self,
        metric: str | None = None,
        network: Network | None = None,
        conditions: Mapping[str, str] | None = None,
    ) -> Iterator[Evaluation]:
        """Every evaluation in the order of writing; those of one metric, of one network or under
        exactly these conditions, where they are given."""
        wanted = {
            "metric": metric,
            "network": None if network is None else network_text(network),
            "conditions": None if conditions is None else conditions_text(conditions),
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        where = " AND ".join(f"{name} = ?" for name in given)
        rows = self._rows(f"WHERE {where}" if given else "", tuple(given.values()))
        for row in rows:
            yield self._store.guard(partial(_fact, *row))

    def failures(self) -> list[Failure]:
        """Every failed evaluation, in the order of writing."""
        return self._store.read(
            "SELECT network, error, traceback, seed, conditions, time FROM failures ORDER BY id",
            decode=_failure,
        )

    def counts(
        self, metrics: Sequence[str], conditions: Mapping[str, str] | None = None
    ) -> Counter[Network]:
        """How often each network was measured on *all* of `metrics` under these conditions."""
        lowest: Counter[Network] | None = None
        for name in metrics:
            rows = self._store.read(
                "SELECT network, COUNT(*) FROM evaluations WHERE metric = ? AND conditions = ? "
                "GROUP BY network",
                (name, conditions_text(conditions or {})),
                decode=lambda network, number: (_network(network), int(number)),
            )
            found = Counter(dict(rows))
            # the intersection of counters keeps the smaller count of each network
            lowest = found if lowest is None else lowest & found
        return lowest or Counter()

    def conditions(self, metric: str) -> list[dict[str, str]]:
        """The distinct conditions under which a metric was measured."""
        return self._store.read(
            "SELECT conditions FROM evaluations WHERE metric = ? GROUP BY conditions "
            "ORDER BY MIN(id)",
            (metric,),
            decode=_conditions,
        )

    def measurements(
        self,
        metric: str,
        conditions: Mapping[str, str] | None = None,
        *,
        device: str | None = None,
    ) -> Measurements:
        """The measurements of a metric, repeats pooled.

        Args:
            conditions: keep the evaluations whose conditions contain these; needed where a metric
                was measured under several.
            device: keep those of a device, as `device_named` finds it; where the metric has none,
                those that name no device and so serve all.

        Raises:
            InvalidInputError: the metric is unknown, was never measured under these conditions, or
                was measured under several and none was chosen.
        """
        known = self.metrics
        if metric not in known:
            raise InvalidInputError(
                f"{self.path} has no metric {metric!r}; it has {', '.join(known) or 'none'}."
            )
        wanted = {str(key): str(value) for key, value in (conditions or {}).items()}
        held = self.conditions(metric)
        fitting = [found for found in held if wanted.items() <= found.items()]
        if device is not None:
            name = self.device_named(device)
            wanted[_DEVICE] = name
            own = [found for found in fitting if found.get(_DEVICE) == name]
            fitting = own or [found for found in fitting if _DEVICE not in found]
        devices = dict.fromkeys(found.get(_DEVICE, "(no device)") for found in fitting)
        if len(devices) > 1:
            raise InvalidInputError(
                f"the measurements of {metric} that are used together are of one device, but "
                f"{self.path} has those of {'; '.join(devices)}: choose one of them with device= "
                "(--device)."
            )
        if len(fitting) != 1:
            listed = "; ".join(map(conditions_text, held))
            raise InvalidInputError(
                f"the measurements of {metric} that are used together share their conditions, but "
                f"{len(fitting)} sets of conditions fit {conditions_text(wanted)}: "
                f"choose one of {listed or 'those to be measured'}."
            )
        rows = self._store.read(
            "SELECT network, value, spread, repeats FROM evaluations "
            "WHERE metric = ? AND conditions = ? ORDER BY id",
            (metric, conditions_text(fitting[0])),
        )
        return self._store.guard(lambda: _pool(known[metric], fitting[0], rows, self.space))

    # ---- devices and costs ------------------------------------------------------------------

    @property
    def devices(self) -> dict[str, Device]:
        """The newest record of each device by name, in the order in which they came."""
        if self._store.version < 2:
            return {}
        rows = self._store.read(
            "SELECT record FROM devices ORDER BY id",
            decode=lambda record: Device.from_dict(json.loads(record), f"{self.path}.devices"),
        )
        return {device.name: device for device in rows}

    def measured_on(self) -> Counter[str]:
        """How many measurements there are by the condition ``device``."""
        rows = self._store.read(
            "SELECT conditions, COUNT(*) FROM evaluations GROUP BY conditions ORDER BY MIN(id)",
            decode=lambda conditions, number: (_conditions(conditions), int(number)),
        )
        found: Counter[str] = Counter()
        for conditions, number in rows:
            if _DEVICE in conditions:
                found[conditions[_DEVICE]] += number
        return found

    def device_named(self, text: str) -> str:
        """The device of this name, or whose name alone has this part; upper case is lower case.

        Raises:
            InvalidInputError: none or several; the message lists all.
        """
        names = list(dict.fromkeys([*self.measured_on(), *self.devices]))
        if text in names:
            return text
        found = [name for name in names if text.casefold() in name.casefold()]
        if len(found) != 1:
            fitting = "none" if not found else "; ".join(found)
            raise InvalidInputError(
                f"a device is chosen by its name or a part that no other has, but {text!r} is in "
                f"{fitting}: {self.path} has {'; '.join(names) or 'none'}."
            )
        return found[0]

    @property
    def runs(self) -> list[RunCost]:
        """What each recorded run cost, in the order of their starts."""
        if self._store.version < 2:
            return []
        return self._store.read(
            "SELECT record FROM runs ORDER BY id",
            decode=lambda record: RunCost.from_dict(json.loads(record), f"{self.path}.runs"),
        )

    # ---- exchange ---------------------------------------------------------------------------

    def export(self, path: str | Path) -> int:
        """Write every evaluation to a ``.csv`` or ``.parquet`` file, one a row; returns how many.

        Raises:
            InvalidInputError: the file name has another ending.
            MissingExtraError: parquet without pyarrow.
            FileFormatError: the file cannot be written.
        """
        target = Path(path)
        if Path(os.path.realpath(target)) == self._store.place:
            raise InvalidInputError(f"{target} is the study itself: export to another file.")
        rows = self._rows()
        write_rows(target, _COLUMNS, rows)
        return len(rows)

    def import_file(self, path: str | Path) -> tuple[int, int]:
        """Append the evaluations of a file that `export` wrote.

        A file of an older version has no notes; its evaluations may be there with some.

        Returns:
            How many were added, and how many were there already.

        Raises:
            FileFormatError: the file cannot be read or lacks a column.
            InvalidInputError: a row does not belong to this study; nothing is added then.
        """
        source = Path(path)
        records = read_rows(source, _COLUMNS, optional=("notes",))
        known = self.metrics
        compared = len(_COLUMNS) - (not records or "notes" not in records[0])
        there = {row[:compared] for row in self._rows()}
        new: list[_Row] = []
        for number, record in enumerate(records, start=1):
            try:
                row = self._row(_exchanged(record, self.space), known, 0.0)
            except (KeyError, TypeError, ValueError) as error:
                raise InvalidInputError(
                    f"{source}, record {number}: {error} Nothing was added."
                ) from error
            if row[:compared] not in there:
                there.add(row[:compared])
                new.append(row)
        self._append(new, known)
        return len(new), len(records) - len(new)

    # ---- life -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file; a study that is not closed is closed when the program ends."""
        self._store.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r}: {len(self)} evaluations of {self.space.name})"

    # ---- inside -----------------------------------------------------------------------------

    def _space(self, space: SearchSpace | None) -> SearchSpace:
        """The study's space, which `space` must be where it is given."""
        rows = self._store.read("SELECT value FROM meta WHERE key = 'space'")
        if not rows:
            raise self._store.damaged("it holds no search space")
        stored = self._store.guard(
            lambda: SearchSpace.from_dict(json.loads(rows[0][0]), str(self.path))
        )
        if space is None:
            return stored
        if space != stored:
            raise InvalidInputError(
                f"a study holds networks of one space, but {self.path} is of {stored!r} and got "
                f"{space!r} with other nodes, blocks or costs: use another study file."
            )
        return space

    def _declare(self, connection: sqlite3.Connection, metrics: Iterable[Metric]) -> None:
        """Inside a transaction, so that two drivers cannot declare one name in two ways."""
        known = self.metrics
        for metric in metrics:
            if metric.name not in known:
                record = json.dumps(metric.to_dict())
                connection.execute("INSERT INTO metrics VALUES (?, ?)", (metric.name, record))
                known[metric.name] = metric
            elif known[metric.name] != metric:
                raise InvalidInputError(
                    f"metric {metric.name!r} is declared in {self.path} as "
                    f"{known[metric.name].to_dict()}, but got {metric.to_dict()}: "
                    "give it another name."
                )

    def _row(self, fact: Evaluation, known: dict[str, Metric], now: float) -> _Row:
        """`fact` as it is stored; `known` gains its metric.

        Raises:
            InvalidInputError: it cannot be stored.
        """
        metric = known.get(fact.metric)
        if metric is None:
            metric = known[fact.metric] = metric_named(fact.metric)
        measurement = fact.measurement
        when = float(fact.time or now)
        if not math.isfinite(when):
            raise InvalidInputError(f"a time is finite, in seconds since 1970, but got {when}.")
        return (
            network_text(self.space.check(fact.network)),
            metric.name,
            metric.check(measurement.value),
            None if measurement.spread is None else float(measurement.spread),
            _whole(measurement.repeats, "the number of repeats"),
            None if fact.seed is None else _whole(fact.seed, "a seed"),
            conditions_text(fact.conditions),
            when,
            conditions_text(measurement.notes),
        )

    def _append(
        self,
        rows: Sequence[_Row],
        metrics: Mapping[str, Metric],
        failures: Sequence[tuple[object, ...]] = (),
    ) -> None:
        if not rows and not failures:
            return
        used = {row[1] for row in rows}
        with self._store.writing() as connection:
            self._declare(connection, [metrics[name] for name in metrics if name in used])
            connection.executemany(_INSERT, rows)
            connection.executemany(
                "INSERT INTO failures (network, error, traceback, seed, conditions, time) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                failures,
            )

    def _write_run(self, cost: RunCost, row: int | None) -> int | None:
        """Write a run into its row, a new one where it has none; returns which."""
        with self._store.writing() as connection:
            return connection.execute(
                "INSERT OR REPLACE INTO runs (id, record) VALUES (?, ?)",
                (row, json.dumps(cost.to_dict())),
            ).lastrowid

    def _rows(self, where: str = "", parameters: Sequence[object] = ()) -> list[_Row]:
        """Evaluations as they are stored, in the order of writing."""
        columns = list(_COLUMNS)
        if self._store.version < 2:
            columns[-1] = "'{}'"
        query = f"SELECT {', '.join(columns)} FROM evaluations {where} ORDER BY id"
        return self._store.read(query, parameters)

    def _member(self, text: str) -> Network:
        return self.space.check(_network(text))


def _fill(space: SearchSpace, connection: sqlite3.Connection) -> None:
    """The tables of a new study."""
    for statement in (_SCHEMA + _DEVICES_AND_RUNS).split(";"):
        connection.execute(statement)
    connection.executemany(
        "INSERT INTO meta VALUES (?, ?)",
        [
            ("space", json.dumps(space.to_dict())),
            ("created", repr(time.time())),
            ("mathnas", __version__),
        ],
    )


def conditions_text(conditions: Mapping[str, str]) -> str:
    """Conditions as stored: JSON with sorted keys, so that equal conditions are equal text."""
    return json.dumps({str(k): str(v) for k, v in conditions.items()}, sort_keys=True)


def _pool(
    metric: Metric, conditions: Mapping[str, str], rows: Sequence[Any], space: SearchSpace
) -> Measurements:
    """Measurements from rows (network, value, spread, repeats), repeats of a network pooled.

    Raises:
        ValueError: the rows are not what `Study.add` wrote.
    """
    order: dict[str, int] = {}
    index = np.array([order.setdefault(row[0], len(order)) for row in rows], dtype=np.intp)
    networks = space.check_many([_network(text) for text in order])
    value = np.array([row[1] for row in rows], dtype=np.float64)
    spread = np.array([math.nan if row[2] is None else row[2] for row in rows], dtype=np.float64)
    repeats = np.array([row[3] for row in rows], dtype=np.float64)
    if not (np.isfinite(value).all() and (repeats >= 1).all()):
        raise ValueError(f"{metric.name} has values that were never stored")
    total = np.bincount(index, repeats)
    # the mean of equal values must be that value, to the last bit: average differences
    first = np.zeros(len(order))
    first[index[::-1]] = value[::-1]
    mean = first + np.bincount(index, repeats * (value - first[index])) / total
    inside = np.where(repeats > 1, (repeats - 1) * spread**2, 0.0)
    between = repeats * (value - mean[index]) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.sqrt(np.bincount(index, inside + between) / (total - 1))
    return Measurements(metric, conditions, networks, mean, deviation, total.astype(np.float64))


def _network(text: str) -> Network:
    return tuple(map(int, text.split(",")))


def _metric(record: str) -> Metric:
    return Metric.from_dict(json.loads(record))


def _conditions(text: str) -> dict[str, str]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"conditions are a JSON object, and so are notes, but got {text}")
    return {str(key): str(value) for key, value in found.items()}


def _fact(
    network: str,
    metric: str,
    value: float,
    spread: float | None,
    repeats: int,
    seed: int | None,
    conditions: str,
    when: float,
    notes: str,
) -> Evaluation:
    measurement = Measurement(value, spread, repeats, _conditions(notes))
    return Evaluation(_network(network), metric, measurement, seed, _conditions(conditions), when)


def _failure(
    network: str, error: str, trace: str, seed: int | None, conditions: str, when: float
) -> Failure:
    return Failure(_network(network), error, trace, seed, _conditions(conditions), when)


def _whole(value: object, what: str) -> int:
    """`value` as an integer that SQLite can hold."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or not -(2**63) <= number < 2**63:
        raise InvalidInputError(f"{what} is a whole number below 2^63, but got {value!r}.")
    return number


def _storable(text: str) -> str:
    """`text` without the half characters that file names may bring and SQLite refuses."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _exchanged(record: Mapping[str, Any], space: SearchSpace) -> Evaluation:
    """An evaluation from a record of a file; empty text, None and NaN stand for "not given"."""
    network, metric = record["network"], record["metric"]
    if not isinstance(network, str) or not isinstance(metric, str):
        raise ValueError(f"network and metric are text, but got {network!r} and {metric!r}.")
    for name in ("value", "repeats", "time"):
        if record[name] in (None, ""):
            raise ValueError(f"the column {name!r} needs a number, but this one is empty.")
    spread, seed = record["spread"], record["seed"]
    return Evaluation(
        space.parse(network),
        metric,
        Measurement(
            float(record["value"]),
            None if _absent(spread) else float(spread),
            _integer(record["repeats"]),
            _conditions(record.get("notes") or "{}"),
        ),
        None if _absent(seed) else _integer(seed),
        _conditions(record["conditions"] or "{}"),
        float(record["time"]),
    )


def _absent(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan")
    return value is None or (isinstance(value, float) and math.isnan(value))


def _integer(value: Any) -> int:
    """A whole number, also where another program wrote it as 3.0."""
    if isinstance(value, str) and not value.lstrip("+-").isdigit():
        value = float(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"repeats and seeds are whole numbers, but got {value}.")
    return int(value)
