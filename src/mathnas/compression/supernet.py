"""A trained model whose parts have alternatives: a supernet that was never trained as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from mathnas._progress import Show, progress_bar
from mathnas.compression.alternative import Alternative, Call, InapplicableError, RecordedNode
from mathnas.compression.batches import (
    Batch,
    checked_batches,
    first_tensor,
    sample_count,
)
from mathnas.compression.chain import Chain, Prefix
from mathnas.compression.nodes import CutError, find_nodes, named_nodes
from mathnas.compression.quantised import weight_bytes
from mathnas.errors import InvalidInputError
from mathnas.nets.counting import counted_macs_of, counted_params
from mathnas.nets.supernet import Supernet
from mathnas.space import Block, BlockNode, Network, SearchSpace

ORIGINAL = "original"


@dataclass(frozen=True)
class Refusal:
    """An alternative that a node does not have.

    Attributes:
        node, alternative: by name.
        reason: why.
    """

    node: str
    alternative: str
    reason: str


class ModuleSupernet(Supernet):
    """A model, its nodes, and the blocks that may stand in their places.

    `from_module` makes one. The model is left as it is: networks run on a copy of its structure
    that shares its weights, and what is extracted has its own.

    Attributes:
        chain: the model in its parts.
        blocks: per node, modules that are called as the node is; the first is the original.
        errors: per node and block, the squared difference from the original's output on the
            calibration samples by the output's variance: what the block loses where it stands, not
            what the model loses by it.
        refusals: alternatives that were asked for and that nodes do not have.
    """

    def __init__(
        self,
        chain: Chain,
        blocks: Sequence[Mapping[str, nn.Module]],
        *,
        example: Batch,
        errors: Sequence[Sequence[float]] = (),
        refusals: Sequence[Refusal] = (),
    ) -> None:
        super().__init__()
        self.chain = chain
        self.rest = chain.shell.rest
        self.blocks = nn.ModuleList(nn.ModuleList(own.values()) for own in blocks)
        self.errors = tuple(map(tuple, errors))
        self.refusals = tuple(refusals)
        self.space = self._declared([list(own) for own in blocks], example)
        self.weight_bytes = [
            [weight_bytes(block) for block in self.node_blocks(i)] for i in self._places
        ]
        self.fixed_bytes = weight_bytes(self.rest)
        self.eval()

    def forward(self, x: Batch, network: Network) -> Tensor:
        """The first tensor that the model gives for a batch where these blocks stand."""
        return first_tensor(self.chain.run(x, self.chosen(network)))

    def chosen(self, network: Sequence[int | str]) -> list[nn.Module]:
        """The blocks of a network.

        Raises:
            InvalidInputError: the network does not belong to the space.
        """
        checked = self.space.check(network)
        return [self.node_blocks(place)[block] for place, block in enumerate(checked)]

    def extract(self, network: Sequence[int | str]) -> nn.Module:
        return self.chain.shell.with_blocks(self.chosen(network))

    def train(self, mode: bool = True) -> ModuleSupernet:
        """Nothing is trained here: it stays in evaluation mode."""
        super().train(False)
        return self

    @property
    def _places(self) -> range:
        return range(len(self.blocks))

    def node_blocks(self, place: int) -> list[nn.Module]:
        """The blocks of a node."""
        return list(cast(nn.ModuleList, self.blocks[place]))

    def _declared(self, names: Sequence[Sequence[str]], example: Batch) -> SearchSpace:
        """The space with what blocks cost on an example."""
        count = sample_count(example)
        prefix = Prefix()
        nodes, originals = [], 0.0
        with torch.no_grad():
            for place, own in enumerate(names):
                call = self.chain.call(example, prefix)
                blocks = []
                for name, module in zip(own, self.node_blocks(place), strict=True):
                    macs = counted_macs_of(call.run, module) / count
                    blocks.append(Block(name, macs, counted_params(module)))
                nodes.append(BlockNode(self.chain.names[place], tuple(blocks)))
                originals += blocks[0].macs or 0.0
                prefix = self.chain.extended(example, prefix, self.chain.nodes[place])
            whole = counted_macs_of(self.chain.run, example, self.chain.nodes) / count
        return SearchSpace(
            nodes,
            name=type(self.rest).__name__,
            fixed_macs=max(0.0, whole - originals),
            fixed_params=counted_params(self.rest),
            reference=(0,) * len(nodes),
        )


def from_module(
    model: nn.Module,
    samples: Sequence[Batch],
    alternatives: Sequence[Alternative] | Mapping[str, Sequence[Alternative]],
    *,
    nodes: str | Sequence[str] | None = None,
    seed: int = 0,
    progress: Show = False,
) -> ModuleSupernet:
    """A model whose nodes have alternatives, made on unlabelled samples without training.

    Node by node, the model is run on the samples up to the node, and every alternative is fitted to
    what the node did there. At a time, inputs and outputs of one node are in memory, for all
    samples: give fewer samples where that is too much.

    Args:
        model: any; it is left as it is.
        samples: batches as the model takes them: tensors, tuples of arguments, or mappings of named
            ones. The first one is also what MACs are counted on.
        alternatives: for all nodes, or by patterns of their names (``{"blocks.*": [...]}``). A node
            that cannot have one goes without: see `ModuleSupernet.refusals`.
        nodes: names or patterns of submodules; by default `find_nodes` finds them.
        seed: of what alternatives draw.

    Raises:
        CutError: a node cannot be cut out of the model; says which and why.
        InvalidInputError: no samples, or no node has any alternative.
    """
    batches = checked_batches(samples, "samples")
    names = find_nodes(model) if nodes is None else named_nodes(model, nodes)
    wanted = _by_node(model, names, alternatives)
    chain = Chain(model, names, batches[0])
    blocks: list[dict[str, nn.Module]] = []
    errors: list[list[float]] = []
    refusals: list[Refusal] = []
    total = sum(map(len, wanted.values()))
    with progress_bar("making alternatives", total, progress) as bar, torch.no_grad():
        for node in recorded_nodes(chain, batches, seed):
            own: dict[str, nn.Module] = {ORIGINAL: chain.nodes[len(blocks)]}
            lost = [0.0]
            for alternative in wanted[node.name]:
                try:
                    made = alternative.build(node).eval()
                except InapplicableError as error:
                    refusals.append(Refusal(node.name, alternative.name, str(error)))
                else:
                    own[alternative.name] = made
                    lost.append(local_error(node.calls, made))
                bar.advance(1, f"{node.name} {alternative.name}")
            blocks.append(own)
            errors.append(lost)
    if total and all(len(own) == 1 for own in blocks):
        raise InvalidInputError(
            "an alternative is needed for at least one node, but none could be made; of "
            f"{refusals[0].node}: {refusals[0].reason}"
        )
    return ModuleSupernet(chain, blocks, example=batches[0], errors=errors, refusals=refusals)


def recorded_nodes(chain: Chain, batches: Sequence[Batch], seed: int = 0) -> Iterator[RecordedNode]:
    """Each node with its calls on the samples."""
    prefixes = [Prefix() for _ in batches]
    for place, name in enumerate(chain.names):
        calls = [chain.call(batch, prefix) for batch, prefix in zip(batches, prefixes, strict=True)]
        yield RecordedNode(name, chain.nodes[place], calls, seed)
        prefixes = [
            chain.with_output(prefix, call.output)
            for prefix, call in zip(prefixes, calls, strict=True)
        ]


def local_error(calls: Sequence[Call], module: nn.Module) -> float:
    """Squared difference from the recorded outputs, by their variance."""
    lost = whole = 0.0
    for call in calls:
        expected = call.tensor.double()
        lost += float((first_tensor(call.run(module)).double() - expected).square().sum())
        whole += float((expected - expected.mean()).square().sum())
    return lost / max(whole, 1e-30)


def _by_node(
    model: nn.Module,
    names: Sequence[str],
    alternatives: Sequence[Alternative] | Mapping[str, Sequence[Alternative]],
) -> dict[str, list[Alternative]]:
    if not isinstance(alternatives, Mapping):
        alternatives = dict.fromkeys(names, alternatives)
    wanted: dict[str, list[Alternative]] = {name: [] for name in names}
    for pattern, own in alternatives.items():
        for name in named_nodes(model, pattern):
            if name not in wanted:
                raise CutError(
                    f"alternatives are for nodes, {', '.join(list(names)[:5])}, but got some for "
                    f"{name!r} by {pattern!r}."
                )
            wanted[name].extend(own)
    for name, own in wanted.items():
        twice = [one.name for one in own]
        if len(set(twice)) < len(twice) or ORIGINAL in twice:
            raise InvalidInputError(
                f"alternatives of a node have names of their own, and {ORIGINAL!r} is the node as "
                f"it is, but {name!r} got {', '.join(twice)}."
            )
    return wanted
