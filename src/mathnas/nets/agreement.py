"""Whether two ways of computing one network give the same outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from mathnas.errors import MathNASError

TOLERANCE = 1e-4


class ExportError(MathNASError):
    """What was extracted or exported does not compute what it was made from."""


def check_agreement(
    found: Tensor, expected: Tensor, what: str, *, tolerance: float = TOLERANCE
) -> float:
    """The largest difference of two outputs, relative to the largest expected output (at least 1).

    Args:
        found, expected: of one shape.
        what: the two in words, for example ``"a graph and its module"``.
        tolerance: how large the difference may be.

    Raises:
        ExportError: the difference is larger or not a number, or the shapes differ.
    """
    if found.shape != expected.shape:
        raise ExportError(
            f"{what} give outputs of one shape, but got {tuple(found.shape)} and "
            f"{tuple(expected.shape)}."
        )
    with torch.no_grad():
        found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
        scale = max(1.0, float(expected.abs().max()))
        difference = float((found - expected).abs().max()) / scale
    if not difference <= tolerance:
        raise ExportError(
            f"{what} agree to {tolerance:g} of the largest output ({scale:g}), but they differ by "
            f"{difference * scale:g}: is the module in evaluation mode, and does its forward pass "
            "depend on nothing but the input?"
        )
    return difference
