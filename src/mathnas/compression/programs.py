"""Compressed networks as programs of `torch.export` whose rounded weights are integers."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mathnas.compression.batches import (
    Batch,
    call_of,
    has_samples,
    run,
    sample_count,
    tensors_of,
)
from mathnas.compression.flattened import untraced
from mathnas.compression.levels import Levels, levels_of


def compressed_program(network: nn.Module, example: Batch, *, any_batch: bool = True) -> bytes:
    """The content of a ``.pt2`` file, which runs with torch alone and is called as the network is;
    it is not compared with the network.

    Args:
        network: in evaluation mode.
        example: a batch; at least two samples where the batch is left open.
        any_batch: leave the batch open.

    Raises:
        ExportError: torch cannot export the network; says what it said.
    """
    args, kwargs = call_of(example)
    shapes: Any = None
    if any_batch:
        batch, count = torch.export.Dim("batch"), sample_count(example)
        shapes = _shapes(args, batch, count)
        if kwargs:
            shapes = {name: _shapes(own, batch, count) for name, own in kwargs.items()}
    try:
        with torch.no_grad():
            program = torch.export.export(
                with_integers(network), args, kwargs, dynamic_shapes=shapes
            )
        # samples are the user's, and may be larger than the network
        program.example_inputs = None
        for node in program.graph.nodes:
            # where on this machine each line of code was: most of a small file
            node.meta.pop("stack_trace", None)
        content = io.BytesIO()
        with warnings.catch_warnings():
            # said of every weight whose channels come last in memory
            warnings.filterwarnings("ignore", message="No complete tensor found")
            torch.export.save(program, content)
    except Exception as error:  # what a trace comes upon has no common type
        raise untraced(network, "as a program", any_batch, error) from error
    return content.getvalue()


def run_program(content: bytes, batch: Batch) -> list[Tensor]:
    """The tensors that a program gives for a batch."""
    program = torch.export.load(io.BytesIO(content))
    with torch.no_grad():
        return list(tensors_of(run(program.module(), batch)))


def with_integers(network: nn.Module) -> nn.Module:
    """A copy whose rounded weights are computed from stored integers."""
    made = copy.deepcopy(network)
    for name, own in levels_of(network).items():
        layer = made.get_submodule(name.rpartition(".")[0])
        layer.requires_grad_(False)
        parametrize.register_parametrization(layer, "weight", _Values(own), unsafe=True)
    return made


class _Values(nn.Module):
    """The weight of integers and scales."""

    def __init__(self, levels: Levels) -> None:
        super().__init__()
        self._bits, self._shape = levels.bits, levels.steps.shape
        self._stored: tuple[Tensor, Tensor] | None = (
            levels.steps if levels.bits == 8 else levels.packed,
            levels.scales,
        )

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What torch stores: called once, when a layer gets this."""
        assert self._stored is not None
        stored, self._stored = self._stored, None
        return stored

    def forward(self, stored: Tensor, scales: Tensor) -> Tensor:
        steps = stored
        if self._bits == 4:
            halves = torch.stack([stored & 15, stored >> 4], 1).reshape(-1)
            # the upper half of a byte's range are the negative ones
            signed = ((halves + 8) & 15).to(torch.int8) - 8
            steps = signed[: self._shape.numel()].reshape(self._shape)
        shape = (-1, *[1] * (len(self._shape) - 1))
        return steps.to(scales.dtype) * scales.reshape(shape)


def _shapes(value: Any, batch: Any, count: int) -> Any:
    """Which sizes are open, in the structure of the arguments."""
    if isinstance(value, Tensor):
        return {0: batch} if has_samples(value, count) else {}
    if isinstance(value, Mapping):
        return {key: _shapes(item, batch, count) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_shapes(item, batch, count) for item in value)
    return None
