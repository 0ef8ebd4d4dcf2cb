"""Deployment packages: kept blocks' weights, their table and what they are, in one file.

A safetensors file. Its tensors are weights (each once, however many parts use it) and, for engines
that need them, graphs as bytes; its record says which part consists of which tensors. Reading it
needs numpy and safetensors; no code of a file runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mathnas.table import BlockTable

PACKAGE_FORMAT = "mathnas-package"
PACKAGE_VERSION = 1
STEM, HEAD = "stem", "head"
Arrays = Mapping[str, npt.NDArray[np.generic]]


def block_key(node: int, block: int, previous: int | None = None) -> str:
    """The name of a block's part; with `previous`, of the one whose batch-norm statistics are for
    that block of the node before."""
    after = "" if previous is None else f"/after{previous}"
    return f"node{node}/block{block}{after}"


@dataclass(frozen=True)
class PackagedPart:
    """One part of a package.

    Attributes:
        tensors: names inside the part (of a state dict or of a graph's constants) to names of the
            package's tensors.
        graph: the package's tensor that holds the part's graph without its weights; None for
            engines that build parts from the space.
    """

    tensors: Mapping[str, str]
    graph: str | None = None


@dataclass(frozen=True)
class Package:
    """What `mathnas deploy` writes and a dynamic network runs.

    Attributes:
        table: predictions of every executable network; its space holds the kept blocks.
        engine: the kind of parts: ``onnxruntime`` or ``torch``.
        parts: by `STEM`, `HEAD` and `block_key`; a block that computes nothing has none. Where
            statistics are per (block, previous block), blocks after the first node have one part
            for each block of the node before.
        tensors: arrays by name.
        input_shape: of one image: (channels, height, width).
        notes: JSON values: how images are normalised (``preprocessing``), batch-norm statistics
            (``statistics``: ``block`` or ``pair``), provenance.
    """

    table: BlockTable
    engine: str
    parts: Mapping[str, PackagedPart]
    tensors: Arrays
    input_shape: tuple[int, int, int]
    notes: Mapping[str, object] = field(default_factory=dict)
