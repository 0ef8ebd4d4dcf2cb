"""Supernets in files: the weights, the space they are of, and notes on how they came about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mathnas import spaces
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.nets.families import supernet_for
from mathnas.nets.supernet import Supernet
from mathnas.nets.tensors import read_tensors, write_tensors
from mathnas.space import SearchSpace

SUPERNET_FORMAT = "mathnas-supernet"
SUPERNET_VERSION = 1
_SHOWN = 4  # names in a message


def save_supernet(
    path: str | Path, supernet: Supernet, *, notes: Mapping[str, object] | None = None
) -> None:
    """Write a supernet's weights and its space's declaration as one safetensors file.

    Args:
        notes: JSON values to keep with them, such as how inputs were normalised.

    Raises:
        FileFormatError: the file cannot be written.
    """
    record = {
        "format": SUPERNET_FORMAT,
        "version": SUPERNET_VERSION,
        "space": supernet.space.to_dict(),
        "notes": dict(notes or {}),
    }
    write_tensors(Path(path), supernet.state_dict(), record)


def load_supernet(path: str | Path) -> Supernet:
    """The supernet of a file, in evaluation mode.

    Raises:
        FileFormatError: the file is missing, damaged, foreign or newer, or its tensors are not
            those of a supernet of its space.
        InvalidInputError: no supernet is known for the space: make it, and use `load_weights`.
    """
    return read_supernet(path)[0]


def read_supernet(path: str | Path) -> tuple[Supernet, dict[str, object]]:
    """The supernet of a file and the file's notes; as `load_supernet`."""
    tensors, space, notes = _read(Path(path))
    supernet = supernet_for(space)
    load_tensors(supernet, tensors, str(path))
    return supernet.eval(), notes


def load_weights(path: str | Path, supernet: Supernet) -> None:
    """Load the weights of a file into a supernet of the same space.

    Raises:
        FileFormatError: as `load_supernet`.
        InvalidInputError: the file is of another space.
    """
    tensors, space, _ = _read(Path(path))
    if space != supernet.space:
        raise InvalidInputError(
            f"{path} holds a supernet of the space {space.name!r} "
            f"({space.fingerprint[:12]}), but one of {supernet.space.name!r} "
            f"({supernet.space.fingerprint[:12]}) is needed."
        )
    load_tensors(supernet, tensors, str(path))


def supernet_notes(path: str | Path) -> dict[str, object]:
    """The notes of a supernet file; errors as `load_supernet`."""
    return _read(Path(path))[2]


def load_tensors(
    module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str, *, share: bool = False
) -> None:
    """Copy tensors into a module that has exactly these parameters and buffers.

    Args:
        where: they come from, for messages.
        share: take the tensors themselves instead of their values.

    Raises:
        FileFormatError: a tensor is missing, unknown, or of another shape or type.
    """
    own = module.state_dict(keep_vars=True)
    missing = [name for name in own if name not in tensors]
    unknown = [name for name in tensors if name not in own]
    if missing or unknown:
        problems = [
            f"{what} {len(names)} ({', '.join(names[:_SHOWN])}{', ...' * (len(names) > _SHOWN)})"
            for what, names in (("it lacks", missing), ("nobody knows", unknown))
            if names
        ]
        raise FileFormatError(
            f"{where} has not the tensors of this supernet: {' and '.join(problems)} of "
            f"{len(own)}. It may be of another space, or of another version of mathnas."
        )
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (own[name].shape, own[name].dtype):
            raise FileFormatError(
                f"{where}: the tensor {name} is {tuple(own[name].shape)} {own[name].dtype} in "
                f"this supernet, but {tuple(tensor.shape)} {tensor.dtype} in the file."
            )
    if share:
        module.load_state_dict(dict(tensors), assign=True)
        return
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _read(path: Path) -> tuple[dict[str, Tensor], SearchSpace, dict[str, object]]:
    tensors, record = read_tensors(path, SUPERNET_FORMAT, SUPERNET_VERSION)
    space = spaces.restore(record.get("space", dict), f"{path}.space")
    return tensors, space, record.get("notes", dict)
