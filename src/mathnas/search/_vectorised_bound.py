"""The numpy solver's lower bound on A - u F^p over a box: Lagrangian relaxation of the limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mathnas.metrics import Floats
from mathnas.search._vectorised_box import Box, Terms
from mathnas.space import Indices

_MOST_STALE = 4  # steps without a better bound before they are made smaller
_LEAST_STEP = 1e-2
_DEFLECTION = 0.4


@dataclass(frozen=True)
class Line:
    """A linear function of F, ``constant + slope * F``, nowhere above -u F^p on an interval."""

    constant: float
    slope: float


@dataclass(frozen=True)
class Bound:
    """The bound of a box for its multipliers.

    Attributes:
        value: no choice of the box has a smaller A - u F^p.
        reduced: per candidate, how much choosing it lifts the bound.
        picked: the candidates that attain it.
    """

    value: float
    reduced: Floats
    picked: Indices


def line_below(terms: Terms, ratio: float, low: float, high: float, at: float) -> Line:
    """The line for the ratio u: exact for p = 0 and 1; else the tangent at `at` where u >= 0, and
    the secant over the interval where u < 0, since -u F^p is then concave."""
    p = terms.power
    if p == 0.0:
        return Line(-ratio, 0.0)
    if p == 1.0:
        return Line(0.0, -ratio)
    if ratio >= 0:
        at = min(max(at, low), high)
        slope = p * at ** (p - 1.0)
        return Line(-ratio * (at**p - slope * at), -ratio * slope)
    start = low**p
    slope = (high**p - start) / (high - low) if high > low * (1 + 1e-12) else 0.0
    return Line(-ratio * (start - slope * low), -ratio * slope)


class Relaxation:
    """Bounds of boxes; a better choice that turns up on the way goes to `offer`.

    Args:
        offer: takes a choice that meets the limits up to rounding, and returns the ratio to beat.
        tick: called now and then; raises where the time is up.
    """

    def __init__(
        self, terms: Terms, offer: Callable[[Indices], float], tick: Callable[[], None]
    ) -> None:
        self._terms = terms
        self._offer = offer
        self._tick = tick
        self._macs = terms.middle_macs  # F of the last relaxed choice: where a tangent is laid

    def improve(self, box: Box, ratio: float, steps: int) -> float:
        """Improve the box's multipliers by deflected Polyak steps; returns the ratio to beat, which
        falls when a better choice is met: Dinkelbach's iteration happens here."""
        terms, power = self._terms, self._terms.power
        low, high = box.macs_range(terms)
        flat, base = box.flat(), box.sums
        rows, width = box.ids.shape
        firsts = np.arange(0, rows * width, width)
        bounds = box.bounds.tolist()
        multipliers, best_multipliers = box.multipliers, box.multipliers
        direction = [0.0] * len(bounds)
        best, step, stale = -math.inf, 1.0, 0
        line = line_below(terms, ratio, low, high, self._macs)
        for _ in range(steps):
            self._tick()
            priced = np.array([1.0, line.slope, *multipliers]) @ flat
            picked = priced.reshape(rows, width).argmin(axis=1)
            picked += firsts
            cost, macs, *used = (base + np.add.reduce(flat.take(picked, axis=1), axis=1)).tolist()
            excess = [own - most for own, most in zip(used, bounds, strict=True)]
            value = cost + line.constant + line.slope * macs
            value += sum(m * e for m, e in zip(multipliers, excess, strict=True))
            seen = ratio
            if cost < ratio * macs**power and max(excess, default=0.0) <= 0.0:
                ratio = self._offer(box.completed(box.ids.ravel()[picked]))
            if value > best:
                if value > best + 1e-3 * abs(best):
                    stale = 0
                best, best_multipliers, self._macs = value, multipliers, macs
            else:
                stale += 1
                if stale >= _MOST_STALE:
                    step, stale, multipliers = 0.6 * step, 0, best_multipliers
                    direction = [0.0] * len(bounds)
                    if terms.curved and ratio >= 0.0 and not box.depth:  # move the tangent
                        line = line_below(terms, ratio, low, high, self._macs)
            if ratio != seen:  # the bound is on another function now
                line = line_below(terms, ratio, low, high, self._macs)
                best, step = -math.inf, max(step, 0.5)
                continue
            if best >= -terms.cut:
                break
            length = 0.0
            for k, own in enumerate(excess):
                gradient = 0.0 if multipliers[k] <= 0.0 and own < 0.0 else own
                direction[k] = gradient + _DEFLECTION * direction[k]
                length += direction[k] ** 2
            if length < 1e-18 or step < _LEAST_STEP:
                break
            move = step * max(1e-9, -value) / length
            multipliers = [
                max(0.0, m + move * d) for m, d in zip(multipliers, direction, strict=True)
            ]
        box.multipliers = best_multipliers
        return ratio

    def bound(self, box: Box, ratio: float) -> Bound:
        """The bound and reduced costs for the box's multipliers."""
        low, high = box.macs_range(self._terms)
        line = line_below(self._terms, ratio, low, high, self._macs)
        factors = np.array([1.0, line.slope, *box.multipliers])
        priced = (factors @ box.flat()).reshape(box.ids.shape)
        picked = priced.argmin(axis=1)
        rows = np.arange(len(picked))
        least = priced[rows, picked]
        value = line.constant + float(factors @ box.sums) + float(least.sum())
        value -= float(factors[2:] @ box.bounds)
        return Bound(value, priced - least[:, None], box.ids[rows, picked])

    def secant_error(self, ratio: float, low: float, high: float) -> float:
        """How far the secant lies below -u F^p at most, for u < 0."""
        p = self._terms.power
        slope = (high**p - low**p) / (high - low)
        worst = (slope / p) ** (1.0 / (p - 1.0))
        return float(-ratio * (worst**p - low**p - slope * (worst - low)))

    def splits_below(self, middle: float) -> bool:
        """Whether the last relaxed choice has less MACs than this."""
        return self._macs <= middle
