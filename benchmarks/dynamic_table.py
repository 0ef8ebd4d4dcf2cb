"""What is known of the dynamic network before it serves: table, times of parts, accuracies.

    MATHNAS_DATA=... python benchmarks/dynamic_table.py --folder work [--engine onnxruntime]

Five candidates in each of five stages of the CIFAR-10 supernet (`_dynamic.py`). Writes

- `net.mathnas` in the folder: the package that `dynamic.py` serves;
- `results/dynamic_table.json`: its table; accuracy by a regression on 300 random networks and
  single sampling, as deployed, on held-out training images (kept in a study in the folder), with
  the loss as its proxy;
- `results/dynamic_table.npz`: times of parts in their places, one thread, batches of 32; how many
  test images each of the 3,125 networks gets right as deployed, without another calibration.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import mathnas as mn
from _dynamic import BATCH, KNOWN, TABLE, chosen_space
from _machine import header
from _supernets import Trained
from mathnas.devices.timing import TimingSettings
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.scores import LabelledImages
from mathnas.runtime.deploying import deploy
from mathnas.runtime.dynamic import DynamicNetwork
from mathnas.runtime.loading import resident_parts
from mathnas.runtime.observation import PartTimes
from mathnas.runtime.resident import ResidentParts
from mathnas.validation import quality

SUPERNET = Path("benchmarks/supernets/cifar10_mobilenetv3.safetensors")
SEED = 0
RANDOM = 300
HELD, TEST, CALIBRATING = 5_000, 2_000, 600  # images
AT_ONCE = 250
ROUNDS = 40  # of timing; each meets every block


@dataclass(frozen=True)
class Tree:
    """All networks, each part run once for all networks that share what is before it."""

    parts: ResidentParts
    labels: npt.NDArray[np.int64]

    def correct(self, images: npt.NDArray[np.float32]) -> list[int]:
        """How many images each network gets right, in the order of the space."""
        return list(self._below((), self.parts.stem(self.parts.load(images))))

    def _below(self, chosen: mn.Network, value: Any) -> Iterator[int]:
        space, node = self.parts.space, len(chosen)
        if node == space.num_nodes:
            outputs = self.parts.unload(self.parts.head(value))
            yield int((outputs.argmax(axis=1) == self.labels).sum())
            return
        previous = chosen[-1] if chosen else None
        for block in range(space.sizes[node]):
            part = self.parts.block(node, block, previous)
            yield from self._below((*chosen, block), value if part is None else part(value))


def scores_of(
    dynamic: DynamicNetwork,
    network: mn.Network,
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
) -> dict[str, float]:
    """Of a network as it is deployed: accuracy in percent, loss in nats."""
    dynamic.switch(network)
    pieces = [images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)]
    logits = torch.from_numpy(np.concatenate([dynamic.run(piece).outputs for piece in pieces]))
    truth = torch.from_numpy(labels)
    return {
        "accuracy": 100 * float((logits.argmax(1) == truth).double().mean()),
        "loss": float(torch.nn.functional.cross_entropy(logits, truth)),
    }


def fitted(folder: Path, dynamic: DynamicNetwork, images: LabelledImages) -> mn.BlockTable:
    """The table, from accuracies on held-out images, of networks as they are deployed."""
    space = dynamic.space
    own, labels = images.images.numpy(), images.labels.numpy()

    def scores(network: mn.Network) -> dict[str, float]:
        return scores_of(dynamic, network, own, labels)

    networks = [*mn.single_sampling(space).networks, *space.sample(RANDOM, seed=SEED)]
    with mn.Study(folder / "deployed.study", space) as study:
        evaluator = mn.FunctionEvaluator(scores, ["accuracy", "loss"])
        report = mn.evaluate(study, list(dict.fromkeys(networks)), evaluator, progress=True)
        assert not report.failures
        table = mn.fit(study, ["accuracy"], method="regression", proxy={"accuracy": "loss"})
    return table.without_posteriors()


def part_times(dynamic: DynamicNetwork, images: npt.NDArray[np.float32]) -> PartTimes:
    """What parts take in their places where nothing disturbs: of networks in turns, each block's
    low quantile, as `mathnas.devices.timing` has it (`DynamicNetwork.calibrate` takes medians,
    which neighbours on a shared machine move)."""
    space = dynamic.space
    rng = np.random.default_rng(SEED)
    taken: list[list[float]] = [[] for _ in range(space.num_blocks + 2)]
    zeros = PartTimes(space, 0.0, np.zeros(space.num_blocks), 0.0)
    for _ in range(ROUNDS):
        orders = [rng.permutation(size) for size in space.sizes]
        for turn in range(max(space.sizes)):
            network = tuple(int(order[turn % len(order)]) for order in orders)
            dynamic.switch(network)
            run = dynamic.run(images).observation
            for place, ms in zip(zeros.places(network), run.parts_ms, strict=True):
                taken[place].append(ms)
    flat = [float(np.quantile(own, TimingSettings().quantile)) for own in taken]
    return PartTimes(space, flat[0], flat[1:-1], flat[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--supernet", type=Path, default=SUPERNET)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--images", type=int, default=TEST, help="test images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(header(SEED))
    trained = Trained.open(options.supernet)
    assert isinstance(trained.supernet, MobileNetV3Net)
    space = chosen_space(trained.supernet.space)
    supernet = GroupedSupernet(trained.supernet, space)
    options.folder.mkdir(parents=True, exist_ok=True)
    calibration = trained.calibration(CALIBRATING, SEED)
    unmeasured = mn.BlockTable(space, space.reference, {})
    package = deploy(supernet.eval(), unmeasured, calibration, engine=options.engine, progress=True)
    parts = resident_parts(package)
    dynamic = DynamicNetwork(parts, space.reference)
    table = fitted(options.folder, dynamic, trained.images(trained.held, HELD))
    replace(package, table=table).write(options.folder / "net.mathnas")
    test = trained.images(trained.test, options.images)
    images, labels = test.images.numpy(), test.labels.numpy()
    times = part_times(dynamic, images[:BATCH])
    counts = np.zeros(space.num_networks, dtype=np.int64)
    for start in range(0, len(images), AT_ONCE):
        piece = slice(start, start + AT_ONCE)
        counts += Tree(parts, labels[piece]).correct(np.ascontiguousarray(images[piece]))
    table.save(TABLE)
    np.savez_compressed(
        KNOWN, times_ms=times.flat, correct=counts.astype(np.uint16), images=np.array(len(images))
    )
    actual = 100 * counts / len(images)
    found = quality(table.predict_all("accuracy"), actual)
    print(f"{parts.engine}, {dynamic.memory_bytes / 1e6:.2f} MB of resident weights")
    print(
        f"all {len(actual)} networks as deployed, on {len(images)} test images: {actual.min():.2f} "
        f"to {actual.max():.2f} %; the table: Spearman {found.spearman:.3f}, mean error "
        f"{found.mae:.3f} points, bias {found.bias:+.3f} points"
    )
    for node, size in enumerate(space.sizes):
        own = times.blocks[int(space.offsets[node]) :][:size]
        shown = ", ".join(f"{value:.3f}" for value in own)
        print(f"{space.nodes[node].name}: {shown} ms a batch of {BATCH}")
    print(f"stem {times.stem:.3f} ms, head {times.head:.3f} ms")


if __name__ == "__main__":
    main()
