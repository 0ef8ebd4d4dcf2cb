"""Figure 2 of the paper on measured data: prediction quality against the share that is evaluated.

    MATHNAS_DATA=... python benchmarks/figure2.py [--seeds 5] [--figure FILE.png]

Partial sampling in its two forms and our regression, at equal numbers of distinct networks, and
single sampling; every network of the space is predicted. The paper says that predictions have
converged at 5 %.
"""

from __future__ import annotations

import argparse
import textwrap
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

import mathnas as mn
from _figures import grid, save
from _machine import header
from mathnas.datasets import nasbench201, nasbench_macro
from mathnas.fitting import fit_column
from mathnas.regression import regress

Floats = npt.NDArray[np.float64]

SHARES = (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MOST_FITTED = 1000  # networks that a regression is fitted on
CLAIMED = 0.05
NEAR_RANK, NEAR_ERROR = 0.01, 0.05  # what counts as converged
PAIRED, MEANS, REGRESSION = "paired", "block means", "regression"
METHODS = (PAIRED, MEANS, REGRESSION)
COLOURS = {PAIRED: "tab:blue", MEANS: "tab:orange", REGRESSION: "tab:green"}


class Data:
    """A benchmark as arrays, in the order of `all_networks`."""

    def __init__(self, name: str, table: mn.TabularEvaluator, metric: str) -> None:
        self.name, self.space = name, table.space
        self.metric = next(own for own in table.metrics if own.name == metric)
        self.networks = self.space.all_networks()
        self.place = {network: row for row, network in enumerate(self.space.enumerate())}
        found = [table.evaluate(network)[metric] for network in self.place]
        self.values = np.array(
            [value.value if isinstance(value, mn.Measurement) else value for value in found]
        )

    def measurements(self, networks: Sequence[mn.Network]) -> mn.Measurements:
        rows = sorted({self.place[network] for network in networks})
        unknown = np.full(len(rows), np.nan)
        return mn.Measurements(
            self.metric, {}, self.networks[rows], self.values[rows], unknown, np.ones(len(rows))
        )

    def score(self, column: mn.BlockEffects) -> tuple[float, float]:
        """Spearman correlation and mean absolute error over all networks."""
        table = mn.BlockTable(self.space, self.space.reference, {self.metric.name: column})
        predicted = table.predict(self.networks, self.metric.name)
        error = float(np.abs(predicted - self.values).mean())
        return float(spearmanr(predicted, self.values).statistic), error


@dataclass(frozen=True)
class Point:
    """One method at one share.

    Attributes:
        networks: distinct networks evaluated, mean over seeds.
        contexts: the share of each switch's contexts that paired sampling takes for that.
        rank, error: shape (seeds,); Spearman correlation, mean absolute error in points.
        seconds: of one fit.
    """

    networks: float
    contexts: float
    rank: Floats
    error: Floats
    seconds: float


@dataclass(frozen=True)
class Curves:
    """All methods on one benchmark."""

    data: Data
    single: Point
    points: dict[str, list[Point]]

    def share(self, point: Point) -> float:
        return point.networks / self.data.space.num_networks


def study(data: Data, seeds: int) -> Curves:
    """Every method at every share."""
    single = mn.single_sampling(data.space)
    measured = data.measurements(single.networks)
    score = data.score(fit_column(data.space, measured, single.reference, "single"))
    points: dict[str, list[Point]] = {method: [] for method in METHODS}
    # a network may be drawn with the contexts of each of the m nodes, so that a share c of contexts
    # is a share 1 - (1 - c)^m of networks; 5 % may mean either
    nodes, before = data.space.num_nodes, 0
    for share in sorted([*SHARES, 1 - (1 - CLAIMED) ** nodes]):
        contexts = 1 - (1 - share) ** (1 / nodes)
        paired = [mn.partial_sampling(data.space, contexts, seed=seed) for seed in range(seeds)]
        if paired[0].cost == before:  # one context of each node is the least there is
            continue
        before = paired[0].cost
        unpaired = [
            mn.partial_sampling(
                data.space, sample.cost / data.space.num_networks, form="unpaired", seed=seed
            )
            for seed, sample in enumerate(paired)
        ]
        points[PAIRED].append(point(data, paired, contexts, paired_column))
        points[MEANS].append(point(data, unpaired, contexts, means_column))
        if max(sample.cost for sample in unpaired) <= MOST_FITTED:
            points[REGRESSION].append(point(data, unpaired, contexts, regression_column))
    one = Point(single.cost, 1.0, np.array(score[:1]), np.array(score[1:]), 0.0)
    return Curves(data, one, points)


Fitted = Callable[[Data, mn.Measurements], mn.BlockEffects]


def point(data: Data, samples: Sequence[mn.Sample], contexts: float, fitted: Fitted) -> Point:
    start = time.perf_counter()
    columns = [fitted(data, data.measurements(sample.networks)) for sample in samples]
    seconds = (time.perf_counter() - start) / len(samples)
    rank, error = zip(*(data.score(column) for column in columns), strict=True)
    cost = float(np.mean([sample.cost for sample in samples]))
    return Point(cost, contexts, np.array(rank), np.array(error), seconds)


def paired_column(data: Data, measured: mn.Measurements) -> mn.BlockEffects:
    return fit_column(data.space, measured, data.space.reference, "paired")


def means_column(data: Data, measured: mn.Measurements) -> mn.BlockEffects:
    return fit_column(data.space, measured, data.space.reference, "means")


def regression_column(data: Data, measured: mn.Measurements) -> mn.BlockEffects:
    found = regress(data.space, measured, data.space.reference)
    return found.column(data.space, measured)


# ---- text ----------------------------------------------------------------------------------------


def show(curves: Curves) -> None:
    print(f"\n{curves.data.name}: {curves.data.space.num_networks:,} networks")
    print(f"{'':14}{'evaluated':>11}{'share':>8}{'contexts':>10}{'Spearman':>11}{'+-':>7}", end="")
    print(f"{'MAE':>8}{'+-':>7}{'seconds':>9}")
    row("single", curves, curves.single, contexts=False)
    for method in METHODS:
        for own in curves.points[method]:
            row(method, curves, own, contexts=method == PAIRED)


def row(method: str, curves: Curves, own: Point, *, contexts: bool) -> None:
    shown = f"{own.contexts:10.2%}" if contexts else f"{'':10}"
    print(
        f"  {method:12}{own.networks:11,.0f}{curves.share(own):8.2%}{shown}"
        f"{own.rank.mean():11.3f}{own.rank.std():7.3f}{own.error.mean():8.2f}{own.error.std():7.2f}"
        f"{own.seconds:9.2f}",
        flush=True,
    )


def converged_at(curves: Curves, method: str) -> Point:
    """The first share from which on ranks and errors stay near those of all networks."""
    points = curves.points[method]
    last = points[-1]
    for place in range(len(points)):
        if all(near(own, last) for own in points[place:]):
            return points[place]
    return last


def near(own: Point, last: Point) -> bool:
    rank = abs(float(own.rank.mean() - last.rank.mean())) <= NEAR_RANK
    return rank and float(own.error.mean()) <= (1 + NEAR_ERROR) * float(last.error.mean())


def at_claimed(curves: Curves, method: str, *, contexts: bool = False) -> Point:
    """The point at 5 % of the networks, or of the contexts."""
    return min(
        curves.points[method],
        key=lambda own: abs((own.contexts if contexts else curves.share(own)) - CLAIMED),
    )


def verdict(curves: Curves) -> str:
    """Whether predictions have converged at 5 %, and to what."""
    names = {PAIRED: "paired partial sampling", MEANS: "block means"}
    parts = [
        f"With {CLAIMED:.0%} of the networks {names[method]} "
        f"{compared(curves, method, at_claimed(curves, method))}."
        for method in (PAIRED, MEANS)
    ]
    own = at_claimed(curves, PAIRED, contexts=True)
    parts.append(
        f"With {CLAIMED:.0%} of the contexts, {curves.share(own):.0%} of the networks, paired "
        f"partial sampling {compared(curves, PAIRED, own)}."
    )
    for method in (PAIRED, MEANS):
        first = converged_at(curves, method)
        parts.append(
            f"From {curves.share(first):.1%} of the networks on ({first.networks:,.0f}) "
            f"{names[method]} {'have' if method == MEANS else 'has'} converged."
        )
    regression, full = curves.points[REGRESSION], curves.points[PAIRED][-1]
    passed = next(
        (own for own in regression if float(own.rank.mean()) >= float(full.rank.mean())), None
    )
    beyond = (
        "at no size as well as the additive table from all networks does"
        if passed is None
        else f"from {passed.networks:,.0f} on ({curves.share(passed):.2%}) at least as well as the "
        "additive table from all networks does"
    )
    parts.append(
        f"Regression: {scores(regression[0])}, {scores(regression[-1])}; it ranks {beyond}. Single "
        f"sampling: {scores(curves.single)}."
    )
    return f"{curves.data.name}. {' '.join(parts)}"


def compared(curves: Curves, method: str, own: Point) -> str:
    last = curves.points[method][-1]
    have = "have" if method == MEANS else "has"
    state = "converged" if near(own, last) else "not converged"
    return f"{have} {state}: {scores(own)}, {scores(last)}"


def scores(own: Point) -> str:
    return (
        f"Spearman {own.rank.mean():.3f} and mean error {own.error.mean():.2f} from "
        f"{own.networks:,.0f} networks"
    )


def paragraph(text: str) -> None:
    print(textwrap.fill(text, 98), flush=True)


# ---- figure --------------------------------------------------------------------------------------


def draw(all_curves: Sequence[Curves], path: Path) -> None:
    """Spearman above, error below, a column a benchmark; bands are one standard deviation."""
    figure, axes = grid(2, len(all_curves), height=6.8, sharex="col")
    for place, curves in enumerate(all_curves):
        above, below = axes[0, place], axes[1, place]
        for method in METHODS:
            points = curves.points[method]
            share = [100 * curves.share(own) for own in points]
            line(above, share, [own.rank for own in points], method)
            line(below, share, [own.error for own in points], method)
        share_of_single = 100 * curves.share(curves.single)
        mark: dict[str, Any] = {"color": "black", "marker": "*", "ms": 11, "ls": "none"}
        above.plot(share_of_single, curves.single.rank, label="single sampling", **mark)
        below.plot(share_of_single, curves.single.error, **mark)
        for axis in (above, below):
            axis.axvline(100 * CLAIMED, color="0.5", ls=":", lw=1.2, label="5 % (the paper)")
            axis.grid(alpha=0.25)
            axis.set_xscale("log")
            ticks = (0.25, 1, 5, 20, 100)
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
        title = f"{curves.data.name}\n{curves.data.space.num_networks:,} networks"
        above.set_title(title, fontsize=10)
        below.set_xlabel("networks evaluated, % of the space")
        below.set_ylim(bottom=0)
    axes[0, 0].set_ylabel("Spearman correlation")
    axes[1, 0].set_ylabel("mean absolute error, points")
    save(figure, axes[0, 0], path)


def line(axis: Any, share: Sequence[float], values: Sequence[Floats], method: str) -> None:
    mean = np.array([own.mean() for own in values])
    spread = np.array([own.std() for own in values])
    label = {PAIRED: "partial, paired", MEANS: "partial, block means"}.get(method, "regression")
    colour = COLOURS[method]
    axis.plot(share, mean, "o-", color=colour, ms=4, lw=1.8, label=label)
    axis.fill_between(share, mean - spread, mean + spread, color=colour, alpha=0.18, lw=0)


# ---- main ----------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--figure", type=Path, help="draw to this PNG file (needs mathnas[figures])"
    )
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", mn.MathNASWarning)  # blocks that a small sample does not hold
    print(header(f"0 to {chosen.seeds - 1}"))
    print()
    paragraph(
        "Paired: partial sampling of a share of each switch's contexts, which costs a larger share "
        "of networks, and the paper's differences. Block means: a share of all networks, as many. "
        "Regression: fit(method='regression') on these same networks, up to "
        f"{MOST_FITTED:,} because its time grows. Additive tables are on the plain scale and "
        "regressions on the scale, and with the pairs, that the evidence chooses. Means and "
        f"standard deviations over {chosen.seeds} seeds; all networks of the space are predicted, "
        "those that were fitted among them. Seconds are of one fit."
    )
    found = []
    for data in benchmarks():
        found.append(study(data, chosen.seeds))
        show(found[-1])
    for curves in found:
        print()
        paragraph(verdict(curves))
    print()
    paragraph(
        f"Converged: the mean Spearman correlation within {NEAR_RANK} and the mean error within "
        f"{NEAR_ERROR:.0%} of those of the same method from all networks."
    )
    if chosen.figure is not None:
        draw(found, chosen.figure)


def benchmarks() -> list[Data]:
    cells = nasbench201("cifar100", ["accuracy_cifar100", "accuracy_imagenet16_120"])
    return [
        Data("NAS-Bench-201, CIFAR-100", cells, "accuracy_cifar100"),
        Data("NAS-Bench-201, ImageNet16-120", cells, "accuracy_imagenet16_120"),
        Data("NAS-Bench-Macro, CIFAR-10", nasbench_macro(), "accuracy"),
    ]


if __name__ == "__main__":
    main()
