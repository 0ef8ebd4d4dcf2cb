"""Batch normalisations folded into the convolutions before them: a network with the same outputs,
fewer operations, and weights that depend on the statistics."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights


def folded(module: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a static module without the normalisations that follow a convolution directly.

    Which ones do is seen in a run: the input of the normalisation is the output of a convolution.
    Others stay.

    Args:
        module: in evaluation mode; what a convolution that is normalised puts out goes nowhere
            else.
        example: an input, shape (batch, ...).
    """
    return folding(module, example)[0]


def folding(module: nn.Module, example: Tensor) -> tuple[nn.Module, set[str]]:
    """What `folded` gives, and the names of the convolutions whose weights it changed."""
    found = copy.deepcopy(module).eval()
    follows = _followed(found, example)
    changed = set(follows.values())
    names = {name for name, part in found.named_modules() if part in changed}
    for norm, conv in follows.items():
        assert isinstance(norm, _BatchNorm)
        _fold(conv, norm)
    for parent in list(found.modules()):
        for name, child in list(parent.named_children()):
            if child in follows:
                setattr(parent, name, nn.Identity())
    return found, names


def _followed(module: nn.Module, example: Tensor) -> dict[nn.Module, nn.Conv2d]:
    """Normalisations, each with the convolution that it follows directly."""
    made_by: dict[int, nn.Conv2d] = {}
    kept_alive: list[Tensor] = []  # so that no other tensor gets the number of one of these
    follows: dict[nn.Module, nn.Conv2d] = {}

    def after_convolution(part: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(part, nn.Conv2d)
        made_by[id(output)] = part
        kept_alive.append(output)

    def before_norm(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        conv = made_by.get(id(inputs[0]))
        if conv is not None:
            follows[part] = conv

    hooks = []
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            hooks.append(part.register_forward_hook(after_convolution))
        elif isinstance(part, _BatchNorm):
            hooks.append(part.register_forward_pre_hook(before_norm))
    try:
        with torch.no_grad():
            module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return follows


def _fold(conv: nn.Conv2d, norm: _BatchNorm) -> None:
    assert norm.running_mean is not None  # extracted ones have statistics
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    conv.weight, conv.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
