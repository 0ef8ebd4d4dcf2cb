"""Public weights become a supernet file that every command reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from mathnas.cli import main
from mathnas.nets.files import load_supernet, supernet_notes
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.nasbench201 import NASBench201Net
from mathnas.nets.supertransformer import SuperTransformerNet
from mathnas.nets.supervit import SuperViTNet
from mathnas.spaces import MobileNetV3, NASBench201, SuperViT
from supertransformer_cases import tiny_space


def test_a_once_for_all_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = MobileNetV3Net(MobileNetV3(width=0.35, resolution=64, classes=7), seed=3)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "public")
    file = tmp_path / "ofa.safetensors"
    arguments = [str(tmp_path / "public"), "-o", str(file), "--resolution", "64"]
    assert main(["convert", *arguments, "--data", "folder:images", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tensors"] == 475
    found, notes = load_supernet(file), supernet_notes(file)
    assert found.space == net.space
    same = zip(found.state_dict().values(), net.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)
    assert notes["data"] == "folder:images"
    assert notes["preprocessing"]["resolution"] == 64  # type: ignore[index]

    assert main(["convert", *arguments]) == 1  # nothing is written over
    assert "is there already" in capsys.readouterr().err


def test_a_weight_sharing_network_of_cells(tmp_path: Path) -> None:
    net = NASBench201Net(NASBench201("cifar10", channels=4, cells=1), seed=3)
    torch.save(net.state_dict(), tmp_path / "public.pth")
    file = tmp_path / "cells.safetensors"
    arguments = [
        str(tmp_path / "public.pth"),
        "--kind",
        "nasbench201",
        "-o",
        str(file),
        "--data",
        "cifar10",
    ]
    assert main(["convert", *arguments]) == 0
    assert load_supernet(file).space == net.space


def test_a_translation_supernet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = tiny_space(decoder_layers=2)
    net = SuperTransformerNet(space, seed=3)
    torch.save({"model": net.state_dict()}, tmp_path / "hat.pt")
    file = tmp_path / "hat.safetensors"
    arguments = ["convert", str(tmp_path / "hat.pt"), "--kind", "hat", "-o", str(file)]
    assert main([*arguments, "--space", space.name]) == 0
    found, notes = load_supernet(file), supernet_notes(file)
    assert found.space == space
    same = zip(found.state_dict().values(), net.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)
    assert notes == {"checkpoint": "hat.pt"}

    file.unlink()
    for wrong, told in (
        ([], "give its space"),
        (["--space", "digits"], "of a SuperTransformer"),
        (["--space", space.name, "--resolution", "32"], "for sentences"),
    ):
        assert main([*arguments, *wrong]) == 1
        assert told in capsys.readouterr().err
    assert main([*arguments, "--kind", "once-for-all", "--space", space.name]) == 1
    assert "tell their space" in capsys.readouterr().err
    assert not file.exists()


def test_a_hybrid_of_convolutions_and_attention(tmp_path: Path) -> None:
    net = SuperViTNet(SuperViT(192, classes=5), seed=3)
    torch.save({"model_ema": net.state_dict()}, tmp_path / "public.pth")
    file = tmp_path / "hybrid.safetensors"
    kind = ["--kind", "nasvit", "--resolution", "192"]
    assert main(["convert", str(tmp_path / "public.pth"), *kind, "-o", str(file)]) == 0
    assert load_supernet(file).space == net.space


def test_what_is_no_such_checkpoint_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other")
    file = tmp_path / "out.safetensors"
    assert main(["convert", str(tmp_path / "other"), "-o", str(file)]) == 1
    assert "error:" in capsys.readouterr().err
    assert not file.exists()
