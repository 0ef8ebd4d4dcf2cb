"""Another device's table as the prior of a regression: latencies from few networks.

    MATHNAS_DATA=... python benchmarks/prior.py [--seeds 5]

A table of FBNet latencies is fitted to 1,000 random networks on a Raspberry Pi 4; it is the prior
of a regression from 20, 50 or 100 networks on each of the other nine devices. Errors are those of
the networks that neither fit saw.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np

import mathnas as mn
from _machine import header
from mathnas.datasets import fbnet
from mathnas.metrics import Metric
from mathnas.regression import regress
from mathnas.study import Measurements
from mathnas.table import BlockTable

SOURCE, KNOWN = "latency_ms_raspi4", 1000
COUNTS = (20, 50, 100)


class Latencies:
    """The networks of the data, and what each device takes for them."""

    def __init__(self) -> None:
        table = fbnet()
        self.space, self.networks = table.space, np.array(table.networks)
        self.metrics = {metric.name: metric for metric in table.metrics}
        found = [table.evaluate(network) for network in table.networks]
        self.values = {
            name: np.array([float(row[name]) for row in found])  # type: ignore[arg-type]
            for name in self.metrics
        }

    def fit(self, metric: Metric, rows: np.ndarray, prior: np.ndarray | None) -> BlockTable:
        unknown, once = np.full(len(rows), np.nan), np.ones(len(rows))
        values = self.values[metric.name][rows]
        data = Measurements(metric, {}, self.networks[rows], values, unknown, once)
        reference = tuple(int(block) for block in self.networks[rows[0]])
        column = regress(self.space, data, reference, prior=prior).column(self.space, data)
        return BlockTable(self.space, reference, {metric.name: column})

    def error(self, table: BlockTable, name: str, rows: np.ndarray) -> float:
        """The mean absolute error in % of what was measured."""
        measured = self.values[name][rows]
        predicted = table.predict(self.networks[rows], name)
        return float(np.abs(predicted / measured - 1).mean() * 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    # few networks leave blocks out
    warnings.simplefilter("ignore", mn.MathNASWarning)
    begun = time.monotonic()
    data = Latencies()
    others = [name for name in data.metrics if name != SOURCE]
    errors = np.empty((len(others), len(COUNTS), 2, seeds))
    for seed in range(seeds):
        rows = np.random.default_rng(seed).permutation(len(data.networks))
        source = data.fit(data.metrics[SOURCE], rows[:KNOWN], None)
        effects = source.column(SOURCE).effects
        fresh, held_out = rows[KNOWN : KNOWN + max(COUNTS)], rows[KNOWN + max(COUNTS) :]
        for place, name in enumerate(others):
            for step, count in enumerate(COUNTS):
                for kind, prior in enumerate((None, effects)):
                    table = data.fit(data.metrics[name], fresh[:count], prior)
                    errors[place, step, kind, seed] = data.error(table, name, held_out)
    print("Another device's table as a prior: FBNet latencies")
    print(header(f"0 to {seeds - 1}"))
    print(f"\nMean absolute error in % on {len(held_out):,} other networks, mean of {seeds} seeds,")
    print(f"without -> with a table from {KNOWN:,} networks on {SOURCE} as the prior; in brackets,")
    print("in how many of the seeds the prior made the error smaller.\n")
    print(f"{'':28}" + "".join(f"{f'{count} networks':>22}" for count in COUNTS))
    for place, name in enumerate([*others, "mean"]):
        cells = []
        for step in range(len(COUNTS)):
            own = errors[place, step] if name != "mean" else errors[:, step].mean(axis=0)
            better = int((own[1] < own[0]).sum())
            cells.append(f"{own[0].mean():6.2f} -> {own[1].mean():5.2f} ({better})")
        print(f"{name:28}" + "".join(f"{cell:>22}" for cell in cells))
    print(f"\n{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
