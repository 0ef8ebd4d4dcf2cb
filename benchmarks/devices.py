"""A new device's table from a known device's and a few measurements, on public measurements.

    MATHNAS_DATA=... python benchmarks/devices.py [--parts fbnet cells] [--seeds 2]

For each ordered pair of devices: a table of the known one from many random networks (1,000 of
FBNet, 500 cells of NAS-Bench-201), then 20 or 40 other random networks measured on the new one.
Compared on networks that no fit saw, as the mean absolute error relative to the measurement (MAPE):

- one factor: the known table's predictions times the median ratio of the measured networks;
- anew: `fit(method="regression")` on the same measurements, and on five times as many;
- transfer: `mathnas.transfer` from the one known table, and from those of all other devices. Where
  any network can be measured (NAS-Bench-201), also from the networks of `mathnas.transfer_plan`
  instead of random ones.

What transfer takes was chosen on 24 of FBNet's 90 pairs and seeds 0 and 1, with a look at
NAS-Bench-201 for these seeds; how it is weighed against fitting anew, and how far its intervals are
widened, with a look at a part of the pairs and seeds 2 to 6; the seeds here start at 10.

Of NAS-Bench-201 the cells are judged that were really measured and have a path from input to
output (see `benchmarks/features.py`); all cells stand beside them. Latencies are transferred to
latencies and energies to energies.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

import mathnas as mn
from _machine import header
from mathnas.datasets import fbnet, nasbench201
from mathnas.metrics import Floats
from mathnas.regression import regress
from mathnas.space import Indices, SearchSpace
from mathnas.spaces.nasbench201 import has_path
from mathnas.study import Measurements
from mathnas.table import BlockTable
from mathnas.transfer import scaling

COUNTS, MORE = (20, 40), 5
FIRST_SEED = 10
HELD = 500  # networks whose intervals are looked at
KINDS = ("one factor", "anew", "transfer", "all known", "anew x5")


@dataclass
class Bench:
    """Networks, what devices took for them, and which of them are judged.

    Attributes:
        known: how many networks a known device's table is from.
        judged: by device; of shape (networks,).
        groups: devices between which tables are transferred.
        target: how much better than one factor is asked for.
        complete: whether there are values of all networks, in the order of `all_networks`.
    """

    title: str
    space: SearchSpace
    networks: Indices
    values: dict[str, Floats]
    judged: dict[str, np.ndarray]
    groups: Sequence[Sequence[str]]
    known: int
    target: float
    complete: bool = False
    plans: dict[tuple[int, int], Indices] = field(default_factory=dict)
    errors: dict[tuple[str, str, int, int, str], float] = field(default_factory=dict)
    everywhere: dict[tuple[str, str, int, int, str], float] = field(default_factory=dict)
    covered: dict[int, list[float]] = field(default_factory=dict)
    weights: dict[int, list[float]] = field(default_factory=dict)

    def measured(self, name: str, rows: Indices) -> Measurements:
        unknown, once = np.full(len(rows), np.nan), np.ones(len(rows))
        metric = mn.metric_named(name)
        return Measurements(metric, {}, self.networks[rows], self.values[name][rows], unknown, once)

    def anew(self, name: str, rows: Indices) -> BlockTable:
        data = self.measured(name, rows)
        reference = tuple(self.networks[rows[0]].tolist())
        column = regress(self.space, data, reference).column(self.space, data)
        return BlockTable(self.space, reference, {name: column})

    def note(self, place: tuple[str, str, int, int], kind: str, predicted: Floats) -> None:
        """Keep the errors of predictions for all networks."""
        new, seed = place[0], place[3]
        own = np.abs(100 * (predicted / self.values[new] - 1))
        unseen = np.zeros(len(own), dtype=bool)
        unseen[self.order(seed)[self.known + MORE * max(COUNTS) :]] = True
        key = (*place, kind)
        self.errors[key] = float(own[unseen & self.judged[new]].mean())
        self.everywhere[key] = float(own[unseen].mean())

    def order(self, seed: int) -> Indices:
        found: Indices = np.random.default_rng(seed).permutation(len(self.networks))
        return found

    def plan(self, count: int, seed: int) -> Indices:
        """Rows of the networks of a design."""
        if (count, seed) not in self.plans:
            place = {network: row for row, network in enumerate(map(tuple, self.networks.tolist()))}
            networks = mn.transfer_plan(self.space, count, seed=seed)
            self.plans[count, seed] = np.array([place[network] for network in networks])
        return self.plans[count, seed]

    def run(self, seed: int) -> None:
        order = self.order(seed)
        fresh = order[self.known : self.known + MORE * max(COUNTS)]
        for group in self.groups:
            tables = {name: self.anew(name, order[: self.known]) for name in group}
            guesses = {name: table.predict(self.networks, name) for name, table in tables.items()}
            for new in group:
                others = [name for name in group if name != new]
                for count in COUNTS:
                    self._pairs(new, others, count, seed, fresh, tables, guesses)

    def _pairs(
        self,
        new: str,
        others: Sequence[str],
        count: int,
        seed: int,
        fresh: Indices,
        tables: dict[str, BlockTable],
        guesses: dict[str, Floats],
    ) -> None:
        few = fresh[:count]
        data = self.measured(new, few)
        anew = self.anew(new, few).predict(self.networks, new)
        more = self.anew(new, fresh[: MORE * count]).predict(self.networks, new)
        whole = mn.transfer([tables[old] for old in others], data, known=list(others))
        whole_guess = whole.predict(self.networks, new)
        for old in others:
            place = (new, old, count, seed)
            found = mn.transfer(tables[old], data, known=old)
            factor = scaling(guesses[old][few], self.values[new][few])
            for kind, predicted in (
                ("one factor", factor * guesses[old]),
                ("anew", anew),
                ("transfer", found.predict(self.networks, new)),
                ("all known", whole_guess),
                ("anew x5", more),
            ):
                self.note(place, kind, predicted)
            if self.complete:
                planned = mn.transfer(
                    tables[old], self.measured(new, self.plan(count, seed)), known=old
                )
                self.note(place, "planned", planned.predict(self.networks, new))
            some = np.random.default_rng(seed).permutation(np.flatnonzero(self.judged[new]))[:HELD]
            low, high = found.interval(self.networks[some], new, 0.9)
            truth = self.values[new][some]
            held = float(((low <= truth) & (truth <= high)).mean())
            self.covered.setdefault(count, []).append(held)
            chosen = found.provenance["chosen"][new]  # type: ignore[index]
            if "weight" in chosen:
                self.weights.setdefault(count, []).append(float(chosen["weight"]))

    # ---- report -------------------------------------------------------------------------------

    def pairs(
        self, count: int, kind: str, *, everywhere: bool = False
    ) -> dict[tuple[str, str], float]:
        """By pair of devices, the mean over seeds."""
        found: dict[tuple[str, str], list[float]] = {}
        for (new, old, own, _, name), error in (
            self.everywhere if everywhere else self.errors
        ).items():
            if own == count and name == kind:
                found.setdefault((new, old), []).append(error)
        return {pair: float(np.mean(errors)) for pair, errors in found.items()}

    def report(self, seeds: Sequence[int]) -> None:
        print(f"\n{self.title}; mean of {len(seeds)} seeds")
        for count in COUNTS:
            print(f"\n  {count} measurements: MAPE in %, median over the known devices")
            print(f"  {'new device':34}" + "".join(f"{kind:>12}" for kind in KINDS))
            errors = {kind: self.pairs(count, kind) for kind in KINDS}
            for new in [name for group in self.groups for name in group]:
                own = [
                    float(np.median([e for (n, _), e in errors[kind].items() if n == new]))
                    for kind in KINDS
                ]
                print(f"  {new:34}" + "".join(f"{error:12.2f}" for error in own))
            medians = {kind: float(np.median(list(errors[kind].values()))) for kind in KINDS}
            self._line("median over pairs", medians)
            every = {
                kind: float(np.median(list(self.pairs(count, kind, everywhere=True).values())))
                for kind in KINDS
            }
            if every != medians:
                self._line("the same, all networks", every)
            if self.complete:
                planned = float(np.median(list(self.pairs(count, "planned").values())))
                print(f"  transfer from planned networks instead of random ones: {planned:.2f}")
            self._verdicts(errors, medians)
            held, weights = self.covered[count], np.array(self.weights.get(count, []))
            print(
                f"  weight of the transfer beside fitting anew: mean {weights.mean():.2f}, "
                f"1 in {(weights == 1).mean():.0%}, 0 in {(weights == 0).mean():.0%}; "
                f"one factor in {1 - len(weights) / len(held):.0%}; "
                f"90 % intervals hold {np.mean(held):.1%}",
                flush=True,
            )
        whole = np.mean([held for own in self.covered.values() for held in own])
        print(f"\n  90 % intervals of transfers hold {whole:.1%}")

    @staticmethod
    def _line(title: str, values: dict[str, float]) -> None:
        print(f"  {title:34}" + "".join(f"{values[kind]:12.2f}" for kind in KINDS))

    def _verdicts(
        self, errors: dict[str, dict[tuple[str, str], float]], medians: dict[str, float]
    ) -> None:
        ratio = medians["one factor"] / medians["transfer"]
        pairs = list(errors["transfer"])
        each = np.array([errors["one factor"][p] / errors["transfer"][p] for p in pairs])
        met = "met" if ratio >= self.target else "MISSED"
        print(
            f"  -> one factor / transfer: {ratio:.2f} of medians, {np.median(each):.2f} median of "
            f"ratios, better in {(each > 1).mean():.0%} of {len(pairs)} pairs; "
            f"asked for {self.target}: {met}"
        )
        each = np.array([errors["anew"][p] / errors["transfer"][p] for p in pairs])
        met = "met" if medians["transfer"] < medians["anew"] else "MISSED"
        print(
            f"  -> anew / transfer: {medians['anew'] / medians['transfer']:.2f} of medians, "
            f"{np.median(each):.2f} median of ratios, better in {(each > 1).mean():.0%}; "
            f"better than anew: {met}",
            flush=True,
        )


def fbnet_bench() -> Bench:
    table = fbnet()
    networks, names = np.array(table.networks), [metric.name for metric in table.metrics]
    found = [table.evaluate(network) for network in table.networks]
    values = {name: np.array([float(row[name]) for row in found]) for name in names}  # type: ignore[arg-type]
    every = np.ones(len(networks), dtype=bool)
    return Bench(
        "FBNet, 10 devices", table.space, networks, values, dict.fromkeys(names, every), [names],
        1000, 1.5,
    )  # fmt: skip


def cells_bench() -> Bench:
    table = nasbench201()
    networks = table.space.all_networks()
    cells = [tuple(cell) for cell in networks.tolist()]
    groups = [
        [metric.name for metric in table.metrics if metric.name.startswith(what)]
        for what in ("latency_ms", "energy_mj")
    ]
    names = [name for group in groups for name in group]
    found = [table.evaluate(cell) for cell in cells]
    values = {name: np.array([float(row[name]) for row in found]) for name in names}  # type: ignore[arg-type]
    path = np.array([has_path(cell) for cell in cells])
    judged = {}
    for name in names:
        own = set(table.measured_networks(name))
        judged[name] = path & np.array([cell in own for cell in cells])
    return Bench(
        "NAS-Bench-201, 7 devices' latency and 3 energies", table.space, networks, values, judged,
        groups, 500, 3.5, complete=True,
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--parts", nargs="+", choices=("fbnet", "cells"), default=("fbnet", "cells")
    )
    parser.add_argument("--seeds", type=int, default=2)
    chosen = parser.parse_args()
    # few networks leave blocks out, and some transfers are no better than fitting anew
    warnings.simplefilter("ignore", mn.MathNASWarning)
    begun = time.monotonic()
    seeds = range(FIRST_SEED, FIRST_SEED + chosen.seeds)
    print("Transfer of tables to new devices")
    print(header(f"{seeds[0]} to {seeds[-1]}"))
    for part, make in (("fbnet", fbnet_bench), ("cells", cells_bench)):
        if part in chosen.parts:
            bench = make()
            for seed in seeds:
                bench.run(seed)
            bench.report(seeds)
    print(f"\n{time.monotonic() - begun:.0f} s")
