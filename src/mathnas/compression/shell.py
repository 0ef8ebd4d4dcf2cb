"""A model with exchangeable nodes: a copy of its structure that shares most of its weights.

Where a node stood, the copy has a slot; a run is told what each slot computes. So the model itself
is never edited, networks differ by what their slots are given, and what an earlier run computed in
a node can be given back instead of being computed again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import nn

from mathnas.compression.batches import Batch, run
from mathnas.compression.nodes import CutError

# called as the node is
Filling: TypeAlias = Callable[..., Any]

# what the slots compute in the run that goes on; every thread has its own
_FILLINGS: ContextVar[Sequence[Filling]] = ContextVar("fillings")


class Shell:
    """The structure of a model around its nodes, in evaluation mode.

    Args:
        model: left as it is.
        names: of the nodes, in the order in which they are called.

    Attributes:
        nodes: the originals, in evaluation mode; they share the model's weights as far as
            layout allows.

    Raises:
        CutError: the model cannot be copied.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        own = [model.get_submodule(name) for name in names]
        self.nodes = [_shared_copy(node) for node in own]
        slots = [_Slot(place, node) for place, node in enumerate(self.nodes)]
        self._model = _shared_copy(model, dict(zip(map(id, own), slots, strict=True)))
        self._slots = slots

    def run(self, batch: Batch, fillings: Sequence[Filling]) -> Any:
        """What the model gives for a batch where these stand in the places of its nodes.

        A filling that raises `Reached` ends the run, whose result is then what that holds.
        """
        token = _FILLINGS.set(fillings)
        try:
            return run(self._model, batch)
        except Reached as reached:
            return reached.output
        finally:
            _FILLINGS.reset(token)

    def with_blocks(self, blocks: Sequence[nn.Module]) -> nn.Module:
        """A plain module with blocks in the places of the nodes and its own memory."""
        memo: dict[int, object] = {}
        pairs = zip(self._slots, blocks, strict=True)
        memo.update({id(slot): copy.deepcopy(block) for slot, block in pairs})
        return copy.deepcopy(self._model, memo).eval()

    @property
    def rest(self) -> nn.Module:
        """What is around the nodes."""
        return self._model


class Reached(BaseException):
    """A run came to a node behind which nothing is wanted.

    It is none of the exceptions that a model may catch.

    Attributes:
        output: what the run gives.
    """

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output


class _Slot(nn.Module):
    """Stands where a node stood; it has the node's attributes."""

    def __init__(self, place: int, original: nn.Module) -> None:
        super().__init__()
        self.place = place
        # no submodule: its weights are no part of what is around the nodes
        self.__dict__["original"] = original

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _FILLINGS.get()[self.place](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "original" not in self.__dict__:
                raise
            return getattr(self.__dict__["original"], name)


def _shared_copy(module: nn.Module, exchanged: Mapping[int, nn.Module] | None = None) -> nn.Module:
    """A copy in evaluation mode that shares parameters and buffers, but weights of convolutions,
    which are laid out for speed.

    Args:
        exchanged: what takes the places of submodules, by their id.
    """
    memo: dict[int, object] = {
        id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())
    }
    memo.update(exchanged or {})
    try:
        made = copy.deepcopy(module, memo).eval()
    except Exception as error:
        raise CutError(
            f"a model is cut on a copy of it, but this {type(module).__name__} cannot be copied "
            f"({type(error).__name__}: {error}): remove what only training or a compiler needs."
        ) from error
    for part in made.modules():
        # what is given to several networks must stay as it is
        if getattr(part, "inplace", None) is True:
            part.inplace = False  # type: ignore[assignment]
        if isinstance(part, nn.Conv2d):
            _lay_out(part)
    return made


def _lay_out(conv: nn.Conv2d) -> None:
    """Channels last: depthwise convolutions on a CPU take half the time so."""
    weight = conv.weight
    if not weight.is_contiguous(memory_format=torch.channels_last):
        relaid = weight.detach().contiguous(memory_format=torch.channels_last)
        conv.weight = nn.Parameter(relaid, weight.requires_grad)
