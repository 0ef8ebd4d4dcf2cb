"""Extracted networks as files: ``.onnx``, ``.pt2`` and ``.safetensors``.

Every file is written beside its place, read again, run, and compared with the module; only then it
takes its place.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from mathnas._files import file_sha256, replacing
from mathnas.errors import InvalidInputError, MissingExtraError
from mathnas.nets.agreement import TOLERANCE, check_agreement
from mathnas.nets.extracted import ExtractedNetwork, load_extracted, save_extracted
from mathnas.nets.supernet import Supernet


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file that was checked.

    Attributes:
        path: where it is.
        format: its suffix.
        bytes: its size.
        sha256: of its content.
        batch: inputs in one run; None: any number.
        input_shape: (channels, height, width) of one input.
        difference: the largest difference of its outputs from the module's, relative to the largest
            output.
        tolerance: how large that was allowed to be.
    """

    path: Path
    format: str
    bytes: int
    sha256: str
    batch: int | None
    input_shape: tuple[int, ...]
    difference: float
    tolerance: float

    def to_dict(self) -> dict[str, object]:
        """For JSON; the path is the file's name."""
        return {**asdict(self), "path": self.path.name, "input_shape": list(self.input_shape)}


@dataclass(frozen=True, slots=True)
class _Format:
    """How a kind of file is written (network, example, any batch, path) and run (path, inputs,
    supernet)."""

    write: Callable[[ExtractedNetwork, Tensor, bool, Path], None]
    run: Callable[[Path, Tensor, Supernet | None], Tensor]
    any_batch_only: bool = False


def check_suffix(path: Path) -> str:
    """The suffix of a file that `export_network` can write.

    Raises:
        InvalidInputError: it is none of those.
    """
    if path.suffix not in _FORMATS:
        raise InvalidInputError(
            f"networks are written as {', '.join(_FORMATS)}, but got {path.name!r}: choose one of "
            "these endings."
        )
    return path.suffix


def export_network(
    extracted: ExtractedNetwork,
    path: str | Path,
    example: Tensor,
    *,
    any_batch: bool = False,
    tolerance: float = TOLERANCE,
    supernet: Supernet | None = None,
) -> ExportedFile:
    """Write a network in the format that the suffix names, and check the file on `example`.

    ``.onnx``: a graph from ``images`` to ``logits``, run by onnxruntime for the check. ``.pt2``: a
    program of `torch.export`, which runs without mathnas. ``.safetensors``: weights, with which
    `mathnas.nets.extracted.load_extracted` builds the module again; it takes any batch.

    Args:
        extracted: as it is to be used: recalibrated.
        path: a file that is there is replaced, once the new one is checked.
        example: inputs of shape (batch, ...).
        any_batch: leave the batch open instead of fixing the example's.
        tolerance: largest difference of the file's outputs from the module's, both with the
            module's own statistics, relative to the largest output.
        supernet: what a ``.safetensors`` file is read with; by default that of the space's family.

    Raises:
        InvalidInputError: the suffix is unknown, the module is in training mode, or no supernet is
            known for the space.
        ExportError: file and module disagree; nothing is written.
        FileFormatError: the file cannot be written.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    target = Path(path)
    form = _FORMATS[check_suffix(target)]
    if extracted.module.training:
        raise InvalidInputError(
            "a module is exported in evaluation mode, but this one is in training mode: call "
            "eval() first."
        )
    any_batch = any_batch or form.any_batch_only
    # an exporter takes a batch of 1 for a constant
    traced = torch.cat([example, example]) if any_batch and len(example) == 1 else example
    runs = [traced, traced[:1]] if any_batch else [traced]
    with replacing(target) as temporary:
        form.write(extracted, traced, any_batch, temporary)
        difference = 0.0
        for inputs in runs:
            with torch.no_grad():
                expected = extracted.module(inputs)
            found = form.run(temporary, inputs, supernet)
            what = f"a {target.suffix} file and its module"
            worst = check_agreement(found, expected, what, tolerance=tolerance)
            difference = max(difference, worst)
        size, digest = temporary.stat().st_size, file_sha256(temporary)
    batch = None if any_batch else len(traced)
    shape = tuple(traced.shape[1:])
    return ExportedFile(target, target.suffix, size, digest, batch, shape, difference, tolerance)


def without_onnx() -> MissingExtraError:
    """What to say where what writes and checks ONNX is not installed."""
    return MissingExtraError(
        "an .onnx file is written with onnx and onnxscript and checked with onnxruntime: "
        "pip install 'mathnas[onnx]', or name a .pt2 or .safetensors file."
    )


# ---- formats ------------------------------------------------------------------------------------


def _write_onnx(extracted: ExtractedNetwork, example: Tensor, any_batch: bool, path: Path) -> None:
    try:
        from mathnas.nets.onnx_export import export_onnx
    except ImportError as error:
        raise without_onnx() from error
    # how far they may differ is checked on the file
    graph = export_onnx(extracted.module, example, any_batch=any_batch, tolerance=float("inf"))
    path.write_bytes(graph.SerializeToString())


def _run_onnx(path: Path, inputs: Tensor, supernet: Supernet | None) -> Tensor:
    import onnx

    from mathnas.nets.onnx_export import run_onnx

    return torch.from_numpy(run_onnx(onnx.load(path), inputs.numpy(force=True)).copy())


def _write_program(
    extracted: ExtractedNetwork, example: Tensor, any_batch: bool, path: Path
) -> None:
    dynamic = ({0: torch.export.Dim("batch")},) if any_batch else None
    with torch.no_grad():
        program = torch.export.export(extracted.module, (example,), dynamic_shapes=dynamic)
    content = io.BytesIO()
    torch.export.save(program, content)
    path.write_bytes(content.getvalue())


def _run_program(path: Path, inputs: Tensor, supernet: Supernet | None) -> Tensor:
    program = torch.export.load(io.BytesIO(path.read_bytes()))
    with torch.no_grad():
        outputs: Tensor = program.module()(inputs)
    return outputs


def _write_weights(
    extracted: ExtractedNetwork, example: Tensor, any_batch: bool, path: Path
) -> None:
    save_extracted(path, extracted)


def _run_weights(path: Path, inputs: Tensor, supernet: Supernet | None) -> Tensor:
    with torch.no_grad():
        outputs: Tensor = load_extracted(path, supernet)(inputs)
    return outputs


_FORMATS: Mapping[str, _Format] = {
    ".onnx": _Format(_write_onnx, _run_onnx),
    ".pt2": _Format(_write_program, _run_program),
    ".safetensors": _Format(_write_weights, _run_weights, any_batch_only=True),
}
