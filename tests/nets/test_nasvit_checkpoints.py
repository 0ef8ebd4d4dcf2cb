"""Reading NASViT's public file: made here, with its names and shapes, as far as they are known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")

import torch
from nets_cases import images
from torch import Tensor, nn
from torch.nn import functional

from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.nets.nasvit_checkpoints import load_nasvit
from mathnas.nets.supervit import ElasticResidual, ElasticTransformer, SuperViTNet
from mathnas.spaces import SuperViT
from mathnas.testing.supernets import unsettle

State = dict[str, Tensor]


@cache
def trained() -> SuperViTNet:
    net = SuperViTNet(SuperViT(192, classes=12))
    unsettle(net)
    return net.eval()


def unused() -> State:
    """What the file has besides."""
    state: State = {}
    for name, part in trained().named_modules():
        if isinstance(part, nn.BatchNorm2d):
            for place in (0, 1):
                at = f"{name.removesuffix('.bn')}.bn_tracking.{place}"
                state |= {
                    f"{at}.running_mean": torch.zeros(part.num_features),
                    f"{at}.running_var": torch.ones(part.num_features),
                    f"{at}.num_batches_tracked": torch.tensor(7),
                }
        elif isinstance(part, ElasticResidual):
            state[f"{name}.mobile_inverted_conv.rescale"] = torch.ones(max(part.of_stage.widths))
        elif isinstance(part, ElasticTransformer):
            state[f"{name}.attn.relative_position_index"] = torch.zeros(324, 324, dtype=torch.long)
    return state


@cache
def published() -> State:
    return {**trained().state_dict(), **unused()}


@pytest.fixture
def config() -> Iterator[object]:
    """A configuration as the file has one, of a library that is not there when it is read."""
    module = ModuleType("yacs.config")

    class CfgNode(dict[str, object]):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    sys.modules["yacs"], sys.modules["yacs.config"] = ModuleType("yacs"), module
    node = CfgNode(DATA=CfgNode(IMG_SIZE=224, LIST=[1, 2]), AMP="O0")
    node.__dict__ |= {"__immutable__": True, "__deprecated_keys__": set()}
    yield node
    for name in ("yacs", "yacs.config"):
        sys.modules.pop(name, None)


def same_outputs(net: SuperViTNet, other: SuperViTNet) -> None:
    x = images(3, side=64).view(1, 3, 64, 64)
    for network in net.extremes():
        with torch.no_grad():
            assert torch.equal(net(x, network), other(x, network))


def test_the_public_file_has_1460_tensors() -> None:
    assert len(published()) == 1460


def test_averaged_weights_are_read_whatever_else_the_file_holds(
    tmp_path: Path, config: object
) -> None:
    path = tmp_path / "ckpt_360.pth"
    other = {name: torch.zeros_like(tensor) for name, tensor in published().items()}
    moments = {0: {"step": 3, "exp_avg": torch.zeros(3)}}
    torch.save(
        {
            "model": other,
            "model_ema": published(),
            "optimizer": {"state": moments, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
            "lr_scheduler": {"last_epoch": 360},
            "max_accuracy": 82.8,
            "epoch": 360,
            "config": config,
        },
        path,
    )
    for name in ("yacs", "yacs.config"):
        del sys.modules[name]
    net = load_nasvit(path, resolution=192)
    assert not net.training
    assert net.space == SuperViT(192, classes=12)
    same_outputs(net, trained())
    assert not any(
        tensor.any() for tensor in load_nasvit(path, entry="model").state_dict().values()
    )
    assert "yacs" not in sys.modules


@pytest.mark.parametrize("prefix", ["", "module."])
def test_bare_weights_and_those_of_several_processes_are_read(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save({prefix + name: tensor for name, tensor in published().items()}, path)
    same_outputs(load_nasvit(path, resolution=192), trained())


def test_half_precision_is_read(tmp_path: Path) -> None:
    path = tmp_path / "half.pth"
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in published().items()
    }
    torch.save({"model_ema": halves}, path)
    found = load_nasvit(path).state_dict()
    name = "blocks.14.attn.q.linear.weight"
    assert torch.equal(found[name], trained().state_dict()[name].half().float())


def test_positions_of_another_window_are_resized(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model_ema": published()}, path)
    name = "blocks.20.attn.relative_position_bias_table"
    wide = load_nasvit(path, resolution=320).state_dict()[name]  # a window of 20
    old = published()[name]
    assert wide.shape == (39**2, old.shape[1])
    for head in range(3):
        image = old[:, head].view(1, 1, 35, 35)
        expected = functional.interpolate(image, size=(39, 39), mode="bicubic").flatten()
        torch.testing.assert_close(wide[:, head], expected)


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pth", published()
    name = "blocks.20.attn.relative_position_bias_table"
    for change, message in (
        ({"blocks.0.surprise": torch.zeros(1)}, "blocks.0.surprise"),
        ({"blocks.20.mobile_inverted_conv.rescales": torch.zeros(1)}, "rescales"),
        ({"blocks.20.norm1.weight": torch.zeros(5)}, r"\(5,\)"),
        ({name: torch.zeros(36, state[name].shape[1])}, r"\(36, 16\)"),
        ({"classifier.linear.linear.weight": torch.zeros(3)}, "no NASViT"),
    ):
        torch.save({"model_ema": {**state, **change}}, path)
        with pytest.raises(FileFormatError, match=message):
            load_nasvit(path)
    torch.save({"model_ema": {k: v for k, v in state.items() if k != name}}, path)
    with pytest.raises(FileFormatError, match=name):
        load_nasvit(path)
    torch.save({"weights": {"a": torch.zeros(1)}}, path)
    with pytest.raises(FileFormatError, match="model_ema"):
        load_nasvit(path)


class Runs:
    """A pickle that wants to call something."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def test_nothing_in_a_file_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model_ema": published(), "config": Runs()}, path)
    with pytest.raises(FileFormatError, match="a pickle may run anything"):
        load_nasvit(path)
    assert "run" not in capsys.readouterr().out


def test_arguments_are_those_of_the_space(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model_ema": published()}, path)
    with pytest.raises(InvalidInputError, match="32 to 4096 pixels"):
        load_nasvit(path, resolution=8)
