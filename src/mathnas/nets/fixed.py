"""One static network as a supernet of a single network: for the trainer and for evaluators."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import numpy as np
from torch import Tensor, nn

from mathnas.nets.supernet import Supernet
from mathnas.space import BlockNode, Network, PairCosts, SearchSpace, network_text


def fixed_space(space: SearchSpace, network: Sequence[int | str]) -> SearchSpace:
    """The space whose only network has the blocks of `network`; its costs stay.

    Raises:
        InvalidInputError: the network does not belong to the space.
    """
    chosen = space.check(network)
    nodes = [
        BlockNode(node.name, (node.blocks[block],))
        for node, block in zip(space.nodes, chosen, strict=True)
    ]
    return SearchSpace(
        nodes,
        name=f"{space.name} [{network_text(chosen)}]",
        fixed_macs=space.fixed_macs,
        fixed_params=space.fixed_params,
        pair_costs=[_chosen(pair, chosen) for pair in space.pair_costs],
    )


def _chosen(pair: PairCosts, network: Network) -> PairCosts:
    """The entry of a pair that a network has, as a matrix of one number."""
    entry = np.ix_([network[pair.first]], [network[pair.second]])
    return PairCosts(
        pair.first,
        pair.second,
        None if pair.macs is None else pair.macs[entry],
        None if pair.params is None else pair.params[entry],
    )


class FixedNetwork(Supernet):
    """A static network as a supernet. Its module is not copied: training it trains the module.

    Args:
        module: the network.
        space, network: what it is.
    """

    def __init__(self, module: nn.Module, space: SearchSpace, network: Sequence[int | str]) -> None:
        super().__init__()
        self.space = fixed_space(space, network)
        self.module = module

    @property
    def network(self) -> Network:
        """The only one."""
        return (0,) * self.space.num_nodes

    def extremes(self) -> tuple[Network, Network]:
        """The smallest and the largest network, also where MACs are unknown."""
        return self.network, self.network

    def forward(self, x: Tensor, network: Network) -> Tensor:
        return cast(Tensor, self.module(x))

    def extract(self, network: Network) -> nn.Module:
        self.space.check(network)
        return copy.deepcopy(self.module).eval()
