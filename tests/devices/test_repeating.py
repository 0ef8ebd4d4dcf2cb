"""What was disturbed is measured again, and nothing that was measured is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mathnas.devices.noise import Flag, NoiseRule
from mathnas.devices.repeating import until_quiet

RULE = NoiseRule(attempts=3, pause_s=0.0)


@dataclass(frozen=True)
class Found:
    """A value of disorder, flagged where it is above 0."""

    disorder: float

    @property
    def flags(self) -> list[Flag]:
        return [Flag("spread", self.disorder, 0.0, "differs by")] if self.disorder else []


class Script:
    """Things whose disorder is written down, attempt by attempt."""

    def __init__(self, *disorder: Sequence[float]) -> None:
        self.left = [list(row) for row in disorder]
        self.asked: list[list[int]] = []

    def measure(self, numbers: Sequence[int]) -> list[Found]:
        self.asked.append(list(numbers))
        return [Found(self.left[number].pop(0)) for number in numbers]


def test_only_what_was_disturbed_is_measured_again() -> None:
    script = Script([0], [0.4, 0], [0.3, 0.2, 0])
    found = list(until_quiet(3, script.measure, RULE))
    assert script.asked == [[0, 1, 2], [1, 2], [2]]
    assert found == [(0, Found(0), 1), (1, Found(0), 2), (2, Found(0), 3)]


def test_what_is_quiet_comes_before_the_others_are_measured_again() -> None:
    script = Script([0.4, 0], [0])
    stream = until_quiet(2, script.measure, RULE)
    assert next(stream) == (1, Found(0), 1)
    assert script.asked == [[0, 1]]


def test_of_what_stays_disturbed_the_best_comes_last() -> None:
    script = Script([0.3, 0.1, 0.2], [0])
    found = list(until_quiet(2, script.measure, RULE))
    assert found == [(1, Found(0), 1), (0, Found(0.1), 3)]


def test_nothing_is_measured_where_there_is_nothing() -> None:
    assert list(until_quiet(0, Script().measure, RULE)) == []
