"""What parts take now, as a Gaussian model of their deviations from what was measured before.

The time of part a, of block j in node i, is ``t_a * exp(g + n_i + b_ij)``: t_a was measured before,
g is the load of the whole device, n_i what a node's blocks have in common, b_ij what one block has
for itself. On the log scale this is linear, noise that is proportional to a time is the same for
all parts, and no time is ever negative. g walks at random; n and b are stationary and forget: after
``memory_s`` seconds a deviation that was not observed again is 1/e of itself, and its uncertainty
never exceeds the prior's. Updates are the Kalman filter's, exact for the timings of parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.runtime.observation import PartTimes
from mathnas.space import Floats, Indices, Network


@dataclass(frozen=True, slots=True)
class Prior:
    """How far times are expected to move from those measured before, on the log scale.

    Attributes:
        load: standard deviation of g at the start, and what a change of the load adds to it.
        drift: of g, in one second without a change.
        node: standard deviation of n_i.
        block: standard deviation of b_ij.
        memory_s: seconds after which a deviation n or b has decayed to 1/e.

    Raises:
        InvalidInputError: a number is not positive and finite.
    """

    load: float = 0.5
    drift: float = 0.03
    node: float = 0.1
    block: float = 0.05
    memory_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("load", "drift", "node", "block", "memory_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidInputError(f"{name} is positive and finite, but got {value}.")


class PartModel:
    """The times of all parts that compute something, with their covariance.

    The state is g, then ``n_i + b_ij`` of each part; what two parts of a node have in common stands
    in its covariance.

    Args:
        times: as measured before; parts of 0 ms stay at 0.
        prior: how far they move.

    Raises:
        InvalidInputError: a network takes no time.
    """

    def __init__(self, times: PartTimes, prior: Prior) -> None:
        self.times, self.prior = times, prior
        self._offline = times.flat
        space = times.space
        least = np.minimum.reduceat(times.blocks, space.offsets[:-1]).sum()
        if not times.stem + least + times.head > 0:
            raise InvalidInputError(
                "every network takes some time, but the fastest one of these parts takes 0 ms: "
                "give the times of stem and head."
            )
        parts = np.flatnonzero(self._offline > 0)
        # where in the state each part stands; 0 for parts that compute nothing
        self._places: Indices = np.zeros(len(self._offline), dtype=np.intp)
        self._places[parts] = 1 + np.arange(len(parts))
        nodes = np.concatenate([[-1], np.repeat(np.arange(space.num_nodes), space.sizes), [-2]])
        own = nodes[parts]
        self._spread = np.zeros((1 + len(parts), 1 + len(parts)))
        self._spread[1:, 1:] = prior.node**2 * (own[:, None] == own) + prior.block**2 * np.eye(
            len(parts)
        )
        self.mean: Floats = np.zeros(1 + len(parts))
        self.covariance: Floats = self._spread.copy()
        self.covariance[0, 0] = prior.load**2

    # ---- what is known ----------------------------------------------------------------------

    @property
    def flat(self) -> Floats:
        """The expected time of every part, in the order of `PartTimes.flat`."""
        times: Floats = self._offline * np.exp(self.mean[0] + self.mean[self._places])
        return times

    @property
    def deviations(self) -> Floats:
        """The relative standard deviation of every part's time; 0 where nothing is computed."""
        cross, own = self.covariance[0], np.diagonal(self.covariance)
        variance = own[0] + 2 * cross[self._places] + own[self._places]
        found: Floats = np.sqrt(np.maximum(variance, 0.0)) * (self._places > 0)
        return found

    def latency(self, network: Network) -> tuple[float, float]:
        """The sum of a network's parts and its standard deviation, to first order, in ms."""
        times, weights = self._whole(network)
        total = float(times.sum())
        return total, total * math.sqrt(max(0.0, float(weights @ self.covariance @ weights)))

    # ---- what happens -----------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Let time pass: the load may have moved, and deviations fade."""
        self._fade(math.exp(-seconds / self.prior.memory_s))
        self.covariance[0, 0] += self.prior.drift**2 * seconds

    def change(self) -> None:
        """The load has changed: as if ``memory_s`` had passed, and g may be anywhere."""
        self._fade(math.exp(-1.0))
        self.covariance[0, 0] += self.prior.load**2

    def shift(self, load: float) -> None:
        """Tell all parts to take exp(load) times as long as was thought."""
        self.mean[0] += load

    def observe(
        self,
        network: Network,
        parts_ms: Sequence[float] | Floats,
        variances: Sequence[float] | Floats,
        *,
        shares: bool = False,
    ) -> None:
        """Take the times of a network's parts in.

        Args:
            parts_ms: m + 2 numbers, above 0 where something is computed.
            variances: of each one's noise, on the log scale.
            shares: whether they tell only how the whole is divided, not how long it takes.
        """
        parts = np.array(self.times.places(network))
        places = self._places[parts]
        taken = np.flatnonzero(places)
        rows = np.zeros((len(taken), len(self.mean)))
        rows[:, 0] = 1.0
        rows[np.arange(len(taken)), places[taken]] = 1.0
        offline = self._offline[parts[taken]]
        observed = np.log(np.asarray(parts_ms, dtype=float)[taken] / offline)
        noise = np.asarray(variances, dtype=float)[taken]
        gaps = observed - rows @ self.mean
        if shares:
            times = offline * np.exp(rows @ self.mean)
            weights = times / times.sum()
            rows, gaps = rows - weights @ rows, gaps - weights @ gaps
        self._update(rows, gaps, noise)

    def observe_whole(self, network: Network, total_ms: float, variance: float) -> None:
        """Take the sum of a network's parts in: one row, linear to first order."""
        times, weights = self._whole(network)
        gap = math.log(total_ms / float(times.sum()))
        self._update(weights[None, :], np.array([gap]), np.array([variance]))

    def _whole(self, network: Network) -> tuple[Floats, Floats]:
        """The parts' times, and what the log of their sum changes by with the state."""
        parts = self.times.places(network)
        places = self._places[parts]
        times = self._offline[parts] * np.exp(self.mean[0] + self.mean[places])
        weights = np.zeros(len(self.mean))
        weights[places] = times / times.sum()
        weights[0] = 1.0  # parts that compute nothing had put their 0 there
        return times, weights

    def _fade(self, kept: float) -> None:
        self.mean[1:] *= kept
        scale = np.full(len(self.mean), kept)
        scale[0] = 1.0
        self.covariance *= scale[:, None] * scale
        self.covariance += (1 - kept**2) * self._spread

    def _update(self, rows: Floats, gaps: Floats, noise: Floats) -> None:
        shared = rows @ self.covariance
        total = shared @ rows.T
        total[np.diag_indices_from(total)] += noise
        gain = np.linalg.solve(total, shared)
        self.mean += gaps @ gain
        self.covariance -= shared.T @ gain
        self.covariance += self.covariance.T
        self.covariance *= 0.5
