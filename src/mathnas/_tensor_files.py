"""What our files of tensors have in common: safetensors with a JSON record and a digest beside the
tensors, written whole or not at all, and checked when they are read. No pickle.

`mathnas.nets.tensors` reads them as torch's tensors; here they are numpy's arrays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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


def write_arrays(path: Path, arrays: Mapping[str, Array], record: Mapping[str, object]) -> None:
    """Write arrays with a JSON record that has ``format`` and ``version``.

    A crash or a full disk leaves the file that was there before.

    Raises:
        FileFormatError: the file cannot be written.
    """
    safetensors = safetensors_with("numpy")
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = safetensors.numpy.save(plain, metadata_of(record, _digest(plain)))
    write_content(path, content, safetensors.SafetensorError)


def read_arrays(path: Path, format_name: str, newest: int) -> tuple[dict[str, Array], Record]:
    """The arrays of a file and its record.

    Raises:
        FileFormatError: the file cannot be read, is damaged, is another format, or is newer than
            this version of mathnas understands.
    """
    with opened(path, "numpy") as file:
        metadata = file.metadata() or {}
        # another program's file is refused by its record, whatever types its tensors have
        record = read_record(path, metadata, format_name, newest)
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    check_digest(path, metadata, _digest(arrays))
    return arrays, record


def _digest(arrays: Mapping[str, Array]) -> str:
    return digest_of(
        (name, str(array.dtype), array.shape, array.reshape(-1).view(np.uint8))
        for name, array in sorted(arrays.items())
    )


# ---- what both kinds of tensors need ---------------------------------------------------------


def safetensors_with(framework: str) -> Any:
    """The safetensors package with its functions for ``numpy`` or ``torch``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import safetensors

        __import__(f"safetensors.{framework}")
    except ImportError as error:
        raise MissingExtraError(
            "files of weights need safetensors: pip install 'mathnas[train]', or safetensors alone."
        ) from error
    return safetensors


def write_content(path: Path, content: bytes, *failures: type[Exception]) -> None:
    """Write a file's content, whole or not at all.

    Raises:
        FileFormatError: the file cannot be written.
    """
    with replacing(path, *failures) as temporary:
        temporary.write_bytes(content)


@contextmanager
def opened(path: Path, framework: str) -> Iterator[Any]:
    """A safetensors file to read.

    Raises:
        FileFormatError: it cannot be read, or is damaged or none.
    """
    safetensors = safetensors_with(framework)
    try:
        # opened first: safetensors names a missing file in its own way
        with path.open("rb"):
            pass
        with safetensors.safe_open(str(path), framework=framework) as file:
            yield file
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise FileFormatError(
            f"{path} is damaged, or no safetensors file ({error}): use another copy."
        ) from error


def metadata_of(record: Mapping[str, object], digest: str) -> dict[str, str]:
    """A file's metadata: its record and the digest of its tensors."""
    return {_RECORD: json.dumps(record, ensure_ascii=False, allow_nan=False), _DIGEST: digest}


def read_record(path: Path, metadata: Mapping[str, str], format_name: str, newest: int) -> Record:
    """The record in a file's metadata.

    Raises:
        FileFormatError: there is none, or it is damaged, of another format or newer.
    """
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


def check_digest(path: Path, metadata: Mapping[str, str], digest: str) -> None:
    """Raise `FileFormatError` where the tensors are not those that were written."""
    if metadata.get(_DIGEST) != digest:
        raise FileFormatError(
            f"{path} is damaged: its tensors do not have the digest that was written with them. "
            "Use another copy."
        )


def digest_of(tensors: Iterable[tuple[str, str, tuple[int, ...], npt.NDArray[np.uint8]]]) -> str:
    """A digest of names, types, shapes and all bits (flat, as bytes), in the order of the names."""
    digest = hashlib.sha256()
    for name, kind, shape, content in tensors:
        digest.update(f"{name} {kind} {tuple(shape)}\n".encode())
        digest.update(content.data)
    return digest.hexdigest()
