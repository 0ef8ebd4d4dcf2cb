"""Boxes of the numpy solver: sets of choices, and what the limits alone exclude from them.

Candidates of open nodes stand in a rectangle (open nodes x most candidates), so that one numpy call
serves all of them. Short rows are padded with their first candidate, which changes no minimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mathnas.metrics import Floats
from mathnas.search._structure import Structure
from mathnas.search.program import Program
from mathnas.space import Indices

Mask = npt.NDArray[np.bool_]
_TOLERANCE = 1e-9
_ROUNDING = 1e-11  # of sums of scaled rows, generously


class Terms:
    """A program's numbers in one matrix, scaled so that one tolerance serves every table.

    Attributes:
        values: shape (2 + K, candidates): costs, MACs, and the rows of the limits that can be
            broken at all. For 0 < p < 1 the last two rows are F and -F, whose bounds are the
            interval of a box.
        bounds: shape (K,): above it a limit is broken.
        surely: shape (K,): up to it a limit is met; what lies between is decided exactly.
        limits: K without the rows of F.
        fixed_macs, power, unit: F's fixed part, p, and what a scaled ratio is multiplied with.
        span: of F, in units of the scaled F.
        cut: A - u F^p is at most minus this for a choice that is worth finding.
        worst: a ratio clearly above that of every choice.
    """

    def __init__(self, program: Program, structure: Structure) -> None:
        starts = program.offsets[:-1]
        bounds, surely = structure.bounds(program)
        weights = program.rows.weights
        active = np.maximum.reduceat(weights, starts, axis=1).sum(axis=1) > surely
        weights, bounds, surely = weights[active], bounds[active], surely[active]
        raw = np.array([program.costs, program.macs])
        low, high = (pick.reduceat(raw, starts, axis=1) for pick in (np.minimum, np.maximum))
        sizes = np.maximum(np.abs(low[0]), np.abs(high[0]))
        self.power = program.power
        cost_unit = float(sizes.max()) or 1.0
        least, most = (program.fixed_macs + float(x[1].sum()) for x in (low, high))
        mac_unit = most if self.power else 1.0
        least, most, self.fixed_macs = (v / mac_unit for v in (least, most, program.fixed_macs))
        raw /= np.array([[cost_unit], [mac_unit]])
        self.unit = float(cost_unit / mac_unit**self.power)
        self.limits = len(bounds)
        self.curved = 0.0 < self.power < 1.0
        self.span = (most - least) or 1.0
        rows = [raw, weights]
        if self.curved:
            rows.append(np.array([raw[1], -raw[1]]) / self.span)
            own = np.array([most - self.fixed_macs, self.fixed_macs - least]) / self.span
            bounds = np.concatenate([bounds, own + _TOLERANCE])
            surely = np.concatenate([surely, own + math.inf])
        self.values = np.concatenate(rows)
        self.bounds, self.surely = bounds, surely
        # a tenth of the guarantee, and no less than the rounding of a sum of costs
        spread, size = float((high - low)[0].sum()), float(sizes.sum())
        self.cut = max(1e-15, max(0.1 * _TOLERANCE * spread, 1e-15 * size) / cost_unit)
        if not self.power:
            self.cut = max(self.cut, 0.999 * structure.cost_step / cost_unit)
        highest = float(high[0].sum()) / cost_unit
        worst = highest / (least if highest > 0 else most) ** self.power
        self.worst = float(worst + (1e-3 + 2 * self.cut) / least**self.power)
        self.middle_macs = (least + most) / 2


@dataclass
class Box:
    """Choices: some nodes are fixed, the others open.

    Attributes:
        choice: shape (nodes,): the fixed candidates, -1 where open.
        sums: shape (2 + K,): the terms summed over fixed candidates; F with its fixed part.
        nodes: shape (N,): the open nodes.
        ids: shape (N, W): their candidates, ascending, padded where `real` is False.
        terms: shape (2 + K, N, W): the terms of `ids`.
        bounds: shape (K,); boxes differ in the rows that hold F.
        multipliers: of the limits.
        bound: no choice has a smaller ratio.
        depth: splits above it.
    """

    choice: Indices
    sums: Floats
    nodes: Indices
    ids: Indices
    real: Mask
    terms: Floats
    bounds: Floats
    multipliers: list[float]
    bound: float
    depth: int

    @classmethod
    def whole(cls, program: Program, terms: Terms, bound: float) -> Box:
        """All choices."""
        sizes = np.diff(program.offsets)
        places = np.arange(int(sizes.max()))
        real = places < sizes[:, None]
        ids = program.offsets[:-1, None] + np.where(real, places, 0)
        sums = np.zeros(len(terms.values))
        sums[1] = terms.fixed_macs
        box = cls(
            np.full(program.num_nodes, -1, dtype=np.intp),
            sums,
            np.arange(program.num_nodes),
            ids,
            real,
            terms.values[:, ids],
            terms.bounds,
            [0.0] * len(terms.bounds),
            bound,
            0,
        )
        if (sizes == 1).any():
            box._settle(sizes)
        return box

    def child(self) -> Box:
        """A copy, one split deeper; arrays are replaced when they change, never written to."""
        return replace(self, depth=self.depth + 1)

    def flat(self) -> Floats:
        """The terms with candidates in one axis."""
        return self.terms.reshape(len(self.terms), self.ids.size)

    def keep(self, mask: Mask) -> bool:
        """Keep candidates; nodes with a single one become fixed. False where a node has none."""
        mask = mask & self.real
        counts = np.add.reduce(mask, axis=1)
        if not counts.all():
            return False
        width = int(counts.max())
        order = np.argsort(~mask, axis=1, kind="stable")[:, :width]
        real = np.arange(width) < counts[:, None]
        order = np.where(real, order, order[:, :1])
        order += np.arange(0, mask.size, mask.shape[1])[:, None]
        self.terms = self.flat().take(order, axis=1)
        self.ids = self.ids.ravel().take(order)
        self.real = real
        if (counts == 1).any():
            self._settle(counts)
        return True

    def _settle(self, counts: Indices) -> None:
        alone, several = np.flatnonzero(counts == 1), np.flatnonzero(counts > 1)
        self.choice = self.choice.copy()
        self.choice[self.nodes[alone]] = self.ids[alone, 0]
        self.sums = self.sums + self.terms[:, alone, 0].sum(axis=1)
        self.nodes = self.nodes[several]
        self.ids, self.real = self.ids[several], self.real[several]
        self.terms = self.terms[:, several]

    def completed(self, picked: Indices) -> Indices:
        """The choice with a candidate for each open node."""
        choice: Indices = self.choice.copy()
        choice[self.nodes] = picked
        return choice

    def macs_range(self, terms: Terms) -> tuple[float, float]:
        """The range of F."""
        if not terms.power:
            return 1.0, 1.0
        macs, fixed = self.terms[1], float(self.sums[1])
        low = fixed + float(macs.min(axis=1).sum())
        high = fixed + float(macs.max(axis=1).sum())
        if terms.curved:
            most, least = self.bounds[-2:].tolist()
            high = min(high, terms.fixed_macs + most * terms.span)
            low = min(max(low, terms.fixed_macs - least * terms.span), high)
        return low, high

    def tighten(self) -> bool:
        """Drop candidates that break a limit even with the lightest ones elsewhere; False where no
        choice is left."""
        while len(self.nodes) and len(self.bounds):
            weights = self.terms[2:]
            lightest = weights.min(axis=2)
            room = self.bounds + _ROUNDING - self.sums[2:] - lightest.sum(axis=1)
            if room.min() < 0:
                return False
            fits = (weights <= (lightest + room[:, None])[:, :, None]).all(axis=0)
            if fits.all():
                return True
            if not self.keep(fits):
                return False
        return bool((self.sums[2:] <= self.bounds + _ROUNDING).all())

    def tighten_together(self, share: Floats, steps: int) -> tuple[float, Floats] | None:
        """As `tighten`, for a weighted sum of the limits: several together often exclude what none
        excludes alone.

        The weights are sought by multiplicative updates.

        Returns:
            How far the lightest choice is above the summed bound (negative: there is room), and the
            weights; None where no choice is left.
        """
        flat = self.flat()[2:]
        rows, width = self.ids.shape
        firsts = np.arange(0, rows * width, width)
        base = self.sums[2:] - self.bounds
        best, best_share = -math.inf, share
        for step in range(steps):
            mixed = share @ flat
            picked = mixed.reshape(rows, width).argmin(axis=1) + firsts
            excess = base + flat.take(picked, axis=1).sum(axis=1)
            value = float(share @ excess)
            if value > best:
                best, best_share = value, share
            if best > 1e-12:
                return None
            largest = float(np.abs(excess).max()) or 1.0
            share = np.maximum(1e-9, share) * np.exp(excess / largest / math.sqrt(1.0 + step))
            share = share / share.sum()
        mixed = (best_share @ flat).reshape(rows, width)
        kept = mixed - mixed.min(axis=1, keepdims=True) + best <= 1e-12
        if not kept.all() and not self.keep(kept):
            return None
        return best, best_share
