"""Fine-tuning one network: what it learns, what guides it, and that it can be done again."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

import torch
from torch import nn
from torch.nn import functional

from mathnas import InvalidInputError
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.digits import DigitsConfig, DigitsNet, DigitsNode
from mathnas.nets.extracted import ExtractedNetwork, extract_network
from mathnas.nets.mbconv import MBConvChoice
from mathnas.training.batches import TensorBatches
from mathnas.training.config import TrainingConfig
from mathnas.training.data import TrainingData
from mathnas.training.finetuning import GuidedLoss, finetune, largest_network
from mathnas.training.losses import Batch

torch.set_num_threads(1)

CONFIG = TrainingConfig(
    recipe="uniform", epochs=6, batch_size=16, learning_rate=0.05, label_smoothing=0.0, seed=4
)
NODES = (DigitsNode(6, 1, (None, MBConvChoice(3, 2))), DigitsNode(8, 2, (MBConvChoice(3, 2),)))


@pytest.fixture
def net() -> DigitsNet:
    return DigitsNet(DigitsConfig(stem=6, nodes=NODES, head=16, classes=2), seed=0).eval()


@pytest.fixture
def data() -> TrainingData:
    """Dark and light images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    images = torch.rand(64, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1) * 0.5
    batches = TensorBatches(images, labels, 16, seed=1)
    return TrainingData("made up", batches, 2, [images[:32], images[32:]])


def loss_of(module: nn.Module, data: TrainingData) -> float:
    images = torch.cat(list(data.calibration))
    with torch.no_grad():
        return float(functional.cross_entropy(module(images), torch.arange(64) % 2))


def fresh(net: DigitsNet, data: TrainingData) -> ExtractedNetwork:
    found = extract_network(net, (0, 0), torch.rand(2, 1, 8, 8))
    recalibrate(found.module, data.calibration)
    return found


def test_it_learns_and_leaves_the_supernet_alone(net: DigitsNet, data: TrainingData) -> None:
    before = copy.deepcopy(net.state_dict())
    start = fresh(net, data)
    first = loss_of(start.module, data)
    tuned, report = finetune(start, data, CONFIG, progress=False)
    assert tuned.module is start.module
    assert not tuned.module.training
    assert report.steps == 6 * 4
    assert loss_of(tuned.module, data) < 0.5 * first
    assert tuned.notes == {"finetuned_epochs": 6, "seed": 4, "calibration_images": 64}
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
    # its statistics are those of the calibration images
    own = copy.deepcopy(tuned.module)
    recalibrate(own, data.calibration)
    for name, tensor in own.state_dict().items():
        assert torch.equal(tensor, tuned.module.state_dict()[name])


def test_the_same_seed_gives_the_same_network(net: DigitsNet, data: TrainingData) -> None:
    runs = []
    for _ in range(2):
        guide = largest_network(net, data)
        tuned, _ = finetune(fresh(net, data), data, CONFIG, guide=guide, progress=False)
        runs.append(tuned.module.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_a_guide_is_weighed_against_the_labels() -> None:
    guide = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    inputs, labels = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        soft = guide(inputs).softmax(1)
    guided = -(soft * logits.log_softmax(1)).sum(1).mean()
    expected = 2.0 * guided + functional.cross_entropy(logits, labels)
    found = GuidedLoss(guide, 2.0)(logits, Batch(inputs, labels))
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad  # nothing of the guide learns


def test_the_guide_is_the_largest_network_recalibrated(net: DigitsNet, data: TrainingData) -> None:
    guide = largest_network(net, data)
    expected = net.extract((1, 0))
    recalibrate(expected, data.calibration)
    with torch.no_grad():
        images = data.calibration[0]
        assert torch.equal(guide(images), expected(images))
    assert not any(parameter.requires_grad for parameter in guide.parameters())


def test_what_does_not_fit_is_refused(net: DigitsNet, data: TrainingData) -> None:
    with pytest.raises(InvalidInputError, match="recipe 'uniform', but the configuration has"):
        finetune(fresh(net, data), data, CONFIG.replace(recipe="sandwich"))
    bare = TrainingData("bare", data.batches, 2)
    with pytest.raises(InvalidInputError, match="no calibration batches"):
        finetune(fresh(net, data), bare, CONFIG)
