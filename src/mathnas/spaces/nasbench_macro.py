"""NAS-Bench-Macro: a sequential network of 8 layers with 3 blocks each, for CIFAR-10.

Su et al., "Prioritized architecture sampling with Monto-Carlo tree search", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

from mathnas.errors import InvalidInputError
from mathnas.space import Block, BlockNode, Network, SearchSpace

_RESOLUTION = 32
_STEM_CHANNELS = 32
_LAYERS_A_STAGE = (2, 3, 3)  # the first layer of a stage halves the side and doubles the channels
_HEAD_CHANNELS = 1280
_CLASSES = 10
_BLOCKS: dict[str, tuple[int, int] | None] = {
    "identity": None,
    "mb3_k3": (3, 3),  # (expansion, kernel)
    "mb6_k5": (6, 5),
}


class NASBenchMacro(SearchSpace):
    """The 6,561 networks of NAS-Bench-Macro, with MACs and parameters.

    A layer is the identity, or an inverted residual block with expansion 3 and kernel 3, or with 6
    and 5. Where a stage begins, the identity is a strided 1x1 convolution, so it is not free. MACs
    count convolutions and the linear layer without its bias; they and the parameters equal those
    of the benchmark file for every network.

    Example:
        >>> from mathnas.spaces import NASBenchMacro
        >>> space = NASBenchMacro()
        >>> network = space.parse("02012100")
        >>> int(space.macs([network])[0]), space.arch(network)
        (47327744, '02012100')
    """

    def __init__(self) -> None:
        nodes = []
        channels, side = _STEM_CHANNELS, _RESOLUTION
        for stage, layers in enumerate(_LAYERS_A_STAGE, start=1):
            for layer in range(layers):
                first = layer == 0
                out, stride = (2 * channels, 2) if first else (channels, 1)
                blocks = [
                    Block(name, *_block_costs(shape, channels, out, stride, side))
                    for name, shape in _BLOCKS.items()
                ]
                nodes.append(BlockNode(f"stage{stage}.layer{layer + 1}", tuple(blocks)))
                channels, side = out, side // stride
        macs, params = _fixed_costs(channels, side)
        super().__init__(
            nodes,
            name="nasbench_macro",
            fixed_macs=macs,
            fixed_params=params,
            family={"name": "nasbench_macro"},
        )

    def parse(self, text: str) -> Network:
        """A network as in the benchmark file (``02012100``), or as comma-separated blocks."""
        digits = text.strip()
        if "," in digits:
            return super().parse(digits)
        if len(digits) != self.num_nodes or not set(digits) <= set("012"):
            raise InvalidInputError(
                f"a NAS-Bench-Macro network is {self.num_nodes} digits from 0 to 2, "
                f"but got {text!r}: write for example 02012100 or 0,2,0,1,2,1,0,0."
            )
        return tuple(int(digit) for digit in digits)

    def arch(self, network: Sequence[int | str]) -> str:
        """The network's key in the benchmark file."""
        return "".join(map(str, self.check(network)))


def _block_costs(
    shape: tuple[int, int] | None, channels: int, out: int, stride: int, side: int
) -> tuple[int, int]:
    """(MACs, parameters) of a block that reads `channels` maps of `side` x `side`."""
    area_out = (side // stride) ** 2
    if shape is None:
        if stride == 1 and channels == out:
            return 0, 0
        return channels * out * area_out, channels * out + 2 * out
    expansion, kernel = shape
    hidden = channels * expansion
    expand, depthwise, project = channels * hidden, hidden * kernel**2, hidden * out
    macs = expand * side**2 + (depthwise + project) * area_out
    return macs, expand + depthwise + project + 2 * (hidden + hidden + out)


def _fixed_costs(channels: int, side: int) -> tuple[int, int]:
    """(MACs, parameters) of stem, final 1x1 convolution and classifier."""
    stem, last = 3 * 3**2 * _STEM_CHANNELS, channels * _HEAD_CHANNELS
    classifier = _HEAD_CHANNELS * _CLASSES
    macs = stem * _RESOLUTION**2 + last * side**2 + classifier
    norms = 2 * (_STEM_CHANNELS + _HEAD_CHANNELS)
    return macs, stem + last + classifier + norms + _CLASSES
