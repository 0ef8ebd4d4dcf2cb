"""Where a study may be: names, links, permissions, network disks, and what moves meanwhile."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from reliability_cases import (
    Sums,
    all_of,
    fact,
    finish,
    in_child,
    mounted,
    networks_in,
    space_of,
    start,
)

from mathnas import (
    FileFormatError,
    FunctionEvaluator,
    MathNASWarning,
    Study,
    evaluate,
    metric_named,
)
from mathnas._store import file_system_of

SPACE = space_of()
NETWORKS = all_of(SPACE, 8)
WANTED = (0, 0, 0, 1)


# ---- names ----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="characters that Windows refuses")
@pytest.mark.parametrize(
    "name",
    [
        "with space.study",
        "étude-研究.study",
        "what?.study",
        "100%20.study",
        "a#b&mode=memory.study",
        ":memory:",
        "file:x.study",
        "no-ending",
        "line\nbreak",
        "-dash",
        "'quote\".study",
        os.fsdecode(b"not-utf8-\xff.study"),
    ],
)
def test_any_file_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Study(name, SPACE) as study:
        study.add([fact(WANTED)])
    assert (tmp_path / name).stat().st_size > 0
    for read_only in (False, True):
        with Study(name, read_only=read_only) as study:
            assert networks_in(study) == {WANTED: 1}
    allowed = {name + ending for ending in ("", ".lock", "-shm", "-wal")}
    assert set(os.listdir(tmp_path)) <= allowed


def test_missing_folders_are_made(tmp_path: Path) -> None:
    with Study(tmp_path / "new" / "folder" / "a.study", SPACE) as study:
        assert len(study) == 0


def test_changing_the_working_directory_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    monkeypatch.chdir(home)

    def measure(network: tuple[int, ...]) -> float:
        os.chdir(away)
        return 1.0

    with Study("a.study", SPACE) as study:
        evaluate(study, NETWORKS, FunctionEvaluator(measure, ["loss"]))
    assert not list(away.iterdir())
    with Study(home / "a.study") as study:
        assert len(study) == len(NETWORKS)


def test_a_link_shares_the_lock_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "link.study"
    link.symlink_to(tmp_path / "far" / "real.study")
    with Study(link, SPACE) as study, Study(tmp_path / "far" / "real.study") as same:
        study.add([fact(WANTED)])
        assert len(same) == 1
    assert link.is_symlink()
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["link.study"]


# ---- what moves while it is open ------------------------------------------------------------


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Study]:
    (tmp_path / "here").mkdir()
    with Study(tmp_path / "here" / "a.study", SPACE) as study:
        study.add([fact(NETWORKS[0])])
        yield study


def test_a_deleted_folder_is_noticed(opened: Study) -> None:
    shutil.rmtree(opened.path.parent)
    with pytest.raises(FileFormatError, match=r"Measured but not stored: 0,0,0,1 latency_ms=1\.0"):
        evaluate(opened, NETWORKS[1:3], Sums())


def test_a_deleted_file_is_noticed(opened: Study) -> None:
    opened.path.unlink()
    with pytest.raises(FileFormatError, match="moved, deleted or replaced"):
        opened.add([fact(WANTED)])


def test_a_replaced_file_is_noticed(opened: Study, tmp_path: Path) -> None:
    Study(tmp_path / "other.study", SPACE).close()
    os.replace(tmp_path / "other.study", opened.path)
    with pytest.raises(FileFormatError, match="moved, deleted or replaced"):
        opened.add([fact(WANTED)])
    # its log is not the new file's
    for ending in ("-wal", "-shm"):
        opened.path.with_name(f"a.study{ending}").unlink(missing_ok=True)


def test_a_moved_file_can_be_put_back(opened: Study, tmp_path: Path) -> None:
    os.replace(opened.path, tmp_path / "moved.study")
    with pytest.raises(FileFormatError, match="put it back"):
        opened.add([fact(WANTED)])
    os.replace(tmp_path / "moved.study", opened.path)
    opened.add([fact(WANTED)])
    assert len(opened) == 2


def test_a_study_can_be_copied_when_it_is_closed(tmp_path: Path) -> None:
    with Study(tmp_path / "a.study", SPACE) as study:
        evaluate(study, NETWORKS, Sums())
    shutil.copyfile(tmp_path / "a.study", tmp_path / "b.study")
    with Study(tmp_path / "b.study", SPACE) as study:
        assert len(study) == len(NETWORKS)


# ---- permissions ----------------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may write to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o777)
    shutil.rmtree(folder)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@needs_fork
def test_a_file_that_may_not_be_written_says_so_when_it_is_opened(open_folder: Path) -> None:
    path = open_folder / "a.study"
    with Study(path, SPACE) as study:
        study.add([fact(WANTED)])
    path.chmod(0o444)
    (open_folder / "a.study.lock").chmod(0o666)
    answer = in_child(lambda: Study(path), unprivileged=True)
    assert answer.startswith("FileFormatError")
    assert "cannot be opened or written" in answer
    assert "open the study read-only" in answer
    assert in_child(lambda: len(Study(path, read_only=True)), unprivileged=True) == "1"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444


@needs_fork
def test_a_folder_that_may_not_be_written(open_folder: Path) -> None:
    path = open_folder / "a.study"
    with Study(path, SPACE) as study:
        study.add([fact(WANTED)])
    open_folder.chmod(0o555)
    for action in (lambda: Study(path), lambda: Study(open_folder / "new.study", SPACE)):
        answer = in_child(action, unprivileged=True)
        assert answer.startswith("FileFormatError")
        assert "Permission denied" in answer or "permissions" in answer
    assert in_child(lambda: len(Study(path, read_only=True)), unprivileged=True) == "1"
    assert {file.name for file in open_folder.iterdir()} == {"a.study", "a.study.lock"}


@needs_fork
def test_a_file_that_may_not_be_read(open_folder: Path) -> None:
    path = open_folder / "a.study"
    Study(path, SPACE).close()
    path.chmod(0)
    for read_only in (False, True):
        answer = in_child(partial(Study, path, read_only=read_only), unprivileged=True)
        assert answer.startswith("FileFormatError")
        assert "check the permissions" in answer


def test_a_disk_that_is_read_only(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    disk = tmp_path / "disk"
    remount = mounted(disk, "size=2m", request)
    path = disk / "a.study"
    with Study(path, SPACE) as study:
        study.add([fact(WANTED)])
    remount("ro")
    with pytest.raises(FileFormatError, match=r"Read-only file system|permissions"):
        Study(path)
    with Study(path, read_only=True) as study:
        assert networks_in(study) == {WANTED: 1}
    with pytest.raises(FileFormatError, match=r"Read-only file system"):
        Study(disk / "new" / "b.study", SPACE)


def test_a_read_only_disk_with_a_log_shows_what_is_in_the_log(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    disk = tmp_path / "disk"
    remount = mounted(disk, "size=2m", request)
    process = start(*("drive.py", "a.study", "--last", "5", "--die-at", "COMMIT"), cwd=disk)
    process.communicate(timeout=30)
    assert (disk / "a.study-wal").stat().st_size
    remount("ro")
    with Study(disk / "a.study", read_only=True) as study:
        assert len(study) == 2
    remount("rw")
    (disk / "a.study-shm").unlink()
    remount("ro")
    with pytest.raises(FileFormatError, match=r"newest evaluations .*a\.study-wal.*copy both"):
        Study(disk / "a.study", read_only=True)


def test_reading_only_writes_and_locks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.study"
    with Study(path, SPACE) as study:
        study.add([fact(WANTED)])
    path.with_name("a.study.lock").unlink()
    content = path.read_bytes()
    with Study(path, SPACE, read_only=True) as study:
        assert len(study) == 1
        with pytest.raises(FileFormatError, match="opened to read only: open it for writing"):
            study.add([fact(WANTED)])
        with pytest.raises(FileFormatError, match="opened to read only: open it for writing"):
            study.declare([metric_named("loss")])
    assert path.read_bytes() == content
    assert not path.with_name("a.study.lock").exists()


# ---- network disks --------------------------------------------------------------------------

MOUNTS = """\
proc /proc proc rw 0 0
/dev/sda1 / ext4 rw 0 0
server:/shelf /shelf nfs4 rw 0 0
/dev/sdb1 /shelf/local xfs rw 0 0
//box/share /mnt/with\\040space\\134\\011x cifs rw 0 0
automount /data autofs rw 0 0
server:/data /data nfs rw 0 0
user@host: /far fuse.sshfs rw 0 0
broken line
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/tmp/a.study", "ext4"),
        ("/shelf/me/a.study", "nfs4"),
        ("/shelf/a.study", "nfs4"),
        ("/shelfs/a.study", "ext4"),
        ("/shelf/local/a.study", "xfs"),
        ("/mnt/with space\\\tx/a.study", "cifs"),
        ("/data/a.study", "nfs"),
        ("/far/away/a.study", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_place(tmp_path: Path, place: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert file_system_of(Path(place), mounts) == kind


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert file_system_of(Path("/tmp/a.study"), tmp_path / "missing") == ""


@pytest.fixture
def network_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path.resolve()} nfs4 rw 0 0\n")
    monkeypatch.setattr("mathnas._store.file_system_of", lambda path: file_system_of(path, mounts))
    return tmp_path


def test_a_network_disk_gets_a_rollback_journal_and_a_warning(network_disk: Path) -> None:
    path = network_disk / "a.study"
    with pytest.warns(MathNASWarning, match=r"network file system \(nfs4\).*one machine") as told:
        study = Study(path, SPACE)
    assert [Path(warning.filename).name for warning in told] == ["test_places.py"]
    with study:
        assert study._store.read("PRAGMA journal_mode") == [("delete",)]
        assert study._store.read("PRAGMA synchronous") == [(2,)]
        evaluate(study, NETWORKS, Sums())
        assert not path.with_name("a.study-wal").exists()
    with Study(path, read_only=True) as study:  # no warning for those who only look
        assert len(study) == len(NETWORKS)


def test_a_study_that_moves_to_a_network_disk_is_converted(
    network_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = network_disk / "a.study"
    with monkeypatch.context() as local:
        local.setattr("mathnas._store.file_system_of", lambda path: "ext4")
        with Study(path, SPACE) as study:
            assert study._store.read("PRAGMA journal_mode") == [("wal",)]
            study.add([fact(WANTED)])
        # a killed driver leaves a log
        process = start("drive.py", path, "--last", "5", "--die-at", "COMMIT", cwd=network_disk)
        process.communicate(timeout=30)
        assert path.with_name("a.study-wal").exists()
    with pytest.warns(MathNASWarning, match="rollback journal"):
        study = Study(path)
    assert study._store.read("PRAGMA journal_mode") == [("delete",)]
    assert len(study) == 3
    with pytest.warns(MathNASWarning, match="rollback journal"):
        other = Study(path)  # nothing is locked while nobody writes
    with study, other:
        other.add([fact(WANTED)])
        study.add([fact(WANTED)])
        assert len(study) == len(other) == 5


def test_a_write_that_was_killed_on_a_network_disk_is_undone(network_disk: Path) -> None:
    options = ["--last", 5, "--network-disk"]
    process = start("drive.py", "a.study", *options, "--die-at", "COMMIT", cwd=network_disk)
    process.communicate(timeout=30)
    assert (network_disk / "a.study-journal").exists()
    output, _ = finish(start("drive.py", "a.study", *options, cwd=network_disk))
    assert "4 evaluated" in output
