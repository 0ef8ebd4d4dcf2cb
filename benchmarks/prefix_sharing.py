"""What shared prefixes save: single sampling of MobileNetV3, network by network and together.

    python benchmarks/prefix_sharing.py [--setting NAME ...]

*Naive* extracts every network, recalibrates its batch normalisations and runs the held-out images.
*Shared* is `AccuracyEvaluator` on the same networks, in batches as `mathnas.evaluate` makes them.
Both use one thread, the same images in the same batches and the same recalibration. They take
turns, network by network, and processor time counts, so that other work on the machine hurts both
alike. Weights are random: neither times nor equality depend on training.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

import mathnas as mn
from _machine import header
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.evaluators import AccuracyEvaluator
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.scores import LabelledImages
from mathnas.nets.supernet import ChainSupernet
from mathnas.spaces import MobileNetV3

SEED = 20261125
_T = TypeVar("_T")
EQUAL = 1e-6  # of logits, relative to the largest


@dataclass(frozen=True)
class Setting:
    """A space and how many images go through its networks."""

    space: MobileNetV3
    stages: bool
    calibration: int
    held_out: int
    limit: float


SMALL = MobileNetV3(width=0.5, resolution=32, classes=10, stem_stride=1)
LARGE = MobileNetV3(width=1.0, resolution=224)
SETTINGS = {
    "20-layers-32": Setting(SMALL, False, 100, 400, 0.60),
    "5-stages-32": Setting(SMALL, True, 200, 1000, 0.70),
    "20-layers-224": Setting(LARGE, False, 10, 20, 0.60),
    "5-stages-224": Setting(LARGE, True, 20, 40, 0.62),
}


class Recorder(nn.Module):
    """A head that keeps the last logits it gave."""

    def __init__(self, head: nn.Module, last: list[Tensor]) -> None:
        super().__init__()
        self.head = head
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x)
        self.last.append(logits)
        return logits


class RecordedNet(MobileNetV3Net):
    """A supernet whose networks' logits can be seen, whoever runs them."""

    def __init__(self, space: MobileNetV3) -> None:
        super().__init__(space, seed=SEED)
        self.last: list[Tensor] = []

    def extract_head(self) -> nn.Module:
        return Recorder(super().extract_head(), self.last)


def naive(
    supernet: ChainSupernet,
    network: mn.Network,
    calibration: Sequence[Tensor],
    held_out: LabelledImages,
    images_at_once: int,
) -> float:
    """Accuracy of one network in percent, of nothing but public parts."""
    static: nn.Module = supernet.extract(network)
    static = static.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    right = 0
    with torch.inference_mode():
        recalibrate(static, calibration)
        for images, labels in zip(
            torch.split(held_out.images, images_at_once),
            torch.split(held_out.labels, images_at_once),
            strict=True,
        ):
            right += int((static(images).argmax(1) == labels).sum())
    return 100.0 * right / len(held_out)


def logits_of(last: list[Tensor], images: int) -> Tensor:
    """The logits of the held-out images, which came last; nothing is kept."""
    logits = torch.cat(last)[-images:]
    last.clear()
    return logits


def spent(work: Callable[[], _T]) -> tuple[_T, float]:
    """What some work gives, and its processor time in seconds."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def measure(setting: Setting) -> str:
    generator = torch.Generator().manual_seed(SEED)
    side, classes = setting.space.resolution, setting.space.classes

    def images(count: int) -> Tensor:
        return torch.randn(count, 3, side, side, generator=generator)

    net = RecordedNet(setting.space).eval()
    supernet = GroupedSupernet(net, setting.space.stages("cpu")) if setting.stages else net
    calibration = [images(setting.calibration)]
    labels = torch.randint(0, classes, (setting.held_out,), generator=generator)
    held_out = LabelledImages(images(setting.held_out), labels)
    evaluator = AccuracyEvaluator(supernet, calibration, held_out)
    networks = mn.single_sampling(supernet.space).networks
    naive(supernet, networks[0], calibration, held_out, evaluator.images_at_once)  # warms up
    net.last.clear()

    seconds = {"naive": 0.0, "shared": 0.0}
    equal, furthest = 0, 0.0
    for start in range(0, len(networks), evaluator.batch_size):
        batch = networks[start : start + evaluator.batch_size]
        together = evaluator.evaluate_each(batch)
        for _ in batch:
            (place, values), time_shared = spent(partial(next, together))
            shared = logits_of(net.last, len(held_out))
            accuracy, time_naive = spent(
                partial(
                    naive, supernet, batch[place], calibration, held_out, evaluator.images_at_once
                )
            )
            alone = logits_of(net.last, len(held_out))
            seconds["naive"] += time_naive
            seconds["shared"] += time_shared
            equal += values["accuracy"] == accuracy
            furthest = max(furthest, float((shared - alone).abs().max() / alone.abs().max()))
    ratio = seconds["shared"] / seconds["naive"]
    met = ratio <= setting.limit and equal == len(networks) and furthest <= EQUAL
    return (
        f"{len(networks):8} {setting.calibration:6}+{setting.held_out:<5} "
        f"{seconds['naive']:8.1f} {seconds['shared']:8.1f} {ratio:6.3f} <= {setting.limit:.2f} "
        f"{equal:5} of {len(networks):<4} {furthest:9.1e}   {'yes' if met else 'NO'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    chosen = parser.parse_args().setting
    torch.set_num_threads(1)
    print(header(SEED))
    print(f"torch {torch.__version__}, 1 thread, processor time in seconds")
    print("32: w0.5, stem stride 1, 10 classes, 32 px; 224: w1.0, 1,000 classes, 224 px;")
    print("stages: the five published candidates for CPUs; images: calibration + held out\n")
    print(
        f"{'':14}{'networks':>8} {'images':>12} {'naive':>8} {'shared':>8} {'ratio':>6} {'':7} "
        f"{'same accuracy':>13} {'logits off':>10}   met"
    )
    for name in chosen:
        print(f"{name:14}{measure(SETTINGS[name])}", flush=True)


if __name__ == "__main__":
    main()
