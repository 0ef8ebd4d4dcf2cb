"""The whole way on a trained SuperTransformer: Multi30k, English to German.

    MATHNAS_DATA=... python benchmarks/multi30k_supertransformer.py --folder work [--workers 2]
        [--supernet benchmarks/supernets/multi30k_supertransformer.safetensors]

The supernet was trained by the command that `benchmarks/supernets/README.md` tells, as HAT trains:
a random network a step. Sentences: the 1,014 pairs of the validation part estimate blocks ("held
out"); the 1,000 of test_2016_flickr validate ("test"). Everything that is measured is kept in
studies in the folder, so the script goes on where it was stopped. Latencies come first: start it on
a quiet machine.

1. The supernet's smallest and largest network.
2. Single sampling over the layers in loss, BLEU and latency (HAT's protocol: 30 tokens, 30 steps,
   beam 5; PyTorch, one thread); 60 random networks: predicted against measured loss, BLEU, latency.
3. Searches at three latency limits for the least loss, measured: of the table ("ours"), and refined
   with 123 evaluations of its own a limit; beside them HAT's evolutionary search with as many, and
   the best of as many random networks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import mathnas as mn
from _machine import header
from _supernets import compared, random_networks, spearman, values_of
from mathnas.baselines import hat_search
from mathnas.devices.relative import RelativeLatencyEvaluator
from mathnas.devices.timing import TimingSettings
from mathnas.nets.files import read_supernet
from mathnas.nets.supertransformer import SuperTransformerNet
from mathnas.nets.translation_engine import TranslationEngine
from mathnas.spaces import SuperTransformer
from mathnas.text.corpus import ParallelText, open_parallel
from mathnas.text.evaluator import ReferenceBleu, TranslationEvaluator
from mathnas.text.vocabulary import VOCABULARY_FILE, Vocabulary

SUPERNET = Path("benchmarks/supernets/multi30k_supertransformer.safetensors")
SEED = 0
VALIDATING = 60
POOL = 2_000
QUANTILES = (0.2, 0.5, 0.8)  # of the pool's predicted latencies: the limits
DATA = "multi30k:en-de"


@dataclass(frozen=True)
class Bench:
    """The supernet, its sentences, and where studies are."""

    folder: Path
    net: SuperTransformerNet
    vocabulary: Vocabulary
    workers: int
    studies: dict[str, mn.Study] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, folder: Path, workers: int) -> Bench:
        net, notes = read_supernet(path)
        assert isinstance(net, SuperTransformerNet)
        vocabulary = Vocabulary.load(path.with_name(f"{path.stem}.{VOCABULARY_FILE}"))
        noted = notes["vocabulary"]
        assert isinstance(noted, dict)
        assert noted["sha256"] == vocabulary.fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, net, vocabulary, workers)

    @property
    def space(self) -> SuperTransformer:
        return self.net.space

    def evaluator(self, text: ParallelText, *, translating: bool) -> TranslationEvaluator:
        ids = (self.vocabulary.encode(side) for side in (text.source, text.target))
        score = ReferenceBleu(text.target, self.vocabulary) if translating else None
        return TranslationEvaluator(self.net, *ids, score=score)

    def measured(
        self,
        name: str,
        networks: Sequence[mn.Network] | mn.Sample,
        text: ParallelText,
        *,
        translating: bool = False,
    ) -> mn.Study:
        """Loss, and BLEU where they translate, in a study of this name."""
        evaluator = self.evaluator(text, translating=translating)
        return self._into(name, networks, evaluator, self.workers)

    def timed(self, name: str, networks: Sequence[mn.Network] | mn.Sample) -> mn.Study:
        """Latency beside the reference network, in a study of this name."""
        engine = TranslationEngine(words=self.space.vocabulary)
        evaluator = RelativeLatencyEvaluator(
            self.net.extract,
            engine,
            self.space.reference,
            timing=TimingSettings(rounds=6, slice_ms=1.0),
        )
        evaluator.settle(self.study("blocks"))
        return self._into(name, networks, evaluator, 1)

    def study(self, name: str) -> mn.Study:
        if name not in self.studies:
            self.studies[name] = mn.Study(self.folder / f"{name}.study", self.space)
        return self.studies[name]

    def _into(
        self,
        name: str,
        networks: Sequence[mn.Network] | mn.Sample,
        evaluator: mn.Evaluator,
        workers: int,
    ) -> mn.Study:
        study = self.study(name)
        report = mn.evaluate(study, networks, evaluator, workers=workers, progress=True)
        assert not report.failures
        return study


def prediction(bench: Bench, held: ParallelText, test: ParallelText) -> mn.BlockTable:
    """The table, and what it foretells of random networks."""
    space = bench.space
    sample, networks = mn.single_sampling(space), random_networks(space, VALIDATING, SEED + 1)
    bench.timed("blocks", sample)
    timed = bench.timed("random", networks)
    blocks = bench.measured("blocks", sample, held, translating=True)
    bench.measured("random", networks, held)
    tested = bench.measured("test", networks, test, translating=True)
    halves = [
        values_of(
            bench.measured(f"half{part}", networks, test.part(range(part, len(test), 2))),
            "loss",
            networks,
        )
        for part in (0, 1)
    ]
    between = spearman(*halves)
    same, loss = values_of(timed, "loss", networks), values_of(tested, "loss", networks)
    bleu = values_of(tested, "bleu", networks)
    errors = [float(one.measurement.notes["standard_error"]) for one in tested.evaluations("bleu")]
    macs = space.macs(networks)
    print(f"\n## 2. Prediction of {len(networks)} random networks from {sample.cost}")
    print(
        f"MACs {macs.min() / 1e6:.1f} to {macs.max() / 1e6:.1f} M; test loss {loss.min():.3f} to "
        f"{loss.max():.3f} nats a token; BLEU {bleu.min():.2f} to {bleu.max():.2f}, standard error "
        f"over sentences {min(errors):.2f} to {max(errors):.2f}"
    )
    print(
        f"noise: two halves of the test sentences, Spearman of losses {between:.3f} "
        f"(Spearman-Brown for all of them {2 * between / (1 + between):.3f})"
    )
    print(
        f"held-out against test losses: Spearman {spearman(same, loss):.3f}; test losses against "
        f"BLEU {spearman(-loss, bleu):.3f}"
    )
    print(f"MACs alone: loss {spearman(-macs, loss):.3f}, BLEU {spearman(macs, bleu):.3f}")
    tables = {
        "single sampling": mn.fit(blocks, method="single"),
        "regression": mn.fit(blocks, method="regression"),
    }
    times = values_of(timed, "latency_ms", networks)
    for name, table in tables.items():
        found = table.predict(networks, "loss")
        print(f"{name}, loss on the same sentences: {compared(found, same)}")
        print(f"{name}, loss on test sentences: {compared(found, loss)}")
        print(f"{name}, test BLEU ranked by predicted loss: Spearman {spearman(-found, bleu):.3f}")
        found = table.predict(networks, "bleu")
        print(f"{name}, BLEU on test sentences: {compared(found, bleu)}")
        print(f"{name}: response scale of loss: {table.column('loss').metric.scale}")
        found = table.predict(networks, "latency_ms")
        off = 100 * np.abs(found / times - 1)
        print(
            f"{name}, latency ({times.min():.1f} to {times.max():.1f} ms): "
            f"{compared(found, times, ' ms')}; MAPE {off.mean():.1f} %, worst {off.max():.1f} %"
        )
    return tables["single sampling"]


@dataclass(frozen=True)
class Found:
    """Which network a search chose."""

    name: str
    limit: float
    network: mn.Network


def searches(
    bench: Bench, table: mn.BlockTable, held: ParallelText, test: ParallelText
) -> list[Found]:
    """Ours, HAT's and the best of random ones at three limits on predicted latency."""
    space, cost = bench.space, mn.single_sampling(bench.space).cost
    pool = random_networks(space, POOL, SEED + 2)
    times = table.predict(pool, "latency_ms")
    evaluator = bench.evaluator(held, translating=False)
    found = []
    for share in QUANTILES:
        limit = float(np.quantile(times, share))
        answer = mn.search(table, minimize="loss", limits={"latency_ms": limit})
        assert isinstance(answer, mn.Answer)
        found.append(Found("ours", limit, answer.network))
        found.append(Found("refined", limit, refined(bench, table, evaluator, limit, share)))
        study = bench.study(f"hat{share:g}")
        outcome = hat_search(
            study,
            evaluator,
            minimize="loss",
            costs=table,
            cost_limits={"latency_ms": limit},
            budget=cost,
            seed=SEED,
            progress=True,
        )
        assert outcome.network is not None
        found.append(Found("HAT", limit, outcome.network))
        feasible = [n for n, time in zip(pool, times.tolist(), strict=True) if time <= limit][:cost]
        random = bench.measured("pool", feasible, held)
        losses = values_of(random, "loss", feasible)
        found.append(Found("random", limit, feasible[int(losses.argmin())]))
        print(
            f"latency <= {limit:.2f} ms: solved in {1e3 * answer.seconds:.2f} ms, "
            f"{answer.status.value}"
        )
    return found


def refined(
    bench: Bench,
    table: mn.BlockTable,
    evaluator: TranslationEvaluator,
    limit: float,
    share: float,
) -> mn.Network:
    """What solving, evaluating and fitting again comes to, with as many evaluations as HAT's has;
    latencies are the table's, as there."""

    def values(network: mn.Network) -> dict[str, float]:
        loss = evaluator.evaluate(network)["loss"]
        assert isinstance(loss, float)
        return {"loss": loss, "latency_ms": float(table.predict([network], "latency_ms")[0])}

    found = mn.refine(
        bench.study(f"refined{share:g}"),
        mn.FunctionEvaluator(values, ["loss", "latency_ms"]),
        minimize="loss",
        limits={"latency_ms": limit},
        budget=mn.single_sampling(bench.space).cost,
        repeats=1,
        seed=SEED,
        progress=True,
    )
    assert found.network is not None
    return found.network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--supernet", type=Path, default=SUPERNET)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(header(SEED))
    print(f"torch {torch.__version__}, {options.workers} workers of one thread")
    bench = Bench.open(options.supernet, options.folder, options.workers)
    space, net = bench.space, bench.net
    parameters = sum(parameter.numel() for parameter in net.parameters())
    print(f"supernet: {space.name}, {parameters:,} parameters, {space.num_networks:,} networks")
    held, test = open_parallel(DATA, "valid"), open_parallel(DATA, "test")
    print(f"{len(held)} held-out pairs, {len(test)} test pairs; beam 4, length penalty 0.6")
    table = prediction(bench, held, test)
    extremes = dict(zip(("smallest", "largest"), net.extremes(), strict=True))
    study = bench.measured("test", list(extremes.values()), test, translating=True)
    print("\n## 1. The supernet")
    for name, network in extremes.items():
        print(
            f"{name} network: {space.macs([network])[0] / 1e6:.1f} M MACs, {_told(study, network)}"
        )
    print(f"\n## 3. Searches, after {mn.single_sampling(space).cost} evaluations each")
    found = searches(bench, table, held, test)
    networks = list(dict.fromkeys(one.network for one in found))
    bench.timed("chosen", networks)
    bench.measured("chosen", networks, held)
    chosen = bench.measured("test", networks, test, translating=True)
    times = bench.study("chosen")
    for one in found:
        own = [one.network]
        print(
            f"latency <= {one.limit:6.2f} ms, {one.name:7}: measured "
            f"{values_of(times, 'latency_ms', own)[0]:6.2f} ms (predicted "
            f"{table.predict(own, 'latency_ms')[0]:6.2f}), held-out loss "
            f"{values_of(times, 'loss', own)[0]:.4f} (predicted "
            f"{table.predict(own, 'loss')[0]:.4f}), {_told(chosen, one.network)}"
        )


def _told(study: mn.Study, network: mn.Network) -> str:
    (bleu,) = (one for one in study.evaluations("bleu") if one.network == network)
    loss = values_of(study, "loss", [network])[0]
    return (
        f"test loss {loss:.4f}, BLEU {bleu.measurement.value:.2f} "
        f"+- {bleu.measurement.notes['standard_error']}"
    )


if __name__ == "__main__":
    main()
