"""Export and import: bit for bit, all or nothing, and never twice."""

from __future__ import annotations

import contextlib
import csv
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reliability_cases import Sums, all_of, fact, space_of

from mathnas import (
    Evaluation,
    FileFormatError,
    InvalidInputError,
    MathNASError,
    Measurement,
    Metric,
    MissingExtraError,
    Study,
    evaluate,
)

SPACE = space_of()
NETWORKS = all_of(SPACE, 20)
COLUMNS = ["network", "metric", "value", "spread", "repeats", "seed", "conditions", "time"]
# beside `notes`, which files of older versions lack


@pytest.fixture(params=["csv", "parquet"])
def ending(request: pytest.FixtureRequest) -> str:
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return str(request.param)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with Study(tmp_path / "a.study", SPACE) as study:
        yield study


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Study]:
    with Study(tmp_path / "b.study", SPACE) as study:
        yield study


def bits(study: Study) -> list[tuple[object, ...]]:
    """Every field of every evaluation, floats by their bits."""
    return [
        (
            item.network,
            item.metric,
            item.measurement.value.hex(),
            None if item.measurement.spread is None else item.measurement.spread.hex(),
            item.measurement.repeats,
            item.seed,
            tuple(sorted(item.conditions.items())),
            item.time.hex(),
            tuple(sorted(item.measurement.notes.items())),
        )
        for item in study.evaluations()
    ]


finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
evaluations = st.builds(
    Evaluation,
    st.sampled_from(NETWORKS),
    st.sampled_from(["latency_ms", "accuracy", "energy_mj_board"]),
    st.builds(
        Measurement,
        finite,
        st.none() | st.floats(min_value=0, allow_infinity=False),
        st.integers(1, 2**62),
        st.dictionaries(text, text, max_size=2),
    ),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.dictionaries(text, text, max_size=3),
    st.floats(min_value=1e-3, max_value=1e12),
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(facts=st.lists(evaluations, max_size=12))
def test_a_round_trip_keeps_every_bit(
    facts: list[Evaluation], ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    file = folder / f"out.{ending}"
    with Study(folder / "a.study", SPACE) as first, Study(folder / "b.study", SPACE) as second:
        first.add(facts)
        assert first.export(file) == len(facts)
        keys = [
            (*(e.network, e.metric, e.measurement, e.seed, e.time), *sorted(e.conditions.items()))
            for e in first.evaluations()
        ]
        added, known = second.import_file(file)
        assert added + known == len(facts)
        assert second.import_file(file) == (0, len(facts))
        # what stands twice is one evaluation; 0.0 and -0.0 are equal
        first_of = {key: item for item, key in reversed(list(zip(bits(first), keys, strict=True)))}
        assert bits(second) == [first_of[key] for key in dict.fromkeys(keys)]
        assert first.import_file(file) == (0, len(facts))


def test_an_export_holds_what_a_run_stored(study: Study, other: Study, tmp_path: Path) -> None:
    evaluate(study, NETWORKS, Sums(), repeats=2)
    study.export(tmp_path / "new" / "out.csv")
    with (tmp_path / "new" / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*COLUMNS, "notes"]
    assert len(rows) == 40
    assert rows[3]["network"] == "0,0,0,3"
    assert rows[3]["value"] == "3.0"
    assert rows[3]["spread"] == ""
    assert other.import_file(tmp_path / "new" / "out.csv") == (40, 0)
    # the seeds came along, so nothing is evaluated again
    assert evaluate(other, NETWORKS, Sums(), repeats=2).already == 40


def test_an_empty_study_is_exported_and_imported(
    study: Study, other: Study, tmp_path: Path, ending: str
) -> None:
    assert study.export(tmp_path / f"out.{ending}") == 0
    assert other.import_file(tmp_path / f"out.{ending}") == (0, 0)


def test_notes_come_along_and_a_file_may_lack_them(
    study: Study, other: Study, tmp_path: Path, ending: str
) -> None:
    noted = Evaluation(
        NETWORKS[0],
        "latency_ms",
        Measurement(1.5, notes={"load": "0.3", "attempts": "2"}),
        time=1.0,
    )
    study.add([noted])
    study.export(tmp_path / f"out.{ending}")
    assert other.import_file(tmp_path / f"out.{ending}") == (1, 0)
    assert list(other.evaluations()) == [noted]
    # what an older version exported is the same evaluation, not a second one
    file = write(tmp_path / "old.csv", {**GOOD, "network": "0,0,0,0", "seed": "", "time": "1.0"})
    file.write_text(file.read_text().replace('""device"": ""desk""', ""))
    assert other.import_file(file) == (0, 1)


@pytest.mark.parametrize("notes", ["[1]", "busy"])
def test_notes_that_are_none(study: Study, tmp_path: Path, notes: str) -> None:
    file = write(tmp_path / "in.csv", {**GOOD, "notes": notes}, columns=[*COLUMNS, "notes"])
    with pytest.raises(InvalidInputError, match=r"record 1: .*Nothing was added"):
        study.import_file(file)


def test_only_what_is_new_is_added(study: Study, other: Study, tmp_path: Path, ending: str) -> None:
    study.add([fact(network) for network in NETWORKS[:3]])
    other.add([fact(NETWORKS[1]), fact(NETWORKS[9])])
    study.export(tmp_path / f"out.{ending}")
    assert other.import_file(tmp_path / f"out.{ending}") == (2, 1)
    assert len(other) == 4


def test_metrics_out_of_the_vocabulary_are_declared_first(
    study: Study, other: Study, tmp_path: Path
) -> None:
    speed = Metric("speed_fps", "fps", "maximize", additive=False)  # type: ignore[arg-type]
    study.declare([speed])
    study.add([fact(NETWORKS[0], 30.0, "speed_fps")])
    study.export(tmp_path / "out.csv")
    with pytest.raises(InvalidInputError, match=r"out\.csv, record 1: .*'speed_fps'.*declare it"):
        other.import_file(tmp_path / "out.csv")
    other.declare([speed])
    assert other.import_file(tmp_path / "out.csv") == (1, 0)


# ---- files that were touched ----------------------------------------------------------------

GOOD = dict(
    zip(
        COLUMNS,
        ["0,0,0,1", "latency_ms", "1.5", "", "1", "7", '{"device": "desk"}', "1.7e9"],
        strict=True,
    )
)


def write(path: Path, *rows: dict[str, str], columns: list[str] = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": "0,0,0"}, "has one block for each of its 4 nodes"),
        ({"network": "0,0,0,9"}, "blocks 0 to 4, but got 9"),
        ({"network": "0,0,0,b9"}, "has no block 'b9'"),
        ({"network": ""}, "one block for each"),
        ({"metric": "speed"}, "starts with its quantity and unit"),
        ({"metric": ""}, "starts with its quantity and unit"),
        ({"value": "nan"}, "must be finite, but latency_ms = nan"),
        ({"value": "inf"}, "must be finite, but latency_ms = inf"),
        ({"value": "fast"}, "could not convert string to float: 'fast'"),
        ({"value": ""}, "the column 'value' needs a number"),
        ({"spread": "-1"}, "a spread is a standard deviation"),
        ({"spread": "inf"}, "a spread is a standard deviation"),
        ({"repeats": "0"}, "at least 1 repeat"),
        ({"repeats": ""}, "the column 'repeats' needs a number"),
        ({"repeats": "1.5"}, "whole numbers, but got 1.5"),
        ({"repeats": "99999999999999999999"}, "whole number below 2^63"),
        ({"seed": "99999999999999999999"}, "whole number below 2^63"),
        ({"seed": "x"}, "could not convert"),
        ({"conditions": "desk"}, "Expecting value"),
        ({"conditions": "[1]"}, "conditions are a JSON object"),
        ({"time": ""}, "the column 'time' needs a number"),
        ({"time": "inf"}, "a time is finite"),
        ({"time": "nan"}, "a time is finite"),
        ({"time": "today"}, "could not convert"),
    ],
)
def test_a_bad_record_is_named_and_nothing_is_added(
    study: Study, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    file = write(tmp_path / "in.csv", GOOD, {**GOOD, "seed": "8"}, {**GOOD, **change})
    with pytest.raises(InvalidInputError, match=r"in\.csv, record 3: .*Nothing was added") as error:
        study.import_file(file)
    assert words in str(error.value)
    assert len(study) == 0
    assert study.metrics == {}


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(study: Study, tmp_path: Path, column: str) -> None:
    columns = [name for name in COLUMNS if name != column]
    file = write(tmp_path / "in.csv", GOOD, columns=columns)
    with pytest.raises(FileFormatError, match=f"needs the column '{column}', but has"):
        study.import_file(file)


def test_a_record_that_is_too_short(study: Study, tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", GOOD)
    file.write_text(file.read_text() + "\n0\n")
    with pytest.raises(InvalidInputError, match=r"record 2: .*Nothing was added"):
        study.import_file(file)


@pytest.mark.parametrize(
    ("change", "seed", "repeats"),
    [
        ({}, 7, 1),
        ({"seed": "", "spread": ""}, None, 1),
        ({"seed": "7.0", "repeats": "3.0"}, 7, 3),  # as pandas writes a column with gaps
        ({"seed": "nan", "spread": "nan"}, None, 1),
        ({"conditions": ""}, 7, 1),
    ],
)
def test_what_other_programs_write_is_read(
    study: Study, tmp_path: Path, change: dict[str, str], seed: int | None, repeats: int
) -> None:
    study.import_file(write(tmp_path / "in.csv", {**GOOD, **change}))
    (found,) = study.evaluations()
    assert found.seed == seed
    assert found.measurement == Measurement(1.5, None, repeats)


def test_a_byte_order_mark_and_more_columns_do_no_harm(study: Study, tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", {**GOOD, "note": "x"}, columns=["note", *COLUMNS])
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    assert study.import_file(file) == (1, 0)


def test_a_time_of_zero_is_a_time(study: Study, tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", {**GOOD, "time": "0"})
    assert study.import_file(file) == (1, 0)
    assert study.import_file(file) == (0, 1)


@pytest.mark.parametrize("name", ["out", "out.txt", "out.csv.gz", "out.CSV"])
def test_other_endings_are_refused(study: Study, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"exchanged as \.csv or \.parquet, but got 'out"):
        study.export(tmp_path / name)
    with pytest.raises(InvalidInputError, match=r"exchanged as \.csv or \.parquet, but got 'out"):
        study.import_file(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_study_is_not_exported_over_itself(tmp_path: Path) -> None:
    with Study(tmp_path / "study.csv", SPACE) as study:
        study.add([fact(NETWORKS[0])])
        with pytest.raises(InvalidInputError, match="is the study itself"):
            study.export(tmp_path / "study.csv")
        assert len(study) == 1


def test_a_missing_file_and_a_folder(study: Study, tmp_path: Path, ending: str) -> None:
    with pytest.raises(FileFormatError, match="cannot be read as"):
        study.import_file(tmp_path / f"none.{ending}")
    (tmp_path / f"folder.{ending}").mkdir()
    with pytest.raises(FileFormatError, match="cannot be read as"):
        study.import_file(tmp_path / f"folder.{ending}")
    with pytest.raises(FileFormatError, match="cannot be written"):
        study.export(tmp_path / f"folder.{ending}")


def test_damaged_files_are_refused(study: Study, other: Study, tmp_path: Path, ending: str) -> None:
    study.add([fact(network, 0.1 * sum(network)) for network in NETWORKS])
    file = tmp_path / f"out.{ending}"
    study.export(file)
    content = file.read_bytes()
    rng = random.Random(3)
    for case in range(80):
        changed = bytearray(content)
        if case % 4 == 0:
            del changed[rng.randrange(len(changed)) :]
        else:
            for _ in range(rng.choice([1, 5])):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        file.write_bytes(changed)
        with contextlib.suppress(MathNASError):
            other.import_file(file)


def test_parquet_from_another_program(study: Study, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    # gaps became NaN, whole numbers became floats, and the folder is named like a partition
    columns: dict[str, list[object]] = {
        "network": ["0,0,0,1"],
        "metric": ["latency_ms"],
        "value": [1.5],
        "spread": [float("nan")],
        "repeats": [3.0],
        "seed": [float("nan")],
        "conditions": [None],
        "time": [1.7e9],
    }
    folder = tmp_path / "seed=3"
    folder.mkdir()
    parquet.write_table(arrow.table(columns), folder / "in.parquet")
    assert study.import_file(folder / "in.parquet") == (1, 0)
    (found,) = study.evaluations()
    assert found.seed is None
    assert found.measurement == Measurement(1.5, None, 3)


@pytest.mark.parametrize("column", COLUMNS)
def test_parquet_with_columns_of_another_type(study: Study, tmp_path: Path, column: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {name: [[1, 2]] if name == column else [value] for name, value in GOOD.items()}
    parquet.write_table(arrow.table(columns), tmp_path / "in.parquet")
    with pytest.raises(InvalidInputError, match=r"in\.parquet, record 1"):
        study.import_file(tmp_path / "in.parquet")
    assert len(study) == 0


def test_parquet_without_pyarrow_names_the_extra(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "in.parquet").touch()
    with pytest.raises(MissingExtraError, match=r"pip install 'mathnas\[parquet\]', or use \.csv"):
        study.export(tmp_path / "out.parquet")
    with pytest.raises(MissingExtraError, match=r"mathnas\[parquet\]"):
        study.import_file(tmp_path / "in.parquet")
    assert study.export(tmp_path / "out.csv") == 0
