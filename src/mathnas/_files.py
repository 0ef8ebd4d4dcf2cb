"""Files that are replaced whole or not at all, and what tells their content.

Kept free of dependencies: spaces and tables are written on devices that have numpy alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mathnas.errors import FileFormatError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PIECE = 2**20


@contextmanager
def replacing(path: Path, *failures: type[Exception]) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix, that takes its place when the block ends.

    A crash, a full disk or an error in the block leaves what was there before. What was written is
    on the disk before it takes the place.

    Args:
        failures: what a writer raises, besides OSError, where it cannot write.

    Raises:
        FileFormatError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    unwritten: tuple[type[Exception], ...] = (OSError, *failures)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except unwritten as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise FileFormatError(
            f"{path} cannot be written: {reason}. What was there is unchanged; "
            f"{'free some space or ' * (number is None or number in _NO_SPACE)}name another place."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a new name in `folder` survive power loss, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal.

    Raises:
        FileFormatError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()
