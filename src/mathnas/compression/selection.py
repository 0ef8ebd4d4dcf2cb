"""Which channels a linear map can do without: second-order selection.

Let X hold the inputs of the map, one row a position, and W its weights. Taking out a set of columns
of X and fitting W again loses a sum of squares; the one column that loses least is found from the
inverse of X'X, and taken out together with what the others can make up for (optimal brain surgeon:
Hassibi and Stork, 1993, for all outputs of a layer at once).
"""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 1e-3  # of the mean square of an input, added to the squares
_SHRINK = 7 / 8  # of the channels are left: then the others' rows and columns are dropped


def damped(gram: Tensor) -> Tensor:
    """A Gram matrix that can be inverted."""
    size = float(gram.diagonal().mean())
    return gram + DAMPING * max(size, 1e-12) * torch.eye(len(gram)).to(gram)


def elimination_order(gram: Tensor, weights: Tensor, group: int = 1) -> list[int]:
    """Channels in the order in which they are best taken out, the least needed first.

    Args:
        gram: X'X, shape (channels * group, channels * group), in double precision.
        weights: shape (channels * group, outputs).
        group: columns of X that a channel has, next to each other.
    """
    inverse = torch.linalg.inv(damped(gram))
    rest = weights.double().clone()
    names = torch.arange(len(gram) // group)
    left = torch.ones(len(names), dtype=torch.bool)
    order: list[int] = []
    while len(names):
        channel = _least_needed(inverse, rest, left, group)
        own = slice(channel * group, (channel + 1) * group)
        block = torch.linalg.inv(inverse[own, own])
        column = inverse[:, own].clone()
        rest.addmm_(column, block @ rest[own], alpha=-1)
        inverse.addmm_(column @ block, column.T, alpha=-1)
        # gone: nothing is left to be made up there
        inverse[own], inverse[:, own] = 0.0, 0.0
        rest[own] = 0.0
        left[channel] = False
        order.append(int(names[channel]))
        if int(left.sum()) <= _SHRINK * len(left):
            columns = left.repeat_interleave(group)
            inverse, rest = inverse[columns][:, columns], rest[columns]
            names, left = names[left], left[left]
    return order


def _least_needed(inverse: Tensor, weights: Tensor, left: Tensor, group: int) -> int:
    if group == 1:
        lost = weights.square().sum(1) / inverse.diagonal().clamp_min(1e-300)
        lost[~left] = torch.inf
        return int(lost.argmin())
    count = len(left)
    blocks = inverse.reshape(count, group, count, group).diagonal(dim1=0, dim2=2)
    rows = weights.reshape(count, group, -1)
    lost = inverse.new_full((count,), torch.inf)
    found = torch.linalg.solve(blocks.permute(2, 0, 1)[left], rows[left])
    lost[left] = (rows[left] * found).sum((1, 2))
    return int(lost.argmin())
