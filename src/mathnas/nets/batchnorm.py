"""Batch-normalisation statistics of a sub-network.

Weights are shared between networks, statistics cannot be: each extracted network gets its own
before it is evaluated (Cai et al., once-for-all, ICLR 2020; Yu and Huang, ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mathnas.errors import InvalidInputError


@dataclass
class _Average:
    """Sample-weighted averages of batch mean and biased batch variance, per channel."""

    samples: int
    mean: Tensor
    variance: Tensor

    def add(self, samples: int, mean: Tensor, variance: Tensor) -> None:
        self.samples += samples
        share = samples / self.samples
        self.mean += share * (mean - self.mean)
        self.variance += share * (variance - self.variance)


def recalibrate(module: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    """Set the running statistics of every batch normalisation in `module` from `batches`.

    While the batches run, every normalisation uses its own batch's mean and biased variance; the
    sample-weighted averages of both are then written into its buffers. Other modules run in
    evaluation mode, and `module` is left in evaluation mode.

    Args:
        module: a static network, or a part of one; its normalisations must be its own (extracted,
            not shared).
        batches: inputs, each of shape (samples, ...).

    Returns:
        The outputs under batch statistics. They are what the next part of a network is to be
        recalibrated with: part by part gives the same statistics as the whole at once.

    Raises:
        InvalidInputError: there is no batch, or one holds a single value a channel.
    """
    module.eval()
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    averages: dict[_BatchNorm, _Average] = {}

    def observe(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        values = inputs[0]
        if values.numel() <= values.shape[1]:
            raise InvalidInputError(
                "a batch for recalibration holds more than one value a channel, but got the shape "
                f"{tuple(values.shape)}: use larger batches."
            )
        axes = [axis for axis in range(values.ndim) if axis != 1]
        variance, mean = torch.var_mean(values, axes, correction=0)
        if norm in averages:
            averages[norm].add(len(values), mean, variance)
        else:
            averages[norm] = _Average(len(values), mean, variance)

    hooks = [norm.register_forward_pre_hook(observe) for norm in norms]
    tracking = [norm.track_running_stats for norm in norms]
    try:
        for norm in norms:
            # together: normalise with the batch's own statistics, and leave the buffers alone
            norm.training = True
            norm.track_running_stats = False
        with torch.no_grad():
            outputs = [module(batch) for batch in batches]
    finally:
        for hook in hooks:
            hook.remove()
        for norm, tracked in zip(norms, tracking, strict=True):
            norm.training = False
            norm.track_running_stats = tracked
    if not outputs:
        raise InvalidInputError("recalibration needs at least one batch, but got none.")
    for norm, average in averages.items():
        norm.running_mean = average.mean
        norm.running_var = average.variance
    return outputs
