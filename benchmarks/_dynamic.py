"""The dynamic network of the benchmarks: five candidates in each of five stages.

Its blocks are those that `cifar10_mobilenetv3.py` chose to keep resident, read from its results.
`dynamic_table.py` writes what is known of it: the table, times of parts, and the accuracy of every
network. The policies, and how they are scored, are the same in the simulated and in the real
benchmark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import mathnas as mn
from mathnas.runtime.controller import Controller
from mathnas.runtime.goals import Goal
from mathnas.runtime.observation import PartTimes
from mathnas.runtime.policies import (
    FixedPolicy,
    LadderPolicy,
    LightHeavyPolicy,
    Offline,
    front_networks,
    largest_network,
    slimmed_networks,
    smallest_network,
    width_networks,
)
from mathnas.runtime.policy import Policy
from mathnas.runtime.served import SETTLING, Served
from mathnas.spaces import MobileNetV3

RESULTS = Path(__file__).parent / "results"
CHOSEN = RESULTS / "cifar10_mobilenetv3.txt"
TABLE, KNOWN = RESULTS / "dynamic_table.json", RESULTS / "dynamic_table.npz"
BATCH = 32  # images a run, of the times of parts
_LINE = re.compile(r"  (?P<stage>stage\d): (?P<names>.+ \| .+)")

Made = Callable[[float], Policy]
Mask = npt.NDArray[np.bool_]


def chosen_space(space: MobileNetV3) -> mn.GroupedSpace:
    """The stages of a space with the candidates that the results name."""
    stages = space.stages()
    _, _, chosen = CHOSEN.read_text(encoding="utf-8").partition("\n## 5. ")
    names = {
        match["stage"]: match["names"].split(" | ")
        for match in map(_LINE.fullmatch, chosen.splitlines())
        if match
    }
    candidates = {
        node.name: stages.candidates[place][[node.index(name) for name in names[node.name]]]
        for place, node in enumerate(stages.nodes)
    }
    groups = dict(zip(candidates, stages.partition, strict=True))
    return mn.GroupedSpace(
        space, groups, {name: rows.tolist() for name, rows in candidates.items()}
    )


@dataclass(frozen=True)
class Known:
    """What is known before anything is served.

    Attributes:
        table: predicts accuracy, from held-out images.
        times: of parts on the quiet machine, in ms a batch of `BATCH`.
        measured: accuracy of every network on test images, in percent.
        images: how many of them.
    """

    table: mn.BlockTable
    times: PartTimes
    measured: dict[mn.Network, float]
    images: int

    @classmethod
    def load(cls) -> Known:
        table = mn.BlockTable.load(TABLE)
        space = table.space
        with np.load(KNOWN, allow_pickle=False) as known:
            flat, correct, images = known["times_ms"], known["correct"], int(known["images"])
        accuracy = 100.0 * correct / images
        networks = list(map(tuple, space.all_networks().tolist()))
        measured = dict(zip(networks, accuracy.tolist(), strict=True))
        return cls(table, PartTimes(space, flat[0], flat[1:-1], flat[-1]), measured, images)

    @property
    def offline(self) -> Offline:
        return Offline(self.table, self.times)


OURS, HINDSIGHT = "ours", "best fixed"
MOST_MISSES = 0.02


def finders(offline: Offline) -> dict[str, Callable[[], list[mn.Network]]]:
    """What finds the networks that each policy of whole networks may run."""
    return {
        "smallest": lambda: [smallest_network(offline)],
        "largest": lambda: [largest_network(offline)],
        "Dynamic-OFA, 7": lambda: front_networks(offline, 7),
        "slimmable, 4": lambda: width_networks(offline, 4),
        "slimmable, 27": lambda: width_networks(offline, 27),
        "AutoSlim, 4": lambda: slimmed_networks(offline, 4),
    }


def kept_networks(offline: Offline) -> dict[str, list[mn.Network]]:
    """The networks that each policy of whole networks may run."""
    return {name: find() for name, find in finders(offline).items()}


def policies(offline: Offline) -> dict[str, Made]:
    """All policies but the fixed one in hindsight, by name; each is made for a deadline in ms."""
    made: dict[str, Made] = {}
    for name, networks in kept_networks(offline).items():
        made[name] = _whole(offline, name, networks)
    made["light/heavy"] = lambda deadline: LightHeavyPolicy(offline, deadline)
    made[OURS] = lambda deadline: Controller(
        offline.table, offline.times, Goal(deadline_ms=deadline, miss_rate=MOST_MISSES)
    )
    return made


def _whole(offline: Offline, name: str, networks: list[mn.Network]) -> Made:
    if len(networks) == 1:
        return lambda deadline: FixedPolicy(offline, networks[0], name)
    return lambda deadline: LadderPolicy(offline, networks, deadline, name)


@dataclass(frozen=True)
class Score:
    """What a policy served, in numbers.

    Attributes:
        settled, every: the share of runs that missed the deadline, of those at least a second after
            a change and of all.
        expected, measured: mean accuracy over runs, by the table and on test images, in percent.
        switches: a minute.
        blocks: that a switch changes, on average; 0 where there was none.
        deciding_ms: of each decision.
    """

    settled: float
    every: float
    expected: float
    measured: float
    switches: float
    blocks: float
    deciding_ms: tuple[float, ...]

    @classmethod
    def of(
        cls,
        served: Served,
        known: Known,
        measured: float | None = None,
        *,
        settling: float = SETTLING,
    ) -> Score:
        """
        Args:
            measured: mean accuracy, where it was measured while serving.
            settling: seconds after a change.
        """
        if measured is None:
            measured = float(served.known(known.measured).mean())
        minutes = float(np.ptp(served.times)) / 60
        return cls(
            served.misses(seconds=settling),
            served.misses(settled=False),
            float(served.expected(known.table, "accuracy").mean()),
            measured,
            served.switches / minutes,
            served.changed_blocks / max(1, served.switches),
            tuple((1e3 * served.deciding_seconds).tolist()),
        )

    @classmethod
    def mean(cls, scores: Sequence[Score]) -> Score:
        """Over traces; of decisions, all."""

        def over(name: str) -> float:
            return float(np.mean([getattr(score, name) for score in scores]))

        return cls(
            over("settled"),
            over("every"),
            over("expected"),
            over("measured"),
            over("switches"),
            over("blocks"),
            tuple(ms for score in scores for ms in score.deciding_ms),
        )

    def __str__(self) -> str:
        p50, p99 = np.quantile(self.deciding_ms, [0.5, 0.99])
        return (
            f"{100 * self.settled:7.2f} {100 * self.every:7.2f} {self.expected:9.3f} "
            f"{self.measured:9.3f} {self.switches:9.1f} {self.blocks:7.2f} {p50:7.3f} {p99:7.3f}"
        )


HEAD = (
    f"{'':16} {'settled':>7} {'all':>7} {'expected':>9} {'measured':>9} {'switches':>9} "
    f"{'blocks':>7} {'decide':>7} {'p99':>7}\n"
    f"{'':16} {'misses%':>7} {'miss.%':>7} {'acc. %':>9} {'acc. %':>9} {'a minute':>9} "
    f"{'each':>7} {'p50 ms':>7} {'ms':>7}"
)


def table_of(title: str, scores: Mapping[str, Score]) -> None:
    print(f"\n## {title}\n{HEAD}")
    for name, score in scores.items():
        print(f"{name:16} {score}")


def pieces(served: Served, seconds: int) -> list[tuple[int, Mask]]:
    """When each piece of so many seconds begins, and which runs were asked for in it, shape (k,);
    pieces without runs are left out."""
    starts = seconds * (served.times // seconds).astype(int)
    return [(start, starts == start) for start in np.unique(starts).tolist()]


def beaten_by(scores: dict[str, Score]) -> list[str]:
    """Where ours is not better: policies with no more settled misses whose accuracy, expected or
    measured, is at least ours."""
    ours = scores[OURS]
    found = []
    for name, score in scores.items():
        if name == OURS or score.settled > ours.settled:
            continue
        for kind in ("expected", "measured"):
            own, other = getattr(ours, kind), getattr(score, kind)
            if other >= own:
                found.append(
                    f"{name}: {kind} accuracy {other:.3f} %, ours {own:.3f} %; misses "
                    f"{100 * score.settled:.2f} and {100 * ours.settled:.2f} %"
                )
    return found
