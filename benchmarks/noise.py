"""What a busy neighbour does to latencies: to absolute ones, and to those that are relative to a
reference network timed beside (MobileNetV3 for small images, ONNX Runtime, one thread, one image).

    python benchmarks/noise.py

This process stays on one core. The neighbour is another process that does nothing but work, on the
next core or on the same one: *arithmetic* multiplies matrices that fit into its own cache, *memory*
copies arrays that fit into none; on the next core also with pauses, so that it works a quarter of
the time, which is what the rule of noise allows. On every occasion each neighbour, and none, is
there once, in an order of its own, and the same random networks are measured in both ways, once
each: what breaks a rule of noise is kept, and counted.

Changes are of each network's latency, relative to its median over the occasions without a
neighbour: the median over networks and occasions, and between which 90 % of them lie. Run it on a
machine that does nothing else: the first row says what was noise without a neighbour.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from _columns import lines
from _machine import header

SUPERNET = Path(__file__).parent / "supernets" / "cifar10_mobilenetv3.safetensors"
SEED = 20261130
WORKS = ("arithmetic", "memory")
PLACES = ("other core", "same core")
QUIET = "none"
PAUSES = ", 1/4"
NEIGHBOURS = (
    QUIET,
    *(f"{work}, {PLACES[0]}{PAUSES}" for work in WORKS),
    *(f"{work}, {place}" for place in PLACES for work in WORKS),
)
WAYS = ("absolute", "relative")


# ---- the neighbour -------------------------------------------------------------------------------


def work(kind: str, core: int, parent: int, pauses: float) -> None:
    """Be busy on a core until the process that wants it ends, with pauses that are so many times as
    long as the work between them."""
    os.sched_setaffinity(0, {core})
    size = 64 if kind == "arithmetic" else 4096
    first = np.random.default_rng(0).random((size, size))
    second = np.empty_like(first)
    print("busy", flush=True)
    while os.getppid() == parent:
        start = time.perf_counter()
        for _ in range(50 if kind == "arithmetic" else 1):
            if kind == "arithmetic":
                np.matmul(first, first, out=second)
            else:
                np.copyto(second, first)
        time.sleep(pauses * (time.perf_counter() - start))


@contextmanager
def neighbour(name: str, cores: Sequence[int]) -> Iterator[None]:
    """With this one beside, whose work has begun."""
    if name == QUIET:
        yield
        return
    kind, place, *paused = name.split(", ")
    core = cores[PLACES.index(place) ^ 1]
    pauses = 3 if paused else 0
    arguments = [kind, str(core), str(os.getpid()), str(pauses)]
    command = [sys.executable, __file__, "--work", *arguments]
    # one thread, which is what a core can run
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "busy\n":
                raise SystemExit(f"the neighbour ended ({name}): exit code {process.wait()}")
            time.sleep(0.5)
            yield
        finally:
            process.kill()


# ---- measurements --------------------------------------------------------------------------------


@dataclass
class Found:
    """What was measured beside one neighbour in one way.

    Attributes:
        latencies: in milliseconds, one row an occasion and one column a network.
        rules: which rules of noise were broken, and by how many measurements.
        flagged: measurements that broke some.
    """

    latencies: list[list[float]] = field(default_factory=list)
    rules: Counter[str] = field(default_factory=Counter)
    flagged: int = 0

    def changes(self, quiet: np.ndarray) -> np.ndarray:
        """Relative to latencies without a neighbour, shape (networks,)."""
        changes: np.ndarray = np.array(self.latencies) / quiet - 1
        return changes


def measured(count: int, occasions: int, cores: Sequence[int]) -> Mapping[tuple[str, str], Found]:
    """By neighbour and way."""
    from mathnas.devices.common import LatencyEvaluator
    from mathnas.devices.noise import NoiseRule
    from mathnas.devices.onnxruntime import OnnxRuntimeEngine
    from mathnas.devices.relative import RelativeLatencyEvaluator
    from mathnas.evaluation import Measurement
    from mathnas.nets.files import read_supernet
    from mathnas.nets.inputs import example_inputs
    from mathnas.nets.onnx_export import export_onnx

    supernet, _ = read_supernet(SUPERNET)
    example = example_inputs(supernet, 1)
    reference, networks = supernet.space.reference, supernet.space.sample(count, seed=SEED)
    graphs = {
        network: export_onnx(supernet.extract(network), example).SerializeToString()
        for network in (reference, *networks)
    }
    os.sched_setaffinity(0, {cores[0]})
    engine, once = OnnxRuntimeEngine(), NoiseRule(attempts=1)
    ways = {
        "absolute": LatencyEvaluator(
            graphs.__getitem__, engine, batch_size=count, noise=once, accept_noise=True
        ),
        "relative": RelativeLatencyEvaluator(
            graphs.__getitem__,
            engine,
            reference,
            batch_size=count,
            attempts=0,
            accept_noise=True,
        ),
    }
    found = {(name, way): Found() for name in NEIGHBOURS for way in WAYS}
    for way in WAYS:  # once for nothing: the first measurement pays for what is loaded
        ways[way].evaluate_batch(networks)
    rng = np.random.default_rng(SEED)
    for _ in range(occasions):
        for place in rng.permutation(len(NEIGHBOURS)).tolist():
            name = NEIGHBOURS[place]
            with neighbour(name, cores):
                for way in rng.permutation(WAYS).tolist():
                    own = found[name, way]
                    rows = [row["latency_ms"] for row in ways[way].evaluate_batch(networks)]
                    known = [row for row in rows if isinstance(row, Measurement)]
                    own.latencies.append([row.value for row in known])
                    flags = [row.notes["flags"] for row in known if "flags" in row.notes]
                    own.flagged += len(flags)
                    for text in flags:
                        own.rules.update({part.partition(":")[0] for part in text.split("; ")})
    return found


# ---- report --------------------------------------------------------------------------------------


def table(found: Mapping[tuple[str, str], Found]) -> str:
    """One row a neighbour and way."""
    rows = [("neighbour", "latency", "change", "90 % between", "flagged")]
    for name in NEIGHBOURS:
        for way in WAYS:
            own = found[name, way]
            quiet = np.median(np.array(found[QUIET, way].latencies), axis=0)
            changes = own.changes(quiet)
            low, middle, high = np.quantile(changes, [0.05, 0.5, 0.95])
            between = f"{low:+.1%} and {high:+.1%}"
            rules = ", ".join(f"{rule} {number}" for rule, number in own.rules.most_common())
            flagged = f"{own.flagged} of {changes.size}" + (f": {rules}" if rules else "")
            rows.append((name if way == WAYS[0] else "", way, f"{middle:+.1%}", between, flagged))
    return lines(rows)


def siblings(core: int) -> str:
    """Which logical processors share the core's arithmetic, as the kernel says it."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=8)
    parser.add_argument("--occasions", type=int, default=10)
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)  # what the neighbour runs
    options = parser.parse_args()
    if options.work is not None:
        kind, core, parent, pauses = options.work
        work(kind, int(core), int(parent), float(pauses))
        return
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("a process stays on a core by sched_setaffinity, which Linux has.")
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("a neighbour on another core needs a second one.")
    before = header(SEED)
    load = os.getloadavg()[0]
    found = measured(options.networks, options.occasions, cores)
    print(before)
    print(
        f"{options.networks} networks, {options.occasions} occasions; cores {cores[0]} and "
        f"{cores[1]}, threads of core {cores[0]}: {siblings(cores[0])}; load before {load:.2f}\n"
    )
    print(table(found))


if __name__ == "__main__":
    main()
