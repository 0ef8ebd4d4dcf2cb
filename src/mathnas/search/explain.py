"""Why this answer: what limits cost, and what other blocks would cost. All numbers are solved for.

Duals of the relaxation would be cheaper and wrong: a 0-1 program changes in steps. So the price of
a limit is found at the next step, where the optimum really improves, and the price of a block is
the best answer that holds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mathnas.search._search import least_gain, program_for, search, solver_for
from mathnas.search.answer import Answer, Infeasible
from mathnas.search.limits import Limit, Limits
from mathnas.search.program import Program
from mathnas.search.rules import Rule, fix
from mathnas.search.solver import Solver
from mathnas.space import Network
from mathnas.table import BlockTable


@dataclass(frozen=True, slots=True)
class LimitPrice:
    """What a limit costs.

    Attributes:
        limit: as given.
        used: of it by the answer, in the metric's unit.
        next_value: the closest value of the limit, to 1e-9 of its metric's range, at which the
            optimum is better; None where no value is.
        next_objective: the optimum there.
    """

    limit: Limit
    used: float
    next_value: float | None
    next_objective: float | None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            **self.limit.to_dict(),
            "used": self.used,
            "next_value": self.next_value,
            "next_objective": self.next_objective,
        }


@dataclass(frozen=True, slots=True)
class Alternative:
    """The best answer with one block forced.

    Attributes:
        node, block: names.
        chosen: whether the answer itself holds it.
        network: the best network with it; None where none meets the limits.
        objective: its predicted objective.
        loss: how much worse than the answer, at least 0, in the objective's unit; 0 within the
            guarantee of a solve.
    """

    node: str
    block: str
    chosen: bool
    network: Network | None
    objective: float | None
    loss: float | None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "node": self.node,
            "block": self.block,
            "chosen": self.chosen,
            "network": None if self.network is None else list(self.network),
            "objective": self.objective,
            "loss": self.loss,
        }


@dataclass(frozen=True)
class Explanation:
    """An answer with the price of its limits and of other blocks.

    Attributes:
        answer: of the search.
        prices: one a limit.
        alternatives: one a block, node by node.
    """

    answer: Answer
    prices: tuple[LimitPrice, ...]
    alternatives: tuple[Alternative, ...]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "answer": self.answer.to_dict(),
            "prices": [price.to_dict() for price in self.prices],
            "alternatives": [alternative.to_dict() for alternative in self.alternatives],
        }

    def __str__(self) -> str:
        lines = [str(self.answer)]
        if self.prices:
            lines += ["", "what more of a limit buys", *map(self._price_text, self.prices)]
        if self.alternatives:
            lines += ["", f"what another block costs ({self.answer.objective.name})"]
        nodes: dict[str, list[str]] = {}
        for other in self.alternatives:
            nodes.setdefault(other.node, []).append(self._block_text(other))
        lines += [f"  {node}: {', '.join(texts)}" for node, texts in nodes.items()]
        return "\n".join(lines)

    def _price_text(self, price: LimitPrice) -> str:
        if price.next_value is None or price.next_objective is None:
            return f"  {price.limit}: nothing, however far it is loosened"
        metric, limited = self.answer.objective, price.limit.metric
        step = limited.format(abs(price.next_value - price.limit.value))
        looser = f"{step} {'more' if price.limit.sense == '<=' else 'less'}"
        gain = abs(price.next_objective - self.answer.value)
        return (
            f"  {price.limit}: at {limited.format(price.next_value)} ({looser}), {metric.name} "
            f"{metric.format(price.next_objective)} ({gain:.3g} better)"
        )

    def _block_text(self, other: Alternative) -> str:
        if other.chosen:
            return f"[{other.block}]"
        if other.loss is None:
            return f"{other.block} impossible"
        sign = "-" if self.answer.maximize else "+"
        return f"{other.block} {f'{sign}{other.loss:.3g}' if other.loss else 'as good'}"


def explain(
    table: BlockTable,
    *,
    maximize: str | None = None,
    minimize: str | None = None,
    limits: Limits = None,
    rules: Sequence[Rule] = (),
    nodes: Sequence[str | int] | None = None,
    solver: str | Solver = "auto",
) -> Explanation | Infeasible:
    """The answer of `search`, with what limits and other blocks cost.

    Args:
        maximize, minimize, limits, rules, solver: as in `search`.
        nodes: whose blocks to compare; by default all. Each block is one solve.

    Returns:
        An `Explanation`, or the `Infeasible` of the search.

    Raises:
        InvalidInputError: as in `search`, or a node is unknown.
    """
    program = program_for(table, maximize, minimize, limits, rules)
    chosen = solver_for(program, solver)
    answer = search(
        table, maximize=maximize, minimize=minimize, limits=limits, rules=rules, solver=chosen
    )
    if isinstance(answer, Infeasible):
        return answer
    prices = tuple(_price(program, answer, place, chosen) for place in range(len(program.limits)))
    space = table.space
    wanted = range(space.num_nodes) if nodes is None else [space.node_index(n) for n in nodes]
    alternatives = tuple(
        _alternative(program, answer, node, block, chosen)
        for node in wanted
        for block in range(space.sizes[node])
    )
    return Explanation(answer, prices, alternatives)


def _price(program: Program, answer: Answer, place: int, solver: Solver) -> LimitPrice:
    limit, name = program.limits[place], program.objective.name
    used = program.table.exact(answer.network, limit.metric.name)
    if program.power in (0.0, 1.0):
        network = _next_by_limiting(program, answer, limit, solver)
    else:
        network = _next_by_descent(program, answer, place, solver)
    if network is None:
        return LimitPrice(limit, used, None, None)
    value = program.table.exact(network, limit.metric.name)
    best = solver.solve(program.moved(place, value)).networks[0]
    return LimitPrice(limit, used, value, program.table.exact(best, name))


def _next_by_limiting(
    program: Program, answer: Answer, limit: Limit, solver: Solver
) -> Network | None:
    """Of better networks, the one with the least of the limited metric: one solve."""
    response = program.table.response(answer.network, program.objective.name)
    gain = least_gain(program, response)
    scale = program.objective.scale
    wanted = float(scale.inverse(np.array([response + (gain if program.maximize else -gain)]))[0])
    better = Limit(program.objective, ">=" if program.maximize else "<=", wanted)
    others = [other for other in program.limits if other is not limit]
    step = program.optimizing(limit.metric.name, limit.sense == ">=", [*others, better])
    networks = solver.solve(step).networks
    return networks[0] if networks else None


def _next_by_descent(
    program: Program, answer: Answer, place: int, solver: Solver
) -> Network | None:
    """The same where the objective cannot be a limit: from the optimum without the limit down, each
    time with a little less of it, until nothing is better any more."""
    limit, found = program.limits[place], None
    towards = -math.inf if limit.sense == "<=" else math.inf
    networks = solver.solve(program.without(limit)).networks
    while networks and _is_better(program, networks[0], answer.network):
        found = networks[0]
        used = program.table.exact(found, limit.metric.name)
        networks = solver.solve(program.moved(place, math.nextafter(used, towards))).networks
    return found


def _is_better(program: Program, network: Network, than: Network) -> bool:
    name = program.objective.name
    response = program.table.response(than, name)
    gain = program.table.response(network, name) - response
    return (gain if program.maximize else -gain) > least_gain(program, response)


def _alternative(
    program: Program, answer: Answer, node: int, block: int, solver: Solver
) -> Alternative:
    own = program.space.nodes[node]
    name, chosen = own.blocks[block].name, answer.network[node] == block
    if chosen:
        return Alternative(own.name, name, True, answer.network, answer.value, 0.0)
    networks = solver.solve(program.with_rules([fix(program.space, {node: block})])).networks
    if not networks:
        return Alternative(own.name, name, False, None, None, None)
    value = program.table.exact(networks[0], program.objective.name)
    # what a solve does not tell apart is no loss
    worse = _is_better(program, answer.network, networks[0])
    return Alternative(
        own.name, name, False, networks[0], value, abs(answer.value - value) if worse else 0.0
    )
