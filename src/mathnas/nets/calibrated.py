"""Batch-norm statistics of blocks that run in many networks.

An extracted network is recalibrated as a whole; a block that stays resident and serves whatever
network is wanted next can have one set of statistics only, or one for each block that may run
before it. What it sees depends on all blocks before it. Here every image of a batch comes through
blocks that were drawn for it, so that a block is normalised over the mixture of its contexts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mathnas._progress import Show, progress_bar
from mathnas.errors import InvalidInputError
from mathnas.nets.batchnorm import Statistics
from mathnas.nets.supernet import ChainSupernet, StagedNetwork
from mathnas.space import Network, SearchSpace

Place = tuple[int, int, "int | None"]
"""Node, block, and the block of the node before that its statistics are for (None: for all)."""


class Sharing(str, Enum):
    """Which networks share statistics."""

    BLOCK = "block"
    """All that have the block."""
    PAIR = "pair"
    """Those that have the block and the one before it."""
    ENTRY = "entry"
    """As `PAIR` in the first part of a block (of a group's candidate the first layer that computes
    something), as `BLOCK` behind it: what else depends on statistics, such as weights into which
    batch norms are folded, is there once a block."""


@dataclass(frozen=True)
class CalibratedParts:
    """Stem, blocks and head with statistics of their own, in evaluation mode.

    Attributes:
        space: whose blocks they are.
        stem, head: as modules.
        blocks: by place; `nn.Identity` where nothing is computed.
        by_pair: whether blocks behind the first node have a module for each block before them.
    """

    space: SearchSpace
    stem: nn.Module
    blocks: Mapping[Place, nn.Module]
    head: nn.Module
    by_pair: bool

    def block(self, node: int, block: int, previous: int | None) -> nn.Module:
        """A block after `previous` of the node before (None for the first node)."""
        return self.blocks[node, block, previous if self.by_pair and node else None]

    def network(self, network: Sequence[int | str]) -> StagedNetwork:
        """A network of the parts; it shares their memory.

        Raises:
            InvalidInputError: the network does not belong to the space.
        """
        chosen = self.space.check(network)
        before: list[int | None] = [None, *chosen]
        nodes = [self.block(i, j, before[i]) for i, j in enumerate(chosen)]
        return StagedNetwork(self.stem, nodes, self.head).eval()


def calibrated_parts(
    supernet: ChainSupernet,
    batches: Iterable[Tensor],
    *,
    sharing: Sharing = Sharing.BLOCK,
    context: Network | None = None,
    seed: int = 0,
    progress: Show = False,
) -> CalibratedParts:
    """Extract every part of a supernet and set its statistics for the contexts it runs in.

    Every batch runs through every block once (or once for each block before it), normalised
    with its own mean and biased variance, as in `recalibrate`. The block before is drawn for each
    image, evenly and independently, so that images of one batch come through different networks.

    Args:
        supernet: whose weights are extracted; it is not changed.
        batches: training images, each of shape (batch, channels, height, width).
        sharing: which networks share statistics. Blocks before the one that these are for are
            mixed in any case.
        context: instead of mixing, all images come through the blocks of this network.
        seed: of the drawing.

    Raises:
        InvalidInputError: there is no batch, one holds a single value a channel, or the context
            does not belong to the space.
    """
    space = supernet.space
    chosen = None if context is None else space.check(context)
    given = list(batches)
    if not given:
        raise InvalidInputError("calibration needs at least one batch, but got none.")
    parts = _extracted(supernet, by_pair=sharing is Sharing.PAIR)
    passes = 2 if sharing is Sharing.ENTRY else 1
    with progress_bar("calibrating", passes * len(given), progress) as bar:
        for entries in (False, True)[:passes]:
            parts = _by_pair(parts) if entries else parts
            run = _Calibration(parts, chosen, np.random.default_rng(seed), entries=entries)
            for batch in given:
                run.observe(batch)
                bar.advance(1)
            run.write()
    return parts


def _extracted(supernet: ChainSupernet, *, by_pair: bool) -> CalibratedParts:
    blocks = {
        (node, block, before): supernet.extract_block(node, block)
        for node, block, before in _places(supernet.space, by_pair)
    }
    stem, head = supernet.extract_stem(), supernet.extract_head()
    return CalibratedParts(supernet.space, stem, blocks, head, by_pair)


def _by_pair(parts: CalibratedParts) -> CalibratedParts:
    """One copy of each block for each one before it."""
    blocks = {
        place: copy.deepcopy(parts.block(*place)) for place in _places(parts.space, by_pair=True)
    }
    return CalibratedParts(parts.space, parts.stem, blocks, parts.head, by_pair=True)


def _places(space: SearchSpace, by_pair: bool) -> list[Place]:
    return [
        (node, block, before)
        for node, size in enumerate(space.sizes)
        for block in range(size)
        for before in (range(space.sizes[node - 1]) if by_pair and node else [None])
    ]


class _Calibration:
    """What the normalisations of all parts saw so far.

    Args:
        entries: of blocks behind the first node, only the first parts are set anew.
    """

    def __init__(
        self,
        parts: CalibratedParts,
        context: Network | None,
        rng: np.random.Generator,
        *,
        entries: bool,
    ) -> None:
        self.parts = parts
        self.context = context
        self.rng = rng
        every = [parts.stem, *parts.blocks.values(), parts.head]
        self.statistics = {module: Statistics() for module in every}
        self.split: dict[nn.Module, list[nn.Module]] = {
            module: list(module)
            for (node, _, _), module in parts.blocks.items()
            if entries and node and isinstance(module, nn.Sequential)
        }

    def observe(self, batch: Tensor) -> None:
        """Take one batch in: through the stem, all blocks node by node, and the head."""
        space = self.parts.space
        outputs = [self._run(self.parts.stem, batch)]  # of the node before, one a block
        for node, size in enumerate(space.sizes):
            if self.parts.by_pair and node:
                after = [
                    self._mixed(
                        [
                            self._run(self.parts.blocks[node, block, before], x)
                            for before, x in enumerate(outputs)
                        ],
                        node - 1,
                    )
                    for block in range(size)
                ]
            else:
                after = [
                    self._run(self.parts.blocks[node, block, None], self._mixed(outputs, node - 1))
                    for block in range(size)
                ]
            outputs = after
        self._run(self.parts.head, self._mixed(outputs, space.num_nodes - 1))

    def write(self) -> None:
        for module, statistics in self.statistics.items():
            statistics.write(self.split.get(module, [module])[0])

    def _run(self, module: nn.Module, inputs: Tensor) -> Tensor:
        entry, *others = self.split.get(module, [module])
        (outputs,) = self.statistics[module].observe(entry, [inputs])
        with torch.no_grad():
            for part in others:
                outputs = part(outputs)
        return outputs

    def _mixed(self, outputs: Sequence[Tensor], node: int) -> Tensor:
        """Each image's output of a block of `node` (-1: the stem) that is drawn for it."""
        if len(outputs) == 1:
            return outputs[0]
        if self.context is not None:
            return outputs[self.context[node]]
        drawn = torch.from_numpy(_even(len(outputs), len(outputs[0]), self.rng))
        mixed = torch.empty_like(outputs[0])
        for block, own in enumerate(outputs):
            rows = drawn == block
            mixed[rows] = own[rows]
        return mixed


def _even(choices: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """So many draws, each choice as often as every other (but for one), in random order."""
    drawn: npt.NDArray[np.intp] = rng.permutation(np.arange(count) % choices)
    return drawn
