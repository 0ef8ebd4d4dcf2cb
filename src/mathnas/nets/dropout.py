"""The range of a dropout, for all supernets."""

from __future__ import annotations

from mathnas.errors import InvalidInputError


def checked_dropout(share: float) -> float:
    """The share, as it is.

    Raises:
        InvalidInputError: it is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise InvalidInputError(f"dropout is at least 0 and below 1, but got {share}.")
    return share
