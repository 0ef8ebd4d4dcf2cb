"""Policies on the command line, and what a log tells of how one was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from mathnas._files import file_sha256
from mathnas._records import Record
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.metrics import Direction, Metric
from mathnas.space import Network, SearchSpace
from mathnas.table import BlockTable

if TYPE_CHECKING:
    from mathnas.runtime.goals import Goal
    from mathnas.runtime.observation import PartTimes
    from mathnas.runtime.policy import Policy


class PolicyName(str, Enum):
    """Which network is to serve."""

    CONTROLLER = "controller"
    SMALLEST = "smallest"
    LARGEST = "largest"
    LADDER = "ladder"
    LIGHT_HEAVY = "light-heavy"


@dataclass(frozen=True)
class Conditions:
    """What a policy was made of, as it stands in the header of its log.

    Attributes:
        policy: by its name here.
        deadline_ms: of a run.
        times: of the parts, as calibrated.
        package: the SHA-256 of its file.
        engine, threads, batch: of a run.
    """

    policy: PolicyName
    deadline_ms: float
    times: PartTimes
    package: str
    engine: str
    threads: int
    batch: int

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "policy": self.policy.value,
            "deadline_ms": self.deadline_ms,
            "stem_ms": self.times.stem,
            "blocks_ms": self.times.blocks.tolist(),
            "head_ms": self.times.head,
            "package": self.package,
            "engine": self.engine,
            "threads": self.threads,
            "batch": self.batch,
        }

    @classmethod
    def from_dict(
        cls, value: Mapping[str, object], space: SearchSpace, package: Path, where: str
    ) -> Conditions:
        """Read what `to_dict` wrote.

        Raises:
            FileFormatError: it is not that, or was written for another package.
        """
        from mathnas.runtime.observation import PartTimes

        record = Record(value, where)
        digest = record.get("package", str)
        if digest != file_sha256(package):
            raise FileFormatError(
                f"{where}: recorded with another package than {package}: name the one with the "
                f"SHA-256 {digest[:12]}..."
            )
        try:
            return cls(
                PolicyName(record.get("policy", str)),
                record.get("deadline_ms", float),
                PartTimes(
                    space,
                    record.get("stem_ms", float),
                    record.numbers("blocks_ms"),
                    record.get("head_ms", float),
                ),
                digest,
                record.get("engine", str),
                record.get("threads", int),
                record.get("batch", int),
            )
        except ValueError as error:
            raise FileFormatError(f"{where}: {error}") from error


def make_policy(name: PolicyName, table: BlockTable, times: PartTimes, goal: Goal) -> Policy:
    """A policy for the networks of a table.

    Raises:
        InvalidInputError: the table does not say what is to be good.
    """
    from mathnas.runtime.controller import Controller
    from mathnas.runtime.policies import (
        FixedPolicy,
        LadderPolicy,
        LightHeavyPolicy,
        front_networks,
        largest_network,
        smallest_network,
    )
    from mathnas.runtime.policies.offline import Offline

    if name is PolicyName.CONTROLLER:
        return Controller(table, times, goal)
    assert goal.deadline_ms is not None  # on the command line it is given
    quality = quality_of(table)
    if quality is None:
        raise InvalidInputError(
            f"the policy {name.value} takes a table with one metric of which more is better, but "
            f"got {', '.join(table.columns)}."
        )
    offline = Offline(table, times, quality.name)
    if name is PolicyName.LADDER:
        return LadderPolicy(offline, front_networks(offline), goal.deadline_ms, name.value)
    if name is PolicyName.LIGHT_HEAVY:
        return LightHeavyPolicy(offline, goal.deadline_ms, name.value)
    one = smallest_network if name is PolicyName.SMALLEST else largest_network
    return FixedPolicy(offline, one(offline), name.value)


def quality_of(table: BlockTable) -> Metric | None:
    """The metric that networks are to be good in, where there is one."""
    good = [metric for metric in table.metrics.values() if metric.direction is Direction.MAXIMIZE]
    return good[0] if len(good) == 1 else None


def expected(table: BlockTable, quality: Metric) -> Callable[[Network], float]:
    """What networks are predicted to reach."""
    return lambda network: table.exact(network, quality.name)
