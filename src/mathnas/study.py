"""The study: an append-only store of evaluations in one SQLite file.

Facts are written once and never changed; tables are derived from them and can always be fitted
again. The rules that keep facts safe:

- Only the driver process writes; workers return results to it.
- Every write and every checkpoint happens under a lock file beside the study, so two drivers may
  share one study (SQLite before 3.51.3 has a rare race when two connections reset the WAL).
- ``synchronous=FULL``: a finished write survives SIGKILL and power loss.
- WAL needs shared memory, which network file systems lack: there a rollback journal serves.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from mathnas._exchange import read_rows, write_rows
from mathnas._filelock import FileLock
from mathnas._version import __version__
from mathnas.errors import FileFormatError, InvalidInputError, MathNASWarning
from mathnas.evaluation import Evaluation, Measurement
from mathnas.metrics import Floats, Metric, metric_named
from mathnas.sampling import Sample
from mathnas.space import Indices, Network, SearchSpace

STUDY_VERSION = 1
_APPLICATION_ID = 0x6D4E4153  # "mNAS"
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
    time REAL NOT NULL
);
CREATE INDEX evaluations_by_metric ON evaluations (metric, network);
CREATE TABLE failures (
    id INTEGER PRIMARY KEY, network TEXT NOT NULL, error TEXT NOT NULL, traceback TEXT NOT NULL,
    seed INTEGER, conditions TEXT NOT NULL, time REAL NOT NULL
);
"""
_NETWORK_FILE_SYSTEMS = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs"),
        *("glusterfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone"),
    )
)
_COLUMNS: dict[str, type] = {
    "network": str,
    "metric": str,
    "value": float,
    "spread": float,
    "repeats": int,
    "seed": int,
    "conditions": str,
    "time": float,
}
_T = TypeVar("_T")


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


class Study:
    """Opens a study, or creates it.

    Args:
        path: the study's file; beside it stand its lock and, while open, SQLite's journal.
        space: needed to create; where the study exists it must be the space that it was made for.
        read_only: never write, lock or create; for files on a read-only disk.

    Raises:
        FileFormatError: the file is damaged, foreign, newer, missing (read-only) or cannot be
            written.
        InvalidInputError: the space differs from the study's.
    """

    def __init__(
        self, path: str | Path, space: SearchSpace | None = None, *, read_only: bool = False
    ) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self._lock = FileLock(self.path.with_name(self.path.name + ".lock"))
        exists = _looks_like_a_study(self.path)
        if not exists and (read_only or space is None):
            raise FileFormatError(
                f"there is no study {self.path}: "
                + ("check the path." if read_only else "give a search space to create it.")
            )
        self._connection = self._connect()
        try:
            if not exists:
                assert space is not None
                self._create(space)
            self.space = self._check(space)
        except BaseException:
            self._connection.close()
            raise

    # ---- facts in ---------------------------------------------------------------------------

    def declare(self, metrics: Iterable[Metric]) -> None:
        """Make metrics known; one that is known already must be declared the same way.

        Raises:
            InvalidInputError: a metric of this name is declared differently.
        """
        known = self.metrics
        new = []
        for metric in metrics:
            if metric.name in known and known[metric.name] != metric:
                raise InvalidInputError(
                    f"metric {metric.name!r} is declared in {self.path} as "
                    f"{known[metric.name].to_dict()}, but got {metric.to_dict()}: "
                    "give it another name."
                )
            if metric.name not in known:
                new.append((metric.name, json.dumps(metric.to_dict())))
        if new:
            with self._writing() as connection:
                connection.executemany("INSERT OR IGNORE INTO metrics VALUES (?, ?)", new)

    def add(self, evaluations: Iterable[Evaluation]) -> None:
        """Append evaluations: all of them or, where one is refused, none.

        Metrics that were not declared are declared from their names.

        Raises:
            InvalidInputError: a network does not belong to the space, or a value is not finite.
            FileFormatError: the file cannot be written (full disk, no permission).
        """
        facts = list(evaluations)
        known = self.metrics
        fresh = {fact.metric for fact in facts} - set(known)
        self.declare(metric_named(name) for name in sorted(fresh))
        known = self.metrics if fresh else known
        rows = [
            (
                _text(self.space.check(fact.network)),
                fact.metric,
                known[fact.metric].check(fact.measurement.value),
                fact.measurement.spread,
                fact.measurement.repeats,
                fact.seed,
                conditions_text(fact.conditions),
                fact.time or time.time(),
            )
            for fact in facts
        ]
        if rows:
            with self._writing() as connection:
                connection.executemany(
                    f"INSERT INTO evaluations ({', '.join(_COLUMNS)}) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )

    def add_failure(self, failure: Failure) -> None:
        """Record an evaluation that raised."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO failures (network, error, traceback, seed, conditions, time) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    _text(failure.network),
                    failure.error,
                    failure.traceback,
                    failure.seed,
                    conditions_text(failure.conditions or {}),
                    failure.time or time.time(),
                ),
            )

    def add_sample(self, sample: Sample) -> None:
        """Record which design is evaluated; its reference becomes the study's."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO samples (kind, reference, networks, share, seed, time) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    sample.kind,
                    _text(sample.reference),
                    len(sample),
                    sample.share,
                    sample.seed,
                    time.time(),
                ),
            )

    # ---- facts out --------------------------------------------------------------------------

    @property
    def metrics(self) -> dict[str, Metric]:
        """The declared metrics by name, in the order of declaration."""
        rows = self._read("SELECT record FROM metrics ORDER BY rowid")
        found = [Metric.from_dict(json.loads(record)) for (record,) in rows]
        return {metric.name: metric for metric in found}

    @property
    def reference(self) -> Network:
        """The reference of the newest single, partial or full sample; else the space's."""
        rows = self._read(
            "SELECT reference FROM samples WHERE kind != 'random' ORDER BY id DESC LIMIT 1"
        )
        return self.space.check(_network(rows[0][0])) if rows else self.space.reference

    def __len__(self) -> int:
        """How many evaluations there are."""
        return int(self._read("SELECT COUNT(*) FROM evaluations")[0][0])

    def evaluations(self, metric: str | None = None) -> Iterator[Evaluation]:
        """Every evaluation in the order of writing, of one metric or of all."""
        query = f"SELECT {', '.join(_COLUMNS)} FROM evaluations"
        if metric is None:
            rows = self._read(f"{query} ORDER BY id")
        else:
            rows = self._read(f"{query} WHERE metric = ? ORDER BY id", (metric,))
        for network, name, value, spread, repeats, seed, conditions, when in rows:
            yield Evaluation(
                _network(network),
                name,
                Measurement(value, spread, repeats),
                seed,
                json.loads(conditions),
                when,
            )

    def failures(self) -> list[Failure]:
        """Every failed evaluation, in the order of writing."""
        rows = self._read(
            "SELECT network, error, traceback, seed, conditions, time FROM failures ORDER BY id"
        )
        return [
            Failure(_network(network), error, trace, seed, json.loads(conditions), when)
            for network, error, trace, seed, conditions, when in rows
        ]

    def counts(
        self, metrics: Sequence[str], conditions: Mapping[str, str] | None = None
    ) -> Counter[Network]:
        """How often each network was measured on *all* of `metrics` under these conditions."""
        lowest: Counter[Network] | None = None
        for name in metrics:
            rows = self._read(
                "SELECT network, COUNT(*) FROM evaluations WHERE metric = ? AND conditions = ? "
                "GROUP BY network",
                (name, conditions_text(conditions or {})),
            )
            found = Counter({_network(network): number for network, number in rows})
            # the intersection of counters keeps the smaller count of each network
            lowest = found if lowest is None else lowest & found
        return lowest or Counter()

    def conditions(self, metric: str) -> list[dict[str, str]]:
        """The distinct conditions under which a metric was measured."""
        rows = self._read(
            "SELECT conditions FROM evaluations WHERE metric = ? GROUP BY conditions "
            "ORDER BY MIN(id)",
            (metric,),
        )
        return [json.loads(text) for (text,) in rows]

    def measurements(
        self, metric: str, conditions: Mapping[str, str] | None = None
    ) -> Measurements:
        """The measurements of a metric, repeats pooled.

        Args:
            conditions: keep the evaluations whose conditions contain these; needed where a metric
                was measured under several.

        Raises:
            InvalidInputError: the metric is unknown, was never measured under these conditions, or
                was measured under several and none was chosen.
        """
        if metric not in self.metrics:
            raise InvalidInputError(
                f"{self.path} has no metric {metric!r}; it has {', '.join(self.metrics) or 'none'}."
            )
        wanted = dict(conditions or {})
        fitting = [found for found in self.conditions(metric) if wanted.items() <= found.items()]
        if len(fitting) != 1:
            listed = "; ".join(map(conditions_text, self.conditions(metric)))
            raise InvalidInputError(
                f"the measurements of {metric} that are used together share their conditions, but "
                f"{len(fitting)} sets of conditions fit {conditions_text(wanted)}: "
                f"choose one of {listed or 'those to be measured'}."
            )
        rows = self._read(
            "SELECT network, value, spread, repeats FROM evaluations "
            "WHERE metric = ? AND conditions = ? ORDER BY id",
            (metric, conditions_text(fitting[0])),
        )
        return _pool(self.metrics[metric], fitting[0], rows)

    # ---- exchange ---------------------------------------------------------------------------

    def export(self, path: str | Path) -> int:
        """Write every evaluation to a ``.csv`` or ``.parquet`` file, one a row; returns how many.

        Raises:
            InvalidInputError: the file name has another ending.
            MissingExtraError: parquet without pyarrow.
            FileFormatError: the file cannot be written.
        """
        target = Path(path)
        rows = self._read(f"SELECT {', '.join(_COLUMNS)} FROM evaluations ORDER BY id")
        write_rows(target, _COLUMNS, rows)
        return len(rows)

    def import_file(self, path: str | Path) -> tuple[int, int]:
        """Append the evaluations of a file that `export` wrote.

        Returns:
            How many were added, and how many were there already.

        Raises:
            FileFormatError: the file cannot be read or lacks a column.
            InvalidInputError: a row does not belong to this study; nothing is added then.
        """
        source = Path(path)
        records = read_rows(source, _COLUMNS)
        there = set(self._read(f"SELECT {', '.join(_COLUMNS)} FROM evaluations"))
        new: list[Evaluation] = []
        for number, record in enumerate(records, start=1):
            try:
                fact = _evaluation(record, self.space)
            except (KeyError, TypeError, ValueError) as error:
                raise InvalidInputError(f"{source}, record {number}: {error}") from error
            row = (
                _text(fact.network),
                fact.metric,
                fact.measurement.value,
                fact.measurement.spread,
                fact.measurement.repeats,
                fact.seed,
                conditions_text(fact.conditions),
                fact.time,
            )
            if row not in there:
                there.add(row)
                new.append(fact)
        self.add(new)
        return len(new), len(records) - len(new)

    # ---- life -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file; the last one to close moves the journal into it."""
        if self.read_only:
            self._connection.close()
            return
        with self._lock:
            self._connection.close()

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

    def _connect(self) -> sqlite3.Connection:
        def opened() -> sqlite3.Connection:
            if not self.read_only:
                # autocommit: transactions are begun by _writing
                return sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
            uri = self.path.absolute().as_uri() + "?mode=ro"
            if not os.access(self.path.parent, os.W_OK):
                uri += "&immutable=1"
            return sqlite3.connect(uri, timeout=60.0, isolation_level=None, uri=True)

        connection = self._guard(opened)
        if not self.read_only:
            self._guard(lambda: self._set_journal(connection))
        return connection

    def _set_journal(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous=FULL")
        file_system = file_system_of(self.path)
        if file_system not in _NETWORK_FILE_SYSTEMS:
            with self._lock:
                connection.execute("PRAGMA journal_mode=WAL")
            return
        with self._lock:
            connection.execute("PRAGMA journal_mode=DELETE")
        warnings.warn(
            f"{self.path} is on a network file system ({file_system}): SQLite's write-ahead log "
            "does not work there, so a rollback journal is used. Write from one machine at a time.",
            MathNASWarning,
            stacklevel=4,
        )

    def _create(self, space: SearchSpace) -> None:
        with self._writing() as connection:
            if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
                return  # another driver was faster
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={STUDY_VERSION}")
            connection.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [
                    ("space", json.dumps(space.to_dict())),
                    ("created", repr(time.time())),
                    ("mathnas", __version__),
                ],
            )

    def _check(self, space: SearchSpace | None) -> SearchSpace:
        """The study's space, after the checks that this file is ours and of that space."""
        application = self._read("PRAGMA application_id")[0][0]
        version = self._read("PRAGMA user_version")[0][0]
        if application != _APPLICATION_ID:
            raise FileFormatError(
                f"{self.path} is an SQLite file of another program, not a study: name another file."
            )
        if version > STUDY_VERSION:
            raise FileFormatError(
                f"{self.path} has study version {version}, but this mathnas reads up to "
                f"{STUDY_VERSION}: upgrade mathnas."
            )
        rows = self._read("SELECT value FROM meta WHERE key = 'space'")
        if not rows:
            raise FileFormatError(f"{self.path} is damaged: it holds no search space.")
        stored = SearchSpace.from_dict(self._guard(lambda: json.loads(rows[0][0])), str(self.path))
        if space is None:
            return stored
        if space != stored:
            raise InvalidInputError(
                f"a study holds networks of one space, but {self.path} is of {stored!r} and got "
                f"{space!r} with other nodes, blocks or costs: use another study file."
            )
        return space

    def _read(self, query: str, parameters: Sequence[object] = ()) -> list[Any]:
        return self._guard(lambda: self._connection.execute(query, parameters).fetchall())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction under the lock: all of it is written, or nothing."""
        if self.read_only:
            raise FileFormatError(f"{self.path} was opened to read only: open it for writing.")
        with self._lock:
            self._guard(lambda: self._connection.execute("BEGIN IMMEDIATE"))
            try:
                yield self._connection
                self._guard(lambda: self._connection.execute("COMMIT"))
            except BaseException as error:
                # a full disk has rolled back by itself already
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise self._error(error) from error
                raise

    def _guard(self, action: Callable[[], _T]) -> _T:
        try:
            return action()
        except (sqlite3.Error, ValueError) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> FileFormatError:
        text = str(error)
        if "closed" in text:
            return FileFormatError(f"the study {self.path} is closed: open it again.")
        if "full" in text or "disk I/O" in text:
            return FileFormatError(
                f"{self.path} cannot be written ({text}): free some space on its disk and run the "
                "same command again. What was stored before is unharmed."
            )
        if "readonly" in text or "unable to open" in text:
            return FileFormatError(
                f"{self.path} cannot be opened for writing ({text}): check the folder and its "
                "permissions, or open the study read-only."
            )
        return FileFormatError(
            f"{self.path} is damaged or not a study ({text}). Restore it from a copy; "
            "`sqlite3 FILE .recover` can save the rows of a damaged file."
        )


def conditions_text(conditions: Mapping[str, str]) -> str:
    """Conditions as stored: JSON with sorted keys, so that equal conditions are equal text."""
    return json.dumps({str(k): str(v) for k, v in conditions.items()}, sort_keys=True)


def file_system_of(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the file system that holds `path`; empty where the system does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    target = str(path.absolute().parent.resolve())
    best, kind = -1, ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = fields[1].replace("\\040", " ")
        inside = target == place or target.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= best:
            best, kind = len(place), fields[2]
    return kind


def _looks_like_a_study(path: Path) -> bool:
    """Whether there is an SQLite file; raises `FileFormatError` for anything else there."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    if head and head != b"SQLite format 3\x00":
        raise FileFormatError(
            f"{path} is not a study: it is another kind of file, or damaged. Nothing was changed; "
            "name another file."
        )
    return bool(head)


def _pool(metric: Metric, conditions: Mapping[str, str], rows: Sequence[Any]) -> Measurements:
    """Measurements from rows (network, value, spread, repeats), repeats of a network pooled."""
    order: dict[str, int] = {}
    index = np.array([order.setdefault(row[0], len(order)) for row in rows], dtype=np.intp)
    networks = np.array([_network(text) for text in order], dtype=np.intp)
    value = np.array([row[1] for row in rows])
    spread = np.array([math.nan if row[2] is None else row[2] for row in rows])
    repeats = np.array([row[3] for row in rows], dtype=np.float64)
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


def _text(network: Network) -> str:
    return ",".join(map(str, network))


def _network(text: str) -> Network:
    return tuple(map(int, text.split(",")))


def _evaluation(record: Mapping[str, Any], space: SearchSpace) -> Evaluation:
    spread, seed = record["spread"], record["seed"]
    conditions = json.loads(record["conditions"] or "{}")
    if not isinstance(conditions, dict):
        raise ValueError(f"conditions are a JSON object, but got {conditions!r}.")
    return Evaluation(
        space.parse(record["network"]),
        record["metric"],
        Measurement(
            float(record["value"]),
            None if spread in (None, "") else float(spread),
            int(record["repeats"]),
        ),
        None if seed in (None, "") else int(seed),
        conditions,
        float(record["time"]),
    )
