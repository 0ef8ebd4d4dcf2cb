"""SuperTransformer's whole program to proven optimality: 252 blocks, six depths, two limits.

    python benchmarks/supertransformer_solver.py [--instances 100] [--highs 2] [--numpy 4]

The depth rule of the decoder has 62 million configurations, so it is part of the program. Tables
are drawn at random in eight kinds, from likely ones (small noisy effects of layers, depth decides
the latency; latencies fitted to HAT's measurements) to awkward ones (ties, correlated columns), and
limits anywhere between the lowest and highest use, each by itself. Every program is solved anew by
the kernel, some by the numpy solver and by HiGHS, on one thread. Needs the extras `highs`, `dev`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import mathnas as mn
from _machine import header
from mathnas import datasets
from mathnas.search import (
    HighsSolver,
    KernelSolver,
    Limit,
    Program,
    Solution,
    Solver,
    Status,
    VectorisedSolver,
)
from mathnas.space import Floats
from mathnas.spaces import SuperTransformer

SEED = 20261201
SPACE = SuperTransformer()
FORMS = {"linear": mn.Form.LINEAR, "fractional": mn.Form.SPACE_MEAN}
_ENCODER, _ABSENT = 6, len(SPACE.decoder_choices)
_NODE = np.repeat(np.arange(SPACE.num_nodes), SPACE.sizes)
_BLOCK = np.arange(SPACE.num_blocks) - SPACE.offsets[_NODE]
_IS_ABSENT = (_NODE > _ENCODER) & (_BLOCK == _ABSENT)
_SECONDS = 20.0  # no solve may take longer


@dataclass(frozen=True)
class Instance:
    """A program, and where it comes from."""

    kind: str
    form: str
    program: Program


# ---- tables -------------------------------------------------------------------------------------


def columns(kind: str, rng: np.random.Generator) -> dict[str, Floats]:
    """A value for each block: BLEU, then the two metrics that are limited."""
    noise = rng.standard_normal((3, SPACE.num_blocks))
    bleu = _bleu(rng)
    if kind == "depth decides":
        return {
            "bleu": bleu,
            "latency_ms": _layers(rng, 42.0, 2.0),
            "energy_mj": _layers(rng, 300.0, 30.0),
        }
    if kind.startswith("HAT"):
        first, second = rng.permutation(_HAT).tolist()[:2]
        values = {"bleu": bleu, f"latency_ms_{first}": _hat_latency(first)}
        if kind == "HAT, two devices":
            return {**values, f"latency_ms_{second}": _hat_latency(second)}
        return {**values, "macs" if kind == "HAT, MACs" else "params": np.zeros(0)}
    size = rng.lognormal(0, 0.6, SPACE.num_blocks) * ~_IS_ABSENT
    if kind == "any":
        worth = np.log1p(size) + 0.3 * rng.lognormal(0, 0.6, SPACE.num_blocks) * ~_IS_ABSENT
        return {"bleu": worth, "latency_ms": size, "energy_mj": size * np.exp(0.5 * noise[0])}
    if kind == "ties":
        digits = int(rng.integers(2))
        layers = {"latency_ms": _layers(rng, 42.0, 2.0), "energy_mj": _layers(rng, 30.0, 3.0)}
        return {"bleu": bleu.round(1), **{m: v.round(digits) for m, v in layers.items()}}
    if kind == "correlated":
        scale = 10.0 ** -rng.integers(1, 5)
        return {
            "bleu": size * (1 + scale * noise[0]),
            "latency_ms": size,
            "energy_mj": size * (1 + scale * noise[1]),
        }
    assert kind == "opposed"
    return {
        "bleu": bleu + 0.02 * size,
        "latency_ms": size,
        "energy_mj": (3.0 / (1.0 + size) + 0.2 * np.abs(noise[0])) * ~_IS_ABSENT,
    }


KINDS = (
    "depth decides",
    "HAT, two devices",
    "HAT, MACs",
    "HAT, parameters",
    "any",
    "ties",
    "correlated",
    "opposed",
)
_HAT = ("xeon", "titanxp", "raspberrypi")


def _bleu(rng: np.random.Generator) -> Floats:
    """BLEU as translation supernets have it: a layer's choice is worth 0.1 to 0.4, hardly more than
    noise, and depth has diminishing returns (2 points from one to two layers)."""
    gains = 2.0 * 0.4 ** np.arange(5) + 0.1 * rng.random(5)
    values = 0.15 * rng.random(SPACE.num_blocks) + 0.06 * (_BLOCK % 3)
    values[_IS_ABSENT] = values[_NODE == _ENCODER + 1].mean() - gains
    return values


def _layers(rng: np.random.Generator, decoder: float, spread: float) -> Floats:
    """What a layer uses: widths and heads add a little, being there adds much in the decoder."""
    values = spread * (np.arange(SPACE.num_blocks) % 6 + rng.random(SPACE.num_blocks))
    values[_NODE >= _ENCODER] += decoder
    values[_IS_ABSENT] = 0.0
    return values


def _hat_latency(device: str) -> Floats:
    """Latency of each layer's choices, fitted by relative errors to HAT's 2,000 measurements (WMT,
    total latency; features are averages over layers)."""
    data = next(datasets.hat(name) for name in datasets.hat_names() if _is_wmt(name, device))
    names = ("embed_dim", "ffn_embed_dim_avg", "self_attention_heads_avg")
    embed, ffn, heads = (data.column(f"encoder_{name}") for name in names)
    own_embed, own_ffn, own_heads = (data.column(f"decoder_{name}") for name in names)
    depth = data.column("decoder_layer_num")
    cross = data.column("decoder_ende_attention_heads_avg")
    attended = data.column("decoder_arbitrary_ende_attn_avg")
    terms = (
        _encoder_terms(ffn, heads, embed),
        _decoder_terms(own_ffn, own_heads, cross, attended, own_embed),
    )
    matrix = np.vstack(
        [np.ones(len(depth)), embed, own_embed, *(6 * terms[0]), *(depth * terms[1])]
    )
    latency = data.column("latency_mean_encoder") + data.column("latency_mean_decoder")
    weights = np.linalg.lstsq((matrix / latency).T, np.ones(len(depth)), rcond=None)[0][3:]
    split = len(terms[0])
    encoder = np.array([(c.ffn, c.heads, SPACE.encoder_embed) for c in SPACE.encoder_choices]).T
    decoder = np.array(
        [
            (c.ffn, c.self_heads, c.cross_heads, 1 + max(c.attention, 0), SPACE.decoder_embed)
            for c in SPACE.decoder_choices
        ]
    ).T
    layer = weights[:split] @ _encoder_terms(*encoder)
    own = weights[split:] @ _decoder_terms(*decoder)
    return np.concatenate([np.tile(layer, _ENCODER), own, np.tile([*own, 0.0], _ENCODER - 1)])


def _is_wmt(name: str, device: str) -> bool:
    return name.startswith("wmt") and name.endswith(device)


def _encoder_terms(ffn: Floats, heads: Floats, embed: Floats) -> Floats:
    return np.array([ffn, heads, embed * ffn / 512])


def _decoder_terms(
    ffn: Floats, heads: Floats, cross: Floats, attended: Floats, embed: Floats
) -> Floats:
    return np.array([np.ones(len(ffn)), ffn, heads, cross, attended, embed, embed * ffn / 512])


def program_of(kind: str, form: str, seed: int) -> Program:
    """A program by its kind, form and number."""
    rng = np.random.default_rng([SEED, seed, KINDS.index(kind)])
    own = SPACE.offsets[:-1] + np.array(SPACE.reference)
    nothing = np.zeros(SPACE.num_blocks)
    values = columns(kind, rng)
    effects = {}
    for name, value in values.items():
        if not len(value):  # the space declares it
            continue
        change = value - np.repeat(value[own], SPACE.sizes)
        linear = name != "bleu" or form == "linear"
        effects[name] = mn.BlockEffects(
            mn.metric_named(name),
            float(value[own].sum()),
            change if linear else change * SPACE.mean_macs(),
            nothing,
            nothing,
            mn.Form.LINEAR if linear else FORMS[form],
        )
    table = mn.BlockTable(SPACE, SPACE.reference, effects)
    limits = []
    for name, share in zip(list(values)[1:], rng.uniform(0.05, 0.95, 2).tolist(), strict=True):
        column = table.column(name)
        least, most = (
            column.base + pick.reduceat(column.effects, SPACE.offsets[:-1]).sum()
            for pick in (np.minimum, np.maximum)
        )
        limits.append(Limit(column.metric, "<=", float(least + share * (most - least))))
    return Program(table, "bleu", True, limits)


def instances(count: int) -> Iterator[Instance]:
    for kind in KINDS:
        for form in FORMS:
            for seed in range(count):
                yield Instance(kind, form, program_of(kind, form, seed))


# ---- timings ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the solver alone and of `mn.search`, and what the solver looked at."""

    alone: float
    search: float
    boxes: int
    leaves: int
    proven: bool
    feasible: bool


def solved(program: Program, solver: Solver, times: int) -> tuple[float, Solution]:
    """Median milliseconds of solving a program that was just prepared, and the solution."""
    spent = []
    for _ in range(times):
        fresh = program.with_limits(program.limits)
        if isinstance(solver, KernelSolver):
            solver.prepare(fresh)
        start = time.perf_counter()
        solution = solver.solve(fresh, time_limit=_SECONDS)
        spent.append(1e3 * (time.perf_counter() - start))
    return float(np.median(spent)), solution


def timed(program: Program, times: int) -> Timing:
    alone, solution = solved(program, KernelSolver(), times)
    limits = {limit.metric.name: limit.value for limit in program.limits}
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        answer = mn.search(program.table, maximize="bleu", limits=limits)
        spent.append(1e3 * (time.perf_counter() - start))
    for network in solution.networks:
        assert SPACE.check(network) == network
        assert program.holds(network)
        assert isinstance(answer, mn.Answer)
        value = program.table.exact(network, "bleu")
        assert abs(answer.value - value) <= 2e-9 * program.span
    proven = solution.status in (Status.OPTIMAL, Status.INFEASIBLE)
    return Timing(
        alone,
        float(np.median(spent)),
        solution.work["boxes"],
        solution.work["leaves"],
        proven,
        bool(solution.networks),
    )


def report(name: str, timings: list[Timing]) -> None:
    alone = np.array([timing.alone for timing in timings])
    whole = np.array([timing.search for timing in timings])
    boxes = np.array([timing.boxes for timing in timings])
    leaves = np.array([timing.leaves for timing in timings])
    print(
        f"  {name:30} {_four(alone)}   {_four(whole)}   "
        f"{np.median(boxes):4.0f} / {boxes.max():5}   "
        f"{np.median(leaves):6.0f} / {leaves.max():7}   "
        f"{sum(t.proven for t in timings)} of {len(timings)}, "
        f"{np.count_nonzero(alone <= 1.0)} within 1 ms, "
        f"{sum(not t.feasible for t in timings)} infeasible",
        flush=True,
    )


def _four(values: Floats) -> str:
    found = [*np.quantile(values, [0.5, 0.9, 0.99]), values.max()]
    return " / ".join(f"{value:6.3f}" for value in found)


def kernel(count: int, times: int) -> None:
    print(
        f"\nkernel, {count} programs of each kind and form, each solved anew, the median of {times}"
    )
    print(
        "times; ms as median / p90 / p99 / max, of the solver alone and of mn.search (with making"
    )
    print(
        "the program and settling which limits bind: two or three solves); boxes and choices that"
    )
    print("were looked at, median / max; proven, within 1 ms by the solver alone")
    every: list[Timing] = []
    for kind in KINDS:
        for form in FORMS:
            found = [timed(program_of(kind, form, seed), times) for seed in range(count)]
            report(f"{kind}, {form}", found)
            every += found
    report("all", every)


def others(solver: Solver, count: int) -> None:
    print(f"\n{solver.name} beside the kernel, the first {count} of each kind and form")
    ours, theirs, differ, proven = [], [], 0, 0
    for instance in instances(count):
        program = instance.program
        mine, best = solved(program, KernelSolver(), 1)
        spent, other = solved(program, solver, 1)
        ours.append(mine)
        theirs.append(spent)
        done = other.status in (Status.OPTIMAL, Status.INFEASIBLE)
        proven += done
        values = [program.table.exact(n, "bleu") for s in (best, other) for n in s.networks]
        same = len(best.networks) == len(other.networks) and (
            not values or np.ptp(values) <= 1e-6 * max(1.0, abs(values[0]))
        )
        differ += done and not same
    ratio = float(np.median(theirs)) / float(np.median(ours))
    print(f"  kernel     {_four(np.array(ours))}")
    print(f"  {solver.name:10} {_four(np.array(theirs))}   x{ratio:.0f} of the kernel's median")
    print(f"  proven {proven} of {len(theirs)}, answers that differ {differ}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--numpy", type=int, default=4)
    parser.add_argument("--highs", type=int, default=2)
    chosen = parser.parse_args()
    print(header(SEED))
    kernel(chosen.instances, chosen.times)
    others(VectorisedSolver(), chosen.numpy)
    others(HighsSolver(), chosen.highs)
