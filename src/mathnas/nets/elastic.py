"""Elastic layers: one set of weights that serves several kernels and widths.

A layer holds the weights of its largest form. Every call names the form to run (`kernel`,
`out_channels`; the input's width is read from the input), nothing is remembered between calls, so
two threads may run two forms of one layer at the same time.

`cut` takes one form out of the shared weights and gives it as a function of the input, for one run.
A network's forms are all cut before it runs: that is many small operations, and each takes several
times as long where a large convolution has just emptied the processor's caches.

Kernels are shared as in once-for-all (Cai et al., ICLR 2020, section 3.2): a smaller kernel is the
centre of the next larger one times a learned matrix; or, as in NASViT, the centre itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from mathnas.errors import InvalidInputError


class ElasticConv2d(nn.Module):
    """A convolution with several kernel sizes and widths.

    Args:
        in_channels, out_channels: the largest widths; a narrower form uses the first channels.
        kernels: the kernel sizes, odd, for example ``(3, 5, 7)``.
        stride: the same for every form; the padding keeps a stride-1 output as large as the input.
        depthwise: one filter a channel. Its output is as wide as its input.
        matrices: whether a smaller kernel is the centre of the next larger one times a learned
            matrix; otherwise it is the centre itself.

    Raises:
        InvalidInputError: a kernel size is even or not positive, or a depthwise layer has two
            different widths.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernels: Sequence[int] = (1,),
        *,
        stride: int = 1,
        depthwise: bool = False,
        matrices: bool = True,
    ) -> None:
        super().__init__()
        self.kernels = tuple(sorted(set(kernels)))
        if not self.kernels or any(size < 1 or size % 2 == 0 for size in self.kernels):
            raise InvalidInputError(
                f"kernel sizes are odd and at least 1, so that they share a centre, but got "
                f"{tuple(kernels)}: choose among 1, 3, 5, 7, ..."
            )
        if depthwise and in_channels != out_channels:
            raise InvalidInputError(
                f"a depthwise convolution has as many outputs as inputs, but got {in_channels} "
                f"and {out_channels}: give the same number twice."
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        self.depthwise = depthwise
        largest = self.kernels[-1]
        # the largest form; as a layer of its own it is named as in the public checkpoints
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            largest,
            groups=in_channels if depthwise else 1,
            bias=False,
            device="meta",  # draws no random numbers for weights that are replaced at once
        )
        self.conv.weight = nn.Parameter(torch.zeros(self.conv.weight.shape))
        # from the largest kernel down: what a form's weights go through until they are as small
        self._steps = tuple(
            (large, small, _matrix_name(large, small) if matrices else None)
            for small, large in reversed(list(itertools.pairwise(self.kernels)))
        )
        for _, small, name in self._steps:
            if name is not None:
                self.register_parameter(name, nn.Parameter(torch.eye(small * small)))

    @property
    def weight(self) -> Tensor:
        """Of the largest form, shape (out_channels, in_channels or 1, kernel, kernel)."""
        return self.conv.weight

    def reset(self, generator: torch.Generator) -> None:
        """Draw He-normal weights (fan out) from `generator`; the kernel matrices to identity."""
        largest = self.kernels[-1]
        fan_out = largest * largest * (1 if self.depthwise else self.out_channels)
        with torch.no_grad():
            self.weight.normal_(0.0, math.sqrt(2.0 / fan_out), generator=generator)
            for _, small, name in self._steps:
                if name is not None:
                    self.get_parameter(name).copy_(torch.eye(small * small))

    def width(self, in_channels: int, out_channels: int | None = None) -> int:
        """Output channels of a form: as many as are asked for, by default all that it can have."""
        return out_channels or (in_channels if self.depthwise else self.out_channels)

    def weight_of(self, in_channels: int, out_channels: int, kernel: int) -> Tensor:
        """The weights of one form, shape (out_channels, in_channels or 1, kernel, kernel).

        Raises:
            InvalidInputError: the layer has no such form.
        """
        self._check(in_channels, out_channels, kernel)
        fan = 1 if self.depthwise else in_channels
        weight = self.weight
        # every view costs as much as the arithmetic of a small layer: none where all is used
        if fan < weight.shape[1]:
            # on a CPU the convolution takes up to 1.5 times as long on weights with gaps
            weight = weight[:out_channels, :fan].contiguous()
        elif out_channels < weight.shape[0]:
            weight = weight[:out_channels]
        for large, small, name in self._steps:
            if large <= kernel:
                break
            border = (large - small) // 2
            centre = weight[:, :, border : border + small, border : border + small]
            if name is None:
                weight = centre.contiguous()
                continue
            moved = functional.linear(
                centre.reshape(out_channels, fan, small * small), getattr(self, name)
            )
            weight = moved.view(out_channels, fan, small, small)
        return weight

    def forward(
        self, x: Tensor, *, out_channels: int | None = None, kernel: int | None = None
    ) -> Tensor:
        """Run one form; by default the widest output and the largest kernel.

        Args:
            x: shape (batch, channels, height, width), with at most `in_channels` channels.
        """
        return self.cut(x.shape[1], out_channels=out_channels, kernel=kernel)(x)

    def cut(
        self, in_channels: int, *, out_channels: int | None = None, kernel: int | None = None
    ) -> Callable[[Tensor], Tensor]:
        """One form on the shared weights, as a function of inputs with `in_channels` channels.

        It is for one run: it need not follow weights that change afterwards.

        Raises:
            InvalidInputError: the layer has no such form.
        """
        outputs = self.width(in_channels, out_channels)
        size = kernel or self.kernels[-1]
        return partial(
            functional.conv2d,
            weight=self.weight_of(in_channels, outputs, size),
            stride=self.stride,
            padding=size // 2,
            groups=in_channels if self.depthwise else 1,
        )

    def extract(
        self, in_channels: int, *, out_channels: int | None = None, kernel: int | None = None
    ) -> nn.Conv2d:
        """One form as a plain convolution with its own memory."""
        outputs = self.width(in_channels, out_channels)
        size = kernel or self.kernels[-1]
        weight = self.weight_of(in_channels, outputs, size).detach()
        conv = nn.Conv2d(
            in_channels,
            outputs,
            size,
            stride=self.stride,
            padding=size // 2,
            groups=in_channels if self.depthwise else 1,
            bias=False,
            device="meta",  # draws no random numbers for weights that are replaced at once
        )
        conv.weight = nn.Parameter(weight.clone())
        return conv

    def _check(self, in_channels: int, out_channels: int, kernel: int) -> None:
        if kernel not in self.kernels:
            raise InvalidInputError(
                f"this convolution has the kernels {self.kernels}, but {kernel} was asked for."
            )
        if not (1 <= in_channels <= self.in_channels and 1 <= out_channels <= self.out_channels):
            raise InvalidInputError(
                f"this convolution has up to {self.in_channels} inputs and {self.out_channels} "
                f"outputs, but {in_channels} and {out_channels} were asked for."
            )
        if self.depthwise and in_channels != out_channels:
            raise InvalidInputError(
                f"a depthwise convolution has as many outputs as inputs, but {in_channels} and "
                f"{out_channels} were asked for."
            )


def _matrix_name(large: int, small: int) -> str:
    # the spelling of the public once-for-all checkpoints
    return f"{large}to{small}_matrix"
