"""A study of version 1 is read as it is, upgraded where it is written, and never half upgraded."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from reliability_cases import all_of, check_intact, fact, files_beside, in_child, space_of

import mathnas._store
from mathnas import (
    Evaluation,
    FileFormatError,
    InvalidInputError,
    Measurement,
    Study,
    fit,
    metric_named,
    single_sampling,
)

SPACE = space_of(2, 3)
# what mathnas wrote before studies had notes, devices and runs
VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE metrics (name TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE samples (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, reference TEXT NOT NULL, networks INTEGER NOT NULL,
    share REAL, seed INTEGER, time REAL NOT NULL
);
CREATE TABLE evaluations (
    id INTEGER PRIMARY KEY, network TEXT NOT NULL, metric TEXT NOT NULL, value REAL NOT NULL,
    spread REAL, repeats INTEGER NOT NULL, seed INTEGER, conditions TEXT NOT NULL,
    time REAL NOT NULL
);
CREATE INDEX evaluations_by_metric ON evaluations (metric, network);
CREATE TABLE failures (
    id INTEGER PRIMARY KEY, network TEXT NOT NULL, error TEXT NOT NULL, traceback TEXT NOT NULL,
    seed INTEGER, conditions TEXT NOT NULL, time REAL NOT NULL
);
PRAGMA application_id=0x6D4E4153;
PRAGMA user_version=1;
"""
OLD_INSERT = (
    "INSERT INTO evaluations (network, metric, value, spread, repeats, seed, conditions, time) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
FACTS = [
    Evaluation(network, "latency_ms", Measurement(1.0 + sum(network), 0.5, 3), 7, {"b": "1"}, 1.5e9)
    for network in single_sampling(SPACE).networks
]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A study of version 1 with one metric of single sampling, and one failure."""
    path = tmp_path / "old.study"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(VERSION_1)
    space = json.dumps(SPACE.to_dict())
    connection.execute("INSERT INTO meta VALUES ('space', ?)", (space,))
    metric = metric_named("latency_ms")
    connection.execute(
        "INSERT INTO metrics VALUES (?, ?)", (metric.name, json.dumps(metric.to_dict()))
    )
    connection.executemany(OLD_INSERT, map(old_row, FACTS))
    connection.execute("INSERT INTO failures VALUES (1, '0,0', 'no', '', 1, '{}', 1.0)")
    connection.commit()
    connection.close()
    path.with_name(path.name + ".lock").touch()
    return path


def old_row(fact: Evaluation) -> tuple[Any, ...]:
    found = fact.measurement
    network = ",".join(map(str, fact.network))
    return (
        *(network, fact.metric, found.value, found.spread, found.repeats, fact.seed),
        *(json.dumps(dict(fact.conditions)), fact.time),
    )


def version_of(path: Path) -> int:
    """From the file's header, without SQLite."""
    return int.from_bytes(path.read_bytes()[60:64], "big")


def test_reading_leaves_it_as_it_is(old: Path) -> None:
    before = files_beside(old)
    with Study(old, read_only=True) as study:
        assert list(study.evaluations()) == FACTS
        assert len(study.failures()) == 1
        assert (study.devices, study.runs) == ({}, [])
        assert study.measurements("latency_ms").repeats.tolist() == [3.0] * len(FACTS)
        assert fit(study).exact((0, 0), "latency_ms") == pytest.approx(1.0)
        # an export is written beside it
        assert study.export(old.with_suffix(".csv")) == len(FACTS)
    old.with_suffix(".csv").unlink()
    assert files_beside(old) == before
    assert version_of(old) == 1


def test_writing_upgrades_it_and_keeps_every_fact(old: Path) -> None:
    with Study(old) as study:
        assert list(study.evaluations()) == FACTS
        new = Evaluation((2, 2), "loss", Measurement(1.0, notes={"load": "0.1"}), time=2.0)
        study.add([new])
        assert list(study.evaluations()) == [*FACTS, new]
        assert len(study.failures()) == 1
        with study.recording("estimation"):
            pass
        assert len(study.runs) == 1
    assert version_of(old) == 2
    with Study(old, read_only=True) as study:
        assert list(study.evaluations())[-1].measurement.notes == {"load": "0.1"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("moment", ["ALTER TABLE", "CREATE TABLE runs", "COMMIT"])
def test_a_kill_in_the_upgrade_leaves_the_old_file(old: Path, tmp_path: Path, moment: str) -> None:
    def die_upgrading() -> None:
        connect = sqlite3.connect

        def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **options)

            def look(statement: str) -> None:
                if statement.strip().startswith(moment):
                    os.kill(os.getpid(), signal.SIGKILL)

            connection.set_trace_callback(look)
            return connection

        mathnas._store.sqlite3.connect = traced  # type: ignore[attr-defined]
        Study(old)

    assert in_child(die_upgrading) == ""
    check_intact(old, tmp_path)
    with Study(old, read_only=True) as study:
        assert list(study.evaluations()) == FACTS
        assert study._store.version == 1
    with Study(old) as study:
        assert list(study.evaluations()) == FACTS
    assert version_of(old) == 2


def test_what_is_refused_is_not_upgraded(old: Path) -> None:
    before = old.read_bytes()
    with pytest.raises(InvalidInputError, match="a study holds networks of one space"):
        Study(old, space_of(3, 3))
    with sqlite3.connect(old) as connection:
        connection.execute("DELETE FROM meta")
    connection.close()
    damaged = old.read_bytes()
    with pytest.raises(FileFormatError, match="holds no search space"):
        Study(old)
    assert version_of(old) == 1
    assert old.read_bytes() == damaged
    assert before != damaged


def test_readers_and_drivers_of_the_old_version_go_on_beside_the_new(old: Path) -> None:
    driver = sqlite3.connect(old)
    with Study(old, read_only=True) as reader:
        assert len(reader) == len(FACTS)
        with Study(old) as study:
            # an older mathnas knows no notes
            driver.execute(OLD_INSERT, old_row(fact((1, 1))))
            driver.commit()
            study.add([Evaluation((2, 2), "latency_ms", Measurement(5.0, notes={"a": "b"}))])
            for one in (study, reader):
                notes = [found.measurement.notes for found in one.evaluations()]
                assert notes == [{}] * (len(FACTS) + 1) + [{"a": "b"}]
            assert reader.devices == {}
    driver.close()


def test_two_drivers_upgrade_at_once(old: Path) -> None:
    errors: list[BaseException] = []

    def drive(network: tuple[int, ...]) -> None:
        try:
            with Study(old) as study:
                study.add([fact(network)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=drive, args=(network,)) for network in all_of(SPACE, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Study(old) as study:
        assert len(study) == len(FACTS) + 4
