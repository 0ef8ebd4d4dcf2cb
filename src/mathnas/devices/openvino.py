"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino

from mathnas.devices.common import check_threads_and_batch, made_up_input
from mathnas.errors import InvalidInputError

# what the engine is told, and what it says that it does
PRECISIONS: Mapping[str, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_TYPES: Mapping[str, type[np.generic]] = {
    "f32": np.float32,
    "f16": np.float16,
    "i64": np.int64,
}


@dataclass(frozen=True, slots=True)
class OpenVinoEngine:
    """Runs ONNX files with OpenVINO on the CPU; see `mathnas.devices.common.Engine`.

    The precision is pinned: left alone, OpenVINO computes in bf16 where the processor can, and its
    times then do not compare with those of other engines or machines.

    Args:
        threads: of one inference; one runs at a time.
        batch: inputs in one run. A graph with a fixed batch must have this one.
        precision: of the arithmetic: fp32, or bf16 or fp16 where the processor has them.

    Raises:
        InvalidInputError: a setting is wrong.
    """

    threads: int = 1
    batch: int = 1
    precision: str = "fp32"

    name = "openvino"

    def __post_init__(self) -> None:
        check_threads_and_batch(self.threads, self.batch)
        if self.precision not in PRECISIONS:
            raise InvalidInputError(
                f"openvino runs in {', '.join(PRECISIONS)} here, but got {self.precision!r}."
            )

    @property
    def version(self) -> str:
        return str(openvino.__version__)

    def prepare(self, model: bytes) -> Callable[[], object]:
        """A compiled model with its inputs set, for an ONNX file's content.

        Raises:
            InvalidInputError: the graph does not fit (see
                `mathnas.devices.common.made_up_input`), or the processor cannot compute in the
                precision.
        """
        core = openvino.Core()
        graph = core.read_model(model)
        inputs = [self._input(port) for port in graph.inputs]
        graph.reshape(
            {port: list(values.shape) for port, values in zip(graph.inputs, inputs, strict=True)}
        )
        wanted = PRECISIONS[self.precision]
        compiled = core.compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": wanted,
                "INFERENCE_NUM_THREADS": self.threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != wanted:
            raise InvalidInputError(
                f"openvino computes in {used} on this processor where {wanted} is asked for: "
                "choose another precision."
            )
        request = compiled.create_infer_request()
        for index, values in enumerate(inputs):
            request.set_input_tensor(index, openvino.Tensor(values))

        def run() -> None:
            request.infer()

        return run

    def _input(self, port: Any) -> np.ndarray:
        shape = [
            int(size.get_length()) if size.is_static else str(size) for size in port.partial_shape
        ]
        name = port.get_any_name()
        kind = port.get_element_type().get_type_name()
        return made_up_input(name, shape, kind, _TYPES, self.batch)
