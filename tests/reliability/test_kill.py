"""SIGKILL at any moment: nothing that was stored is lost, and nothing is evaluated twice.

An evaluation is *finished* when `Study.add` has returned to the driver: its transaction is then on
disk. The driver under test notes that in a log of its own (``stored``), so whatever stands there
must be in the study. An evaluation that its evaluator returned but that is not finished was in
flight: one where the driver evaluates itself, at most two a worker otherwise.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from reliability_cases import (
    all_of,
    check_intact,
    finish,
    lines_of,
    numbers,
    processes_of_session,
    space_of,
    start,
    stored_in_copy,
    wait_for,
)

from mathnas import Network, Study

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")


class Account:
    """What the logs of a driver say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def networks(self, log: str, word: str = "") -> Counter[Network]:
        # a line that was cut by the kill has no end: os.write of a line is one write
        return Counter(
            numbers(line.removeprefix(word).strip())
            for line in lines_of(self.folder / log)
            if line.startswith(word)
        )


def run_until_killed(folder: Path, rng: random.Random, count: int, workers: int) -> None:
    arguments = ["killed.study", "--last", count, "--nap", 0.01, "--workers", workers]
    arguments += ["--checkpoint-always"] if rng.random() < 0.5 else []
    process = start("drive.py", *arguments, cwd=folder)
    if rng.random() < 0.75:  # among the evaluations
        begun = len(lines_of(folder / "calls"))
        wait_for(lambda: len(lines_of(folder / "calls")) > begun)
        time.sleep(rng.uniform(0.0, 0.5))
    else:  # while it starts
        time.sleep(rng.uniform(0.1, 0.6))
    process.kill()
    process.communicate(timeout=30)
    # workers of a killed driver end by themselves, at once or after what they evaluate
    wait_for(lambda: not processes_of_session(process.pid))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_twenty_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    rng = random.Random(20)
    kills = [1] * 14 + [2] * 6  # workers
    rng.shuffle(kills)
    count = 600
    account = Account(tmp_path)
    study = tmp_path / "killed.study"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    stored: Counter[Network] = Counter()
    in_middle = 0
    for workers in kills:
        begun, returned = account.networks("calls", "begin"), account.networks("calls", "end")
        before = stored
        run_until_killed(tmp_path, rng, count, workers)
        new_calls = account.networks("calls", "begin") - begun
        new_returns = account.networks("calls", "end") - returned
        if not study.exists():  # killed before it was made
            assert not new_calls
            continue
        check_intact(study, scratch)
        stored = stored_in_copy(study, scratch)
        stored = Counter({network: number // 2 for network, number in stored.items()})
        assert set(account.networks("stored")) <= set(stored), "a finished evaluation is lost"
        assert not set(new_calls) & set(before), "an evaluation is repeated"
        assert set(stored) - set(before) <= set(new_returns)
        lost = set(new_returns) - set(stored)
        assert len(lost) <= (1 if workers == 1 else 2 * workers), "more than what was in flight"
        in_middle += len(new_calls) > 0
    assert in_middle >= 10, "the kills came too early to tell anything"
    assert 0 < len(stored) < count, "no kill came in the middle of the work"

    begun = account.networks("calls", "begin")
    output, _ = finish(start("drive.py", study, "--last", count, cwd=tmp_path))
    assert f"{count - len(stored)} evaluated" in output
    last_calls = account.networks("calls", "begin") - begun
    assert set(last_calls) == set(all_of(space_of(), count)) - set(stored)
    with Study(study) as resumed:
        for metric in ("latency_ms", "accuracy"):
            assert set(resumed.counts([metric]).values()) == {1}
            assert len(resumed.counts([metric])) == count


@pytest.mark.parametrize("network_disk", [False, True], ids=["log", "rollback-journal"])
@pytest.mark.parametrize("moment", ["BEGIN", "INSERT INTO evaluations", "COMMIT"])
def test_a_kill_inside_a_write_leaves_all_of_it_or_nothing(
    tmp_path: Path, moment: str, network_disk: bool
) -> None:
    options = ["--network-disk"] if network_disk else []
    arguments = ["killed.study", "--last", 4, "--die-at", moment, *options]
    process = start("drive.py", *arguments, cwd=tmp_path)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    check_intact(tmp_path / "killed.study", tmp_path)
    assert stored_in_copy(tmp_path / "killed.study", tmp_path) == {(0, 0, 0, 0): 2}
    output, _ = finish(start("drive.py", "killed.study", "--last", 4, *options, cwd=tmp_path))
    assert "3 evaluated" in output
    assert "1 already there" in output
    calls = Account(tmp_path).networks("calls", "begin")
    assert calls[(0, 0, 0, 0)] == 1
    assert calls[(0, 0, 0, 1)] == 2  # was in flight


def test_a_kill_while_the_study_is_made_leaves_no_study(tmp_path: Path) -> None:
    process = start("die_creating.py", "new.study", cwd=tmp_path)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "new.study").exists()
    with Study(tmp_path / "new.study", space_of()) as study:
        assert len(study) == 0
