"""Figure 1 of the paper on measured data: what a block switch changes, against the network's MACs.

    MATHNAS_DATA=... python benchmarks/figure1.py [--figure benchmarks/results/figure1.png]

The paper says of one switch (node, block a to block b) over all contexts that latency and energy
change by the same in every network, and accuracy by something proportional to 1/F, F being the
network's MACs (Eq. 4). For every switch this fits formulas of the difference and compares them.
"""

from __future__ import annotations

import argparse
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import mathnas as mn
from _figures import grid, save
from _machine import header
from mathnas.datasets import nasbench201, nasbench_macro
from mathnas.spaces.nasbench201 import NONE, alive_edges, has_path

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

EXPONENTS = np.linspace(-4, 8, 241)
FEWEST_CONTEXTS = 20  # a switch with fewer, both ends measured, is left out
MOST_DRAWN = 1500  # contexts in a panel, to keep the file small
CONSTANT, INVERSE, POWER = "constant", "c / F", "c F^-p"
INVERSE_AFTER, RELATIVE = "c / F of b", "constant share"
MODELLED, MEASURED = "scale, modelled", "scale, measured"
SEED = 0  # of the halves of the contexts


# ---- data ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """Measured values over a space.

    Attributes:
        name: as printed.
        unit: of the values.
        space: with MACs.
        values: shape (num_networks,), in the order of `all_networks`; NaN where nothing was
            measured or the network is left out.
        noise: variance of the noise of one value, where it is known.
        contexts: as `values`; what is known of a context, where that is not `values` themselves.
    """

    name: str
    unit: str
    space: mn.SearchSpace
    values: Floats
    noise: float | None = None
    contexts: Floats | None = None

    @property
    def additive(self) -> bool:
        return self.unit != "%"

    @property
    def change_unit(self) -> str:
        return self.unit if self.additive else "points"


def values_of(table: mn.TabularEvaluator, metric: str, networks: Sequence[mn.Network]) -> Floats:
    """Shape (num_networks,); NaN but for `networks`."""
    kept = set(networks)
    found = np.full(table.space.num_networks, np.nan)
    for place, network in enumerate(table.space.enumerate()):
        if network in kept:
            value = table.evaluate(network)[metric]
            found[place] = value.value if isinstance(value, mn.Measurement) else value
    return found


def accuracies() -> Iterator[Column]:
    """Accuracies of the cells, of the cells without `none`, and of NAS-Bench-Macro."""
    for dataset, title in (("cifar100", "CIFAR-100"), ("imagenet16-120", "ImageNet16-120")):
        metric = f"accuracy_{dataset.replace('-', '_')}"
        table = nasbench201(dataset, [metric])
        values = values_of(table, metric, table.networks)
        noise = noise_of_twins(table.space, values)
        yield Column(f"NAS-Bench-201, {title}", "%", table.space, values, noise)
        whole = [cell for cell in table.networks if NONE not in cell]
        values = values_of(table, metric, whole)
        yield Column(f"NAS-Bench-201 without none, {title}", "%", table.space, values, noise)
    trainings = [nasbench_macro(0), nasbench_macro(1), nasbench_macro(2)]
    networks = trainings[0].networks
    three = np.array([values_of(table, "accuracy", networks) for table in trainings])
    space, title = trainings[0].space, "NAS-Bench-Macro, CIFAR-10"
    noise = float(np.mean(np.var(three, axis=0, ddof=1)))
    yield Column(title, "%", space, three.mean(axis=0), noise / 3)
    # the noise of a context's accuracy is then not in the change
    two = three[1:].mean(axis=0)
    yield Column(f"{title}, contexts by another training", "%", space, two, noise / 2, three[0])


def noise_of_twins(space: mn.SearchSpace, values: Floats) -> float:
    """Variance among cells that compute the same function and were trained one by one."""
    groups: dict[mn.Network, list[float]] = {}
    for cell, value in zip(space.enumerate(), values, strict=True):
        if has_path(cell):
            groups.setdefault(alive_edges(cell), []).append(float(value))
    several = [group for group in groups.values() if len(group) > 1]
    squares = sum(len(group) * float(np.var(group)) for group in several)
    return squares / sum(len(group) - 1 for group in several)


DEVICES = {
    "latency_ms_fpga": "FPGA latency",
    "energy_mj_fpga": "FPGA energy",
    "latency_ms_gold_6226": "Xeon Gold 6226 latency",
    "latency_ms_pi5_litert_cifar100": "Raspberry Pi 5 LiteRT latency",
    "energy_mj_pi5_litert_cifar100": "Raspberry Pi 5 LiteRT energy",
}


def costs() -> Iterator[Column]:
    """Latencies and energies of the cells that were really measured and have a path."""
    table = nasbench201("cifar100", list(DEVICES))
    for metric, title in DEVICES.items():
        cells = [cell for cell in table.measured_networks(metric) if has_path(cell)]
        unit = "mJ" if metric.startswith("energy") else "ms"
        yield Column(title, unit, table.space, values_of(table, metric, cells))


# ---- switches ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Switch:
    """One switch in all contexts in which both ends were measured.

    Attributes:
        node, first, second: block `first` of the node becomes block `second`.
        before, after: shape (contexts,); numbers of the networks.
        change: shape (contexts,); value after minus before.
        macs: shape (contexts,); mean MACs of the two networks.
        macs_after: shape (contexts,); MACs of the network with the second block.
    """

    node: int
    first: int
    second: int
    before: Indices
    after: Indices
    change: Floats
    macs: Floats
    macs_after: Floats

    def name(self, space: mn.SearchSpace) -> str:
        node = space.nodes[self.node]
        return f"{node.name}: {node.blocks[self.first].name} to {node.blocks[self.second].name}"


def switches(column: Column) -> list[Switch]:
    """Every switch with enough contexts."""
    space = column.space
    numbers = np.arange(space.num_networks).reshape(space.sizes)
    macs = space.macs(space.all_networks())
    found = []
    for node, size in enumerate(space.sizes):
        for first, second in itertools.combinations(range(size), 2):
            before = numbers.take(first, axis=node).ravel()
            after = numbers.take(second, axis=node).ravel()
            change = column.values[after] - column.values[before]
            kept = np.isfinite(change)
            if kept.sum() < FEWEST_CONTEXTS:
                continue
            before, after, change = before[kept], after[kept], change[kept]
            mean = (macs[before] + macs[after]) / 2
            found.append(Switch(node, first, second, before, after, change, mean, macs[after]))
    return found


# ---- formulas ------------------------------------------------------------------------------------


def proportional(shape: Floats, change: Floats, fitted: Indices) -> Floats:
    """The least-squares multiple of `shape` (contexts,), fitted on some contexts, for all."""
    own = shape[fitted]
    return shape * float(own @ change[fitted] / (own @ own))


def fit_power(switch: Switch, fitted: Indices) -> tuple[Floats, float]:
    """The best c F^-p for all contexts, and its p."""
    ratio = switch.macs / switch.macs.mean()
    best, chosen, exponent = np.inf, switch.change, 0.0
    for p in EXPONENTS:
        predicted = proportional(ratio**-p, switch.change, fitted)
        error = float(np.mean((switch.change - predicted)[fitted] ** 2))
        if error < best:
            best, chosen, exponent = error, predicted, float(p)
    return chosen, exponent


def on_scale(
    scale: mn.ResponseScale, start: Floats, switch: Switch, fitted: Indices, steps: Floats
) -> Floats:
    """A constant step on the scale from `start` (contexts,), in points.

    The step is the quantile of the measured ones with the smallest squared error in points, as the
    other formulas are fitted in points too. No value is predicted beyond the measured ones.
    """
    responses = scale.forward(start)
    best, chosen = np.inf, switch.change
    for step in np.quantile(steps[fitted], np.linspace(0.02, 0.98, 49)):
        predicted = np.clip(scale.inverse(responses + step), start.min(), start.max()) - start
        error = float(np.mean((switch.change - predicted)[fitted] ** 2))
        if error < best:
            best, chosen = error, predicted
    return chosen


def additive_fit(column: Column, scale: mn.ResponseScale) -> tuple[Floats, Floats]:
    """Responses by the least-squares additive model, of all networks, and what it leaves of the
    measured ones."""
    networks = column.space.all_networks()
    design = np.zeros((len(networks), column.space.num_blocks))
    np.put_along_axis(design, networks + column.space.offsets[:-1], 1.0, axis=1)
    kept = np.isfinite(column.values)
    response = scale.forward(column.values[kept])
    own = design[kept]
    ridge = 1e-9 * np.eye(design.shape[1])  # picks one of the equal solutions
    weights = np.linalg.solve(own.T @ own + ridge, own.T @ (response - response.mean()))
    fitted = response.mean() + design @ weights
    return fitted, response - fitted[kept]


def best_scale(column: Column) -> mn.ResponseScale:
    """The scale of `scales_for` under which the additive model makes the measurements likeliest.

    The likelihood of normal errors with the scale's Jacobian (Box and Cox, 1964).
    """
    values = column.values[np.isfinite(column.values)]

    def log_likelihood(scale: mn.ResponseScale) -> float:
        rest = additive_fit(column, scale)[1]
        jacobian = float(np.log(scale.derivative(values)).sum())
        return jacobian - 0.5 * len(values) * float(np.log(np.mean(rest**2)))

    return max(mn.scales_for(values), key=log_likelihood)


@dataclass(frozen=True)
class Scored:
    """One formula on one switch, predicting the half of the contexts that it was not fitted on."""

    r2: float
    mae: float
    squares: float  # sum of squared errors


@dataclass(frozen=True)
class Study:
    """All switches of a column with the scores of every formula."""

    column: Column
    switches: list[Switch]
    scores: dict[str, list[Scored]]
    exponents: Floats
    scale: mn.ResponseScale | None

    def r2(self, formula: str) -> float:
        """Mean over switches; NaN where no switch's differences vary."""
        found = np.array([score.r2 for score in self.scores[formula]])
        return float(found[np.isfinite(found)].mean()) if np.isfinite(found).any() else np.nan

    def median_r2(self, formula: str) -> float:
        found = np.array([score.r2 for score in self.scores[formula]])
        return float(np.median(found[np.isfinite(found)])) if np.isfinite(found).any() else np.nan

    def better(self, formula: str, other: str) -> int:
        """For how many switches a formula has a smaller squared error than the other."""
        pairs = zip(self.scores[formula], self.scores[other], strict=True)
        return sum(own.squares < theirs.squares for own, theirs in pairs)

    def mae(self, formula: str) -> float:
        return float(np.mean([score.mae for score in self.scores[formula]]))

    def of_squares(self, formula: str) -> float:
        """The share of the differences' squares, about 0 and over all switches, explained."""
        whole = sum(float(np.sum(switch.change**2)) for switch in self.switches)
        return 1 - sum(score.squares for score in self.scores[formula]) / whole

    def best(self, formulas: Sequence[str]) -> dict[str, int]:
        """For how many switches each formula is the first within 1 % of the smallest squared
        error."""
        squares = np.array([[s.squares for s in self.scores[name]] for name in formulas])
        rounding = 1e-9 * float(np.nanvar(self.column.values))
        near = squares <= 1.01 * squares.min(axis=0) + rounding
        counts = np.bincount(near.argmax(axis=0), minlength=len(formulas))
        return dict(zip(formulas, counts.tolist(), strict=True))

    @property
    def ceiling(self) -> float | None:
        """Mean over switches of the R^2 that the noise of measurements leaves possible."""
        if self.column.noise is None:
            return None
        left = [1 - 2 * self.column.noise / float(np.var(s.change)) for s in self.switches]
        return float(np.mean(np.clip(left, 0, None)))


def study_of(column: Column) -> Study:
    """Every formula on every switch, fitted on one half of the contexts and scored on the other."""
    scale = None if column.additive else best_scale(column)
    modelled = None
    if scale is not None:
        modelled = scale.inverse(additive_fit(column, scale)[0])
        # far below the measured ones a scale that is flat there says nothing
        modelled = np.clip(modelled, np.nanmin(column.values), np.nanmax(column.values))
    found = switches(column)
    scores: dict[str, list[Scored]] = {}
    exponents = []
    rng = np.random.default_rng(SEED)
    for switch in found:
        halves = np.array_split(rng.permutation(len(switch.change)), 2)
        errors: dict[str, Floats] = {}
        for fitted, scored in (halves, halves[::-1]):
            for name, predicted in predictions(column, scale, modelled, switch, fitted).items():
                errors.setdefault(name, np.empty(len(switch.change)))[scored] = (
                    predicted[scored] - switch.change[scored]
                )
        exponents.append(fit_power(switch, np.arange(len(switch.change)))[1])
        variance = float(np.var(switch.change))
        # where all changes are equal but for rounding there is nothing to explain
        varies = variance > 1e-9 * float(np.nanvar(column.values))
        for name, error in errors.items():
            mean_square = float(np.mean(error**2))
            scores.setdefault(name, []).append(
                Scored(
                    1 - mean_square / variance if varies else np.nan,
                    float(np.abs(error).mean()),
                    float(error @ error),
                )
            )
    return Study(column, found, scores, np.array(exponents), scale)


def predictions(
    column: Column,
    scale: mn.ResponseScale | None,
    modelled: Floats | None,
    switch: Switch,
    fitted: Indices,
) -> dict[str, Floats]:
    """The changes in all contexts by each formula, fitted on some of them."""
    found = {
        CONSTANT: proportional(np.ones(len(switch.change)), switch.change, fitted),
        INVERSE: proportional(1e6 / switch.macs, switch.change, fitted),
        INVERSE_AFTER: proportional(1e6 / switch.macs_after, switch.change, fitted),
        POWER: fit_power(switch, fitted)[0],
    }
    known = column.values if column.contexts is None else column.contexts
    if scale is None or modelled is None:
        found[RELATIVE] = proportional(known[switch.before], switch.change, fitted)
        return found
    steps = scale.forward(column.values[switch.after]) - scale.forward(column.values[switch.before])
    found[MODELLED] = on_scale(scale, modelled[switch.before], switch, fitted, steps)
    found[MEASURED] = on_scale(scale, known[switch.before], switch, fitted, steps)
    return found


# ---- text ----------------------------------------------------------------------------------------

OF_MACS = (CONSTANT, INVERSE, POWER)  # what the paper's claim is compared with


def show(study: Study) -> None:
    """The table of one column."""
    column, found = study.column, study.switches
    contexts = [len(switch.change) for switch in found]
    several = sorted({min(contexts), max(contexts)})
    kept = np.isfinite(column.values)
    print(f"\n{column.name}")
    print("-" * len(column.name))
    size = float(np.mean([np.abs(switch.change).mean() for switch in found]))
    paragraph(
        f"{int(kept.sum()):,} networks, mean {np.nanmean(column.values):.4g} {column.unit}; "
        f"{len(found)} switches with {' to '.join(f'{n:,}' for n in several)} contexts each, "
        f"which change {size:.3g} {column.change_unit} on average."
        + (f" Scale: {study.scale}." if study.scale is not None else "")
        + (f" Noise leaves an R^2 of {study.ceiling:.2f} possible." if study.ceiling else "")
    )
    if kept.all():
        split = mn.variance_shares(column.space, column.values)
        paragraph(
            f"Variance over networks: nodes by themselves {split.additive:.1%}, pairs "
            f"{split.interaction:.1%}, three and more {split.higher:.1%}."
        )
    compared = [*OF_MACS, RELATIVE if column.additive else MODELLED]
    best = study.best(compared)
    print(f"  {'formula':16}   mean R^2  median R^2  of squares  mean error  best for")
    for name in study.scores:
        wins = f"{best[name]:8}" if name in best else f"{'':8}"
        r2, median = ratio(study.r2(name)), ratio(study.median_r2(name))
        print(
            f"  {name:16} {r2} {median}  {study.of_squares(name):10.3f}  {study.mae(name):10.3f}"
            f"  {wins}".rstrip(),
            flush=True,
        )
    low, middle, high = np.quantile(study.exponents, (0.25, 0.5, 0.75))
    print(f"  p of c F^-p: median {middle:.2f}, quartiles {low:.2f} and {high:.2f}")


def ratio(value: float) -> str:
    return f"{'-':>10}" if np.isnan(value) else f"{value:10.3f}"


def accuracy_verdict(study: Study) -> str:
    """Whether accuracy differences are proportional to 1/F, in numbers."""
    r2, ceiling = study.r2(INVERSE), study.ceiling or 1.0
    middle = float(np.median(study.exponents))
    better = study.better(INVERSE, CONSTANT)
    count = len(study.switches)
    if r2 >= 0.5 * ceiling and 0.75 <= middle <= 1.25:
        verdict = "holds"
    elif better >= 0.75 * count:
        verdict = "holds in direction only"
    else:
        verdict = "does not hold"
    return (
        f"{study.column.name}: the claim {verdict}. c / F is better than a constant for {better} "
        f"of {count} switches and explains {r2:.0%} of the variance of the differences, of "
        f"{ceiling:.0%} that noise leaves possible; c F^-p explains {study.r2(POWER):.0%}, with a "
        f"median p of {middle:.2f}. Mean error: constant {study.mae(CONSTANT):.2f} points, c / F "
        f"{study.mae(INVERSE):.2f}, c F^-p {study.mae(POWER):.2f}; a constant on the scale, from "
        f"the context's accuracy as modelled {study.mae(MODELLED):.2f}, as measured "
        f"{study.mae(MEASURED):.2f}."
    )


def cost_verdict(study: Study) -> str:
    """Whether differences are constant over contexts, in numbers."""
    column = study.column
    squares, mean = study.of_squares(CONSTANT), float(np.nanmean(column.values))
    if squares > 1 - 1e-9:
        return (
            f"{column.name}: the claim holds exactly, differences are equal in all contexts but "
            "for rounding. A model put these values together from single operations, so that "
            "they do not test it."
        )
    verdict = "holds" if squares >= 0.95 else "holds roughly" if squares >= 0.9 else "does not hold"
    return (
        f"{column.name}: the claim {verdict}. A constant explains {squares:.1%} of the squares of "
        f"the differences, a constant share of the context's cost "
        f"{study.of_squares(RELATIVE):.1%}, c / F {study.of_squares(INVERSE):.1%}; the constant is "
        f"off by {study.mae(CONSTANT):.2f} {column.unit} on average, "
        f"{study.mae(CONSTANT) / mean:.1%} of a network's mean."
    )


def paragraph(text: str) -> None:
    print(textwrap.fill(text, 98), flush=True)


EXPLANATION = """
Every formula is fitted by least squares on one half of a switch's contexts and scored on the other,
both ways. F is the mean of the MACs of the two networks, or that of the network with the second
block (c / F of b). R^2 is the share of the variance of a switch's differences that is explained
(a constant has 0), mean and median over switches; where differences hardly vary, a wrong formula's
R^2 is far below 0. "Of squares" is the share of the differences' squares about 0, over all switches
together; errors are means over switches, in the column's unit. "Best for" counts switches for which
a formula is the first whose squared error is within 1 % of the smallest among those with a number.
"Scale" is a constant step on the response scale, of `mathnas.scales_for`, under which an additive
model of the column is likeliest (Box and Cox): from the context's accuracy as that additive model
has it, which like F is known before measuring, or as it was measured, which is more than the other
formulas know and is not counted. Noise of cells: of cells that compute the same function; of
NAS-Bench-Macro: of three trainings. Accuracies of all networks; costs of the cells that have a path
from input to output and, on the Raspberry Pi 5, were themselves measured (one of each class), both
ends of a switch.
"""


# ---- figure --------------------------------------------------------------------------------------


def draw(accuracy: Sequence[Study], cost: Sequence[Study], path: Path) -> None:
    """One switch of each of six columns against MACs, with the fitted formulas."""
    figure, axes = grid(2, 3, height=7.4)
    for axis, study in zip(axes[0], accuracy, strict=True):
        panel(axis, study, typical(study))
    switch = typical(accuracy[0])
    for axis, study in zip(axes[1], cost, strict=True):
        panel(axis, study, same(study, switch))
    save(figure, axes[0, 0], path)


def typical(study: Study) -> Switch:
    """The switch with the median R^2 of c / F among the half that changes most."""
    sizes = np.array([np.abs(switch.change).mean() for switch in study.switches])
    large = np.flatnonzero(sizes >= np.median(sizes))
    order = sorted(large, key=lambda place: study.scores[INVERSE][place].r2)
    return study.switches[order[len(order) // 2]]


def same(study: Study, switch: Switch) -> Switch:
    key = (switch.node, switch.first, switch.second)
    return next(own for own in study.switches if (own.node, own.first, own.second) == key)


def panel(axis: Any, study: Study, switch: Switch) -> None:
    column, everything = study.column, np.arange(len(switch.change))
    macs = switch.macs / 1e6
    drawn = np.random.default_rng(SEED).permutation(len(macs))[:MOST_DRAWN]
    axis.plot(
        macs[drawn], switch.change[drawn], ".", color="0.7", ms=2.5, label="one context", zorder=1
    )
    edges = np.quantile(macs, np.linspace(0, 1, 11))
    place = np.clip(np.searchsorted(edges, macs, side="right") - 1, 0, 9)
    bins = [place == own for own in range(10) if (place == own).sum() > 2]
    middle = [float(macs[own].mean()) for own in bins]
    mean = [float(switch.change[own].mean()) for own in bins]
    axis.plot(middle, mean, "o", color="black", markersize=4.5, label="mean of a tenth", zorder=3)
    order = np.argsort(macs, kind="stable")
    fits = {
        CONSTANT: (proportional(np.ones(len(macs)), switch.change, everything), "tab:green"),
        INVERSE: (proportional(1 / macs, switch.change, everything), "tab:red"),
        POWER: (fit_power(switch, everything)[0], "tab:blue"),
    }
    for name, (fitted, colour) in fits.items():
        label = {
            CONSTANT: "constant (the paper, of costs)",
            INVERSE: "c / F (the paper, of accuracy)",
            POWER: "c / F^p",
        }[name]
        style = "--" if name == POWER else "-"
        axis.plot(macs[order], fitted[order], style, color=colour, lw=1.8, label=label, zorder=2)
    # a few contexts far out would hide the others
    low, high = np.quantile(switch.change, (0.005, 0.995))
    room = 0.15 * max(high - low, float(np.abs(switch.change).max()) if column.additive else 0)
    axis.set_ylim(min(low - room, 0 if column.additive else low), high + room)
    axis.set_title(f"{column.name}\n{switch.name(column.space)}", fontsize=9.5)
    what = {"%": "accuracy", "mJ": "energy", "ms": "latency"}[column.unit]
    axis.set_xlabel("MACs of the network, millions")
    axis.set_ylabel(f"change of {what}, {column.change_unit}")
    axis.grid(alpha=0.25)


# ---- main ----------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--figure", type=Path, help="draw to this PNG file (needs mathnas[figures])"
    )
    target = parser.parse_args().figure
    print(header(SEED))
    print()
    paragraph(EXPLANATION.strip())
    accuracy = [study_of(column) for column in accuracies()]
    cost = [study_of(column) for column in costs()]
    for study in (*accuracy, *cost):
        show(study)
    print("\nAccuracy differences of a switch are proportional to 1/F (Eq. 4):")
    for study in accuracy:
        print()
        paragraph(accuracy_verdict(study))
    print("\nLatency and energy differences of a switch are the same in every network (Eq. 4):")
    for study in cost:
        print()
        paragraph(cost_verdict(study))
    print()
    paragraph(
        '"Holds" means of accuracy: half of the R^2 that noise leaves possible, and a median p of '
        '0.75 to 1.25; "in direction only": c / F is better than a constant for three of four '
        "switches. Of costs: a constant explains 95 % of the squares; roughly: 90 %. Their noise "
        "is not known: it is in what the constant does not explain."
    )
    if target is not None:
        draw([accuracy[0], accuracy[2], accuracy[4]], [cost[0], cost[2], cost[4]], target)


if __name__ == "__main__":
    main()
