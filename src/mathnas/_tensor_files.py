"""What our files of tensors have in common: safetensors with a JSON record and a digest beside the
tensors, written whole or not at all, and checked when they are read. No pickle.

`mathnas.nets.tensors` reads them as torch's tensors; here they are numpy's arrays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mathnas._files import replacing
from mathnas._records import Record, check_header, shown
from mathnas.errors import FileFormatError, MissingExtraError

_RECORD = "mathnas"
_DIGEST = "sha256"

Array = npt.NDArray[np.generic]
Bits = Callable[[Any], npt.NDArray[np.uint8]]
"""All bits of a tensor as flat bytes."""


def write_arrays(path: Path, arrays: Mapping[str, Array], record: Mapping[str, object]) -> None:
    """Write arrays with a JSON record that has ``format`` and ``version``.

    A crash or a full disk leaves the file that was there before.

    Raises:
        FileFormatError: the file cannot be written.
    """
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_file(path, "numpy", plain, record, _bits)


def read_arrays(path: Path, format_name: str, newest: int) -> tuple[dict[str, Array], Record]:
    """The arrays of a file and its record.

    Raises:
        FileFormatError: the file cannot be read, is damaged, is another format, or is newer than
            this version of mathnas understands.
    """
    return read_file(path, "numpy", format_name, newest, _bits)


def _bits(array: Array) -> npt.NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


# ---- for both kinds of tensors ---------------------------------------------------------------


def write_file(
    path: Path,
    framework: str,
    tensors: Mapping[str, Any],
    record: Mapping[str, object],
    bits: Bits,
) -> None:
    """Write tensors of ``numpy`` or ``torch`` without gaps; see `write_arrays`.

    Raises:
        FileFormatError: the file cannot be written.
    """
    safetensors = _safetensors(framework)
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    metadata = {_RECORD: text, _DIGEST: _digest(tensors, bits)}
    with replacing(path, safetensors.SafetensorError) as temporary:
        temporary.write_bytes(getattr(safetensors, framework).save(tensors, metadata))


def read_file(
    path: Path, framework: str, format_name: str, newest: int, bits: Bits
) -> tuple[dict[str, Any], Record]:
    """The tensors of a file, of ``numpy`` or ``torch``, and its record; see `read_arrays`.

    Raises:
        FileFormatError: as `read_arrays`.
    """
    safetensors = _safetensors(framework)
    try:
        # opened first: safetensors names a missing file in its own way
        with path.open("rb"):
            pass
        with safetensors.safe_open(str(path), framework=framework) as file:
            metadata = file.metadata() or {}
            # another program's file is refused by its record, whatever types its tensors have
            record = _record(path, metadata, format_name, newest)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise FileFormatError(
            f"{path} is damaged, or no safetensors file ({error}): use another copy."
        ) from error
    if metadata.get(_DIGEST) != _digest(tensors, bits):
        raise FileFormatError(
            f"{path} is damaged: its tensors do not have the digest that was written with them. "
            "Use another copy."
        )
    return tensors, record


def _safetensors(framework: str) -> Any:
    try:
        import safetensors

        __import__(f"safetensors.{framework}")
    except ImportError as error:
        raise MissingExtraError(
            "files of weights need safetensors: pip install 'mathnas[train]', or safetensors alone."
        ) from error
    return safetensors


def _record(path: Path, metadata: Mapping[str, str], format_name: str, newest: int) -> Record:
    if _RECORD not in metadata:
        raise FileFormatError(
            f"{path} is not a {format_name} file: it has no {_RECORD!r} in its metadata, but "
            f"{shown(sorted(metadata))}. Weights of others are read by their own readers."
        )
    try:
        value = json.loads(metadata[_RECORD])
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is damaged: its record is not JSON ({error}).") from error
    return check_header(value, format_name, newest, str(path))


def _digest(tensors: Mapping[str, Any], bits: Bits) -> str:
    """A digest of names, types, shapes and all bits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(bits(tensor).data)
    return digest.hexdigest()
