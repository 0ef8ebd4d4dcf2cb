"""Training a supernet with the sandwich rule (Yu et al., BigNAS, ECCV 2020).

Every step runs the largest network on the labels, then the smallest and some random networks on
the largest network's own outputs, sums their gradients, and takes one optimiser step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mathnas.errors import InvalidInputError
from mathnas.nets.supernet import Supernet
from mathnas.space import Network, SearchSpace


@dataclass(frozen=True, slots=True)
class SandwichConfig:
    """How to train.

    Attributes:
        steps: optimiser steps.
        random_networks: networks a step besides the largest and the smallest.
        learning_rate: highest rate of AdamW; it rises linearly, then falls along a cosine to 0.
        warmup: share of the steps in which the rate rises.
        weight_decay: on weights of two or more dimensions.
        label_smoothing: of the labels that the largest network learns.
        seed: of the random networks.
    """

    steps: int
    random_networks: int = 2
    learning_rate: float = 4e-3
    warmup: float = 0.1
    weight_decay: float = 1e-3
    label_smoothing: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.random_networks < 0:
            raise InvalidInputError(
                f"training takes at least 1 step and 0 random networks, but got {self.steps} and "
                f"{self.random_networks}."
            )

    def rate(self, step: int) -> float:
        """The share of the learning rate at this step, counted from 0."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return (step + 1) / rising
        done = (step - rising) / max(1, self.steps - rising)
        return 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """What a progress callback is told.

    Attributes:
        number: steps done, from 1.
        total: steps in all.
        loss: cross entropy of the largest network on this batch, in nats.
        accuracy: of the largest network on this batch, percent.
    """

    number: int
    total: int
    loss: float
    accuracy: float


def train(
    supernet: Supernet,
    batches: Iterable[tuple[Tensor, Tensor]],
    config: SandwichConfig,
    progress: Callable[[TrainingStep], None] | None = None,
) -> None:
    """Train `supernet` in place and leave it in evaluation mode.

    Args:
        batches: inputs and class indices, one pair a step; an endless iterator is fine.
        config: how.
        progress: called after every step.

    Raises:
        InvalidInputError: the space's MACs are unknown, or the batches end early.
    """
    smallest, largest = extreme_networks(supernet.space)
    rng = np.random.default_rng(config.seed)
    optimizer = torch.optim.AdamW(_groups(supernet, config), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.rate)
    supernet.train()
    done = 0
    for inputs, labels in itertools.islice(batches, config.steps):
        optimizer.zero_grad(set_to_none=True)
        logits = supernet(inputs, largest)
        loss = functional.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        torch.autograd.backward(loss)
        soft = logits.detach().softmax(1)
        others = supernet.space.sample(config.random_networks, seed=rng, distinct=False)
        for network in (smallest, *others):
            torch.autograd.backward(functional.cross_entropy(supernet(inputs, network), soft))
        optimizer.step()
        schedule.step()
        done += 1
        if progress is not None:
            right = 100.0 * float((logits.argmax(1) == labels).float().mean())
            progress(TrainingStep(done, config.steps, float(loss.detach()), right))
    supernet.eval()
    if done < config.steps:
        raise InvalidInputError(
            f"training takes one batch for each of its {config.steps} steps, but the batches ended "
            f"after {done}: give an endless iterator, or fewer steps."
        )


def extreme_networks(space: SearchSpace) -> tuple[Network, Network]:
    """The networks with the fewest and with the most MACs; ties go to the lowest index.

    Raises:
        InvalidInputError: MACs are not known for every block.
    """
    macs = space.require_macs("training by the sandwich rule")
    smallest, largest = [0] * space.num_nodes, [0] * space.num_nodes
    for group in space.groups:
        nodes = list(group.nodes)
        totals = macs[group.configurations + space.offsets[nodes]].sum(axis=1)
        for network, row in ((smallest, np.argmin(totals)), (largest, np.argmax(totals))):
            for node, block in zip(nodes, group.configurations[row].tolist(), strict=True):
                network[node] = block
    return space.check(smallest), space.check(largest)


def _groups(supernet: Supernet, config: SandwichConfig) -> list[dict[str, object]]:
    """Weights decay; biases and normalisations do not."""
    parameters = list(supernet.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
