"""A linear map inside a node, fitted again to what the original gave: damped least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mathnas.compression.alternative import Call, RecordedNode
from mathnas.compression.probing import Mixing, watched
from mathnas.compression.selection import damped

MOST_ROWS = 4096  # positions of a call that are used: what least squares needs, and memory bears
_SAME = 1e-3


@dataclass
class Moments:
    """Sums over positions of a map's inputs x and wanted outputs y.

    Attributes:
        inputs: of x x', shape (features, features).
        products: of x y', shape (features, outputs).
    """

    inputs: Tensor
    products: Tensor

    @classmethod
    def of(cls, pairs: list[tuple[Tensor, Tensor]]) -> Moments:
        rows = [(x.double(), y.double()) for x, y in pairs]
        return cls(
            cast(Tensor, sum(x.T @ x for x, _ in rows)), cast(Tensor, sum(x.T @ y for x, y in rows))
        )

    def solved(self, weights: Tensor) -> Tensor:
        """The map of least squares, drawn to the given weights where positions say nothing; shape
        (features, outputs)."""
        matrix = damped(self.inputs)
        pull = matrix - self.inputs
        found: Tensor = torch.linalg.solve(matrix, self.products + pull @ weights.double())
        return found


def rows_of(layer: nn.Module, given: Tensor) -> Tensor | None:
    """A layer's inputs as rows, shape (positions, features), each with a one for the bias.

    None where a convolution pads in a way of its own.
    """
    if isinstance(layer, nn.Linear):
        rows = given.reshape(-1, given.shape[-1])
    elif isinstance(layer, nn.Conv2d):
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return None
        if layer.kernel_size == (1, 1) and layer.padding == (0, 0):
            picked = given[:, :, :: layer.stride[0], :: layer.stride[1]]
            rows = picked.movedim(1, -1).reshape(-1, given.shape[1])
        else:
            taps = functional.unfold(
                given,
                cast("tuple[int, int]", layer.kernel_size),
                cast("tuple[int, int]", layer.dilation),
                cast("tuple[int, int]", layer.padding),
                cast("tuple[int, int]", layer.stride),
            )
            rows = taps.transpose(1, 2).reshape(-1, taps.shape[1])
    else:
        return None
    if layer.bias is None:
        return rows
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)


def targets_of(layer: nn.Module, output: Tensor) -> Tensor:
    """A layer's outputs as rows, shape (positions, outputs)."""
    axis = -1 if isinstance(layer, nn.Linear) else 1
    return output.movedim(axis, -1).reshape(-1, output.shape[axis])


def weights_of(layer: nn.Module) -> Tensor:
    """Weights and bias as `rows_of` takes them, shape (features, outputs)."""
    own = cast(Mixing, layer)
    weight = own.weight.detach().flatten(1).T
    return weight if own.bias is None else torch.cat([weight, own.bias.detach()[None]], 0)


def seen_rows(
    module: nn.Module, name: str, calls: Sequence[Call], seed: int
) -> list[tuple[Tensor, Tensor]] | None:
    """Inputs and outputs of a layer in a node's calls, as rows of at most `MOST_ROWS` a call; the
    same positions for every module of the same outputs.

    None where the layer is no map of such rows.
    """
    layer = module.get_submodule(name)
    found: list[tuple[Tensor, Tensor]] = []
    odd = False

    def look(own: str, layer: nn.Module, given: Tensor, output: Tensor) -> Tensor:
        nonlocal odd
        rows, wanted = rows_of(layer, given), targets_of(layer, output)
        if rows is None or len(rows) != len(wanted):
            odd = True
            return output
        if len(rows) > MOST_ROWS:
            generator = torch.Generator().manual_seed(seed + len(found))
            some = torch.randperm(len(rows), generator=generator)[:MOST_ROWS]
            rows, wanted = rows[some], wanted[some]
        found.append((rows, wanted))
        return output

    with torch.no_grad(), watched({name: layer}, look):
        for call in calls:
            call.run(module)
    if odd or not found:
        return None
    x, y = found[0]
    off = (x @ weights_of(layer) - y).abs().max()
    return found if off <= _SAME * max(1.0, float(y.abs().max())) else None


def moments_of(node: RecordedNode, name: str) -> tuple[Tensor, Tensor] | None:
    """What a choice among a layer's inputs needs: their squares and products over a node's calls,
    less what a bias makes up for, shape (features, features), and the weights, shape (features,
    outputs).

    None where the layer is no map of rows.
    """
    pairs = seen_rows(node.module, name, node.calls, node.seed)
    if pairs is None:
        return None
    layer = node.module.get_submodule(name)
    gram, weights = Moments.of(pairs).inputs, weights_of(layer)
    features = layer.get_parameter("weight")[0].numel()
    if len(gram) > features:
        mean = gram[:features, -1:]
        gram = gram[:features, :features] - mean @ mean.T / gram[-1, -1]
    return gram, weights[:features]


def fit_to_original(node: RecordedNode, module: nn.Module, name: str) -> bool:
    """Give a layer of a changed node, in place, the weights of least squares with which it gives
    what it gives in the original.

    False, and nothing is done, where the layer is no map of rows.
    """
    wanted = seen_rows(node.module, name, node.calls, node.seed)
    found = seen_rows(module, name, node.calls, node.seed)
    if wanted is None or found is None:
        return False
    layer = cast(Mixing, module.get_submodule(name))
    pairs = [(x, y) for (x, _), (_, y) in zip(found, wanted, strict=True)]
    weights = Moments.of(pairs).solved(weights_of(layer)).to(layer.weight.dtype)
    with torch.no_grad():
        if layer.bias is not None:
            layer.bias.copy_(weights[-1])
            weights = weights[:-1]
        layer.weight.copy_(weights.T.reshape(layer.weight.shape))
    return True
