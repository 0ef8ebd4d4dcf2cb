"""How fast the core is: prediction, import, search with the numpy solver.

    python benchmarks/speed.py

Prediction is on one thread: it is a gather and a sum, and uses no BLAS.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

import mathnas as mn
from _machine import header
from mathnas.search import Program, Status, VectorisedSolver, read_limits

SEED = 20261124
_SECONDS = 4.0
SPACES = {
    "6x5": [5] * 6,
    "20x9": [9] * 20,
    "SuperViT, 195": [2, 8, 36, 24, 24, 63, 24, 12, 2],
    "SuperTransformer, 258": [6] * 6 + [37] * 6,
    "48x20": [20] * 48,
}


def instance(sizes: list[int], seed: int, form: mn.Form, digits: int | None) -> Program:
    """Blocks whose accuracy grows with the logarithm of their cost, and two limits at 40 %."""
    rng = np.random.default_rng([SEED, seed, len(sizes), sum(sizes)])
    node = np.repeat(np.arange(len(sizes)), sizes)
    size = rng.lognormal(0, 0.5, len(sizes))[node] * (0.1 + rng.random(len(node)))
    worth = rng.lognormal(0, 0.5, len(sizes))[node]
    gain = worth * (np.log1p(4 * size) + 0.12 * rng.standard_normal(len(node)))
    blocks = np.split(size * rng.lognormal(0, 0.15, len(node)), np.cumsum(sizes)[:-1])
    space = mn.SearchSpace(
        [
            mn.BlockNode(
                f"n{i}", tuple(mn.Block(f"b{j}", macs=float(c)) for j, c in enumerate(own))
            )
            for i, own in enumerate(blocks)
        ],
        fixed_macs=0.1 * float(size.sum()) / len(sizes),
    )
    first = (0,) * len(sizes)
    columns = {"accuracy": _column("accuracy", gain * 10 / len(sizes), 50.0, space, form, digits)}
    limits = {}
    for name, power in (("latency_ms", 0.85), ("energy_mj", 1.0)):
        cost = size**power * rng.lognormal(0, 0.25, len(node))
        columns[name] = _column(name, cost, 1.0, space, mn.Form.LINEAR, digits)
        column = columns[name]
        low = column.base + np.minimum.reduceat(column.effects, space.offsets[:-1]).sum()
        high = column.base + np.maximum.reduceat(column.effects, space.offsets[:-1]).sum()
        limits[name] = round(float(low + 0.4 * (high - low)), 9 if digits is None else digits)
    table = mn.BlockTable(space, first, columns)
    return Program(table, "accuracy", True, read_limits(limits, table))


def _column(
    name: str,
    values: np.ndarray,
    base: float,
    space: mn.SearchSpace,
    form: mn.Form,
    digits: int | None,
) -> mn.BlockEffects:
    effects = values - np.repeat(values[space.offsets[:-1]], space.sizes)
    if digits is not None:
        effects = effects.round(digits)
    if form is not mn.Form.LINEAR:
        effects = effects * space.mean_macs()
    zeros = np.zeros(len(values))
    return mn.BlockEffects(mn.metric_named(name), base, effects, zeros, zeros, form)


def prediction() -> None:
    rng = np.random.default_rng(SEED)
    program = instance([9] * 20, 0, mn.Form.LINEAR, None)
    print("\nprediction of 20x9 networks, one metric, checks included (best and median of 9):")
    for kind in (np.int64, np.uint8):
        networks = rng.integers(0, 9, (2_000_000, 20)).astype(kind)
        rates = []
        for _ in range(9):
            start = time.perf_counter()
            program.table.predict(networks, "latency_ms")
            rates.append(len(networks) / (time.perf_counter() - start) / 1e6)
        best, median = max(rates), float(np.median(rates))
        print(f"  {kind.__name__:6} {best:5.1f} / {median:5.1f} million networks a second")


def importing() -> None:
    code = (
        "import time; start = time.perf_counter(); import mathnas; "
        "print(time.perf_counter() - start)"
    )
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(9)
    ]
    bare = [
        float(
            subprocess.run(
                [sys.executable, "-c", code.replace("mathnas", "numpy")],
                capture_output=True,
                check=True,
            ).stdout
        )
        for _ in range(9)
    ]
    whole, numpy = float(np.median(seconds)), float(np.median(bare))
    print(f"\nimport mathnas: median {whole:.3f} s, of which numpy {numpy:.3f} s")


def searching() -> None:
    print(f"\nsearch with the numpy solver, two limits, 16 instances, at most {_SECONDS:g} s each")
    print(f"  {'space':22} {'objective':28} {'tables':12} median / worst ms   proven")
    for name, sizes in SPACES.items():
        for form in (mn.Form.LINEAR, mn.Form.SPACE_MEAN):
            for digits in (None, 1):
                times, proven = [], 0
                for seed in range(16):
                    program = instance(sizes, seed, form, digits)
                    solution = VectorisedSolver().solve(program, time_limit=_SECONDS)
                    times.append(1e3 * solution.seconds)
                    proven += solution.status is Status.OPTIMAL
                kind = "as measured" if digits is None else "one digit"
                print(
                    f"  {name:22} {form.value:28} {kind:12} "
                    f"{np.median(times):6.2f} / {max(times):8.1f}   {proven} of 16",
                    flush=True,
                )


if __name__ == "__main__":
    print(header(SEED))
    importing()
    prediction()
    searching()
