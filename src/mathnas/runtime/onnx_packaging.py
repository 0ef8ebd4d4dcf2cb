"""Parts of a package for onnxruntime: graphs without weights, and the weights beside them.

A block's graph is the same whatever its weights are. It is exported once, with drawn weights that
are all different, so that the exporter neither merges equal constants nor drops zeros; what it
names after an entry of the module's state is then declared as external data, and given from outside
for every set of statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from mathnas._progress import Show, progress_bar
from mathnas.devices.onnxruntime import session_options
from mathnas.nets.agreement import check_agreement
from mathnas.nets.calibrated import CalibratedParts, Place
from mathnas.nets.folding import folded
from mathnas.nets.onnx_export import OnnxParts
from mathnas.runtime.package import HEAD, STEM, PackagedPart, block_key

Add = Callable[[npt.NDArray[np.generic]], str]


def onnx_parts(
    parts: CalibratedParts,
    modules: Mapping[Place, nn.Module],
    images: Tensor,
    add: Add,
    *,
    progress: Show = False,
) -> dict[str, PackagedPart]:
    """The parts of a package for onnxruntime, each compared with its module.

    Args:
        parts: calibrated.
        modules: those of its blocks that compute something.
        images: whose first two are the examples.
        add: keeps a tensor and gives its name in the package.

    Raises:
        ExportError: a graph with its weights does not compute what its module does.
    """
    inputs = _inputs(parts, images[:2])
    own = {key: folded(module, inputs[node]) for key, node, module in _all(parts, modules)}
    graphs = _graphs(parts, modules, own, inputs)
    found = {}
    with progress_bar("checking", len(own), progress) as bar:
        for key, node, module in _all(parts, modules):
            graph = graphs[_kind(key)]
            state = {name: t.detach().numpy() for name, t in own[key].state_dict().items()}
            weights = {name: state[name] for name in graph.names}
            _check(key, graph.content, weights, module, inputs[node])
            tensors = {name: add(array) for name, array in weights.items()}
            found[key] = PackagedPart(tensors, add(np.frombuffer(graph.content, dtype=np.uint8)))
            bar.advance(1)
    return found


class _Graph:
    """A graph whose weights stand outside: its bytes, and what they are called."""

    def __init__(self, model: onnx.ModelProto, state: Mapping[str, Tensor]) -> None:
        # what the exporter tells of where a node came from is larger than the nodes
        for node in model.graph.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
            value.ClearField("metadata_props")
        self.names: list[str] = []
        renamed: dict[str, str] = {}
        for constant in model.graph.initializer:
            name = _entry(constant.name, state)
            if name is None:
                continue
            renamed[constant.name] = name
            self.names.append(name)
            constant.name = name
            constant.ClearField("raw_data")
            constant.ClearField("metadata_props")
            constant.data_location = onnx.TensorProto.EXTERNAL
            del constant.external_data[:]
            place = constant.external_data.add()
            place.key, place.value = "location", "package"
        for node in model.graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
        del model.graph.value_info[:]
        del model.metadata_props[:]
        self.content = bytes(model.SerializeToString())


def _entry(name: str, state: Mapping[str, Tensor]) -> str | None:
    """The entry of a state that a constant is named after: ``node0_block1/parts.3.ENTRY``."""
    inside = name.rpartition("/")[2].split(".", 2)
    entry = inside[2] if len(inside) == 3 and inside[0] == "parts" else ""
    return entry if entry in state else None


def _graphs(
    parts: CalibratedParts,
    modules: Mapping[Place, nn.Module],
    own: Mapping[str, nn.Module],
    inputs: list[Tensor],
) -> dict[str, _Graph]:
    """The graph of stem, head and every block."""
    generator = torch.Generator().manual_seed(0)

    def drawn(key: str) -> nn.Module:
        module = copy.deepcopy(own[key])
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                # positive, for variances
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        return module

    blocks: list[list[nn.Module]] = []
    for node, size in enumerate(parts.space.sizes):
        before = 0 if parts.by_pair and node else None
        blocks.append(
            [
                drawn(block_key(node, block, before))
                if (node, block, before) in modules
                else nn.Identity()
                for block in range(size)
            ]
        )
    ends = (drawn(STEM), drawn(HEAD))
    exported = OnnxParts.export_modules(parts.space, ends, blocks, inputs[0], any_batch=True)
    found = {
        STEM: _Graph(exported.stem, ends[0].state_dict()),
        HEAD: _Graph(exported.head, ends[1].state_dict()),
    }
    for node, graphs in enumerate(exported.blocks):
        for block, graph in enumerate(graphs):
            if graph is not None:
                state = blocks[node][block].state_dict()
                found[block_key(node, block)] = _Graph(graph, state)
    return found


def _kind(key: str) -> str:
    """The part without what is before it: parts of one kind have one graph."""
    return key.partition("/after")[0]


def _all(
    parts: CalibratedParts, modules: Mapping[Place, nn.Module]
) -> Iterator[tuple[str, int, nn.Module]]:
    """Every part with the number of its input: 0 are the images, then one a node, then the head."""
    yield STEM, 0, parts.stem
    for (node, block, before), module in modules.items():
        yield block_key(node, block, before), node + 1, module
    yield HEAD, parts.space.num_nodes + 1, parts.head


def _inputs(parts: CalibratedParts, images: Tensor) -> list[Tensor]:
    """What the stem, each node and the head are given in one network."""
    found = [images]
    with torch.no_grad():
        found.append(parts.stem(images))
        for node in range(parts.space.num_nodes):
            found.append(parts.block(node, 0, 0 if node else None)(found[-1]))
    return found


def _check(
    key: str,
    graph: bytes,
    weights: Mapping[str, npt.NDArray[np.generic]],
    module: nn.Module,
    inputs: Tensor,
) -> None:
    """Raise `ExportError` where graph and weights do not compute what the module does."""
    options = session_options(1)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    options.add_external_initializers(list(weights), values)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for batch in (inputs, inputs[:1]):
        (outputs,) = session.run(None, {name: batch.numpy()})
        with torch.no_grad():
            expected = module(batch)
        check_agreement(torch.from_numpy(outputs), expected, f"the graph of {key} and its module")
