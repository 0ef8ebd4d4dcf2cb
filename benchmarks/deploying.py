"""What batch-norm statistics that networks share cost in accuracy, and in bytes.

    python benchmarks/deploying.py [NETWORKS [IMAGES [CALIBRATION]]]

The trained small-image MobileNetV3 (benchmarks/supernets) with the five candidates a stage that
`cifar10_mobilenetv3.py` chose. NETWORKS of the 3,125 networks are drawn, and each is tested on
IMAGES test images with statistics of every kind, all from the same CALIBRATION training images;
"again" are other training images for each network by itself, which tells how far numbers move
without any sharing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import mathnas as mn
from _columns import lines
from _dynamic import chosen_space
from _machine import header
from _supernets import Floats, Trained
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.calibrated import CalibratedParts, Sharing, calibrated_parts
from mathnas.nets.folding import folded
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.scores import score

SUPERNET = Path("benchmarks/supernets/cifar10_mobilenetv3.safetensors")
SEED = 0
Content = tuple[tuple[int, ...], bytes]


@dataclass(frozen=True)
class Kind:
    """A way of setting statistics.

    Attributes:
        name: in words.
        network: the module of a network.
    """

    name: str
    network: Callable[[mn.Network], nn.Module]


def tensors_of(module: nn.Module, example: torch.Tensor, engine: str) -> dict[Content, int]:
    """What a part keeps in a package, by content, with its bytes."""
    if engine == "onnxruntime":
        module = folded(module, example)
    state = module.state_dict().values()
    return {(tuple(t.shape), t.numpy().tobytes()): t.nbytes for t in state if t.ndim}


def sizes(parts: CalibratedParts, example: torch.Tensor, engine: str) -> tuple[int, int]:
    """Bytes of all parts and of the largest network's, equal tensors once."""
    space = parts.space
    inputs = [example]
    with torch.no_grad():
        inputs.append(parts.stem(example))
        for node in range(space.num_nodes):
            inputs.append(parts.block(node, 0, 0 if node else None)(inputs[-1]))
    ends = {
        **tensors_of(parts.stem, inputs[0], engine),
        **tensors_of(parts.head, inputs[-1], engine),
    }
    own = {
        place: tensors_of(module, inputs[place[0] + 1], engine)
        for place, module in parts.blocks.items()
    }
    largest = []
    for node, size in enumerate(space.sizes):
        before = 0 if node and parts.by_pair else None
        largest.append(max((own[node, j, before] for j in range(size)), key=_sum))
    return _sum(_union(ends, *own.values())), _sum(_union(ends, *largest))


def _union(*found: dict[Content, int]) -> dict[Content, int]:
    return {content: size for one in found for content, size in one.items()}


def _sum(found: dict[Content, int]) -> int:
    return sum(found.values())


def main(count: int, images: int, calibrating: int) -> None:
    torch.set_num_threads(1)
    trained = Trained.open(SUPERNET)
    assert isinstance(trained.supernet, MobileNetV3Net)
    space = chosen_space(trained.supernet.space)
    supernet = GroupedSupernet(trained.supernet, space)
    test = trained.images(trained.test, images)
    calibration = trained.calibration(calibrating, SEED)
    others = trained.calibration(calibrating, SEED + 1)
    print(header(SEED))
    print(f"torch {torch.__version__}, 1 thread")
    shape = "x".join(map(str, space.sizes))
    print(
        f"{count} of {space.num_networks:,} networks of {shape} candidates, "
        f"{len(test)} test images, {calibrating} training images for statistics"
    )

    def whole(batches: tuple[torch.Tensor, ...]) -> Callable[[mn.Network], nn.Module]:
        def make(network: mn.Network) -> nn.Module:
            module = supernet.extract(network)
            recalibrate(module, batches)
            return module

        return make

    kinds = [
        Kind("each network by itself (the ceiling)", whole(calibration)),
        Kind("each network by itself, again", whole(others)),
        Kind("as trained: the supernet's own", supernet.extract),
    ]
    for name, sharing, context in (
        ("a block, in the reference network", Sharing.BLOCK, space.reference),
        ("a block, over mixed networks", Sharing.BLOCK, None),
        ("a block, its first layer with the block before", Sharing.ENTRY, None),
        ("a block and the block before", Sharing.PAIR, None),
    ):
        start = time.perf_counter()
        parts = calibrated_parts(supernet, calibration, sharing=sharing, context=context, seed=SEED)
        seconds = time.perf_counter() - start
        print(f"statistics of {name}: {2 + len(parts.blocks)} parts, set in {seconds:.1f} s")
        for engine in ("torch", "onnxruntime"):
            every, largest = sizes(parts, calibration[0][:2], engine)
            print(
                f"  {engine}: {every:,} bytes of weights, {every / largest:.2f} times those of "
                f"the largest network, {largest:,}",
                flush=True,
            )
        kinds.append(Kind(name, parts.network))

    rng = np.random.default_rng(SEED)
    networks = space.check_many(np.stack([rng.integers(0, n, count) for n in space.sizes], axis=1))
    found = np.array(
        [
            [score(kind.network(tuple(network)), test).accuracy for kind in kinds]
            for network in networks.tolist()
        ]
    )
    if count:
        print(table(kinds, found))


def table(kinds: list[Kind], found: Floats) -> str:
    """Accuracy of every kind and how far it is below the first, over the networks."""
    rows = [("statistics", "mean", "worst", "loss: mean", "worst", "rank correlation")]
    for place, kind in enumerate(kinds):
        own, loss = found[:, place], found[:, 0] - found[:, place]
        ranks = [np.argsort(np.argsort(values)) for values in (found[:, 0], own)]
        rows.append(
            (
                kind.name,
                f"{own.mean():.2f} %",
                f"{own.min():.2f} %",
                f"{loss.mean():+.2f}",
                f"{loss.max():+.2f}",
                f"{np.asarray(np.corrcoef(ranks))[0, 1]:.2f}",
            )
        )
    return lines(rows)


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    main(*given, *(60, 2_000, 2_000)[len(given) :])
