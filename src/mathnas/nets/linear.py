"""Linear layers whose weights come from a given generator, or are copied: no global draws."""

from __future__ import annotations

import math

import torch
from torch import nn


def new_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer of zeros, to be filled by `reset_linear` or a checkpoint."""
    return _linear(torch.zeros(outputs, inputs), torch.zeros(outputs))


def reset_linear(layer: nn.Linear, generator: torch.Generator) -> None:
    """Weights uniform within 1 / sqrt(inputs), biases zero."""
    bound = 1 / math.sqrt(layer.in_features)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.zero_()


def copied_linear(layer: nn.Linear) -> nn.Linear:
    """The same layer with its own memory."""
    return _linear(layer.weight.detach().clone(), layer.bias.detach().clone())


def sliced_linear(layer: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    """The first inputs and outputs of a layer, with its own memory."""
    weight, bias = layer.weight.detach(), layer.bias.detach()
    return _linear(weight[:outputs, :inputs].clone(), bias[:outputs].clone())


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    # the meta device draws no random numbers for weights that are replaced at once
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight)
    layer.bias = nn.Parameter(bias)
    return layer
