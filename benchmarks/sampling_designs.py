"""Designed samples beside random ones: precision of effects, evenness of pairs, seconds.

    python benchmarks/sampling_designs.py [--seed 20261124]

*Variance* is the mean variance of the predictions of 2,000 random networks by the least-squares
additive model, in units of one measurement's; log det is that of its information matrix.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

import mathnas as mn
from _machine import header

Floats = npt.NDArray[np.float64]

# blocks a node, whether the last nodes are a stage of optional ones, networks
CASES: list[tuple[str, list[int], int, int]] = [
    ("8x3", [3] * 8, 0, 25),
    ("6x5", [5] * 6, 0, 40),
    ("20x6", [6] * 20, 0, 150),
    ("4x4 and a stage of 4", [4] * 8, 4, 40),
    ("48x20", [20] * 48, 0, 1000),
]


def features(space: mn.SearchSpace, networks: Sequence[mn.Network]) -> Floats:
    rows = np.array(networks)
    columns = [np.ones(len(rows))]
    for node, size in enumerate(space.sizes):
        columns += [
            (rows[:, node] == block).astype(float)
            for block in range(size)
            if block != space.reference[node]
        ]
    return np.stack(columns, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=20261124)
    seed = parser.parse_args().seed
    print(header(seed))
    for name, sizes, optional, count in CASES:
        nodes = [
            mn.BlockNode(f"n{i}", tuple(mn.Block(f"b{j}") for j in range(size)))
            for i, size in enumerate(sizes)
        ]
        members = tuple(range(len(sizes) - optional, len(sizes)))
        rules = [mn.DepthRule(members, (0,) * optional)] if optional else []
        space = mn.SearchSpace(nodes, depth_rules=rules)
        judged = features(space, space.sample(2000, seed=seed + 1))
        print(f"\n{name}: {judged.shape[1]} coefficients, {count} networks")
        for make in (mn.random_sampling, mn.balanced_sampling, mn.d_optimal_sampling):
            start = time.perf_counter()
            sample = make(space, count, seed=seed)
            seconds = time.perf_counter() - start
            held = features(space, sample.networks)
            information = held.T @ held
            regular = np.linalg.matrix_rank(information) == len(information)
            text = "effects not determined"
            if regular:
                spread = (judged @ np.linalg.inv(information) * judged).sum(axis=1).mean()
                log_det = np.linalg.slogdet(information)[1]
                text = f"variance {spread:8.3f}, log det {log_det:8.1f}"
            print(f"  {sample.kind:10} {text}, {seconds:6.2f} s", flush=True)


if __name__ == "__main__":
    main()
