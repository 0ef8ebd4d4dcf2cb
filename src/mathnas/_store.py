"""One SQLite file in which what was written stays, whoever is killed and whatever disk is full.

The rules that keep rows safe:

- Only driver processes write. Every write and every checkpoint happens under a lock file beside the
  store, so two drivers may share it (SQLite before 3.51.3 has a rare race when two connections
  reset the write-ahead log).
- ``synchronous=FULL``: a finished write survives SIGKILL and power loss.
- The write-ahead log needs shared memory, which network file systems lack: there a rollback journal
  serves.
- A new store is made beside its place and moved there whole: a kill leaves all of it or none.
- Opening looks before it may write: a file that is refused stays as it is, to the last byte.
- Nothing but SQLite opens the file: on POSIX systems, closing another handle of it in this process
  would drop the locks of a connection that is open already, and the next process to close would
  delete the log that this one still writes to.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from mathnas._filelock import FileLock
from mathnas._files import sync_folder
from mathnas.errors import FileFormatError, MathNASWarning

STUDY_VERSION = 2
_APPLICATION_ID = 0x6D4E4153  # "mNAS"
_NETWORK_FILE_SYSTEMS = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs"),
        *("glusterfs", "orangefs", "wekafs", "drvfs", "vboxsf", "prl_fs", "davfs", "ncpfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse"),
        *("fuse.juicefs", "fuse.goofys", "fuse.davfs2"),
    )
)
_T = TypeVar("_T")


class Store:
    """Opens the SQLite file of a study, or creates it.

    May be used by several threads; several may be open on one file.

    Args:
        path: the file, as it is named in messages.
        fill: writes the tables of a new store; None where a missing one is not to be created.
        read_only: never write, lock or create.

    Raises:
        FileFormatError: the file is damaged, foreign, newer, missing or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        fill: Callable[[sqlite3.Connection], None] | None,
        *,
        read_only: bool = False,
    ) -> None:
        self.path = path
        self.read_only = read_only
        # the place itself, whatever becomes of the working directory or of a symbolic link
        self.place = Path(os.path.realpath(path))
        self._lock = FileLock(self._beside(".lock"))
        self._mutex = threading.RLock()
        self._file_system = file_system_of(self.place)
        self._networked = self._file_system in _NETWORK_FILE_SYSTEMS
        if not self._exists() and (read_only or fill is None):
            raise FileFormatError(
                f"there is no study {path}: "
                + ("check the path." if read_only else "give a search space to create it.")
            )
        self._log_was_there = self._beside("-wal").exists()
        if read_only:
            self._connection = self._opened("ro")
        else:
            self._connection = self._opened_to_write(fill)
        self._opened_file = self._identity()
        lock = None if read_only else self._lock
        self._closing = weakref.finalize(self, _close_quietly, self._connection, lock, os.getpid())

    # ---- use --------------------------------------------------------------------------------

    def read(
        self,
        query: str,
        parameters: Sequence[object] = (),
        decode: Callable[..., Any] | None = None,
    ) -> list[Any]:
        """The rows of a query; `decode` makes something of the columns of each.

        Raises:
            FileFormatError: the file cannot be read, or a row cannot be decoded.
        """

        def rows() -> list[Any]:
            found = self._run(self._connection, query, parameters)
            return found if decode is None else [decode(*row) for row in found]

        return self.guard(rows)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction under the lock: all of it is written, or nothing.

        Raises:
            FileFormatError: it cannot be written, or the file was moved or deleted.
        """
        if self.read_only:
            raise FileFormatError(f"{self.path} was opened to read only: open it for writing.")
        with self._mutex, self._lock:
            if self._identity() != self._opened_file:
                # SQLite would go on writing to a file that has no name any more
                raise FileFormatError(
                    f"{self.path} was moved, deleted or replaced while it was open: put it back, "
                    "or open the study again."
                )
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                # none is open where it was not begun, was finished, or a full disk rolled it back
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise self._error(error) from error
                raise

    @property
    def version(self) -> int:
        """The file's version; another program may raise it while the file is open.

        Raises:
            FileFormatError: the file cannot be read.
        """
        return int(self.read("PRAGMA user_version")[0][0])

    def upgrade(self, steps: Mapping[int, str]) -> None:
        """Bring an older file to `STUDY_VERSION`, in one transaction; a kill leaves the old one.

        Args:
            steps: for each version but the newest, the statements that lead to the next.

        Raises:
            FileFormatError: it cannot be written.
        """
        if self.version == STUDY_VERSION:
            return
        with self.writing() as connection:
            # read again: another driver may have been faster
            for version in range(self.version, STUDY_VERSION):
                for statement in steps[version].split(";"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version={STUDY_VERSION}")

    def close(self) -> None:
        """Close the file; the last one to close moves the log into it.

        A store that is not closed is closed when it is forgotten or the program ends.
        """
        if self._closing.detach() is None:
            return  # closed already
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._mutex)
            if not self.read_only:
                # without its folder there is nothing to lock, and nothing to move
                with contextlib.suppress(FileFormatError):
                    stack.enter_context(self._lock)
            self.guard(self._connection.close)
            if self.read_only and not self._log_was_there:
                self._tidy()

    def warn_of_network(self, stacklevel: int) -> None:
        """Say so where the file is on a network file system."""
        if self._networked and not self.read_only:
            warnings.warn(
                f"{self.path} is on a network file system ({self._file_system}): SQLite's "
                "write-ahead log does not work there, so a rollback journal is used. Write from "
                "one machine at a time.",
                MathNASWarning,
                stacklevel=stacklevel + 1,
            )

    def guard(self, action: Callable[[], _T]) -> _T:
        """Do it; what SQLite says, and what a damaged row does, becomes our error."""
        try:
            return action()
        except OSError as error:
            raise FileFormatError(
                f"{self.path} cannot be read: {error.strerror or error}."
            ) from error
        except (sqlite3.Error, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise self._error(error) from error

    def damaged(self, what: str) -> FileFormatError:
        return FileFormatError(
            f"{self.path} is damaged or not a study ({what}). Nothing was changed; restore it from "
            "a copy, or save the rows of a damaged file with `sqlite3 FILE .recover`."
        )

    # ---- opening ----------------------------------------------------------------------------

    def _exists(self) -> bool:
        """Whether a file is there; `FileFormatError` where it cannot be a study."""
        try:
            found = self.place.stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FileFormatError(
                f"{self.path} cannot be read: {error.strerror or error}."
            ) from error
        if not stat.S_ISREG(found.st_mode):
            raise FileFormatError(f"{self.path} is not a file: name a file for the study.")
        if found.st_size == 0:
            raise FileFormatError(
                f"{self.path} is empty, and a study never is: restore it from a copy, or delete it "
                "to begin anew."
            )
        return True

    def _opened_to_write(
        self, fill: Callable[[sqlite3.Connection], None] | None
    ) -> sqlite3.Connection:
        looked = False
        if not self._exists():
            self._make_folder()
        elif not self._networked and not self._beside("-journal").exists():
            # Closing a writer moves a log that a kill left behind into the file. So look first as a
            # reader, which changes nothing; but a reader cannot undo a rollback journal.
            self._opened("ro").close()
            looked = True
        with self._lock:
            if fill is not None and not self._exists():  # no other driver was faster
                self._create(fill)
            return self._opened("rw", checked=looked)

    def _opened(self, mode: Literal["ro", "rw"], *, checked: bool = False) -> sqlite3.Connection:
        def opened() -> sqlite3.Connection:
            # autocommit: transactions are begun by `writing`; threads share it under the mutex
            connection = sqlite3.connect(
                self._uri(mode),
                timeout=60.0,
                isolation_level=None,
                uri=True,
                check_same_thread=False,
            )
            try:
                if mode == "rw" and self._networked:
                    # SQLite then needs no shared memory to read a write-ahead log and end it
                    self._run(connection, "PRAGMA locking_mode=EXCLUSIVE")
                if not checked:
                    self._check(connection)
                if mode == "rw":
                    self._prepare_to_write(connection)
            except BaseException:
                connection.close()
                raise
            return connection

        return self.guard(opened)

    def _uri(self, mode: str) -> str:
        place = quote(os.fsencode(self.place.as_posix()))
        uri = f"file://{'' if place.startswith('/') else '/'}{place}?mode={mode}"
        if mode == "rw" or os.access(self.place.parent, os.W_OK):
            return uri
        log, index = self._beside("-wal"), self._beside("-shm")
        if log.exists() and index.exists():
            return uri
        if _holds_something(log):
            raise FileFormatError(
                f"the newest evaluations of {self.path} are in {log.name}, which cannot be read in "
                "a folder without write permission: copy both files elsewhere and open the copy."
            )
        # SQLite cannot make an index here, and without a log needs none: `immutable` says so
        return f"{uri}&immutable=1"

    def _check(self, connection: sqlite3.Connection) -> None:
        """That the file is ours, and whole."""
        application = self._run(connection, "PRAGMA application_id")[0][0]
        version = self._run(connection, "PRAGMA user_version")[0][0]
        if application != _APPLICATION_ID:
            raise FileFormatError(
                f"{self.path} is an SQLite file of another program, not a study: name another file."
            )
        if version > STUDY_VERSION:
            raise FileFormatError(
                f"{self.path} has study version {version}, but this mathnas reads up to "
                f"{STUDY_VERSION}: upgrade mathnas."
            )
        # SQLite reads zeros after the end; a write that a full disk cut is whole in the log
        page = self._run(connection, "PRAGMA page_size")[0][0]
        if self.place.stat().st_size % page and not _holds_something(self._beside("-wal")):
            raise self.damaged("its end is cut off")
        # the structure of the file, not every value: 50 ms for 100,000 evaluations
        problem = str(self._run(connection, "PRAGMA quick_check(1)")[0][0])
        if problem != "ok":
            raise self.damaged(" ".join(problem.split()))

    def _prepare_to_write(self, connection: sqlite3.Connection) -> None:
        for statement in (
            "PRAGMA synchronous=FULL",
            "PRAGMA fullfsync=1",  # on macOS a plain fsync leaves data in the drive's cache
            f"PRAGMA journal_mode={'DELETE' if self._networked else 'WAL'}",
            "PRAGMA locking_mode=NORMAL",
            # a file without write permission says so now, not after the first evaluation
            "BEGIN IMMEDIATE",
            f"PRAGMA user_version={STUDY_VERSION}",
            "ROLLBACK",
        ):
            self._run(connection, statement)

    def _make_folder(self) -> None:
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileFormatError(
                f"the folder of {self.path} cannot be made: {error.strerror or error}."
            ) from error

    def _create(self, fill: Callable[[sqlite3.Connection], None]) -> None:
        """A new store under another name, then moved to its place."""
        for left in (self._beside("-wal"), self._beside("-journal")):
            if _holds_something(left):
                raise FileFormatError(
                    f"{self.path} is gone, but {left.name} with rows of it is there: put the study "
                    "back beside it, or delete that file too to begin anew."
                )
        draft = self.place.with_name(f".{self.place.name}.{os.getpid()}.new")
        try:
            draft.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as connection:
                connection.execute("BEGIN")
                fill(connection)
                connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version={STUDY_VERSION}")
                connection.execute("COMMIT")
            os.replace(draft, self.place)
            sync_folder(self.place.parent)
        except sqlite3.Error as error:
            raise self._error(error) from error
        except OSError as error:
            raise FileFormatError(
                f"{self.path} cannot be made: {error.strerror or error}. Free some space, or name "
                "another place."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Have SQLite remove the empty log and the index that it made in order to read."""
        log, lock = self._beside("-wal"), self._beside(".lock")
        if not log.exists() or _holds_something(log) or not lock.exists():
            return
        if os.access(self.place, os.W_OK):
            with contextlib.suppress(FileFormatError), self._lock:
                self._opened("rw", checked=True).close()

    # ---- inside -----------------------------------------------------------------------------

    def _beside(self, ending: str) -> Path:
        return self.place.with_name(self.place.name + ending)

    def _identity(self) -> tuple[int, int] | None:
        """What tells this file from another one at its place; None where nothing is there."""
        try:
            found = self.place.stat()
        except OSError:
            return None
        # network file systems may number a file anew
        return (0, 0) if self._networked else (found.st_dev, found.st_ino)

    def _run(
        self, connection: sqlite3.Connection, query: str, parameters: Sequence[object] = ()
    ) -> list[Any]:
        with self._mutex:
            return connection.execute(query, parameters).fetchall()

    def _error(self, error: Exception) -> FileFormatError:
        text = str(error).rstrip(".")
        if not isinstance(error, sqlite3.Error):
            return self.damaged(text)
        if "closed" in text:
            return FileFormatError(f"the study {self.path} is closed: open it again.")
        if "full" in text or "disk I/O" in text:
            return FileFormatError(
                f"{self.path} cannot be written ({text}): free some space on its disk and run the "
                "same command again. What was stored before is unharmed."
            )
        if "locked" in text or "busy" in text:
            return FileFormatError(
                f"{self.path} is in use by another program ({text}): end that program, or wait for "
                "it, and run the same command again."
            )
        if "readonly" in text or "unable to open" in text:
            return FileFormatError(
                f"{self.path} cannot be opened or written ({text}): check the permissions of the "
                "file and its folder, or open the study read-only."
            )
        return self.damaged(text)


def file_system_of(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the file system that holds `path`; empty where the system does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    target = str(path.absolute().parent.resolve())
    best, kind = -1, ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = fields[1]
        for character in " \t\n\\":
            place = place.replace(f"\\{ord(character):03o}", character)
        inside = target == place or target.startswith(place.rstrip("/") + "/")
        # of several at one place, the last was mounted over the others
        if inside and len(place) >= best:
            best, kind = len(place), fields[2]
    return kind


def _holds_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _close_quietly(connection: sqlite3.Connection, lock: FileLock | None, opener: int) -> None:
    """Close a forgotten store, its checkpoint under the lock as every other."""
    if os.getpid() != opener:
        return  # a forked child: the file is its parent's
    with contextlib.ExitStack() as stack, contextlib.suppress(FileFormatError, sqlite3.Error):
        if lock is not None:
            stack.enter_context(lock)
        connection.close()
