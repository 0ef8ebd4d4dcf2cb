"""Resident parts that ONNX Runtime runs on the processor, one session a part."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import cast

import numpy as np
import numpy.typing as npt
import onnxruntime

from mathnas.devices.onnxruntime import session_options
from mathnas.errors import FileFormatError
from mathnas.runtime.package import Arrays, Package, PackagedPart
from mathnas.runtime.resident import Images, LoadedParts, check_engine
from mathnas.space import SearchSpace


class OnnxResident(LoadedParts):
    """Graphs in sessions of their own.

    Values that pass from part to part are arrays, which sessions read and give without copying.

    Args:
        space: whose blocks they are.
        parts: by `STEM`, `HEAD` and `block_key`, as in a package for ``onnxruntime``.
        tensors: of the parts, by name; they are read in place, so they stay in memory.
        input_shape: of one image: (channels, height, width).
        threads: inside one operator. With more than one every session has threads of its own, which
            sleep while it does not run.

    Raises:
        InvalidInputError: `threads` is below 1.
        FileFormatError: ONNX Runtime does not take a graph or its weights.
    """

    def __init__(
        self,
        space: SearchSpace,
        parts: Mapping[str, PackagedPart],
        tensors: Arrays,
        input_shape: tuple[int, int, int],
        *,
        threads: int = 1,
    ) -> None:
        names = {name for part in parts.values() for name in part.tensors.values()}
        arrays = {name: np.ascontiguousarray(tensors[name]) for name in names}
        weights = {name: _weight(name, array) for name, array in arrays.items()}
        loaded = {
            key: _Part(key, _session(key, part, tensors, weights, threads))
            for key, part in parts.items()
        }
        self._bytes = sum(array.nbytes for array in arrays.values())
        super().__init__(space, f"onnxruntime {onnxruntime.__version__}", loaded, input_shape)

    @classmethod
    def read(cls, package: Package, *, threads: int = 1) -> OnnxResident:
        """The parts of a package for ``onnxruntime``.

        Raises:
            InvalidInputError: the package is for another engine, or `threads` is below 1.
            FileFormatError: ONNX Runtime does not take a graph.
        """
        check_engine(package, "onnxruntime")
        return cls(
            package.space, package.parts, package.tensors, package.input_shape, threads=threads
        )

    def load(self, images: Images) -> npt.NDArray[np.float32]:
        return np.ascontiguousarray(self.checked(images))

    def unload(self, value: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return value

    @property
    def bytes(self) -> int:
        return self._bytes


class _Part:
    """A session with one input and one output; it may run in several threads at once."""

    def __init__(self, key: str, session: onnxruntime.InferenceSession) -> None:
        given = [value.name for value in session.get_inputs()]
        outputs = [value.name for value in session.get_outputs()]
        if len(given) != 1 or len(outputs) != 1:
            raise FileFormatError(
                f"the graph of a part has one input and one output, but that of {key} has "
                f"{len(given)} and {len(outputs)}: deploy it again."
            )
        self._session, self._input, self._outputs = session, given[0], outputs

    def __call__(self, value: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        # reads the array in place and gives one that is onnxruntime's memory: nothing is copied, in
        # a seventh of the time that `run_with_ort_values` adds to a run
        return cast(
            "npt.NDArray[np.float32]", self._session.run(self._outputs, {self._input: value})[0]
        )


def _weight(name: str, array: npt.NDArray[np.generic]) -> onnxruntime.OrtValue:
    """The array, read in place."""
    try:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    except Exception as error:  # onnxruntime's own errors have no common base
        raise FileFormatError(
            f"onnxruntime takes no weights of the type {array.dtype}, but those of the tensor "
            f"{name} are: deploy it again."
        ) from error


def _session(
    key: str,
    part: PackagedPart,
    tensors: Arrays,
    weights: Mapping[str, onnxruntime.OrtValue],
    threads: int,
) -> onnxruntime.InferenceSession:
    """The session of a part."""
    assert part.graph is not None  # parts for onnxruntime have all graphs
    options = session_options(threads)
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_external_initializers(
        list(part.tensors), [weights[name] for name in part.tensors.values()]
    )
    try:
        return onnxruntime.InferenceSession(
            tensors[part.graph].tobytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own errors have no common base
        raise FileFormatError(
            f"onnxruntime {onnxruntime.__version__} does not load the graph of {key}: {error} "
            "Deploy it with the versions of the device."
        ) from error


@cache
def _share_arena() -> None:
    """One arena for the sessions of all parts: of their own, each would keep the activations of the
    largest batch; without any, they would be asked of the system in every run."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, None)
