"""Which networks to evaluate next: the best predicted, the most promising, or drawn ones.

All that are proposed meet rules and declared limits, and are predicted to meet measured limits, or
to miss them by so little that they may: the best network often lies at its limit. They are distinct
in the space's canonical form.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from mathnas.metrics import Floats
from mathnas.search import Limit, Program, Status, solver_for
from mathnas.space import Network
from mathnas.table import BlockTable
from mathnas.trials import Trials

Choice = Literal["promising", "mean", "optimistic", "thompson"]
# limits are loosened by so many deviations: by the first, or, where no network is predicted to meet
# them then, by the next
_LOOSER = (0.84, 1.5, 2.5)
# shares of that which are tried, until enough of what is found is likely to meet them: the best
# predicted networks lie where limits are loosest, and the model may know them better than usual
_TIGHTER = (1.0, 0.5, 0.25, 0.0)
_OPTIMISM = 1.0  # deviations above the prediction
_SAMPLED = 64  # networks, for a usual deviation
_SECONDS = 10.0  # of a solve: early tables may be so alike in all nodes that proofs take for ever
_LISTED = 200_000  # spaces of so many networks are listed in a few milliseconds
_MOST_LISTED, _POOL = 512, 8  # candidates for each choice: there in all, elsewhere for each network
_MOST_ASKED = 4096


@dataclass(frozen=True)
class Proposal:
    """What to evaluate next.

    Attributes:
        networks: distinct and not evaluated yet, the most promising first.
        odds: of all that were looked at, the largest odds that a measurement meets the limits and
            is better than that of the best network so far.
        proven: whether there are no others, where there are fewer than were asked for.
    """

    networks: tuple[Network, ...]
    odds: float
    proven: bool


def propose(
    trials: Trials,
    table: BlockTable,
    count: int,
    choice: Choice = "promising",
    rng: np.random.Generator | None = None,
    *,
    stale: bool = False,
) -> Proposal:
    """The next networks to evaluate.

    Args:
        table: fitted to what was measured, with uncertainty.
        choice: ``mean``: the best predicted. ``promising``: these too, but where the search is
            stale, every second one is, of these, the most likely to meet the limits and to be
            better than the best one so far. ``optimistic``: of the best predicted, those of which
            the prediction and one deviation together are best. ``thompson``: the best of each of
            `count` tables drawn from the posterior; where the model is a process, of draws over the
            best predicted.
        rng: for drawing.
        stale: whether the last round brought nothing better.
    """
    if choice == "promising" and not stale:
        choice = "mean"
    return _Search(trials, table, rng or np.random.default_rng(0)).propose(count, choice)


class _Search:
    def __init__(self, trials: Trials, table: BlockTable, rng: np.random.Generator) -> None:
        self.trials, self.table, self.rng = trials, table, rng
        self.name, self.sign = trials.objective.name, 1.0 if trials.upwards else -1.0
        self.limits = trials.limits()
        self.measured = [limit for limit in self.limits if limit.metric.name in trials.measured]
        self.known = {*trials.held(), *trials.given_up()}
        # a network that is the same as a known one is worth an evaluation where that broke a limit
        self.same = {table.space.canonical(network) for network in trials.feasible()}
        sample = table.space.sample(_SAMPLED, seed=0, distinct=False)
        self.width = {
            limit: float(np.median(table.deviation(sample, limit.metric.name)))
            for limit in self.measured
        }

    def propose(self, count: int, choice: Choice) -> Proposal:
        pooled = _MOST_LISTED if self.table.space.num_networks <= _LISTED else _POOL * count
        proven, pool, limits = True, dict[Network, float](), list(self.limits)
        for looser in _LOOSER if self.measured else _LOOSER[:1]:
            for share in _TIGHTER:
                limits = self._loosened(share * looser)
                found, finished = self._new(self._program(self.table, limits), pooled)
                proven &= finished
                # what tighter limits add is predicted worse
                pool |= {
                    n: odds for n, odds in self._likely(found, looser).items() if n not in pool
                }
                if len(pool) >= count or len(found) < pooled:
                    break
            if pool:
                break
        if not pool:
            return Proposal((), 0.0, proven)
        odds = self._odds(pool)
        chosen = self._choose(list(pool), odds, looser, limits, count, choice)
        return Proposal(tuple(chosen), float(odds.max()), proven)

    def _likely(self, networks: Sequence[Network], looser: float) -> dict[Network, float]:
        """Those predicted to meet the measured limits, or to miss them by so many deviations, and
        how likely each meets them."""
        likely = zip(networks, self._likelihoods(networks).tolist(), strict=True)
        least = NormalDist().cdf(-looser)
        return {network: odds for network, odds in likely if odds >= least}

    def _loosened(self, looser: float) -> list[Limit]:
        sign = {"<=": looser, ">=": -looser}
        return [
            replace(limit, value=limit.value + sign[limit.sense] * self.width.get(limit, 0.0))
            for limit in self.limits
        ]

    def _program(self, table: BlockTable, limits: Sequence[Limit]) -> Program:
        return Program(table, self.name, self.trials.upwards, limits, self.trials.rules)

    def _new(
        self, program: Program, count: int, without: Collection[Network] = ()
    ) -> tuple[list[Network], bool]:
        """The best networks that are new, and not the same as one of others, at most `count`; and
        whether that is proven, or they are what was found in the time."""
        solver, asked = solver_for(program, "auto"), count
        space = program.space
        barred = self.same | {space.canonical(network) for network in without}
        while True:
            solution = solver.solve(program, count=asked, time_limit=_SECONDS)
            proven = solution.status in (Status.OPTIMAL, Status.INFEASIBLE)
            found: dict[Network, Network] = {}  # by canonical form
            for network in solution.networks:
                same = space.canonical(network)
                if network not in self.known and same not in barred:
                    found.setdefault(same, network)
            enough = len(found) >= count or len(solution.networks) < asked
            if enough or (found and not proven) or asked >= _MOST_ASKED:
                return list(found.values())[:count], proven and enough
            asked += asked - len(found) + count

    def _choose(
        self,
        pool: list[Network],
        odds: Floats,
        looser: float,
        limits: Sequence[Limit],
        count: int,
        choice: Choice,
    ) -> list[Network]:
        """Of a pool, the best predicted first."""
        column = self.table.column(self.name)
        if choice == "thompson" and column.process is None:
            return self._drawn(looser, limits, count)
        if choice == "thompson":
            assert column.process is not None  # the case above
            features = self.table.space.features(np.array(pool))
            draws = self.sign * column.process.sample(features, count, self.rng)
            chosen: list[Network] = []
            for draw in draws:
                order = np.argsort(-draw, kind="stable").tolist()
                chosen += [pool[p] for p in order if pool[p] not in chosen][:1]
            return chosen
        if choice == "mean":
            return self._different(pool, count)
        scores = odds
        if choice == "optimistic":
            deviations = self.table.response_deviation(pool, self.name)
            scores = self.sign * self.table.responses(pool, self.name) + _OPTIMISM * deviations
        # the order of the pool, the best predicted first, decides between equals
        ranked = [pool[place] for place in np.argsort(-scores, kind="stable").tolist()]
        if choice == "promising":
            both = (self._different(order, len(pool)) for order in (pool, ranked))
            ranked = list(dict.fromkeys(itertools.chain(*zip(*both, strict=True))))
        return self._different(ranked, count)

    def _different(self, ranked: Sequence[Network], count: int) -> list[Network]:
        """The first that the model tells apart, and where these are too few, others: of networks
        that are the same to it one evaluation tells nearly all there is to learn."""
        column, space = self.table.column(self.name), self.table.space
        networks = np.array(ranked)
        seen: npt.NDArray[np.generic] = space.formed(networks, column.network_form)
        if column.process is not None:
            seen = space.features(networks)
        first: dict[bytes, int] = {}
        for place, row in enumerate(seen):
            first.setdefault(row.tobytes(), place)
        places = dict.fromkeys([*first.values(), *range(len(ranked))])
        return [ranked[place] for place in list(places)[:count]]

    def _drawn(self, looser: float, limits: Sequence[Limit], count: int) -> list[Network]:
        """Of each of `count` drawn tables, the best new network that may meet the limits."""
        chosen: list[Network] = []
        for _ in range(count):
            program = self._program(self.table.drawn(self.name, self.rng), limits)
            found = self._new(program, _POOL, chosen)[0]
            chosen += list(self._likely(found, looser))[:1]
        return chosen

    def _likelihoods(self, networks: Sequence[Network]) -> Floats:
        """How likely a measurement of each network meets each of the measured limits: the least."""
        found = np.ones(len(networks))
        for limit in self.measured if networks else ():
            name = limit.metric.name
            room = limit.value - self.table.predict(networks, name)
            room = room if limit.sense == "<=" else -room
            deviations = self.table.deviation(networks, name)
            found = np.minimum(found, _below(room, deviations))
        return found

    def _odds(self, pool: Mapping[Network, float]) -> Floats:
        """How likely measurements of networks meet the measured limits and are better than that of
        the best one so far.

        Args:
            pool: networks, and how likely each meets the limits.
        """
        networks, likely = list(pool), np.array(list(pool.values()))
        _, best = self.trials.best()
        if best is None:
            return likely
        column = self.table.column(self.name)
        assert column.uncertainty is not None  # it is a regression
        responses = self.table.responses(networks, self.name)
        noises = column.uncertainty.noises(column.metric.scale.inverse(responses))
        deviations = np.hypot(self.table.response_deviation(networks, self.name), noises)
        gains = self.sign * (responses - column.metric.scale.forward(np.array([best])))
        return likely * _below(gains, deviations)


def _below(gains: Floats, deviations: Floats) -> Floats:
    """The odds that a normal variable of mean 0 stays below each gain."""
    pairs = zip(gains.tolist(), deviations.tolist(), strict=True)
    normal = NormalDist()
    return np.array([normal.cdf(g / d) if d > 0 else float(g >= 0) for g, d in pairs])
