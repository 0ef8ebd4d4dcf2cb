"""A supernet for translation that is small enough to be checked by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mathnas import Block, BlockNode, Network, SearchSpace
from mathnas.nets.supernet import Supernet
from mathnas.tokens import PAD

# these networks are too small to gain from more, and waiting threads would slow other tests
torch.set_num_threads(1)


class Bag(nn.Module):
    """What follows is told from the token before, and from which tokens the source has."""

    def __init__(self, vocabulary: int, outputs: int, width: int, reads: bool) -> None:
        super().__init__()
        self.reads = reads
        self.before = nn.Embedding(vocabulary, width)
        self.source = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.out = nn.Linear(width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.run(inputs, self.reads)

    def run(self, inputs: Tensor, reads: bool) -> Tensor:
        hidden = self.before(inputs[:, 1])
        if reads:
            hidden = hidden + self.source(inputs[:, 0]).sum(1, keepdim=True)
        logits: Tensor = self.out(torch.tanh(hidden[inputs[:, 1] != PAD]))
        return logits


class BagNet(Supernet):
    """One node: whether the source is read."""

    def __init__(
        self, vocabulary: int, *, outputs: int | None = None, width: int = 32, seed: int = 0
    ) -> None:
        super().__init__()
        blocks = (Block("blind", macs=0.0), Block("reads", macs=1.0))
        self.space = SearchSpace([BlockNode("source", blocks)], name="bag")
        self.sizes = vocabulary, outputs or vocabulary, width
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.bag = Bag(*self.sizes, reads=True)

    def forward(self, x: Tensor, network: Network) -> Tensor:
        return self.bag.run(x, bool(network[0]))

    def extract(self, network: Network) -> nn.Module:
        module = Bag(*self.sizes, reads=bool(self.space.check(network)[0]))
        module.load_state_dict(self.bag.state_dict())
        return module.eval()
