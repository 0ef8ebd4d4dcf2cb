"""A full disk while writing: one clear error with the value, nothing lost, and going on later."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from reliability_cases import Sums, all_of, fact, mounted, networks_in, space_of, start

from mathnas import FileFormatError, Study, evaluate

SPACE = space_of()
NETWORKS = all_of(SPACE, 600)
MESSAGE = r"cannot be written \(.*\): free some space.*What was stored before is unharmed"


def fill_and_go_on(study: Study, more_space: Callable[[], None]) -> None:
    """Evaluate until the disk is full, check, make space, and evaluate the rest."""
    with pytest.raises(FileFormatError, match=MESSAGE) as caught:
        evaluate(study, NETWORKS, Sums())
    stored = networks_in(study)
    assert 0 < len(stored) < len(NETWORKS)
    assert set(stored) == set(NETWORKS[: len(stored)])
    # the value that was measured and not stored is in the message
    lost = NETWORKS[len(stored)]
    named = f"Measured but not stored: {','.join(map(str, lost))} latency_ms={float(sum(lost))!r}."
    assert str(caught.value).endswith(named)
    more_space()
    report = evaluate(study, NETWORKS, Sums())
    assert (report.done, report.already) == (len(NETWORKS) - len(stored), len(stored))
    assert set(networks_in(study).values()) == {1}
    assert study._store.read("PRAGMA integrity_check") == [("ok",)]


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    with Study(tmp_path / "a.study", SPACE) as study:
        pages = study._store.read("PRAGMA page_count")[0][0]
        study._store.read(f"PRAGMA max_page_count={pages + 3}")

        def more_space() -> None:
            study._store.read("PRAGMA max_page_count=100000")

        fill_and_go_on(study, more_space)
    with Study(tmp_path / "a.study") as study:
        assert len(study) == len(NETWORKS)


def test_a_disk_that_is_full(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    disk = tmp_path / "disk"
    remount = mounted(disk, "size=500k", request)
    with Study(disk / "a.study", SPACE) as study:
        fill_and_go_on(study, lambda: remount("size=20m"))
    with Study(disk / "a.study") as study:
        assert len(study) == len(NETWORKS)
        study.export(disk / "whole.csv")


def test_a_disk_without_space_for_a_study(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    disk = tmp_path / "disk"
    remount = mounted(disk, "size=16k", request)
    with pytest.raises(FileFormatError, match=r"cannot be written.*free some space"):
        Study(disk / "a.study", SPACE)
    assert [file.name for file in disk.iterdir()] == ["a.study.lock"]
    remount("size=2m")
    Study(disk / "a.study", SPACE).close()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_export_to_a_full_disk_keeps_the_old_file(
    tmp_path: Path, request: pytest.FixtureRequest, ending: str
) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    disk = tmp_path / "disk"
    mounted(disk, "size=16k", request)
    target = disk / f"old.{ending}"
    with Study(tmp_path / "a.study", SPACE) as study:
        study.add([fact((0, 0, 0, 0))])
        study.export(target)
        before = target.read_bytes()
        rng = random.Random(0)
        study.add([fact(rng.choice(NETWORKS), rng.random()) for _ in range(3000)])
        with pytest.raises(
            FileFormatError, match=r"cannot be written.*What was there is unchanged"
        ):
            study.export(target)
    assert target.read_bytes() == before
    assert [file.name for file in disk.iterdir()] == [target.name]


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of processes")
def test_a_process_that_may_not_write_more(tmp_path: Path) -> None:
    process = start("limited.py", "a.study", cwd=tmp_path)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Measured but not stored: " in output
    with Study(tmp_path / "a.study") as study:
        stored = networks_in(study)
        assert 0 < len(stored) < len(NETWORKS)
        assert evaluate(study, NETWORKS, Sums()).already == len(stored)
    assert os.path.getsize(tmp_path / "a.study") > 0
