"""The kinds of public weights that become supernets, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from mathnas.errors import InvalidInputError
from mathnas.nets.checkpoints import load_cell_supernet, load_once_for_all
from mathnas.nets.hat_checkpoints import load_hat
from mathnas.nets.nasvit_checkpoints import load_nasvit
from mathnas.nets.supernet import Supernet
from mathnas.space import SearchSpace
from mathnas.spaces import SuperTransformer

Loader: TypeAlias = Callable[[Path, "int | None", "SearchSpace | None"], Supernet]
"""Reads a file at a resolution, as a supernet of a space, where these are given.

Raises `InvalidInputError` where one of them does not fit the weights, and `FileFormatError`.
"""


def _once_for_all(path: Path, resolution: int | None, space: SearchSpace | None) -> Supernet:
    _told_by_weights(space)
    if resolution is None:
        return load_once_for_all(path)
    return load_once_for_all(path, resolution=resolution)


def _cells(path: Path, resolution: int | None, space: SearchSpace | None) -> Supernet:
    _told_by_weights(space)
    found = load_cell_supernet(path)
    if resolution not in (None, found.space.resolution):
        raise InvalidInputError(
            f"these weights are for images of {found.space.resolution} pixels, but got "
            f"resolution={resolution}: leave it out."
        )
    return found


def _hat(path: Path, resolution: int | None, space: SearchSpace | None) -> Supernet:
    if resolution is not None:
        raise InvalidInputError(
            f"these weights are for sentences, but got resolution={resolution}: leave it out."
        )
    if space is None or isinstance(space, SuperTransformer):
        return load_hat(path, space)
    raise InvalidInputError(
        f"these weights are of a SuperTransformer, but the space is {space.name!r}: name one, for "
        "example supertransformer:positions=640, or leave it out."
    )


def _nasvit(path: Path, resolution: int | None, space: SearchSpace | None) -> Supernet:
    _told_by_weights(space)
    return load_nasvit(path) if resolution is None else load_nasvit(path, resolution=resolution)


def _told_by_weights(space: SearchSpace | None) -> None:
    if space is not None:
        raise InvalidInputError(
            f"these weights tell their space, but got {space.name!r}: leave it out."
        )


PUBLIC: Mapping[str, Loader] = {
    "once-for-all": _once_for_all,
    "nasbench201": _cells,
    "hat": _hat,
    "nasvit": _nasvit,
}
