"""Progress: done, rate, time left and the last result, on standard error alone."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from reliability_cases import SCRIPTS, Sums, all_of, space_of

from mathnas import Study, _progress, evaluate
from mathnas._progress import Silent, progress_bar


class Clock:
    """Stands for the time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_progress, "time", clock)
    return clock


def test_lines_tell_done_rate_left_and_last(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("evaluating loss", 10_000, True) as bar:
        clock.now += 4.0
        bar.advance(1, "loss 3 nats")  # too soon for a line
        clock.now += 2.0
        bar.advance(2, "loss 2 nats")
        clock.now += 1.0
        bar.advance(7, "RuntimeError: two\nlines and " + "more " * 30)
    captured = capsys.readouterr()
    assert captured.out == ""
    first, last = captured.err.splitlines()
    assert first == "evaluating loss: 3/10000, 0.5/s, 5:33:14 left, last: loss 2 nats"
    assert last.startswith("evaluating loss: 10/10000, 1.43/s, 1:56:33 left, last: RuntimeError")
    assert last.endswith("...")


def test_the_last_line_has_no_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("evaluating loss", 2, True) as bar:
        clock.now += 1.0
        bar.advance(2, "loss 1 nats")
    assert capsys.readouterr().err == "evaluating loss: 2/2, 2/s, last: loss 1 nats\n"


def test_without_a_terminal_nothing_is_said_by_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress_bar("evaluating", 2, None) as bar:
        bar.advance(2)
    assert capsys.readouterr() == ("", "")


def test_without_standard_error_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert isinstance(progress_bar("evaluating", 2, True), Silent)


def test_without_rich_lines_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    with progress_bar("evaluating", 2, None) as bar:
        bar.advance(2, "done")
    assert stream.getvalue().startswith("evaluating: 2/2")


def test_a_run_reports_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = space_of()
    with Study(tmp_path / "a.study", space) as study:
        evaluate(study, all_of(space, 5), Sums(), progress=True)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("evaluating latency_ms: 5/5, ")
        assert captured.err.endswith("last: latency_ms 4 ms\n")
        # nothing to do, nothing to say
        evaluate(study, all_of(space, 5), Sums(), progress=True)
        assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
@pytest.mark.parametrize("workers", [1, 2])
def test_the_bar_in_a_terminal(tmp_path: Path, workers: int) -> None:
    import pty

    terminal, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "bar.py"), str(workers)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=side,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"},
        text=True,
    )
    os.close(side)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, shown
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "evaluating latency_ms" in plain
    assert re.search(r"\b\d+/20\b", plain)
    assert "20/20" in plain
    assert re.search(r"\d/s", plain)
    assert re.search(r"\d:\d\d:\d\d", plain)
    assert re.search(r"latency_ms \d ms", plain)
    assert "RuntimeError: [/red] is no markup" in plain
    assert "Traceback" not in plain
    # what the evaluator prints into a pipe arrives there, and nothing else does
    assert sorted(output.splitlines()) == sorted(["measured"] * 20)
