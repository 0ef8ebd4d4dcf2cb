"""The controller: keeps a goal by solving the 0-1 program on what blocks take now."""

from __future__ import annotations

import math
import time as clocks
from collections.abc import Sequence
from dataclasses import dataclass

from mathnas.errors import InvalidInputError
from mathnas.metrics import Direction
from mathnas.runtime.energy import EnergyAccount
from mathnas.runtime.goals import Goal
from mathnas.runtime.monitor import TAIL_RUNS, Monitor
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.runtime.policy import Decision, Policy, Reason, changed_nodes
from mathnas.runtime.window import Window
from mathnas.search import Limit, Program, Rule, Status, at_most_changes, solver_for
from mathnas.space import Network
from mathnas.table import BlockTable

_LATE_RUNS = 2  # in a row: where they tell of a change, the window is not waited for
_TAIL_MISSES = 10  # the tail's runs hold so many misses


@dataclass(frozen=True, slots=True)
class _Choice:
    """A network, and what was proven about it."""

    network: Network
    proven: bool


class Controller(Policy):
    """Serves the best predicted network that keeps the goal now.

    The life of a controller: after each window of runs its monitor says what every part takes now
    and how far single runs are above that. The controller solves anew

    - where the goal is, or will be, missed (`Reason.TOO_SLOW`, `Reason.ENERGY`), at once, and
      before the window is full where two late runs in a row tell of a change;
    - where the load has changed (`Reason.CHANGE`);
    - every ``period_s`` for a better network (`Reason.ROOM`).

    Each is an exact solve: the best quality among all executable networks whose latency now,
    with `caution` deviations of each part's time, stays below the deadline over the tail; that keep
    the floor and the energy budget; and that change no more nodes than the goal allows. Where there
    is none, the fastest serves (`Reason.UNREACHABLE`), until there is one again.

    Args:
        table: predictions of every executable network.
        times: of the resident parts on the quiet device.
        goal: to keep.
        quality: the metric to be best in; by default the one of the table of which more is better.
        latency: the metric that runs are measured in, in ms.
        caution: standard deviations of each part's time that a network has to spare: the less is
            known of a block, the more room it needs.
        monitor: by default one with its defaults.

    Raises:
        InvalidInputError: the goal cannot be kept by any network whatever the load, or a metric is
            missing, or the times are of another space.
    """

    name = "controller"

    def __init__(
        self,
        table: BlockTable,
        times: PartTimes,
        goal: Goal,
        *,
        quality: str | None = None,
        latency: str = "latency_ms",
        caution: float = 0.2,
        monitor: Monitor | None = None,
    ) -> None:
        if not (math.isfinite(caution) and caution >= 0):
            raise InvalidInputError(f"caution is finite and at least 0, but got {caution}.")
        self.table, self.caution, self.latency = table, caution, latency
        self.quality = _quality_of(table, quality)
        self._upwards = table.column(self.quality).metric.direction is Direction.MAXIMIZE
        self._check(goal)
        self._goal, self._asked = goal, goal
        tail_runs = max(TAIL_RUNS, math.ceil(_TAIL_MISSES / goal.miss_rate))
        self.monitor = monitor or Monitor(table, times, latency, tail_runs=tail_runs)
        self._energy = None if goal.energy is None else EnergyAccount(goal.energy, table)
        self._network: Network | None = None
        self._unreachable = False
        self._switched = self._searched = 0.0  # in the monitor's elapsed seconds
        self._late_runs = 0
        self._made: tuple[int, BlockTable] | None = None  # after how many windows

    @property
    def goal(self) -> Goal:
        """The goal that is kept now."""
        return self._goal

    @property
    def network(self) -> Network | None:
        """That serves by the last decision; None before `start`."""
        return self._network

    @property
    def unreachable(self) -> bool:
        """Whether no network met the goal at the last decision, so that the fastest serves."""
        return self._unreachable

    def set_goal(self, goal: Goal) -> None:
        """Another goal, from the next observation on; any thread may call this.

        Raises:
            InvalidInputError: as for the controller.
        """
        self._check(goal)
        self._asked = goal

    def start(self, time: float) -> Decision:
        began = clocks.perf_counter()
        self._network = None
        choice = self._search(self._limits(self._deadline), ())
        self._unreachable = choice is None
        found = choice or self._least(())
        reason = Reason.UNREACHABLE if self._unreachable else Reason.START
        return self._decided(time, reason, found, began)

    def observe(self, observation: Observation) -> Decision | None:
        if self._network is None:
            raise InvalidInputError(
                "a policy is started before it observes: call start(time), which says what serves."
            )
        began = clocks.perf_counter()
        taken, elapsed = self.monitor.counts.runs, self.monitor.elapsed
        late = self._late_in_a_row(observation)
        suspect = late if late >= _LATE_RUNS and not self._unreachable else 0
        window = self.monitor.observe(observation, suspect)
        if self.monitor.counts.runs == taken:
            return None
        self._late_runs = late
        if self._energy is not None:
            self._energy.spend(observation.network, self.monitor.elapsed - elapsed)
        if self._asked is not self._goal:
            return self._follow(observation.time, began)
        if window is None:
            return None
        self._late_runs = 0
        reason = self._reason(window)
        return None if reason is None else self._decide(observation.time, reason, began)

    # ---- when to decide ---------------------------------------------------------------------

    def _late_in_a_row(self, run: Observation) -> int:
        """How many of the last runs were late one after the other, this one among them."""
        deadline = self._goal.deadline_ms
        late = deadline is not None and run.latency_ms > deadline
        return self._late_runs + 1 if late and run.network == self._network else 0

    def _reason(self, window: Window) -> Reason | None:
        waited = self.monitor.elapsed - self._searched >= self._goal.period_s
        if self._unreachable:
            return Reason.CHANGE if window.change or waited else None
        if self._misses_deadline():
            return Reason.TOO_SLOW
        if window.change:
            return Reason.CHANGE
        if not waited:
            return None
        if self._exceeds_budget():
            return Reason.ENERGY
        return Reason.ROOM if self._may_rise() else None

    def _misses_deadline(self) -> bool:
        deadline = self._deadline
        if deadline is None or self._network is None:
            return False
        return self.monitor.latency(self._network)[0] > deadline

    def _exceeds_budget(self) -> bool:
        if self._energy is None or self._network is None:
            return False
        allowance = self._energy.allowance_mj
        return allowance is not None and self._energy.of(self._network) > allowance

    def _may_rise(self) -> bool:
        goal = self._goal
        if self.monitor.elapsed - self._switched < goal.dwell_s:
            return False
        if goal.low_ms is None or self._network is None:
            return True
        return self.monitor.latency(self._network)[0] < goal.low_ms

    # ---- what to decide ---------------------------------------------------------------------

    @property
    def _deadline(self) -> float | None:
        """What the latency that is expected of a network may be, so that few runs are late."""
        if self._goal.deadline_ms is None:
            return None
        return self._goal.deadline_ms / max(1.0, self.monitor.tail(self._goal.miss_rate))

    def _follow(self, time: float, began: float) -> Decision:
        """Take the goal in that was asked for."""
        goal = self._asked
        if goal.energy != self._goal.energy:
            self._energy = None if goal.energy is None else EnergyAccount(goal.energy, self.table)
        self._goal = goal
        decision = self._decide(time, Reason.GOAL, began)
        assert decision is not None  # a new goal is always answered
        return decision

    def _decide(self, time: float, reason: Reason, began: float) -> Decision | None:
        current = self._network
        assert current is not None  # `observe` checks
        self._searched = self.monitor.elapsed
        rules = self._reach(current)
        keeps = (
            reason is not Reason.GOAL
            and not self._misses_deadline()
            and not self._exceeds_budget()
            and not self._unreachable
        )
        if keeps and not self._may_rise():
            choice: _Choice | None = _Choice(current, False)
        else:
            choice = self._best(current, rules, keeps)
        before, self._unreachable = self._unreachable, False
        told = reason is Reason.GOAL or (reason is Reason.CHANGE and not before)
        if choice is None:
            choice = self._least(rules)
            if not rules or self._search(self._limits(self._deadline), ()) is None:
                self._unreachable, reason = True, Reason.UNREACHABLE
        if choice.network == current and before == self._unreachable and not told:
            return None
        return self._decided(time, reason, choice, began)

    def _best(self, current: Network, rules: Sequence[Rule], keeps: bool) -> _Choice | None:
        """The best network within the goal; the current one where it keeps the goal and no other
        is better by enough. None where there is none."""
        deadline = self._deadline
        roomy = None if deadline is None else deadline * (1 - self._goal.room)
        choice = self._search(self._limits(roomy), rules)
        if keeps:
            if choice is None:
                return _Choice(current, False)
            gain = self._value(choice.network) - self._value(current)
            gain = gain if self._upwards else -gain
            better = gain > 0 and gain >= self._goal.hysteresis
            return choice if better else _Choice(current, choice.proven and gain <= 0)
        return choice or self._search(self._limits(deadline), rules)

    def _search(self, limits: Sequence[Limit], rules: Sequence[Rule]) -> _Choice | None:
        return self._solve(self.quality, self._upwards, limits, rules)

    def _least(self, rules: Sequence[Rule]) -> _Choice:
        """Where nothing meets the goal, what is nearest to it: the least energy within the
        deadline, where only the budget cannot be met, else the lowest latency."""
        floor = self._floor_limits()
        if self._energy is not None:
            within = [*floor, *self._latency_limits(self._deadline)]
            found = self._solve(self._energy.metric.name, False, within, rules)
            if found is not None:
                return found
        found = self._solve(self.latency, False, floor, rules) or self._solve(
            self.latency, False, floor, ()
        )
        assert found is not None  # `_check`: the floor alone can be kept
        return found

    def _solve(
        self, objective: str, maximize: bool, limits: Sequence[Limit], rules: Sequence[Rule]
    ) -> _Choice | None:
        program = Program(self._now(), objective, maximize, limits, rules)
        solution = solver_for(program, "auto").solve(program)
        if not solution.networks:
            return None
        return _Choice(
            solution.networks[0], solution.status is Status.OPTIMAL and not program.rules
        )

    def _now(self) -> BlockTable:
        """The table of now; made once for all solves of a decision."""
        windows = self.monitor.counts.windows
        if self._made is None or self._made[0] != windows:
            self._made = (windows, self.monitor.table(self.caution))
        return self._made[1]

    def _limits(self, latency_ms: float | None) -> list[Limit]:
        limits = [*self._latency_limits(latency_ms), *self._floor_limits()]
        allowance = None if self._energy is None else self._energy.allowance_mj
        if self._energy is not None and allowance is not None:
            limits.append(Limit(self._energy.metric, "<=", allowance))
        return limits

    def _latency_limits(self, latency_ms: float | None) -> list[Limit]:
        if latency_ms is None:
            return []
        return [Limit(self.monitor.latency_metric, "<=", latency_ms)]

    def _floor_limits(self) -> list[Limit]:
        if self._goal.floor is None:
            return []
        metric = self.table.column(self.quality).metric
        return [Limit(metric, ">=" if self._upwards else "<=", self._goal.floor)]

    def _reach(self, current: Network) -> tuple[Rule, ...]:
        """The rule on how many nodes a switch may change."""
        count = self._goal.max_changed
        if count is None or count >= self.table.space.num_nodes:
            return ()
        return (at_most_changes(self.table.space, current, count),)

    def _decided(self, time: float, reason: Reason, choice: _Choice, began: float) -> Decision:
        before = self._network or choice.network
        changed = changed_nodes(before, choice.network)
        if changed or self._network is None:
            self._switched = self.monitor.elapsed
        self._network = choice.network
        self._late_runs = 0
        return Decision(
            time,
            reason,
            choice.network,
            changed,
            self.monitor.latency(choice.network)[0],
            self._value(choice.network),
            self._goal.deadline_ms,
            clocks.perf_counter() - began,
            choice.proven,
        )

    def _value(self, network: Network) -> float:
        return self.table.exact(network, self.quality)

    def _check(self, goal: Goal) -> None:
        """A goal is about metrics of the table, and some network keeps its floor."""
        if goal.energy is not None:
            EnergyAccount(goal.energy, self.table)
        if goal.floor is None:
            return
        program = Program(self.table, self.quality, self._upwards)
        best = self._value(solver_for(program, "auto").solve(program).networks[0])
        if goal.floor > best if self._upwards else goal.floor < best:
            metric = self.table.column(self.quality).metric
            raise InvalidInputError(
                f"a floor is kept by at least one network, but got {metric.format(goal.floor)} and "
                f"the best of the package is predicted {metric.format(best)}: lower the floor, or "
                "deploy better blocks."
            )


def _quality_of(table: BlockTable, name: str | None) -> str:
    if name is not None:
        return table.column(name).metric.name
    good = [key for key, m in table.metrics.items() if m.direction is Direction.MAXIMIZE]
    if len(good) != 1:
        raise InvalidInputError(
            f"say which metric is the quality with quality=: the table has "
            f"{', '.join(table.columns)}."
        )
    return good[0]
