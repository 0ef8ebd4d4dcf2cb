"""The demo's own training, in small."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("sklearn")

import numpy as np
import onnx
import torch
from rich.console import Console

from mathnas import Measurement
from mathnas.demo.flow import follow
from mathnas.demo.images import distort, load_images
from mathnas.demo.trained import TrainedBench, TrainedConfig
from mathnas.nets.digits import DigitsConfig, DigitsNode
from mathnas.nets.mbconv import MBConvChoice
from mathnas.nets.onnx_export import run_onnx

SMALL = TrainedConfig(
    net=DigitsConfig(
        stem=6,
        nodes=(
            DigitsNode(6, 1, (None, MBConvChoice(3, 1), MBConvChoice(3, 3))),
            DigitsNode(12, 2, (MBConvChoice(3, 1), MBConvChoice(3, 3), MBConvChoice(5, 3))),
            DigitsNode(12, 1, (None, MBConvChoice(3, 1), MBConvChoice(3, 3))),
        ),
        head=24,
    ),
    epochs=12,
    latency_batch=4,
)


@pytest.fixture(scope="session")
def bench() -> TrainedBench:
    return TrainedBench.train(SMALL, seed=3, progress=False)


def value(outcome: Measurement | float) -> float:
    return outcome.value if isinstance(outcome, Measurement) else outcome


def test_training_beats_guessing_and_tells_networks_apart(bench: TrainedBench) -> None:
    networks = bench.space.sample(8)
    outcomes = bench.accuracy.evaluate_batch(networks, [0] * 8)
    accuracies = [value(outcome["accuracy"]) for outcome in outcomes]
    assert min(accuracies) > 25
    assert len(set(accuracies)) > 4


def test_training_again_gives_the_same_weights() -> None:
    few = replace(SMALL, epochs=1)
    benches = [TrainedBench.train(few, seed=seed, progress=False) for seed in (3, 3, 4)]
    weights = [bench.accuracy.conditions["weights"] for bench in benches]
    assert weights[0] == weights[1] != weights[2]


def test_the_delivered_file_is_the_network_that_was_measured(
    bench: TrainedBench, tmp_path: Path
) -> None:
    network = bench.space.reference
    delivery = bench.deliver(network, tmp_path)
    measured = value(bench.accuracy.evaluate(network, 0)["accuracy"])
    # other kernels of other libraries: an image or two at the border may change sides
    assert delivery.measured["accuracy"] == pytest.approx(measured, abs=0.2)
    graph = onnx.load(tmp_path / delivery.files[0])
    held_out = bench.data.held_out
    for count in (1, 7):
        assert run_onnx(graph, held_out.images[:count].numpy()).shape == (count, 10)
    right = run_onnx(graph, held_out.images.numpy()).argmax(1) == held_out.labels.numpy()
    assert 100 * np.mean(right) == delivery.measured["accuracy"]


def test_the_whole_flow(bench: TrainedBench, tmp_path: Path) -> None:
    result = follow(bench, tmp_path, rivals=5, console=Console(file=io.StringIO()))
    assert result.evaluated == 7
    predicted = result.answer.predictions["latency_ms"].value
    # on a machine that does other things
    assert result.found.latency_ms == pytest.approx(predicted, rel=0.5)
    assert {path.name for path in tmp_path.iterdir()} >= set(result.files)
    assert result.bench.provenance["seed"] == 3


def test_the_split_is_always_the_same_and_keeps_apart() -> None:
    one, two = load_images(), load_images()
    assert torch.equal(one.held_out.images, two.held_out.images)
    assert len(one.training) == 797
    assert len(one.held_out) == 2000
    assert sum(map(len, one.calibration)) == 4 * 199
    labels = torch.cat([one.training.labels, one.held_out.labels[:1000]])
    from sklearn.datasets import load_digits

    assert sorted(labels.tolist()) == sorted(load_digits().target.tolist())


def test_distortions_follow_the_generator() -> None:
    images = load_images().training.images[:20]

    def distorted(seed: int) -> torch.Tensor:
        return distort(images, torch.Generator().manual_seed(seed))

    assert distorted(0).shape == images.shape
    assert torch.equal(distorted(0), distorted(0))
    assert not torch.equal(distorted(0), distorted(1))
    # still the same digits: far closer to their own image than to the next one
    own = (distorted(0) - images).square().mean()
    other = (distorted(0) - images.roll(1, 0)).square().mean()
    assert float(own) < 0.6 * float(other)
