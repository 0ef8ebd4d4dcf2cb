"""FBNet: a sequential network of 22 layers with 9 blocks each (Wu et al., CVPR 2019)."""

from __future__ import annotations

from mathnas.space import Block, BlockNode, SearchSpace

_LAYERS_A_STAGE = (1, 4, 4, 4, 4, 4, 1)
# kernel, expansion, and convolution groups where there are two
_BLOCKS = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")


class FBNet(SearchSpace):
    """The 9^22 networks of the FBNet space, in the block order of HW-NAS-Bench.

    MACs are not declared, because what public measurements call FBNet differs in widths and
    strides between data sets; so there is no average-FLOPs network, and single sampling needs a
    context.

    Example:
        >>> from mathnas.spaces import FBNet
        >>> FBNet()
        SearchSpace('fbnet': 22 nodes, 198 blocks, 9.848e+20 networks)
    """

    def __init__(self) -> None:
        blocks = tuple(Block(name) for name in _BLOCKS)
        super().__init__(
            [
                BlockNode(f"stage{stage}.layer{layer}", blocks)
                for stage, layers in enumerate(_LAYERS_A_STAGE, start=1)
                for layer in range(1, layers + 1)
            ],
            name="fbnet",
            family={"name": "fbnet"},
        )
