"""The whole way on a trained supernet: MobileNetV3 on CIFAR-10.

    MATHNAS_DATA=... python benchmarks/cifar10_mobilenetv3.py --folder work [--workers 2]
        [--supernet benchmarks/supernets/cifar10_mobilenetv3.safetensors]
        [--figure benchmarks/results/cifar10_mobilenetv3.png]

The supernet was trained by the command that its notes and `benchmarks/supernets/README.md` tell; it
has the full choice sets of depth, kernel and expansion. Images: the 5,000 training images that were
held out estimate blocks ("held out"); the 10,000 test images validate ("test"). Everything that is
measured is kept in studies in the folder, so the script goes on where it was stopped.

1. Single sampling over the 20 layers on the held-out images, in accuracy, loss and latency.
2. 100 random networks, as Once-for-All draws them: predicted against measured.
3. Searches at three limits on MACs and three on latency, against the best of 200 random feasible
   networks and Once-for-All's finder on a perceptron that learnt from as many evaluations.
4. Five candidates a stage, chosen from 7,371 by the table; all 3,125 networks: Figures 1-3 of the
   paper where it drew them.
5. Five candidates a stage whose weights fit into 2.5 times those of their largest network, as parts
   for onnxruntime: those of the benchmarks of dynamic networks.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import mathnas as mn
from _figures import grid, save
from _machine import header
from _supernets import Floats, Trained, compared, random_networks, spearman, values_of
from mathnas.baselines import ofa_finder
from mathnas.baselines.mlp import ofa_predictor
from mathnas.devices.onnxruntime import OnnxRuntimeEngine
from mathnas.devices.relative import RelativeLatencyEvaluator
from mathnas.metrics import metric_named
from mathnas.nets.evaluators import AccuracyEvaluator
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.onnx_export import NetworkGraphs
from mathnas.nets.scores import LabelledImages
from mathnas.runtime.deploying import choose_blocks
from mathnas.search import Limit
from mathnas.spaces import MobileNetV3
from mathnas.training.networks import extreme_networks

SUPERNET = Path("benchmarks/supernets/cifar10_mobilenetv3.safetensors")
SEED = 0
QUANTILES = (0.2, 0.5, 0.8)  # of the random networks: the limits
PROXIED = "regression, the loss as proxy"
SHARE = 0.05
MEMORY = 6.9e6  # bytes, of which the largest network has 2.78e6


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


# ---- data and measurements -----------------------------------------------------------------------


@dataclass
class Bench:
    """The supernet, its images, and the studies of what is measured of it."""

    folder: Path
    supernet: MobileNetV3Net
    held: LabelledImages
    test: LabelledImages
    calibration: tuple[torch.Tensor, ...]
    workers: int
    sizes: Sizes
    studies: dict[str, mn.Study] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, folder: Path, workers: int, sizes: Sizes) -> Bench:
        trained = Trained.open(path)
        assert isinstance(trained.supernet, MobileNetV3Net)
        folder.mkdir(parents=True, exist_ok=True)
        return cls(
            folder,
            trained.supernet,
            trained.images(trained.held, sizes.held),
            shuffled(trained.images(trained.test, sizes.test)),
            trained.calibration(sizes.calibrating, SEED),
            workers,
            sizes,
        )

    @property
    def space(self) -> MobileNetV3:
        return self.supernet.space

    @cached_property
    def graphs(self) -> NetworkGraphs:
        side = self.space.resolution
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
        return self._into(name, self.space, networks, evaluator, self.workers)

    def timed(self, name: str, networks: Sequence[mn.Network] | mn.Sample) -> mn.Study:
        """Latency of one image on one thread of onnxruntime, in a study of this name.

        Beside the reference network, whose own latency is measured once, in the first study: what
        is measured at another hour must not differ by what the machine did then.
        """
        evaluator = RelativeLatencyEvaluator(self.graphs, OnnxRuntimeEngine(), self.space.reference)
        evaluator.settle(self.studies["blocks"])
        return self._into(name, self.space, networks, evaluator, 1)

    def stages(self, space: mn.GroupedSpace) -> mn.Study:
        """Accuracy and loss of every network of candidates on a part of the test images."""
        evaluator = AccuracyEvaluator(
            GroupedSupernet(self.supernet, space),
            self.calibration,
            part_of(self.test, self.sizes.stage_images),
            with_loss=True,
            batch_size=125,
        )
        networks = list(space.enumerate())
        return self._into("stages", space, networks, evaluator, self.workers)

    def _into(
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


def shuffled(images: LabelledImages) -> LabelledImages:
    """In random order, so that parts of them are alike."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    return LabelledImages(images.images[order], images.labels[order])


def part_of(images: LabelledImages, count: int) -> LabelledImages:
    """The first images."""
    return LabelledImages(images.images[:count], images.labels[:count])


# ---- statistics ----------------------------------------------------------------------------------


# ---- the parts of the study ----------------------------------------------------------------------


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


class Learnt:
    """Once-for-All's perceptron for accuracy, our table for the limits."""

    def __init__(self, bench: Bench, table: mn.BlockTable, networks: Sequence[mn.Network]) -> None:
        self.space = bench.space
        self.table = table
        self.perceptron = ofa_predictor(self.space, seed=SEED)
        held = bench.measured("held", networks, bench.held)
        self.perceptron.fit(networks, values_of(held, "accuracy", networks))

    def predict(self, networks: npt.ArrayLike, metric: str) -> Floats:
        if metric == "accuracy":
            return self.perceptron.predict(networks)
        return self.table.predict(networks, metric)


def answered(table: mn.BlockTable, one: Limited) -> mn.Answer:
    answer = mn.search(table, maximize="accuracy", limits=one.limits)
    assert isinstance(answer, mn.Answer)
    return answer


def searches(bench: Bench, table: mn.BlockTable) -> None:
    """Ours, the best of random feasible networks, and Once-for-All's finder."""
    space, sizes = bench.space, bench.sizes
    pool = random_networks(space, sizes.pool, SEED + 2)
    costs = {"macs": space.macs(pool), "latency_ms": table.predict(pool, "latency_ms")}
    wanted = [
        Limited(metric, float(np.quantile(values, share)))
        for metric, values in costs.items()
        for share in QUANTILES
    ]
    feasible: dict[Limited, list[mn.Network]] = {}
    for one in wanted:
        within = [n for n, cost in zip(pool, costs[one.metric], strict=True) if cost <= one.value]
        feasible[one] = within[: sizes.feasible]
        assert len(feasible[one]) == sizes.feasible
    cost = mn.single_sampling(space).cost
    # the first of them are the networks that validated
    learnt = Learnt(bench, table, random_networks(space, sizes.learnt or cost, SEED + 1))
    ours = {one: answered(table, one) for one in wanted}
    theirs = {
        one: ofa_finder(
            learnt,
            maximize="accuracy",
            limits=[Limit(metric_named(one.metric), "<=", one.value)],
            seed=SEED,
        ).network
        for one in wanted
    }
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
        f"{'limit':22} {'ours':>15} {'best of random':>15} {'OFA finder':>15}  predicted  "
        "measured cost (ours, OFA)   solved in"
    )
    wins = against = 0
    for one in wanted:
        mine, other = ours[one].network, theirs[one]
        chosen = best[one]
        wins += bool(whole_of[mine] >= whole_of[chosen])
        against += other is None or bool(whole_of[mine] >= whole_of[other])
        print(
            f"{one!s:22} {shown_of(mine):>15} {shown_of(chosen):>15} "
            f"{'nothing found' if other is None else shown_of(other):>15}  "
            f"{ours[one].predictions['accuracy'].value:9.2f}  {cost_of(one, mine):9.3f} "
            f"{'' if other is None else f'{cost_of(one, other):.3f}':>9}   "
            f"{1e3 * ours[one].seconds:.2f} ms, {ours[one].status.value}"
        )
    print(
        f"ours at least as good as the best of {sizes.feasible} random networks in {wins} of "
        f"{len(wanted)}, as the finder in {against} of {len(wanted)}"
    )


def stages(bench: Bench, table: mn.BlockTable, path: Path | None) -> None:
    """Five candidates a stage; all of their networks."""
    groups, count = bench.space.partitions["stages"], bench.sizes.candidates
    selection = mn.choose_candidates(table, groups, count, limit="macs", maximize="accuracy")
    space = selection.space
    print(f"\n## 4. {count} candidates a stage, chosen by the table over MACs budgets")
    kept(selection)
    study = bench.stages(space)
    networks = list(space.enumerate())
    actual = values_of(study, "accuracy", networks)
    macs = space.macs(networks)
    most = macs.max() / 1e6
    print(
        f"all {len(networks)} networks on {bench.sizes.stage_images} test images: accuracy "
        f"{actual.min():.2f} to {actual.max():.2f} %, MACs {macs.min() / 1e6:.2f} to {most:.2f} M"
    )
    fine = table.predict(space.expand_many(networks), "accuracy")
    print(f"the table of the layers, from other images: {compared(fine, actual, ' points')}")
    samples = {
        "full": mn.full_sampling(space),
        "5 %": mn.partial_sampling(space, SHARE, seed=SEED),
        "single": mn.single_sampling(space),
    }
    rows = {n: {"accuracy": float(v)} for n, v in zip(networks, actual, strict=True)}
    known = mn.TabularEvaluator(space, rows, ["accuracy"])
    shown: dict[str, Floats] = {}
    for name, sample in samples.items():
        with tempfile.TemporaryDirectory() as folder, mn.Study(f"{folder}/s", space) as part:
            mn.evaluate(part, sample, known)
            for form in ("linear", "inverse-macs-corrected"):
                table = mn.fit(part, form=form)
                found = table.predict(networks, "accuracy")
                text = compared(found, actual, " points")
                print(f"{name:6} ({sample.cost:4} networks), {form:22}: {text}")
                shown.setdefault(name, found)
    changes = switches(space, networks, actual)
    figure1(changes, macs)
    if path is not None:
        draw(path, space, changes, actual, macs, shown)


def resident(bench: Bench, table: mn.BlockTable) -> None:
    """The candidates that a dynamic network of parts for onnxruntime keeps."""
    groups, count = bench.space.partitions["stages"], bench.sizes.candidates
    selection = choose_blocks(
        bench.supernet, table, groups, count, memory=MEMORY, limit="macs", maximize="accuracy"
    )
    print(f"\n## 5. {count} candidates a stage to keep resident, in {MEMORY / 1e6:g} MB of weights")
    kept(selection)
    if selection.size is not None:
        print(f"  {selection.size / 1e6:.3f} MB as reckoned")


def kept(selection: mn.Selection) -> None:
    print(selection)
    for node in selection.space.nodes:
        print(f"  {node.name}: {' | '.join(block.name for block in node.blocks)}")


@dataclass(frozen=True)
class Switch:
    """What a block changes against its node's first block, over all contexts.

    Attributes:
        node, block: indices.
        change: of accuracy, in points.
        before: where the networks with the first block stand.
    """

    node: int
    block: int
    change: Floats
    before: npt.NDArray[np.intp]


def switches(space: mn.SearchSpace, networks: Sequence[mn.Network], actual: Floats) -> list[Switch]:
    """Those of every node and block but the first."""
    place = {network: number for number, network in enumerate(networks)}
    found = []
    for node, size in enumerate(space.sizes):
        for block in range(1, size):
            ends = [
                (place[n], place[space.with_block(n, node, block)])
                for n in networks
                if n[node] == 0
            ]
            before, after = np.array(ends).T
            found.append(Switch(node, block, actual[after] - actual[before], before))
    return found


def figure1(changes: Sequence[Switch], macs: Floats) -> None:
    """What a switch changes: constant, or proportional to 1 / F (Eq. 4)?"""
    left = []
    for switch in changes:
        change, inverse = switch.change, 1 / macs[switch.before]
        constant = change.mean()
        scaled = (change * inverse).sum() / (inverse**2).sum() * inverse
        line = np.polyval(np.polyfit(inverse, change, 1), inverse)
        left.append([np.mean((change - fit) ** 2) for fit in (0, constant, scaled, line)])
    whole, constant, scaled, line = np.sqrt(np.mean(left, axis=0))
    print(
        "Figure 1: rms of what is left of a switch's change over its contexts, points: "
        f"constant {constant:.3f}, c / F {scaled:.3f}, a + b / F {line:.3f}; of the changes "
        f"themselves {whole:.3f}"
    )


def draw(
    path: Path,
    space: mn.SearchSpace,
    changes: Sequence[Switch],
    actual: Floats,
    macs: Floats,
    predicted: dict[str, Floats],
) -> None:
    figure, axes = grid(1, 3, 4.5)
    for switch in changes:
        if switch.block == space.sizes[switch.node] - 1:
            name = space.nodes[switch.node].name
            context = macs[switch.before] / 1e6
            axes[0].plot(context, switch.change, ".", ms=2, alpha=0.4, label=name)
    axes[0].set(
        xlabel="MACs of the context, M",
        ylabel="change of accuracy, points",
        title="Figure 1: first to last candidate",
    )
    spread = [
        np.mean([switch.change.std() for switch in changes if switch.node == node])
        for node in range(space.num_nodes)
    ]
    axes[1].bar([node.name for node in space.nodes], spread)
    axes[1].set(ylabel="points", title="Figure 2: spread of a switch's change over contexts")
    for name, values in predicted.items():
        axes[2].plot(
            values, actual, ".", ms=2, alpha=0.5, label=f"{name}: {spearman(values, actual):.3f}"
        )
    axes[2].set(xlabel="predicted accuracy, %", ylabel="measured, %", title="Figure 3: Spearman")
    axes[2].legend(markerscale=4)
    save(figure, axes[0], path)
    print(f"drawn: {path.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--supernet", type=Path, default=SUPERNET)
    parser.add_argument("--figure", type=Path, default=None)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few networks and images: a trial")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(header(SEED))
    print(f"torch {torch.__version__}, {options.workers} workers of one thread")
    sizes = QUICK if options.quick else Sizes()
    bench = Bench.open(options.supernet, options.folder, options.workers, sizes)
    space = bench.space
    parameters = sum(p.numel() for p in bench.supernet.parameters())
    print(f"supernet: {space.name}, {parameters:,} parameters")
    extremes = dict(zip(("smallest", "largest"), extreme_networks(space), strict=True))
    study = bench.measured("extremes", list(extremes.values()), bench.test)
    print("\n## 1. The supernet")
    for name, network in extremes.items():
        accuracy = values_of(study, "accuracy", [network])[0]
        print(
            f"{name} network: {space.macs([network])[0] / 1e6:.2f} M MACs, test accuracy "
            f"{accuracy:.2f} %"
        )
    table = prediction(bench)
    searches(bench, table)
    stages(bench, table, options.figure)
    resident(bench, table)


if __name__ == "__main__":
    main()
