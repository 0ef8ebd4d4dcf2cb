"""A model of one's own, fitted to limits from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx
import torch

import mathnas as mn
from mathnas.cli import main
from mathnas.nets.onnx_export import run_onnx

MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.expand, self.project = nn.Conv2d(8, 32, 1), nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, x):
        return x + self.project(torch.relu(self.expand(x)))


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def make_model():
    torch.manual_seed(0)
    return Own()


def nothing():
    raise RuntimeError("no weights here")


number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_model_to_compress.py").write_text(MODEL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(*more: str, model: str = "make_model", output: str = "small.onnx") -> list[str]:
    own = ["compress", f"own_model_to_compress:{model}", "--data", "digits", "-o", output]
    return [*own, "--samples", "32", *more]


def test_a_model_becomes_a_smaller_graph(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(arguments("--limit", "macs=-40%", "--alternatives", "width:0.5,skip", "--json")) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "optimal"
    assert set(told["blocks"]) == {"blocks.0", "blocks.1", "blocks.2"}
    assert told["measured"]["drift"] > 0
    graph = onnx.load(folder / "small.onnx")
    with mn.Study(folder / "small.study") as study:
        space = study.space
        macs = space.macs([told["network"], space.reference])
        assert macs[0] <= 0.6 * macs[1]
        assert len(list(study.evaluations("drift"))) == 8  # 7 by single sampling, and the answer
    # any number of images
    for count in (1, 5):
        found = run_onnx(graph, torch.randn(count, 1, 8, 8).numpy())
        assert found.shape == (count, 10)


def test_rounded_weights_are_integers_and_files_need_no_mathnas(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--limit", "macs=-1%", "--alternatives", "width:0.75+int8", "--nodes", "blocks.*"]
    assert main(arguments(*own)) == 0
    graph = onnx.load(folder / "small.onnx")
    assert onnx.TensorProto.INT8 in {own.data_type for own in graph.graph.initializer}
    assert main(arguments(*own, output="small.pt2")) == 0
    assert main(arguments(*own, output="small.safetensors")) == 0
    assert (folder / "small.pt2").exists()
    assert "own_model_to_compress:make_model" in (folder / "small.py").read_text(encoding="utf-8")
    assert main(arguments(*own, output="small.safetensors")) == 1
    (folder / "small.safetensors").unlink()
    capsys.readouterr()
    assert main(arguments(*own, output="small.safetensors")) == 1
    assert "small.py is there already" in capsys.readouterr().err


def test_the_same_command_goes_on_where_it_was_stopped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("--limit", "macs=-20%")) == 0
    assert main(arguments("--limit", "macs=-60%", "--study", "small.study", output="b.onnx")) == 0
    assert "written: b.onnx" in capsys.readouterr().out
    with mn.Study(folder / "small.study") as study:
        networks = [found.network for found in study.evaluations("drift")]
    assert len(set(networks)) == len(networks) >= 10


def test_limits_on_latency_are_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limit = ["--limit", "latency_ms=-5%", "--accept-noise", "--alternatives", "skip"]
    code = main(arguments(*limit, "--json"))
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    assert told["measured"]["latency_ms"] > 0


def test_a_limit_that_nothing_meets_is_explained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("--limit", "params=1", "--json")) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "infeasible"
    assert not (folder / "small.onnx").exists()


@pytest.mark.parametrize(
    ("more", "model", "output", "message"),
    [
        ([], "make_model", "small.onnx", "there is none: write --limit"),
        (["--limit", "macs=-5%"], "make_model", "small.pt", "written as NAME.onnx"),
        (["--limit", "macs=-5%"], "nothing", "small.onnx", "no weights here"),
        (["--limit", "macs=-5%"], "number", "small.onnx", "cannot be loaded"),
        (["--limit", "macs=-5%", "--nodes", "layers.*"], "make_model", "small.onnx", "is called"),
        (
            ["--limit", "macs=-5%", "--alternatives", "slim"],
            "make_model",
            "small.onnx",
            "alternatives are skip",
        ),
    ],
)
def test_wrong_use_is_told_with_the_way_out(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    model: str,
    output: str,
    message: str,
) -> None:
    assert main(arguments(*more, model=model, output=output)) == 1
    assert message in capsys.readouterr().err
    assert not (folder / output).exists()


def test_nothing_is_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "small.onnx").write_bytes(b"mine")
    assert main(arguments("--limit", "macs=-5%")) == 1
    assert "is there already" in capsys.readouterr().err
    assert (folder / "small.onnx").read_bytes() == b"mine"
