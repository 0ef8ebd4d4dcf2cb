"""Bytes of weights."""

from __future__ import annotations

from itertools import chain

from torch import nn


def weight_bytes(module: nn.Module) -> int:
    """Of a module's parameters and buffers."""
    return sum(tensor.nbytes for tensor in chain(module.parameters(), module.buffers()))
