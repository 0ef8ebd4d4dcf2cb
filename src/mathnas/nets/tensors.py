"""Files of torch's tensors: see `mathnas._tensor_files`."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mathnas._records import Record
from mathnas._tensor_files import read_file, write_file


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, object]) -> None:
    """Write tensors with a JSON record that has ``format`` and ``version``.

    A crash or a full disk leaves the file that was there before.

    Raises:
        FileFormatError: the file cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_file(path, "torch", plain, record, _bits)


def read_tensors(path: Path, format_name: str, newest: int) -> tuple[dict[str, Tensor], Record]:
    """The tensors of a file, on the CPU, and its record.

    Raises:
        FileFormatError: the file cannot be read, is damaged, is another format, or is newer than
            this version of mathnas understands.
    """
    return read_file(path, "torch", format_name, newest, _bits)


def _bits(tensor: Tensor) -> npt.NDArray[np.uint8]:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def tensors_digest(tensors: Iterable[Tensor]) -> str:
    """Twelve digits that change with any value."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


class TravelsInBytes:
    """An object whose tensors go to another process inside bytes.

    torch would otherwise send them by shared memory, one open file a tensor.
    """

    def __getstate__(self) -> dict[str, object]:
        buffer = io.BytesIO()
        torch.save(self.__dict__, buffer)
        return {"saved": buffer.getvalue()}

    def __setstate__(self, state: dict[str, bytes]) -> None:
        # an object from our own pickle, so not restricted to weights
        self.__dict__ = torch.load(io.BytesIO(state["saved"]), weights_only=False)
