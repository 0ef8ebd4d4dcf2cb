"""Table 2 of the paper (translation, WMT'14 En-De), with what can be recomputed.

    MATHNAS_DATA=... python benchmarks/table2.py [--splits 5] [--seeds 3]

1. HAT's published SubTransformers for this task: FLOPs (2 x MACs, 30 tokens into 30, without
   embedding and vocabulary layer) and parameters, recomputed from their configurations. BLEU and
   latency are HAT's, as published with them.
2. The table as printed, and what of it can be recomputed. The configurations of MathNAS's networks
   are not in the public data that this reads, so its rows, and those without a supernet, stay as
   printed.
3. Latency by decoder depth. The latencies that MathNAS published are values of HAT's latency
   predictor, and where a decoder layer is absent they are BLEU. Here the predictor is trained anew
   on HAT's measurements (2,000 rows a device, 5,000 steps), and a table of layers is fitted by
   least squares to those rows that have both embedding widths of the space, 512.
4. The searches, on the fitted tables, in this run. The public data that this reads have no BLEU of
   blocks, so MACs stand in for it: the largest network that is predicted to be no slower than the
   table's HAT network. The exact search beside HAT's evolution (ours:
   mathnas.baselines.hat_search) at two budgets. This compares searches; it claims no BLEU.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

import mathnas as mn
from _columns import lines
from _machine import header
from mathnas.baselines import HAT_FEATURES, hat_search
from mathnas.baselines.mlp import hat_latency_predictor
from mathnas.datasets import FeatureTable, fetch, hat
from mathnas.metrics import Direction, Floats, Metric
from mathnas.space import Network
from mathnas.spaces import SuperTransformer
from mathnas.spaces.supertransformer import attended_layers

SEED = 0
REPEATS = 50
HAT_BUDGET = 3025  # 125 networks, then 29 times 100 children
DEVICES = {"raspberrypi": "Raspberry Pi", "xeon": "Xeon", "titanxp": "TITAN Xp"}
TABLES = {
    "raspberrypi": "wmt14ende_cpu_raspberrypi",
    "xeon": "wmt14ende_cpu_xeon",
    "titanxp": "wmt14ende_gpu_titanxp",
}
SCALES = {"raspberrypi": 5000.0, "xeon": 300.0, "titanxp": 200.0}  # HAT's, of latencies
# by the public predictor, the average-FLOPs network with 1 to 6 decoder layers, ms
PUBLIC = {
    "raspberrypi": (3477, 4297, 5136, 5971, 6803, 7646),
    "xeon": (122.4, 178.9, 235.3, 290.4, 344.5, 397.2),
    "titanxp": (61.7, 104.2, 148.7, 191.7, 233.8, 274.4),
}
# where decoder layers are absent: BLEU with 1 to 5 of them, as the published tables have it for ms
ABSENT = (23.46, 25.31, 25.35, 25.92, 26.14)


@dataclass(frozen=True)
class Printed:
    """A row of the paper's table: GFLOPs, BLEU, latency (ms) by device; search time and CO2."""

    model: str
    cells: dict[str, tuple[float, float, float]]
    spent: str


def printed(model: str, spent: str, *cells: tuple[float, float, float]) -> Printed:
    return Printed(model, dict(zip(DEVICES, cells, strict=True)), spent)


ROWS = (
    printed(
        "Transformer", "184 h, 52 lbs", (10.6, 28.4, 20500), (10.6, 28.4, 808), (10.6, 28.4, 334)
    ),
    printed(
        "Evolved Transformer",
        "219200 h, 624000 lbs",
        (2.9, 28.2, 7600),
        (2.9, 28.2, 300),
        (2.9, 28.2, 124),
    ),
    printed("HAT", "200 h, 57 lbs", (1.5, 25.8, 3500), (1.9, 25.8, 138), (1.9, 25.6, 57)),
    printed("MathNAS", "10 s, 0.0008 lbs", (1.7, 25.5, 3200), (1.8, 25.9, 136), (1.8, 25.9, 68)),
    printed("HAT", "200 h, 57 lbs", (2.3, 27.8, 5000), (2.5, 27.9, 279), (2.5, 27.9, 126)),
    printed("MathNAS", "10 s, 0.0008 lbs", (2.1, 28.3, 4700), (2.4, 28.6, 272), (2.0, 28.1, 107)),
    printed("HAT", "200 h, 57 lbs", (3.0, 28.4, 7000), (3.5, 28.5, 384), (3.1, 28.5, 208)),
    printed("MathNAS", "10 s, 0.0008 lbs", (2.8, 28.6, 6500), (2.8, 28.8, 336), (2.6, 28.6, 189)),
)


@dataclass(frozen=True)
class Published:
    """A SubTransformer that HAT published.

    Attributes:
        space: that of its embedding widths.
        network: in it.
        latency, bleu: as published with it; latency in ms.
    """

    device: str
    space: SuperTransformer
    network: Network
    latency: float
    bleu: float

    @property
    def gflops(self) -> float:
        return 2 * float(self.space.macs([self.network])[0]) / 1e9

    @property
    def params(self) -> float:
        """In millions."""
        own = self.space.block_params
        assert own is not None
        assert self.space.fixed_params == 0
        return float(own[self.space.offsets[:-1] + list(self.network)].sum()) / 1e6


def read_published() -> list[Published]:
    """Those for WMT'14 En-De, by device and latency."""
    found = []
    with fetch("hat", "hat_published_subtransformers.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["task"] != "wmt14ende":
                continue
            get = {key.removesuffix("-subtransformer"): value for key, value in row.items()}
            space = SuperTransformer(int(get["encoder-embed-dim"]), int(get["decoder-embed-dim"]))
            network = space.from_config(
                json.loads(get["encoder-ffn-embed-dim-all"]),
                json.loads(get["encoder-self-attention-heads-all"]),
                int(get["decoder-layer-num"]),
                json.loads(get["decoder-ffn-embed-dim-all"]),
                json.loads(get["decoder-self-attention-heads-all"]),
                json.loads(get["decoder-ende-attention-heads-all"]),
                json.loads(get["decoder-arbitrary-ende-attn-all"]),
            )
            latency, bleu = float(row["lat_ms"]), float(row["bleu"])
            found.append(Published(row["device"], space, network, latency, bleu))
    order = list(DEVICES)
    return sorted(found, key=lambda own: (order.index(own.device), own.latency))


# ---- latency -------------------------------------------------------------------------------------


@cache
def measured(device: str) -> tuple[FeatureTable, Floats]:
    """HAT's rows of a device and their latency, encoder and decoder together, in ms."""
    table = hat(TABLES[device])
    assert table.feature_names == tuple(HAT_FEATURES)
    return table, table.column("latency_mean_encoder") + table.column("latency_mean_decoder")


def with_widths(table: FeatureTable) -> npt.NDArray[np.bool_]:
    """Which rows have both embedding widths of the space."""
    encoder, decoder = (table.column(f"{part}_embed_dim") for part in ("encoder", "decoder"))
    both: npt.NDArray[np.bool_] = (encoder == 512) & (decoder == 512)
    return both


def sums(features: Floats) -> Floats:
    """What is additive over layers: a constant, sums over the encoder's, number and sums of the
    decoder's; averages times layers."""
    encoder, decoder = features[:, 1:2], features[:, 5:6]
    columns = [
        np.ones_like(encoder),
        features[:, 2:4] * encoder,
        decoder,
        features[:, 6:] * decoder,
    ]
    return np.hstack(columns)


def weights_of(features: Floats, values: Floats) -> Floats:
    return np.asarray(np.linalg.lstsq(sums(features), values, rcond=None)[0], dtype=np.float64)


def held_out_error(features: Floats, values: Floats, splits: int) -> float:
    """Mean absolute percentage error of rows that were not fitted."""
    parts = np.array_split(np.random.default_rng(SEED).permutation(len(values)), splits)
    errors = []
    for part in parts:
        rest = np.setdiff1d(np.arange(len(values)), part)
        predicted = sums(features[part]) @ weights_of(features[rest], values[rest])
        errors.append(np.abs(predicted / values[part] - 1))
    return float(100 * np.concatenate(errors).mean())


def layer_table(space: SuperTransformer, weights: Floats) -> mn.BlockTable:
    """Latency of layers as least squares have it; the same in every layer, as averages tell no
    more, and 0 where the layer is absent."""
    encoder = [weights[1] * own.ffn + weights[2] * own.heads for own in space.encoder_choices]
    decoder = [
        weights[3]
        + weights[4] * own.ffn
        + weights[5] * own.self_heads
        + weights[6] * own.cross_heads
        + weights[7] * attended_layers(own.attention)
        for own in space.decoder_choices
    ]
    absent = len(decoder)
    values = np.concatenate(
        [
            encoder if node < space.encoder_layers else [*decoder, 0.0][:size]
            for node, size in enumerate(space.sizes)
        ]
    )
    assert space.sizes[-1] == absent + 1
    own = values[space.offsets[:-1] + np.array(space.reference)]
    nothing = np.zeros(space.num_blocks)
    column = mn.BlockEffects(
        mn.metric_named("latency_ms"),
        float(weights[0] + own.sum()),
        values - np.repeat(own, space.sizes),
        nothing,
        nothing,
    )
    return mn.BlockTable(space, space.reference, {"latency_ms": column})


def by_depth(space: SuperTransformer) -> list[Network]:
    """The average-FLOPs network with 1 to 6 decoder layers."""
    average, gone = space.average_macs_network(), len(space.decoder_choices)
    first = space.encoder_layers
    return [
        (*average[: first + depth], *(gone,) * (space.decoder_layers - depth))
        for depth in range(1, space.decoder_layers + 1)
    ]


def drifting(space: SuperTransformer) -> tuple[list[Network], list[Network]]:
    """Networks of single sampling, and those of the published loop: it leaves each layer at its
    last candidate, and puts the encoder back alone."""
    average, last = space.average_macs_network(), len(space.decoder_choices) - 1
    clean, drifted = [], []
    for nodes in (range(space.encoder_layers), range(space.encoder_layers, space.num_nodes)):
        context = list(average)
        for node in nodes:
            size = space.sizes[node] if node < space.encoder_layers else last + 1
            for block in range(size):
                context[node] = block
                drifted.append(tuple(context))
                clean.append((*average[:node], block, *average[node + 1 :]))
    return clean, drifted


# ---- what is printed -----------------------------------------------------------------------------


def subtransformers(published: Sequence[Published]) -> None:
    print("\n1. HAT's SubTransformers, WMT'14 En-De: GFLOPs and parameters (M) recomputed; latency")
    print("   (ms) and BLEU as published\n")
    rows = [["device", "embedding", "layers", "GFLOPs", "params", "latency", "BLEU"]]
    for own in published:
        rows.append(
            [
                DEVICES[own.device],
                f"{own.space.encoder_embed}",
                f"6 + {own.space.to_config(own.network)['decoder_layer_num']}",
                f"{own.gflops:.3f}",
                f"{own.params:.3f}",
                f"{own.latency:.1f}",
                f"{own.bleu:.1f}",
            ]
        )
    print(lines(rows))


def same(row: Printed, device: str, published: Sequence[Published]) -> Published:
    """The SubTransformer of a printed HAT row: that with its FLOPs, and the closest latency."""
    gflops, _, latency = row.cells[device]
    found = [own for own in published if own.device == device and round(own.gflops, 1) == gflops]
    return min(found, key=lambda own: abs(own.latency - latency))


def as_printed(published: Sequence[Published]) -> None:
    print(
        "\n2. Table 2 as published: GFLOPs, BLEU, latency (ms); search time and CO2. For HAT's rows"
    )
    print("   in brackets: GFLOPs recomputed, BLEU and latency as published with the network\n")
    rows = [["model", *DEVICES.values(), "search"]]
    for row in ROWS:
        cells = []
        for device, (gflops, bleu, latency) in row.cells.items():
            text = f"{gflops:.1f} {bleu:.1f} {latency:.0f}"
            if row.model == "HAT":
                own = same(row, device, published)
                text += f" ({own.gflops:.3f} {own.bleu:.1f} {own.latency:.1f})"
            cells.append(text)
        rows.append([row.model, *cells, row.spent])
    print(lines(rows))


def depths(
    space: SuperTransformer,
    tables: dict[str, mn.BlockTable],
    published: Sequence[Published],
    splits: int,
) -> None:
    print("\n3. Latency (ms) of the average-FLOPs network with 1 to 6 decoder layers\n")
    networks = by_depth(space)
    rows = [["", *(f"{depth}" for depth in range(1, 7))]]
    facts: dict[str, list[str]] = {}
    for device, name in DEVICES.items():
        data, values = measured(device)
        predictor = hat_latency_predictor(space, value_scale=SCALES[device], seed=SEED)
        predictor.regressor.fit(data.features, values)
        anew = predictor.predict(networks)
        for which, own in (
            ("public predictor", np.array(PUBLIC[device], dtype=float)),
            ("predictor trained anew", anew),
            ("table of layers", tables[device].predict(networks, "latency_ms")),
        ):
            rows.append([f"{name}, {which}", *(f"{value:.1f}" for value in own)])
        clean, drifted = (predictor.predict(own) for own in drifting(space))
        layers = clean[: 6 * space.encoder_layers].reshape(space.encoder_layers, 6)
        known = [own for own in published if own.device == device and own.space == space]
        few = with_widths(data)
        off = {
            which: 100 * np.abs(own / [one.latency for one in known] - 1).mean()
            for which, own in (
                ("predictor", predictor.predict([one.network for one in known])),
                ("table", tables[device].predict([one.network for one in known], "latency_ms")),
            )
        }
        for what, text in {
            "entries of single sampling, lowest": f"{clean.min():.1f}",
            "entries of single sampling, highest": f"{clean.max():.1f}",
            "entries of the published loop are off by up to": (
                f"{np.abs(clean - drifted).max():.1f}"
            ),
            "one switch in another encoder layer: effects differ by": (
                f"{np.ptp(layers - layers[:, 2:3], axis=0).max():.0e}"
            ),
            "one decoder layer of six saves, %: predicted": f"{100 * (1 - anew[0] / anew[5]):.1f}",
            f"... with {ABSENT[0]} (a BLEU) for its ms": f"{100 * (1 - ABSENT[0] / anew[5]):.1f}",
            "rows that the table of layers is fitted to": f"{few.sum()}",
            f"its error in {splits}-fold validation, %": (
                f"{held_out_error(data.features[few], values[few], splits):.2f}"
            ),
            "HAT's published latencies of networks in the space": f"{len(known)}",
            "... error of the predictor, %": f"{off['predictor']:.1f}",
            "... error of the table of layers, %": f"{off['table']:.1f}",
        }.items():
            facts.setdefault(what, []).append(text)
    print(lines(rows))
    print(
        "\n   By device, in ms where nothing else is said; entries by the predictor trained anew\n"
    )
    print(lines([["", *DEVICES.values()], *([what, *own] for what, own in facts.items())]))


def searches(
    space: SuperTransformer,
    tables: dict[str, mn.BlockTable],
    published: Sequence[Published],
    seeds: int,
) -> None:
    single = mn.single_sampling(space).cost
    print(
        "\n4. The largest network (GFLOPs) that is predicted as fast as HAT's, by search. Exact:\n"
        f"   proven, median time of {REPEATS} solves. HAT's evolution with {single} evaluations,\n"
        f"   as many as single sampling takes, and with HAT's {HAT_BUDGET}: mean of {seeds}\n"
        "   seeds, seconds of a run with its study, how often the larger budget found the optimum\n"
    )
    rows = [
        [
            *("device, latency of HAT's (ms)", "predicted", "HAT's", "exact", "ms"),
            *(f"{single} evaluations", "s", f"{HAT_BUDGET} evaluations", "s", "optimal"),
        ]
    ]
    for row in (row for row in ROWS if row.model == "HAT"):
        for device, name in DEVICES.items():
            own, table = same(row, device, published), tables[device]
            if own.space != space:
                continue
            limit = float(table.predict([own.network], "latency_ms")[0])
            limits = {"latency_ms": limit}
            times = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                answer = mn.search(table, maximize="macs", limits=limits)
                times.append(1e3 * (time.perf_counter() - start))
            assert isinstance(answer, mn.Answer)
            assert answer.gap == 0
            text = [
                f"{name}, {own.latency:.1f}",
                f"{limit:.1f}",
                f"{own.gflops:.3f}",
                f"{2 * answer.value / 1e9:.3f}",
                f"{statistics.median(times):.1f}",
            ]
            for budget in (single, HAT_BUDGET):
                found = [evolved(table, limit, budget, seed) for seed in range(seeds)]
                gflops, seconds = np.mean(found, axis=0)
                text += [f"{gflops:.3f}", f"{seconds:.1f}"]
            best = 2 * answer.value / 1e9
            reached = sum(abs(gflops - best) < 1e-9 for gflops, _ in found)
            rows.append([*text, f"{reached} of {seeds}"])
    print(lines(rows))


def evolved(table: mn.BlockTable, limit: float, budget: int, seed: int) -> tuple[float, float]:
    """GFLOPs of what HAT's evolution finds, and the seconds that it took."""
    space = table.space
    size = Metric("gflops", "", Direction.MAXIMIZE, additive=True)
    evaluator = mn.FunctionEvaluator(
        lambda network: 2 * float(space.macs([network])[0]) / 1e9, [size], noisy=False
    )
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        mn.Study(f"{folder}/hat.study", space) as study,
    ):
        found = hat_search(
            study,
            evaluator,
            maximize="gflops",
            costs=table,
            cost_limits={"latency_ms": limit},
            budget=budget,
            seed=seed,
        )
    return found.values["gflops"], time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=5, help="of the validation of the tables")
    parser.add_argument("--seeds", type=int, default=3, help="of HAT's evolution")
    chosen = parser.parse_args()
    print(header(SEED), flush=True)
    space, published = SuperTransformer(), read_published()
    tables = {}
    for device in DEVICES:
        data, values = measured(device)
        few = with_widths(data)
        tables[device] = layer_table(space, weights_of(data.features[few], values[few]))
    subtransformers(published)
    as_printed(published)
    depths(space, tables, published, chosen.splits)
    searches(space, tables, published, chosen.seeds)


if __name__ == "__main__":
    main()
