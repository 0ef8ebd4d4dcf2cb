"""What a supernet offers: shared weights that run any network, and static parts cut out of them.

The life of a supernet: it is trained (`mathnas.training`) by running many networks through
`forward`; a network is then *extracted* as a `StagedNetwork` with its own memory, its batch
normalisations are *recalibrated* (`mathnas.nets.batchnorm`), and it is evaluated or exported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn

from mathnas.space import Network, SearchSpace


class StagedNetwork(nn.Module):
    """A static network in the parts of its space: stem, one module a node, head."""

    def __init__(self, stem: nn.Module, nodes: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.nodes = nn.ModuleList(nodes)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (batch, channels, height, width) to logits of shape (batch, classes)."""
        x = self.stem(x)
        for node in self.nodes:
            x = node(x)
        return cast(Tensor, self.head(x))


class Supernet(nn.Module, ABC):
    """Networks of a space over shared weights.

    A run is told its network and must not remember it: two threads may run two networks at the same
    time.

    Attributes:
        space: the networks.
        input_channels: of its images.
    """

    space: SearchSpace
    input_channels: int = 3

    @property
    def resolution(self) -> int | None:
        """Side of the images that its space counts MACs at, in pixels; None where that is not
        said."""
        found = getattr(self.space, "resolution", None)
        return found if isinstance(found, int) else None

    @property
    def vocabulary_size(self) -> int | None:
        """How many tokens its sentences are of, as its space says; None where inputs are images."""
        found = getattr(self.space, "vocabulary", None)
        return found if isinstance(found, int) else None

    @abstractmethod
    def forward(self, x: Tensor, network: Network) -> Tensor:
        """Run one network on the shared weights: inputs to logits of shape (batch, classes), or
        of shape (tokens, vocabulary) where inputs are sentences."""

    @abstractmethod
    def extract(self, network: Network) -> nn.Module:
        """One network as a static module that shares no memory with the supernet.

        In evaluation mode it gives what the supernet gives in evaluation mode.

        Raises:
            InvalidInputError: the network does not belong to the space.
        """

    def part_keys(self, network: Network) -> Sequence[Hashable] | None:
        """What tells the parts of an extracted `StagedNetwork` apart: one key for the stem, each
        node and the head. Parts of two networks that have one key are alike.

        None where parts of two networks are never told to be alike: each is exported whole then.
        """
        return None


class ChainSupernet(Supernet):
    """A supernet whose nodes run one after another, between a stem and a head.

    Inherit from it and give the runs and the extractions of the three kinds of parts. Networks that
    have their first nodes in common can then share the work for them
    (`mathnas.nets.evaluators`). Where a block is cut out of shared weights, give `cut_node` too:
    a run of a whole network cuts all its blocks first.
    """

    @abstractmethod
    def run_stem(self, x: Tensor) -> Tensor:
        """Input to the first node's input."""

    @abstractmethod
    def run_node(self, node: int, block: int, x: Tensor) -> Tensor:
        """A node's input to its output through one of its blocks."""

    def cut_node(self, node: int, block: int) -> Callable[[Tensor], Tensor]:
        """What `run_node` does to its input, as a function for one run.

        What can be done without the input is done here, once: weights are cut in a quarter of the
        time while no convolution runs in between. The function need not follow weights that change
        afterwards.
        """
        return partial(self.run_node, node, block)

    @abstractmethod
    def run_head(self, x: Tensor) -> Tensor:
        """The last node's output to logits of shape (batch, classes)."""

    @abstractmethod
    def extract_stem(self) -> nn.Module:
        """The stem as a static module, like every extraction with its own memory and in
        evaluation mode."""

    @abstractmethod
    def extract_block(self, node: int, block: int) -> nn.Module:
        """One block as a static module; `nn.Identity` where nothing is computed."""

    @abstractmethod
    def extract_head(self) -> nn.Module:
        """The head as a static module."""

    def forward(self, x: Tensor, network: Network) -> Tensor:
        nodes = [self.cut_node(node, block) for node, block in enumerate(network)]
        x = self.run_stem(x)
        for run in nodes:
            x = run(x)
        return self.run_head(x)

    def extract(self, network: Network) -> StagedNetwork:
        chosen = self.space.check(network)
        nodes = [self.extract_block(node, block) for node, block in enumerate(chosen)]
        return StagedNetwork(self.extract_stem(), nodes, self.extract_head()).eval()
