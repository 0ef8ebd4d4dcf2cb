"""A table of rounds that is drawn again after each, with the progress of what is measured."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mathnas._progress import Show
from mathnas.space import network_text
from mathnas.trials import Round

_SHOWN = 15  # rounds; of more, the last


class LiveRounds:
    """The display of one refinement; use it as a context.

    Args:
        objective: the metric that is optimised, for the table's head.
        budget: evaluations, at most.
    """

    def __init__(self, objective: str, budget: int, console: Console | None = None) -> None:
        self._objective, self._budget = objective, budget
        self._rounds: list[Round] = []
        self._measuring: Text | None = None
        self._live = Live(
            console=console or Console(stderr=True), get_renderable=self._render, transient=False
        )

    def __enter__(self) -> LiveRounds:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._measuring = None
        self._live.stop()

    def add(self, done: Round) -> None:
        """Show a round."""
        self._rounds.append(done)
        self._live.refresh()

    def measuring(self, title: str, total: int) -> _Measuring:
        """The progress of what is measured in a round."""
        return _Measuring(self._note, title, total)

    def _note(self, text: str) -> None:
        self._measuring = Text(text, style="dim") if text else None
        self._live.refresh()

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for head in ("round", f"of {self._budget}", f"best {self._objective}", "seconds"):
            table.add_column(head, justify="right")
        table.add_column("network", overflow="fold")
        hidden = max(0, len(self._rounds) - _SHOWN)
        if hidden:
            table.add_row("...", "", "", "", "")
        best = self._rounds[hidden - 1].value if hidden else None
        for number, done in enumerate(self._rounds[hidden:], start=hidden + 1):
            better = done.value is not None and done.value != best
            best = done.value
            failed = f", {len(done.failed)} failed" * bool(done.failed)
            network = Text("no network meets the limits yet" if done.best is None else "")
            if done.best is not None and better:
                network = Text(network_text(done.best))
            table.add_row(
                str(number),
                f"{done.evaluated}{failed}",
                "" if done.value is None else f"{done.value:.6g}",
                f"{done.seconds:.1f}",
                network,
                style="bold" if better else None,
            )
        return Group(table, self._measuring) if self._measuring is not None else Group(table)


class _Measuring:
    """Tells how many of a round's evaluations are done, and the last result."""

    def __init__(self, note: Callable[[str], None], title: str, total: int) -> None:
        self._say, self._title, self._total, self._done = note, title, total, 0

    def __enter__(self) -> _Measuring:
        self.advance(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._say("")

    def advance(self, steps: int, note: str = "") -> None:
        self._done += steps
        last = f", last: {note}" * bool(note)
        self._say(f"{self._title}: {self._done} of {self._total}{last}")


def live_rounds(objective: str, budget: int, as_json: bool) -> LiveRounds | None:
    """The table where standard error is a terminal and nobody reads JSON; otherwise None."""
    if as_json or sys.stderr is None or not sys.stderr.isatty():
        return None
    return LiveRounds(objective, budget)


def shown_by(rounds: LiveRounds | None, otherwise: bool | None) -> Show:
    """What a method's `progress` is."""
    return otherwise if rounds is None else rounds.measuring
