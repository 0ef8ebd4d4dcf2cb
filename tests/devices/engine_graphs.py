"""ONNX graphs written by hand, for the engines that read them."""

from __future__ import annotations

import itertools

from onnx import TensorProto, helper


def graph(shape: list[int | str], kind: int = TensorProto.FLOAT, squares: int = 1) -> bytes:
    """Squares its input some times."""
    names = ["x", *(f"y{i}" for i in range(squares))]
    nodes = [helper.make_node("Mul", [a, a], [b]) for a, b in itertools.pairwise(names)]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "squares",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info(names[-1], kind, None)],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())
