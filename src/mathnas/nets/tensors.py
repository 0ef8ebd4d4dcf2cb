"""Files of tensors: safetensors, with what they are as JSON beside them, written whole or not at
all, and checked when they are read. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mathnas._files import replacing
from mathnas._records import Record, check_header, shown
from mathnas.errors import FileFormatError, MissingExtraError

_RECORD = "mathnas"
_DIGEST = "sha256"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, object]) -> None:
    """Write tensors with a JSON record that has ``format`` and ``version``.

    A crash or a full disk leaves the file that was there before.

    Raises:
        FileFormatError: the file cannot be written.
    """
    safetensors = _safetensors()
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        _RECORD: json.dumps(record, ensure_ascii=False, allow_nan=False),
        _DIGEST: _digest(plain),
    }
    with replacing(path, safetensors.SafetensorError) as temporary:
        temporary.write_bytes(safetensors.torch.save(plain, metadata))


def read_tensors(path: Path, format_name: str, newest: int) -> tuple[dict[str, Tensor], Record]:
    """The tensors of a file, on the CPU, and its record.

    Raises:
        FileFormatError: the file cannot be read, is damaged, is another format, or is newer than
            this version of mathnas understands.
    """
    safetensors = _safetensors()
    try:
        # opened first: safetensors names a missing file in its own way
        with path.open("rb"):
            pass
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise FileFormatError(
            f"{path} is damaged, or no safetensors file ({error}): use another copy."
        ) from error
    record = _record(path, metadata, format_name, newest)
    if metadata.get(_DIGEST) != _digest(tensors):
        raise FileFormatError(
            f"{path} is damaged: its tensors do not have the digest that was written with them. "
            "Use another copy."
        )
    return tensors, record


def _record(path: Path, metadata: Mapping[str, str], format_name: str, newest: int) -> Record:
    if _RECORD not in metadata:
        raise FileFormatError(
            f"{path} is not a {format_name} file: it has no {_RECORD!r} in its metadata, but "
            f"{shown(sorted(metadata))}. Weights of others are read by their own readers."
        )
    try:
        value = json.loads(metadata[_RECORD])
    except ValueError as error:
        raise FileFormatError(f"{path} is damaged: its record is not JSON ({error}).") from error
    return check_header(value, format_name, newest, str(path))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """A digest of names, shapes and all bits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise MissingExtraError(
            "files of weights need safetensors: pip install 'mathnas[train]'."
        ) from error
    return safetensors
