"""Linear maps of lower rank: one layer becomes two thinner ones."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from mathnas.compression.alternative import Alternative, Call, InapplicableError, RecordedNode
from mathnas.compression.refit import Moments, seen_rows, weights_of
from mathnas.compression.selection import damped
from mathnas.errors import InvalidInputError

_LEAST = 16  # inputs and outputs of a layer that is worth two


class LowRankAlternative(Alternative):
    """The node whose linear layers and 1x1 convolutions are products of two thinner ones.

    Left as they are: layers whose weights the node's code takes besides calling them, or instead,
    as torch's own transformer layers do.

    A layer keeps the directions in which its outputs vary most on the samples: the singular vectors
    of its weights after whitening by its inputs (as in data-aware low-rank approximation), and its
    bias makes up for the mean of what is lost.

    Args:
        share: of a layer's multiply-accumulates that its two layers have, above 0 and below 1.

    Raises:
        InvalidInputError: the share is out of range.
    """

    def __init__(self, share: float) -> None:
        if not 0 < share < 1:
            raise InvalidInputError(
                f"a rank is a share of the work above 0 and below 1, but got {share}."
            )
        self.share = share
        self.name = f"rank:{share:g}"

    def build(self, node: RecordedNode) -> nn.Module:
        made = copy.deepcopy(node.module)
        changed, why = 0, f"{node.name} runs none"
        for name, layer in node.module.named_modules():
            # a class of one's own may do more than its weights say
            if type(layer) is not nn.Linear and not _is_pointwise(layer):
                continue
            outputs, inputs = layer.get_parameter("weight").shape[:2]
            rank = int(self.share * inputs * outputs / (inputs + outputs))
            if not name or min(inputs, outputs) < _LEAST or rank < 1:
                continue
            pairs = seen_rows(node.module, name, node.calls, node.seed)
            if pairs is None:
                continue
            before = made.get_submodule(name)
            made.set_submodule(name, _factored(layer, Moments.of(pairs).inputs, rank))
            asked = _asked(node.calls[0], made)
            if asked is None:
                changed += 1
            else:
                made.set_submodule(name, before)
                why = f"the code around {name} in {node.name} asks more of it ({asked})"
        if not changed:
            raise InapplicableError(
                f"linear layers and 1x1 convolutions of at least {_LEAST} inputs and outputs are "
                f"factored, but {why}."
            )
        return made.eval()


def _asked(call: Call, made: nn.Module) -> str | None:
    """What a node's code asks of a layer that two layers have not; None where it only calls it."""
    try:
        with torch.no_grad():
            call.run(made)
    except Exception as error:  # whatever the model's code raises
        return f"{type(error).__name__}: {error}"
    return None


def _is_pointwise(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Conv2d
        and layer.groups == 1
        and layer.kernel_size == (1, 1)
        and layer.padding == (0, 0)
    )


def _factored(layer: nn.Module, gram: Tensor, rank: int) -> nn.Sequential:
    """Two layers for one.

    Args:
        gram: squares and products of its inputs, and of a one where it has a bias.
    """
    inputs = layer.get_parameter("weight").shape[1]
    rows = weights_of(layer).double()
    weights, bias = rows[:inputs], rows[inputs:]
    own, mean = gram[:inputs, :inputs], None
    if len(bias):
        mean = gram[:inputs, -1] / gram[-1, -1]
        own = own - torch.outer(mean, mean) * gram[-1, -1]
    root = torch.linalg.cholesky(damped(own))
    left, values, right = torch.linalg.svd(root.T @ weights, full_matrices=False)
    first = torch.linalg.solve_triangular(root.T, left[:, :rank], upper=True)
    second = values[:rank, None] * right[:rank]
    if mean is not None:
        bias = bias + mean @ (weights - first @ second)
    outputs = weights.shape[1]
    if isinstance(layer, nn.Conv2d):
        made = nn.Sequential(
            nn.Conv2d(inputs, rank, 1, cast("tuple[int, int]", layer.stride), bias=False),
            nn.Conv2d(rank, outputs, 1, bias=len(bias) > 0),
        )
    else:
        made = nn.Sequential(
            nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=len(bias) > 0)
        )
    with torch.no_grad():
        for part, matrix in zip(made, (first, second), strict=True):
            weight = part.get_parameter("weight")
            weight.copy_(matrix.T.reshape(weight.shape))
        if len(bias):
            made[1].get_parameter("bias").copy_(bias[0])
    return made.to(layer.get_parameter("weight").dtype)
