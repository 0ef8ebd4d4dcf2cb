"""The parts of a supernet's networks as ONNX files' contents, to be measured one by one."""

from __future__ import annotations

from mathnas.devices.isolation import PartSpace
from mathnas.errors import InvalidInputError
from mathnas.nets.onnx_export import NetworkGraphs, joined
from mathnas.space import Network


class PartGraphs:
    """Stem, blocks and head of a chain supernet, each as a graph of its own; see `PartSpace`.

    Args:
        graphs: of its networks.
        reference: the network that part 0 is.

    Attributes:
        space: of the parts.

    Raises:
        InvalidInputError: the supernet is no chain, so that its networks are no sums of parts.
    """

    def __init__(self, graphs: NetworkGraphs, reference: Network) -> None:
        if graphs.parts is None:
            raise InvalidInputError(
                f"blocks are measured alone where they run one after another, but those of "
                f"{graphs.space.name} do not: use another method."
            )
        self.graphs = graphs
        self.reference = reference
        self.space = PartSpace(
            graphs.space,
            [
                [bool(graphs.block_parts(node, block)) for block in range(size)]
                for node, size in enumerate(graphs.space.sizes)
            ],
        )

    def __call__(self, part: Network) -> bytes:
        """The graph of one part."""
        parts = self.graphs.parts
        assert parts is not None  # checked above
        chosen = self.space.check(part)
        if chosen == (0,):
            return self.graphs(self.reference)
        if chosen == self.space.stem:
            return bytes(parts.stem.SerializeToString())
        if chosen == self.space.head:
            return bytes(parts.head.SerializeToString())
        own = self.graphs.block_parts(*self.space.places[chosen[0]])
        return bytes(joined(own).SerializeToString())
