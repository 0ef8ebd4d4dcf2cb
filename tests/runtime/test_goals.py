"""Goals: what can be asked for, and what cannot."""

from __future__ import annotations

import json

import pytest

from mathnas._records import Record
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.runtime.goals import EnergyBudget, Goal

_GOALS = [
    Goal(deadline_ms=20),
    Goal(deadline_ms=20, low_ms=12, miss_rate=0.001, floor=70, hysteresis=0.2, dwell_s=0),
    Goal(energy=EnergyBudget(100, 60)),
    Goal(deadline_ms=3, energy=EnergyBudget(1, 60, "energy_mj_soc"), max_changed=2, room=0.1),
]


@pytest.mark.parametrize("goal", _GOALS)
def test_a_goal_survives_json(goal: Goal) -> None:
    assert Goal.from_record(Record(json.loads(json.dumps(goal.to_dict())), "goal")) == goal


def test_it_says_what_it_is() -> None:
    assert str(_GOALS[1]) == "12 to 20 ms, 0.1 % misses, quality 70 or more"
    assert str(_GOALS[2]) == "100 J in 60 s"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "a deadline or an energy budget, but got neither"),
        ({"deadline_ms": 0}, "deadline_ms is positive and finite, but got 0"),
        ({"deadline_ms": float("nan")}, "deadline_ms is positive and finite"),
        ({"deadline_ms": 5, "low_ms": 5}, "low_ms < deadline_ms, but got low_ms=5"),
        ({"energy": EnergyBudget(1, 1), "low_ms": 5}, "a band has low_ms < deadline_ms"),
        ({"deadline_ms": 5, "miss_rate": 0}, "miss_rate is above 0 and below 1, but got 0"),
        ({"deadline_ms": 5, "room": 1}, "room is at least 0 and below 1, but got 1"),
        ({"deadline_ms": 5, "dwell_s": -1}, "dwell_s is finite and at least 0, but got -1"),
        ({"deadline_ms": 5, "floor": float("inf")}, "a floor is finite"),
        ({"deadline_ms": 5, "max_changed": 0}, "a whole number from 1 on, but got 0"),
        ({"deadline_ms": 5, "max_changed": 1.5}, "a whole number from 1 on, but got 1.5"),
    ],
)
def test_what_cannot_be_asked_for(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Goal(**wrong)  # type: ignore[arg-type]


def test_a_budget_is_positive() -> None:
    with pytest.raises(InvalidInputError, match="joules of a budget is positive"):
        EnergyBudget(0, 1)
    with pytest.raises(InvalidInputError, match="seconds of a budget is positive"):
        EnergyBudget(1, -1)


@pytest.mark.parametrize(
    ("field", "value"), [("deadline_ms", "20"), ("miss_rate", 2.0), ("energy", 3), ("dedline", 1)]
)
def test_a_damaged_record_is_refused(field: str, value: object) -> None:
    record = {**Goal(deadline_ms=20).to_dict(), field: value}
    with pytest.raises(FileFormatError, match=r"^goal"):
        Goal.from_record(Record(record, "goal"))
