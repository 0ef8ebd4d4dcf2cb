"""Several drivers, threads and readers on one study file."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from reliability_cases import (
    all_of,
    check_intact,
    fact,
    finish,
    lines_of,
    networks_in,
    numbers,
    space_of,
    start,
    wait_for,
)

from mathnas import FileFormatError, InvalidInputError, Metric, Study


def in_another_process(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"from mathnas import *\n{code}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [[], ["--network-disk"]], ids=["log", "rollback-journal"])
@pytest.mark.filterwarnings("ignore:.*network file system")
def test_two_drivers_store_everything(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if options:
        monkeypatch.setattr("mathnas._store.file_system_of", lambda path: "nfs4")
    path = tmp_path / "shared.study"
    shared = [path, "--nap", 0.001, "--checkpoint-always", *options]
    first = start("drive.py", *shared, "--last", 120, "--calls", "calls1", cwd=tmp_path)
    second = start(
        "drive.py", *shared, "--first", 60, "--last", 180, "--calls", "calls2", cwd=tmp_path
    )
    # meanwhile others look, and come and go as drivers that find nothing to do
    wait_for(path.exists)
    while first.poll() is None or second.poll() is None:
        with Study(path, read_only=True) as look:
            seen = len(look)
        with Study(path, space_of()) as study:
            assert len(study) >= seen
    finish(first)
    finish(second)
    calls: Counter[tuple[int, ...]] = Counter()
    for log in ("calls1", "calls2"):
        calls += Counter(
            numbers(line.removeprefix("end "))
            for line in lines_of(tmp_path / log)
            if line.startswith("end")
        )
    check_intact(path, tmp_path)
    with Study(path) as study:
        assert set(calls) == set(all_of(space_of(), 180))
        for metric in ("latency_ms", "accuracy"):
            assert study.counts([metric]) == calls
    # what both lists hold was evaluated at most once by each
    assert set(calls.values()) <= {1, 2}


def test_a_study_is_created_by_several_processes_at_once(tmp_path: Path) -> None:
    others = [start("create.py", "new.study", number, cwd=tmp_path) for number in range(6)]
    wait_for(lambda: all((tmp_path / f"ready{number}").exists() for number in range(6)))
    (tmp_path / "go").touch()
    for other in others:
        finish(other)
    with Study(tmp_path / "new.study") as study:
        assert networks_in(study) == Counter(all_of(space_of(), 6))
    assert not list(tmp_path.glob(".*.new")), "drafts are left"


def test_opening_twice_in_one_process_keeps_the_locks(tmp_path: Path) -> None:
    # Closing any handle of a file drops the POSIX locks that this process has on it. Were the file
    # opened in any other way than by SQLite, the other process would believe to be alone, move the
    # log into the file and delete it; what this one writes later would go to a deleted file.
    path = tmp_path / "twice.study"
    with Study(path, space_of()) as first:
        with Study(path), Study(path, read_only=True):
            pass
        in_another_process("Study('twice.study').close()", tmp_path)
        first.add([fact((1, 2, 3, 4))])
        assert in_another_process("print(len(Study('twice.study')))", tmp_path) == "1\n"
    with Study(path) as again:
        assert networks_in(again) == {(1, 2, 3, 4): 1}


def test_a_study_that_nobody_closes_is_closed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "left.study"
    in_another_process(
        "space = SearchSpace([BlockNode('a', [Block('x')])])\n"
        "study = Study('left.study', space)\n"
        "study.add([Evaluation((0,), 'latency_ms', Measurement(1.0))])",
        tmp_path,
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["left.study", "left.study.lock"]
    with Study(path, read_only=True) as study:
        assert len(study) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_ends_does_not_disturb(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "space = SearchSpace([BlockNode('a', [Block('x'), Block('y')])])\n"
        "study = Study('forked.study', space)\n"
        "if os.fork() == 0: sys.exit()\n"
        "os.wait()\n"
        "study.add([Evaluation((1,), 'latency_ms', Measurement(1.0))])\n"
        "print(len(study))"
    )
    assert in_another_process(code, tmp_path) == "1\n"
    with Study(tmp_path / "forked.study") as study:
        assert len(study) == 1


def test_threads_share_a_study(tmp_path: Path) -> None:
    space = space_of()
    networks = all_of(space, 120)
    errors: list[BaseException] = []
    with Study(tmp_path / "threads.study", space) as study:

        def write(part: int) -> None:
            try:
                for network in networks[part::4]:
                    study.add([fact(network)])
                    assert network in study.counts(["latency_ms"], {"device": "desk"})
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert networks_in(study) == Counter(networks)


def test_threads_with_studies_of_their_own(tmp_path: Path) -> None:
    space = space_of()
    networks = all_of(space, 60)
    path = tmp_path / "threads.study"
    Study(path, space).close()
    errors: list[BaseException] = []

    def write(part: int) -> None:
        try:
            with Study(path) as study:
                for network in networks[part::3]:
                    study.add([fact(network)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(part,)) for part in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with Study(path) as study:
        assert networks_in(study) == Counter(networks)


def test_a_metric_is_declared_in_one_way_by_all_drivers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Metric("speed_fps", "fps", "maximize", additive=False)  # type: ignore[arg-type]
    theirs = Metric("speed_fps", "fps", "minimize", additive=False)  # type: ignore[arg-type]
    with Study(tmp_path / "a.study", space_of()) as first, Study(tmp_path / "a.study") as second:
        first.declare([mine])
        # the second looked before the first wrote
        looks = iter([{}, second.metrics])
        monkeypatch.setattr(Study, "metrics", property(lambda study: next(looks)))
        with pytest.raises(InvalidInputError, match=r"speed_fps.*give it another name"):
            second.declare([theirs])
        monkeypatch.undo()
        assert first.metrics == second.metrics == {"speed_fps": mine}


def test_a_program_that_holds_the_file_is_named_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "held.study"
    with Study(path, space_of()) as study:
        study._store.read("PRAGMA busy_timeout=50")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FileFormatError, match=r"in use by another program.*wait for it"):
            study.add([fact((0, 0, 0, 0))])
        other.execute("ROLLBACK")
        other.close()
        study.add([fact((0, 0, 0, 0))])
        assert len(study) == 1


def test_readers_see_whole_transactions(tmp_path: Path) -> None:
    space = space_of()
    networks = all_of(space, 200)
    path = tmp_path / "read.study"
    with Study(path, space) as study:
        done = threading.Event()
        seen: list[int] = []

        def look() -> None:
            with Study(path, read_only=True) as reader:
                while not done.is_set():
                    seen.append(len(reader))

        thread = threading.Thread(target=look)
        thread.start()
        for begin in range(0, 200, 10):
            study.add([fact(network) for network in networks[begin : begin + 10]])
        done.set()
        thread.join()
        assert seen == sorted(seen)
        assert {count % 10 for count in seen} == {0}
