"""Latency of HAT's space by HAT's protocol: predicted from blocks, depth included.

    python benchmarks/translation_latency.py --folder work

SubTransformers of the WMT space (embedding 512) in PyTorch on one thread: an encoder run and 30
incremental decoder steps at beam 5 with kept keys and values; weights are random, which costs the
same. Everything that is measured is kept in a study in the folder, so the script goes on where it
was stopped, and may be stopped and run on other occasions.

Networks that are predicted, and the first ones that tables are made of, are drawn as HAT draws its
data set, depth first and then every layer; 60 of them lack 90 of the 257 blocks. The others that
tables are made of hold every block equally often (a balanced sample), so that nearly all have six
decoder layers. Tables are regressions on the one kind, the other and both, as they are and with a
line in MACs as the prior of effects; beside them, on all measurements, HAT's predictor on ten
averages and MACs alone. "Anew" is a second measurement of ten networks.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import mathnas as mn
from _machine import header
from _supernets import Floats, random_networks, values_of
from mathnas.baselines.hat_features import hat_features
from mathnas.baselines.mlp import hat_latency_predictor
from mathnas.devices.common import LatencyEvaluator
from mathnas.devices.noise import NoiseRule
from mathnas.devices.timing import TimingSettings
from mathnas.nets.supertransformer import SuperTransformerNet
from mathnas.nets.translation_engine import TranslationEngine
from mathnas.spaces import SuperTransformer
from mathnas.validation import quality

SEED = 0
RANDOM, BALANCED, FRESH, AGAIN = 60, 160, 40, 10
TIMING = TimingSettings(rounds=2, slice_ms=1.0, quantile=0.25, warmup_ms=0.0)


def measured(
    folder: Path, name: str, net: SuperTransformerNet, networks: Sequence[mn.Network]
) -> mn.Study:
    engine = TranslationEngine(words=net.space.vocabulary)
    evaluator = LatencyEvaluator(
        net.extract,
        engine,
        timing=TIMING,
        statistics=["cpu"],
        noise=NoiseRule(attempts=1),
        accept_noise=True,
    )
    study = mn.Study(folder / f"{name}.study", net.space)
    report = mn.evaluate(study, networks, evaluator, progress=True)
    assert not report.failures
    return study


def told(found: Floats, actual: Floats) -> str:
    off = 100 * np.abs(found / actual - 1)
    numbers = quality(found, actual)
    return (
        f"MAPE {off.mean():5.2f} %, worst {off.max():5.2f} %, Spearman {numbers.spearman:.3f}, "
        f"Kendall {numbers.kendall:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(header(SEED))
    options.folder.mkdir(parents=True, exist_ok=True)
    space = SuperTransformer()
    net = SuperTransformerNet(space, seed=SEED).eval()
    print(f"torch {torch.__version__}, 1 thread; {space.name}; 30 to 30 tokens, beam 5")
    drawn = random_networks(space, RANDOM + FRESH, SEED)
    balanced = mn.balanced_sampling(space, BALANCED, seed=SEED + 1).networks
    everything = [*drawn[:RANDOM], *balanced]
    known = {
        f"{RANDOM} random networks": drawn[:RANDOM],
        f"{BALANCED} balanced networks": balanced,
        f"all {RANDOM + BALANCED}": everything,
    }
    fresh = [*drawn[RANDOM:], *random_networks(space, FRESH, SEED + 1)]
    study = measured(options.folder, "known", net, everything)
    later = measured(options.folder, "fresh", net, fresh)
    again = fresh[:AGAIN]
    anew = measured(options.folder, "anew", net, again)
    for metric in ("latency_ms", "latency_ms_cpu"):
        actual = values_of(later, metric, fresh)
        clock = "by the clock" if metric == "latency_ms" else "processor time"
        span = f"{actual.min():.0f} to {actual.max():.0f} ms"
        print(f"\n## {len(fresh)} fresh networks, {clock}: {span}")
        found: list[tuple[str, Floats]] = []
        for name, networks in known.items():
            with tempfile.TemporaryDirectory() as folder, mn.Study(f"{folder}/s", space) as part:
                wanted = set(networks)
                part.add(one for one in study.evaluations(metric) if one.network in wanted)
                table = mn.fit(part, [metric], method="regression")
                line = fitted_line(space, networks, values_of(study, metric, networks))
                prior = table_of_macs(space, metric, line.convert().coef)
                centred = mn.fit(part, [metric], method="regression", prior=prior)
            table_of_all = table.predict(fresh, metric)  # the last one is
            found += [
                (f"table of {name}", table_of_all),
                ("... MACs as the effects' prior", centred.predict(fresh, metric)),
            ]
        learnt = values_of(study, metric, everything)
        perceptron = hat_latency_predictor(space, seed=SEED)
        perceptron.fit(everything, learnt)
        features = [_with_one(hat_features(space, own)) for own in (everything, fresh)]
        weights = np.linalg.lstsq(features[0], learnt, rcond=None)[0]
        line = fitted_line(space, everything, learnt)
        found += [
            ("HAT's perceptron on ten averages", perceptron.predict(fresh)),
            ("linear in the ten averages", features[1] @ weights),
            ("linear in MACs", np.asarray(line(space.macs(fresh)), dtype=np.float64)),
        ]
        repeated = told(values_of(anew, metric, again), values_of(later, metric, again))
        print(f"{f'{len(again)} measured anew':34} {repeated}")
        for name, values in found:
            print(f"{name:34} {told(values, actual)}")
        depths = np.array([space.to_config(one)["decoder_layer_num"] for one in fresh])
        for depth in range(1, space.decoder_layers + 1):
            of_depth = actual[depths == depth]
            if len(of_depth):
                off = 100 * np.abs(table_of_all[depths == depth] / of_depth - 1)
                print(
                    f"  {depth} decoder layers: {len(of_depth)} networks, {of_depth.min():.0f} to "
                    f"{of_depth.max():.0f} ms, MAPE of the last table {off.mean():.1f} %"
                )


def fitted_line(
    space: SuperTransformer, networks: Sequence[mn.Network], values: Floats
) -> np.polynomial.Polynomial:
    """Values as a line in MACs."""
    line: np.polynomial.Polynomial = np.polynomial.Polynomial.fit(space.macs(networks), values, 1)
    return line


def table_of_macs(space: SuperTransformer, metric: str, line: Floats) -> mn.BlockTable:
    """What blocks would take were latency a line in MACs."""
    reference = space.reference
    macs = np.array([block.macs or 0 for node in space.nodes for block in node.blocks], float)
    own = macs[space.offsets[:-1] + np.array(reference)]
    effects = line[1] * (macs - np.repeat(own, space.sizes))
    base = float(line[0] + line[1] * own.sum())
    unknown, once = np.full(len(effects), np.nan), np.ones(len(effects))
    column = mn.BlockEffects(mn.metric_named(metric), base, effects, unknown, once)
    return mn.BlockTable(space, reference, {metric: column})


def _with_one(features: Floats) -> Floats:
    return np.column_stack([features, np.ones(len(features))])


if __name__ == "__main__":
    main()
