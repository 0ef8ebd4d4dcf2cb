"""What networks are evaluated on while a supernet is trained, and how it is told."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch
from torch import Tensor, nn
from torch.nn import functional
from training_cases import ALONE, small_net, square_data, squares

from mathnas import Block, BlockNode, FileFormatError, InvalidInputError, Network, SearchSpace
from mathnas.metrics import Metric, metric_named
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.scores import LabelledImages, score
from mathnas.nets.supernet import Supernet
from mathnas.training.config import TrainingConfig
from mathnas.training.data import TrainingData
from mathnas.training.held_out import HeldOutImages
from mathnas.training.reports import TrainingProgress, log_columns
from mathnas.training.trainer import train

WORDS = 5


class Successor(Supernet):
    """Tells of every word which comes next, from the word itself: an embedding is all there is."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        blocks = (Block("small", macs=1.0), Block("large", macs=2.0))
        self.space = SearchSpace([BlockNode("only", blocks)], name="successor")
        generator = torch.Generator().manual_seed(seed)
        self.tables = nn.Parameter(0.1 * torch.randn(2, WORDS, WORDS, generator=generator))

    def forward(self, x: Tensor, network: Network) -> Tensor:
        _, before = x.unbind(1)  # source and target, each of shape (batch, length)
        return self.tables[network[0]][before.flatten()]

    def extract(self, network: Network) -> nn.Module:
        raise AssertionError("texts are evaluated without")


def texts(count: int, length: int = 4) -> tuple[Tensor, Tensor]:
    """Inputs of shape (batch, 2, length); the word that comes next is two further on."""
    first = torch.arange(count).unsqueeze(1)
    before = (first + 2 * torch.arange(length)) % WORDS
    return torch.stack([before, before], 1), (before + 2) % WORDS


class Texts:
    """Batches of texts; their labels are of shape (batch, length), or in one row."""

    steps_per_epoch = 6

    def __init__(self, flat: bool) -> None:
        self.flat = flat

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(start, self.steps_per_epoch):
            inputs, labels = texts(3 + step)
            yield inputs, labels.flatten() if self.flat else labels


class HeldOutTexts:
    """Mean cross entropy of a word."""

    metric: Metric = metric_named("loss")

    def score(self, supernet: Supernet, network: Network) -> float:
        assert not supernet.training
        assert not torch.is_grad_enabled()
        inputs, labels = texts(10)
        return float(functional.cross_entropy(supernet(inputs, network), labels.flatten()))


def text_data(flat: bool = True) -> TrainingData:
    return TrainingData("texts", Texts(flat), WORDS, held_out=HeldOutTexts(), samples="tokens")


CONFIG = TrainingConfig(
    epochs=4, optimizer="adamw", learning_rate=0.1, random_networks=1, label_smoothing=0.0
)


# ---- images -------------------------------------------------------------------------------------


def test_images_score_the_accuracy_of_the_recalibrated_network() -> None:
    net, (images, labels) = small_net(), squares(90)
    train(net, square_data(), TrainingConfig(epochs=4, batch_size=20), processes=ALONE)
    held_out = HeldOutImages(LabelledImages(images, labels), (images[:40], images[40:60]))
    for network in net.space.enumerate():
        static = net.extract(network)
        recalibrate(static, (images[:40], images[40:60]))
        expected = score(static, LabelledImages(images, labels)).accuracy
        assert held_out.score(net, network) == expected
    assert held_out.metric == metric_named("accuracy")


def test_images_without_calibration_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="held-out images and no calibration"):
        HeldOutImages(LabelledImages(*squares(3)), ())


def test_of_images_it_is_told_as_accuracy(tmp_path: Path) -> None:
    told: list[TrainingProgress] = []
    config = TrainingConfig(epochs=1, batch_size=20)
    report = train(
        small_net(),
        square_data(held_out=True),
        config,
        tmp_path,
        processes=ALONE,
        told=told.append,
    )
    header = (tmp_path / "log.csv").read_text().splitlines()[0]
    assert header == (
        "step,epoch,phase,learning_rate,images_per_second,loss_largest,loss_smallest,loss_random,"
        "batch_accuracy,accuracy_smallest,accuracy_largest"
    )
    assert " images/s, loss " in str(told[-1])
    assert str(told[-1]).endswith(" %")
    record = report.to_dict()
    assert record["metric"] == "accuracy"
    assert record["scores"] == told[-1].scores == report.scores


# ---- other data ---------------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_texts_are_trained_and_their_loss_is_told(
    flat: bool, precision: str, tmp_path: Path
) -> None:
    told: list[TrainingProgress] = []
    net = Successor()
    config = CONFIG.replace(precision=precision)
    report = train(net, text_data(flat), config, tmp_path, processes=ALONE, told=told.append)
    with (tmp_path / "log.csv").open(newline="") as file:
        log = [row for row in csv.DictReader(file) if row["held_out_loss_largest"]]
    assert [row["epoch"] for row in log] == ["1.0", "2.0", "3.0", "4.0"]
    first, last = (float(row["held_out_loss_largest"]) for row in (log[0], log[-1]))
    assert last < 0.5 * first
    assert last == report.scores["largest"]
    # what the network had while it was trained stands beside it
    assert float(log[-1]["loss_largest"]) != last
    assert float(log[-1]["tokens_per_second"]) > 0
    assert " tokens/s, loss " in str(told[-1])
    assert str(told[-1]).endswith(" nats")
    record = json.loads(json.dumps(report.to_dict()))
    assert record["metric"] == "loss"
    assert record["scores"] == report.scores


def test_without_held_out_data_nothing_is_evaluated(tmp_path: Path) -> None:
    data = dataclasses.replace(text_data(), held_out=None)
    report = train(Successor(), data, CONFIG, tmp_path, processes=ALONE)
    assert (report.metric, report.scores) == (None, {})
    assert report.to_dict()["metric"] is None
    header = (tmp_path / "log.csv").read_text().splitlines()[0]
    assert tuple(header.split(",")) == log_columns("tokens")
    assert "held_out" not in header


def test_scores_of_another_metric_are_not_put_into_the_same_columns(tmp_path: Path) -> None:
    data = dataclasses.replace(text_data(), held_out=None)
    train(Successor(), data, CONFIG.replace(epochs=1), tmp_path, processes=ALONE)
    with pytest.raises(FileFormatError, match="not the log of this training: its columns"):
        train(Successor(), text_data(), CONFIG.replace(epochs=1), tmp_path, processes=ALONE)


def test_scores_are_finite_numbers() -> None:
    class Lost(HeldOutTexts):
        def score(self, supernet: Supernet, network: Network) -> float:
            return float("nan")

    data = dataclasses.replace(text_data(), held_out=Lost())
    with pytest.raises(InvalidInputError, match="must be finite, but loss = nan"):
        train(Successor(), data, CONFIG, processes=ALONE)


def test_there_is_a_row_of_logits_for_every_label() -> None:
    class Short(Successor):
        def forward(self, x: Tensor, network: Network) -> Tensor:
            return super().forward(x[:, :, 1:], network)

    with pytest.raises(InvalidInputError, match="gives 9 for a batch of 'texts' with 12"):
        train(Short(), text_data(), CONFIG, processes=ALONE)
