"""Reading public weights: every tensor lands in its place, and nothing else is accepted.

The files are made here, with the published names and shapes and a different value in every tensor.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from nets_cases import live_in
from torch import Tensor

from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.nets.checkpoints import (
    load_cell_network,
    load_cell_supernet,
    load_once_for_all,
    read_state,
)
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.nasbench201 import CellNetwork, NASBench201Net
from mathnas.spaces import MobileNetV3, NASBench201

State = dict[str, Tensor]
SMALL = NASBench201("cifar10", channels=4, cells=2)
ARCH = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|"
CELL = SMALL.parse(ARCH)


def filled(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    """Random tensors of these shapes; variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for place, (name, shape) in enumerate(shapes.items()):
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000 + place)
        else:
            state[name] = torch.rand(shape, generator=generator) + 0.1
    return state


# ---- once-for-all --------------------------------------------------------------------------------


def published_shapes(width: float) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a once-for-all MobileNetV3, written from the published description."""

    def rounded(value: float) -> int:
        near = max(8, int(value + 4) // 8 * 8)
        return near + 8 if near < 0.9 * value else near

    def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        vectors = ("weight", "bias", "running_mean", "running_var")
        return {
            **{f"{name}.{vector}": (channels,) for vector in vectors},
            f"{name}.num_batches_tracked": (),
        }

    stem, last, mix = rounded(16 * width), rounded(960 * width), rounded(1280 * width)
    shapes: dict[str, tuple[int, ...]] = {"first_conv.conv.weight": (stem, 3, 3, 3)}
    shapes |= norm("first_conv.bn", stem)
    shapes["blocks.0.conv.depth_conv.conv.weight"] = (stem, 1, 3, 3)
    shapes |= norm("blocks.0.conv.depth_conv.bn", stem)
    shapes["blocks.0.conv.point_linear.conv.weight"] = (stem, stem, 1, 1)
    shapes |= norm("blocks.0.conv.point_linear.bn", stem)
    channels = stem
    for block in range(1, 21):
        stage = (block - 1) // 4
        out = rounded((24, 40, 80, 112, 160)[stage] * width)
        middle = rounded(6 * channels)
        at = f"blocks.{block}.conv"
        shapes[f"{at}.inverted_bottleneck.conv.conv.weight"] = (middle, channels, 1, 1)
        shapes |= norm(f"{at}.inverted_bottleneck.bn.bn", middle)
        shapes[f"{at}.depth_conv.conv.conv.weight"] = (middle, 1, 7, 7)
        shapes[f"{at}.depth_conv.conv.7to5_matrix"] = (25, 25)
        shapes[f"{at}.depth_conv.conv.5to3_matrix"] = (9, 9)
        shapes |= norm(f"{at}.depth_conv.bn.bn", middle)
        if stage in (1, 3, 4):
            gate = rounded(middle // 4)
            shapes[f"{at}.depth_conv.se.fc.reduce.weight"] = (gate, middle, 1, 1)
            shapes[f"{at}.depth_conv.se.fc.reduce.bias"] = (gate,)
            shapes[f"{at}.depth_conv.se.fc.expand.weight"] = (middle, gate, 1, 1)
            shapes[f"{at}.depth_conv.se.fc.expand.bias"] = (middle,)
        shapes[f"{at}.point_linear.conv.conv.weight"] = (out, middle, 1, 1)
        shapes |= norm(f"{at}.point_linear.bn.bn", out)
        channels = out
    shapes["final_expand_layer.conv.weight"] = (last, channels, 1, 1)
    shapes |= norm("final_expand_layer.bn", last)
    shapes["feature_mix_layer.conv.weight"] = (mix, last, 1, 1)
    shapes |= {"classifier.linear.weight": (1000, mix), "classifier.linear.bias": (1000,)}
    return shapes


def as_published(name: str) -> str:
    return name


def released(name: str) -> str:
    """The spelling that others print of files of the published code: blocks name `conv` longer."""
    return name.replace(".conv.", ".mobile_inverted_conv.", 1) if name[:6] == "blocks" else name


def older(name: str) -> str:
    """Also with nothing named twice, as the published loader accepts it."""
    return (
        name.replace(".conv.conv.weight", ".conv.weight")
        .replace(".bn.bn.", ".bn.")
        .replace(".conv.", ".mobile_inverted_conv.", 1 if name.startswith("blocks.") else 0)
    )


def oldest(name: str) -> str:
    """Also the classifier's layer named twice."""
    return older(name).replace(".linear.weight", ".linear.linear.weight")


@pytest.fixture(scope="module")
def once_for_all() -> State:
    return filled(published_shapes(0.35))


def test_the_published_description_has_the_published_counts() -> None:
    for width, parameters in ((1.0, 7_678_880), (1.2, 10_715_752)):
        shapes = published_shapes(width)
        assert len(shapes) == 475
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        sizes = [torch.Size(s).numel() for n, s in shapes.items() if not n.endswith(buffers)]
        assert sum(sizes) == parameters
        net = MobileNetV3Net(MobileNetV3(width))
        assert {name: tuple(t.shape) for name, t in net.state_dict().items()} == shapes


@pytest.mark.parametrize("spelling", [as_published, released, older, oldest])
@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "bare"])
def test_every_tensor_lands_in_its_place(
    spelling: Callable[[str], str], wrapped: bool, once_for_all: State, tmp_path: Path
) -> None:
    renamed = {spelling(name): tensor for name, tensor in once_for_all.items()}
    assert len(renamed) == 475
    torch.save({"state_dict": renamed} if wrapped else renamed, tmp_path / "weights")
    net = load_once_for_all(tmp_path / "weights", resolution=32)
    loaded = net.state_dict()
    assert loaded.keys() == once_for_all.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in once_for_all.items())
    assert (net.space.width, net.space.classes, net.space.resolution) == (0.35, 1000, 32)
    assert not net.training


def test_outputs_are_those_of_a_network_with_these_weights(
    once_for_all: State, tmp_path: Path
) -> None:
    torch.save({older(name): tensor for name, tensor in once_for_all.items()}, tmp_path / "w")
    net = load_once_for_all(tmp_path / "w", resolution=32)
    ours = MobileNetV3Net(MobileNetV3(0.35, 32)).eval()
    ours.load_state_dict(once_for_all)
    x = torch.rand(2, 3, 32, 32)
    for network in net.space.sample(3):
        assert torch.equal(net(x, network), ours(x, network))


def test_the_public_widths_are_recognised(tmp_path: Path) -> None:
    for width in (1.0, 1.2):
        torch.save({"state_dict": filled(published_shapes(width))}, tmp_path / "w")
        net = load_once_for_all(tmp_path / "w")
        assert net.space == MobileNetV3(width, 224)


@pytest.mark.parametrize("form", ["legacy", "safetensors", "half", "parallel"])
def test_other_forms_of_the_same_weights(form: str, once_for_all: State, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    expected = once_for_all
    if form == "legacy":
        torch.save(once_for_all, path, _use_new_zipfile_serialization=False)
    elif form == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(once_for_all, path)
    elif form == "half":
        half = {n: t.half() if t.is_floating_point() else t for n, t in once_for_all.items()}
        torch.save(half, path)
        expected = {n: t.to(once_for_all[n].dtype) for n, t in half.items()}
    else:
        torch.save({f"module.{name}": tensor for name, tensor in once_for_all.items()}, path)
    loaded = load_once_for_all(path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_a_checkpoint_of_kernel_7_has_no_matrices(once_for_all: State, tmp_path: Path) -> None:
    teacher = {older(n): t for n, t in once_for_all.items() if not n.endswith("_matrix")}
    torch.save({"state_dict": teacher}, tmp_path / "ofa_D4_E6_K7")
    with pytest.raises(FileFormatError, match=r"\(40 in all\).*give `identity_matrices=True`"):
        load_once_for_all(tmp_path / "ofa_D4_E6_K7")
    net = load_once_for_all(tmp_path / "ofa_D4_E6_K7", identity_matrices=True)
    matrices = [tensor for name, tensor in net.state_dict().items() if name.endswith("_matrix")]
    assert len(matrices) == 40
    assert all(torch.equal(matrix, torch.eye(len(matrix))) for matrix in matrices)
    # some but not all are damage, whatever is asked for
    teacher["blocks.3.conv.depth_conv.conv.5to3_matrix"] = torch.eye(9)
    torch.save({"state_dict": teacher}, tmp_path / "ofa_D4_E6_K7")
    with pytest.raises(FileFormatError, match=r"missing are .*\(39 in all\)"):
        load_once_for_all(tmp_path / "ofa_D4_E6_K7", identity_matrices=True)


def test_wrong_tensors_are_named(once_for_all: State, tmp_path: Path) -> None:
    path = tmp_path / "weights"

    def refused(change: Callable[[State], None]) -> str:
        state = dict(once_for_all)
        change(state)
        torch.save(state, path)
        with pytest.raises(FileFormatError) as raised:
            load_once_for_all(path)
        assert str(path) in str(raised.value)
        return str(raised.value)

    def put(name: str, tensor: Tensor) -> Callable[[State], None]:
        return lambda state: state.update({name: tensor})

    name = "blocks.7.conv.point_linear.conv.conv.weight"

    def drop_the_last_block(state: State) -> None:
        for gone in [name for name in state if name.startswith("blocks.20.")]:
            del state[gone]

    message = refused(drop_the_last_block)
    assert "missing are blocks.20.conv.inverted_bottleneck.conv.conv.weight" in message
    assert "(24 in all)" in message
    assert "unknown are extra.weight." in refused(put("extra.weight", torch.zeros(1)))
    assert f"of a wrong shape or kind are {name} (2, 2)" in refused(put(name, torch.zeros(2, 2)))
    assert f"{name} of torch.int64" in refused(put(name, once_for_all[name].long()))
    assert f"{name} and {older(name)} are two spellings" in refused(
        put(older(name), torch.zeros(1))
    )
    assert "width 0.35" in refused(put(name, torch.zeros(2, 2)))


def test_a_width_that_does_not_fit_is_a_matter_of_shapes(
    once_for_all: State, tmp_path: Path
) -> None:
    torch.save(once_for_all, tmp_path / "w")
    with pytest.raises(FileFormatError, match=r"instead of .*Give `width=...`"):
        load_once_for_all(tmp_path / "w", width=1.0)
    assert load_once_for_all(tmp_path / "w", width=0.351).space.width == 0.351
    torch.save({**once_for_all, "classifier.linear.weight": torch.zeros(10, 3)}, tmp_path / "w")
    with pytest.raises(FileFormatError, match="but this one reads 3"):
        load_once_for_all(tmp_path / "w")


# ---- cells ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [SMALL, NASBench201("imagenet16-120")], ids=lambda s: s.name)
@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "bare"])
def test_a_cell_network_is_read(space: NASBench201, wrapped: bool, tmp_path: Path) -> None:
    ours = CellNetwork(CELL, space, seed=3)
    live_in(ours, seed=1)
    state = ours.state_dict()
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "cell.pth")
    for cell in (ARCH, CELL):
        read = load_cell_network(tmp_path / "cell.pth", cell)
        assert read.space == space
        assert read.cell == CELL
        loaded = read.state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(read(x), ours.eval()(x))


def test_the_wrong_cell_is_refused_with_what_the_file_says(tmp_path: Path) -> None:
    torch.save(CellNetwork(CELL, SMALL).state_dict(), tmp_path / "cell.pth")
    with pytest.raises(
        FileFormatError,
        match=r"unknown are cells\.0\.layers\.0.*nor_conv_3x3, no convolution, nor_conv_1x1",
    ):
        load_cell_network(tmp_path / "cell.pth", (0, 0, 2, 1, 4, 3))
    with pytest.raises(FileFormatError, match=r"\(4, 4, 1, 1\) instead of \(4, 4, 3, 3\)"):
        load_cell_network(tmp_path / "cell.pth", (3, 0, 3, 1, 4, 3))
    with pytest.raises(FileFormatError, match="of a wrong shape"):
        load_cell_network(tmp_path / "cell.pth", CELL, NASBench201("cifar100", 4, 2))
    with pytest.raises(InvalidInputError, match="blocks 0 to 4"):
        load_cell_network(tmp_path / "cell.pth", (9, 0, 2, 1, 4, 3))
    # what owns no tensors cannot be told apart
    assert load_cell_network(tmp_path / "cell.pth", (3, 4, 2, 0, 0, 3)).cell == (3, 4, 2, 0, 0, 3)


def test_a_cell_supernet_is_read(tmp_path: Path) -> None:
    ours = NASBench201Net(SMALL, seed=3)
    live_in(ours, seed=1)
    state = {**ours.state_dict(), "arch_parameters": torch.rand(6, 5)}
    torch.save({"state_dict": state}, tmp_path / "super.pth")
    read = load_cell_supernet(tmp_path / "super.pth")
    assert read.space == SMALL
    loaded = read.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(read(x, CELL), ours.eval()(x, CELL))
    # networks trained on random cells have no architecture parameters
    del state["arch_parameters"]
    torch.save(state, tmp_path / "super.pth")
    load_cell_supernet(tmp_path / "super.pth")


def test_statistics_are_missing_only_where_that_is_said(tmp_path: Path) -> None:
    ends = ("running_mean", "running_var", "num_batches_tracked")
    state = NASBench201Net(SMALL).state_dict()
    torch.save({n: t for n, t in state.items() if not n.endswith(ends)}, tmp_path / "w")
    with pytest.raises(FileFormatError, match="give `without_statistics=True`"):
        load_cell_supernet(tmp_path / "w")
    read = load_cell_supernet(tmp_path / "w", without_statistics=True).state_dict()
    assert torch.equal(read["_stem.1.running_var"], torch.ones(4))
    torch.save({n: t for n, t in state.items() if n != "_stem.1.running_var"}, tmp_path / "w")
    with pytest.raises(FileFormatError, match=r"missing are _stem\.1\.running_var\."):
        load_cell_supernet(tmp_path / "w", without_statistics=True)


def test_readers_tell_each_others_files(once_for_all: State, tmp_path: Path) -> None:
    torch.save(once_for_all, tmp_path / "ofa")
    torch.save(CellNetwork(CELL, SMALL).state_dict(), tmp_path / "cell")
    torch.save(NASBench201Net(SMALL).state_dict(), tmp_path / "super")
    with pytest.raises(FileFormatError, match=r"no matrix classifier\.weight"):
        load_cell_network(tmp_path / "ofa", CELL)
    with pytest.raises(FileFormatError, match="are read by load_cell_network"):
        load_cell_supernet(tmp_path / "cell")
    with pytest.raises(FileFormatError, match="are read by load_cell_supernet"):
        load_cell_network(tmp_path / "super", CELL)
    with pytest.raises(FileFormatError, match=r"no matrix classifier\.linear\.weight"):
        load_once_for_all(tmp_path / "cell")


def test_shapes_that_belong_to_no_space_are_refused(tmp_path: Path) -> None:
    state = CellNetwork(CELL, SMALL).state_dict()
    torch.save({**state, "classifier.weight": torch.zeros(7, 16)}, tmp_path / "w")
    with pytest.raises(FileFormatError, match="has 7 classes, but data sets are known for 10, 100"):
        load_cell_network(tmp_path / "w", CELL)
    del state["cells.2.downsample.1.weight"]
    torch.save(state, tmp_path / "w")
    with pytest.raises(FileFormatError, match="1 residual blocks"):
        load_cell_network(tmp_path / "w", CELL)


# ---- files that are none -------------------------------------------------------------------------


class Runs:
    """A pickle that would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_file_is_not_run(once_for_all: State, tmp_path: Path) -> None:
    trap = tmp_path / "made"
    torch.save({"state_dict": once_for_all, "extra": Runs(trap)}, tmp_path / "new")
    torch.save({"extra": Runs(trap)}, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    (tmp_path / "plain").write_bytes(pickle.dumps(Runs(trap)))
    for name in ("new", "legacy", "plain"):
        with pytest.raises(FileFormatError) as raised:
            load_once_for_all(tmp_path / name)
        assert "weights_only" not in str(raised.value), "no advice to trust the file"
        assert not trap.exists()
    with pytest.raises(FileFormatError, match=r"asks for .*mkdir, and a pickle may run anything"):
        load_once_for_all(tmp_path / "new")


@pytest.mark.parametrize(
    "content", [b"", b"P", b"PK\x03\x04", b"hello, world", b"\x80\x02.", bytes(100), b"<html>" * 9]
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(FileFormatError, match="file"):
        read_state(tmp_path / "file")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="No such file"):
        read_state(tmp_path / "nothing")
    with pytest.raises(FileFormatError, match=r"directory|Permission"):
        read_state(tmp_path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_refused(form: str, tmp_path: Path) -> None:
    state = CellNetwork(CELL, SMALL).state_dict()
    path = tmp_path / "weights"
    if form == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    assert read_state(path).keys() == state.keys()
    for share in (0.01, 0.2, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(FileFormatError, match="weights"):
            read_state(path)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([torch.zeros(1)], "but it holds a list"),
        ({}, "an empty dictionary"),
        ({"epoch": 3, "weights": torch.zeros(1)}, "but 'epoch' is a int"),
        ({"state_dict": {"net": {"a": torch.zeros(1)}}}, "'net' is a dictionary of 1"),
        ({3: torch.zeros(1)}, "but 3 is a tensor"),
        ({"a": torch.eye(3).to_sparse()}, "torch.sparse_coo"),
        ({"a": torch.zeros(1, dtype=torch.complex64)}, "torch.complex64"),
    ],
)
def test_what_is_no_dictionary_of_tensors_is_refused(
    held: object, message: str, tmp_path: Path
) -> None:
    torch.save(held, tmp_path / "w")
    with pytest.raises(FileFormatError, match=message):
        read_state(tmp_path / "w")


def test_large_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "w"
    torch.save({"a": torch.zeros(10_000)}, path)
    with pytest.raises(FileFormatError, match="at most 1000 are read: give most_bytes="):
        read_state(path, most_bytes=1000)
    # a small file that would become a large one
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**6))
    assert path.stat().st_size < 10**4
    with pytest.raises(FileFormatError, match="holds 1000000 bytes"):
        read_state(path, most_bytes=10**5)


def test_a_tensor_that_only_looks_large_does_not_fill_the_memory(tmp_path: Path) -> None:
    torch.save({"classifier.weight": torch.zeros(1).expand(10, 10**10)}, tmp_path / "w")
    with pytest.raises(FileFormatError, match="no convolution"):
        load_cell_network(tmp_path / "w", CELL)
