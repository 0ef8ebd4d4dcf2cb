"""Files of torch's tensors: see `mathnas._tensor_files`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mathnas._records import Record
from mathnas._tensor_files import (
    check_digest,
    digest_of,
    metadata_of,
    opened,
    read_record,
    safetensors_with,
    write_content,
)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, object]) -> None:
    """Write tensors with a JSON record that has ``format`` and ``version``.

    A crash or a full disk leaves the file that was there before.

    Raises:
        FileFormatError: the file cannot be written.
    """
    safetensors = safetensors_with("torch")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(plain, metadata_of(record, _digest(plain)))
    write_content(path, content, safetensors.SafetensorError)


def read_tensors(path: Path, format_name: str, newest: int) -> tuple[dict[str, Tensor], Record]:
    """The tensors of a file, on the CPU, and its record.

    Raises:
        FileFormatError: the file cannot be read, is damaged, is another format, or is newer than
            this version of mathnas understands.
    """
    with opened(path, "torch") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    record = read_record(path, metadata, format_name, newest)
    check_digest(path, metadata, _digest(tensors))
    return tensors, record


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return digest_of(
        (
            name,
            str(tensor.dtype),
            tuple(tensor.shape),
            tensor.reshape(-1).view(torch.uint8).numpy(),
        )
        for name, tensor in sorted(tensors.items())
    )
