"""Small supernets that the tests of this folder share: needs torch."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mathnas import BlockTable, GroupedSpace, SearchSpace, metric_named
from mathnas.nets.digits import DigitsConfig, DigitsNet, DigitsNode
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.inputs import input_shape
from mathnas.nets.mbconv import MBConvChoice
from mathnas.nets.supernet import ChainSupernet
from mathnas.runtime.package import BLOCK, HEAD, PAIR, STEM, Package, PackagedPart, block_key
from mathnas.runtime.resident import Images, ResidentParts
from mathnas.runtime.torch_parts import extracted_parts
from mathnas.space import Network
from mathnas.table import BlockEffects

# these networks are too small to gain from more, and waiting threads would slow other tests
torch.set_num_threads(1)

Logits = npt.NDArray[np.float32]
_TINY = DigitsConfig(
    stem=4,
    nodes=(
        DigitsNode(4, 1, (None, MBConvChoice(3, 1), MBConvChoice(5, 2))),
        DigitsNode(6, 2, (MBConvChoice(3, 1), MBConvChoice(7, 2))),
        DigitsNode(6, 1, (None, MBConvChoice(3, 3), MBConvChoice(5, 1))),
    ),
    head=8,
)


def tiny_supernet(seed: int = 0) -> DigitsNet:
    """18 networks of 8 x 8 images, with statistics that differ from channel to channel."""
    net = DigitsNet(_TINY, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                    assert tensor is not None
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return net.eval()


def grouped_supernet() -> GroupedSupernet:
    """The first two nodes as one, of which three candidates have layers in common; and the last."""
    fine = tiny_supernet()
    groups = {"early": [0, 1], "late": [2]}
    candidates = {"early": [(2, 1), (0, 1), (2, 0), (1, 0)]}
    return GroupedSupernet(fine, GroupedSpace(fine.space, groups, candidates))


def some_images(batch: int = 3, seed: int = 0, side: int = 8) -> Images:
    rng = np.random.default_rng(seed)
    return rng.random((batch, 1, side, side), dtype=np.float32)


def static(supernet: ChainSupernet, network: Network, images: Images) -> Logits:
    """What the network gives that is extracted for good."""
    with torch.inference_mode():
        logits: Logits = supernet.extract(network)(torch.from_numpy(images)).numpy()
    return logits


def run_parts(parts: ResidentParts, network: Network, images: Images) -> Logits:
    """A network's parts called one after another."""
    value = parts.stem(parts.load(images))
    previous = None
    for node, block in enumerate(network):
        part = parts.block(node, block, previous)
        value = value if part is None else part(value)
        previous = block
    return parts.unload(parts.head(value))


def made_up_table(space: SearchSpace) -> BlockTable:
    """Accuracies and latencies of blocks that grow with their place in the node."""
    place = np.concatenate([np.arange(size) for size in space.sizes]).astype(float)
    columns = {
        name: BlockEffects(
            metric_named(name), base, place, np.zeros(len(place)), np.ones(len(place))
        )
        for name, base in (("accuracy", 80.0), ("latency_ms", 5.0))
    }
    return BlockTable(space, (0,) * space.num_nodes, columns, {"method": "made up"})


def torch_package(supernet: ChainSupernet, *, pairs: bool = False) -> Package:
    """Every block for torch; with `pairs` each with other biases behind each block before."""
    space = supernet.space
    modules = extracted_parts(supernet)
    skipped = {
        (node, block)
        for node, size in enumerate(space.sizes)
        for block in range(size)
        if block_key(node, block) not in modules
    }
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    parts = {}

    def keep(key: str, module: nn.Module, shift: float) -> None:
        names = {}
        for name, tensor in module.state_dict().items():
            array = tensor.numpy()
            if name.endswith("running_mean"):
                array = array + np.float32(shift)
            names[name] = hashlib.sha256(array.tobytes()).hexdigest()
            tensors[names[name]] = array
        parts[key] = PackagedPart(names)

    for key, module in modules.items():
        node = -1 if key in (STEM, HEAD) else int(key.removeprefix("node").partition("/")[0])
        if pairs and node > 0:
            block = int(key.rpartition("block")[2])
            for previous in range(space.sizes[node - 1]):
                keep(block_key(node, block, previous), module, 0.1 * previous)
        else:
            keep(key, module, 0.0)
    return Package(
        made_up_table(space),
        "torch",
        parts,
        tensors,
        input_shape(supernet),
        PAIR if pairs else BLOCK,
        frozenset(skipped),
    )
