"""The dynamic network of the benchmarks: five candidates in each of five stages.

Its blocks are those that `cifar10_mobilenetv3.py` chose, read from its results. `dynamic_table.py`
writes what is known of it: the table, times of parts, and the accuracy of every network.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mathnas as mn
from mathnas.runtime.observation import PartTimes
from mathnas.runtime.policies import (
    LadderPolicy,
    LightHeavyPolicy,
    front_networks,
    slimmed_networks,
    width_networks,
)
from mathnas.runtime.policies.offline import Offline
from mathnas.runtime.policy import Policy
from mathnas.spaces import MobileNetV3

RESULTS = Path(__file__).parent / "results"
CHOSEN = RESULTS / "cifar10_mobilenetv3.txt"
TABLE, KNOWN = RESULTS / "dynamic_table.json", RESULTS / "dynamic_table.npz"
BATCH = 64
_LINE = re.compile(r"  (?P<stage>stage\d): (?P<names>.+ \| .+)")

Made = Callable[[float], Policy]


def chosen_space(space: MobileNetV3) -> mn.GroupedSpace:
    """The stages of a space with the candidates that the results name."""
    stages = space.stages()
    names = {
        match["stage"]: match["names"].split(" | ")
        for match in map(_LINE.fullmatch, CHOSEN.read_text(encoding="utf-8").splitlines())
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
        times: of parts on the quiet machine, in ms a batch of 64.
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


def policies(offline: Offline) -> dict[str, Made]:
    """The policies that move, by name; each is made for a deadline in ms."""
    ladders = {
        "Dynamic-OFA, 7": front_networks(offline, 7),
        "slimmable, 4": width_networks(offline, 4),
        "slimmable, 27": width_networks(offline, 27),
        "AutoSlim, 4": slimmed_networks(offline, 4),
    }

    def ladder(name: str) -> Made:
        return lambda deadline: LadderPolicy(offline, ladders[name], deadline, name)

    made: dict[str, Made] = {name: ladder(name) for name in ladders}
    made["light/heavy"] = lambda deadline: LightHeavyPolicy(offline, deadline)
    return made
