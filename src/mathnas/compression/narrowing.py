"""Channels of a hidden dimension that are taken out of a node."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mathnas.compression.batches import first_tensor
from mathnas.compression.probing import Hidden, Structure

_AGREES = 1e-4  # of the largest output


def narrowed(module: nn.Module, hidden: Hidden, kept: Tensor) -> nn.Module:
    """A copy of a node that has only these channels of a hidden dimension.

    Args:
        kept: indices of channels, ascending.
    """
    made = copy.deepcopy(module)
    for name in hidden.producers:
        layer = made.get_submodule(name)
        _cut(layer, "weight", kept)
        _cut(layer, "bias", kept)
        _resize(layer, ("out_channels", "out_features"), len(kept))
    for name in hidden.through:
        layer = made.get_submodule(name)
        for own in ("weight", "bias", "running_mean", "running_var"):
            _cut(layer, own, kept)
        sizes = ("num_features", "in_channels", "out_channels", "groups", "num_parameters")
        _resize(layer, sizes, len(kept))
    for name in hidden.consumers:
        layer = made.get_submodule(name)
        weight = layer.get_parameter("weight")
        layer.weight = _like(weight, weight.detach()[:, kept])
        _resize(layer, ("in_channels", "in_features"), len(kept))
    return made


def masked(module: nn.Module, hidden: Hidden, kept: Tensor) -> nn.Module:
    """A copy of a node in which nothing reads the other channels."""
    made = copy.deepcopy(module)
    lost = torch.ones(hidden.channels, dtype=torch.bool)
    lost[kept] = False
    with torch.no_grad():
        for name in hidden.consumers:
            made.get_submodule(name).get_parameter("weight")[:, lost] = 0
    return made


def disagreement(
    module: nn.Module, hidden: Hidden, kept: Tensor, structure: Structure
) -> str | None:
    """Why a narrowed node is not the node without those channels; None where it is."""
    with torch.no_grad():
        expected = first_tensor(structure.call.run(masked(module, hidden, kept)))
        try:
            found = first_tensor(structure.call.run(narrowed(module, hidden, kept)))
        except Exception as error:  # whatever the model's code raises at another width
            return f"it does not run with {len(kept)} of {hidden.channels} ({error})"
    if found.shape != expected.shape:
        return f"its output has another shape with {len(kept)} of {hidden.channels}"
    scale = max(1.0, float(expected.abs().max()))
    off = float((found - expected).abs().max()) / scale
    if off > _AGREES:
        return f"with {len(kept)} of {hidden.channels} it differs by {off:.2g} of its output"
    return None


def _cut(layer: nn.Module, name: str, kept: Tensor) -> None:
    tensor = getattr(layer, name, None)
    if not isinstance(tensor, Tensor) or tensor.ndim == 0:
        return
    made = tensor.detach()[kept].clone()
    setattr(layer, name, _like(tensor, made) if isinstance(tensor, nn.Parameter) else made)


def _like(parameter: nn.Parameter, values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.clone(), parameter.requires_grad)


def _resize(layer: nn.Module, names: tuple[str, ...], size: int) -> None:
    for name in names:
        if hasattr(layer, name):
            setattr(layer, name, size)
