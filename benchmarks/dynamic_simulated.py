"""Policies of dynamic networks in simulated worlds: 20 traces of load, 5 seeds each.

    python benchmarks/dynamic_simulated.py [--seeds 5] [--workers 1]
        [--figure benchmarks/results/dynamic_simulated.png]

Five candidates in each of five stages of the CIFAR-10 MobileNetV3; `results/dynamic_table.json` and
`.npz` hold its table, times of parts and measured accuracies (`dynamic_table.py`). A world lasts a
minute, with 50 batches a second. On the quiet device the network of the highest expected accuracy
meets the deadline with 5 % to spare, under the heaviest load the smallest one with 10 %. Parts'
true times are 10 % off the offline ones, block by block; noise of 3 % a part; one run in 500 is
interrupted for about twice the deadline, which every policy meets alike.

Fixed in hindsight: of 12 networks spread over the Pareto front, the one of the highest expected
accuracy that missed at most 2 % after settling, on the very trace that it is scored on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from _dynamic import (
    BATCH,
    HINDSIGHT,
    MOST_MISSES,
    OURS,
    Known,
    Score,
    beaten_by,
    kept_networks,
    pieces,
    policies,
    table_of,
)
from _figures import grid, save
from _machine import header
from mathnas.runtime.policies import FixedPolicy, front_networks, largest_network, smallest_network
from mathnas.runtime.served import Served
from mathnas.runtime.simulation import World, best_fixed, simulate
from mathnas.runtime.thermal import ThermalConditions
from mathnas.runtime.traces import (
    Conditions,
    Trace,
    burst_trace,
    diurnal_trace,
    ramp_trace,
    step_trace,
)
from mathnas.space import Floats

SECONDS = 60.0
RATE = 50.0  # batches a second
HEAVIEST = 0.9  # of the deadline: what the smallest network takes under the heaviest load
QUIET = 1.05  # of the latency of the best network on the quiet device: the deadline
ON_FRONT = 12
SHOWN = ("Dynamic-OFA, 7", "light/heavy", OURS)


@cache
def known() -> Known:
    return Known.load()


@cache
def deadline() -> float:
    """In ms."""
    offline = known().offline
    return QUIET * offline.latency(front_networks(offline, 2)[-1])


# ---- traces --------------------------------------------------------------------------------------


def sensitivities() -> dict[str, Floats | None]:
    """How unevenly a load meets the stages; on average over the smallest network as hard."""
    nodes = known().table.space.num_nodes
    offline = known().offline
    parts = offline.times.parts(smallest_network(offline))
    slopes = {"late": np.linspace(0.3, 1.7, nodes + 2), "early": np.linspace(1.7, 0.3, nodes + 2)}
    even: dict[str, Floats | None] = {"all": None}
    return even | {name: own * parts.sum() / (own @ parts) for name, own in slopes.items()}


def traces() -> dict[str, Callable[[int], Conditions]]:
    """By name; each for a seed, which places what is random."""
    offline, own = known().offline, sensitivities()
    nodes = known().table.space.num_nodes
    top = HEAVIEST * deadline() / offline.latency(smallest_network(offline))

    def load(share: float) -> float:
        return 1 + share * (top - 1)

    def steps(kind: str, *shares: float) -> Callable[[int], Conditions]:
        def made(seed: int) -> Trace:
            rng = np.random.default_rng([seed, 7])
            gap = SECONDS / (len(shares) + 1)
            times = [gap * (place + 1 + 0.3 * rng.uniform(-1, 1)) for place in range(len(shares))]
            levels = [load(share) for share in shares]
            return step_trace(nodes, list(zip(times, levels, strict=True)), sensitivity=own[kind])

        return made

    def ramp(kind: str, share: float, length: float) -> Callable[[int], Conditions]:
        def made(seed: int) -> Trace:
            start = float(np.random.default_rng([seed, 8]).uniform(5, 10))
            back = (start + length + 10, start + 2 * length + 10)
            return ramp_trace(
                nodes, start, start + length, load(share), back=back, sensitivity=own[kind]
            )

        return made

    def bursts(kind: str, share: float, every: float, length: float) -> Callable[[int], Conditions]:
        return lambda seed: burst_trace(
            nodes,
            SECONDS,
            every=every,
            length=length,
            factor=load(share),
            seed=seed,
            sensitivity=own[kind],
        )

    def day(kind: str, share: float, period: float) -> Callable[[int], Conditions]:
        return lambda seed: diurnal_trace(
            nodes, SECONDS, period=period, factor=load(share), seed=seed, sensitivity=own[kind]
        )

    def heat(kind: str, heating: float, seconds: float) -> Callable[[int], Conditions]:
        """So much above the ambient temperature where runs take the deadline."""
        clocks = tuple(1 / load(share) for share in (0.0, 0.3, 0.6, 1.0))
        busy = RATE * deadline() / 1e3
        return lambda seed: ThermalConditions(
            nodes,
            ambient=30.0 + 2.0 * seed,
            heating=heating / busy,
            seconds=seconds,
            clocks=clocks,
            sensitivity=own[kind],
        )

    return {
        "step up and down": steps("all", 0.6, 0.0),
        "step to the heaviest": steps("all", 1.0, 0.0),
        "steps of four": steps("all", 0.4, 0.9, 0.2, 0.7),
        "step, late stages": steps("late", 0.8, 0.0),
        "step, early stages": steps("early", 0.8, 0.0),
        "ramp, slow": ramp("all", 0.9, 15.0),
        "ramp, fast": ramp("all", 0.9, 4.0),
        "ramp, late stages": ramp("late", 0.8, 10.0),
        "ramp, early stages": ramp("early", 0.8, 10.0),
        "bursts": bursts("all", 0.8, 6.0, 5.0),
        "bursts, often": bursts("all", 0.6, 4.0, 3.0),
        "bursts, long": bursts("all", 1.0, 8.0, 10.0),
        "bursts, late stages": bursts("late", 0.8, 6.0, 5.0),
        "bursts, early stages": bursts("early", 0.8, 6.0, 5.0),
        "heat": heat("all", 80.0, 12.0),
        "heat, slow": heat("all", 60.0, 25.0),
        "heat, late stages": heat("late", 80.0, 12.0),
        "days": day("all", 0.9, 30.0),
        "days, short": day("all", 0.7, 15.0),
        "days, late stages": day("late", 0.8, 30.0),
    }


def world(name: str, seed: int) -> World:
    return World(
        known().times,
        traces()[name](seed),
        SECONDS,
        deadline(),
        rate=RATE,
        noise=0.03,
        outliers=0.002,
        deviation=0.1,
        seed=seed,
    )


# ---- all policies in one world -------------------------------------------------------------------


def served_in(name: str, seed: int) -> dict[str, Served]:
    """What each policy served there."""
    offline, own = known().offline, world(name, seed)
    found = {policy: simulate(make(deadline()), own) for policy, make in policies(offline).items()}
    front = front_networks(offline, ON_FRONT)
    fixed = [simulate(FixedPolicy(offline, network, HINDSIGHT), own) for network in front]
    qualities = [offline.quality(network) for network in front]
    best = best_fixed(qualities, fixed, most_misses=MOST_MISSES)
    return {HINDSIGHT: fixed[best], **found}


def scores_in(place: tuple[str, int]) -> dict[str, Score]:
    return {name: Score.of(served, known()) for name, served in served_in(*place).items()}


def mean_over(rows: list[dict[str, Score]]) -> dict[str, Score]:
    return {name: Score.mean([row[name] for row in rows]) for name in rows[0]}


def verdict(by_place: Mapping[tuple[str, int], dict[str, Score]]) -> None:
    """Where ours missed too much, or another policy was at least as good."""
    ours = {place: scores[OURS] for place, scores in by_place.items()}
    above = {place: s.settled for place, s in ours.items() if s.settled > MOST_MISSES}
    print(f"\n## Ours against the rest, {len(ours)} runs")
    print(
        f"more than {100 * MOST_MISSES:g} % settled misses in {len(above)} of {len(ours)} runs"
        + "".join(f"\n  {name}, seed {seed}: {100 * s:.2f} %" for (name, seed), s in above.items())
    )
    whole = beaten_by(mean_over(list(by_place.values())))
    print("over all runs, policies with no more misses and no less accuracy: ", end="")
    print("none" if not whole else "".join(f"\n  {line}" for line in whole))
    print("trace by trace, mean over seeds:")
    names = dict.fromkeys(name for name, _ in by_place)
    for name in names:
        rows = [scores for (own, _), scores in by_place.items() if own == name]
        for line in beaten_by(mean_over(rows)):
            print(f"  {name}: {line}")
    for name in next(iter(by_place.values())):
        if name == OURS:
            continue
        fewer = [s for s in by_place.values() if s[name].settled <= s[OURS].settled]
        worse = sum(s[name].expected < s[OURS].expected for s in fewer)
        print(
            f"{name:16} missed no more than ours in {len(fewer):3} of {len(ours)} runs, with less "
            f"expected accuracy in {worse:3} of these"
        )


# ---- figure --------------------------------------------------------------------------------------


def draw(path: Path, by_place: Mapping[tuple[str, int], dict[str, Score]]) -> None:
    figure, axes = grid(2, 3, 8.0)
    for column, name in enumerate(("step, late stages", "heat")):
        found = served_in(name, 0)
        for policy in SHOWN:
            lines(axes[:, column], found[policy], policy)
        axes[0, column].axhline(deadline(), color="black", lw=0.8, ls="--")
        axes[0, column].set(title=name, ylabel=f"ms a batch of {BATCH}, median and 95 % of 1 s")
        axes[1, column].set(xlabel="s", ylabel="expected accuracy, %")
    for policy, score in mean_over(list(by_place.values())).items():
        axes[0, 2].plot(100 * score.settled, score.expected, "o", label=policy)
        axes[0, 2].annotate(
            policy, (100 * score.settled, score.expected), fontsize=8, xytext=(4, 4),
            textcoords="offset points",
        )  # fmt: skip
    axes[0, 2].axvline(100 * MOST_MISSES, color="black", lw=0.8, ls="--")
    axes[0, 2].set(
        xscale="symlog",
        xlim=(0, 200),
        xlabel="settled misses, %",
        ylabel="expected accuracy, %",
        title="all runs",
    )
    networks_of(axes[1, 2])
    save(figure, axes[0, 0], path)
    print(f"drawn: {path.name}")


def lines(axes: Any, served: Served, name: str) -> None:
    """Latency and expected accuracy over time, by seconds."""
    expected = served.expected(known().table, "accuracy")
    seconds, places = zip(*pieces(served, 1), strict=True)
    middle, high = np.array(
        [np.quantile(served.latencies_ms[place], [0.5, 0.95]) for place in places]
    ).T
    (line,) = axes[0].plot(seconds, middle, label=name)
    axes[0].plot(seconds, high, color=line.get_color(), lw=0.7, ls=":")
    axes[1].plot(seconds, [expected[place].mean() for place in places], color=line.get_color())


def networks_of(axis: Any) -> None:
    """The paper's Figure 6: every network that each policy may run."""
    offline, measured = known().offline, known().measured
    every = list(measured)
    axis.plot(
        [offline.latency(network) for network in every],
        [measured[network] for network in every],
        ".",
        ms=2,
        color="lightgrey",
    )
    for name, networks in kept_networks(offline).items():
        if len(networks) > 1:
            latencies = [offline.latency(network) for network in networks]
            axis.plot(latencies, [measured[n] for n in networks], "o-", ms=3, lw=0.7, label=name)
    axis.set(
        xlabel=f"ms a batch of {BATCH}", ylabel="measured accuracy, %", title="executable networks"
    )
    axis.legend(fontsize=7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--figure", type=Path, default=None)
    options = parser.parse_args()
    print(header(f"0 to {options.seeds - 1}"))
    offline = known().offline
    small, large = (offline.latency(find(offline)) for find in (smallest_network, largest_network))
    print(
        f"{known().table.space.num_networks} networks, {small:.2f} to {large:.2f} ms a batch of "
        f"{BATCH}; deadline {deadline():.2f} ms, {RATE:.0f} batches a second"
    )
    kept = kept_networks(offline)
    print("executable networks: " + ", ".join(f"{name}: {len(own)}" for name, own in kept.items()))
    places = [(name, seed) for name in traces() for seed in range(options.seeds)]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        by_place = dict(zip(places, pool.map(scores_in, places), strict=True))
    table_of(f"All {len(places)} runs, means", mean_over(list(by_place.values())))
    for name in traces():
        rows = [by_place[name, seed] for seed in range(options.seeds)]
        table_of(name, mean_over(rows))
    verdict(by_place)
    if options.figure is not None:
        draw(options.figure, by_place)


if __name__ == "__main__":
    main()
