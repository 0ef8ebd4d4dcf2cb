"""Genes of networks: what evolutions draw anew, mutate and inherit, each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from mathnas.space import Indices, SearchSpace
from mathnas.spaces import SuperTransformer

_FROM_ONE = 0.5  # the probability that a gene is the first parent's


class Genome:
    """The networks of a space as rows of genes, arrays of shape (k, number of genes).

    A node's block has one gene, or several that name it together, and each depth rule has one more:
    how many of its nodes are present. The genes of an absent node are silent. They are inherited
    all the same, and count where a descendant is deep enough. A gene is drawn uniformly over its
    choices, so that shallow networks are as frequent as deep ones (uniform over networks they would
    be one in thousands).

    Args:
        space: of the networks.
        blocks: for each node the blocks that are not the absent one, in an array with one axis a
            gene; by default one gene a node.

    Attributes:
        sizes: how many choices each gene has, nodes first and then depths.
    """

    def __init__(self, space: SearchSpace, blocks: Sequence[Indices] | None = None) -> None:
        self.space = space
        self._blocks = tuple(_present(space) if blocks is None else blocks)
        ends = list(accumulate((own.ndim for own in self._blocks), initial=0))
        self._genes = [slice(*own) for own in pairwise(ends)]
        self._depths = slice(ends[-1], None)
        choices = [size for own in self._blocks for size in own.shape]
        self.sizes = np.array(choices + [len(rule.nodes) + 1 for rule in space.depth_rules])

    def networks(self, genes: Indices) -> Indices:
        """What rows of genes say, shape (k, m)."""
        found = np.empty((len(genes), self.space.num_nodes), dtype=np.intp)
        for node, (blocks, own) in enumerate(zip(self._blocks, self._genes, strict=True)):
            found[:, node] = blocks[tuple(genes[:, own].T)]
        for rule, depth in zip(self.space.depth_rules, genes[:, self._depths].T, strict=True):
            for place, (node, absent) in enumerate(zip(rule.nodes, rule.absent, strict=True)):
                found[depth <= place, node] = absent
        return found

    def of(self, networks: Indices, rng: np.random.Generator) -> Indices:
        """Genes of networks; silent ones are drawn."""
        genes = self.drawn(len(networks), rng)
        for node, (blocks, own) in enumerate(zip(self._blocks, self._genes, strict=True)):
            places = np.full(self.space.sizes[node], -1)
            places[blocks.ravel()] = np.arange(blocks.size)
            chosen = places[networks[:, node]]
            present = chosen >= 0
            genes[present, own] = np.stack(np.unravel_index(chosen[present], blocks.shape), axis=-1)
        depths = [
            np.sum(networks[:, rule.nodes] != np.array(rule.absent), axis=1)
            for rule in self.space.depth_rules
        ]
        if depths:
            genes[:, self._depths] = np.stack(depths, axis=-1)
        return genes

    def drawn(self, size: int, rng: np.random.Generator) -> Indices:
        """Rows with every gene drawn by itself."""
        genes: Indices = rng.integers(self.sizes, size=(size, len(self.sizes)))
        return genes

    def mutants(
        self, parents: Indices, probability: float, size: int, rng: np.random.Generator
    ) -> Indices:
        """Random parents in which each gene is drawn anew with this probability."""
        rows = parents[rng.integers(len(parents), size=size)]
        redrawn = rng.random(rows.shape) < probability
        children: Indices = np.where(redrawn, self.drawn(size, rng), rows)
        return children

    def crossed(self, parents: Indices, size: int, rng: np.random.Generator) -> Indices:
        """Children that have each gene of one of two random parents."""
        one, other = parents[rng.integers(len(parents), size=(2, size))]
        children: Indices = np.where(rng.random(one.shape) < _FROM_ONE, one, other)
        return children


def genome_of(space: SearchSpace) -> Genome:
    """The finest genes that are known of a space: those of HAT's supernet by layer and by choice,
    elsewhere the block of each node."""
    if not isinstance(space, SuperTransformer):
        return Genome(space)
    ffn, heads, attention = map(len, (space.ffn, space.heads, space.attention))
    # the order in which blocks are counted, see `SuperTransformer`
    encoder = np.arange(ffn * heads).reshape(ffn, heads)
    decoder = np.arange(attention * heads * heads * ffn).reshape(attention, heads, heads, ffn)
    return Genome(space, [encoder] * space.encoder_layers + [decoder] * space.decoder_layers)


def _present(space: SearchSpace) -> list[Indices]:
    """For each node its blocks but the absent one."""
    blocks: list[Indices] = [np.arange(size) for size in space.sizes]
    for rule in space.depth_rules:
        for node, absent in zip(rule.nodes, rule.absent, strict=True):
            blocks[node] = np.delete(blocks[node], absent)
    return blocks
