"""Extracted networks: compared with their supernet, recalibrated, and written to files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch
from nets_cases import TINY, images, lived_in, memory
from torch import Tensor, nn

from mathnas import FileFormatError, InvalidInputError
from mathnas._files import file_sha256
from mathnas.nets.agreement import ExportError, check_agreement
from mathnas.nets.digits import DigitsNet
from mathnas.nets.export import ExportedFile, export_network
from mathnas.nets.extracted import (
    ExtractedNetwork,
    extract_network,
    load_extracted,
    read_extracted,
    recalibrated,
    save_extracted,
)
from mathnas.nets.fixed import FixedNetwork, fixed_space
from mathnas.nets.scores import LabelledImages, score
from mathnas.nets.tensors import read_tensors, write_tensors

NETWORK = (2, 1, 1)
ONNX = ("onnx", "onnxscript", "onnxruntime")


@pytest.fixture
def extracted() -> ExtractedNetwork:
    found = extract_network(lived_in(), NETWORK, images(3), notes={"data": "digits"})
    return recalibrated(found, [images(16, seed=1), images(16, seed=2)])


def test_extraction_is_compared_with_the_supernet() -> None:
    net = lived_in()
    found = extract_network(net, NETWORK, images(3))
    assert found.difference is not None
    assert found.difference < 1e-6
    assert memory(found.module).isdisjoint(memory(net))

    class Forgetful(DigitsNet):
        def extract_head(self) -> nn.Module:
            head = super().extract_head()
            with torch.no_grad():
                next(head.parameters()).add_(1.0)
            return head

    wrong = Forgetful(TINY)
    wrong.load_state_dict(net.state_dict())
    with pytest.raises(ExportError, match="an extracted network and its supernet agree to"):
        extract_network(wrong, NETWORK, images(3))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors"])
@pytest.mark.parametrize("any_batch", [True, False])
def test_a_file_is_checked_and_told_about(
    extracted: ExtractedNetwork, tmp_path: Path, suffix: str, any_batch: bool
) -> None:
    if suffix == ".onnx":
        for package in ONNX:
            pytest.importorskip(package)
    path = tmp_path / "deep" / f"net{suffix}"
    # a batch of one is no constant where the batch is open
    found = export_network(extracted, path, images(1), any_batch=any_batch)
    assert found == ExportedFile(
        path,
        suffix,
        path.stat().st_size,
        file_sha256(path),
        None if any_batch or suffix == ".safetensors" else 1,
        (1, 8, 8),
        found.difference,
        1e-4,
    )
    assert found.difference < 1e-5
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert json.dumps(found.to_dict())


def test_weights_come_back_to_the_bit(extracted: ExtractedNetwork, tmp_path: Path) -> None:
    save_extracted(tmp_path / "net.safetensors", extracted)
    found = read_extracted(tmp_path / "net.safetensors")
    assert (found.space, found.network) == (extracted.space, NETWORK)
    assert found.notes == {"data": "digits", "calibration_images": 32}
    state = found.module.state_dict()
    for name, tensor in extracted.module.state_dict().items():
        assert torch.equal(state[name], tensor)
    x = images(5, seed=9)
    with torch.no_grad():
        assert torch.equal(load_extracted(tmp_path / "net.safetensors")(x), extracted.module(x))


def test_a_programs_outputs_are_the_modules(extracted: ExtractedNetwork, tmp_path: Path) -> None:
    export_network(extracted, tmp_path / "net.pt2", images(2), any_batch=True)
    program = torch.export.load(tmp_path / "net.pt2").module()
    x = images(7, seed=5)
    with torch.no_grad():
        torch.testing.assert_close(program(x), extracted.module(x))


def test_files_that_are_no_network(extracted: ExtractedNetwork, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_extracted(path, extracted)
    tensors, record = read_tensors(path, "mathnas-network", 1)
    name = next(iter(tensors))

    def written(tensors: dict[str, Tensor], **changes: object) -> Path:
        write_tensors(path, tensors, {**record.value, **changes})
        return path

    with pytest.raises(FileFormatError, match="it lacks 1"):
        load_extracted(written({k: v for k, v in tensors.items() if k != name}))
    with pytest.raises(FileFormatError, match="nobody knows 1"):
        load_extracted(written({**tensors, "more": torch.zeros(1)}))
    with pytest.raises(FileFormatError, match=r"net.safetensors.network"):
        load_extracted(written(tensors, network=[9, 9, 9]))
    with pytest.raises(FileFormatError, match="version 2"):
        load_extracted(written(tensors, version=2))
    with pytest.raises(FileFormatError, match="expected the format 'mathnas-network'"):
        load_extracted(written(tensors, format="mathnas-supernet"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FileFormatError, match="damaged"):
        load_extracted(path)
    with pytest.raises(FileFormatError, match="cannot be read"):
        load_extracted(tmp_path / "none.safetensors")
    with pytest.raises(InvalidInputError, match="holds a network of the space"):
        load_extracted(written(tensors), DigitsNet())


def test_unknown_endings_are_refused_with_the_known(
    extracted: ExtractedNetwork, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=r"\.onnx, \.pt2, \.safetensors, but got 'a\.pth'"):
        export_network(extracted, tmp_path / "a.pth", images(1))
    extracted.module.train()
    with pytest.raises(InvalidInputError, match="training mode: call eval"):
        export_network(extracted, tmp_path / "a.pt2", images(1))


class TwoFaced(nn.Module):
    """Computes something else while it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if torch.compiler.is_exporting() else x


def test_what_disagrees_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"old")
    wrong = ExtractedNetwork(TwoFaced().eval(), lived_in().space, NETWORK)
    with pytest.raises(ExportError, match=r"a \.pt2 file and its module agree to 0\.0001"):
        export_network(wrong, path, images(1))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_agreement_is_relative_to_the_largest_output() -> None:
    expected = torch.tensor([[1000.0, -2000.0]])
    assert check_agreement(expected + 0.125, expected, "a and b") == 0.125 / 2000
    with pytest.raises(ExportError, match=r"a and b agree to 0\.0001 .* differ by 0\.3"):
        check_agreement(expected + 0.3, expected, "a and b")
    with pytest.raises(ExportError, match="differ by nan"):
        check_agreement(expected * torch.nan, expected, "a and b")
    with pytest.raises(ExportError, match="outputs of one shape"):
        check_agreement(expected[:, :1], expected, "a and b")


def test_one_network_as_a_supernet(extracted: ExtractedNetwork) -> None:
    fixed = FixedNetwork(extracted.module, extracted.space, NETWORK)
    x = images(4)
    with torch.no_grad():
        assert torch.equal(fixed(x, fixed.network), extracted.module(x))
        assert torch.equal(fixed.extract(fixed.network)(x), extracted.module(x))
    assert fixed.space.num_networks == 1
    assert fixed.extremes() == ((0, 0, 0), (0, 0, 0))
    assert fixed.space.macs([(0, 0, 0)]) == extracted.space.macs([NETWORK])
    assert memory(fixed.extract(fixed.network)).isdisjoint(memory(extracted.module))
    with pytest.raises(InvalidInputError):
        fixed_space(extracted.space, (9, 9, 9))


def test_scores_are_counted_over_all_images(extracted: ExtractedNetwork) -> None:
    x, labels = images(11), torch.arange(11) % 10
    found = score(extracted.module, LabelledImages(x, labels), images_at_once=4)
    with torch.no_grad():
        logits = extracted.module(x)
    right = int((logits.argmax(1) == labels).sum())
    assert found.accuracy == pytest.approx(100 * right / 11)
    assert found.loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)))
    with pytest.raises(InvalidInputError, match="10 outputs, and the labels reach 10"):
        score(extracted.module, LabelledImages(x, labels + 1))
