"""The trainer of every supernet trains SuperViT: the sandwich, as NASViT is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

import torch
from training_cases import same_bits

from mathnas.nets.files import load_supernet
from mathnas.nets.supervit import SuperViTNet
from mathnas.spaces import named
from mathnas.training.batches import TensorBatches
from mathnas.training.config import TrainingConfig
from mathnas.training.data import TrainingData
from mathnas.training.trainer import train

SMALL = "supervit:resolution=32,classes=3,strides=1+1+2+2+2+1+1+2"


def test_one_step_of_the_sandwich(tmp_path: Path) -> None:
    """The largest network learns labels, the others its outputs by the alpha divergence, and
    conflicts of the two are resolved."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(8, 3, 32, 32, generator=generator), torch.arange(8) % 3
    net = SuperViTNet(named(SMALL), seed=1)  # type: ignore[arg-type]
    config = TrainingConfig(
        recipe="sandwich",
        epochs=1,
        batch_size=8,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.0,
        clip=1.0,
        student_loss="alpha",
        combine="resolve",
        zero_residuals=True,
        dropout=0.1,
        evaluation_interval=0,
    )
    data = TrainingData("noise", TensorBatches(images, labels, 8, seed=0), 3)
    before = {name: tensor.detach().clone() for name, tensor in net.named_parameters()}
    report = train(net, data, config, tmp_path / "out")
    assert report.steps == 1
    after = dict(net.named_parameters())
    assert all(bool(tensor.isfinite().all()) for tensor in after.values())
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    # in convolutions and in attention, also behind scales that begin near 0
    for part in ("first_conv.conv", "blocks.2.", "blocks.14.attn.q", "blocks.41.rescale_mlp"):
        assert any(name.startswith(part) for name in moved), part
    # 16 tokens of 4 x 4: no other row of the tables is a network's
    scales = after["blocks.14.rescale_attn"] - before["blocks.14.rescale_attn"]
    assert not scales[:, 1:].any()
    assert report.file is not None
    assert same_bits(load_supernet(report.file), net)
