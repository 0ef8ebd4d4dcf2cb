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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import mathnas as mn
from _cifar10 import (
    QUICK,
    SEED,
    Bench,
    Finder,
    Limited,
    Sizes,
    extremes,
    part_of,
    prediction,
    searches,
)
from _figures import grid, save
from _machine import header
from _supernets import Floats, compared, random_networks, spearman, values_of
from mathnas.baselines import ofa_finder
from mathnas.baselines.mlp import ofa_predictor
from mathnas.metrics import metric_named
from mathnas.nets.evaluators import AccuracyEvaluator
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.supernet import ChainSupernet
from mathnas.runtime.deploying import choose_blocks
from mathnas.search import Limit

SUPERNET = Path("benchmarks/supernets/cifar10_mobilenetv3.safetensors")
SHARE = 0.05
MEMORY = 6.9e6  # bytes, of which the largest network has 2.78e6


# ---- the parts of the study ----------------------------------------------------------------------


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


def once_for_all(bench: Bench, table: mn.BlockTable) -> Finder:
    """Its finder, on a perceptron that learnt from as many evaluations."""
    space = bench.space
    # the first of them are the networks that validated
    count = bench.sizes.learnt or mn.single_sampling(space).cost
    learnt = Learnt(bench, table, random_networks(space, count, SEED + 1))

    def find(wanted: Sequence[Limited]) -> dict[Limited, mn.Network | None]:
        return {
            one: ofa_finder(
                learnt,
                maximize="accuracy",
                limits=[Limit(metric_named(one.metric), "<=", one.value)],
                seed=SEED,
            ).network
            for one in wanted
        }

    return find


def chain_of(bench: Bench) -> ChainSupernet:
    assert isinstance(bench.supernet, ChainSupernet)
    return bench.supernet


def measured_stages(bench: Bench, space: mn.GroupedSpace) -> mn.Study:
    """Accuracy and loss of every network of candidates on a part of the test images."""
    evaluator = AccuracyEvaluator(
        GroupedSupernet(chain_of(bench), space),
        bench.calibration,
        part_of(bench.test, bench.sizes.stage_images),
        with_loss=True,
        batch_size=125,
    )
    return bench.into("stages", space, list(space.enumerate()), evaluator, bench.workers)


def stages(bench: Bench, table: mn.BlockTable, path: Path | None) -> None:
    """Five candidates a stage; all of their networks."""
    groups, count = bench.space.partitions["stages"], bench.sizes.candidates
    selection = mn.choose_candidates(table, groups, count, limit="macs", maximize="accuracy")
    space = selection.space
    print(f"\n## 4. {count} candidates a stage, chosen by the table over MACs budgets")
    kept(selection)
    study = measured_stages(bench, space)
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
        chain_of(bench), table, groups, count, memory=MEMORY, limit="macs", maximize="accuracy"
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
    extremes(bench)
    table = prediction(bench)
    searches(bench, table, ["macs", "latency_ms"], once_for_all(bench, table), "OFA's finder")
    stages(bench, table, options.figure)
    resident(bench, table)


if __name__ == "__main__":
    main()
