"""Blocks in isolation: every block measured as a model of its own, and the sums.

Fast, since a space has far fewer blocks than networks, and biased: what a run costs besides the
arithmetic (a call of the engine, inputs and outputs that leave the cache, operators that are not
fused across blocks) is paid once a block instead of once a network.

The parts of networks are themselves a space, of one node, so that they are evaluated into a study
like networks: resumed, repeated, with conditions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.space import Block, BlockNode, Network, SearchSpace
from mathnas.study import Measurements, Study
from mathnas.table import BlockEffects, BlockTable

_WHOLE, _STEM, _HEAD = "reference network", "stem", "head"


class PartSpace(SearchSpace):
    """The parts of a space's networks; a "network" is one part.

    Part 0 is the whole reference network, which other parts are compared with; then stem, blocks in
    their order, and head.

    Args:
        whole: the space of the networks.
        computing: for every node and block, whether anything is computed; what is not has no part.

    Attributes:
        whole: the space of the networks.
        places: (node, block) of each part that is a block, by part.
    """

    def __init__(self, whole: SearchSpace, computing: Sequence[Sequence[bool]]) -> None:
        sizes = [len(own) for own in computing]
        if sizes != list(whole.sizes):
            raise InvalidInputError(
                f"parts are told for every block of {whole.name}, nodes of {list(whole.sizes)} "
                f"blocks, but got nodes of {sizes}."
            )
        self.whole = whole
        blocks = [
            (node, block)
            for node, own in enumerate(computing)
            for block, computes in enumerate(own)
            if computes
        ]
        self.places = dict(enumerate(blocks, start=2))
        names = [f"{whole.nodes[i].name}={whole.nodes[i].blocks[j].name}" for i, j in blocks]
        super().__init__(
            [BlockNode("part", tuple(map(Block, (_WHOLE, _STEM, *names, _HEAD))))],
            name=f"parts of {whole.name}",
        )

    @property
    def stem(self) -> Network:
        return (1,)

    @property
    def head(self) -> Network:
        return (self.num_blocks - 1,)

    @property
    def parts(self) -> list[Network]:
        """All parts but the reference network."""
        return [(part,) for part in range(1, self.num_blocks)]


def isolation_table(
    space: PartSpace,
    study: Study,
    metrics: Sequence[str],
    conditions: Mapping[str, Mapping[str, str]],
    reference: Network,
) -> BlockTable:
    """The table whose predictions are the sums of parts that were measured alone.

    Args:
        study: of the parts.
        conditions: by metric, under which the parts were measured.
        reference: what effects are relative to.

    Raises:
        InvalidInputError: a part was not measured.
    """
    columns = {
        name: _column(space, study.measurements(name, conditions[name]), reference)
        for name in metrics
    }
    provenance = {"method": "blocks in isolation", "study": study.path.name}
    return BlockTable(space.whole, reference, columns, provenance)


def _column(space: PartSpace, data: Measurements, reference: Network) -> BlockEffects:
    whole = space.whole
    own: dict[Network, tuple[float, float, float]] = {
        tuple(row): (value, 0.0 if math.isnan(spread) else spread**2 / repeats, repeats)
        for row, value, spread, repeats in zip(
            data.networks.tolist(), data.values, data.spread, data.repeats, strict=True
        )
    }
    missing = [part for part in space.parts if part not in own]
    if missing:
        raise InvalidInputError(
            f"a sum of parts needs all of them, but {space.block_names(missing[0])[0]!r} was not "
            f"measured for {data.metric.name} ({len(missing)} of {len(space.parts)} are missing): "
            "measure again, with more minutes."
        )
    values, variances = np.zeros(whole.num_blocks), np.zeros(whole.num_blocks)
    contexts = np.zeros(whole.num_blocks)
    for part, (node, block) in space.places.items():
        row = int(whole.offsets[node]) + block
        values[row], variances[row], contexts[row] = own[(part,)]
    chosen = whole.offsets[:-1] + np.array(reference)
    base = math.fsum([own[space.stem][0], *values[chosen].tolist(), own[space.head][0]])
    spread = np.sqrt(variances + np.repeat(variances[chosen], whole.sizes))
    spread[chosen] = 0.0
    return BlockEffects(
        data.metric,
        base,
        values - np.repeat(values[chosen], whole.sizes),
        spread,
        contexts,
        conditions=data.conditions,
    )
