"""A small package whose networks are of visibly different speed; needs onnx."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

import mathnas as mn
from mathnas.runtime.package import HEAD, STEM, Package, PackagedPart, block_key

SHAPE = (1, 4, 8)
CLASSES, NODES = 10, 3
_PRODUCTS = (0, 4, 16, 64)  # of each block; the first computes nothing


def write_package(path: Path, shape: tuple[int, int, int] = SHAPE) -> None:
    """Write a package of 64 networks, which multiply by the identity so many times and answer all
    the same."""
    width = math.prod(shape)
    tensors: dict[str, npt.NDArray[np.generic]] = {
        "identity": np.eye(width, dtype=np.float32),
        "out": np.random.default_rng(0).normal(size=(width, CLASSES)).astype(np.float32),
    }
    parts: dict[str, PackagedPart] = {}

    def add(key: str, graph: bytes, weights: dict[str, str]) -> None:
        tensors[f"graph/{key}"] = np.frombuffer(graph, np.uint8)
        parts[key] = PackagedPart(weights, f"graph/{key}")

    add(STEM, _flattening(shape), {})
    for node in range(NODES):
        for block, products in enumerate(_PRODUCTS):
            if products:
                graph = _multiplying(products, width, width)
                add(block_key(node, block), graph, {"w": "identity"})
    add(HEAD, _multiplying(1, width, CLASSES), {"w": "out"})
    choices = tuple(mn.Block(f"x{count}", macs=1e3 * count) for count in _PRODUCTS)
    space = mn.SearchSpace([mn.BlockNode(f"n{i}", choices) for i in range(NODES)], name="products")
    gains = np.tile([0.0, 2.0, 3.0, 3.5], NODES)
    times = np.tile([0.0, 0.004, 0.016, 0.064], NODES)
    nothing = np.zeros(space.num_blocks)
    columns = {
        name: mn.BlockEffects(mn.metric_named(name), base, effects, nothing, nothing + 1)
        for name, base, effects in (("accuracy", 70.0, gains), ("latency_ms", 0.05, times))
    }
    Package(
        mn.BlockTable(space, (0,) * NODES, columns),
        "onnxruntime",
        parts,
        tensors,
        shape,
        skipped=frozenset((node, 0) for node in range(NODES)),
    ).write(path)


def _flattening(shape: tuple[int, ...]) -> bytes:
    nodes = [helper.make_node("Flatten", ["in"], ["out"])]
    return _model(nodes, list(shape), math.prod(shape), [])


def _multiplying(times: int, width: int, out: int) -> bytes:
    """By the matrix `w`, which is declared as external data."""
    values = ["in", *(f"v{number}" for number in range(1, times)), "out"]
    nodes = [
        helper.make_node("MatMul", [one, "w"], [other]) for one, other in itertools.pairwise(values)
    ]
    bare = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[width, out])
    bare.data_location = TensorProto.EXTERNAL
    for key, text in (("location", "w"), ("offset", "0"), ("length", str(4 * width * out))):
        bare.external_data.add(key=key, value=text)
    return _model(nodes, [width], out, [bare])


def _model(nodes: list[Any], shape: list[int], out: int, weights: list[Any]) -> bytes:
    given = helper.make_tensor_value_info("in", TensorProto.FLOAT, ["batch", *shape])
    made = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", out])
    graph = helper.make_graph(nodes, "part", [given], [made], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content
