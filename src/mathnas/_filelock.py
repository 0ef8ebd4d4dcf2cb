"""An advisory lock on a file, held by one process at a time and freed by the system if it dies."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType

from mathnas.errors import FileFormatError


class FileLock:
    """Exclusive between processes and between the holders of one process.

    Use it as a context manager. It is not re-entrant. `waiting` is said on standard error where
    the lock is not had within two seconds.

    Raises:
        FileFormatError: the lock file cannot be made, or the lock is not had within `timeout`.
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
                "A study needs a folder that can be written."
            ) from error
        start = time.monotonic()
        pause = 0.0005
        waiting = self.waiting
        while not _try_lock(handle):
            if waiting and time.monotonic() > start + 2.0:
                print(waiting, file=sys.stderr)
                waiting = ""
            if time.monotonic() > start + self.timeout:
                os.close(handle)
                raise FileFormatError(
                    f"the lock {self.path} is held by another process for {self.timeout:g} s: "
                    "wait for it, or end it."
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        self._handle = handle
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            _unlock(self._handle)
            os.close(self._handle)
            self._handle = None


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
