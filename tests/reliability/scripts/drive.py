"""A driver to be killed: evaluates networks and keeps its own account beside the study.

Two logs, each line written at once and forced to disk:

- ``calls``: ``begin NETWORK`` and ``end NETWORK``, by the evaluator;
- ``stored``: a network when `Study.add` has returned to the driver.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reliability_cases import all_of, space_of

from mathnas import (
    Evaluation,
    Evaluator,
    Failure,
    Measurement,
    Network,
    Study,
    evaluate,
    metric_named,
)


def note(path: Path, line: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, f"{line}\n".encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def text_of(network: Network) -> str:
    return ",".join(map(str, network))


class Logged(Evaluator):
    metrics = (metric_named("latency_ms"), metric_named("accuracy"))

    def __init__(self, log: Path, nap: float) -> None:
        self.log = log
        self.nap = nap

    def evaluate(self, network: Network, seed: int) -> Mapping[str, Measurement | float]:
        note(self.log, f"begin {text_of(network)}")
        time.sleep(random.Random(seed).uniform(0.5, 1.5) * self.nap)
        note(self.log, f"end {text_of(network)}")
        return {"latency_ms": float(sum(network)), "accuracy": float(seed)}


class Watched(Study):
    """Tells when evaluations are stored."""

    log = Path("stored")

    def add(self, evaluations: Iterable[Evaluation], failures: Iterable[Failure] = ()) -> None:
        facts = list(evaluations)
        super().add(facts, failures)
        for network in {fact.network for fact in facts}:
            note(self.log, text_of(network))


def die_at(study: Watched, moment: str) -> None:
    """Kill this process when SQLite is about to run a statement that starts with `moment`."""

    def look(statement: str) -> None:
        # not before a first evaluation is there
        if statement.startswith(moment) and study.log.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    study._store._connection.set_trace_callback(look)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, required=True)
    parser.add_argument("--nap", type=float, default=0.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--calls", type=Path, default=Path("calls"))
    parser.add_argument("--stored", type=Path, default=Path("stored"))
    parser.add_argument("--die-at", default="")
    parser.add_argument("--checkpoint-always", action="store_true")
    parser.add_argument("--network-disk", action="store_true")
    arguments = parser.parse_args()
    if arguments.network_disk:
        import warnings

        import mathnas._store

        warnings.simplefilter("ignore")
        setattr(mathnas._store, "file_system_of", lambda path: "nfs4")  # noqa: B010
    space = space_of()
    study = Watched(arguments.study, space)
    with study:
        study.log = arguments.stored
        if arguments.checkpoint_always:
            study._store.read("PRAGMA wal_autocheckpoint=1")
        if arguments.die_at:
            die_at(study, arguments.die_at)
        networks = all_of(space, arguments.last)[arguments.first :]
        print("evaluating")
        try:
            report = evaluate(
                study,
                networks,
                Logged(arguments.calls, arguments.nap),
                workers=arguments.workers,
            )
        except KeyboardInterrupt:
            print(f"interrupted with {len(study)}")
            return
        print(report)


if __name__ == "__main__":
    main()
