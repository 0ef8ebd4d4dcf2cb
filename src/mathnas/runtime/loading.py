"""From a package to resident parts, in the engine that it was deployed for."""

from __future__ import annotations

from mathnas.errors import MissingExtraError
from mathnas.runtime.package import Package
from mathnas.runtime.resident import ResidentParts


def resident_parts(package: Package, *, threads: int = 1) -> ResidentParts:
    """Every part of a package, loaded.

    Args:
        threads: inside one operator; for torch they are those of the whole process.

    Raises:
        InvalidInputError: `threads` is below 1, or no supernet is known for the package's space.
        FileFormatError: the engine does not take a part.
        MissingExtraError: the engine is not installed.
    """
    try:
        if package.engine == "torch":
            from mathnas.runtime.torch_parts import TorchParts

            return TorchParts.read(package, threads=threads)
        from mathnas.runtime.onnx_parts import OnnxResident

        return OnnxResident.read(package, threads=threads)
    except ImportError as error:
        extra = "torch" if package.engine == "torch" else "onnx"
        raise MissingExtraError(
            f"parts for {package.engine} need {error.name or error}: pip install "
            f"'mathnas[{extra}]'."
        ) from error
