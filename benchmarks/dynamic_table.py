"""What is known of the dynamic network before it serves: table, times of parts, accuracies.

    MATHNAS_DATA=... python benchmarks/dynamic_table.py --folder work [--workers 2]

Writes `results/dynamic_table.json` (accuracy, by differences of means of 300 random networks and
single sampling on held-out training images: additive, so that the fast solver serves) and `results/dynamic_table.npz` (times of parts as
onnxruntime sessions of their own, one thread, batches of 64; how many test images each of the 3,125
networks gets right). What is measured is kept in studies in the folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import mathnas as mn
from _dynamic import BATCH, KNOWN, TABLE, chosen_space
from _machine import header
from _supernets import Floats, Trained, values_of
from mathnas.devices.onnxruntime import OnnxRuntimeEngine
from mathnas.devices.timing import TimingSettings, time_in_turns
from mathnas.nets.evaluators import AccuracyEvaluator
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.onnx_export import NetworkGraphs
from mathnas.validation import quality

SUPERNET = Path("benchmarks/supernets/cifar10_mobilenetv3.safetensors")
SEED = 0
RANDOM = 300
HELD, TEST = 2_000, 500
CALIBRATING, CALIBRATING_ALL = 600, 200  # images for batch-norm statistics


def part_times(supernet: GroupedSupernet) -> Floats:
    """Stem, every block, head: median ms of a batch, each a session of its own."""
    side = supernet.resolution
    assert side is not None
    graphs = NetworkGraphs(supernet, torch.zeros(BATCH, 3, side, side))
    assert graphs.parts is not None
    space, parts = supernet.space, graphs.parts
    blocks = [
        graphs.block_parts(node, block)
        for node, size in enumerate(space.sizes)
        for block in range(size)
    ]
    models = [parts.stem, *(parts.joined(own) for own in blocks), parts.head]
    engine = OnnxRuntimeEngine(batch=BATCH)
    calls = [engine.prepare(bytes(model.SerializeToString())) for model in models]
    timings = time_in_turns(calls, TimingSettings())
    return np.array([timing.median for timing in timings])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--supernet", type=Path, default=SUPERNET)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(header(SEED))
    trained = Trained.open(options.supernet)
    assert isinstance(trained.supernet, MobileNetV3Net)
    space = chosen_space(trained.supernet.space)
    supernet = GroupedSupernet(trained.supernet, space)
    options.folder.mkdir(parents=True, exist_ok=True)

    def evaluated(name: str, networks: list[mn.Network], images: int, test: bool) -> mn.Study:
        source = trained.test if test else trained.held
        calibration = trained.calibration(CALIBRATING_ALL if test else CALIBRATING, SEED)
        evaluator = AccuracyEvaluator(
            supernet, calibration, trained.images(source, images), batch_size=125
        )
        study = mn.Study(options.folder / f"{name}.study", space)
        report = mn.evaluate(study, networks, evaluator, workers=options.workers, progress=True)
        assert not report.failures
        return study

    single = mn.single_sampling(space).networks
    drawn = space.sample(RANDOM, seed=SEED)
    fitting = list(dict.fromkeys([*single, *drawn]))
    table = mn.fit(evaluated("held", fitting, HELD, test=False), method="means")
    every = list(space.enumerate())
    actual = values_of(evaluated("test", every, TEST, test=True), "accuracy", every)
    times = part_times(supernet)
    table.save(TABLE)
    correct = np.rint(actual * TEST / 100).astype(np.uint16)
    np.savez_compressed(KNOWN, times_ms=times, correct=correct, images=np.array(TEST))
    found = quality(table.predict(every, "accuracy"), actual)
    print(
        f"{len(fitting)} networks on {HELD} held-out images; all {len(every)} on {TEST} test "
        f"images: {actual.min():.2f} to {actual.max():.2f} %; Spearman {found.spearman:.3f}, mean "
        f"error {found.mae:.3f} points, bias {found.bias:+.3f} points"
    )
    for node, size in enumerate(space.sizes):
        start = 1 + int(space.offsets[node])
        own = ", ".join(f"{value:.3f}" for value in times[start : start + size])
        print(f"{space.nodes[node].name}: {own} ms a batch of {BATCH}")
    print(f"stem {times[0]:.3f} ms, head {times[-1]:.3f} ms")


if __name__ == "__main__":
    main()
