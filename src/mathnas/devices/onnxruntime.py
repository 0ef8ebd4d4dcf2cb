"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime

from mathnas.errors import InvalidInputError

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


@dataclass(frozen=True, slots=True)
class OnnxRuntimeEngine:
    """Runs ONNX files on the CPU; see `mathnas.devices.common.Engine`.

    Threads do not spin while they wait: a spinning pool would take the processor from whatever is
    measured next.

    Args:
        threads: inside one operator; operators run one after another.
        batch: inputs in one run. A graph with a fixed batch must have this one.
        precision: of the graphs that will be given, which is noted in the conditions.
    """

    threads: int = 1
    batch: int = 1
    precision: str = "fp32"

    name = "onnxruntime"

    def __post_init__(self) -> None:
        if self.threads < 1 or self.batch < 1:
            raise InvalidInputError(
                f"threads and batch are at least 1, but got {self.threads} and {self.batch}."
            )

    @property
    def version(self) -> str:
        return str(onnxruntime.__version__)

    def prepare(self, model: bytes) -> Callable[[], object]:
        """A session for an ONNX file's content, with inputs and outputs bound.

        Inputs are random numbers between 0 and 1 (integers: zeros).

        Raises:
            InvalidInputError: the graph has another batch size, an open dimension besides the
                batch, or an input of an unknown type.
        """
        session = onnxruntime.InferenceSession(
            model, self._options(), providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        for declared in session.get_inputs():
            values = self._input(declared.name, declared.shape, declared.type)
            binding.bind_ortvalue_input(
                declared.name, onnxruntime.OrtValue.ortvalue_from_numpy(values)
            )
        for output in session.get_outputs():
            binding.bind_output(output.name, "cpu")

        def run() -> None:
            session.run_with_iobinding(binding)

        return run

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        return options

    def _input(self, name: str, shape: list[int | str | None], kind: str) -> np.ndarray:
        first, *rest = shape
        if isinstance(first, int) and first != self.batch:
            raise InvalidInputError(
                f"this engine runs {self.batch} inputs at once, but the graph's input {name!r} has "
                f"the fixed batch {first}: export it with this batch or an open one."
            )
        if not all(isinstance(size, int) for size in rest):
            raise InvalidInputError(
                f"only the batch of a graph may be open, but input {name!r} has the shape {shape}: "
                "export it for fixed sizes."
            )
        if kind not in _TYPES:
            raise InvalidInputError(
                f"inputs of the types {', '.join(_TYPES)} can be made up, but {name!r} is {kind}."
            )
        sizes = (self.batch, *(int(size) for size in rest if size is not None))
        values = np.random.default_rng(0).random(sizes)
        return values.astype(_TYPES[kind])
