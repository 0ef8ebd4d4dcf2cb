"""Resident parts in ONNX Runtime give what static networks give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx
import torch
from resident_cases import interrupted_often, requests_under_switches
from supernet_cases import (
    Logits,
    grouped_supernet,
    made_up_table,
    run_parts,
    some_images,
    torch_package,
)

from mathnas import FileFormatError, InvalidInputError
from mathnas.nets.agreement import TOLERANCE
from mathnas.nets.calibrated import Sharing
from mathnas.runtime.deploying import deploy
from mathnas.runtime.dynamic import DynamicNetwork
from mathnas.runtime.loading import resident_parts
from mathnas.runtime.onnx_parts import OnnxResident
from mathnas.runtime.package import STEM, Package
from mathnas.runtime.resident import Images, ResidentParts
from mathnas.runtime.torch_parts import TorchParts
from mathnas.space import Network
from mathnas.testing.resident import ResidentPartsContract


def deployed(engine: str) -> Package:
    """Blocks with statistics for the block before."""
    supernet = grouped_supernet()
    batches = [torch.from_numpy(some_images(20, seed)) for seed in range(3)]
    table = made_up_table(supernet.space)
    return deploy(supernet, table, batches, engine=engine, sharing=Sharing.PAIR)


@pytest.fixture(scope="module")
def package() -> Package:
    """Exporting takes seconds."""
    return deployed("onnxruntime")


@pytest.fixture(scope="module")
def resident(package: Package) -> OnnxResident:
    return OnnxResident.read(package)


@pytest.fixture(scope="module")
def modules() -> TorchParts:
    return TorchParts.read(deployed("torch"))


class TestPartsOfAPackage(ResidentPartsContract):
    """Compared with torch's modules, run one after another."""

    tolerance = TOLERANCE

    @pytest.fixture
    def parts(self, resident: OnnxResident) -> ResidentParts:
        return resident

    @pytest.fixture
    def images(self) -> Images:
        return some_images()

    @pytest.fixture
    def expected(self, modules: TorchParts) -> Callable[[Network, Images], Logits]:
        return partial(run_parts, modules)


def test_answers_while_another_thread_switches_are_to_the_bit_those_of_one_network(
    resident: OnnxResident,
) -> None:
    networks = list(resident.space.enumerate())
    inputs = [some_images(1, seed) for seed in range(3)]
    dynamic = DynamicNetwork(resident, networks[0])
    answers = {}
    for network in networks:
        dynamic.switch(network)
        for place, images in enumerate(inputs):
            answers[network, place] = dynamic.run(images).outputs.tobytes()
    with interrupted_often():
        found = requests_under_switches(dynamic, networks, inputs, 2_000)
    assert len(found) == 2_000
    for request in found:
        network = request.run.observation.network
        assert network in request.meanwhile
        assert request.run.outputs.tobytes() == answers[network, request.place]


def test_statistics_are_those_for_the_block_before(resident: OnnxResident) -> None:
    assert resident.block(1, 1, 0) is not resident.block(1, 1, 1)


def test_weights_are_counted_once(package: Package, resident: OnnxResident) -> None:
    used = [name for part in package.parts.values() for name in part.tensors.values()]
    every = sum(package.tensors[name].nbytes for name in used)
    assert resident.bytes == package.weight_bytes() < every


def test_arrays_are_not_copied_on_the_way(resident: OnnxResident) -> None:
    images = some_images()
    assert resident.load(images) is images
    value = resident.stem(images)
    assert not value.flags.owndata  # it lies in the engine's memory
    assert resident.unload(value) is value


def test_more_threads_give_the_same(package: Package, resident: OnnxResident) -> None:
    two = OnnxResident.read(package, threads=2)
    found, expected = two.stem(some_images()), resident.stem(some_images())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidInputError, match="thread"):
        OnnxResident.read(package, threads=0)


def test_a_package_is_loaded_by_the_engine_that_it_is_for(package: Package) -> None:
    for given, kind in ((package, OnnxResident), (torch_package(grouped_supernet()), TorchParts)):
        parts = resident_parts(given, threads=torch.get_num_threads())
        assert type(parts) is kind
        assert parts.space == given.space


def test_a_damaged_graph_is_named(package: Package) -> None:
    graph = package.parts[STEM].graph
    assert graph is not None
    damaged = {**package.tensors, graph: package.tensors[graph][:50]}
    with pytest.raises(FileFormatError, match="the graph of stem"):
        OnnxResident.read(replace(package, tensors=damaged))


def test_weights_of_another_network_are_named(package: Package) -> None:
    weight = next(iter(package.parts[STEM].tensors.values()))
    for other, message in (
        (package.tensors[weight][:-1], "the graph of stem"),
        (package.tensors[weight].astype(np.complex64), "no weights of the type complex64"),
    ):
        with pytest.raises(FileFormatError, match=message):
            OnnxResident.read(replace(package, tensors={**package.tensors, weight: other}))


def test_a_graph_with_two_outputs_is_refused(package: Package) -> None:
    name = package.parts[STEM].graph
    assert name is not None
    model = onnx.ModelProto.FromString(package.tensors[name].tobytes())
    more = model.graph.node[0].output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(more, 1, None))
    graph = np.frombuffer(model.SerializeToString(), dtype=np.uint8)
    with pytest.raises(FileFormatError, match="that of stem has 1 and 2"):
        OnnxResident.read(replace(package, tensors={**package.tensors, name: graph}))


def test_what_is_no_package_for_onnxruntime_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="deploy it again with --engine onnxruntime"):
        OnnxResident.read(torch_package(grouped_supernet()))
