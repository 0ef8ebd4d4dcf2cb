"""The log of decisions: what is written is read, replayed, and survives crashes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runtime_cases import run_of, serve, world

from mathnas.errors import FileFormatError, InvalidInputError, MathNASWarning
from mathnas.runtime.controller import Controller
from mathnas.runtime.decisions import Difference, Recorder, Session, read_decisions, replay
from mathnas.runtime.goals import EnergyBudget, Goal
from mathnas.runtime.observation import Observation
from mathnas.runtime.policy import Decision, Policy, Reason
from mathnas.testing import PolicyContract
from mathnas.testing.policies import policy_table, policy_times, without_seconds

GOAL = Goal(9.0, dwell_s=0.1, period_s=0.1)


def controller(goal: Goal = GOAL) -> Controller:
    return Controller(*world(nodes=4, blocks=3, seed=1), goal)


def waves(t: float) -> float:
    return 1.3 + 0.5 * float(np.sin(3 * t))


def record(path: Path, seconds: float = 2.0, goal: Goal = GOAL) -> list[Decision]:
    """A session in a log; what was decided after the first network."""
    times = world(nodes=4, blocks=3, seed=1)[1]
    with Recorder(controller(goal), path, notes={"package": "my.mathnas"}) as policy:
        return [d for _, d in serve(policy, times, waves, seconds) if d is not None]


class TestRecorder(PolicyContract):
    """What records a policy is one, too."""

    @pytest.fixture
    def policy(self, tmp_path: Path) -> Callable[[], Policy]:
        made: list[Recorder] = []

        def make() -> Policy:
            own = Controller(policy_table(), policy_times(), Goal(self.deadline_ms))
            made.append(Recorder(own, tmp_path / f"{len(made)}.jsonl"))
            return made[-1]

        return make


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    made = record(path)
    (session,) = read_decisions(path)
    assert session.decisions[1:] == tuple(made)
    assert session.decisions[0].reason is Reason.START
    assert (session.policy, session.goal) == ("controller", GOAL)
    assert session.notes == {"package": "my.mathnas"}
    assert not session.truncated
    assert len(session.observations) > 100
    assert session.lines == tuple(range(2, 2 + len(session.events)))


def test_a_whole_number_is_a_time_too(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    with Recorder(controller(), path) as policy:
        policy.start(7)
    (session,) = read_decisions(path)
    assert session.decisions[0].time == 7.0
    assert list(replay(session, controller())) == []


@pytest.mark.parametrize(
    "goal", [GOAL, Goal(9.0, max_changed=1), Goal(9.0, energy=EnergyBudget(10, 2), period_s=0.05)]
)
def test_a_replay_decides_as_it_was_recorded(tmp_path: Path, goal: Goal) -> None:
    path = tmp_path / "my.jsonl"
    assert record(path, goal=goal)
    (session,) = read_decisions(path)
    assert list(replay(session, controller(goal))) == []


def test_rubbish_is_recorded_and_replayed(tmp_path: Path) -> None:
    path, times = tmp_path / "my.jsonl", world(nodes=4, blocks=3, seed=1)[1]
    with Recorder(controller(), path) as policy:
        network = policy.start(0.0).network
        for k in range(200):
            run = run_of(times, network, 0.01 * k, waves(0.01 * k))
            for broken in (
                replace(run, latency_ms=float("nan")),
                replace(run, parts_ms=(float("inf"),) * 6),
                replace(run, time=float("-inf")),
                replace(run, network=(7, 7)),
                run,
            ):
                decision = policy.observe(broken)
                network = network if decision is None else decision.network
    (session,) = read_decisions(path)
    assert len(session.observations) == 1000
    assert len(session.decisions) > 1
    assert list(replay(session, controller())) == []


def test_a_goal_that_was_changed_is_replayed(tmp_path: Path) -> None:
    path, times = tmp_path / "my.jsonl", world(nodes=4, blocks=3, seed=1)[1]
    inner = controller()
    with Recorder(inner, path) as policy:
        for k, _ in enumerate(serve(policy, times, waves, 3.0)):
            if k == 100:
                inner.set_goal(Goal(12.0))
    (session,) = read_decisions(path)
    assert [event for event in session.events if isinstance(event, Goal)] == [Goal(12.0)]
    assert Reason.GOAL in [decision.reason for decision in session.decisions]
    assert list(replay(session, controller())) == []


def test_a_replay_with_another_controller_says_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    record(path)
    (session,) = read_decisions(path)
    found = list(replay(session, controller(Goal(8.0, dwell_s=0.1, period_s=0.1))))
    assert found
    assert all(isinstance(one, Difference) for one in found)
    assert found[0].line == 2
    assert "line 2: recorded " in str(found[0])


def test_a_changed_line_is_a_difference(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    record(path)
    (session,) = read_decisions(path)
    place = max(k for k, event in enumerate(session.events) if isinstance(event, Decision))
    event = session.events[place]
    assert isinstance(event, Decision)
    events = list(session.events)
    events[place] = replace(event, network=event.network[::-1], changed=9)
    (difference,) = replay(replace(session, events=tuple(events)), controller())
    assert difference.line == session.lines[place]
    assert difference.replayed == replace(event, seconds=difference.replayed.seconds)  # type: ignore[union-attr]
    del events[place]
    lines = session.lines[:place] + session.lines[place + 1 :]
    (difference,) = replay(replace(session, events=tuple(events), lines=lines), controller())
    assert difference.recorded is None
    assert difference.line == session.lines[place - 1]


def test_sessions_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    record(path, 0.5)
    record(path, 1.0)
    first, second = read_decisions(path)
    assert len(first.events) < len(second.events)
    for session in (first, second):
        assert list(replay(session, controller())) == []


def test_decisions_alone_are_read_but_not_replayed(tmp_path: Path) -> None:
    path, times = tmp_path / "my.jsonl", world(nodes=4, blocks=3, seed=1)[1]
    with Recorder(controller(), path, runs=False) as policy:
        made = [d for _, d in serve(policy, times, waves, 1.0) if d is not None]
    (session,) = read_decisions(path)
    assert session.decisions[1:] == tuple(made)
    with pytest.raises(InvalidInputError, match="record it with runs=True"):
        list(replay(session, controller()))


# ---- crashes and damage ------------------------------------------------------------------------


def test_a_log_cut_off_anywhere_is_read_up_to_there(tmp_path: Path) -> None:
    path, cut = tmp_path / "my.jsonl", tmp_path / "cut.jsonl"
    record(path, 0.3)
    whole = path.read_bytes()
    (session,) = read_decisions(path)
    second = whole.index(b"\n", whole.index(b"\n") + 1)  # behind the first decision
    for size in range(second + 1, len(whole), 97):
        cut.write_bytes(whole[:size])
        (found,) = read_decisions(cut)
        assert found.events == session.events[: len(found.events)]
        ends_a_line = whole[size - 1 : size] == b"\n" or whole[size : size + 1] == b"\n"
        assert found.truncated == (not ends_a_line)
        # a decision may be missing behind the last run
        assert len(list(replay(found, controller()))) <= (not found.truncated)


def test_after_a_crash_the_next_session_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    record(path, 0.5)
    path.write_bytes(path.read_bytes()[:-20])
    record(path, 0.5)
    first, second = read_decisions(path)
    assert first.truncated
    assert not second.truncated


def test_a_killed_process_leaves_a_log_that_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    script = (
        "import sys, itertools\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_decisions import *\n"
        "times = world(nodes=4, blocks=3, seed=1)[1]\n"
        "policy = Recorder(controller(), Path(sys.argv[1]))\n"
        "for _ in serve(policy, times, waves, 1e9): pass\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)])
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and not (path.exists() and path.stat().st_size > 200_000):
            time.sleep(0.05)
        assert process.poll() is None
        with pytest.raises(FileFormatError, match="another process"):
            Recorder(controller(), path)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    (session,) = read_decisions(path)
    assert len(session.observations) > 1000
    assert list(replay(session, controller())) == []
    record(path, 0.2)
    assert len(read_decisions(path)) == 2


def test_a_full_disk_ends_the_log_and_not_the_serving(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    path, times = tmp_path / "my.jsonl", world(nodes=4, blocks=3, seed=1)[1]
    policy = Recorder(controller(), path)
    policy._file.close()  # type: ignore[union-attr]
    policy._file = full.open("w")  # the disk fills up
    with pytest.warns(MathNASWarning, match="Decisions are no longer logged"):
        runs = list(serve(policy, times, waves, 1.0))
    assert len(runs) > 50
    assert policy.failure is not None


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (5, "{", "line 5: damaged, or not JSON"),
        (5, "[]", "line 5: damaged, or not JSON"),
        (5, '{"run":[0,0,0,"a"],"time":1,"latency_ms":1,"parts_ms":[]}', "line 5.run: expected"),
        (
            5,
            '{"run":[0],"time":1,"latency_ms":"fast","parts_ms":[]}',
            "line 5.latency_ms: expected",
        ),
        (5, '{"reason":"boredom"}', "line 5: 'boredom' is not a valid Reason"),
        (5, '{"goal":{"deadline_ms":-1}}', "line 5.goal"),
        (1, '{"format":"mathnas-table","version":1}', "line 1: expected the format"),
        (1, '{"format":"mathnas-decisions","version":99}', "version 99 is not one"),
        (1, '{"run":[0]}', "line 1: expected the header"),
        (1, "hello", "line 1: not a mathnas-decisions file"),
        (2, '{"run":[0],"time":1,"latency_ms":1,"parts_ms":[]}', "begins with a decision"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, number: int, line: str, message: str) -> None:
    path = tmp_path / "my.jsonl"
    record(path, 0.3)
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(FileFormatError, match=message):
        read_decisions(path)


def test_a_file_that_is_no_log_is_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine\n")
    with pytest.raises(FileFormatError, match="name another place for the log"):
        Recorder(controller(), path)
    assert path.read_text() == "mine\n"
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_decisions(tmp_path / "absent.jsonl")


def test_every_line_is_json_without_extensions(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    with Recorder(controller(), path) as policy:
        policy.start(0.0)
        policy.observe(Observation((0, 0, 0, 0), 0.1, float("nan"), (float("inf"),)))

    def refuse(name: str) -> float:
        raise AssertionError(name)

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_sessions_compare(tmp_path: Path) -> None:
    """Recorded twice, the same was observed and decided."""
    sessions: list[Session] = []
    for name in ("one", "other"):
        record(tmp_path / name, 0.5)
        sessions += read_decisions(tmp_path / name)
    one, other = sessions
    assert one.observations == other.observations
    assert without_seconds(one.decisions) == without_seconds(other.decisions)
