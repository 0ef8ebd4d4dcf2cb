"""What the reliability tests share: spaces, evaluators that workers can import, subprocesses."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from mathnas import (
    Block,
    BlockNode,
    Evaluation,
    Evaluator,
    MathNASError,
    Measurement,
    Network,
    SearchSpace,
    Study,
    metric_named,
)

SCRIPTS = Path(__file__).parent / "scripts"
_T = TypeVar("_T")


def space_of(nodes: int = 4, blocks: int = 5, name: str = "small") -> SearchSpace:
    return SearchSpace(
        [
            BlockNode(f"node{i}", tuple(Block(f"b{j}", macs=1e6 * (j + 1)) for j in range(blocks)))
            for i in range(nodes)
        ],
        name=name,
    )


def fact(network: Network, value: float = 1.0, metric: str = "latency_ms") -> Evaluation:
    return Evaluation(network, metric, Measurement(value), 7, {"device": "desk"}, 1.7e9)


def networks_in(study: Study) -> Counter[Network]:
    return Counter(found.network for found in study.evaluations())


# ---- evaluators -----------------------------------------------------------------------------


class Sums(Evaluator):
    """Latency is the sum of the block indices; or what the fields say."""

    metrics = (metric_named("latency_ms"),)

    def __init__(
        self,
        *,
        nap: float = 0.0,
        threads: int = 1,
        batch_size: int = 1,
        kills: Network | None = None,
        raises: Network | None = None,
    ) -> None:
        self.nap = nap
        self.threads = threads
        self.batch_size = batch_size
        self.kills = kills
        self.raises = raises

    def evaluate(self, network: Network, seed: int) -> Mapping[str, Measurement | float]:
        time.sleep(self.nap)
        if network == self.raises:
            raise RuntimeError("no such luck")
        if network == self.kills:
            os.kill(os.getpid(), 9)
        return {"latency_ms": float(sum(network))}


class Seeds(Evaluator):
    """The value is the seed."""

    metrics = (metric_named("loss"),)

    def evaluate(self, network: Network, seed: int) -> Mapping[str, Measurement | float]:
        return {"loss": float(seed)}


class Threads(Evaluator):
    """The values are what the numerical libraries would read in this process."""

    metrics = (metric_named("latency_ms_omp"), metric_named("latency_ms_blas"))

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def evaluate(self, network: Network, seed: int) -> Mapping[str, Measurement | float]:
        time.sleep(0.01)  # so that both workers get some
        return {
            "latency_ms_omp": float(os.environ["OMP_NUM_THREADS"]),
            "latency_ms_blas": float(os.environ["OPENBLAS_NUM_THREADS"]),
        }


class Returns(Evaluator):
    """Returns what it was given, whatever that is."""

    metrics = (metric_named("latency_ms"),)

    def __init__(self, value: object) -> None:
        self.value = value

    def evaluate(self, network: Network, seed: int) -> Mapping[str, Measurement | float]:
        return self.value  # type: ignore[return-value]


# ---- files ----------------------------------------------------------------------------------


def check_intact(path: Path, scratch: Path) -> None:
    """SQLite finds nothing wrong with a copy; the study itself stays as the kill left it."""
    copy = scratch / "copy.study"
    for ending in ("", "-wal", "-shm", "-journal"):
        copied = copy.with_name(copy.name + ending)
        copied.unlink(missing_ok=True)
        original = path.with_name(path.name + ending)
        if original.exists() and ending != "-shm":
            shutil.copyfile(original, copied)
    connection = sqlite3.connect(copy)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


def stored_in_copy(path: Path, scratch: Path) -> Counter[Network]:
    """What a study holds, read from a copy that `check_intact` made."""
    with Study(scratch / "copy.study", read_only=True) as study:
        return networks_in(study)


def files_beside(path: Path) -> dict[str, bytes]:
    """Every file of a folder, with its content."""
    return {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}


# ---- processes ------------------------------------------------------------------------------


def start(script: str, *arguments: object, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a script in a process group of its own, as a shell does."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / script), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 60.0) -> tuple[str, str]:
    """Its output and errors, after a successful end."""
    output, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors
    return output, errors


def wait_for(condition: Callable[[], _T], seconds: float = 30.0) -> _T:
    """The first true value of `condition`."""
    limit = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < limit, f"not within {seconds} s"
        time.sleep(0.005)


def processes_of_session(session: int) -> list[int]:
    """The processes that a session still has (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def in_child(action: Callable[[], object], *, unprivileged: bool = False) -> str:
    """What `action` returns, or the error it raises, as text, in a forked process.

    `unprivileged` takes the powers of root away first, which overlook permissions.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if unprivileged and os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            answer = f"{action()}"
        except MathNASError as error:
            answer = f"{type(error).__name__}: {error}"
        except BaseException as error:
            answer = f"unexpected {error!r}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def numbers(text: str) -> Network:
    return tuple(map(int, text.split(",")))


def mounted(folder: Path, options: str, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Mount a memory file system on `folder`, or skip; returns a function that remounts it."""

    def mount(*arguments: str) -> bool:
        try:
            done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True)
        except OSError:
            return False
        return done.returncode == 0

    folder.mkdir(exist_ok=True)
    if not mount("-t", "tmpfs", "-o", options, "tmpfs"):
        pytest.skip("file systems cannot be mounted here")
    request.addfinalizer(lambda: subprocess.run(["umount", "-l", str(folder)], check=False))

    def remount(changed: str) -> None:
        assert mount("-o", f"remount,{changed}")

    return remount


def all_of(space: SearchSpace, count: int) -> Sequence[Network]:
    """The first networks of a space."""
    return [tuple(row) for row in space.networks_at(range(count)).tolist()]
