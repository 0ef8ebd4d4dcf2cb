"""What a weight-sharing accuracy is worth: NAS-Bench-201's cells in a supernet on CIFAR-10.

    MATHNAS_DATA=... python benchmarks/cifar10_nasbench201.py --folder work
        [--supernet benchmarks/supernets/cifar10_nasbench201.safetensors]

The supernet was trained by the command in `benchmarks/supernets/README.md`: a small one, a few
epochs. Stand-alone truth: the benchmark's test accuracies after 200 epochs on CIFAR-100 and
ImageNet16-120 (there is no public file of CIFAR-10 here). Beside ours stands a public one-shot
supernet's accuracy on CIFAR-10 of every cell. Everything that is measured is kept in studies in the
folder, so the script goes on where it was stopped.

1. The supernet, and how well two sets of images agree on its cells.
2. Its accuracies of random cells against the truth.
3. Its accuracies predicted by block effects.
4. The truth predicted by block effects that were measured in the supernet.
5. Searches under limits on MACs: how good what is found truly is.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import mathnas as mn
from _machine import header
from _supernets import Floats, Trained, spearman, values_of
from mathnas.datasets import nasbench201
from mathnas.nets.evaluators import AccuracyEvaluator
from mathnas.nets.nasbench201 import NASBench201Net
from mathnas.nets.scores import LabelledImages
from mathnas.spaces.nasbench201 import EDGES, NONE, OPERATIONS, has_path
from mathnas.validation import quality

SUPERNET = Path("benchmarks/supernets/cifar10_nasbench201.safetensors")
SEED = 0
TRUTHS = {"CIFAR-100": "accuracy_cifar100", "ImageNet16-120": "accuracy_imagenet16_120"}
PUBLIC = "accuracy_cifar10_one_shot_supernet"
QUANTILES = (0.1, 0.25, 0.5, 0.75)  # of the MACs of all cells: the limits
RESAMPLED = 200
FORMS = ("linear", "inverse-macs-space-mean", "inverse-macs-corrected")


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        cells: random cells that have a path from input to output.
        learnt: of these, how many a regression learns from.
        images: held-out and test images, of each so many.
        calibrating: images for batch-norm statistics.
    """

    cells: int = 300
    learnt: tuple[int, ...] = (25, 50, 100, 200)
    images: int = 1_000
    calibrating: int = 400


QUICK = Sizes(30, (25,), 50, 50)


# ---- what is measured and what is known ----------------------------------------------------------


class Bench:
    """The supernet's cells, measured, and the public columns."""

    def __init__(self, path: Path, folder: Path, sizes: Sizes) -> None:
        trained = Trained.open(path)
        assert isinstance(trained.supernet, NASBench201Net)
        self.supernet = trained.supernet
        self.space = self.supernet.space
        self.folder = folder
        self.sizes = sizes
        self.calibration = trained.calibration(sizes.calibrating, SEED)
        self.images = {
            "held": trained.images(trained.held, sizes.images),
            "test": trained.images(trained.test, sizes.images),
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.sample = mn.single_sampling(self.space)
        self.cells = random_cells(self.space, sizes.cells, SEED)
        everything = list(dict.fromkeys([*self.sample, *self.cells]))
        self.studies = {name: self._study(name, images) for name, images in self.images.items()}
        for name, study in self.studies.items():
            evaluator = AccuracyEvaluator(
                self.supernet, self.calibration, self.images[name], with_loss=True, batch_size=1
            )
            report = mn.evaluate(study, everything, evaluator, progress=True)
            assert not report.failures

    def _study(self, name: str, images: LabelledImages) -> mn.Study:
        return mn.Study(self.folder / f"{name}-{len(images)}.study", self.space)

    def accuracy(self, cells: Sequence[mn.Network], images: str | None = None) -> Floats:
        """In the supernet: on one set of images, or on both together."""
        names = list(self.studies) if images is None else [images]
        values = [values_of(self.studies[name], "accuracy", cells) for name in names]
        mean: Floats = np.mean(values, axis=0)
        return mean

    def loss(self, cells: Sequence[mn.Network]) -> Floats:
        """On both sets of images together."""
        values = [values_of(study, "loss", cells) for study in self.studies.values()]
        mean: Floats = np.mean(values, axis=0)
        return mean

    @cached_property
    def every(self) -> list[mn.Network]:
        """All cells that have a path."""
        return [cell for cell in self.space.enumerate() if has_path(cell)]

    @cached_property
    def public(self) -> Callable[[str, Sequence[mn.Network]], Floats]:
        """Looks a public column up."""
        table = nasbench201("cifar10", [*TRUTHS.values(), PUBLIC])

        def look(column: str, cells: Sequence[mn.Network]) -> Floats:
            found = (table.evaluate(cell)[column] for cell in cells)
            return np.array([float(getattr(value, "value", value)) for value in found])  # type: ignore[arg-type]

        return look

    def table(
        self, cells: Sequence[mn.Network] | mn.Sample, values: Floats, **options: str
    ) -> mn.BlockTable:
        """Fitted to these accuracies."""
        rows = {cell: {"accuracy": float(v)} for cell, v in zip(cells, values, strict=True)}
        known = mn.TabularEvaluator(self.space, rows, ["accuracy"])
        with tempfile.TemporaryDirectory() as folder, mn.Study(f"{folder}/s", self.space) as study:
            mn.evaluate(study, cells, known)
            return mn.fit(study, **options)  # type: ignore[arg-type]


def random_cells(space: mn.SearchSpace, count: int, seed: int) -> list[mn.Network]:
    """Distinct cells that have a path."""
    return [cell for cell in space.sample(2 * count, seed=seed) if has_path(cell)][:count]


def is_drawn(cell: mn.Network) -> bool:
    """Whether training may draw it: no node has ``none`` on all of its edges."""
    return all(
        any(
            operation != NONE
            for (_, target), operation in zip(EDGES, cell, strict=True)
            if target == node
        )
        for node in range(1, EDGES[-1][1] + 1)
    )


# ---- statistics ----------------------------------------------------------------------------------


def kendall(guess: Floats, truth: Floats) -> float:
    found = quality(guess, truth).kendall
    assert found is not None, "all are equal"
    return found


def ranking(guess: Floats, truth: Floats) -> str:
    """Kendall and Spearman: over all, and over the half that is better by the truth."""
    better = truth >= np.median(truth)
    return "   ".join(
        f"{kendall(guess[own], truth[own]):6.3f} {spearman(guess[own], truth[own]):6.3f}"
        for own in (np.ones(len(truth), dtype=bool), better)
    )


def print_rankings(title: str, rows: Mapping[str, Floats], truths: Mapping[str, Floats]) -> None:
    print(f"\n{title}")
    print(f"{'':42}{''.join(f'{name:34}' for name in truths)}".rstrip())
    columns = f"{'all':16}{'better half':18}" * len(truths)
    print(f"{'Kendall, Spearman':42}{columns}".rstrip())
    for name, guess in rows.items():
        text = "    ".join(ranking(guess, truth) for truth in truths.values())
        print(f"{name:42}{text}", flush=True)


def deviation(guess: Floats, truth: Floats) -> float:
    """Of Kendall's tau over which cells were drawn, by resampling them."""
    rng = np.random.default_rng(SEED)
    rows = [rng.integers(len(truth), size=len(truth)) for _ in range(RESAMPLED)]
    return float(np.std([kendall(guess[own], truth[own]) for own in rows]))


# ---- the parts of the study ----------------------------------------------------------------------


def noise(bench: Bench) -> None:
    cells, sizes = bench.cells, bench.sizes
    held, test = (bench.accuracy(cells, name) for name in bench.images)
    both, between = (held + test) / 2, spearman(held, test)
    print("\n## 1. The supernet")
    for name, cell in zip(("all skips", "all 3x3"), bench.supernet.extremes(), strict=True):
        print(f"{name}: {bench.space.macs([cell])[0] / 1e6:.2f} M MACs")
    print(
        f"{len(cells)} random cells with a path: accuracy {both.min():.1f} to {both.max():.1f} %, "
        f"mean {both.mean():.1f}, sd {both.std():.1f}"
    )
    macs, operations = bench.space.macs(cells), np.array(cells)
    print(f"against MACs: Kendall {kendall(both, macs):.3f}, Spearman {spearman(both, macs):.3f}")
    for number, name in enumerate(OPERATIONS):
        edges = [both[column == number].mean() for column in operations.T]
        print(f"mean with {name:12} on each edge: {', '.join(f'{mean:.1f}' for mean in edges)}")
    print(
        f"noise of images: {sizes.images} held-out against {sizes.images} test images, Kendall "
        f"{kendall(held, test):.3f}, Spearman {between:.3f} (Spearman-Brown for both together: "
        f"{2 * between / (1 + between):.3f}). Noise of training is not known: one seed."
    )
    for name, column in TRUTHS.items():
        truth = bench.public(column, cells)
        better = truth >= np.median(truth)
        print(
            f"the same over the half that is better on {name}: Kendall "
            f"{kendall(held[better], test[better]):.3f}, Spearman "
            f"{spearman(held[better], test[better]):.3f}"
        )


def against_truth(bench: Bench) -> None:
    def rows_of(cells: Sequence[mn.Network]) -> dict[str, Floats]:
        return {
            "this supernet, accuracy": bench.accuracy(cells),
            "this supernet, loss": -bench.loss(cells),
            "the public one-shot supernet": bench.public(PUBLIC, cells),
            "MACs": bench.space.macs(cells),
        }

    def truths_of(cells: Sequence[mn.Network]) -> dict[str, Floats]:
        return {name: bench.public(column, cells) for name, column in TRUTHS.items()}

    print("\n## 2. Weight-sharing accuracy against stand-alone accuracy")
    cells = bench.cells
    truths, rows = truths_of(cells), rows_of(cells)
    ceiling = {"stand-alone on the other data set": truths["ImageNet16-120"]}
    print_rankings(f"the same {len(cells)} cells", rows, truths)
    print_rankings("what another data set costs", ceiling, {"CIFAR-100": truths["CIFAR-100"]})
    spread = {
        name: ", ".join(f"{deviation(guess, truth):.3f}" for truth in truths.values())
        for name, guess in rows.items()
    }
    print("\nstandard deviation of Kendall over which cells were drawn (the two data sets):")
    for name, text in spread.items():
        print(f"{name:42}{text}")
    for title, own in (
        ("cells that training draws", [c for c in cells if is_drawn(c)]),
        ("cells that it never draws: a node without input", [c for c in cells if not is_drawn(c)]),
    ):
        print_rankings(f"{len(own)} {title}", rows_of(own), truths_of(own))
    print(
        f"this supernet with the public one-shot: Kendall "
        f"{kendall(rows['this supernet, accuracy'], bench.public(PUBLIC, cells)):.3f}"
    )
    whole = {
        f"the public one-shot, {len(own)} cells{text}": own
        for text, own in ((" with a path", bench.every), ("", list(bench.space.enumerate())))
    }
    for title, own in whole.items():
        print_rankings(
            title,
            {
                "the public one-shot supernet": bench.public(PUBLIC, own),
                "MACs": bench.space.macs(own),
            },
            truths_of(own),
        )


def predictions(bench: Bench) -> dict[str, mn.BlockTable]:
    """How well block effects predict the supernet's accuracies; the tables."""
    cells, sample = bench.cells, bench.sample
    held = {
        form: bench.table(
            sample, bench.accuracy(sample.networks, "held"), method="single", form=form
        )
        for form in FORMS
    }
    others = [cell for cell in cells if cell not in set(sample)]
    print(
        f"\n## 3. The supernet's accuracy, predicted by effects on {bench.sizes.images} held-out "
        "images"
    )
    context = bench.space.block_names(sample.reference)
    print(f"single sampling: {sample.cost} cells, around {', '.join(context)}")
    print(f"judged on {len(others)} random cells: on the same images, and on test images")

    def show(name: str, table: mn.BlockTable, own: Sequence[mn.Network]) -> None:
        texts = []
        for images in bench.images:
            found = quality(table.predict(own, "accuracy"), bench.accuracy(own, images))
            texts.append(
                f"Spearman {found.spearman:.3f}, Kendall {found.kendall:.3f}, mean error "
                f"{found.mae:5.2f}"
            )
        print(f"{name:42}{'; '.join(texts)}", flush=True)

    for form, table in held.items():
        show(f"single sampling, {form}", table, others)
    drawn = [cell for cell in others if is_drawn(cell)]
    full = [cell for cell in others if NONE not in cell]
    show(f"linear, {len(drawn)} cells that training draws", held["linear"], drawn)
    show(f"linear, {len(full)} cells without none", held["linear"], full)
    print("regression from random cells, judged on the others:")
    for count in bench.sizes.learnt:
        first, rest = cells[:count], cells[count:]
        if len(rest) >= 3:
            table = bench.table(first, bench.accuracy(first, "held"), method="regression")
            show(f"regression from {count}", table, rest)
    both = list(dict.fromkeys([*sample, *cells]))
    return {
        f"supernet, single sampling ({sample.cost})": bench.table(
            sample, bench.accuracy(sample.networks), method="single"
        ),
        f"supernet, regression ({len(both)})": bench.table(
            both, bench.accuracy(both), method="regression"
        ),
    }


def prediction_of_truth(bench: Bench, tables: Mapping[str, mn.BlockTable]) -> None:
    every = bench.every
    rows = {name: table.predict(every, "accuracy") for name, table in tables.items()}
    rows |= {"the public one-shot supernet": bench.public(PUBLIC, every)}
    rows |= {"MACs": bench.space.macs(every)}
    truths = {name: bench.public(column, every) for name, column in TRUTHS.items()}
    print("\n## 4. The truth, predicted; in brackets: cells that were evaluated")
    print_rankings(f"all {len(every)} cells with a path", rows, truths)
    few = bench.sizes.learnt[-1]
    print("\nfor comparison, block effects from stand-alone trainings, each on its own data set:")
    for name, column in TRUTHS.items():
        for kind, cells, method in (
            ("single sampling", bench.sample.networks, "single"),
            ("regression", bench.cells[:few], "regression"),
        ):
            table = bench.table(cells, bench.public(column, cells), method=method)
            text = ranking(table.predict(every, "accuracy"), truths[name])
            print(f"{f'{name}, {kind} ({len(cells)})':42}{text}", flush=True)


def searches(bench: Bench, tables: Mapping[str, mn.BlockTable]) -> None:
    print("\n## 5. Searches under a limit on MACs (of this supernet's size)")
    print("stand-alone accuracy of the cell that is found, and how many feasible cells are better")
    every, macs = bench.every, bench.space.macs(bench.every)
    truths = {name: bench.public(column, every) for name, column in TRUTHS.items()}
    public = bench.public(PUBLIC, every)
    evaluated = list(dict.fromkeys([*bench.sample, *bench.cells]))
    own, costs = bench.accuracy(evaluated), bench.space.macs(evaluated)
    place = {cell: number for number, cell in enumerate(every)}
    for share in QUANTILES:
        limit = float(np.quantile(macs, share, method="lower"))
        feasible = np.flatnonzero(macs <= limit)
        inside = np.flatnonzero(costs <= limit)
        found = {
            "the public one-shot supernet": int(feasible[np.argmax(public[feasible])]),
            "most MACs": int(feasible[np.argmax(macs[feasible])]),
        }
        if len(inside):
            best = inside[np.argmax(own[inside])]
            found[f"best measured of {len(inside)} in the supernet"] = place[evaluated[best]]
        for name, table in tables.items():
            answer = mn.search(table, maximize="accuracy", limits={"macs": limit})
            assert isinstance(answer, mn.Answer)
            found[name] = place[answer.network]
        print(f"\nMACs <= {limit / 1e6:.3f} M: {len(feasible)} cells with a path")
        print(f"{'':42}{''.join(f'{name:24}' for name in truths)}".rstrip())
        for name, number in found.items():
            texts = []
            for truth in truths.values():
                better = int((truth[feasible] > truth[number]).sum())
                texts.append(f"{f'{truth[number]:6.2f} ({better} better)':24}")
            print(f"{name:42}{''.join(texts)}".rstrip())
        for name, summary in (("truth itself", np.max), ("mean of feasible cells", np.mean)):
            texts = [f"{float(summary(truth[feasible])):6.2f}" for truth in truths.values()]
            print(f"{name:42}{''.join(f'{text:24}' for text in texts)}".rstrip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--supernet", type=Path, default=SUPERNET)
    parser.add_argument("--quick", action="store_true", help="few cells and images: a trial")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", mn.MathNASWarning)  # blocks that few cells do not hold
    print(header(SEED))
    print(f"torch {torch.__version__}, one thread")
    bench = Bench(options.supernet, options.folder, QUICK if options.quick else Sizes())
    parameters = sum(p.numel() for p in bench.supernet.parameters())
    print(f"supernet: {bench.space.name}, {parameters:,} parameters")
    noise(bench)
    against_truth(bench)
    tables = predictions(bench)
    prediction_of_truth(bench, tables)
    searches(bench, tables)


if __name__ == "__main__":
    main()
