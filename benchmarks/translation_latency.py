"""Latency of HAT's space by HAT's protocol: predicted from blocks, depth included.

    python benchmarks/translation_latency.py --folder work [--networks 60] [--fresh 40]

SubTransformers of the WMT space (embedding 512) in PyTorch on one thread: an encoder run and 30
incremental decoder steps at beam 5 with kept keys and values; weights are random, which costs the
same. Everything that is measured is kept in a study in the folder, so the script goes on where it
was stopped.

Networks are drawn as HAT draws its data set, depth first and then every layer. The table is a
regression on the first ones, as it is and with a line in MACs as the prior of effects; beside it,
on the same measurements, HAT's predictor on ten averages and MACs alone. They predict fresh
networks; "anew" is a second measurement of ten of these.
"""

from __future__ import annotations

import argparse
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
AGAIN = 10
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
    parser.add_argument("--networks", type=int, default=60, help="that the table is made of")
    parser.add_argument("--fresh", type=int, default=40, help="that are predicted")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(header(SEED))
    options.folder.mkdir(parents=True, exist_ok=True)
    space = SuperTransformer()
    net = SuperTransformerNet(space, seed=SEED).eval()
    print(f"torch {torch.__version__}, 1 thread; {space.name}; 30 to 30 tokens, beam 5")
    networks = random_networks(space, options.networks + options.fresh, SEED)
    known, fresh = networks[: options.networks], networks[options.networks :]
    study = measured(options.folder, "known", net, known)
    later = measured(options.folder, "fresh", net, fresh)
    again = fresh[:AGAIN]
    anew = measured(options.folder, "anew", net, again)
    for metric in ("latency_ms", "latency_ms_cpu"):
        actual = values_of(later, metric, fresh)
        learnt = values_of(study, metric, known)
        clock = "by the clock" if metric == "latency_ms" else "processor time"
        span = f"{actual.min():.0f} to {actual.max():.0f} ms"
        print(f"\n## {len(fresh)} fresh networks, {clock}: {span}")
        table = mn.fit(study, [metric], method="regression")
        perceptron = hat_latency_predictor(space, seed=SEED)
        perceptron.fit(known, learnt)
        features = _with_one(hat_features(space, known)), _with_one(hat_features(space, fresh))
        line = np.polynomial.Polynomial.fit(space.macs(known), learnt, 1)
        prior = table_of_macs(space, metric, line.convert().coef)
        centred = mn.fit(study, [metric], method="regression", prior=prior)
        found = {
            f"table of {len(known)} networks": table.predict(fresh, metric),
            "... MACs as the effects' prior": centred.predict(fresh, metric),
            "HAT's perceptron on ten averages": perceptron.predict(fresh),
            "linear in the ten averages": features[1]
            @ np.linalg.lstsq(features[0], learnt, rcond=None)[0],
            "linear in MACs": np.asarray(line(space.macs(fresh)), dtype=np.float64),
        }
        repeated = told(values_of(anew, metric, again), values_of(later, metric, again))
        print(f"{f'{len(again)} measured anew':34} {repeated}")
        for name, values in found.items():
            print(f"{name:34} {told(values, actual)}")
        depths = np.array([space.to_config(one)["decoder_layer_num"] for one in fresh])
        for depth in range(1, space.decoder_layers + 1):
            of_depth = actual[depths == depth]
            if len(of_depth):
                print(
                    f"  {depth} decoder layers: {len(of_depth)} networks, {of_depth.min():.0f} to "
                    f"{of_depth.max():.0f} ms"
                )


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
