"""Files that are no study, or no longer one: refused with a clear error, left as they were."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from reliability_cases import (
    SCRIPTS,
    all_of,
    fact,
    files_beside,
    networks_in,
    space_of,
)

from mathnas import (
    Device,
    Failure,
    FileFormatError,
    InvalidInputError,
    MathNASError,
    SearchSpace,
    Study,
    random_sampling,
)
from mathnas.costs import RunCost

SPACE = space_of()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A study of a few pages."""
    path = tmp_path_factory.mktemp("sound") / "sound.study"
    with Study(path, SPACE) as study:
        study.add_sample(random_sampling(SPACE, 3))
        study.add(
            [fact(network, 1 + sum(network)) for network in all_of(SPACE, 300)],
            [Failure((0, 0, 0, 0), "RuntimeError: no", "trace", 3)],
        )
        study.add_device(Device("desk", "Fast CPU", 8, "Linux"))
        study.add_run(RunCost("search", 1.0, 2.0))
    return path.read_bytes()


def use(study: Study) -> None:
    """Everything that reads."""
    list(study.evaluations())
    study.failures()
    study.counts(list(study.metrics), {"device": "desk"})
    assert study.reference
    for metric in study.metrics:
        study.conditions(metric)
        study.measurements(metric)
    assert list(study.devices) == list(study.measured_on())
    assert [run.what for run in study.runs] == ["search"]
    study.export(study.path.with_suffix(".csv"))
    assert repr(study)


OPENINGS: list[Callable[[Path], Study]] = [
    lambda path: Study(path),
    lambda path: Study(path, SPACE),
    lambda path: Study(path, read_only=True),
]


def contents(path: Path) -> dict[str, bytes]:
    """The files of a folder, without SQLite's index of a log and logs with nothing in them."""
    return {
        name: content
        for name, content in files_beside(path).items()
        if not name.endswith("-shm") and (content or not name.endswith("-wal"))
    }


def refused(path: Path, words: str) -> None:
    """However it is opened, a file is refused and stays as it was."""
    before = contents(path)
    for opening in OPENINGS:
        with pytest.raises(FileFormatError, match=words) as caught:
            opening(path)
        assert path.name in str(caught.value)
        assert contents(path) == before


def try_to_use(path: Path) -> str:
    """Open and use a file that may be damaged: our errors only, and no change where refused."""
    content = path.read_bytes()
    outcome = "refused"
    for opening in OPENINGS:
        study = None
        try:
            study = opening(path)
        except (FileFormatError, InvalidInputError):
            assert path.read_bytes() == content
            continue
        try:
            use(study)
            outcome = "used"
        except MathNASError:
            outcome = "noticed"
        finally:
            study.close()
        assert path.read_bytes() == content
    return outcome


def test_truncated_anywhere(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.study"
    rng = random.Random(0)
    page = 4096
    cuts = {1, 15, 16, 17, 99, 100, 101, page - 1, page, page + 1, len(sound) - 1}
    cuts |= {rng.randrange(1, len(sound)) for _ in range(40)}
    cuts |= set(range(page, len(sound), page))
    for cut in sorted(cuts):
        path.write_bytes(sound[:cut])
        refused(path, "damaged|another program")


def test_flipped_bits_anywhere(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "flipped.study"
    rng = random.Random(1)
    outcomes = set()
    for case in range(150):
        content = bytearray(sound)
        # every third case in the first page: header, schema
        for _ in range(rng.choice([1, 1, 8])):
            at = rng.randrange(4096 if case % 3 == 0 else len(content))
            content[at] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        outcomes.add(try_to_use(path))
        for left in path.parent.iterdir():
            left.unlink()
    assert "refused" in outcomes


def test_overwritten_stretches(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "overwritten.study"
    rng = random.Random(2)
    for _ in range(60):
        begin, length = rng.randrange(len(sound)), rng.choice([4, 100, 4096])
        rubbish = rng.choice([bytes(length), rng.randbytes(length), b"\xff" * length])
        path.write_bytes((sound[:begin] + rubbish + sound[begin + length :])[: len(sound)])
        try_to_use(path)
        for left in path.parent.iterdir():
            left.unlink()


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.study"
    path.touch()
    refused(path, "is empty, and a study never is: restore it from a copy, or delete it")


@pytest.mark.parametrize(
    "content",
    [
        b"network,latency_ms\n0,1.0\n",
        b"\0" * 5000,
        b"SQLite format 3\0",
        b"SQLite format 3\0" * 300,
    ],
    ids=["text", "zeros", "magic", "magics"],
)
def test_another_kind_of_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.study"
    path.write_bytes(content)
    refused(path, "is damaged or not a study .*Nothing was changed")


def test_a_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (name)")
    connection.close()
    refused(path, "SQLite file of another program, not a study: name another file")


def test_a_database_of_another_program_with_a_log(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode=WAL")
    other.execute("CREATE TABLE photos (name)")
    refused(path, "SQLite file of another program")
    other.close()


def test_a_database_without_anything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    connection = sqlite3.connect(path)
    connection.execute("VACUUM")
    connection.close()
    refused(path, "another program")


def test_a_study_of_a_newer_version(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "new.study"
    path.write_bytes(sound[:60] + (3).to_bytes(4, "big") + sound[64:])
    refused(path, "has study version 3, but this mathnas reads up to 2: upgrade mathnas")


def test_a_study_without_its_space(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lost.study"
    path.write_bytes(sound)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM meta")
    connection.close()
    for opening in OPENINGS:
        with pytest.raises(FileFormatError, match="holds no search space"):
            opening(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "mathnas-space"}', "nul"])
def test_a_study_with_a_damaged_space(sound: bytes, tmp_path: Path, text: str) -> None:
    path = tmp_path / "lost.study"
    path.write_bytes(sound)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'space'", (text,))
    connection.close()
    for opening in OPENINGS:
        with pytest.raises(FileFormatError, match=r"lost\.study"):
            opening(path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE evaluations SET network = 'x' WHERE id = 5",
        "UPDATE evaluations SET network = '9,9,9,9' WHERE id = 5",
        "UPDATE evaluations SET network = '0,0' WHERE id = 5",
        "UPDATE evaluations SET network = '0,0,0,99999999999999999999' WHERE id = 5",
        "UPDATE evaluations SET network = x'ff00' WHERE id = 5",
        "UPDATE evaluations SET network = CAST(x'ff' AS TEXT) WHERE id = 5",
        "UPDATE evaluations SET value = 'fast' WHERE id = 5",
        "UPDATE evaluations SET value = 9e999 WHERE id = 5",
        "UPDATE evaluations SET spread = 'wide' WHERE id = 5",
        "UPDATE evaluations SET repeats = 0 WHERE id = 5",
        "UPDATE evaluations SET repeats = 'many' WHERE id = 5",
        "UPDATE evaluations SET conditions = '{' WHERE id = 5",
        "UPDATE evaluations SET conditions = '[1]' WHERE id = 5",
        "UPDATE metrics SET record = '{}'",
        "UPDATE metrics SET record = '['",
        "UPDATE failures SET conditions = '['",
        "UPDATE failures SET network = ''",
        "UPDATE samples SET reference = '7', kind = 'full'",
        "DROP TABLE evaluations",
        "DROP TABLE metrics",
    ],
)
def test_rows_that_nobody_stored(sound: bytes, tmp_path: Path, change: str) -> None:
    path = tmp_path / "changed.study"
    path.write_bytes(sound)
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()
    with Study(path, read_only=True) as study, pytest.raises(MathNASError, match=r"changed\.study"):
        use(study)


def test_a_study_of_another_space(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.study"
    path.write_bytes(sound)
    other = space_of(3, name="other")
    for read_only in (False, True):
        with pytest.raises(InvalidInputError, match=r"holds networks of one space.*another study"):
            Study(path, other, read_only=read_only)
    with Study(path, SPACE) as study:
        assert len(study) == 300
    assert path.read_bytes() == sound


def test_a_damaged_study_with_a_log_keeps_its_log(tmp_path: Path) -> None:
    # a driver was killed, and then the file was cut: the log must not be moved into it
    path = tmp_path / "a.study"
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS.parent)!r})\n"
        "import os\n"
        "from reliability_cases import *\n"
        "study = Study('a.study', space_of())\n"
        "study.add([fact(network) for network in all_of(space_of(), 300)])\n"
        "study._store.read('PRAGMA wal_checkpoint')\n"
        "study.add([fact((4, 4, 4, 4))])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    log = path.with_name("a.study-wal").read_bytes()
    content = path.read_bytes()
    assert log
    path.write_bytes(content[:20] + bytes(3000) + content[3020:])
    damaged = path.read_bytes()
    for opening in OPENINGS:
        with pytest.raises(FileFormatError):
            opening(path)
    assert path.read_bytes() == damaged
    assert path.with_name("a.study-wal").read_bytes() == log
    path.write_bytes(content)
    with Study(path) as study:
        assert networks_in(study)[(4, 4, 4, 4)] == 1


def test_a_log_without_its_study_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.study"
    Study(path, SPACE).close()
    path.unlink()
    log = path.with_name("a.study-wal")
    log.write_bytes(b"rows")
    with pytest.raises(
        FileFormatError, match=r"a\.study-wal with rows of it is there: put .*delete"
    ):
        Study(path, SPACE)
    assert log.read_bytes() == b"rows"
    assert not path.exists()
    log.unlink()
    Study(path, SPACE).close()


def test_a_missing_study(tmp_path: Path) -> None:
    path = tmp_path / "none.study"
    with pytest.raises(FileFormatError, match="give a search space to create it"):
        Study(path)
    with pytest.raises(FileFormatError, match="check the path"):
        Study(path, SPACE, read_only=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_and_a_file_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileFormatError, match="is not a file"):
        Study(tmp_path, SPACE)
    with pytest.raises(FileFormatError, match="cannot be read: Not a directory"):
        Study(tmp_path / "file" / "a.study", SPACE)


def test_spaces_compare_by_what_they_declare(tmp_path: Path) -> None:
    Study(tmp_path / "a.study", SPACE).close()
    same = SearchSpace.from_dict(SPACE.to_dict())
    with Study(tmp_path / "a.study", same) as study:
        assert study.space == SPACE
