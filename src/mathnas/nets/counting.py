"""MACs and parameters as torch counts them: a check of what spaces declare by formula."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def counted_macs(module: nn.Module, example: Tensor) -> float:
    """Multiply-accumulates of one input, of convolutions and matrix products, without biases.

    Args:
        module: in evaluation mode.
        example: inputs of shape (batch, ...).
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(example)
    # two floating-point operations a multiply-accumulate
    return float(counter.get_total_flops()) / 2 / len(example)


def counted_params(module: nn.Module) -> int:
    """Elements of all parameters; buffers, such as running statistics, are none."""
    return sum(parameter.numel() for parameter in module.parameters())
