"""Compressed networks as ONNX graphs whose rounded weights are integers."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
import onnxruntime.quantization as quantization
import torch
from torch import Tensor, nn

from mathnas.compression.batches import Batch, has_samples, run, sample_count, tensors_of
from mathnas.compression.flattened import Flattened, untraced
from mathnas.compression.levels import Levels, levels_of
from mathnas.compression.quantised import quantised_bits, with_scales
from mathnas.errors import InvalidInputError
from mathnas.nets.agreement import TOLERANCE, ExportError
from mathnas.nets.folding import folding
from mathnas.nets.onnx_export import exported

_OPSET_OF_4_BITS = 21  # of ONNX's operators, the first that take them


def compressed_graph(
    network: nn.Module,
    example: Batch,
    *,
    any_batch: bool = True,
    activations: Sequence[Batch] | None = None,
) -> onnx.ModelProto:
    """The graph of a network; it is not compared with the network.

    Rounded weights are stored as integers of their bits, with a scale for each output channel;
    engines make floating point of them when they load the graph. Normalisations are folded into the
    convolutions before them.

    Args:
        network: in evaluation mode.
        example: a batch; at least two samples where the batch is left open.
        any_batch: leave the batch open.
        activations: batches on which the ranges of activations are found. With them, layers whose
            weights have 8 bits compute with integers of 8 bits (onnxruntime's static quantiser:
            pairs of `QuantizeLinear` and `DequantizeLinear`, a scale for each output channel of the
            weights, unsigned activations).

    Raises:
        ExportError: torch cannot export the network; says what it said.
        InvalidInputError: activations are to be quantised, but no layer has weights of 8 bits.
    """
    network = _folded(network, example)
    levels = levels_of(network)
    if activations is not None and all(own.bits != 8 for own in levels.values()):
        raise InvalidInputError(
            "activations are quantised in layers whose weights have 8 bits, but this network has "
            "none: choose int8 for some nodes, or leave the activations as they are."
        )
    graph = _exported(network, example, levels, any_batch)
    if activations is None:
        return _with_levels(graph, levels)
    integers = {name for name, own in levels.items() if own.bits == 8}
    names = [name for weight in integers for name in _readers(graph, weight)]
    # what bounds an output also bounds its range
    names += _bounding(graph, set(names))
    graph = _with_values(graph, {name: levels[name] for name in integers})
    graph = _with_levels(graph, {name: levels[name] for name in levels if name not in integers})
    return _static(graph, names, _Samples(Flattened(network, example), activations))


def run_graph(graph: onnx.ModelProto, batch: Batch) -> list[Tensor]:
    """The outputs of a graph for a batch of samples, computed by onnxruntime on the CPU."""
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [own.name for own in session.get_inputs()]
    tensors = [tensor.numpy(force=True) for tensor in tensors_of(batch)]
    # an input that changes no output is none of the graph's
    if len(names) != len(tensors):
        raise ExportError(
            f"a graph has an input for every tensor, but has {', '.join(names)} for "
            f"{len(tensors)} tensors: leave out what changes no output."
        )
    found = session.run(None, dict(zip(names, tensors, strict=True)))
    return [torch.from_numpy(np.asarray(own).copy()) for own in found]


# ---- torch to ONNX -------------------------------------------------------------------------------


class _OnBatches(nn.Module):
    """A network that takes a whole batch as one argument."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Any) -> Any:
        return run(self.network, batch)


def _folded(network: nn.Module, example: Batch) -> nn.Module:
    """The network without normalisations that follow a convolution, where that changes nothing."""
    training = network.training
    whole, names = folding(_OnBatches(network), example)  # type: ignore[arg-type]
    made = whole.get_submodule("network")
    if not names or training:
        return network
    try:
        with torch.no_grad():
            pairs = zip(
                tensors_of(run(made, example)), tensors_of(run(network, example)), strict=True
            )
            same = all(_close(found, expected) for found, expected in pairs)
    except Exception:  # the model's code asks more of a normalisation
        return network
    if not same:  # a convolution's output is looked at besides
        return network
    for name in names:
        own = name.removeprefix("network.")
        layer, before = made.get_submodule(own), network.get_submodule(own)
        rounded = quantised_bits(before)
        if rounded is not None:
            old, new = before.get_parameter("weight"), layer.get_parameter("weight")
            factor = _factor(new.detach(), old.detach())
            with_scales(layer, rounded[0], rounded[1] * factor)
    return made


def _close(found: Tensor, expected: Tensor) -> bool:
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    scale = max(1.0, float(expected.abs().max()))
    return bool((found - expected).abs().max() <= TOLERANCE / 10 * scale)


def _factor(new: Tensor, old: Tensor) -> Tensor:
    """By how much the weights of each output channel are larger."""
    own = old.flatten(1).abs()
    largest = own.argmax(1, keepdim=True)
    before = own.gather(1, largest)[:, 0]
    after = new.flatten(1).abs().gather(1, largest)[:, 0]
    # a channel of nothing keeps its scale
    either = (before > 0) & (after > 0)
    return torch.where(either, after / before.clamp_min(1e-30), torch.ones_like(after))


def _exported(
    network: nn.Module, example: Batch, levels: Mapping[str, Levels], any_batch: bool
) -> onnx.ModelProto:
    """The graph of a network whose rounded weights are inputs, which no step of the exporter can
    put together with others."""
    flat = Flattened(network, example, list(levels))
    tensors = list(tensors_of(example))
    weights = [own.values for own in levels.values()]
    count = sample_count(example)
    open_shapes = None
    if any_batch:
        batch = {0: torch.export.Dim("batch")}
        own = [batch if has_samples(tensor, count) else {} for tensor in tensors]
        # it takes its inputs as one tuple
        open_shapes = ((*own, *({} for _ in weights)),)
    four = any(own.bits == 4 for own in levels.values())
    try:
        return exported(
            flat,
            (*tensors, *weights),
            [*flat.input_names, *levels],
            flat.output_names,
            open_shapes=open_shapes,
            opset=_OPSET_OF_4_BITS if four else None,
        )
    except InvalidInputError:
        raise
    except Exception as error:  # exporters have no common type
        raise untraced(network, "as ONNX", any_batch, error) from error


# ---- weights in graphs --------------------------------------------------------------------------


def _with_levels(graph: onnx.ModelProto, levels: Mapping[str, Levels]) -> onnx.ModelProto:
    """The graph with stored integers and scales in the places of inputs.

    A product of constants is computed once, when an engine loads the graph; `DequantizeLinear`
    would be computed in every run.
    """
    nodes = []
    for name, own in levels.items():
        kind = onnx.TensorProto.INT8 if own.bits == 8 else onnx.TensorProto.INT4
        steps = onnx.helper.make_tensor(
            f"{name}.steps",
            kind,
            list(own.steps.shape),
            own.packed.numpy(force=True).tobytes(),
            raw=True,
        )
        scales = onnx.numpy_helper.from_array(own.factors.numpy(force=True), f"{name}.scales")
        graph.graph.initializer.extend([steps, scales])
        whole = f"{name}.whole"
        nodes += [
            onnx.helper.make_node(
                "Cast", [steps.name], [whole], name=f"{name}.cast", to=onnx.TensorProto.FLOAT
            ),
            onnx.helper.make_node("Mul", [whole, scales.name], [name], name=f"{name}.values"),
        ]
    return _without_inputs(graph, set(levels), nodes)


def _with_values(graph: onnx.ModelProto, levels: Mapping[str, Levels]) -> onnx.ModelProto:
    """The graph with stored numbers in the places of inputs, transposed where they are only read
    so: the quantiser looks at what a layer reads directly."""
    for name, own in levels.items():
        values = own.values.numpy(force=True)
        readers = [node for node in graph.graph.node if name in node.input]
        if readers and all(node.op_type == "Transpose" for node in readers):
            for node in readers:
                axes = onnx.helper.get_node_attr_value(node, "perm")
                turned = np.ascontiguousarray(values.transpose(axes))
                graph.graph.initializer.append(onnx.numpy_helper.from_array(turned, node.output[0]))
                graph.graph.node.remove(node)
        else:
            graph.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return _without_inputs(graph, set(levels), [])


def _without_inputs(
    graph: onnx.ModelProto, names: set[str], nodes: Sequence[onnx.NodeProto]
) -> onnx.ModelProto:
    inputs = [own for own in graph.graph.input if own.name not in names]
    del graph.graph.input[:]
    graph.graph.input.extend(inputs)
    others = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*nodes, *others])
    return graph


def _readers(graph: onnx.ModelProto, weight: str) -> list[str]:
    """Names of the nodes that compute with a weight, as it is or transposed."""
    found = []
    for node in graph.graph.node:
        if weight in node.input:
            if node.op_type == "Transpose":
                found += _readers(graph, node.output[0])
            else:
                found.append(node.name)
    return found


def _bounding(graph: onnx.ModelProto, names: set[str]) -> list[str]:
    """Names of the activations that follow nodes directly and cut off their outputs."""
    outputs = {own for node in graph.graph.node if node.name in names for own in node.output}
    return [
        node.name
        for node in graph.graph.node
        if node.op_type in ("Relu", "Clip") and node.input[0] in outputs
    ]


# ---- activations --------------------------------------------------------------------------------


class _Samples(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Batches by the names of a graph's inputs."""

    def __init__(self, flat: Flattened, batches: Sequence[Batch]) -> None:
        self._names = flat.input_names
        self._batches = iter(batches)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        own = zip(self._names, tensors_of(batch), strict=True)
        return {name: tensor.numpy(force=True) for name, tensor in own}


def _static(graph: onnx.ModelProto, names: Sequence[str], samples: _Samples) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder, _quiet():
        target = Path(folder) / "quantised.onnx"
        quantization.quantize_static(
            copy.deepcopy(graph),
            target,
            samples,
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            # processors multiply unsigned by signed numbers
            activation_type=quantization.QuantType.QUInt8,
            nodes_to_quantize=list(names),
        )
        return onnx.load(target)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser from advising on graphs that are prepared already."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
