"""The log of what was observed and decided, and its replay.

One JSON object a line. A session begins with its header and the first decision, then come runs, in
their order, each followed by the decision that it led to, and goals before the run that they were
followed from. A file is only ever appended to; a line that a crash cut off ends its session.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, TypeAlias

from mathnas._filelock import FileLock
from mathnas._records import Record, check_header
from mathnas._version import __version__
from mathnas.errors import FileFormatError, InvalidInputError, MathNASWarning
from mathnas.runtime.controller import Controller
from mathnas.runtime.goals import Goal
from mathnas.runtime.observation import Observation
from mathnas.runtime.policy import Decision, Policy, Reason

DECISIONS_FORMAT = "mathnas-decisions"
DECISIONS_VERSION = 1
_DIGITS = 6  # nanoseconds of a latency in ms, microseconds of a time in s
_FLUSHED_S = 1.0
_SAME = 1e-9  # numbers of two machines' linear algebra

Event: TypeAlias = "Observation | Decision | Goal"


class Recorder(Policy):
    """A policy that writes down what another one observes and decides.

    The policy sees what is written: times to the microsecond, latencies to the nanosecond, so that
    a replay makes the same decisions. Lines reach the file with each decision and once a second. If
    the disk is full the log ends, with a warning, and `failure` says why; serving goes on.

    Args:
        policy: that decides.
        path: is appended to.
        runs: whether runs are written too, about 140 bytes of five nodes. Without them a session
            tells what was decided, but cannot be replayed.
        notes: JSON values for the header: which package, which device.

    Raises:
        FileFormatError: the file cannot be written, is not such a log, or another process writes
            to it.

    Example::

        with Recorder(Controller(table, times, goal), "decisions.jsonl") as policy:
            serve(policy)
    """

    def __init__(
        self,
        policy: Policy,
        path: str | Path,
        *,
        runs: bool = True,
        notes: Mapping[str, object] | None = None,
    ) -> None:
        self.policy, self.path = policy, Path(path)
        self.name = policy.name
        self.failure: str | None = None
        self._runs, self._notes = runs, dict(notes or {})
        self._goal = _goal_of(policy)
        self._flushed = -math.inf
        self._lock = _lock_of(self.path)
        self._lock.__enter__()
        try:
            self._file: IO[str] | None = _opened(self.path)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise

    def start(self, time: float) -> Decision:
        decision = self.policy.start(round(time, _DIGITS))
        self._goal = _goal_of(self.policy)
        self._write(
            {
                "format": DECISIONS_FORMAT,
                "version": DECISIONS_VERSION,
                "mathnas": __version__,
                "policy": self.name,
                "goal": None if self._goal is None else self._goal.to_dict(),
                "runs": self._runs,
                "notes": self._notes,
            },
            _decision_record(decision),
        )
        self._flush(time)
        return decision

    def observe(self, observation: Observation) -> Decision | None:
        seen = replace(
            observation,
            time=round(observation.time, _DIGITS),
            latency_ms=round(observation.latency_ms, _DIGITS),
            parts_ms=tuple(round(part, _DIGITS) for part in observation.parts_ms),
        )
        decision = self.policy.observe(seen)
        goal = _goal_of(self.policy)
        if goal is not self._goal and goal is not None:
            self._goal = goal
            self._write({"goal": goal.to_dict()})
        if self._runs:
            self._write(_run_record(seen))
        if decision is not None:
            self._write(_decision_record(decision))
        if decision is not None or not 0 <= seen.time - self._flushed < _FLUSHED_S:
            self._flush(seen.time)
        return decision

    def close(self) -> None:
        """Write what is left and close the file; the policy decides on."""
        if self._file is None:
            return
        try:
            self._file.close()
        except OSError as error:
            self._fail(error)
        self._file = None
        self._lock.__exit__(None, None, None)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, *records: Mapping[str, object]) -> None:
        if self._file is None or self.failure is not None:
            return
        lines = (json.dumps(record, separators=(",", ":"), allow_nan=False) for record in records)
        try:
            self._file.write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            self._fail(error)

    def _flush(self, time: float) -> None:
        self._flushed = time if math.isfinite(time) else self._flushed
        if self._file is None or self.failure is not None:
            return
        try:
            self._file.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = f"{self.path} cannot be written: {error.strerror or error}."
        warnings.warn(f"{self.failure} Decisions are no longer logged.", MathNASWarning, 3)


def check_log(path: Path) -> None:
    """Open a log as a `Recorder` does and close it, to know that before long work.

    Raises:
        FileFormatError: as `Recorder`.
    """
    with _lock_of(path):
        _opened(path).close()


@dataclass(frozen=True)
class Session:
    """What one start of a policy left in a log.

    Attributes:
        policy: its name.
        goal: at the start; None for policies without one.
        runs: whether the log holds the runs, without which there is no replay.
        events: runs, decisions and goals, in their order; the first one is the first decision.
        lines: where in the file each event stands, from 1.
        notes: of the header.
        truncated: whether its last line was cut off, by a crash or a full disk.
    """

    policy: str
    goal: Goal | None
    runs: bool
    events: tuple[Event, ...]
    lines: tuple[int, ...]
    notes: Mapping[str, object] = field(default_factory=dict)
    truncated: bool = False

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(event for event in self.events if isinstance(event, Decision))

    @property
    def observations(self) -> tuple[Observation, ...]:
        return tuple(event for event in self.events if isinstance(event, Observation))


@dataclass(frozen=True, slots=True)
class Difference:
    """A decision that a replay does not make as it was recorded.

    Attributes:
        line: of the log, of the decision, or of the run that it followed.
        recorded: None where none was.
        replayed: None where none was made.
    """

    line: int
    recorded: Decision | None
    replayed: Decision | None

    def __str__(self) -> str:
        return f"line {self.line}: recorded {_told(self.recorded)}, now {_told(self.replayed)}"


def read_decisions(path: str | Path) -> list[Session]:
    """The sessions of a log, in their order.

    A line that was cut off at the end of the file, or before the next session's header, ends its
    session, which is `truncated` then.

    Raises:
        FileFormatError: the file cannot be read, is not such a log, or a line of it is damaged;
            the message names the line.
    """
    path = Path(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    builders: list[_Builder] = []
    cut = 0  # the line that could not be read, if it is the last one so far
    for number, line in enumerate(text.split(b"\n"), start=1):
        if not line:
            continue
        where = f"{path}, line {number}"
        record = _parsed(line)
        if cut and (record is None or "format" not in record):
            raise FileFormatError(f"{path}, line {cut}: damaged, or not JSON.")
        if record is None:
            if not builders:
                raise FileFormatError(f"{where}: not a {DECISIONS_FORMAT} file.")
            cut, builders[-1].truncated = number, True
            continue
        cut = 0
        if "format" in record:
            header = check_header(record, DECISIONS_FORMAT, DECISIONS_VERSION, where)
            builders.append(_Builder(header))
        elif not builders:
            raise FileFormatError(f"{where}: expected the header of a {DECISIONS_FORMAT} file.")
        else:
            builders[-1].add(Record(record, where), number)
    return [builder.session for builder in builders if builder.events]


def replay(session: Session, policy: Policy) -> Iterator[Difference]:
    """Show a policy what another one, or itself before, observed; where it decides otherwise.

    Decisions are the same where their time, reason, network, changes and proof are, and their
    numbers to 1e-9 of themselves; how long deciding took does not count.

    Args:
        policy: a new one, not started. One that decides as it was recorded has no differences.

    Raises:
        InvalidInputError: the session holds no runs, or goals that the policy does not take.
    """
    if not session.runs:
        raise InvalidInputError(
            "a session is replayed from its runs, but this one holds decisions alone: record it "
            "with runs=True (without --no-log-runs)."
        )
    first = session.events[0]
    assert isinstance(first, Decision)  # `_Builder`
    pending: Decision | None = policy.start(first.time)
    line = session.lines[0]
    for number, event in zip(session.lines, session.events, strict=True):
        if isinstance(event, Decision):
            if not _same(event, pending):
                yield Difference(number, event, pending)
            pending = None
            continue
        if pending is not None:
            yield Difference(line, None, pending)
            pending = None
        if isinstance(event, Goal):
            if not isinstance(policy, Controller):
                raise InvalidInputError(
                    f"the goal was changed in line {number}, but {policy.name} takes no goals: "
                    "replay it with a Controller."
                )
            policy.set_goal(event)
            continue
        pending, line = policy.observe(event), number
    # what the last run led to may have been cut off
    if pending is not None and not session.truncated:
        yield Difference(line, None, pending)


# ---- lines -------------------------------------------------------------------------------------


class _Builder:
    """A session as its lines come."""

    def __init__(self, header: Record) -> None:
        self.header = header
        self.goal = Goal.from_record(header.record("goal")) if "goal" in header else None
        self.events: list[Event] = []
        self.lines: list[int] = []
        self.truncated = False

    def add(self, record: Record, line: int) -> None:
        event = _event(record)
        if not self.events and not isinstance(event, Decision):
            raise FileFormatError(f"{record.where}: a session begins with a decision.")
        self.events.append(event)
        self.lines.append(line)

    @property
    def session(self) -> Session:
        return Session(
            self.header.get("policy", str),
            self.goal,
            self.header.get("runs", bool),
            tuple(self.events),
            tuple(self.lines),
            self.header.get("notes", dict, {}),
            self.truncated,
        )


def _parsed(line: bytes) -> dict[str, object] | None:
    """A line's object; None where it is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _event(record: Record) -> Event:
    if "run" in record:
        return Observation(
            _network(record, "run"),
            _number(record, "time"),
            _number(record, "latency_ms"),
            tuple(_float(value, where) for where, value in record.items("parts_ms")),
        )
    if "goal" in record:
        return Goal.from_record(record.record("goal"))
    try:
        reason = Reason(record.get("reason", str))
    except ValueError as error:
        raise FileFormatError(f"{record.where}: {error}.") from error
    return Decision(
        _number(record, "time"),
        reason,
        _network(record, "network"),
        record.get("changed", int),
        _optional(record, "latency_ms"),
        _optional(record, "quality"),
        _optional(record, "limit_ms"),
        _number(record, "seconds"),
        record.get("proven", bool),
    )


def _network(record: Record, key: str) -> tuple[int, ...]:
    blocks = record.get(key, list)
    if not all(isinstance(block, int) and not isinstance(block, bool) for block in blocks):
        raise FileFormatError(f"{record.where}.{key}: expected block indices, but got {blocks}.")
    return tuple(blocks)


def _run_record(run: Observation) -> dict[str, object]:
    return {
        "run": [int(block) for block in run.network],
        "time": _written(run.time),
        "latency_ms": _written(run.latency_ms),
        "parts_ms": [_written(part) for part in run.parts_ms],
    }


def _decision_record(decision: Decision) -> dict[str, object]:
    numbers = ("time", "latency_ms", "quality", "limit_ms", "seconds")
    own = {name: getattr(decision, name) for name in numbers}
    return {
        **{name: _written(value) for name, value in own.items() if value is not None},
        "reason": decision.reason.value,
        "network": [int(block) for block in decision.network],
        "changed": decision.changed,
        "proven": decision.proven,
    }


def _written(value: float) -> float | str:
    """JSON has no numbers for what a broken timer says."""
    return value if math.isfinite(value) else str(value)


def _number(record: Record, key: str) -> float:
    return _float(record.value.get(key), f"{record.where}.{key}")


def _optional(record: Record, key: str) -> float | None:
    return _number(record, key) if key in record else None


def _float(value: object, where: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if value in ("nan", "inf", "-inf"):
        return float(str(value))
    raise FileFormatError(f"{where}: expected a number, but got {value!r}.")


def _goal_of(policy: Policy) -> Goal | None:
    return policy.goal if isinstance(policy, Controller) else None


def _lock_of(path: Path) -> FileLock:
    return FileLock(path.with_name(f"{path.name}.lock"), timeout=0.0)


def _opened(path: Path) -> IO[str]:
    """The log, to append to, after what is there was looked at."""
    try:
        with path.open("ab+") as file:
            file.seek(0)
            first = file.readline()
            record = _parsed(first)
            if first and (record is None or record.get("format") != DECISIONS_FORMAT):
                raise FileFormatError(
                    f"{path} is not a {DECISIONS_FORMAT} file: name another place for the log."
                )
            if first and not _ends_a_line(file):
                file.write(b"\n")  # a crash cut the last line off
        return path.open("a", encoding="utf-8", buffering=2**16)
    except OSError as error:
        raise FileFormatError(f"{path} cannot be written: {error.strerror or error}.") from error


def _ends_a_line(file: IO[bytes]) -> bool:
    file.seek(-1, 2)
    return file.read(1) == b"\n"


def _same(one: Decision, other: Decision | None) -> bool:
    if other is None:
        return False
    exact = ("time", "reason", "network", "changed", "proven")
    if any(getattr(one, name) != getattr(other, name) for name in exact):
        return False
    return all(
        _close(getattr(one, name), getattr(other, name))
        for name in ("latency_ms", "quality", "limit_ms")
    )


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=_SAME)


def _told(decision: Decision | None) -> str:
    if decision is None:
        return "no decision"
    blocks = ",".join(map(str, decision.network))
    return f"{blocks} ({decision.reason.value}) at {decision.time:.3f} s"
