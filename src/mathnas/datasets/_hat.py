"""Reader of the HAT latency data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mathnas.datasets._columns import numbers, read_columns
from mathnas.datasets.registry import dataset_named, fetch
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.space import Floats

_SUFFIX = "_all.csv"
_FEATURES = 10
_TARGETS = (
    *("latency_mean_encoder", "latency_mean_decoder"),
    *("latency_std_encoder", "latency_std_decoder"),
)


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """Measurements by features of a network, where the network itself is not known.

    Attributes:
        name: task and device.
        feature_names: k names.
        features: shape (n, k).
        target_names: t names.
        targets: shape (n, t), in ms.
    """

    name: str
    feature_names: tuple[str, ...]
    features: Floats
    target_names: tuple[str, ...]
    targets: Floats

    def column(self, name: str) -> Floats:
        """A feature or a target by name, shape (n,).

        Raises:
            InvalidInputError: there is none of this name.
        """
        if name in self.feature_names:
            return self.features[:, self.feature_names.index(name)]
        if name in self.target_names:
            return self.targets[:, self.target_names.index(name)]
        known = ", ".join((*self.feature_names, *self.target_names))
        raise InvalidInputError(f"the table {self.name} has {known}, but got {name!r}.")


def hat_names() -> tuple[str, ...]:
    """Which tables `hat` offers."""
    files = [file.name for file in dataset_named("hat").files]
    return tuple(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX))


def hat(name: str) -> FeatureTable:
    """Encoder and decoder latency (ms, mean and standard deviation) of 2,000 transformers.

    A row tells ten features of a network, with choices averaged over layers: which layer has which
    block is not known, so there is no space to evaluate in, and block effects cannot be fitted.

    Args:
        name: task and device, one of `hat_names`.

    Raises:
        InvalidInputError: there is no such table.
        MissingDataError: the file is not on this machine and could not be downloaded.
        FileFormatError: the file is not the registered one.
    """
    if name not in hat_names():
        raise InvalidInputError(f"HAT has the tables {', '.join(hat_names())}, but got {name!r}.")
    path = fetch("hat", name + _SUFFIX)
    columns = read_columns(path)
    features = tuple(column for column in columns if column not in _TARGETS)
    if len(features) != _FEATURES:
        raise FileFormatError(f"{path}: {_FEATURES} features are expected, but got {features}.")
    return FeatureTable(
        name,
        features,
        np.array([numbers(path, columns, column) for column in features]).T,
        _TARGETS,
        np.array([numbers(path, columns, column) for column in _TARGETS]).T,
    )
