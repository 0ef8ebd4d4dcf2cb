"""Policies of a dynamic network under real contention.

    MATHNAS_DATA=... python benchmarks/dynamic.py --package net.mathnas [--minutes 10]
        [--threads 1] [--batch 64] [--deadline MS] [--figure benchmarks/results/dynamic.png]
        [--trace benchmarks/results/dynamic.csv] [--load benchmarks/results/dynamic_load.csv]

Serves batches of CIFAR-10 test images with the dynamic network of a package (`mathnas deploy`, or
`dynamic_table.py`), while processes on the same cores start and stop by the schedule below. Every
batch is served by each policy that switches in turn, in an order that rotates, so that all meet the
same contention; each sees its own runs alone. Fixed networks share one turn: the smallest, the
largest, and six of the Pareto front, of which the best one with at most 2 % settled misses is the
best fixed one in hindsight.

A policy has only its share of the time: where k policies take turns, one that waits for 20 of its
own runs waits k times as long as it would alone. Misses are therefore given twice: from one second
after each change, and from one second of a policy's own serving after it.

The trace holds a line a second and policy; the load, a line a half second, what parts took against
the quiet machine: a recorded trace for the simulator (`mathnas.runtime.traces.read_trace`).
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

import mathnas as mn
from _dynamic import (
    HINDSIGHT,
    MOST_MISSES,
    OURS,
    Known,
    Score,
    beaten_by,
    pieces,
    policies,
    table_of,
)
from _figures import grid, save
from _machine import header
from _stress import Phase, Stress
from _supernets import Trained
from mathnas._records import write_text
from mathnas.runtime.dynamic import DynamicNetwork
from mathnas.runtime.loading import resident_parts
from mathnas.runtime.observation import Observation
from mathnas.runtime.package import Package
from mathnas.runtime.policies import (
    FixedPolicy,
    Offline,
    front_networks,
    largest_network,
    smallest_network,
)
from mathnas.runtime.policy import Decision, Policy
from mathnas.runtime.served import SETTLING, Served
from mathnas.runtime.simulation import best_fixed
from mathnas.runtime.traces import observed_trace

SUPERNET = Path("benchmarks/supernets/cifar10_mobilenetv3.safetensors")
# shares of the time, and processes: busy loops, loops that rest half of the time, streams
SCHEDULE = (
    *((0.00, (0, 0, 0)), (0.06, (1, 0, 0)), (0.13, (0, 0, 0)), (0.18, (0, 0, 1))),
    *((0.26, (0, 2, 0)), (0.33, (0, 0, 0)), (0.38, (2, 0, 0)), (0.47, (0, 1, 0))),
    *((0.53, (0, 0, 2)), (0.61, (0, 0, 0)), (0.66, (1, 0, 1)), (0.75, (0, 2, 0))),
    *((0.82, (2, 0, 0)), (0.89, (1, 0, 0)), (0.95, (0, 0, 0))),
)
ON_FRONT = 6
ROOM = 1.15  # times what the smallest network takes under the heaviest load
QUIET = 0.95  # times what the best network takes on the quiet machine
PROBING = 4.0  # seconds a load

Arrays = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass
class Seat:
    """A policy, and what it served."""

    policy: Policy
    network: mn.Network
    decisions: list[Decision]
    times: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    networks: list[mn.Network] = field(default_factory=list)
    correct: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, policy: Policy) -> Seat:
        first = policy.start(0.0)
        return cls(policy, first.network, [first])

    def serve(
        self, dynamic: DynamicNetwork, asked: float, images: Arrays, labels: Labels
    ) -> Observation:
        """One batch."""
        dynamic.switch(self.network)
        run = dynamic.run(images)
        seen = run.observation
        self.times.append(asked)
        self.latencies.append(seen.latency_ms)
        self.networks.append(seen.network)
        self.correct.append(float((run.outputs.argmax(axis=1) == labels).mean()))
        decision = self.policy.observe(seen)
        if decision is not None:
            self.decisions.append(decision)
            self.network = decision.network
        return seen

    def served(self, deadline: float, changes: Sequence[float]) -> Served:
        return Served(
            self.policy.name,
            deadline,
            np.array(self.times),
            np.array(self.latencies),
            np.array(self.networks, dtype=np.intp),
            tuple(self.decisions),
            tuple(changes),
        )

    @property
    def accuracy(self) -> float:
        """Measured while serving, in percent."""
        return 100 * float(np.mean(self.correct))


def batches(size: int) -> Iterator[tuple[Arrays, Labels]]:
    """Test images in random order, again and again."""
    trained = Trained.open(SUPERNET)
    test = trained.images(trained.test, None)
    images, labels = test.images.numpy(), test.labels.numpy()
    order = np.random.default_rng(0).permutation(len(images))
    for start in itertools.cycle(range(0, len(order) - size + 1, size)):
        place = order[start : start + size]
        yield np.ascontiguousarray(images[place]), labels[place]


def fitting_deadline(
    dynamic: DynamicNetwork,
    offline: Offline,
    stress: Stress,
    images: Arrays,
) -> float:
    """A deadline that the smallest network meets under every load, and the one of the highest
    expected accuracy not even on the quiet machine, unless the loads ask for more."""
    dynamic.switch(smallest_network(offline))
    worst = 0.0
    for loads in dict.fromkeys(phase.loads for phase in stress.phases):
        stress.apply(loads)
        end, taken = time.perf_counter() + PROBING, []
        while time.perf_counter() < end:
            taken.append(dynamic.run(images).observation.latency_ms)
        late = float(np.quantile(taken, 1 - MOST_MISSES))
        print(f"smallest network under {Phase(0.0, loads)}: 98 % within {late:.2f} ms")
        worst = max(worst, late)
    stress.apply((0, 0, 0))
    return max(ROOM * worst, QUIET * offline.latency(front_networks(offline, 2)[-1]))


def contend(
    dynamic: DynamicNetwork,
    seats: Sequence[Seat],
    stress: Stress,
    source: Iterator[tuple[Arrays, Labels]],
    seconds: float,
    clock: Callable[[], float],
) -> list[Observation]:
    """All policies in turn, batch by batch, the fixed ones in one turn; every run."""
    runs: list[Observation] = []
    moving = [seat for seat in seats if not isinstance(seat.policy, FixedPolicy)]
    fixed = [seat for seat in seats if isinstance(seat.policy, FixedPolicy)]
    rng = np.random.default_rng(0)  # in turns, each would meet the same images again and again
    begin, turn = clock(), 0
    while (now := clock() - begin) < seconds:
        stress.advance(now)
        images, labels = next(source)
        still = fixed[rng.integers(len(fixed))]
        for seat in [*moving[turn:], still, *moving[:turn]]:
            asked = clock() - begin
            runs.append(seat.serve(dynamic, asked, images, labels))
        turn = (turn + 1) % len(moving)
    return runs


def by_seconds(served: dict[str, Served], seats: dict[str, Seat], known: Known) -> str:
    """A line a second and policy."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["runs", "misses", "median_ms", "p95_ms", "expected", "correct"]
    writer.writerow(["second", "policy", *columns])
    for name, record in served.items():
        expected = record.expected(known.table, "accuracy")
        correct = np.array(seats[name].correct)
        for second, place in pieces(record, 1):
            middle, high = np.quantile(record.latencies_ms[place], [0.5, 0.95])
            writer.writerow(
                [
                    *(second, name, int(place.sum()), int(record.missed[place].sum())),
                    *(f"{middle:.2f}", f"{high:.2f}", f"{expected[place].mean():.2f}"),
                    f"{100 * correct[place].mean():.1f}",
                ]
            )
    return text.getvalue()


def draw(path: Path, served: dict[str, Served], scores: dict[str, Score], known: Known) -> None:
    figure, axes = grid(1, 3, 4.5)
    for name in ("Dynamic-OFA, 7", "light/heavy", OURS):
        record = served[name]
        expected = record.expected(known.table, "accuracy")
        starts, places = zip(*pieces(record, 5), strict=True)
        late = [np.quantile(record.latencies_ms[place], 0.95) for place in places]
        axes[0].plot(starts, late, label=name)
        axes[1].plot(starts, [expected[place].mean() for place in places])
    axes[0].axhline(served[OURS].deadline_ms, color="black", lw=0.8, ls="--")
    for change in served[OURS].changes:
        axes[0].axvline(change, color="lightgrey", lw=0.8, zorder=0)
        axes[1].axvline(change, color="lightgrey", lw=0.8, zorder=0)
    axes[0].set(xlabel="s", ylabel="ms a batch, 95 % of 5 s", title="latency under contention")
    axes[1].set(xlabel="s", ylabel="expected accuracy, %", title="what is served")
    for name, score in scores.items():
        axes[2].plot(100 * score.settled, score.measured, "o", label=name)
    axes[2].legend(fontsize=8, loc="lower right")
    axes[2].axvline(100 * MOST_MISSES, color="black", lw=0.8, ls="--")
    axes[2].set(
        xscale="symlog", xlim=(0, 200), xlabel="settled misses, %", ylabel="measured accuracy, %"
    )
    save(figure, axes[0], path)
    print(f"drawn: {path.name}")


def report(title: str, scores: dict[str, Score]) -> None:
    table_of(title, scores)
    found = beaten_by(scores)
    print("policies with no more misses and no less accuracy than ours: ", end="")
    print("none" if not found else "".join(f"\n  {line}" for line in found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--deadline", type=float, default=None)
    parser.add_argument("--figure", type=Path, default=None)
    parser.add_argument("--trace", type=Path, default=None)
    parser.add_argument("--load", type=Path, default=None)
    options = parser.parse_args()
    package = Package.read(options.package)
    print(header(0))
    parts = resident_parts(package, threads=options.threads)
    source = batches(options.batch)
    begin = time.perf_counter()

    def clock() -> float:
        return time.perf_counter() - begin

    dynamic = DynamicNetwork(parts, parts.space.reference, clock=clock)
    images, _ = next(source)
    times = dynamic.calibrate(images, seconds=10.0)
    known = Known(package.table, times, {}, 0)
    offline = known.offline
    seconds = 60 * options.minutes
    phases = [Phase(share * seconds, loads) for share, loads in SCHEDULE]
    print(f"{parts.engine}, {options.threads} threads, batches of {options.batch} test images")
    print(
        f"{dynamic.num_networks} networks, {offline.latency(smallest_network(offline)):.2f} to "
        f"{offline.latency(largest_network(offline)):.2f} ms, {dynamic.memory_bytes / 1e6:.2f} MB"
    )
    print("schedule: " + "; ".join(map(str, phases)))
    with Stress(phases) as stress:
        deadline = options.deadline or fitting_deadline(dynamic, offline, stress, images)
        print(f"deadline {deadline:.2f} ms")
        seats = {name: Seat.of(make(deadline)) for name, make in policies(offline).items()}
        front = front_networks(offline, ON_FRONT)
        fixed = {f"fixed {place}": network for place, network in enumerate(front, start=1)}
        seats |= {n: Seat.of(FixedPolicy(offline, own, n)) for n, own in fixed.items()}
        taken = contend(dynamic, list(seats.values()), stress, source, seconds, clock)
        changes = stress.changes
    served = {name: seat.served(deadline, changes) for name, seat in seats.items()}
    qualities = [offline.quality(network) for network in front]
    best = list(fixed)[best_fixed(qualities, [served[n] for n in fixed], most_misses=MOST_MISSES)]
    moving = {n: record for n, record in served.items() if n not in fixed}
    shown = {HINDSIGHT: replace(served[best], policy=HINDSIGHT), **moving}
    accuracy = {name: seats[best if name == HINDSIGHT else name].accuracy for name in shown}
    turns = 1 + sum(not isinstance(seat.policy, FixedPolicy) for seat in seats.values())
    own_second = SETTLING * turns
    scores = {n: Score.of(record, known, accuracy[n]) for n, record in shown.items()}
    later = {
        n: Score.of(record, known, accuracy[n], settling=own_second) for n, record in shown.items()
    }
    runs = len(seats[OURS].times)
    print(f"{runs} batches a policy, {runs / seconds:.1f} a second; best fixed: {best}")
    report("settled: from 1 s after each change", scores)
    report(f"settled: from 1 s of own serving ({own_second:.0f} s) after each change", later)
    if options.trace is not None:
        write_text(options.trace, by_seconds(served, seats, known))
    if options.load is not None:
        load = observed_trace(taken, times)
        replace(load, values=np.round(load.values, 3)).save(options.load)
    if options.figure is not None:
        draw(options.figure, shown, scores, known)


if __name__ == "__main__":
    main()
