"""What is known of a network's value besides its prediction: how far it may be off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mathnas._records import Record
from mathnas.errors import InvalidInputError
from mathnas.scales import Floats
from mathnas.space import Indices, SearchSpace

_CHUNK = 4096  # networks at once
_DIGITS = 9  # of numbers in files: rows may cancel, so more than a deviation needs


@dataclass(frozen=True)
class Posterior:
    """The covariance of block effects and pair entries, as a root.

    With phi the indicator of a network's blocks, and of its pairs' entries in the order of the
    column's pairs, the response of the network has the standard deviation
    ``sqrt(|factor^T phi - centre|^2 + constant)``, and a new measurement varies by `noise` besides,
    times ``|value| / noise_at`` where errors are relative.

    Attributes:
        factor: shape (blocks + pair entries, rank).
        centre: shape (rank,).
        constant: variance of the constant, at least 0.
        noise: standard deviation of one measurement around the model, at least 0.
        noise_at: the value at which `noise` is that, where it is proportional to the value; None
            where it is the same everywhere.

    Raises:
        InvalidInputError: the shapes do not fit, or a number is not finite or negative.
    """

    factor: Floats
    centre: Floats
    constant: float
    noise: float
    noise_at: float | None = None

    def __post_init__(self) -> None:
        if self.factor.ndim != 2 or self.centre.shape != self.factor.shape[1:]:
            raise InvalidInputError(
                "a posterior has a factor of shape (entries, rank) and a centre of shape (rank,), "
                f"but got {self.factor.shape} and {self.centre.shape}."
            )
        if not np.isfinite(self.factor).all() or not np.isfinite(self.centre).all():
            raise InvalidInputError(
                "a posterior's factor and centre are finite, but these are not."
            )
        if not 0 <= self.constant < np.inf or not 0 <= self.noise < np.inf:
            raise InvalidInputError(
                "a posterior's variances are finite and at least 0, but got "
                f"constant={self.constant} and noise={self.noise}."
            )
        if self.noise_at is not None and not 0 < self.noise_at < np.inf:
            raise InvalidInputError(
                f"relative noise is stated at a positive value, but got {self.noise_at}."
            )

    def noises(self, values: Floats) -> Floats:
        """Standard deviations of one measurement of networks with these predicted values."""
        if self.noise_at is None:
            return np.full(len(values), self.noise)
        return self.noise * np.abs(values) / self.noise_at

    def draw(self, rng: np.random.Generator) -> Floats:
        """A joint draw of how far effects and pair entries are off their means, shape (entries,);
        the constant, which is the same for all networks, is left where it is."""
        found: Floats = self.factor @ rng.standard_normal(self.factor.shape[1])
        return found

    def deviations(
        self, space: SearchSpace, networks: Indices, pairs: Sequence[tuple[int, int]]
    ) -> Floats:
        """Standard deviations of the responses of networks of shape (k, m), without `noise`.

        Args:
            pairs: the nodes of each pair, in the column's order.
        """
        found = np.empty(len(networks))
        for start in range(0, len(networks), _CHUNK):
            part = networks[start : start + _CHUNK].astype(np.intp)
            total = np.broadcast_to(-self.centre, (len(part), len(self.centre))).copy()
            for node, offset in enumerate(space.offsets[:-1]):
                total += self.factor[offset + part[:, node]]
            row = space.num_blocks
            for first, second in pairs:
                size = space.sizes[second]
                total += self.factor[row + part[:, first] * size + part[:, second]]
                row += space.sizes[first] * size
            found[start : start + _CHUNK] = np.sqrt((total**2).sum(axis=1) + self.constant)
        return found

    def to_dict(self) -> dict[str, object]:
        """For JSON, to nine digits."""
        relative = {} if self.noise_at is None else {"noise_at": self.noise_at}
        return {
            "factor": [_short(row) for row in self.factor],
            "centre": _short(self.centre),
            "constant": self.constant,
            "noise": self.noise,
            **relative,
        }

    @classmethod
    def from_record(cls, record: Record) -> Posterior:
        """Read what `to_dict` wrote.

        Raises:
            FileFormatError: the record is not that.
            InvalidInputError: see the class.
        """
        rows = record.rows("factor")
        return cls(
            np.array(rows, dtype=np.float64).reshape(len(rows), -1 if rows and rows[0] else 0),
            np.array(record.numbers("centre"), dtype=np.float64),
            record.get("constant", float),
            record.get("noise", float),
            record.get("noise_at", float) if "noise_at" in record else None,
        )


def _short(values: Floats) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]
