"""Batch normalisation of a supernet: shared weights, and statistics that belong to no network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from mathnas.errors import InvalidInputError


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose first channels serve narrower inputs.

    In training mode a call normalises with its own batch's statistics and stores nothing: averages
    over different sub-networks would describe none of them. In evaluation mode it uses the stored
    statistics, which come from a checkpoint; an extracted sub-network gets its own from
    `mathnas.nets.batchnorm.recalibrate`.

    Args:
        channels: the largest width.
        affine: whether it has learned scales and shifts.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x of shape (batch, channels, height, width), with at most `channels`."""
        return self.cut(x.shape[1])(x)

    def cut(self, channels: int) -> Callable[[Tensor], Tensor]:
        """The first channels as a function of their inputs, for one run; see `ElasticConv2d.cut`.

        Raises:
            InvalidInputError: there are fewer channels.
        """
        width = self._check(channels)
        parts: list[Tensor | None] = [self.running_mean, self.running_var, self.weight, self.bias]
        if self.training:
            parts[:2] = None, None
        if width < self.num_features:  # a view costs as much as the arithmetic of a small layer
            parts = [None if part is None else part[:width] for part in parts]
        mean, var, weight, bias = parts
        return partial(
            functional.batch_norm,
            running_mean=mean,
            running_var=var,
            weight=weight,
            bias=bias,
            training=self.training,
            eps=self.eps,
        )

    def extract(self, channels: int) -> nn.BatchNorm2d:
        """The first channels as a plain batch normalisation with its own memory, for inference."""
        width = self._check(channels)
        norm = nn.BatchNorm2d(
            width,
            eps=self.eps,
            affine=self.affine,
            device=self.running_mean.device,
            dtype=self.running_mean.dtype,
        )
        if self.affine:
            with torch.no_grad():
                norm.weight.copy_(self.weight[:width])
                norm.bias.copy_(self.bias[:width])
        norm.running_mean = self.running_mean[:width].clone()
        norm.running_var = self.running_var[:width].clone()
        return norm.eval()

    def _check(self, channels: int) -> int:
        if not 1 <= channels <= self.num_features:
            raise InvalidInputError(
                f"this batch normalisation has up to {self.num_features} channels, but got "
                f"{channels}."
            )
        return channels
