"""Compressed networks as tensors and a Python file, made again where there is no mathnas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import rebuilt_model
import torch
from compression_cases import Scaled, batches, pictures
from torch import nn

from mathnas import InvalidInputError
from mathnas.compression.batches import Batch
from mathnas.compression.custom import FactoryAlternative
from mathnas.compression.export import export_compressed
from mathnas.compression.parsing import read_alternatives
from mathnas.compression.quantised import weight_bytes
from mathnas.compression.rebuilding import changes_between
from mathnas.compression.supernet import from_module
from mathnas.nets.agreement import ExportError

EVERY = "skip,width:0.5,kernel:3,rank:0.5,int8,int4,width:0.5+int8"


def ids() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {
        "ids": torch.randint(20, (4, 7), generator=generator),
        "mask": (torch.rand(4, 7, generator=generator) > 0.3).float(),
    }


def convolutional() -> tuple[nn.Module, nn.Module]:
    """A model and a network of every alternative."""
    torch.manual_seed(0)
    model = rebuilt_model.convolutional()
    net = from_module(model, batches(), read_alternatives(EVERY))
    assert net.refusals == ()
    blocks = ("skip", "width:0.5", "kernel:3", "rank:0.5", "int4", "width:0.5+int8")
    return model, net.extract(blocks)


@torch.no_grad()
def test_a_new_process_without_mathnas_makes_the_network_again(tmp_path: Path) -> None:
    _, network = convolutional()
    written = export_compressed(
        network, tmp_path / "small.safetensors", pictures(), make="rebuilt_model:convolutional"
    )
    assert written.code == tmp_path / "small.py"
    assert written.any_batch
    assert written.difference <= 1e-6 == written.tolerance
    assert 0 < written.bytes - weight_bytes(network) < 8_000  # names and shapes
    torch.save({"x": pictures(), "y": network(pictures())}, tmp_path / "expected.pt")
    code = (
        "import sys; sys.modules['mathnas'] = None\n"
        "import torch; torch.set_num_threads(%d)\n"
        "from small import load\n"
        "expected = torch.load('expected.pt', weights_only=True)\n"
        "with torch.no_grad(): off = load()(expected['x']) - expected['y']\n"
        "print(float(off.abs().max()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code % torch.get_num_threads()],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(rebuilt_model.__file__).parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) <= 1e-5
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".py", ".pt")) == [
        "expected.pt",
        "small.py",
    ]


@torch.no_grad()
def test_what_changed_is_found_by_comparing() -> None:
    model, network = convolutional()
    found = changes_between(rebuilt_model.convolutional(), network)
    assert found.skipped == {"1": False}
    assert found.pairs == {
        "4.expand": ("Conv2d", (16, 6, 64), True, (1, 1)),
        "4.project": ("Conv2d", (64, 6, 16), True, (1, 1)),
    }
    assert found.attributes["2.expand"] == {"out_channels": 32}
    assert found.attributes["3.depthwise"]["kernel_size"] == (3, 3)
    assert "5.expand" not in found.attributes
    assert changes_between(model, rebuilt_model.convolutional()).skipped == {}


@torch.no_grad()
def test_named_inputs_tuples_and_shared_weights_are_made_again(tmp_path: Path) -> None:
    net = from_module(
        rebuilt_model.tokens, [ids()], read_alternatives("skip,rank:0.5,int4"), nodes="layers.*"
    )
    network = net.extract(("skip", "rank:0.5", "int4"))
    written = export_compressed(
        network, tmp_path / "net.safetensors", ids(), make="rebuilt_model:tokens"
    )
    assert written.difference <= 1e-6
    code = (tmp_path / "net.py").read_text()
    assert "SKIPPED = {'layers.0': True}" in code
    assert "SAME = {'out.weight': 'embed.weight'}" in code


def test_what_a_file_cannot_tell_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = rebuilt_model.convolutional()
    own = FactoryAlternative("own", lambda node: nn.Sequential(nn.Tanh()))
    net = from_module(model, batches(), [own, Scaled(2.0)])
    path = tmp_path / "net.safetensors"

    def refused(blocks: tuple[str, ...], make: str, why: str) -> None:
        with pytest.raises(ExportError, match=why):
            export_compressed(net.extract(blocks), path, pictures(), make=make)
        assert list(tmp_path.iterdir()) == []

    original = ("original",) * 6
    refused(
        ("own", *original[1:]),
        "rebuilt_model:convolutional",
        r"but 1, a rebuilt_model.Block, became a torch.nn.modules.container.Sequential, whose code",
    )
    refused(original, "rebuilt_model:tokens", "the model itself, a rebuilt_model.Tokens, became")
    refused(original, "rebuilt_model:nothing", "gave AttributeError")
    refused(original, "rebuilt_model:number", "but 'rebuilt_model:number' gave a int")
    # other weights are no other code
    scaled = net.extract(("scaled:2.0", *original[1:]))
    make = "rebuilt_model:convolutional"
    assert export_compressed(scaled, path, pictures(), make=make).difference <= 1e-6


@torch.no_grad()
def test_python_files_of_others_are_left(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, make = rebuilt_model.convolutional().eval(), "rebuilt_model:convolutional"
    (tmp_path / "net.py").write_text("mine = 1\n")
    with pytest.raises(InvalidInputError, match=r"net.py is written beside net.safetensors, but"):
        export_compressed(model, tmp_path / "net.safetensors", pictures(), make=make)
    assert [path.name for path in tmp_path.iterdir()] == ["net.py"]
    for _ in range(2):  # what it wrote itself, it replaces
        export_compressed(model, tmp_path / "other.safetensors", pictures(), make=make)


def test_an_original_that_needs_mathnas_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import mathnas\nfrom rebuilt_model import convolutional\n"
    (tmp_path / "needs_it.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    model = rebuilt_model.convolutional().eval()
    target = tmp_path / "files" / "net.safetensors"
    with pytest.raises(ExportError, match=r"without mathnas, but there it failed: .*mathnas"):
        export_compressed(model, target, pictures(), make="needs_it:convolutional")
    assert not target.parent.exists()
