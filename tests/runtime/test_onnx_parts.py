"""Resident parts in ONNX Runtime give what the extracted static networks give."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import numpy as np
from supernet_cases import Logits, grouped_supernet, small_supernet, some_images, static

from mathnas import FileFormatError, InvalidInputError
from mathnas.nets.agreement import TOLERANCE
from mathnas.runtime.dynamic import DynamicNetwork
from mathnas.runtime.graphs import Array, graph_parts
from mathnas.runtime.onnx_parts import OnnxResident
from mathnas.runtime.package import STEM, PackagedPart, block_key
from mathnas.runtime.resident import Images, ResidentParts
from mathnas.runtime.torch_parts import extracted_parts
from mathnas.space import Network
from mathnas.testing.resident import ResidentPartsContract

SUPERNET = grouped_supernet()
SHAPE = (1, 8, 8)
Graphs = tuple[dict[str, PackagedPart], dict[str, Array]]


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    """Exporting takes seconds."""
    return graph_parts(SUPERNET.space, extracted_parts(SUPERNET), SHAPE)


@pytest.fixture(scope="module")
def resident(graphs: Graphs) -> OnnxResident:
    return OnnxResident(SUPERNET.space, *graphs, SHAPE)


class TestParts(ResidentPartsContract):
    tolerance = TOLERANCE

    @pytest.fixture
    def parts(self, resident: OnnxResident) -> ResidentParts:
        return resident

    @pytest.fixture
    def images(self) -> Images:
        return some_images()

    @pytest.fixture
    def expected(self) -> Callable[[Network, Images], Logits]:
        return partial(static, SUPERNET)


def test_parts_of_a_supernet() -> None:
    supernet = small_supernet()
    dynamic = DynamicNetwork(OnnxResident.of(supernet, resolution=12), (0,))
    images = some_images(side=12)
    for network in supernet.space.enumerate():
        dynamic.switch(network)
        expected = static(supernet, network, images)
        np.testing.assert_allclose(dynamic.run(images).outputs, expected, rtol=1e-4, atol=1e-4)


def test_weights_that_candidates_have_in_common_are_resident_once(
    graphs: Graphs,
) -> None:
    """Equal weights are one tensor, whichever parts they are in."""
    parts, tensors = graphs
    first, second = (parts[block_key(0, block)] for block in (0, 2))  # k5 e2 in the first node
    assert set(first.tensors.values()) & set(second.tensors.values())
    used = [name for part in parts.values() for name in part.tensors.values()]
    every = sum(tensors[name].nbytes for name in used)
    once = sum(tensors[name].nbytes for name in set(used))
    assert OnnxResident(SUPERNET.space, parts, tensors, SHAPE).bytes == once < every


def test_graphs_hold_no_weights(graphs: Graphs) -> None:
    parts, tensors = graphs
    for key, part in parts.items():
        assert part.graph is not None
        content = tensors[part.graph].tobytes()
        for name in part.tensors.values():
            assert tensors[name].tobytes() not in content, key


def test_arrays_are_not_copied_on_the_way(resident: OnnxResident) -> None:
    images = some_images()
    assert resident.load(images) is images
    value = resident.stem(images)
    assert not value.flags.owndata  # it lies in the engine's memory
    assert resident.unload(value) is value


def test_more_threads_give_the_same(graphs: Graphs) -> None:
    one, two = (OnnxResident(SUPERNET.space, *graphs, SHAPE, threads=count) for count in (1, 2))
    image = some_images()
    found = [own.unload(own.stem(own.load(image))) for own in (one, two)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidInputError, match="thread"):
        OnnxResident(SUPERNET.space, *graphs, SHAPE, threads=0)


def test_a_damaged_graph_is_named(graphs: Graphs) -> None:
    parts, tensors = graphs
    graph = parts[STEM].graph
    assert graph is not None
    damaged = {**tensors, graph: tensors[graph][:50]}
    with pytest.raises(FileFormatError, match="the graph of stem"):
        OnnxResident(SUPERNET.space, parts, damaged, SHAPE)
