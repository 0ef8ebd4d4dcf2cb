"""Channels of a hidden dimension that are taken out of a node."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mathnas.compression.alternative import Call
from mathnas.compression.batches import first_tensor
from mathnas.compression.probing import Hidden

_AGREES = 1e-4  # of the largest output


def narrowed(module: nn.Module, hidden: Hidden, kept: Tensor) -> nn.Module:
    """A copy of a node that has only these channels of a hidden dimension.

    Args:
        kept: indices of channels, ascending.
    """
    made = copy.deepcopy(module)
    for name in hidden.producers:
        layer = made.get_submodule(name)
        cut(layer, "weight", kept)
        cut(layer, "bias", kept)
        resize(layer, ("out_channels", "out_features"), len(kept))
    for name in hidden.through:
        layer = made.get_submodule(name)
        for own in ("weight", "bias", "running_mean", "running_var"):
            cut(layer, own, kept)
        sizes = ("num_features", "in_channels", "out_channels", "groups", "num_parameters")
        resize(layer, sizes, len(kept))
    for name in hidden.consumers:
        keep_inputs(made.get_submodule(name), kept)
    return made


def masked(module: nn.Module, hidden: Hidden, kept: Tensor) -> nn.Module:
    """A copy of a node in which nothing reads the other channels."""
    made = copy.deepcopy(module)
    lost = torch.ones(hidden.channels, dtype=torch.bool)
    lost[kept] = False
    for name in hidden.consumers:
        blank_inputs(made.get_submodule(name), lost)
    return made


def difference(expected: nn.Module, found: nn.Module, call: Call) -> str | None:
    """Why a narrowed node is not the node that does not read what was taken out; None where it is.

    Args:
        expected: the masked node.
        found: the narrowed one.
        call: samples for both.
    """
    with torch.no_grad():
        wanted = first_tensor(call.run(expected))
        try:
            given = first_tensor(call.run(found))
        except Exception as error:  # whatever the model's code raises at another width
            return f"it does not run when it is narrower ({error})"
    if given.shape != wanted.shape:
        return "its output has another shape when it is narrower"
    off = float((given - wanted).abs().max()) / max(1.0, float(wanted.abs().max()))
    return f"narrower, it differs by {off:.2g} of its output" if not off <= _AGREES else None


def cut(layer: nn.Module, name: str, kept: Tensor) -> None:
    """Keep these rows of a layer's tensor, where it has that."""
    tensor = getattr(layer, name, None)
    if not isinstance(tensor, Tensor) or tensor.ndim == 0:
        return
    made = tensor.detach()[kept].clone()
    setattr(layer, name, like(tensor, made) if isinstance(tensor, nn.Parameter) else made)


def keep_inputs(layer: nn.Module, kept: Tensor) -> None:
    """Let a layer read these of its inputs alone, in place."""
    weight = layer.get_parameter("weight")
    layer.weight = like(weight, weight.detach()[:, kept])
    resize(layer, ("in_channels", "in_features"), layer.weight.shape[1])


def blank_inputs(layer: nn.Module, lost: Tensor) -> None:
    """Let a layer read zeros in the places of these inputs, in place.

    Args:
        lost: shape (inputs,), true where they are.
    """
    with torch.no_grad():
        layer.get_parameter("weight")[:, lost] = 0


def like(parameter: nn.Parameter, values: Tensor) -> nn.Parameter:
    """A parameter as another one is, of other values."""
    return nn.Parameter(values.clone(), parameter.requires_grad)


def resize(layer: nn.Module, names: tuple[str, ...], size: int) -> None:
    """Let a layer's attributes say its new size, where it has them."""
    for name in names:
        if hasattr(layer, name):
            setattr(layer, name, size)
