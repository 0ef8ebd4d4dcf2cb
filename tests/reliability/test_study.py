"""The study: what goes in comes out, all of it or nothing, and never changes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reliability_cases import all_of, fact, space_of

from mathnas import (
    Evaluation,
    Failure,
    FileFormatError,
    InvalidInputError,
    Measurement,
    Metric,
    Study,
    full_sampling,
    random_sampling,
    single_sampling,
)

SPACE = space_of()
NETWORKS = all_of(SPACE, 10)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with Study(tmp_path / "a.study", SPACE) as study:
        yield study


# ---- in and out -----------------------------------------------------------------------------


def test_evaluations_come_back_as_they_went_in(study: Study) -> None:
    facts = [
        Evaluation((0, 1, 2, 3), "latency_ms", Measurement(1.5, 0.25, 7), 11, {"b": "2"}, 1.5e9),
        Evaluation((0, 1, 2, 3), "accuracy", Measurement(-0.0), None, {}, 1.5e9),
        Evaluation((4, 4, 4, 4), "latency_ms", Measurement(5e-324), 2**63 - 1, {"ü": "\n"}, 2.0),
    ]
    study.add(facts)
    assert list(study.evaluations()) == facts
    assert list(study.evaluations("accuracy")) == facts[1:2]
    assert len(study) == 3
    with Study(study.path, read_only=True) as other:
        assert list(other.evaluations()) == facts


def test_evaluations_of_one_metric_network_and_conditions(study: Study) -> None:
    facts = [
        Evaluation(network, metric, Measurement(1.0), None, conditions, 2.0)
        for network in NETWORKS[:3]
        for metric in ("latency_ms", "accuracy")
        for conditions in ({}, {"device": "desk"}, {"threads": "2", "device": "desk"})
    ]
    study.add(facts)
    for metric in (None, "latency_ms", "loss"):
        for network in (None, NETWORKS[1], NETWORKS[9]):
            for conditions in (None, {}, {"device": "desk"}, {"device": "desk", "threads": "2"}):
                assert list(study.evaluations(metric, network, conditions)) == [
                    one
                    for one in facts
                    if metric in (None, one.metric)
                    and network in (None, one.network)
                    and conditions in (None, one.conditions)
                ]


def test_networks_may_be_given_by_names_of_blocks(study: Study) -> None:
    study.add([fact(("b0", "b1", 2, np.int64(3)))])  # type: ignore[arg-type]
    assert [item.network for item in study.evaluations()] == [(0, 1, 2, 3)]


def test_numbers_of_numpy_are_stored(study: Study) -> None:
    measurement = Measurement(np.float32(0.5), np.float32(0.25), np.int64(3))
    study.add([Evaluation((0, 0, 0, 0), "loss", measurement, np.int32(5))])
    study.add_failure(Failure((0, 0, 0, 0), "no", "", np.int64(5)))
    (found,) = study.evaluations()
    assert found.measurement == Measurement(0.5, 0.25, 3)
    assert found.seed == 5


def test_a_time_is_given_where_there_is_none(study: Study) -> None:
    study.add([Evaluation((0, 0, 0, 0), "loss", Measurement(1.0))])
    (found,) = study.evaluations()
    assert found.time > 1.6e9


GOOD = fact(NETWORKS[0])
HALF: Any = 1.5


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (fact((0, 0, 0)), "one block for each of its 4 nodes"),
        (fact((0, 0, 0, 5)), "blocks 0 to 4, but got 5"),
        (fact(NETWORKS[0], float("nan")), "must be finite, but latency_ms = nan.*find out why"),
        (fact(NETWORKS[0], float("inf")), "must be finite, but latency_ms = inf"),
        (fact(NETWORKS[0], metric="speed_fps"), "starts with its quantity and unit"),
        (Evaluation(NETWORKS[0], "loss", Measurement(1.0), 2**63), "a seed is a whole number"),
        (Evaluation(NETWORKS[0], "loss", Measurement(1.0), HALF), "a seed is a whole number"),
        (Evaluation(NETWORKS[0], "loss", Measurement(1.0), time=float("nan")), "a time is finite"),
        (
            Evaluation(NETWORKS[0], "loss", Measurement(1.0, repeats=HALF)),
            "the number of repeats is a whole number",
        ),
    ],
)
def test_what_is_refused_leaves_nothing(study: Study, bad: Evaluation, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        study.add([GOOD, bad, GOOD], [Failure(NETWORKS[0], "no", "")])
    assert len(study) == 0
    assert study.failures() == []
    assert study.metrics == {}, "a metric of what was refused is declared"
    study.add([GOOD])
    assert len(study) == 1


def test_failures_come_back(study: Study) -> None:
    failures = [
        Failure((0, 0, 0, 0), "RuntimeError: 研究\n\0", "Traceback ...", 7, {"device": "pi"}, 1.5),
        Failure((4, 4, 4, 4), "", "", None, {}, 2.5),
    ]
    study.add([], failures)
    study.add_failure(Failure((1, 1, 1, 1), "bad \udcff name", "\ud800"))
    assert study.failures()[:2] == failures
    assert study.failures()[2].error == r"bad \udcff name"
    assert len(study) == 0


# ---- metrics --------------------------------------------------------------------------------


def test_metrics_are_declared_once(study: Study) -> None:
    speed = Metric("speed_fps", "fps", "maximize", additive=False)  # type: ignore[arg-type]
    study.declare([speed])
    study.declare([speed])
    study.add([fact(NETWORKS[0], 30.0, "speed_fps"), fact(NETWORKS[0])])
    assert list(study.metrics) == ["speed_fps", "latency_ms"]
    assert study.metrics["speed_fps"] == speed
    slower = Metric("speed_fps", "fps", "minimize", additive=False)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"is declared in .*'maximize'.*another name"):
        study.declare([slower])
    assert study.metrics["speed_fps"] == speed


# ---- pooled ---------------------------------------------------------------------------------


def measured(value: float, spread: float | None = None, repeats: int = 1) -> Evaluation:
    return Evaluation(NETWORKS[0], "loss", Measurement(value, spread, repeats))


def test_repeats_are_pooled(study: Study) -> None:
    rng = np.random.default_rng(0)
    first, second, single = rng.normal(size=5), rng.normal(size=9), 0.5
    study.add(
        [
            measured(first.mean(), float(first.std(ddof=1)), 5),
            measured(second.mean(), float(second.std(ddof=1)), 9),
            measured(single),
        ]
    )
    pooled = study.measurements("loss")
    every = np.concatenate([first, second, [single]])
    assert pooled.values == pytest.approx([every.mean()])
    assert pooled.spread == pytest.approx([every.std(ddof=1)])
    assert pooled.repeats == [15]


def test_equal_values_have_that_mean(study: Study) -> None:
    study.add([measured(0.1)] * 7)
    pooled = study.measurements("loss")
    assert pooled.values == [0.1]
    assert pooled.spread == [0.0]


def test_a_single_value_has_no_spread(study: Study) -> None:
    study.add([measured(0.1)])
    assert np.isnan(study.measurements("loss").spread).all()


def test_rows_are_looked_up(study: Study) -> None:
    study.add([fact(network, sum(network)) for network in NETWORKS])
    pooled = study.measurements("latency_ms")
    assert len(pooled) == len(NETWORKS)
    row = pooled.lookup(NETWORKS[4])
    assert row is not None
    assert pooled.values[row] == 4.0
    assert pooled.lookup((4, 4, 4, 4)) is None


# ---- conditions -----------------------------------------------------------------------------


def test_conditions_keep_measurements_apart(study: Study) -> None:
    def under(**conditions: Any) -> Evaluation:
        return Evaluation(NETWORKS[0], "latency_ms", Measurement(1.0), 0, conditions)

    study.add([under(device="pi", threads="1"), under(device="pi", threads="4"), under()])
    assert study.conditions("latency_ms") == [
        {"device": "pi", "threads": "1"},
        {"device": "pi", "threads": "4"},
        {},
    ]
    assert study.counts(["latency_ms"], {"threads": "1", "device": "pi"}) == {NETWORKS[0]: 1}
    assert study.counts(["latency_ms"]) == {NETWORKS[0]: 1}
    with pytest.raises(InvalidInputError, match=r"2 sets of conditions fit .*choose one of"):
        study.measurements("latency_ms", {"device": "pi"})
    with pytest.raises(InvalidInputError, match="0 sets of conditions fit"):
        study.measurements("latency_ms", {"device": "phone"})
    chosen = study.measurements("latency_ms", {"threads": 4})  # type: ignore[dict-item]
    assert chosen.conditions == {"device": "pi", "threads": "4"}


def test_a_metric_that_is_not_there(study: Study) -> None:
    with pytest.raises(InvalidInputError, match="has no metric 'loss'; it has none"):
        study.measurements("loss")
    study.add([fact(NETWORKS[0])])
    with pytest.raises(InvalidInputError, match="has no metric 'loss'; it has latency_ms"):
        study.measurements("loss")


def test_counts_need_every_metric(study: Study) -> None:
    study.add([fact(NETWORKS[0])] * 3)
    study.add([fact(NETWORKS[0], metric="accuracy"), fact(NETWORKS[1], metric="accuracy")])
    conditions = {"device": "desk"}
    assert study.counts(["latency_ms", "accuracy"], conditions) == {NETWORKS[0]: 1}
    assert study.counts(["loss"], conditions) == {}


# ---- reference ------------------------------------------------------------------------------


def test_the_reference_is_that_of_the_newest_design(study: Study) -> None:
    assert study.reference == SPACE.reference
    study.add_sample(single_sampling(SPACE, (1, 1, 1, 1)))
    assert study.reference == (1, 1, 1, 1)
    study.add_sample(random_sampling(SPACE, 5))
    assert study.reference == (1, 1, 1, 1)
    study.add_sample(full_sampling(SPACE, (2, 2, 2, 2)))
    assert study.reference == (2, 2, 2, 2)


# ---- transactions ---------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["BEGIN", "INSERT INTO evaluations", "COMMIT"])
def test_ctrl_c_inside_a_write_leaves_the_study_usable(study: Study, moment: str) -> None:
    study.add([fact(NETWORKS[0])])
    real = study._store._connection

    class Interrupted:
        """Runs a statement and is interrupted right after it."""

        def execute(self, statement: str, *arguments: Any) -> Any:
            result = real.execute(statement, *arguments)
            self.look(statement)
            return result

        def executemany(self, statement: str, *arguments: Any) -> Any:
            result = real.executemany(statement, *arguments)
            self.look(statement)
            return result

        def look(self, statement: str) -> None:
            if statement.startswith(moment):
                raise KeyboardInterrupt

    study._store._connection = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        study.add([fact(NETWORKS[1]), fact(NETWORKS[2])])
    study._store._connection = real
    assert not real.in_transaction
    # after COMMIT they are stored, before it nothing is
    assert len(study) == (3 if moment == "COMMIT" else 1)
    study.add([fact(NETWORKS[3])])
    with Study(study.path) as other:
        other.add([fact(NETWORKS[4])])
        assert len(other) == len(study) == (5 if moment == "COMMIT" else 3)


def test_writes_are_safe_against_power_loss(study: Study) -> None:
    assert study._store.read("PRAGMA journal_mode") == [("wal",)]
    assert study._store.read("PRAGMA synchronous") == [(2,)]


# ---- life -----------------------------------------------------------------------------------


def test_a_closed_study_says_so(study: Study) -> None:
    study.close()
    study.close()
    for use in (lambda: len(study), lambda: study.add([fact(NETWORKS[0])]), lambda: study.metrics):
        with pytest.raises(FileFormatError, match="is closed: open it again"):
            use()


def test_closing_moves_the_log_into_the_file(tmp_path: Path) -> None:
    with Study(tmp_path / "a.study", SPACE) as study:
        study.add([fact(NETWORKS[0])])
        assert (tmp_path / "a.study-wal").exists()
    assert {file.name for file in tmp_path.iterdir()} == {"a.study", "a.study.lock"}


def test_reading_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    with Study(tmp_path / "a.study", SPACE) as study:
        study.add([fact(NETWORKS[0])])
    content = study.path.read_bytes()
    with Study(study.path, read_only=True) as reader:
        assert len(reader) == 1
    assert {file.name for file in tmp_path.iterdir()} == {"a.study", "a.study.lock"}
    assert study.path.read_bytes() == content
    # a reader beside a driver leaves the driver's log alone
    with Study(study.path) as study:
        study.add([fact(NETWORKS[1])])
        with Study(study.path, read_only=True) as reader:
            assert len(reader) == 2
        study.add([fact(NETWORKS[2])])
    with Study(study.path, read_only=True) as reader:
        assert len(reader) == 3


def test_a_study_without_its_folder_can_be_closed(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    study = Study(folder / "a.study", SPACE)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    study.close()


def test_a_study_can_be_closed_by_another_thread(study: Study) -> None:
    thread = threading.Thread(target=study.close)
    thread.start()
    thread.join()
    with pytest.raises(FileFormatError, match="is closed"):
        len(study)


def test_the_file_is_plain_sqlite(study: Study) -> None:
    study.add([fact(NETWORKS[3], 2.5)])
    study.close()
    connection = sqlite3.connect(study.path)
    query = "SELECT network, metric, value, repeats, conditions FROM evaluations"
    rows = connection.execute(query).fetchall()
    connection.close()
    assert rows == [("0,0,0,3", "latency_ms", 2.5, 1, '{"device": "desk"}')]


def test_it_tells_what_it_is(study: Study) -> None:
    assert repr(study) == f"Study({str(study.path)!r}: 0 evaluations of small)"
