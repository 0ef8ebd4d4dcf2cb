"""Spaces, tables and a brute force that the tests of the core share.

Nothing here uses the code under test beyond what it states: networks are listed with `itertools`,
depth rules are written out again, and values come from `BlockTable.exact`, which has its own test.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mathnas import Block, BlockEffects, BlockNode, BlockTable, DepthRule, Form, SearchSpace
from mathnas.metrics import Metric, metric_named
from mathnas.search import Limit
from mathnas.space import Network

Floats = npt.NDArray[np.float64]

# Every run tries the same examples: a failure in CI can be seen again at home.
usual = settings(
    derandomize=True,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
thorough = settings(usual, max_examples=600)

FRACTIONAL = (Form.BLOCK_MEAN, Form.SPACE_MEAN, Form.CORRECTED)


# ---- by hand -------------------------------------------------------------------------------------


def space_of(
    sizes: Sequence[int],
    macs: Sequence[float] | None = None,
    *,
    fixed_macs: float | None = None,
    rules: Sequence[DepthRule] = (),
    reference: Sequence[int | str] | None = None,
) -> SearchSpace:
    """A space with nodes n0, n1, ... and blocks b0, b1, ...; `macs` are flat."""
    costs = iter(macs if macs is not None else itertools.repeat(None))
    nodes = [
        BlockNode(f"n{i}", tuple(Block(f"b{j}", macs=next(costs)) for j in range(size)))
        for i, size in enumerate(sizes)
    ]
    return SearchSpace(nodes, fixed_macs=fixed_macs, depth_rules=rules, reference=reference)


def column_of(
    name: str,
    effects: Sequence[float] | Floats,
    *,
    base: float = 0.0,
    form: Form = Form.LINEAR,
) -> BlockEffects:
    values = np.array(effects, dtype=np.float64)
    nothing = np.zeros(len(values))
    return BlockEffects(metric_named(name), base, values, nothing, nothing + 1, form)


def table_of(
    space: SearchSpace, columns: Mapping[str, Sequence[float] | Floats], base: float = 0.0
) -> BlockTable:
    """A table of linear columns with one base, relative to the first network."""
    return BlockTable(
        space,
        (0,) * space.num_nodes,
        {name: column_of(name, effects, base=base) for name, effects in columns.items()},
    )


# ---- brute force ---------------------------------------------------------------------------------


def networks_of(space: SearchSpace) -> list[Network]:
    """Every network that keeps the depth rules, by trying all choices."""

    def allowed(network: Network) -> bool:
        for rule in space.depth_rules:
            gone = [network[i] == a for i, a in zip(rule.nodes, rule.absent, strict=True)]
            if any(gone[i] and not gone[i + 1] for i in range(len(gone) - 1)):
                return False
        return True

    return [n for n in itertools.product(*map(range, space.sizes)) if allowed(n)]


class BruteForce:
    """Every network of a table with the exact value of every metric."""

    def __init__(self, table: BlockTable) -> None:
        self.networks = networks_of(table.space)
        self.values = {
            name: np.array([table.exact(network, name) for network in self.networks])
            for name in table.columns
        }

    def feasible(self, limits: Sequence[Limit]) -> npt.NDArray[np.bool_]:
        """Which networks meet all limits."""
        met = np.ones(len(self.networks), dtype=bool)
        for limit in limits:
            used = self.values[limit.metric.name]
            met &= used <= limit.value if limit.sense == "<=" else used >= limit.value
        return met

    def best(self, metric: str, maximize: bool, limits: Sequence[Limit] = ()) -> float | None:
        """The best feasible value, or None where no network is feasible."""
        values = self.values[metric][self.feasible(limits)]
        if not len(values):
            return None
        return float(values.max() if maximize else values.min())

    def tolerance(self, metric: str) -> float:
        """What counts as equal: 1e-9 of the metric's range, as the answers' guarantee says."""
        values = self.values[metric]
        return float(1e-9 * np.ptp(values) + 8 * np.spacing(np.abs(values).max()))


# ---- drawn by hypothesis -------------------------------------------------------------------------


@st.composite
def sizes_lists(draw: st.DrawFn, most_networks: int = 300) -> list[int]:
    """Numbers of blocks a node, with at most so many choices."""
    sizes = [draw(st.integers(1, 5))]
    while len(sizes) < 6 and draw(st.booleans()):
        room = most_networks // math.prod(sizes)
        sizes.append(draw(st.integers(1, max(1, min(6, room)))))
    return sizes


@st.composite
def depth_rules(draw: st.DrawFn, sizes: Sequence[int]) -> list[DepthRule]:
    """No, one or two rules over nodes that have something besides the absent block."""
    label = [draw(st.integers(0, 2)) if size > 1 else 0 for size in sizes]
    rules = []
    for wanted in (1, 2):
        nodes = tuple(i for i, own in enumerate(label) if own == wanted)
        if nodes:
            absent = tuple(draw(st.integers(0, sizes[i] - 1)) for i in nodes)
            rules.append(DepthRule(nodes, absent))
    return rules


@st.composite
def effect_arrays(draw: st.DrawFn, sizes: Sequence[int]) -> Floats:
    """Flat effects: smooth, rounded to two digits, full of ties, or the same in every node."""
    count = sum(sizes)
    kind = draw(st.sampled_from(["smooth", "two digits", "ties", "identical", "any"]))
    if kind == "any":
        whole = draw(arrays(np.int64, count, elements=st.integers(-300, 300)))
        return whole / 100
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "smooth":
        return rng.normal(size=count)
    if kind == "two digits":
        return rng.integers(-300, 300, count) / 100
    if kind == "ties":
        return rng.integers(0, 3, count) / 10
    profile = rng.integers(-300, 300, max(sizes)) / 100
    return np.concatenate([profile[:size] for size in sizes])


@st.composite
def spaces(
    draw: st.DrawFn, *, most_networks: int = 300, with_rules: bool = True, with_macs: bool = True
) -> SearchSpace:
    sizes = draw(sizes_lists(most_networks))
    rules = draw(depth_rules(sizes)) if with_rules and draw(st.booleans()) else []
    macs = np.abs(draw(effect_arrays(sizes))) if with_macs else None
    fixed = draw(st.sampled_from([0.5, 3.0, 40.0]))
    return space_of(sizes, None if macs is None else macs.tolist(), fixed_macs=fixed, rules=rules)


@st.composite
def tables(draw: st.DrawFn, *, most_networks: int = 300, with_rules: bool = True) -> BlockTable:
    """Accuracy (linear or fractional), latency, energy and the declared MACs."""
    space = draw(spaces(most_networks=most_networks, with_rules=with_rules))
    reference = draw(st.sampled_from(networks_of(space)))
    own = space.offsets[:-1] + np.array(reference)
    form = draw(st.sampled_from([Form.LINEAR, Form.SPACE_MEAN]))
    columns = {}
    for name, bases in (
        ("accuracy", [0.0, 70.25, -3.5]),
        ("latency_ms", [0.0, 12.5]),
        ("energy_mj", [0.0, 1e4]),
    ):
        effects = draw(effect_arrays(space.sizes))
        # effects are relative to the reference, so its own blocks have none
        effects = effects - np.repeat(effects[own], space.sizes)
        size = draw(st.sampled_from([1.0, 1.0, 1e-7, 1e6]))
        columns[name] = column_of(
            name,
            effects * size,
            base=draw(st.sampled_from(bases)) * size,
            form=form if name == "accuracy" else Form.LINEAR,
        )
    return BlockTable(space, reference, columns)


@st.composite
def limit_lists(
    draw: st.DrawFn, brute: BruteForce, metrics: Mapping[str, Metric], most: int = 3
) -> list[Limit]:
    """Limits at, just inside, just outside and between the values that networks really have."""
    limits = []
    for _ in range(draw(st.integers(0, most))):
        name = draw(st.sampled_from(sorted(metrics)))
        values = np.unique(brute.values[name])
        place = draw(st.integers(0, len(values) - 1))
        at = float(values[place])
        value = draw(
            st.sampled_from(
                [
                    at,
                    math.nextafter(at, -math.inf),
                    math.nextafter(at, math.inf),
                    float((at + values[max(place - 1, 0)]) / 2),
                    at - 1e-9 * abs(at),
                ]
            )
        )
        limits.append(Limit(metrics[name], draw(st.sampled_from(["<=", "<=", ">="])), value))
    return limits


def consistent(limits: Sequence[Limit]) -> bool:
    """Whether no two limits on one metric contradict each other."""
    return not any(
        low.sense == ">=" and high.sense == "<=" and low.value > high.value
        for low, high in _pairs_on_one_metric(limits)
    )


def _pairs_on_one_metric(limits: Sequence[Limit]) -> Iterator[tuple[Limit, Limit]]:
    for low, high in itertools.permutations(limits, 2):
        if low.metric.name == high.metric.name:
            yield low, high


# ---- large and hard ------------------------------------------------------------------------------


def realistic_table(
    sizes: Sequence[int], seed: int, *, digits: int | None = None, form: Form = Form.LINEAR
) -> BlockTable:
    """A table like those of supernets: heavier blocks are more accurate with decreasing returns,
    and cost about in proportion. Rounding to `digits` makes very many ties."""
    rng = np.random.default_rng(seed)
    sizes = list(sizes)
    node = np.repeat(np.arange(len(sizes)), sizes)

    def per_node() -> Floats:
        return np.asarray(rng.lognormal(0, 0.5, len(sizes))[node])

    def noise(spread: float) -> Floats:
        return rng.lognormal(0, spread, len(node))

    width, weight, gain = rng.random(len(node)), per_node(), per_node()
    macs = weight * (0.1 + width) * noise(0.15)
    accuracy = gain * (np.log1p(4 * width) + 0.12 * rng.standard_normal(len(node)))
    latency = macs**0.85 * noise(0.25)
    energy = macs * noise(0.25)
    if digits is not None:
        macs, accuracy, latency, energy = (
            np.round(values, digits) for values in (macs, accuracy, latency, energy)
        )
    space = space_of(sizes, macs.tolist(), fixed_macs=1 + round(0.1 * float(macs.sum()), 2))
    starts = space.offsets[:-1]

    def effects(values: Floats) -> Floats:
        difference = values - np.repeat(values[starts], sizes)
        return difference if digits is None else np.round(difference, digits)

    return BlockTable(
        space,
        (0,) * len(sizes),
        {
            "accuracy": column_of("accuracy", effects(accuracy), base=70.0, form=form),
            "latency_ms": column_of("latency_ms", effects(latency), base=20.0),
            "energy_mj": column_of("energy_mj", effects(energy), base=30.0),
        },
    )


def limit_at(table: BlockTable, metric: str, share: float) -> Limit:
    """A limit that far between the lowest and the highest value of a linear metric."""
    column = table.column(metric)
    starts = table.space.offsets[:-1]
    low = column.base + float(np.minimum.reduceat(column.effects, starts).sum())
    high = column.base + float(np.maximum.reduceat(column.effects, starts).sum())
    return Limit(column.metric, "<=", low + share * (high - low))
