"""Smaller kernels: the centre of a convolution's."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from mathnas.compression.alternative import Alternative, InapplicableError, RecordedNode
from mathnas.compression.narrowing import difference, like
from mathnas.compression.probing import Probe
from mathnas.compression.refit import fit_to_original
from mathnas.errors import InvalidInputError

_LEAST_MACS = 0.02  # of a node's, of a layer that can make up for a kernel


class KernelAlternative(Alternative):
    """The node with the centres of its larger square kernels; the layer that reads what they make
    is fitted again.

    The cut is checked against the node whose kernels are zero around their centres, which also
    finds layers that pad in ways of their own.

    Args:
        size: of the kernels that are left, odd.

    Raises:
        InvalidInputError: the size is even or below 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1 or size % 2 == 0:
            raise InvalidInputError(f"a kernel's size is odd and at least 1, but got {size}.")
        self.size = size
        self.name = f"kernel:{size}"

    def build(self, node: RecordedNode) -> nn.Module:
        larger = [
            name
            for name, part in node.module.named_modules()
            if isinstance(part, nn.Conv2d) and _is_larger(part, self.size)
        ]
        if not larger:
            raise InapplicableError(
                f"kernels are cut where square ones of odd sizes above {self.size} are, but "
                f"{node.name} has none."
            )
        made, ringed = copy.deepcopy(node.module), copy.deepcopy(node.module)
        for name in larger:
            _cut(made.get_submodule(name), self.size)
            _zero_around(ringed.get_submodule(name), self.size)
        probe = Probe(node)
        why = difference(ringed, made, probe.call)
        if why is not None:
            raise InapplicableError(
                f"the kernels of {', '.join(larger)} in {node.name} cannot be cut to {self.size}: "
                f"{why}."
            )
        for name in larger:
            following = probe.order[probe.order.index(name) + 1 :]
            # a gate on the way has next to none
            least = _LEAST_MACS * sum(probe.macs.values())
            able = (one for one in following if one in probe.mixing and probe.macs[one] >= least)
            reader = next(able, None)
            if reader is not None and reader not in larger:
                fit_to_original(node, made, reader)
        return made


def _is_larger(conv: nn.Conv2d, size: int) -> bool:
    height, width = conv.kernel_size
    return height == width > size and height % 2 == 1 and not isinstance(conv.padding, str)


def _cut(conv: nn.Module, size: int) -> None:
    """Centre and padding, where that is the layer's own or in a padding layer that it holds."""
    assert isinstance(conv, nn.Conv2d)
    ring = (conv.kernel_size[0] - size) // 2
    centre = slice(ring, ring + size)
    weight = conv.get_parameter("weight")
    conv.weight = like(weight, weight.detach()[:, :, centre, centre])
    conv.kernel_size = (size, size)
    less = [ring * step for step in conv.dilation]
    padding = cast("tuple[int, ...]", conv.padding)
    if all(own >= cut for own, cut in zip(padding, less, strict=True)):
        conv.padding = tuple(own - cut for own, cut in zip(padding, less, strict=True))
    for part in conv.children():
        if isinstance(part, nn.ZeroPad2d):
            left, right, top, bottom = part.padding
            part.padding = (left - less[1], right - less[1], top - less[0], bottom - less[0])


def _zero_around(conv: nn.Module, size: int) -> None:
    assert isinstance(conv, nn.Conv2d)
    ring = (conv.kernel_size[0] - size) // 2
    with torch.no_grad():
        centre = conv.weight[:, :, ring : ring + size, ring : ring + size].clone()
        conv.weight.zero_()
        conv.weight[:, :, ring : ring + size, ring : ring + size] = centre
