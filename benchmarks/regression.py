"""Regression on a response scale, on public measurements: quality from few networks.

    MATHNAS_DATA=... python benchmarks/regression.py [--seeds 10]

Every figure is the mean over seeds, with the defaults of `fit(method="regression")`. Beside it: the
same without a response scale and without pairs (a Bayesian ridge), single sampling, and for
latencies a plain ridge whose strength leave-one-out chooses.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

import mathnas as mn
from _machine import header
from mathnas.datasets import fbnet, nasbench_macro, ofa_mobilenetv3
from mathnas.evaluation import TabularEvaluator
from mathnas.fitting import fit_column
from mathnas.metrics import IDENTITY, Metric
from mathnas.regression import regress
from mathnas.study import Measurements
from mathnas.table import BlockTable


class Data:
    """A benchmark as arrays: networks of shape (k, m), and the values of a metric."""

    def __init__(self, table: TabularEvaluator) -> None:
        self.table, self.space = table, table.space
        self.networks = np.array(table.networks)
        self.place = {network: row for row, network in enumerate(table.networks)}

    def values(self, metric: Metric) -> np.ndarray:
        found = []
        for network in self.table.networks:
            value = self.table.evaluate(network)[metric.name]
            found.append(float(getattr(value, "value", value)))  # type: ignore[arg-type]
        return np.array(found)

    def measurements(self, metric: Metric, rows: Sequence[int], values: np.ndarray) -> Measurements:
        count = len(rows)
        unknown = np.full(count, np.nan)
        return Measurements(metric, {}, self.networks[rows], values[rows], unknown, np.ones(count))

    def regression(
        self, metric: Metric, rows: Sequence[int], values: np.ndarray, *, plain: bool = False
    ) -> tuple[BlockTable, float]:
        """A table of the metric, and the seconds that the fit took."""
        data = self.measurements(metric, rows, values)
        reference = tuple(int(block) for block in self.networks[rows[0]])
        start = time.perf_counter()
        options = {"scale": IDENTITY, "pairs": False} if plain else {}
        found = regress(self.space, data, reference, **options)  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        column = found.column(self.space, data)
        return BlockTable(self.space, reference, {metric.name: column}), seconds


def accuracies(name: str, data: Data, counts: Sequence[int], seeds: int, designs: bool) -> None:
    metric = next(m for m in data.table.metrics if m.name == "accuracy")
    values = data.values(metric)
    print(f"\n{name}: {len(values)} networks, accuracy; mean of {seeds} seeds")
    print("  sample       networks  model        Spearman    MAE  within 90 %  seconds")
    if designs:
        single = mn.single_sampling(data.space)
        rows = [data.place[network] for network in single.networks]
        column = fit_column(
            data.space, data.measurements(metric, rows, values), single.reference, "single"
        )
        table = BlockTable(data.space, single.reference, {metric.name: column})
        predicted = table.predict(data.networks, metric.name)
        rank, error = spearmanr(predicted, values)[0], np.abs(predicted - values).mean()
        print(f"  {'single':12} {len(rows):8}  {'differences':11} {rank:9.4f} {error:6.3f}")
    kinds = ["random", "balanced", "d-optimal"] if designs else ["random"]
    for kind in kinds:
        for count in counts:
            for plain in (False, True):
                found = []
                for seed in range(seeds):
                    rows = sampled(data, kind, count, seed)
                    # where the data are a selection, what was fitted to is left out
                    others = (
                        np.arange(len(values))
                        if designs
                        else np.setdiff1d(np.arange(len(values)), rows)
                    )
                    table, seconds = data.regression(metric, rows, values, plain=plain)
                    predicted = table.predict(data.networks[others], metric.name)
                    low, high = table.interval(data.networks[others], metric.name, 0.9)
                    truth = values[others]
                    found.append(
                        (
                            spearmanr(predicted, truth)[0],
                            np.abs(predicted - truth).mean(),
                            ((low <= truth) & (truth <= high)).mean(),
                            seconds,
                        )
                    )
                rank, error, covered, seconds = np.mean(found, axis=0)
                model = "linear" if plain else "regression"
                print(
                    f"  {kind:12} {count:8}  {model:11} {rank:9.4f} {error:6.3f} {covered:11.1%} "
                    f"{seconds:9.2f}",
                    flush=True,
                )


def sampled(data: Data, kind: str, count: int, seed: int) -> list[int]:
    if kind == "random":
        rng = np.random.default_rng(seed)
        return [int(row) for row in rng.permutation(len(data.networks))[:count]]
    make = mn.balanced_sampling if kind == "balanced" else mn.d_optimal_sampling
    return [data.place[network] for network in make(data.space, count, seed=seed).networks]


def latencies(data: Data, count: int, seeds: int) -> None:
    print(f"\nFBNet latencies from {count} random networks: MAPE on the others, mean of {seeds}")
    print("  metric                      ridge  regression  within 90 %")
    for metric in data.table.metrics:
        if not metric.name.startswith("latency"):
            continue
        values, found = data.values(metric), []
        for seed in range(seeds):
            rows = sampled(data, "random", count, seed)
            others = np.setdiff1d(np.arange(len(values)), rows)
            truth = values[others]
            plain = ridge(data, rows, values)[others]
            table, _ = data.regression(metric, rows, values)
            predicted = table.predict(data.networks[others], metric.name)
            low, high = table.interval(data.networks[others], metric.name, 0.9)
            found.append(
                (
                    100 * np.abs(plain / truth - 1).mean(),
                    100 * np.abs(predicted / truth - 1).mean(),
                    ((low <= truth) & (truth <= high)).mean(),
                )
            )
        one, two, covered = np.mean(found, axis=0)
        print(f"  {metric.name:25} {one:7.3f} {two:11.3f} {covered:11.1%}", flush=True)


def ridge(data: Data, rows: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Predictions of all networks by ridge regression on one-hot blocks."""
    features = np.zeros((len(data.networks), data.space.num_blocks))
    np.put_along_axis(features, data.networks + data.space.offsets[:-1], 1.0, axis=1)
    centre, mean = features[rows].mean(axis=0), values[rows].mean()
    own, target = features[rows] - centre, values[rows] - mean
    best, chosen = np.inf, np.zeros(features.shape[1])
    for strength in np.logspace(-3, 3, 25):
        inverse = np.linalg.inv(own.T @ own + strength * np.eye(own.shape[1]))
        hat = own @ inverse @ own.T
        error = ((target - hat @ target) / (1 - np.diag(hat) - 1 / len(rows))) ** 2
        if error.mean() < best:
            best, chosen = error.mean(), inverse @ own.T @ target
    predicted: np.ndarray = mean + (features - centre) @ chosen
    return predicted


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", mn.MathNASWarning)  # blocks that a sample does not hold
    print(header(f"0 to {chosen.seeds - 1}"))
    accuracies("NAS-Bench-Macro", Data(nasbench_macro()), (25, 40, 60), chosen.seeds, True)
    accuracies(
        "OFA MobileNetV3, ImageNet", Data(ofa_mobilenetv3()), (100, 200), chosen.seeds, False
    )
    latencies(Data(fbnet()), 250, chosen.seeds)
