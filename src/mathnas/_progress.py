"""Progress of long work: a bar where rich and a terminal are there, otherwise a line now and then.

Progress goes to standard error, so that ``--json`` output stays clean.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TypeAlias

_NOTE_WIDTH = 60


class Progress(Protocol):
    """Something that is told how far the work is."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def advance(self, steps: int, note: str = "") -> None: ...


class Silent:
    """Says nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def advance(self, steps: int, note: str = "") -> None:
        return


class _Lines:
    """A line at most every five seconds, for logs and for machines without rich."""

    def __init__(self, title: str, total: int) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self._note = ""
        self._start = self._last = time.monotonic()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._say()

    def advance(self, steps: int, note: str = "") -> None:
        self.done += steps
        self._note = _short(note)
        if time.monotonic() - self._last > 5.0:
            self._say()

    def _say(self) -> None:
        self._last = time.monotonic()
        seconds = self._last - self._start
        rate = self.done / seconds if seconds > 0 else 0.0
        text = f"{self.title}: {self.done}/{self.total}, {rate:.3g}/s"
        if 0 < self.done < self.total:
            text += f", {_duration((self.total - self.done) / rate)} left"
        if self._note:
            text += f", last: {self._note}"
        print(text, file=sys.stderr, flush=True)


class _Bar:
    """Done, rate, time left and the last result in one line that moves."""

    def __init__(self, title: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            ProgressColumn,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                return Text(f"{speed:.3g}/s" if speed else "")

        self._bar = RichProgress(
            # without markup: an error that is shown may hold brackets
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=Console(stderr=True),
            # what an evaluator prints to a file or a pipe must arrive there
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )
        self._task = self._bar.add_task(title, total=total, note="")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, steps: int, note: str = "") -> None:
        self._bar.update(self._task, advance=steps, note=_short(note))


Show: TypeAlias = "bool | Callable[[str, int], Progress] | None"


def progress_bar(title: str, total: int, show: Show) -> Progress:
    """A display for `total` steps; `show=None` shows it where standard error is a terminal, and a
    function makes it."""
    if callable(show):
        return show(title, total)
    # a program without a console has no standard error at all
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if show is False or sys.stderr is None or (show is None and not terminal):
        return Silent()
    if not terminal:
        return _Lines(title, total)
    try:
        return _Bar(title, total)
    except ImportError:  # on a device with numpy alone
        return _Lines(title, total)


def _short(note: str) -> str:
    """One line of bounded width."""
    line = " ".join(note.split())
    return line if len(line) <= _NOTE_WIDTH else line[: _NOTE_WIDTH - 3] + "..."


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
