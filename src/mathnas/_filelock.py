"""An advisory lock on a file, held by one process at a time and freed by the system if it dies."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType

from mathnas.errors import FileFormatError


class FileLock:
    """Exclusive between processes, threads and any two locks of one process.

    Use it as a context manager. It is not re-entrant. `waiting` is said on standard error where
    the lock is not had within two seconds.

    Raises:
        FileFormatError: the lock file cannot be made, the file system has no locks, or the lock is
            not had within `timeout`.
    """

    def __init__(self, path: Path, timeout: float = 60.0, waiting: str = "") -> None:
        self.path = path
        self.timeout = timeout
        self.waiting = waiting
        self._handle: int | None = None

    def __enter__(self) -> FileLock:
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise FileFormatError(
                f"the lock {self.path} cannot be opened: {error.strerror}. "
                "Name a file in a folder that exists and can be written."
            ) from error
        try:
            self._acquire(handle)
        except BaseException:  # Ctrl-C too: a handle left open would keep the lock
            os.close(handle)
            raise
        self._handle = handle
        return self

    def _acquire(self, handle: int) -> None:
        start = time.monotonic()
        pause = 0.0005
        waiting = self.waiting
        while not self._try(handle):
            if waiting and time.monotonic() > start + 2.0:
                print(waiting, file=sys.stderr)
                waiting = ""
            if time.monotonic() > start + self.timeout:
                raise FileFormatError(
                    f"the lock {self.path} is held by another process for {self.timeout:g} s: "
                    "wait for it, or end it."
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def _try(self, handle: int) -> bool:
        try:
            return _try_lock(handle)
        except OSError as error:
            raise FileFormatError(
                f"the lock {self.path} cannot be had: {error.strerror}. A study needs a file "
                "system with file locks: name a place on a local disk."
            ) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # forget the handle first: once unlocked, another thread may put its own here
        handle, self._handle = self._handle, None
        if handle is not None:
            _unlock(handle)
            os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)
