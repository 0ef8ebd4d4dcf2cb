"""Supernets, data and comparisons that the tests of this folder share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mathnas import Block, BlockNode, Network, SearchSpace
from mathnas.nets.digits import DigitsConfig, DigitsNet, DigitsNode
from mathnas.nets.mbconv import MBConvChoice
from mathnas.nets.scores import LabelledImages
from mathnas.nets.supernet import ChainSupernet
from mathnas.training.batches import TensorBatches
from mathnas.training.data import TrainingData
from mathnas.training.held_out import HeldOutImages
from mathnas.training.processes import Processes

# these networks are too small to gain from more, and waiting threads would slow other tests
torch.set_num_threads(1)

ALONE = Processes(torch.device("cpu"))
SCRIPTS = Path(__file__).parent / "scripts"
SMALL = DigitsConfig(
    stem=4,
    nodes=(
        DigitsNode(4, 1, (None, MBConvChoice(3, 1), MBConvChoice(3, 2))),
        DigitsNode(8, 2, (MBConvChoice(3, 1), MBConvChoice(5, 2))),
    ),
    head=8,
    classes=3,
)


class Choosing(ChainSupernet):
    """One node whose block is a row of logits: what a network learned can be read off."""

    def __init__(self, macs: tuple[float, ...]) -> None:
        super().__init__()
        blocks = tuple(Block(f"b{i}", macs=value) for i, value in enumerate(macs))
        self.space = SearchSpace([BlockNode("only", blocks)])
        self.rows = nn.Parameter(torch.zeros(len(macs), 3))
        self.runs: list[Network] = []

    def forward(self, x: Tensor, network: Network) -> Tensor:
        self.runs.append(network)
        return super().forward(x, network)

    def run_stem(self, x: Tensor) -> Tensor:
        return x

    def run_node(self, node: int, block: int, x: Tensor) -> Tensor:
        return self.rows[block].expand(len(x), 3)

    def run_head(self, x: Tensor) -> Tensor:
        return x

    def extract_stem(self) -> nn.Module:
        return nn.Identity()

    def extract_block(self, node: int, block: int) -> nn.Module:
        return nn.Identity()

    def extract_head(self) -> nn.Module:
        return nn.Identity()


def squares(count: int) -> tuple[Tensor, Tensor]:
    """Images of three classes: a bright upper half, left half, or centre."""
    generator = torch.Generator().manual_seed(0)
    images = 0.2 * torch.rand(count, 1, 8, 8, generator=generator)
    labels = torch.arange(count) % 3
    images[labels == 0, :, :4] += 1
    images[labels == 1, :, :, :4] += 1
    images[labels == 2, :, 2:6, 2:6] += 1
    return images, labels


def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    return images + 0.1 * torch.randn(images.shape, generator=generator)


def square_data(
    batch_size: int = 20, *, seed: int = 0, held_out: bool = False, processes: Processes = ALONE
) -> TrainingData:
    """60 images to train on."""
    images, labels = squares(60)
    batches = TensorBatches(
        images,
        labels,
        batch_size,
        seed=seed,
        augment=noisy,
        rank=processes.rank,
        world=processes.world,
    )
    tested = HeldOutImages(LabelledImages(*squares(90)), (images,)) if held_out else None
    return TrainingData("squares", batches, 3, held_out=tested)


class Repeated:
    """One batch, again and again."""

    def __init__(self, labels: list[int], steps_per_epoch: int) -> None:
        self.labels = torch.tensor(labels)
        self.steps_per_epoch = steps_per_epoch

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(start, self.steps_per_epoch):
            yield torch.zeros(len(self.labels), 1), self.labels


def repeated(labels: list[int], steps: int) -> TrainingData:
    return TrainingData("repeated", Repeated(labels, steps), 3)


def small_net(seed: int = 0) -> DigitsNet:
    return DigitsNet(SMALL, seed=seed)


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    own, others = one.state_dict(), other.state_dict()
    return own.keys() == others.keys() and all(
        torch.equal(tensor, others[name]) for name, tensor in own.items()
    )


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """A Python process that can import these cases."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
