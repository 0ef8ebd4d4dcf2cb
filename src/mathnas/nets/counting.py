"""MACs and parameters as torch counts them: a check of what spaces declare by formula."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def counted_macs(module: nn.Module, example: Tensor) -> float:
    """Multiply-accumulates of one input, of convolutions and matrix products, without biases.

    Args:
        module: in evaluation mode.
        example: inputs of shape (batch, ...).
    """
    return counted_macs_of(module, example) / len(example)


def counted_macs_of(function: Callable[..., object], *args: object) -> float:
    """As `counted_macs`, of all that a call of a function computes."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(*args)
    # two floating-point operations a multiply-accumulate
    return float(counter.get_total_flops()) / 2


def counted_params(module: nn.Module) -> int:
    """Elements of all parameters; buffers, such as running statistics, are none."""
    return sum(parameter.numel() for parameter in module.parameters())
