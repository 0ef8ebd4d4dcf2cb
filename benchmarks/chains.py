"""How fast exact search is where neighbouring nodes interact: 20 nodes x 9 blocks.

    python benchmarks/chains.py [SOLVER ...]

Every two neighbours have a matrix of effects on accuracy, and with two limits also on latency, of
about a third of the size of a block's own effects.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np

import mathnas as mn
from _machine import header
from mathnas.search import Program, Status, solver_for
from speed import instance

SEED = 20261124
SIZES = [9] * 20
INSTANCES = 16
SECONDS = 20.0


def chain(seed: int, form: mn.Form, num_limits: int) -> Program:
    """The instance of `speed.py` with pairs between neighbours."""
    plain = instance(SIZES, seed, form, None)
    table = plain.table
    rng = np.random.default_rng([SEED, seed, 2])
    columns = dict(table.columns)
    for name in ("accuracy", "latency_ms")[: max(1, num_limits)]:
        column = columns[name]
        size = 0.33 * float(column.effects.std())
        pairs = tuple(
            mn.PairEffects(i, i + 1, size * rng.standard_normal((9, 9)))
            for i in range(len(SIZES) - 1)
        )
        columns[name] = replace(column, pairs=pairs)
    paired = mn.BlockTable(table.space, table.reference, columns)
    return Program(paired, "accuracy", True, plain.limits[:num_limits])


def main() -> None:
    print(header(SEED))
    print(f"\n{INSTANCES} instances, at most {SECONDS:g} s each")
    print(f"  {'solver':10} {'objective':28} limits   median / worst s   proven")
    for name in sys.argv[1:] or ["chain", "highs"]:
        for form in (mn.Form.LINEAR, mn.Form.SPACE_MEAN):
            for num_limits in (0, 1, 2):
                seconds, proven = [], 0
                for seed in range(INSTANCES):
                    program = chain(seed, form, num_limits)
                    start = time.perf_counter()
                    solution = solver_for(program, name).solve(program, time_limit=SECONDS)
                    seconds.append(time.perf_counter() - start)
                    proven += solution.status is Status.OPTIMAL
                line = f"  {name:10} {form.value:28} {num_limits:6}"
                print(
                    f"{line} {np.median(seconds):10.3f} / {max(seconds):5.3f} {proven:8}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
