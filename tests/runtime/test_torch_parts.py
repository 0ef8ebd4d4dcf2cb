"""Resident parts in PyTorch give what the extracted static networks give."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from supernet_cases import (
    Logits,
    grouped_supernet,
    some_images,
    static,
    tiny_supernet,
    torch_package,
)
from torch import nn

from mathnas import FileFormatError, InvalidInputError
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.supernet import ChainSupernet
from mathnas.runtime.dynamic import DynamicNetwork
from mathnas.runtime.package import HEAD, STEM, Package, block_key
from mathnas.runtime.resident import Images, ResidentParts
from mathnas.runtime.torch_parts import TorchParts, extracted_parts
from mathnas.space import Network
from mathnas.testing.resident import ResidentPartsContract


class TestPartsOfASupernet(ResidentPartsContract):
    @pytest.fixture
    def supernet(self) -> ChainSupernet:
        return tiny_supernet()

    @pytest.fixture
    def parts(self, supernet: ChainSupernet) -> ResidentParts:
        return TorchParts.of(supernet)

    @pytest.fixture
    def images(self) -> Images:
        return some_images()

    @pytest.fixture
    def expected(self, supernet: ChainSupernet) -> Callable[[Network, Images], Logits]:
        return partial(static, supernet)


class TestPartsOfAGroupedSupernet(TestPartsOfASupernet):
    @pytest.fixture
    def supernet(self) -> ChainSupernet:
        return grouped_supernet()


class TestPartsOfAPackage(TestPartsOfASupernet):
    """Read from a file."""

    @pytest.fixture
    def supernet(self) -> ChainSupernet:
        return grouped_supernet()

    @pytest.fixture
    def parts(self, supernet: ChainSupernet, tmp_path: Path) -> ResidentParts:
        torch_package(supernet).write(tmp_path / "net.mathnas")
        return TorchParts.read(Package.read(tmp_path / "net.mathnas"))


def test_a_package_is_resident_with_each_tensor_once() -> None:
    package = torch_package(grouped_supernet())
    assert TorchParts.read(package).bytes == package.weight_bytes()


def test_statistics_of_pairs_are_those_for_the_block_before() -> None:
    package = torch_package(tiny_supernet(), pairs=True)
    parts = TorchParts.read(package)
    assert parts.bytes == package.weight_bytes()
    dynamic = DynamicNetwork(parts, (1, 0, 0))
    modules = extracted_parts(tiny_supernet())
    image = torch.from_numpy(some_images())
    for network in package.space.enumerate():
        dynamic.switch(network)
        with torch.inference_mode():
            value = modules[STEM](image)
            for node, block in enumerate(network):
                if block_key(node, block) not in modules:
                    continue
                own = copy.deepcopy(modules[block_key(node, block)])
                for module in own.modules():
                    if isinstance(module, nn.BatchNorm2d) and node:
                        assert module.running_mean is not None
                        module.running_mean += 0.1 * network[node - 1]
                value = own(value)
            expected = modules[HEAD](value).numpy()
        found = dynamic.run(some_images()).outputs
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_what_is_no_package_for_torch_is_refused() -> None:
    package = torch_package(tiny_supernet())
    graph = {"graph": np.zeros(4, dtype=np.uint8)}
    parts = {key: replace(part, graph="graph") for key, part in package.parts.items()}
    other = replace(
        package, engine="onnxruntime", parts=parts, tensors={**package.tensors, **graph}
    )
    with pytest.raises(InvalidInputError, match="deploy it again with --engine torch"):
        TorchParts.read(other)


def test_tensors_of_another_block_are_refused() -> None:
    package = torch_package(tiny_supernet())
    first, second = block_key(0, 1), block_key(0, 2)
    parts = {**package.parts, first: package.parts[second], second: package.parts[first]}
    with pytest.raises(FileFormatError, match=f"the package's {first}"):
        TorchParts.read(replace(package, parts=parts))


def test_layers_that_candidates_have_in_common_are_resident_once() -> None:
    supernet = grouped_supernet()
    parts = TorchParts.of(supernet)
    fine = supernet.fine
    layers = {
        place
        for node, size in enumerate(supernet.space.sizes)
        for block in range(size)
        for place in supernet.fine_places(node, block)
    }
    modules = [fine.extract_block(*place) for place in layers]
    modules += [fine.extract_stem(), fine.extract_head()]
    assert parts.bytes == sum(_bytes(module) for module in modules)
    alone = [
        supernet.extract_block(node, block)
        for node, size in enumerate(supernet.space.sizes)
        for block in range(size)
    ]
    assert parts.bytes < sum(_bytes(module) for module in [*alone, *modules[-2:]])


def test_what_becomes_of_the_supernet_does_not_matter() -> None:
    supernet = tiny_supernet()
    dynamic = DynamicNetwork(TorchParts.of(supernet), (2, 1, 1))
    before = dynamic.run(some_images()).outputs
    with torch.no_grad():
        for tensor in [*supernet.parameters(), *supernet.buffers()]:
            tensor += 1
    assert np.array_equal(dynamic.run(some_images()).outputs, before)


def test_images_of_another_size_where_they_were_asked_for() -> None:
    supernet = tiny_supernet()
    images = some_images(side=12)
    dynamic = DynamicNetwork(TorchParts.of(supernet, resolution=12), (1, 0, 2))
    found = dynamic.run(images).outputs
    np.testing.assert_allclose(found, static(supernet, (1, 0, 2), images), rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidInputError, match=r"\(batch, 1, 12, 12\)"):
        dynamic.run(some_images(side=8))


def test_threads_are_those_that_were_asked_for() -> None:
    before = torch.get_num_threads()
    try:
        TorchParts.of(tiny_supernet(), threads=before + 1)
        assert torch.get_num_threads() == before + 1
        TorchParts.of(tiny_supernet())
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])


def test_a_view_in_groups_runs_what_its_expansion_runs() -> None:
    supernet = grouped_supernet()
    assert isinstance(supernet, GroupedSupernet)
    fine = DynamicNetwork(TorchParts.of(supernet.fine), (0, 0, 0))
    coarse = DynamicNetwork(TorchParts.of(supernet), (0, 0))
    for network in supernet.space.enumerate():
        coarse.switch(network)
        fine.switch(supernet.space.expand(network))
        found, expected = coarse.run(some_images()).outputs, fine.run(some_images()).outputs
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
