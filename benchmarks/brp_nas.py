"""BRP-NAS predictors on NAS-Bench-201, trained once and kept: what they predict of every cell.

    MATHNAS_DATA=... python benchmarks/brp_nas.py [--jobs 'latency*'] [--cache FOLDER]

A job is one predictor, with the trainings of its authors; one that `--epochs` or `--latency-batch`
changes says so in its name. Accuracy predictors choose their cells by
iterative sampling, latency predictors get random ones; both choose among the 15,284 cells in which
anything of the input reaches the output. What a job leaves is a file JOB.npz in the cache, and a
job whose file exists is skipped, so the study can be stopped and gone on with:

- ``cells``: the cells whose values were used, shape (k, 6), in the order in which they were asked
  for; of latencies the last tenth of the shuffled cells decides what is kept (validation);
- ``predicted``: of all 15,625 cells in the order of ``space.all_networks()``; a latency in ms, or a
  score that ranks by accuracy;
- ``seconds``, ``epochs``: of the training.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from _machine import header
from mathnas.baselines.brp_nas import ACCURACY, LATENCY, BRPNASPredictor, Training, iterative
from mathnas.datasets import nasbench201
from mathnas.space import Floats, Indices
from mathnas.spaces.nasbench201 import has_path

ACCURACIES = ("accuracy_cifar100", "accuracy_imagenet16_120")
LATENCIES = (
    "latency_ms_pi5_litert_cifar100",
    "latency_ms_fpga",
    "latency_ms_pi5_onnx_cifar100",
    "latency_ms_gold_6226",
    "latency_ms_titan_rtx_1",
)
TENTH = 0.1


@dataclass(frozen=True)
class Job:
    """One predictor: a column of the data, learned from `count` cells."""

    metric: str
    count: int

    @property
    def name(self) -> str:
        return f"{self.metric}-{self.count}"


JOBS = (
    *(Job(metric, 100) for metric in ACCURACIES),
    *(Job(metric, 1000) for metric in LATENCIES),
    *(Job(metric, 50) for metric in ACCURACIES),
    *(Job(metric, 100) for metric in LATENCIES),
)


class Study:
    """The data, and where results are kept."""

    def __init__(self, cache: Path, seed: int, epochs: int | None, batch: int | None) -> None:
        self.table = nasbench201()
        self.space = self.table.space
        self.cells: Indices = self.space.all_networks()
        self.connected = np.array([has_path(tuple(cell)) for cell in self.cells.tolist()])
        self.cache, self.seed, self.epochs, self.batch = cache, seed, epochs, batch

    def column(self, metric: str) -> Floats:
        """The published values of all cells, in the order of `cells`."""
        found = (self.table.evaluate(tuple(cell))[metric] for cell in self.cells.tolist())
        return np.array([float(getattr(value, "value", value)) for value in found])  # type: ignore[arg-type]

    def run(self, job: Job) -> None:
        name = job.name + self.changed(job)
        file = self.cache / f"{name}.npz"
        truth = self.column(job.metric)
        if not file.exists():
            learn = self.accuracy if job.metric in ACCURACIES else self.latency
            start = time.perf_counter()
            cells, predictor = learn(job, truth)
            seconds = time.perf_counter() - start
            part = file.with_suffix(f".{os.getpid()}.part")
            with part.open("wb") as stream:
                np.savez(
                    stream,
                    cells=cells,
                    predicted=predictor.predict(self.cells),
                    seconds=seconds,
                    epochs=predictor.epochs_,
                )
            part.replace(file)
        self.report(name, job, truth, file)

    def changed(self, job: Job) -> str:
        """What is not as published."""
        batch = self.batch if job.metric in LATENCIES else None
        return "".join(
            f"-{what}{number}"
            for what, number in (("epochs", self.epochs), ("batch", batch))
            if number is not None
        )

    def accuracy(self, job: Job, truth: Floats) -> tuple[Indices, BRPNASPredictor]:
        # percent become a share, as the pairs' softmax expects
        training = replace(ACCURACY, batch=64 if job.count >= 100 else 32)
        predictor = BRPNASPredictor(
            self.space, self.shortened(training), seed=self.seed, on_epoch=progress
        )
        value = {tuple(cell): row for row, cell in enumerate(self.cells.tolist())}

        def evaluate(cells: Indices) -> Floats:
            return truth[[value[tuple(cell)] for cell in cells.tolist()]] / 100

        candidates = self.cells[self.connected]
        found = iterative(predictor, evaluate, candidates, count=job.count, seed=self.seed)
        return found.networks, predictor

    def latency(self, job: Job, truth: Floats) -> tuple[Indices, BRPNASPredictor]:
        rng = np.random.default_rng(self.seed)
        rows = rng.permutation(np.flatnonzero(self.connected))[: job.count]
        training = self.shortened(replace(LATENCY, validation=TENTH))
        if self.batch is not None:
            training = replace(training, batch=self.batch)
        predictor = self.predictor(training)
        predictor.fit(self.cells[rows], truth[rows])
        return self.cells[rows], predictor

    def predictor(self, training: Training) -> BRPNASPredictor:
        return BRPNASPredictor(self.space, training, seed=self.seed, on_epoch=progress)

    def shortened(self, training: Training) -> Training:
        return training if self.epochs is None else replace(training, epochs=self.epochs)

    def report(self, name: str, job: Job, truth: Floats, file: Path) -> None:
        with np.load(file) as kept:
            predicted, seconds, epochs = kept["predicted"], kept["seconds"], kept["epochs"]
        wanted, found = truth[self.connected], predicted[self.connected]
        rank = spearmanr(found, wanted)[0]
        within = ""
        if job.metric in LATENCIES:
            within = f"{(np.abs(found / wanted - 1) <= TENTH).mean():12.1%}"
        print(f"{name:44} {seconds:8.0f} {epochs:7d} {rank:9.4f}{within}", flush=True)


def progress(epoch: int, loss: float) -> None:
    """On the error stream, so that results stay as they are."""
    if epoch % 10 == 0:
        print(f"{time.strftime('%H:%M:%S')} epoch {epoch}: {loss:.3e}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", default="*", help="names of jobs, with wildcards")
    parser.add_argument("--cache", type=Path, default=Path(__file__).parent / ".cache" / "brp_nas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="instead of the authors' 250")
    parser.add_argument("--latency-batch", type=int, help="instead of the authors' 1")
    chosen = parser.parse_args(arguments)
    chosen.cache.mkdir(parents=True, exist_ok=True)
    print(f"{header(chosen.seed)}, torch {torch.__version__}, 1 thread")
    print(f"{'job':44} {'seconds':>8} {'epochs':>7} {'Spearman':>9} {'within 10 %':>11}")
    study = Study(chosen.cache, chosen.seed, chosen.epochs, chosen.latency_batch)
    for job in JOBS:
        if fnmatch(job.name, chosen.jobs):
            study.run(job)


if __name__ == "__main__":
    main()
