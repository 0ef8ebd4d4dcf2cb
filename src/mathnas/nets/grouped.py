"""A chain supernet under a coarser partition: its nodes in groups, such as layers in stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from mathnas.errors import InvalidInputError
from mathnas.grouped import GroupedSpace
from mathnas.nets.supernet import ChainSupernet


class GroupedSupernet(ChainSupernet):
    """A view of a supernet whose nodes are groups of its nodes, and whose blocks are candidates.

    Nothing is copied: what trains the view trains the supernet. A network of the view computes
    what its expansion computes.

    Args:
        fine: the supernet.
        space: groups of its space, with candidates.

    Raises:
        InvalidInputError: the groups are of another space.
    """

    space: GroupedSpace

    def __init__(self, fine: ChainSupernet, space: GroupedSpace) -> None:
        super().__init__()
        if space.fine != fine.space:
            raise InvalidInputError(
                f"the groups are those of the supernet's space, {fine.space.name}, but got groups "
                f"of {space.fine.name}."
            )
        self.fine = fine
        self.space = space
        self.input_channels = fine.input_channels

    @property
    def resolution(self) -> int | None:
        """As the supernet's."""
        return self.fine.resolution

    def run_stem(self, x: Tensor) -> Tensor:
        """As the supernet's."""
        return self.fine.run_stem(x)

    def run_node(self, node: int, block: int, x: Tensor) -> Tensor:
        return self.cut_node(node, block)(x)

    def cut_node(self, node: int, block: int) -> Callable[[Tensor], Tensor]:
        parts = [self.fine.cut_node(*chosen) for chosen in self.fine_places(node, block)]
        return partial(_run, parts)

    def run_head(self, x: Tensor) -> Tensor:
        """As the supernet's."""
        return self.fine.run_head(x)

    def extract_stem(self) -> nn.Module:
        return self.fine.extract_stem()

    def extract_block(self, node: int, block: int) -> nn.Module:
        return self.joined(node, block, self.fine.extract_block)

    def joined(self, node: int, block: int, extract: Callable[[int, int], nn.Module]) -> nn.Module:
        """The group's blocks one after another, without those that compute nothing.

        Args:
            extract: a node and a block of the supernet to the static module.
        """
        parts = [extract(*chosen) for chosen in self.fine_places(node, block)]
        parts = [part for part in parts if not isinstance(part, nn.Identity)]
        if not parts:
            return nn.Identity()
        return (parts[0] if len(parts) == 1 else nn.Sequential(*parts)).eval()

    def extract_head(self) -> nn.Module:
        return self.fine.extract_head()

    def fine_places(self, node: int, block: int) -> list[tuple[int, int]]:
        """Nodes of the supernet, and their blocks, that a block of the view consists of."""
        chosen = self.space.candidates[node][block].tolist()
        return list(zip(self.space.partition[node], chosen, strict=True))


def _run(parts: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    for part in parts:
        x = part(x)
    return x
