"""Programs with pairwise effects, and what every finished solve of one must keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from mathnas.metrics import Floats
from mathnas.search import Limit, Program, Solution, Status
from mathnas.search.rules import Rule
from mathnas.space import Network
from mathnas.table import BlockTable, Form, PairEffects
from mathnas.testing import best_by_brute_force, random_program
from mathnas.testing.programs import Kind

Shape = Literal["chain", "any"]


def paired(
    sizes: Sequence[int],
    seed: int,
    *,
    shape: Shape = "any",
    kind: Kind = "smooth",
    form: Form = Form.LINEAR,
    maximize: bool = True,
    senses: Sequence[Literal["<=", ">="]] = ("<=",),
    share: float = 0.4,
    on: Sequence[str] = ("accuracy", "latency_ms"),
    rules: Sequence[Rule] = (),
) -> Program:
    """A program of `random_program` with interactions of some or of all neighbouring nodes.

    Limits lie so that alone each is met by about `share` of the networks.
    """
    plain = random_program(sizes, seed, kind=kind, form=form, senses=senses)
    rng = np.random.default_rng([seed, len(sizes), 7])
    columns = dict(plain.table.columns)
    for name in on:
        pairs = tuple(
            PairEffects(i, j, _matrix(kind, rng, (sizes[i], sizes[j])))
            for i in range(len(sizes))
            for j in range(i + 1, len(sizes))
            if (j == i + 1 if shape == "chain" else rng.random() < 0.6)
        )
        columns[name] = replace(columns[name], pairs=pairs)
    table = BlockTable(plain.space, plain.table.reference, columns)
    limits = []
    for limit in plain.limits:
        values = table.predict(sample(plain), limit.metric.name)
        at = float(np.quantile(values, share if limit.sense == "<=" else 1 - share))
        limits.append(Limit(limit.metric, limit.sense, at))
    return Program(table, "accuracy", maximize, limits, rules)


def sample(program: Program) -> np.ndarray:
    """All networks of a small space, 500 of a large one."""
    if program.space.num_networks <= 5000:
        return program.space.all_networks()
    return np.array(program.space.sample(500))


def feasible(program: Program) -> list[tuple[float, Network]]:
    """By looking at every network."""
    return [
        (value, network)
        for value, network in best_by_brute_force(program)
        if all(rule.holds(network) for rule in program.rules)
    ]


def check(program: Program, solution: Solution, count: int = 1) -> None:
    """The `count` best feasible networks, in order, or proof that there is none."""
    expected = feasible(program)[:count]
    assert solution.status is (Status.OPTIMAL if expected else Status.INFEASIBLE), solution
    assert len(set(solution.networks)) == len(solution.networks) == len(expected)
    assert all(program.holds(network) for network in solution.networks)
    found = [program.table.response(n, program.objective.name) for n in solution.networks]
    best = [value for value, _ in expected]
    near = 1e-9 * program.span + 8 * math.ulp(max(map(abs, best), default=0.0))
    np.testing.assert_allclose(found, best, rtol=0, atol=near)
    if expected:
        column = program.table.column(program.objective.name)
        value = (best[0] - column.base) * (-1 if program.maximize else 1)
        assert abs(solution.bound - value) <= near


def _matrix(kind: Kind, rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    values = 0.5 * rng.standard_normal(shape)
    digits = {"smooth": 17, "staged": 17, "rounded": 2, "tied": 1, "identical": 1}[kind]
    return np.asarray(values.round(digits))
