"""The live table of rounds, on a terminal that is a text."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

import mathnas as mn
from mathnas.cli._rounds import LiveRounds, live_rounds, shown_by
from mathnas.trials import Round


class Screen:
    """What was written to a terminal; `last` is the last picture of the table."""

    def __init__(self) -> None:
        self._file = StringIO()
        self.console = Console(file=self._file, force_terminal=True, width=100, height=50)

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._file.getvalue())

    @property
    def last(self) -> str:
        return self.text[self.text.rindex("round ") :]


@pytest.fixture
def screen() -> Screen:
    return Screen()


def made(evaluated: int, value: float | None, *, failed: int = 0) -> Round:
    network = (evaluated % 7, 1)
    best = None if value is None else network
    return Round(evaluated, (network,), (network,) * failed, best, value, 1.25, 0.5)


def test_rounds_best_values_and_failures(screen: Screen) -> None:
    with LiveRounds("accuracy", 40, screen.console) as rounds:
        rounds.add(made(9, None))
        rounds.add(made(12, 91.25, failed=2))
        rounds.add(made(15, 91.25))
        rounds.add(made(18, 92.5))
    lines = [" ".join(line.split()) for line in screen.last.splitlines()]
    assert lines[:5] == [
        "round of 40 best accuracy seconds network",
        "1 9 1.2 no network meets the limits yet",
        "2 12, 2 failed 91.25 1.2 5,1",
        "3 15 91.25 1.2",
        "4 18 92.5 1.2 4,1",
    ]


def test_the_last_rounds_are_shown(screen: Screen) -> None:
    with LiveRounds("accuracy", 100, screen.console) as rounds:
        for number in range(20):
            rounds.add(made(3 * number, 80.0 + number // 10))
    lines = [line.split() for line in screen.last.splitlines() if line.strip()]
    assert lines[1] == ["..."]
    assert [line[0] for line in lines[2:]] == [str(number) for number in range(6, 21)]
    # the network stands where it is new, as in no round before the shown ones
    assert [len(line) for line in lines[2:]] == [4] * 5 + [5] + [4] * 9


def test_what_is_measured(screen: Screen) -> None:
    with LiveRounds("accuracy", 40, screen.console) as rounds:
        rounds.add(made(9, 90.0))
        with rounds.measuring("evaluating accuracy", 3) as measuring:
            assert "evaluating accuracy: 0 of 3" in screen.text
            measuring.advance(1)
            measuring.advance(1, "accuracy 91 %")
            assert "evaluating accuracy: 2 of 3, last: accuracy 91 %" in screen.last
        rounds.add(made(12, 91.0))
    assert "evaluating" not in screen.last


def test_a_refinement_shows_its_rounds(
    screen: Screen, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [mn.BlockNode(name, tuple(mn.Block(f"b{j}") for j in range(3))) for name in "abc"]
    evaluator = mn.FunctionEvaluator(lambda n: 90.0 + sum(n), ["accuracy"], noisy=False)
    rounds = LiveRounds("accuracy", 15, screen.console)
    with mn.Study(f"{tmp_path}/my.study", mn.SearchSpace(nodes)) as study, rounds:
        found = mn.refine(
            study,
            evaluator,
            maximize="accuracy",
            budget=15,
            progress=shown_by(rounds, None),
            on_round=rounds.add,
        )
    assert "evaluating accuracy: 0 of" in screen.text
    lines = [line for line in screen.last.splitlines() if line.strip()]
    assert len(lines) == 1 + len(found.rounds)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_no_table_without_a_terminal() -> None:
    assert live_rounds("accuracy", 20, as_json=False) is None
    assert live_rounds("accuracy", 20, as_json=True) is None
    assert shown_by(None, True) is True
    assert shown_by(None, None) is None
