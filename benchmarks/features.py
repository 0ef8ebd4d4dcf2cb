"""Forms of networks and Gaussian processes on features, chosen by evidence, on public measurements.

    MATHNAS_DATA=... python benchmarks/features.py [--parts 1 2 3] [--seeds 10] [--splits 3]

1. Accuracies of NAS-Bench-201 from few random cells that have a path from input to output, judged
   on all 15,284 of these: what `regress` chooses by default, beside block effects alone (in any of
   the space's forms, and of cells as they are written).
2. Latencies and energies of NAS-Bench-201 from 200 random cells that have a path, judged on the
   cells that were really measured. Raspberry Pi 5 values were measured once for each class of
   equal expressions and copied to the class, so there these are fewer.
3. HAT's latency data, of which ten features averaged over layers are known: encoder and decoder by
   `fit_features` from 100 rows, their sum on 400 others, beside HAT's perceptron from 1,600 rows.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from scipy.stats import spearmanr

import mathnas as mn
from _machine import header
from mathnas.baselines.mlp import HAT, MLPRegressor
from mathnas.datasets import hat, hat_names, nasbench201
from mathnas.metrics import Floats
from mathnas.regression import Regression, regress
from mathnas.space import Indices, SearchSpace
from mathnas.spaces.nasbench201 import has_path
from mathnas.study import Measurements
from mathnas.table import BlockTable

ACCURACIES = ("accuracy_cifar100", "accuracy_imagenet16_120")
COSTS = (
    "latency_ms_pi5_litert_cifar100",
    "latency_ms_pi5_onnx_cifar100",
    "latency_ms_raspi4",
    "latency_ms_gold_6226",
    "latency_ms_titan_rtx_1",
    "latency_ms_fpga",
    "latency_ms_eyeriss",
    "energy_mj_pi5_litert_cifar100",
    "energy_mj_pi5_onnx_cifar100",
    "energy_mj_fpga",
)
_HELD_OUT = 400


class Cells:
    """NAS-Bench-201 as arrays, in the order of ``space.all_networks()``."""

    def __init__(self) -> None:
        self.table = nasbench201()
        self.space = self.table.space
        # the same declaration, read from a file without its family: neither forms nor features
        self.plain = SearchSpace.from_dict(self.space.to_dict())
        self.networks: Indices = self.space.all_networks()
        self.cells = [tuple(cell) for cell in self.networks.tolist()]
        self.connected = np.array([has_path(cell) for cell in self.cells])

    def values(self, metric: str) -> Floats:
        found = (self.table.evaluate(cell)[metric] for cell in self.cells)
        return np.array([float(getattr(value, "value", value)) for value in found])  # type: ignore[arg-type]

    def measured(self, metric: str) -> np.ndarray:
        """Which cells were really measured."""
        own = set(self.table.measured_networks(metric))
        return np.array([cell in own for cell in self.cells])

    def sample(self, count: int, seed: int) -> Indices:
        """Rows of random cells that have a path."""
        order = np.random.default_rng(seed).permutation(np.flatnonzero(self.connected))
        rows: Indices = order[:count]
        return rows

    def fitted(
        self, metric: str, rows: Indices, values: Floats, model: str
    ) -> tuple[BlockTable, Regression, float]:
        """A table, what was chosen, and the seconds that the fit took."""
        space = self.plain if model == "as written" else self.space
        unknown, once = np.full(len(rows), np.nan), np.ones(len(rows))
        data = Measurements(
            mn.metric_named(metric), {}, self.networks[rows], values[rows], unknown, once
        )
        start = time.perf_counter()
        reference = self.cells[rows[0]]
        found = regress(space, data, reference, features=model == "chosen")
        seconds = time.perf_counter() - start
        return BlockTable(space, reference, {metric: found.column(space, data)}), found, seconds


def accuracies(cells: Cells, seeds: int) -> None:
    print(f"\n1. NAS-Bench-201 accuracies, judged on all 15,284 cells with a path; {seeds} seeds")
    print(
        "   metric                   cells  model          Spearman (sd)      MAE  within 90 %  s"
    )
    judged = np.flatnonzero(cells.connected)
    for metric in ACCURACIES:
        values = cells.values(metric)
        for count in (50, 100, 400):
            for model in ("chosen", "block effects", "as written"):
                found, chosen = [], Counter[str]()
                for seed in range(seeds):
                    rows = cells.sample(count, seed)
                    table, choice, seconds = cells.fitted(metric, rows, values, model)
                    predicted = table.predict(cells.networks[judged], metric)
                    low, high = table.interval(cells.networks[judged], metric, 0.9)
                    truth = values[judged]
                    found.append(
                        (
                            spearmanr(predicted, truth)[0],
                            np.abs(predicted - truth).mean(),
                            ((low <= truth) & (truth <= high)).mean(),
                            seconds,
                        )
                    )
                    chosen["process" if choice.process else choice.form] += 1
                rank, error, covered, seconds = np.mean(found, axis=0)
                print(
                    f"   {metric:24} {count:5}  {model:14} {rank:8.4f} "
                    f"({np.std(found, axis=0)[0]:.4f}) {error:8.3f} {covered:11.1%} {seconds:4.1f}"
                    f"  {counted(chosen)}",
                    flush=True,
                )


def counted(chosen: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in chosen.most_common())


def costs(cells: Cells, seeds: int) -> None:
    print(f"\n2. NAS-Bench-201 costs from 200 random cells with a path; {seeds} seeds, fitted ones")
    print("   included. MAPE in percent / Spearman on (i) measured cells with a path, (ii) all")
    print("   measured cells, (iii) all 15,625 rows, copied values too.")
    print("   metric                         (i)             (ii)            (iii)            form")
    shares = []
    for metric in COSTS:
        values, measured = cells.values(metric), cells.measured(metric)
        sets = (measured & cells.connected, measured, np.ones(len(values), dtype=bool))
        found, chosen, constant = [], Counter[str](), []
        for seed in range(seeds):
            table, choice, _ = cells.fitted(metric, cells.sample(200, seed), values, "chosen")
            predicted = table.predict_all(metric)
            errors = 100 * np.abs(predicted / values - 1)
            found.append(
                [
                    number
                    for rows in sets
                    for number in (errors[rows].mean(), spearmanr(predicted[rows], values[rows])[0])
                ]
            )
            chosen[choice.form] += 1
            without = measured & ~cells.connected
            constant.append(errors[without].sum() / measured.sum())
        means = np.mean(found, axis=0)
        text = "  ".join(f"{means[2 * k]:8.3f}/{means[2 * k + 1]:.4f}" for k in range(3))
        print(f"   {metric:30} {text}  {counted(chosen)}", flush=True)
        without = measured & ~cells.connected
        lowest, highest = values[without].min(), values[without].max()
        shares.append(
            f"   {metric:30} {without.sum():4} of {measured.sum():5}, {lowest:.4g} to "
            f"{highest:.4g}: {np.mean(constant):.3f} of {means[2]:.3f} points"
        )
    print("   measured cells without a path, their values, and their part in the MAPE of (ii):")
    print("\n".join(shares), flush=True)


def transformers(splits: int, networks: int, jobs: int) -> None:
    print(f"\n3. HAT: MAPE of encoder + decoder latency on {_HELD_OUT} held-out rows, in percent:")
    print(
        f"   fit_features from 100 rows (mean and sd of {splits} splits), and HAT's perceptron from"
    )
    print(
        f"   1,600 (the first {networks} of these), which learns the sum: 4 layers of 400, "
        "Adam with"
    )
    print("   1e-5, 5,000 batches of 128, one thread, the last weights kept (baselines/mlp.py)")
    print("   table                        features  (sd)  perceptron    (sd)")
    names = [name for name in hat_names() if not name.startswith("hat_published")]
    with ProcessPoolExecutor(jobs) as pool:
        asked = [pool.submit(errors_of, name, splits, networks) for name in names]
        for name, answer in zip(names, asked, strict=True):
            ours, theirs = answer.result()
            print(
                f"   {name:28} {np.mean(ours):8.2f} ({np.std(ours):.2f}) {np.mean(theirs):10.2f} "
                f"({np.std(theirs):.2f})",
                flush=True,
            )


def errors_of(name: str, splits: int, networks: int) -> tuple[list[float], list[float]]:
    """MAPE on held-out rows, split by split: of two processes, and of a perceptron."""
    table = hat(name)
    parts = {part: table.column(f"latency_mean_{part}") for part in ("encoder", "decoder")}
    truth = parts["encoder"] + parts["decoder"]
    ours, theirs = [], []
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(truth))
        held_out, known = order[:_HELD_OUT], order[_HELD_OUT:]
        few, features = known[:100], table.features
        predicted = np.zeros(_HELD_OUT)
        for part, values in parts.items():
            metric = mn.metric_named(f"latency_ms_{part}")
            model = mn.fit_features(features[few], values[few], metric)
            predicted += model.predict(features[held_out])
        ours.append(float(100 * np.abs(predicted / truth[held_out] - 1).mean()))
        if seed < networks:
            perceptron = MLPRegressor(HAT, seed=seed)
            perceptron.fit(features[known], truth[known])
            predicted = perceptron.predict(features[held_out])
            theirs.append(float(100 * np.abs(predicted / truth[held_out] - 1).mean()))
    return ours, theirs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--splits", type=int, default=3, help="of the perceptrons")
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="processes of the third part")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", mn.MathNASWarning)  # blocks that a sample does not hold
    print(header(f"0 to {chosen.seeds - 1}"), flush=True)
    if {1, 2} & set(chosen.parts):
        cells = Cells()
        if 1 in chosen.parts:
            accuracies(cells, chosen.seeds)
        if 2 in chosen.parts:
            costs(cells, chosen.seeds)
    if 3 in chosen.parts:
        transformers(chosen.seeds, chosen.splits, chosen.jobs)
