"""Compressed networks as files: ``.onnx``, ``.pt2`` and ``.safetensors``.

Every file is written beside its place, read again, run, and compared with the network; only then it
takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from mathnas._files import file_sha256, replacing
from mathnas.compression.batches import (
    Batch,
    checked_batches,
    first_samples,
    first_tensor,
    run,
    sample_count,
    tensors_of,
)
from mathnas.compression.flattened import Flattened, doubled
from mathnas.compression.programs import compressed_program, run_program
from mathnas.compression.rebuilding import REBUILT_TOLERANCE, write_rebuildable
from mathnas.errors import InvalidInputError
from mathnas.nets.agreement import TOLERANCE, ExportError, check_agreement
from mathnas.nets.export import without_onnx

SUFFIXES = (".onnx", ".pt2", ".safetensors")


@dataclass(frozen=True)
class Agreement:
    """How near a graph that computes with integers is to a network.

    Attributes:
        samples: on which they were compared.
        top1: share of the rows of the first output, along its last axis, whose largest entry is the
            same.
        difference: the largest of the first output, relative to the largest output (at least 1).
        mean_difference: of its absolute values, relative to the mean absolute output.
    """

    samples: int
    top1: float
    difference: float
    mean_difference: float


@dataclass(frozen=True)
class CompressedFile:
    """A file that was checked.

    Attributes:
        path: where it is.
        bytes: its size.
        sha256: of its content.
        any_batch: whether it takes any number of samples.
        inputs: their names, in order, and the shapes in the example.
        outputs: their names, in order.
        difference: the largest difference of its outputs from the network's on the example,
            relative to the largest output.
        tolerance: how large that was allowed to be; None where activations are integers, which
            changes what is computed: see `rounded`.
        rounded: with activations in integers, how near it is to the network, whose weights are
            rounded and whose activations are not.
        original: with activations in integers, how near it is to the model before compression, if
            that was given.
        code: for ``.safetensors``, the Python file beside it.
    """

    path: Path
    bytes: int
    sha256: str
    any_batch: bool
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    difference: float
    tolerance: float | None
    rounded: Agreement | None = None
    original: Agreement | None = None
    code: Path | None = None

    def to_dict(self) -> dict[str, object]:
        """For JSON; paths are the files' names."""
        return {
            **asdict(self),
            "path": self.path.name,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "outputs": list(self.outputs),
            "code": None if self.code is None else self.code.name,
        }


def export_compressed(
    network: nn.Module,
    path: str | Path,
    example: Batch,
    *,
    any_batch: bool = True,
    tolerance: float = TOLERANCE,
    activations: Sequence[Batch] | None = None,
    original: nn.Module | None = None,
    make: str | None = None,
) -> CompressedFile:
    """Write a network in the format that the suffix names, and check the file on an example.

    ``.onnx``: a graph with an input for each tensor and an output for each tensor. Rounded weights
    are stored in their bits, with a scale for each output channel. ``.pt2``: a program of
    `torch.export`, which runs with torch alone and is called as the network is; it stores rounded
    weights in their bits, too. ``.safetensors``: the tensors, and beside them a short Python file
    that makes the original and changes it: see `mathnas.compression.rebuilding`.

    Args:
        network: what `mathnas.compression.ModuleSupernet.extract` gives.
        path: a file that is there is replaced, once the new one is checked.
        example: a batch as the network takes it.
        any_batch: leave the number of samples open; a ``.safetensors`` file's always is.
        tolerance: largest difference of the file's outputs from the network's, relative to the
            largest output; for ``.safetensors`` 1e-6 where this is larger.
        activations: for ``.onnx``, batches of samples: layers with weights of 8 bits then compute
            with integers. How far that is from the network is reported, and not limited.
        original: the model before compression, to be compared with where activations are integers.
        make: for ``.safetensors``, ``module:object``: the original, or a function that makes it.

    Raises:
        InvalidInputError: the suffix is unknown, the network is in training mode, or an argument
            is not for this format; or a Python file that mathnas did not write has the name of the
            one beside a ``.safetensors`` file.
        ExportError: torch cannot export the network, file and network disagree, or the network
            cannot be made again from the original; nothing is written.
        FileFormatError: the file cannot be written.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    target = Path(path)
    _check(network, target, activations, original, make)
    any_batch = any_batch or target.suffix == ".safetensors"
    if any_batch and sample_count(example) == 1:
        # an exporter takes a batch of 1 for a constant
        example = doubled(example)
    examples = (
        [example, first_samples(example, sample_count(example), 1)] if any_batch else [example]
    )
    with torch.no_grad():
        flat = Flattened(network, example)
        expected = [list(tensors_of(run(network, own))) for own in examples]
    tolerated = None if activations is not None else tolerance
    rounded = unrounded = code = None
    if make is not None:
        tolerated = min(tolerance, REBUILT_TOLERANCE)
        difference = write_rebuildable(network, target, make, examples, expected, tolerated)
        code = target.with_suffix(".py")
        size, digest = target.stat().st_size, file_sha256(target)
    else:
        with replacing(target) as temporary:
            if target.suffix == ".pt2":
                content = compressed_program(network, example, any_batch=any_batch)
                temporary.write_bytes(content)
                found = [run_program(content, own) for own in examples]
            else:
                graphs = _graphs()
                samples = None if activations is None else checked_batches(activations, "samples")
                graph = graphs.compressed_graph(
                    network, example, any_batch=any_batch, activations=samples
                )
                temporary.write_bytes(graph.SerializeToString())
                found = [graphs.run_graph(graph, own) for own in examples]
                if samples is not None:
                    own = [graphs.run_graph(graph, batch)[0] for batch in samples]
                    rounded = _agreement(own, network, samples)
                    unrounded = None if original is None else _agreement(own, original, samples)
            what = f"a {target.suffix} file and its network"
            difference = max(
                compared(one, other, what, float("inf") if tolerated is None else tolerated)
                for one, other in zip(found, expected, strict=True)
            )
            size, digest = temporary.stat().st_size, file_sha256(temporary)
    shapes = [tuple(tensor.shape) for tensor in tensors_of(example)]
    return CompressedFile(
        target,
        size,
        digest,
        any_batch,
        dict(zip(flat.input_names, shapes, strict=True)),
        tuple(flat.output_names),
        difference,
        tolerated,
        rounded,
        unrounded,
        code,
    )


def compared(
    found: Sequence[Tensor], expected: Sequence[Tensor], what: str, tolerance: float
) -> float:
    """The largest difference of several outputs; see `mathnas.nets.agreement.check_agreement`.

    Raises:
        ExportError: there are more or fewer, or they differ by more.
    """
    if len(found) != len(expected):
        raise ExportError(
            f"{what} give the same tensors, but got {len(found)} and {len(expected)}."
        )
    pairs = zip(found, expected, strict=True)
    return max(check_agreement(one, other, what, tolerance=tolerance) for one, other in pairs)


def _agreement(found: Sequence[Tensor], network: nn.Module, batches: Sequence[Batch]) -> Agreement:
    was = network.training
    network.eval()
    try:
        with torch.no_grad():
            expected = torch.cat([first_tensor(run(network, own)).double() for own in batches])
    finally:
        network.train(was)
    own = torch.cat(list(found)).double()
    off = (own - expected).abs()
    same = (own.argmax(-1) == expected.argmax(-1)).double()
    return Agreement(
        sum(map(sample_count, batches)),
        float(same.mean()),
        float(off.max()) / max(1.0, float(expected.abs().max())),
        float(off.mean()) / max(float(expected.abs().mean()), 1e-30),
    )


def _check(
    network: nn.Module,
    path: Path,
    activations: Sequence[Batch] | None,
    original: nn.Module | None,
    make: str | None,
) -> None:
    if path.suffix not in SUFFIXES:
        raise InvalidInputError(
            f"compressed networks are written as {', '.join(SUFFIXES)}, but got {path.name!r}: "
            "choose one of these endings."
        )
    if network.training:
        raise InvalidInputError(
            "a network is exported in evaluation mode, but this one is in training mode: call "
            "eval() first."
        )
    if activations is not None and path.suffix != ".onnx":
        raise InvalidInputError(
            f"activations are put in integers in .onnx files, but got {path.name!r}."
        )
    if original is not None and activations is None:
        raise InvalidInputError(
            "the original is compared with where activations are integers: give activations, too."
        )
    if (make is None) == (path.suffix == ".safetensors"):
        raise InvalidInputError(
            "a .safetensors file, and no other, needs to know what makes the original, as "
            f"make='my_package:make_model', but got make={make!r} for {path.name!r}."
        )


def _graphs() -> ModuleType:
    try:
        from mathnas.compression import onnx_files
    except ImportError as error:
        raise without_onnx() from error
    return onnx_files
