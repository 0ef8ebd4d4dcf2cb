"""What training needs to go on: one file, written whole or not at all.

A checkpoint holds the weights, their average, the state of the optimiser and of the loss
scale, the step, and the configuration. There is nothing else: all that is drawn is a function of
seed and step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mathnas._records import shown
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.nets.tensors import read_tensors, write_tensors
from mathnas.space import SearchSpace
from mathnas.training.config import TrainingConfig

CHECKPOINT_FORMAT = "mathnas-checkpoint"
CHECKPOINT_VERSION = 1
_PARTS = ("weights", "average", "optimizer")


@dataclass(frozen=True)
class Checkpoint:
    """The state after a number of steps.

    Attributes:
        step: steps done, of all phases.
        config: of the training.
        space: of the supernet.
        data: name of what is trained on.
        weights: the supernet's parameters and buffers.
        average: of its parameters, moving or over the last epochs; empty without one.
        optimizer: its tensors, each as ``number of the parameter/name``.
        scale: state of the loss scale; empty without one.
        averaged: how often weights were taken into the average.
    """

    step: int
    config: TrainingConfig
    space: SearchSpace
    data: str
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor] = field(default_factory=dict)
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    scale: Mapping[str, float] = field(default_factory=dict)
    averaged: int = 0

    def save(self, path: Path) -> None:
        """Write the file; until it is whole, an older one stays.

        Raises:
            FileFormatError: it cannot be written.
        """
        tensors = {
            f"{part}/{name}": tensor
            for part, own in zip(_PARTS, (self.weights, self.average, self.optimizer), strict=True)
            for name, tensor in own.items()
        }
        record = {
            "format": CHECKPOINT_FORMAT,
            "version": CHECKPOINT_VERSION,
            "step": self.step,
            "data": self.data,
            "config": self.config.to_dict(),
            "space": self.space.to_dict(),
            "scale": dict(self.scale),
            "averaged": self.averaged,
        }
        write_tensors(path, tensors, record)

    @staticmethod
    def load(path: Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            FileFormatError: it is missing, damaged, foreign or newer.
        """
        tensors, record = read_tensors(path, CHECKPOINT_FORMAT, CHECKPOINT_VERSION)
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            if part not in parts:
                raise FileFormatError(f"{path}: nobody knows the tensor {name!r}.")
            parts[part][rest] = tensor
        scale = record.get("scale", dict)
        if not all(isinstance(value, (int, float)) for value in scale.values()):
            raise FileFormatError(f"{path}.scale: expected numbers, but got {shown(scale)}.")
        return Checkpoint(
            record.get("step", int),
            TrainingConfig.from_dict(record.get("config", dict), f"{path}.config"),
            SearchSpace.from_dict(record.get("space", dict), f"{path}.space"),
            record.get("data", str),
            parts["weights"],
            parts["average"],
            parts["optimizer"],
            scale,
            record.get("averaged", int),
        )

    def check_same(self, path: Path, config: TrainingConfig, space: SearchSpace, data: str) -> None:
        """Refuse to go on with something else than what was begun.

        Raises:
            InvalidInputError: the space, the data or a field of the configuration differs.
        """
        way_out = "go on with what was begun, or train into another folder."
        if self.space != space:
            raise InvalidInputError(
                f"{path} is of the space {self.space.name!r} ({self.space.fingerprint[:12]}), but "
                f"the supernet is of {space.name!r} ({space.fingerprint[:12]}): {way_out}"
            )
        if self.data != data:
            raise InvalidInputError(
                f"{path} is of a training on {self.data!r}, but the data are {data!r}: {way_out}"
            )
        name = self.config.difference(config)
        if name is not None:
            raise InvalidInputError(
                f"{path} was begun with {name}={shown(getattr(self.config, name))}, but {name} is "
                f"{shown(getattr(config, name))}: {way_out}"
            )


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser, each tensor as ``number of the parameter/name``."""
    return {
        f"{number}/{name}": value
        for number, own in optimizer.state_dict()["state"].items()
        for name, value in own.items()
        if value is not None
    }


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], where: str) -> None:
    """Give a new optimiser the state that `optimizer_tensors` told.

    Raises:
        FileFormatError: the state is not one of this optimiser.
    """
    parameters: list[nn.Parameter] = [
        parameter for group in optimizer.param_groups for parameter in group["params"]
    ]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition("/")
        if not number.isdecimal() or int(number) >= len(parameters):
            raise FileFormatError(f"{where}: the optimiser has no parameter for {key!r}.")
        parameter = parameters[int(number)]
        if value.ndim and value.shape != parameter.shape:
            raise FileFormatError(
                f"{where}: the optimiser's {key!r} is of shape {tuple(value.shape)}, but its "
                f"parameter of {tuple(parameter.shape)}."
            )
        # in the layout of its parameter, as it was: sums over another one may round differently
        state.setdefault(int(number), {})[name] = (
            torch.empty_like(parameter, dtype=value.dtype).copy_(value) if value.ndim else value
        )
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
