"""Networks cut out of a supernet for good: checked, recalibrated, and in files of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mathnas import spaces
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.nets.agreement import TOLERANCE, check_agreement
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.families import supernet_for
from mathnas.nets.files import load_tensors
from mathnas.nets.supernet import Supernet
from mathnas.nets.tensors import read_tensors, write_tensors
from mathnas.space import Network, SearchSpace

EXTRACTED_FORMAT = "mathnas-network"
EXTRACTED_VERSION = 1


@dataclass(frozen=True)
class ExtractedNetwork:
    """A static network, and what it is.

    Attributes:
        module: in evaluation mode; inputs to logits of shape (batch, classes).
        space: that it was chosen from.
        network: which of its networks it is.
        notes: JSON values, such as how inputs are normalised (``preprocessing``).
        difference: the largest difference of its outputs from the supernet's, with the same
            statistics, relative to the largest output; None where it was not compared.
    """

    module: nn.Module
    space: SearchSpace
    network: Network
    notes: Mapping[str, object] = field(default_factory=dict)
    difference: float | None = None


def extract_network(
    supernet: Supernet,
    network: Sequence[int | str],
    example: Tensor,
    *,
    notes: Mapping[str, object] | None = None,
    tolerance: float = TOLERANCE,
) -> ExtractedNetwork:
    """A network of a supernet as a module of its own, compared with the supernet on `example`.

    Both run in evaluation mode with the statistics that the supernet has; those of the extracted
    network are its own from then on: see `recalibrated`.

    Raises:
        InvalidInputError: the network does not belong to the space.
        ExportError: their outputs differ by more than `tolerance` of the largest output.
    """
    chosen = supernet.space.check(network)
    training = supernet.training
    supernet.eval()
    try:
        module = supernet.extract(chosen).eval()
        with torch.no_grad():
            difference = check_agreement(
                module(example),
                supernet(example, chosen),
                "an extracted network and its supernet",
                tolerance=tolerance,
            )
    finally:
        supernet.train(training)
    return ExtractedNetwork(module, supernet.space, chosen, dict(notes or {}), difference)


def recalibrated(extracted: ExtractedNetwork, batches: Sequence[Tensor]) -> ExtractedNetwork:
    """`extracted` with its batch norms set in place from `batches`, which its notes then tell.

    Raises:
        InvalidInputError: as `mathnas.nets.batchnorm.recalibrate`.
    """
    recalibrate(extracted.module, batches)
    images = sum(map(len, batches))
    return replace(extracted, notes={**extracted.notes, "calibration_images": images})


def save_extracted(path: str | Path, extracted: ExtractedNetwork) -> None:
    """Write weights, space, network and notes as one safetensors file.

    Raises:
        FileFormatError: the file cannot be written.
    """
    record = {
        "format": EXTRACTED_FORMAT,
        "version": EXTRACTED_VERSION,
        "space": extracted.space.to_dict(),
        "network": list(extracted.network),
        "notes": dict(extracted.notes),
    }
    write_tensors(Path(path), extracted.module.state_dict(), record)


def read_extracted(path: str | Path, supernet: Supernet | None = None) -> ExtractedNetwork:
    """The network of a file that `save_extracted` wrote; no code of the file runs.

    Args:
        supernet: of the file's space, whose weights do not matter: what the network is built with.
            By default that of the space's family.

    Raises:
        FileFormatError: the file is missing, damaged, foreign or newer, or its tensors are not
            exactly those of its network.
        InvalidInputError: no supernet is known for the space, or another space's was given.
    """
    place = Path(path)
    tensors, record = read_tensors(place, EXTRACTED_FORMAT, EXTRACTED_VERSION)
    space = spaces.restore(record.get("space", dict), f"{path}.space")
    if supernet is None:
        supernet = supernet_for(space)
    elif supernet.space != space:
        raise InvalidInputError(
            f"{path} holds a network of the space {space.name!r}, but the supernet is of "
            f"{supernet.space.name!r}: give one of the file's space."
        )
    try:
        network = space.check(record.get("network", list))
    except InvalidInputError as error:
        raise FileFormatError(f"{path}.network: {error}") from error
    module = supernet.extract(network)
    load_tensors(module, tensors, str(path))
    return ExtractedNetwork(module.eval(), space, network, record.get("notes", dict, {}) or {})


def load_extracted(path: str | Path, supernet: Supernet | None = None) -> nn.Module:
    """The module of `read_extracted`, in evaluation mode."""
    return read_extracted(path, supernet).module
