"""What one step trains: a list of passes, and how their gradients become one.

A recipe says which networks run in a step and what each learns; a combination makes one gradient
of theirs. Both are plain callables, so a new rule is a new function, not a new trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from torch import nn

from mathnas.nets.supernet import Supernet
from mathnas.space import Network
from mathnas.training.config import Phase, TrainingConfig
from mathnas.training.losses import (
    AlphaDivergenceLoss,
    DistilledLoss,
    LabelLoss,
    Loss,
    TeacherLoss,
)
from mathnas.training.networks import AllowedNetworks, DrawsNetworks, extremes_of

Role: TypeAlias = Literal["largest", "smallest", "random"]
ROLES: tuple[Role, ...] = ("largest", "smallest", "random")


@dataclass(frozen=True, slots=True)
class Pass:
    """One network of a step.

    Attributes:
        network: what runs.
        loss: what it learns.
        role: under which its loss is logged.
        teaches: its logits are the teacher's for the passes after it.
    """

    network: Network
    loss: Loss
    role: Role
    teaches: bool = False


# the passes of a step, drawn from a generator that all processes seed alike
StepRule: TypeAlias = Callable[[np.random.Generator], Sequence[Pass]]


class Recipe(Protocol):
    """Makes the rule of a phase's steps."""

    def __call__(self, supernet: Supernet, phase: Phase, config: TrainingConfig) -> StepRule: ...


def sandwich(supernet: Supernet, phase: Phase, config: TrainingConfig) -> StepRule:
    """The largest on labels; then the smallest and random networks on the largest's outputs."""
    smallest, largest = extremes_of(supernet)
    draw = _drawing(supernet, phase)
    first = Pass(largest, LabelLoss(config.label_smoothing), "largest", teaches=True)
    loss: Loss = AlphaDivergenceLoss() if config.student_loss == "alpha" else TeacherLoss()
    second = Pass(smallest, loss, "smallest")

    def rule(rng: np.random.Generator) -> Sequence[Pass]:
        others = [Pass(draw(rng), loss, "random") for _ in range(phase.networks)]
        return [first, second, *others]

    return rule


def shrinking(supernet: Supernet, phase: Phase, config: TrainingConfig) -> StepRule:
    """Random networks among the phase's blocks, on labels and the frozen teacher's outputs."""
    loss: Loss = LabelLoss(config.label_smoothing)
    if phase.distill:
        loss = DistilledLoss(phase.distill, config.label_smoothing)
    if phase.largest:
        _, largest = extremes_of(supernet)
        return lambda rng: [Pass(largest, loss, "largest")]
    draw = _drawing(supernet, phase)
    return lambda rng: [Pass(draw(rng), loss, "random") for _ in range(phase.networks)]


def uniform(supernet: Supernet, phase: Phase, config: TrainingConfig) -> StepRule:
    """Random networks on the labels."""
    draw = _drawing(supernet, phase)
    loss = LabelLoss(config.label_smoothing)
    return lambda rng: [Pass(draw(rng), loss, "random") for _ in range(phase.networks)]


RECIPES: dict[str, Recipe] = {"sandwich": sandwich, "shrinking": shrinking, "uniform": uniform}


def _drawing(supernet: Supernet, phase: Phase) -> Callable[[np.random.Generator], Network]:
    # a supernet's own way knows nothing of allowed blocks
    if not phase.blocks and isinstance(supernet, DrawsNetworks):
        return lambda rng: supernet.space.check(supernet.draw(rng))
    return AllowedNetworks(supernet.space, phase.blocks).draw


class Passes(Protocol):
    """What a combination works with."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """Of the supernet."""
        ...

    @property
    def scale(self) -> float:
        """What losses, and so gradients, are multiplied by: the loss scale of ``fp16``, else 1."""
        ...

    def run(self, one: Pass) -> None:
        """Run a pass forward and backward: its gradients are added to ``parameter.grad``."""
        ...

    def average(self) -> None:
        """Average ``parameter.grad`` over the processes."""
        ...


Combination: TypeAlias = Callable[[Sequence[Pass], Passes], None]


def summed(passes: Sequence[Pass], step: Passes) -> None:
    """The sum of the passes' gradients, averaged over the processes."""
    for one in passes:
        step.run(one)
    step.average()
