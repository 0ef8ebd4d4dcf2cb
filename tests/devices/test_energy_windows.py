"""Energy of calls above idle, on a board whose power is known."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest
from energy_cases import Board, FakeMachine
from energy_cases import machine as machine

from mathnas import EvaluationError, InvalidInputError
from mathnas.devices.energy import MeterKind
from mathnas.devices.energy.windows import Energy, EnergySettings, energy_in_turns
from mathnas.errors import MeterAbsentError, MeterError

QUICK = EnergySettings(rounds=3, window_s=0.06, readings=10)


def millijoules(found: Energy, watts: float) -> float:
    """What a call that draws `watts` above idle must have used, by the time that it took."""
    return watts * float(found.notes["run_ms"])


@pytest.mark.parametrize("kind", MeterKind)
def test_what_is_above_idle_is_found(kind: MeterKind) -> None:
    board = Board(kind)
    small, large = energy_in_turns([board.call(3.0), board.call(9.0)], board, QUICK)
    assert small.value == pytest.approx(millijoules(small, 3.0), rel=0.1)
    assert large.value == pytest.approx(millijoules(large, 9.0), rel=0.1)
    kept = small.measurement(attempts=2)
    assert (kept.value, kept.spread, kept.repeats) == (small.value, small.spread, 3)
    assert kept.notes["attempts"] == "2"


@pytest.mark.parametrize("kind", MeterKind)
def test_the_idle_power_is_subtracted_and_told(kind: MeterKind) -> None:
    board = Board(kind, idle=lambda _: 30.0)
    (found,) = energy_in_turns([board.call(5.0)], board, QUICK)
    assert found.value == pytest.approx(millijoules(found, 5.0), rel=0.1)
    notes = {name: float(found.notes[name]) for name in ("idle_w", "busy_w", "window_s")}
    assert notes["idle_w"] == pytest.approx(30, rel=0.01)
    assert notes["busy_w"] == pytest.approx(35, rel=0.02)
    assert notes["window_s"] == 0.06
    assert found.notes["sensor"] == f"board, {kind.value}, a board"
    assert int(found.notes["runs"]) > 3 * 20
    assert int(found.notes["samples"]) >= (45 if kind is MeterKind.POWER else 3)
    assert "idle" not in {flag.rule for flag in found.flags}


def test_an_idle_power_that_drifts_is_subtracted_where_it_is_and_flagged() -> None:
    """The board warms up by 20 W a second, and draws 5 W more while it works."""
    board = Board(MeterKind.COUNTER, idle=lambda seconds: 10 + 20 * seconds)
    (found,) = energy_in_turns([board.call(5.0)], board, EnergySettings(rounds=5, window_s=0.06))
    assert found.value == pytest.approx(millijoules(found, 5.0), rel=0.15)
    assert float(found.notes["idle_after_w"]) > float(found.notes["idle_before_w"]) + 10
    assert "idle" in {flag.rule for flag in found.flags}
    assert "idle: the idle power moved by" in found.measurement().notes["flags"]


def test_a_window_holds_many_runs_and_suits_the_sensor() -> None:
    board = Board(interval_s=0.01)
    assert EnergySettings(window_s=0.06, readings=30).length_s(board) == pytest.approx(0.3)
    assert EnergySettings(window_s=1.0, readings=30).length_s(board) == 1.0
    (found,) = energy_in_turns(
        [board.call(5.0)], board, EnergySettings(rounds=1, window_s=0.01, readings=8)
    )
    assert found.notes["window_s"] == "0.08"
    assert found.value == pytest.approx(millijoules(found, 5.0), rel=0.15)


def test_calls_take_turns_between_idle_windows() -> None:
    board = Board(MeterKind.COUNTER)
    seen: list[tuple[float, str]] = []

    def named(name: str) -> Callable[[], None]:
        run = board.call(5.0)

        def call() -> None:
            seen.append((time.monotonic(), name))
            run()

        return call

    energy_in_turns([named(name) for name in "abc"], board, EnergySettings(4, 0.05, readings=2))
    rounds = [""]
    for (then, _), (now, name) in itertools.pairwise(seen):
        if now - then > 0.095:  # nothing ran: a sensor settles for 50 ms, then idles for 50
            rounds.append("")
        rounds[-1] += name * (not rounds[-1].endswith(name))
    assert len(rounds) >= 5, "warming up, and four rounds"
    assert all(sorted(order) == list("abc") for order in rounds[-4:]), rounds
    assert len(set(rounds[-4:])) > 1, "not always in the same order"


class Neighbour:
    """A machine of four cores on which somebody else works while `working` says so."""

    def __init__(self, machine: FakeMachine, working: Callable[[], float]) -> None:
        self.root = machine.root
        self._working = working
        self._then = time.monotonic()
        self._ticks = 0.0
        machine.write("proc/stat", self._stat)
        for core in range(4):
            (machine.root / f"sys/devices/system/cpu/cpu{core}").mkdir(parents=True)

    def watch(self) -> None:
        """Account for the time since the last look."""
        now = time.monotonic()
        self._ticks += 100 * (now - self._then) * self._working()
        self._then = now

    def _stat(self, _: float) -> str:
        self.watch()
        return f"cpu0 {round(self._ticks)} 0 0 0 0 0 0 0"


def test_a_neighbour_that_works_all_the_time_is_subtracted(machine: FakeMachine) -> None:
    board = Board(MeterKind.COUNTER, idle=lambda _: 30.0)  # 28 of them are the neighbour's
    neighbour = Neighbour(machine, lambda: 2.0)
    (found,) = energy_in_turns(
        [board.call(5.0)], board, EnergySettings(rounds=3, window_s=0.15), root=neighbour.root
    )
    assert found.value == pytest.approx(millijoules(found, 5.0), rel=0.1)
    assert float(found.notes["others_cores"]) == pytest.approx(2.0, rel=0.2)
    assert "others" not in {flag.rule for flag in found.flags}


def test_a_neighbour_that_works_only_beside_a_network_is_flagged(machine: FakeMachine) -> None:
    board = Board(MeterKind.COUNTER)
    working = 0.0
    neighbour = Neighbour(machine, lambda: working)
    run = board.call(5.0)

    def call() -> None:
        nonlocal working
        neighbour.watch()
        working = 1.0
        run()
        neighbour.watch()
        working = 0.0

    (found,) = energy_in_turns(
        [call], board, EnergySettings(rounds=3, window_s=0.15), root=neighbour.root
    )
    flags = {flag.rule: flag for flag in found.flags}
    assert flags["others"].value > 0.5
    assert "others: others' work changed by" in found.measurement().notes["flags"]


def test_nothing_above_idle_is_no_measurement() -> None:
    board = Board(idle=lambda seconds: 30.0 - seconds)  # cools down while a call draws nothing
    with pytest.raises(EvaluationError, match=r"not above the idle power: .* W busy, .* W idle"):
        energy_in_turns([board.call(-0.5)], board, QUICK)


@pytest.mark.parametrize("kind", MeterKind)
def test_a_sensor_that_shows_nothing_is_not_one(kind: MeterKind) -> None:
    board = Board(kind, idle=lambda _: 0.0)
    with pytest.raises(MeterError, match=r"nothing but 0 for .* s of work"):
        energy_in_turns([board.call(0.0)], board, QUICK)


@pytest.mark.parametrize("kind", MeterKind)
def test_a_sensor_that_goes_away_ends_the_measurement(kind: MeterKind) -> None:
    board = Board(kind)
    run, calls = board.call(5.0), 0

    def call() -> None:
        nonlocal calls
        calls += 1
        run()
        board.gone = calls > 30

    start = time.monotonic()
    with pytest.raises(MeterAbsentError, match="the board was unplugged"):
        energy_in_turns([call], board, EnergySettings(rounds=3, window_s=0.3))
    assert time.monotonic() - start < 3


def test_power_that_is_read_too_rarely_is_no_measurement() -> None:
    class Slow(Board):
        def read(self) -> tuple[float, ...]:
            time.sleep(0.02)
            return super().read()

    board = Slow(interval_s=0.001)
    with pytest.raises(MeterError, match=r"was read \d times in .* s, .* 10 were due"):
        energy_in_turns([board.call(5.0)], board, QUICK)


@pytest.mark.parametrize(
    "settings", [{"rounds": 0}, {"window_s": 0.0}, {"window_s": float("nan")}, {"readings": 1}]
)
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="at least 1 round of windows longer than 0 s"):
        EnergySettings(**settings)  # type: ignore[arg-type]
