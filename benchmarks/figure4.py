"""Figure 4: networks found under limits, against the true Pareto fronts of NAS-Bench-201.

    MATHNAS_DATA=... python benchmarks/figure4.py [--cache FOLDER] [--figure PATH]

For each accuracy and device, ten limits at the 10, 20, ... 100 % quantiles of the cost. Each method
may evaluate 110 cells in all (accuracy and cost), for all ten limits together:

- *mathnas*: single sampling in the average-FLOPs cell (25), then `refine` under each limit in turn,
  twice, in one study, so that each refinement knows what the others measured.
- *the paper*: the same single sampling, the differences' table, and under each limit the best
  predicted cells (its plain way; 8 a limit).
- *BRP-NAS*: 100 accuracies for the predictor (iterative sampling), then under each limit the cells
  that it ranks highest among those of which a latency predictor says that they are fast enough, one
  a limit; cells that turn out too slow are dropped and the next is measured, which is not charged.
  The latency predictor has 1,000 further cells, or 100 of its own. What it was trained on counts
  as found, too. Trained by `benchmarks/brp_nas.py`; what is missing in the cache is left out.

Distance: at each limit the best true accuracy under it, minus the best of the cells that a method
evaluated under it, in points; the mean over the limits. Hypervolume: share of the true front's,
from the largest cost and the lowest accuracy of the true front.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mathnas as mn
from _figures import grid, save
from _machine import header
from mathnas.datasets import nasbench201
from mathnas.evaluation import TabularEvaluator
from mathnas.fitting import fit_column
from mathnas.search import Program, read_limits, solver_for
from mathnas.space import Floats, Indices
from mathnas.study import Measurements
from mathnas.table import BlockTable

ACCURACIES = {"accuracy_cifar100": "CIFAR-100", "accuracy_imagenet16_120": "ImageNet16-120"}
COSTS = {
    "latency_ms_pi5_litert_cifar100": "Pi 5, LiteRT",
    "latency_ms_pi5_onnx_cifar100": "Pi 5, ONNX Runtime",
    "latency_ms_fpga": "FPGA",
    "latency_ms_gold_6226": "Xeon Gold 6226",
    "latency_ms_titan_rtx_1": "Titan RTX",
    "energy_mj_pi5_litert_cifar100": "energy, Pi 5, LiteRT",
    "energy_mj_pi5_onnx_cifar100": "energy, Pi 5, ONNX Runtime",
}
LIMITS = tuple(share / 10 for share in range(1, 11))
BUDGET = 110
COLOURS = {
    "mathnas": "tab:blue",
    "the paper": "tab:orange",
    "BRP-NAS, 100 + 1,000": "tab:green",
    "BRP-NAS, 100 + 100": "tab:olive",
}


@dataclass(frozen=True)
class Case:
    """One accuracy and one cost of all cells, in the order of `space.all_networks()`."""

    accuracy: str
    cost: str
    table: TabularEvaluator
    networks: Indices
    gains: Floats
    costs: Floats

    @property
    def limits(self) -> list[float]:
        return [float(np.quantile(self.costs, share)) for share in LIMITS]

    def distance(self, rows: Indices) -> float:
        """Mean over the limits; a limit under which nothing was found counts from 1 % accuracy."""
        gaps = []
        for limit in self.limits:
            own = rows[self.costs[rows] <= limit]
            best = self.gains[self.costs <= limit].max()
            gaps.append(best - (self.gains[own].max() if len(own) else 1.0))
        return float(np.mean(gaps))

    def front(self, rows: Indices) -> Indices:
        """The rows that no other one of these dominates, the cheapest first."""
        order = rows[np.lexsort((-self.gains[rows], self.costs[rows]))]
        best = np.maximum.accumulate(self.gains[order])
        kept = np.concatenate([[True], self.gains[order][1:] > best[:-1]])
        found: Indices = order[kept]
        return found

    def hypervolume(self, rows: Indices) -> float:
        """Share of the true front's."""
        true = self.front(np.arange(len(self.costs)))
        most, least = float(self.costs[true].max()), float(self.gains[true].min())

        def volume(front: Indices) -> float:
            costs = np.append(np.minimum(self.costs[front], most), most)
            return float((np.diff(costs) * np.maximum(self.gains[front] - least, 0)).sum())

        return volume(self.front(rows)) / volume(true)


def read(accuracy: str, cost: str) -> Case:
    table = nasbench201("cifar100", [accuracy, cost])
    networks = table.space.all_networks()
    rows = [table.evaluate(tuple(network)) for network in networks.tolist()]
    gains, costs = (
        np.array([float(getattr(row[name], "value", row[name])) for row in rows])  # type: ignore[arg-type]
        for name in (accuracy, cost)
    )
    return Case(accuracy, cost, table, networks, gains, costs)


def rows_of(case: Case, networks: Indices) -> Indices:
    powers = 5 ** np.arange(case.networks.shape[1] - 1, -1, -1)
    found: Indices = (networks @ powers).astype(np.intp)
    return found


def ours(case: Case) -> Indices:
    """Refinements under one limit after the other, in one study."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mn.Study(Path(folder) / "front.study", case.table.space) as study,
    ):
        start = len(mn.single_sampling(case.table.space).networks)
        limits = case.limits * 2
        for number, limit in enumerate(limits, start=1):
            mn.refine(
                study,
                case.table,
                maximize=case.accuracy,
                limits={case.cost: limit},
                budget=start + (BUDGET - start) * number // len(limits),
            )
        networks = np.array([fact.network for fact in study.evaluations(case.accuracy)])
    return rows_of(case, networks)


def papers(case: Case) -> Indices:
    """The best predicted cells under each limit, by the table of single sampling."""
    space = case.table.space
    sample = mn.single_sampling(space)
    rows = rows_of(case, np.array(sample.networks))
    columns = {}
    for name, values in ((case.accuracy, case.gains), (case.cost, case.costs)):
        metric = next(metric for metric in case.table.metrics if metric.name == name)
        unknown, once = np.full(len(rows), np.nan), np.ones(len(rows))
        data = Measurements(metric, {}, case.networks[rows], values[rows], unknown, once)
        columns[name] = fit_column(space, data, sample.reference, "single")
    table = BlockTable(space, sample.reference, columns)
    each = (BUDGET - len(rows)) // len(LIMITS)
    known = dict.fromkeys(sample.networks)
    for limit in case.limits:
        program = Program(table, case.accuracy, True, read_limits({case.cost: limit}, table))
        ranked = solver_for(program, "auto").solve(program, count=len(known) + each).networks
        known |= dict.fromkeys([network for network in ranked if network not in known][:each])
    return rows_of(case, np.array(list(known)))


def brp_nas(
    case: Case, cache: Path, latencies: int, limits: Sequence[float], each: int
) -> Indices | None:
    """Cells that BRP-NAS has evaluated, `each` for every limit after its training; None where its
    predictors were not trained."""
    accuracy = cache / f"{case.accuracy}-100.npz"
    costs = [*cache.glob(f"{case.cost}-{latencies}.npz"), *cache.glob(f"{case.cost}-{latencies}-*")]
    if not accuracy.exists() or not costs:
        return None
    with np.load(accuracy, allow_pickle=False) as kept:
        trained, score = rows_of(case, kept["cells"]), kept["predicted"]
    with np.load(costs[0], allow_pickle=False) as kept:
        predicted = kept["predicted"]
    ranking = np.argsort(-score, kind="stable")
    found = list(trained)
    for limit in limits:
        fast = [row for row in ranking.tolist() if predicted[row] <= limit]
        found += [row for row in fast if case.costs[row] <= limit][:each]
    return np.array(found, dtype=np.intp)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(__file__).parent / ".cache" / "brp_nas")
    parser.add_argument("--figure", type=Path)
    chosen = parser.parse_args()
    print(header(0))
    print(
        f"\n{BUDGET} evaluations for {len(LIMITS)} limits; distance in points / hypervolume in % "
        "of the true front's"
    )
    names = list(COLOURS)
    print(f"  {'accuracy':15} {'cost':27}" + "".join(f"{name:>22}" for name in names))
    results: dict[tuple[str, str], Mapping[str, Indices]] = {}
    cases = {}
    for accuracy in ACCURACIES:
        for cost in COSTS:
            case = read(accuracy, cost)
            found = {
                "mathnas": ours(case),
                "the paper": papers(case),
                "BRP-NAS, 100 + 1,000": brp_nas(case, chosen.cache, 1000, case.limits, 1),
                "BRP-NAS, 100 + 100": brp_nas(case, chosen.cache, 100, case.limits, 1),
            }
            rows = {name: own for name, own in found.items() if own is not None}
            cells = [
                f"{case.distance(rows[name]):.2f} / {100 * case.hypervolume(rows[name]):.1f}"
                if name in rows
                else "-"
                for name in names
            ]
            shown = "".join(f"{cell:>22}" for cell in cells)
            print(f"  {ACCURACIES[accuracy]:15} {COSTS[cost]:27}{shown}", flush=True)
            results[accuracy, cost], cases[accuracy, cost] = rows, case
    summary(cases, results)
    under_one_limit(cases, chosen.cache)
    if chosen.figure:
        draw(cases, results, chosen.figure)


def summary(
    cases: Mapping[tuple[str, str], Case], results: Mapping[tuple[str, str], Mapping[str, Indices]]
) -> None:
    print("\nmathnas's distance, as a share of the other's (mean distance over the same cases):")
    for name in COLOURS:
        both = [key for key, rows in results.items() if name in rows]
        if name == "mathnas" or not both:
            continue
        own, other = (
            [cases[key].distance(results[key][who]) for key in both] for who in ("mathnas", name)
        )
        half = sum(a <= b / 2 for a, b in zip(own, other, strict=True))
        print(
            f"  {name:22} {np.mean(own):.2f} / {np.mean(other):.2f} = "
            f"{np.mean(own) / np.mean(other):.2f}; at most half in {half} of {len(both)} cases"
        )


def under_one_limit(cases: Mapping[tuple[str, str], Case], cache: Path) -> None:
    """BRP-NAS for one limit at a time, to stand beside `benchmarks/regret.py`."""
    print(
        "\nBRP-NAS under one limit: regret in points after its training (100 accuracies) and the "
        "10 cells\nthat it ranks highest; latency predictors from 1,000 / 100 further cells"
    )
    for (accuracy, cost), case in cases.items():
        shown = []
        for share in (0.25, 0.5, 1.0):
            limit = float(np.quantile(case.costs, share))
            best, values = case.gains[case.costs <= limit].max(), []
            for count in (1000, 100):
                rows = brp_nas(case, cache, count, [limit], 10)
                if rows is None:
                    continue
                own = rows[case.costs[rows] <= limit]
                values.append(f"{best - case.gains[own].max():.2f}")
            shown.append(f"{share:.0%}: {' / '.join(values) or '-'}")
        print(f"  {ACCURACIES[accuracy]:15} {COSTS[cost]:27} {'   '.join(shown)}")


def draw(
    cases: Mapping[tuple[str, str], Case],
    results: Mapping[tuple[str, str], Mapping[str, Indices]],
    path: Path,
) -> None:
    shown = [cost for cost in COSTS if not cost.startswith("energy")]
    shown.append("energy_mj_pi5_litert_cifar100")
    figure, axes = grid(2, 3, 8.0)
    for axis, cost in zip(axes.flat, shown, strict=True):
        case = cases["accuracy_cifar100", cost]
        true = case.front(np.arange(len(case.costs)))
        axis.step(case.costs[true], case.gains[true], where="post", color="black", label="true")
        for name, rows in results["accuracy_cifar100", cost].items():
            front = case.front(rows)
            axis.step(
                case.costs[front],
                case.gains[front],
                where="post",
                color=COLOURS[name],
                marker=".",
                linewidth=1,
                label=name,
            )
        axis.set_ylim(float(case.gains[true].max()) - 25, float(case.gains[true].max()) + 1)
        axis.set_title(COSTS[cost])
        axis.set_xlabel("energy, mJ" if cost.startswith("energy") else "latency, ms")
        axis.set_ylabel("CIFAR-100 accuracy, %")
    save(figure, axes.flat[0], path)


if __name__ == "__main__":
    main()
