"""Two columns of one metric as one: a weighted mean of their predictions, with its uncertainty.

The weight is the one under which the mean is nearest to values that neither column was fitted to
(stacking; Wolpert 1992, Breiman 1996), between 0 and 1, and by a standard error nearer to the first
column, so that this one stays where the evidence against it is thin. As a distribution the mean
stands for the mixture of both, whose variance is that of each, weighted, and of what lies between
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mathnas.metrics import Floats
from mathnas.posterior import Posterior
from mathnas.table import BlockEffects, PairEffects

_FREEDOM = 4.0  # of Student's t distribution, of which errors are drawn
_MOST_ROUNDS, _CLOSE = 20, 1e-3
_SURE = 10.0  # values that would agree with the stated deviations are taken as seen
_NEGLIGIBLE = 1e-9  # of a unit


@dataclass(frozen=True)
class HeldOut:
    """What a model says of networks that it was not fitted to, each of shape (k,).

    Attributes:
        values: predictions.
        deviations: the standard deviations of measurements around them.
    """

    values: Floats
    deviations: Floats

    def mixed(self, other: HeldOut, weight: float) -> HeldOut:
        """This with the weight, and the other with the rest of it."""
        between = weight * (1 - weight) * (self.values - other.values) ** 2
        variance = weight * self.deviations**2 + (1 - weight) * other.deviations**2 + between
        values: Floats = weight * self.values + (1 - weight) * other.values
        return HeldOut(values, np.sqrt(variance))


def weight_of(measured: Floats, first: HeldOut, second: HeldOut, unit: Floats) -> float:
    """The weight of the first: the largest that is no more than a standard error above the one
    under which the mean is nearest to the measurements (Breiman et al., 1984).

    Args:
        measured: shape (k,).
        unit: shape (k,): in proportion to each measurement's noise.
    """
    apart = (first.values - second.values) / unit
    ahead = (measured - second.values) / unit
    if float(np.abs(apart).max()) <= _NEGLIGIBLE * float(np.abs(measured / unit).mean()):
        return 1.0
    weight, counts = 1.0, np.ones(len(measured))
    for _ in range(_MOST_ROUNDS):
        before = weight
        weight = float((counts * apart * ahead).sum() / (counts * apart**2).sum())
        off = np.abs(ahead - weight * apart)
        larger = heavy_tailed(off)
        if larger is None or abs(weight - before) < _CLOSE:
            break
        # a measurement that is far from both tells little of which is better
        counts = 1 / larger
    scale = float((counts * off**2).sum()) / (len(off) - 1)
    information = float((counts * apart**2).sum()) * (_FREEDOM + 1) / (_FREEDOM + 3)
    error = math.sqrt(scale / information)  # of the maximum of a t distribution's likelihood
    return min(max(weight + error, 0.0), 1.0)


def heavy_tailed(off: Floats) -> Floats | None:
    """By how much the variance of each error is larger than the common one, were they drawn from
    Student's t distribution; None where most are 0.

    Args:
        off: shape (k,): how large the errors are, at least 0.
    """
    usual = float(np.median(off)) * 1.4826  # of a normal distribution
    if not usual:
        return None
    larger: Floats = (_FREEDOM + (off / usual) ** 2) / (_FREEDOM + 1)
    return larger


def calibration(measured: Floats, held_out: HeldOut) -> float:
    """By how much deviations are to be multiplied, at least 1, so that measurements are as far off
    as these say.

    With a scaled inverse chi-squared prior of the factor's square around 1, this is the root of its
    posterior mean: what few measurements leave unknown of it widens too. Narrower is nothing: that
    few measurements are near may be chance.
    """
    deviations = held_out.deviations
    if not (deviations > 0).all():
        return 1.0
    square = ((measured - held_out.values) / deviations) ** 2
    return max(math.sqrt((_SURE + float(square.sum())) / (_SURE + len(square) - 2)), 1.0)


def mixture(first: BlockEffects, second: BlockEffects, weight: float) -> BlockEffects:
    """The column of the weighted mean.

    Args:
        first: without pairs, of the same network form as the second, and with effects relative to
            the same blocks; both have a posterior.
        weight: of the first, between 0 and 1; the second's is the rest.
    """
    rest = 1.0 - weight
    apart = first.effects - second.effects
    spread = weight * first.spread**2 + rest * second.spread**2 + weight * rest * apart**2
    return replace(
        first,
        base=weight * first.base + rest * second.base,
        effects=weight * first.effects + rest * second.effects,
        spread=np.sqrt(spread),
        pairs=tuple(replace(pair, effects=rest * pair.effects) for pair in second.pairs),
        posterior=_mixed(first, second, weight),
    )


def _mixed(first: BlockEffects, second: BlockEffects, weight: float) -> Posterior:
    one, other = first.posterior, second.posterior
    assert one is not None  # see `mixture`
    assert other is not None
    rest = 1.0 - weight
    entries = len(other.factor)
    lacking = np.zeros((entries - len(one.factor), one.factor.shape[1]))
    between = math.sqrt(weight * rest)
    apart = np.concatenate([first.effects - second.effects, -_flat(second.pairs)])
    roots = (
        (math.sqrt(weight), np.vstack([one.factor, lacking]), one.centre),
        (math.sqrt(rest), other.factor, other.centre),
        (between, apart[:, None], np.array([second.base - first.base])),
    )
    factor = np.hstack([share * own for share, own, _ in roots])
    centre = np.concatenate([share * own for share, _, own in roots])
    # the same products of rows from no more columns than rows: what is kept in files
    _, root = np.linalg.qr(np.vstack([factor, centre]).T)
    return replace(
        one,
        factor=root[:, :-1].T,
        centre=root[:, -1],
        constant=weight * one.constant + rest * other.constant,
        noise=math.sqrt(weight * one.noise**2 + rest * other.noise**2),
    )


def _flat(pairs: Sequence[PairEffects]) -> Floats:
    return np.concatenate([np.zeros(0), *(pair.effects.ravel() for pair in pairs)])


def widened(column: BlockEffects, factor: float) -> BlockEffects:
    """The column with all its deviations multiplied."""
    known = column.posterior
    assert known is not None  # it has deviations
    posterior = replace(
        known,
        factor=known.factor * factor,
        centre=known.centre * factor,
        constant=known.constant * factor**2,
        noise=known.noise * factor,
    )
    return replace(column, spread=column.spread * factor, posterior=posterior)
