"""Bundles on machines that ssh reaches: copying, running and fetching through the system's ssh.

Nothing is asked: ssh runs with ``BatchMode``, so keys must be in place (an agent, or
``-o IdentityFile=...``) and the host must be known. On the other side there must be a POSIX shell
and a Python with numpy and onnxruntime.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mathnas._files import replacing
from mathnas.devices.bundle_plan import (
    MANIFEST,
    NOT_WHOLE,
    RESULTS,
    RUNNER,
    Manifest,
    read_bundle,
)
from mathnas.devices.bundle_results import read_results
from mathnas.errors import EvaluationError, InvalidInputError, MissingExtraError

_LOST = 255  # ssh's own exit code: not reached, not let in, or the connection broke
_PATIENCE = ("ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=4")
_HOST = re.compile(
    r"ssh://(?:(?P<user>[\w.][\w.-]*)@)?(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[\w][\w.-]*)"
    r"(?::(?P<port>\d{1,5}))?(?P<path>/[^\0\n]*)?"
)
# what is there: sent to the other Python, whose shell need not quote it
_LOOK = """
import os, sys
print("python", ".".join(map(str, sys.version_info[:3])))
import importlib.util
for name in ("numpy", "onnxruntime"):
    if importlib.util.find_spec(name) is None:
        print("missing", name)
if os.path.exists(os.path.join(sys.argv[1], sys.argv[2])):
    print("bundle")
"""
_UNPACK = (
    "import os,sys,tarfile\n"
    "with tarfile.open(fileobj=sys.stdin.buffer,mode='r|') as files:\n"
    "    for item in files:\n"
    "        path=os.path.join(sys.argv[1],item.name)\n"
    "        if item.name==sys.argv[2] and os.path.exists(path): continue\n"
    "        os.makedirs(os.path.dirname(path),exist_ok=True)\n"
    "        content=files.extractfile(item)\n"
    "        with open(path+'.part','wb') as out:\n"
    "            while True:\n"
    "                piece=content.read(1048576)\n"
    "                if not piece: break\n"
    "                out.write(piece)\n"
    "        os.replace(path+'.part',path)\n"
)


@dataclass(frozen=True, slots=True)
class SshTarget:
    """A machine that ssh reaches.

    Attributes:
        host: its name or address, or what stands for it in ssh's configuration.
        user, port: where they differ from ssh's configuration.
        path: a folder there that bundles go into; by default the user's own.
    """

    host: str
    user: str | None = None
    port: int | None = None
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> SshTarget:
        """Read ``ssh://[user@]host[:port][/path]``.

        Raises:
            InvalidInputError: it is not written so.
        """
        match = _HOST.fullmatch(text)
        port = int(match["port"]) if match and match["port"] else None
        if match is None or (port is not None and not 1 <= port <= 65535):
            raise InvalidInputError(
                f"another machine is written ssh://[user@]host[:port][/path], but got {text!r}."
            )
        path = match["path"]
        return cls(
            match["host"].strip("[]"), match["user"], port, None if path in (None, "/") else path
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"ssh://{user}{host}{port}{self.path or ''}"

    @property
    def file_name(self) -> str:
        """Tells the target from others in the names of files."""
        return re.sub(r"[^\w.-]+", "-", "-".join(filter(None, (self.host, str(self.port or "")))))


def run_over_ssh(
    bundle: str | Path,
    target: SshTarget | str,
    results: str | Path | None = None,
    *,
    python: str = "python3",
    options: Sequence[str] = (),
    arguments: Sequence[str] = (),
    attempts: int = 5,
    pause: float = 5.0,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Copy a bundle to another machine, measure there, and fetch the results.

    What is there already is neither copied nor measured again, so the same call resumes. Where the
    connection breaks, it is made again. Results are fetched whatever happens.

    Args:
        bundle: the bundle's folder here.
        target: ``ssh://[user@]host[:port][/path]``.
        results: where they go; by default ``results-HOST.jsonl`` in the bundle. A file that is
            there must be of the same measurements, of which this call fetches more.
        python: a command there, as the shell there reads it.
        options: for ``ssh -o``, for example ``IdentityFile=key`` or ``UserKnownHostsFile=file``.
        arguments: for ``run.py``, for example ``--threads 4``.
        attempts: connections in which nothing more is measured, at most, before it gives up.
        pause: seconds between them.
        say: is given what the runner and ssh print, line by line; by default standard error.

    Returns:
        Where the results are.

    Raises:
        InvalidInputError: the target cannot be read.
        MissingExtraError: there is no ssh here, or no Python, numpy or onnxruntime there.
        EvaluationError: the machine is not reached or does not let us in, the connection breaks
            again and again, or the runner fails there.
        FileFormatError: the bundle is not whole, or results cannot be written here.
        KeyboardInterrupt: after Ctrl-C, when the results were fetched.
    """
    if attempts < 1:
        raise InvalidInputError(f"attempts are at least 1, but got {attempts}.")
    machine = SshTarget.parse(target) if isinstance(target, str) else target
    folder = Path(bundle)
    _, digest = read_bundle(folder)
    home = f"{machine.path.rstrip('/')}/" if machine.path else ""
    there = _There(
        machine,
        _Connection(machine, options, _to_stderr if say is None else say),
        python,
        f"{home}mathnas-bundle-{digest[:12]}",
    )
    place = Path(results) if results else folder / f"results-{machine.file_name}.jsonl"
    tries = 0
    while True:
        before = place.stat().st_size if place.is_file() else 0
        try:
            if not there.look():
                there.copy(folder, place)
            try:
                if not there.measure(arguments):
                    there.copy(folder, place)
                    there.measure(arguments)
            except BaseException:
                # in vain where nothing is reached; then what went wrong before is said
                with contextlib.suppress(_LostError):
                    there.fetch(place, digest)
                raise
            there.fetch(place, digest)
            return place
        except _LostError as error:
            more = place.is_file() and place.stat().st_size > before
            tries = 1 if more else tries + 1
            if error.final or tries >= attempts:
                raise EvaluationError(
                    f"{error} What was measured stays in {there.folder} on {machine}; "
                    "the same command goes on from there."
                ) from error
            there.say(f"{error} Trying again in {pause:g} s ...")
            time.sleep(pause)


class _LostError(Exception):
    """ssh did not get through; `final` where trying again is in vain."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True)
class _Connection:
    """Runs commands on the other machine."""

    machine: SshTarget
    options: Sequence[str]
    say: Callable[[str], None]

    def run(
        self, command: str, *, feed: Callable[[io.BufferedIOBase], None] | None = None
    ) -> tuple[int, bytes, list[str]]:
        """Run a command; its exit code, what it wrote, and the lines of its standard error, which
        are passed on as they come.

        Args:
            feed: writes the command's standard input.

        Raises:
            _LostError: ssh failed, not the command.
        """
        process = subprocess.Popen(
            [*self._ssh(), command],
            stdin=subprocess.DEVNULL if feed is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        lines: list[str] = []
        written: list[bytes] = []
        listening = [
            threading.Thread(target=self._listen, args=(process.stderr, lines), daemon=True),
            threading.Thread(target=_collect, args=(process.stdout, written), daemon=True),
        ]
        try:
            for thread in listening:
                thread.start()
            if feed is not None:
                assert isinstance(process.stdin, io.BufferedIOBase)
                # where the other side ends first, its exit code and its words say why
                with contextlib.suppress(BrokenPipeError):
                    feed(process.stdin)
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            code = process.wait()
            for thread in listening:
                thread.join()
        except BaseException:  # Ctrl-C: ssh goes, and with it what it runs
            process.kill()
            process.wait()
            raise
        if code == _LOST:
            raise self._lost(lines)
        return code, b"".join(written), lines

    def _ssh(self) -> list[str]:
        ssh = shutil.which("ssh")
        if ssh is None:
            raise MissingExtraError(
                "measuring on another machine needs ssh, but there is no ssh on the PATH: install "
                "an OpenSSH client, or copy the bundle by other means and run it there."
            )
        # ssh takes the first value of an option, so that of the user
        given = [part for option in self.options for part in ("-o", option)]
        ours = [part for option in ("BatchMode=yes", *_PATIENCE) for part in ("-o", option)]
        port = ["-p", str(self.machine.port)] if self.machine.port else []
        user = ["-l", self.machine.user] if self.machine.user else []
        return [ssh, "-T", *given, *ours, *port, *user, "--", self.machine.host]

    def _listen(self, stream: io.BufferedIOBase, lines: list[str]) -> None:
        for raw in stream:
            line = raw.decode(errors="replace").rstrip()
            lines.append(line)
            self.say(line)

    def _lost(self, lines: Sequence[str]) -> _LostError:
        said = "\n".join(lines)
        last = next((line for line in reversed(lines) if line.strip()), "the connection broke")
        where = str(self.machine)
        if "Host key verification failed" in said or "IDENTIFICATION HAS CHANGED" in said:
            return _LostError(
                f"the host key of {where} is not known or not the known one: connect once with ssh "
                "yourself and compare it, or add --ssh-option UserKnownHostsFile=FILE.",
                final=True,
            )
        if "Permission denied" in said or "Too many authentication failures" in said:
            return _LostError(
                f"{where} does not let us in ({last}): nothing is asked, so put your public key "
                "there (ssh-copy-id), or name a key with --ssh-option IdentityFile=FILE.",
                final=True,
            )
        if "Could not resolve" in said or "Bad configuration option" in said:
            return _LostError(f"{where} is not reached ({last}): see its spelling.", final=True)
        return _LostError(f"the connection to {where} is not there, or broke ({last}).")


@dataclass(frozen=True)
class _There:
    """A bundle on the other machine.

    Attributes:
        folder: where it is there.
    """

    machine: SshTarget
    connection: _Connection
    python: str
    folder: str

    @property
    def say(self) -> Callable[[str], None]:
        return self.connection.say

    def look(self) -> bool:
        """Whether a bundle is there.

        Raises:
            MissingExtraError: what it needs is not.
        """
        code, written, lines = self.connection.run(
            f"{self.python} - {shlex.quote(self.folder)} {MANIFEST}", feed=_text(_LOOK)
        )
        found = [line.split() for line in written.decode(errors="replace").splitlines()]
        missing = [words[1] for words in found if words[:1] == ["missing"]]
        version = next((words[1] for words in found if words[:1] == ["python"]), "")
        if version and tuple(map(int, version.split(".")[:2])) < (3, 10):
            raise MissingExtraError(
                f"measuring on {self.machine} needs Python 3.10 or newer there, but {self.python} "
                f"is {version}: name another with --python."
            )
        if code or not version:
            raise MissingExtraError(
                f"measuring on {self.machine} needs Python 3.10 or newer there, but {self.python} "
                f"cannot be run ({_last(lines, f'exit code {code}')}): install it, or name another "
                "with --python."
            )
        if missing:
            raise MissingExtraError(
                f"measuring on {self.machine} needs {' and '.join(missing)} there: run\n"
                f"    {self.python} -m pip install {' '.join(missing)}\n"
                "on it, or name a Python that has them with --python."
            )
        return ["bundle"] in found

    def copy(self, bundle: Path, results: Path) -> None:
        """Copy a bundle there, and results that were fetched before, in case they are gone."""
        self.say(f"copying {bundle} to {self.machine} ...")
        code, _, lines = self.connection.run(
            f"{self.python} -c {shlex.quote(_UNPACK)} {shlex.quote(self.folder)} {RESULTS}",
            feed=lambda stream: _pack(bundle, results, stream),
        )
        if code:
            raise EvaluationError(
                f"{bundle} cannot be copied to {self.folder} on {self.machine}: "
                f"{_last(lines, f'exit code {code}')}."
            )

    def measure(self, arguments: Sequence[str]) -> bool:
        """Run the bundle; False where it is not whole there.

        Raises:
            EvaluationError: the runner failed.
        """
        command = f"cd {shlex.quote(self.folder)} && {self.python} {RUNNER}"
        code, _, lines = self.connection.run(" ".join([command, *map(shlex.quote, arguments)]))
        if code == NOT_WHOLE:
            return False
        if code:
            raise EvaluationError(
                f"the runner on {self.machine} ended with {code} "
                f"({_last(lines, 'it said nothing')}). What was measured is fetched; the same "
                "command goes on from there."
            )
        return True

    def fetch(self, results: Path, digest: str) -> None:
        """Bring the results here.

        Raises:
            FileFormatError: other results are there already, or they cannot be written.
        """
        place = shlex.quote(f"{self.folder}/{RESULTS}")
        code, content, lines = self.connection.run(f"test ! -e {place} || cat {place}")
        if code:
            raise EvaluationError(
                f"results cannot be fetched from {self.folder} on {self.machine}: "
                f"{_last(lines, f'exit code {code}')}."
            )
        if not content:
            return
        if results.is_file():
            whole = results.read_bytes().rpartition(b"\n")[0]
            if not content.startswith(whole):
                results, other = _free(results), results
                self.say(
                    f"warning: {other} holds other measurements than {self.machine} now has, so "
                    f"these go to {results}."
                )
        with replacing(results) as temporary:
            temporary.write_bytes(content)
        read_results(results, digest)


def _pack(bundle: Path, results: Path, stream: io.BufferedIOBase) -> None:
    """A tar of a bundle and of its results; the manifest comes last, so where it is all is."""
    with tarfile.open(fileobj=stream, mode="w|") as file:
        if results.is_file():
            file.add(results, RESULTS)
        for name in (*Manifest.load(bundle).files, MANIFEST):
            file.add(bundle / name, name)


def _text(text: str) -> Callable[[io.BufferedIOBase], None]:
    def feed(stream: io.BufferedIOBase) -> None:
        stream.write(text.encode())

    return feed


def _collect(stream: io.BufferedIOBase, into: list[bytes]) -> None:
    into.extend(_pieces(stream))


def _pieces(stream: io.BufferedIOBase) -> Iterator[bytes]:
    while piece := stream.read(2**16):
        yield piece


def _last(lines: Sequence[str], otherwise: str) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), otherwise)


def _free(path: Path) -> Path:
    """A name like `path` that no file has."""
    number = 2
    while (other := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return other


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
