"""Supernets in files: what comes back, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch
from nets_cases import TINY, images, lived_in
from safetensors.torch import load_file, save_file

from mathnas import FileFormatError, InvalidInputError, SearchSpace
from mathnas.nets.digits import DigitsConfig, DigitsNet
from mathnas.nets.families import space_named, supernet_for
from mathnas.nets.files import load_supernet, load_weights, save_supernet, supernet_notes
from mathnas.nets.tensors import read_tensors, write_tensors
from mathnas.spaces import NASBenchMacro


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "supernet.safetensors"
    save_supernet(path, lived_in(), notes={"mean": [0.5], "data": "digits"})
    return path


def test_a_supernet_comes_back_with_its_space_and_notes(saved: Path) -> None:
    net, again = lived_in(), load_supernet(saved)
    assert isinstance(again, DigitsNet)
    assert again.config == TINY
    assert again.space == net.space
    assert not again.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    network = net.space.reference
    assert torch.equal(net(images(3), network), again(images(3), network))
    assert supernet_notes(saved) == {"mean": [0.5], "data": "digits"}


def test_the_layout_in_memory_does_not_matter(tmp_path: Path) -> None:
    net = lived_in()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_supernet(tmp_path / "net", net)
    for name, tensor in load_supernet(tmp_path / "net").state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name])


def test_weights_load_into_a_supernet_of_the_same_space_only(saved: Path) -> None:
    net = DigitsNet(TINY, seed=7)
    load_weights(saved, net)
    assert torch.equal(net.head.weight, lived_in().head.weight)
    with pytest.raises(InvalidInputError, match="holds a supernet of the space 'digits'"):
        load_weights(saved, DigitsNet())


def test_an_old_file_stays_where_a_new_one_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileFormatError, match="cannot be written"):
        save_supernet(tmp_path / "folder", lived_in())
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_cut_files_are_refused(saved: Path, share: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(FileFormatError, match="is damaged"):
        load_supernet(saved)


@pytest.mark.parametrize("place", [-1, -500, 20])
def test_flipped_bits_are_noticed(saved: Path, place: int) -> None:
    content = bytearray(saved.read_bytes())
    content[place] ^= 4
    saved.write_bytes(content)
    with pytest.raises(FileFormatError):
        load_supernet(saved)


def test_other_files_are_refused(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(FileFormatError, match="cannot be read"):
        load_supernet(tmp_path / "none")
    (tmp_path / "text").write_text("not tensors at all")
    with pytest.raises(FileFormatError, match="no safetensors file"):
        load_supernet(tmp_path / "text")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(FileFormatError, match="is not a mathnas-supernet file"):
        load_supernet(tmp_path / "foreign")
    write_tensors(tmp_path / "newer", {}, {"format": "mathnas-supernet", "version": 99})
    with pytest.raises(FileFormatError, match="version 99 is not one this mathnas reads"):
        load_supernet(tmp_path / "newer")
    with pytest.raises(FileFormatError, match="expected the format 'other'"):
        read_tensors(saved, "other", 1)


def test_tensors_that_are_not_the_supernets_are_named(tmp_path: Path, saved: Path) -> None:
    tensors, record = read_tensors(saved, "mathnas-supernet", 1)

    def loaded(changed: dict[str, torch.Tensor]) -> None:
        write_tensors(tmp_path / "changed", changed, record.value)
        load_supernet(tmp_path / "changed")

    less = {name: tensor for name, tensor in tensors.items() if name != "head.conv.weight"}
    with pytest.raises(FileFormatError, match=r"it lacks 1 \(head.conv.weight\)"):
        loaded(less)
    with pytest.raises(FileFormatError, match=r"nobody knows 1 \(tail\)"):
        loaded({**tensors, "tail": torch.zeros(1)})
    with pytest.raises(FileFormatError, match=r"head.conv.weight is \(8, 6, 1, 1\) .* but \(2,\)"):
        loaded({**tensors, "head.conv.weight": torch.zeros(2)})
    with pytest.raises(FileFormatError, match=r"but \(8, 6, 1, 1\) torch.float16"):
        loaded({**tensors, "head.conv.weight": tensors["head.conv.weight"].half()})


def test_metadata_is_plain_json_that_others_can_read(saved: Path) -> None:
    from safetensors import safe_open

    with safe_open(str(saved), framework="pt") as file:
        record = json.loads(file.metadata()["mathnas"])
    assert record["space"]["family"]["name"] == "digits"
    assert load_file(saved)["head.conv.weight"].shape == (8, 6, 1, 1)


def test_spaces_without_a_supernet_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"supernets are known for .*of the family"):
        supernet_for(NASBenchMacro())
    space = DigitsNet().space
    changed = SearchSpace(space.nodes, name="digits", family=space.family)
    with pytest.raises(InvalidInputError, match="its declaration differs"):
        supernet_for(changed)


def test_supernets_of_named_spaces() -> None:
    assert space_named("digits") == DigitsNet().space
    assert space_named("nasbench_macro") == NASBenchMacro()
    net = supernet_for(DigitsNet(TINY).space, seed=3)
    assert torch.equal(net.state_dict()["head.conv.weight"], DigitsNet(TINY, seed=3).head.weight)


def test_the_family_record_of_the_digits_is_checked() -> None:
    config = DigitsConfig(side=10, stem=4, nodes=TINY.nodes)
    assert DigitsConfig.from_family(config.to_family()) == config
    with pytest.raises(FileFormatError, match="the field 'stem' is missing"):
        DigitsConfig.from_family({"side": 8, "nodes": []})
    nodes = [{"channels": 4, "stride": 1, "choices": [[3, "1"]]}]
    with pytest.raises(FileFormatError, match=r"expected null or \[kernel, expansion\]"):
        DigitsConfig.from_family({**config.to_family(), "nodes": nodes})
