"""The file lock: one holder at a time, whoever it is and however it ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mathnas import FileFormatError, _filelock
from mathnas._filelock import FileLock

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from mathnas._filelock import FileLock\n"
    "with FileLock(Path('a.lock')):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.readline()\n"
)


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_waits(tmp_path: Path) -> None:
    process = holder(tmp_path)
    lock = FileLock(tmp_path / "a.lock", timeout=0.2)
    with pytest.raises(FileFormatError, match=r"held by another process for 0\.2 s: wait.*or end"):
        lock.__enter__()
    process.communicate("go on\n", timeout=30)
    with lock:
        pass


def test_a_holder_that_is_killed_frees_the_lock(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.kill()
    process.communicate(timeout=30)
    with FileLock(tmp_path / "a.lock", timeout=5):
        pass


def test_two_locks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / "a.lock"),
        pytest.raises(FileFormatError, match="is held"),
        FileLock(tmp_path / "a.lock", timeout=0.1),
    ):
        pass


def test_threads_with_one_lock_take_turns(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "a.lock")
    inside: list[int] = []
    most: list[int] = []
    handles = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0

    def work() -> None:
        for _ in range(50):
            with lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 200
    assert set(most) == {1}
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == handles


def test_waiting_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = holder(tmp_path)
    threading.Timer(2.5, lambda: process.communicate("go on\n")).start()
    begin = time.monotonic()
    with FileLock(tmp_path / "a.lock", waiting="waiting for the other ..."):
        assert time.monotonic() - begin > 2
    assert capsys.readouterr().err == "waiting for the other ...\n"


def test_ctrl_c_while_waiting_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    lock = FileLock(tmp_path / "a.lock")
    with FileLock(tmp_path / "a.lock"), monkeypatch.context() as patch:
        patch.setattr("mathnas._filelock.time.sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lock.__enter__()
    with lock:
        pass


def test_a_lock_that_is_had_while_ctrl_c_comes_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _filelock._try_lock

    def interrupted(handle: int) -> bool:
        assert real(handle)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_filelock, "_try_lock", interrupted)
        with pytest.raises(KeyboardInterrupt):
            FileLock(tmp_path / "a.lock").__enter__()
    with FileLock(tmp_path / "a.lock", timeout=0.1):
        pass


def test_an_error_inside_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), FileLock(tmp_path / "a.lock"):
        raise RuntimeError
    with FileLock(tmp_path / "a.lock", timeout=0.1):
        pass


def test_a_file_system_without_locks_is_named_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(_filelock, "_try_lock", refuse)
    with pytest.raises(FileFormatError, match=r"cannot be had: No locks available.*local disk"):
        FileLock(tmp_path / "a.lock").__enter__()


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"cannot be opened: No such file.*can be written"):
        FileLock(tmp_path / "none" / "a.lock").__enter__()
