"""The study of a trained supernet on CIFAR-10: single sampling, prediction of random networks, and
searches, from studies in a folder.

Images: the training images that were held out estimate blocks ("held out"); the test images
validate ("test").
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

import mathnas as mn
from _supernets import Floats, Trained, compared, random_networks, spearman, values_of
from mathnas.devices.onnxruntime import OnnxRuntimeEngine
from mathnas.devices.relative import RelativeLatencyEvaluator
from mathnas.nets.evaluators import AccuracyEvaluator
from mathnas.nets.onnx_export import NetworkGraphs
from mathnas.nets.scores import LabelledImages
from mathnas.nets.supernet import Supernet
from mathnas.training.networks import extreme_networks

SEED = 0
QUANTILES = (0.2, 0.5, 0.8)  # of the random networks: the limits
PROXIED = "regression, the loss as proxy"


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        validating: random networks that validate.
        feasible, pool: random feasible networks a search, of how many random ones.
        held, test: images that are used of each part; None: all.
        pool_images, stage_images: test images for the many networks of parts 3 and 4.
        calibrating: images for batch-norm statistics.
        learnt: networks that Once-for-All's perceptron learns from; None: as single sampling.
        candidates: of a stage.
    """

    validating: int = 100
    feasible: int = 200
    pool: int = 2_000
    held: int | None = None
    test: int | None = None
    pool_images: int = 1_500
    stage_images: int = 1_000
    calibrating: int = 600
    learnt: int | None = None
    candidates: int = 5


QUICK = Sizes(10, 10, 100, 100, 100, 60, 40, 100, 20, 2)


@dataclass
class Bench:
    """The supernet, its images, and the studies of what is measured of it."""

    folder: Path
    supernet: Supernet
    held: LabelledImages
    test: LabelledImages
    calibration: tuple[torch.Tensor, ...]
    workers: int
    sizes: Sizes
    accept_noise: bool = False
    studies: dict[str, mn.Study] = field(default_factory=dict)

    @classmethod
    def open(
        cls, path: Path, folder: Path, workers: int, sizes: Sizes, accept_noise: bool = False
    ) -> Bench:
        trained = Trained.open(path)
        folder.mkdir(parents=True, exist_ok=True)
        return cls(
            folder,
            trained.supernet,
            trained.images(trained.held, sizes.held),
            shuffled(trained.images(trained.test, sizes.test)),
            trained.calibration(sizes.calibrating, SEED),
            workers,
            sizes,
            accept_noise,
        )

    @property
    def space(self) -> mn.SearchSpace:
        return self.supernet.space

    @cached_property
    def graphs(self) -> NetworkGraphs:
        side = self.supernet.resolution
        assert side is not None
        return NetworkGraphs(self.supernet, torch.zeros(1, 3, side, side))

    def measured(
        self,
        name: str,
        networks: Sequence[mn.Network] | mn.Sample,
        images: LabelledImages,
    ) -> mn.Study:
        """Accuracy and loss on these images, in a study of this name."""
        evaluator = AccuracyEvaluator(
            self.supernet, self.calibration, images, with_loss=True, batch_size=18
        )
        return self.into(name, self.space, networks, evaluator, self.workers)

    def timed(self, name: str, networks: Sequence[mn.Network] | mn.Sample) -> mn.Study:
        """Latency of one image on one thread of onnxruntime, in a study of this name.

        Beside the reference network, whose own latency is measured once, in the first study: what
        is measured at another hour must not differ by what the machine did then. Times are taken on
        one core, whatever the number of workers for the rest.
        """
        with pinned():
            evaluator = RelativeLatencyEvaluator(
                self.graphs,
                OnnxRuntimeEngine(),
                self.space.reference,
                accept_noise=self.accept_noise,
            )
            evaluator.settle(self.studies["blocks"])
            return self.into(name, self.space, networks, evaluator, 1)

    def into(
        self,
        name: str,
        space: mn.SearchSpace,
        networks: Sequence[mn.Network] | mn.Sample,
        evaluator: mn.Evaluator,
        workers: int,
    ) -> mn.Study:
        if name not in self.studies:
            self.studies[name] = mn.Study(self.folder / f"{name}.study", space)
        study = self.studies[name]
        report = mn.evaluate(study, networks, evaluator, workers=workers, progress=True)
        assert not report.failures
        return study


@contextmanager
def pinned() -> Iterator[None]:
    """On the last of the cores that this process may use."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def shuffled(images: LabelledImages) -> LabelledImages:
    """In random order, so that parts of them are alike."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    return LabelledImages(images.images[order], images.labels[order])


def part_of(images: LabelledImages, count: int) -> LabelledImages:
    """The first images."""
    return LabelledImages(images.images[:count], images.labels[:count])


def extremes(bench: Bench) -> None:
    """The supernet, its smallest and its largest network."""
    space = bench.space
    parameters = sum(p.numel() for p in bench.supernet.parameters())
    print(f"supernet: {space.name}, {parameters:,} parameters")
    found = dict(zip(("smallest", "largest"), extreme_networks(space), strict=True))
    study = bench.measured("extremes", list(found.values()), bench.test)
    print("\n## 1. The supernet")
    for name, network in found.items():
        accuracy = values_of(study, "accuracy", [network])[0]
        print(
            f"{name} network: {space.macs([network])[0] / 1e6:.2f} M MACs, test accuracy "
            f"{accuracy:.2f} %"
        )


def halves_of(bench: Bench, networks: Sequence[mn.Network]) -> list[Floats]:
    """Accuracies on the two halves of the test images."""
    return [
        values_of(
            bench.measured(f"test{number}", networks, LabelledImages(images, labels)),
            "accuracy",
            networks,
        )
        for number, (images, labels) in enumerate(
            zip(bench.test.images.chunk(2), bench.test.labels.chunk(2), strict=True)
        )
    ]


def prediction(bench: Bench) -> mn.BlockTable:
    """Single sampling, and how well it predicts; the table to search with."""
    space, networks = bench.space, random_networks(bench.space, bench.sizes.validating, SEED + 1)
    sample = mn.single_sampling(space)
    blocks = bench.measured("blocks", sample, bench.held)
    bench.timed("blocks", sample)
    held = bench.measured("held", networks, bench.held)
    first, second = halves_of(bench, networks)
    test, same = (first + second) / 2, values_of(held, "accuracy", networks)
    macs, between = space.macs(networks), spearman(first, second)
    print(f"\n## 2. Prediction of {len(networks)} random networks from {sample.cost}")
    print(
        f"MACs {macs.min() / 1e6:.2f} to {macs.max() / 1e6:.2f} M, test accuracy {test.min():.2f} "
        f"to {test.max():.2f} %: a span of {np.ptp(test):.2f} points"
    )
    print(
        f"noise: two halves of the test images, Spearman {between:.3f} (Spearman-Brown for all of "
        f"them {2 * between / (1 + between):.3f}); held-out against test images "
        f"{spearman(same, test):.3f}"
    )
    print(f"MACs alone: Spearman {spearman(macs, test):.3f}")
    tables = {
        "single sampling": mn.fit(blocks, method="single"),
        "regression": mn.fit(blocks, method="regression"),
        PROXIED: mn.fit(blocks, method="regression", proxy={"accuracy": "loss"}),
    }
    for name, table in tables.items():
        found = table.predict(networks, "accuracy")
        print(f"{name}, accuracy on the same images: {compared(found, same, ' points')}")
        print(f"{name}, accuracy on test images: {compared(found, test, ' points')}")
        losses, known = table.predict(networks, "loss"), values_of(held, "loss", networks)
        print(f"{name}, loss on the same images: {compared(losses, known)}")
        print(
            f"{name}, accuracy ranked by predicted loss: same images "
            f"{spearman(-losses, same):.3f}, test images {spearman(-losses, test):.3f}"
        )
        for metric in ("accuracy", "loss"):
            print(f"{name}: response scale of {metric}: {table.column(metric).metric.scale}")
    bench.timed("held", networks)
    for name, table in tables.items():
        times = values_of(held, "latency_ms", networks)
        found = table.predict(networks, "latency_ms")
        relative = 100 * np.abs(found / times - 1)
        print(
            f"{name}, latency ({times.min():.3f} to {times.max():.3f} ms, onnxruntime, 1 thread, 1 "
            f"image): {compared(found, times, ' ms')}; mean relative error {relative.mean():.1f} "
            f"%, worst {relative.max():.1f} %; MACs alone: Spearman {spearman(macs, times):.3f}"
        )
    return tables[PROXIED]


@dataclass(frozen=True)
class Limited:
    """One search."""

    metric: str
    value: float

    def __str__(self) -> str:
        if self.metric == "macs":
            return f"MACs <= {self.value / 1e6:5.2f} M"
        return f"latency <= {self.value:5.3f} ms"

    @property
    def limits(self) -> dict[str, float]:
        return {self.metric: self.value}


def answered(table: mn.BlockTable, one: Limited) -> mn.Answer:
    answer = mn.search(table, maximize="accuracy", limits=one.limits)
    assert isinstance(answer, mn.Answer)
    return answer


# what another finder answers to the limits
Finder: TypeAlias = Callable[[Sequence[Limited]], Mapping[Limited, mn.Network | None]]


def searches(
    bench: Bench,
    table: mn.BlockTable,
    metrics: Sequence[str],
    finder: Finder | None = None,
    named: str = "",
) -> None:
    """Ours, the best of random feasible networks, and another finder.

    Args:
        metrics: that are limited.
        finder, named: another one, and its name.
    """
    space, sizes = bench.space, bench.sizes
    pool = random_networks(space, sizes.pool, SEED + 2)
    costs = {"macs": space.macs(pool), "latency_ms": table.predict(pool, "latency_ms")}
    wanted = [
        Limited(metric, float(np.quantile(costs[metric], share)))
        for metric in metrics
        for share in QUANTILES
    ]
    feasible: dict[Limited, list[mn.Network]] = {}
    for one in wanted:
        within = [n for n, cost in zip(pool, costs[one.metric], strict=True) if cost <= one.value]
        feasible[one] = within[: sizes.feasible]
        assert len(feasible[one]) == sizes.feasible
    cost = mn.single_sampling(space).cost
    ours = {one: answered(table, one) for one in wanted}
    theirs = {} if finder is None else finder(wanted)
    answers = [*(answer.network for answer in ours.values()), *filter(None, theirs.values())]
    found = list(dict.fromkeys(answers))
    everything = list(dict.fromkeys([*found, *(n for own in feasible.values() for n in own)]))
    images = part_of(bench.test, sizes.pool_images)
    study = bench.measured("pool", everything, images)
    best = {
        one: own[int(np.argmax(values_of(study, "accuracy", own)))] for one, own in feasible.items()
    }
    finals = list(dict.fromkeys([*found, *best.values()]))
    first, second = halves_of(bench, finals)
    whole_of = dict(zip(finals, (first + second) / 2, strict=True))
    timed = bench.timed("pool", found)

    def shown_of(network: mn.Network) -> str:
        return f"{values_of(study, 'accuracy', [network])[0]:.2f} ({whole_of[network]:6.2f})"

    def cost_of(one: Limited, network: mn.Network) -> float:
        if one.metric == "macs":
            return float(space.macs([network])[0]) / 1e6
        return float(values_of(timed, "latency_ms", [network])[0])

    print(f"\n## 3. Searches, after {cost} evaluations each (random: {sizes.feasible} a search)")
    print(
        f"accuracy on {len(images)} test images, by which the best random network is chosen, and "
        f"in brackets on all {len(bench.test)}"
    )
    print(
        f"{'limit':22} {'ours':>15} {'best of random':>15} {named:>15}  predicted  "
        f"measured cost{f' (ours, {named})' if named else ''}   solved in"
    )
    wins = against = 0
    for one in wanted:
        mine, other = ours[one].network, theirs.get(one)
        chosen = best[one]
        wins += bool(whole_of[mine] >= whole_of[chosen])
        against += other is None or bool(whole_of[mine] >= whole_of[other])
        beside = "nothing found" if other is None else shown_of(other)
        print(
            f"{one!s:22} {shown_of(mine):>15} {shown_of(chosen):>15} "
            f"{beside if theirs else '':>15}  "
            f"{ours[one].predictions['accuracy'].value:9.2f}  {cost_of(one, mine):9.3f} "
            f"{'' if other is None else f'{cost_of(one, other):.3f}':>9}   "
            f"{1e3 * ours[one].seconds:.2f} ms, {ours[one].status.value}"
        )
    text = f"ours at least as good as the best of {sizes.feasible} random networks in {wins}"
    if theirs:
        text += f", as {named} in {against}"
    print(f"{text} of {len(wanted)}")
