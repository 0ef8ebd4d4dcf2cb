"""The demo's flow, the same for a supernet that is trained here and for measurements on file.

evaluate a single sample -> fit -> search under a latency limit -> deliver the found network ->
compare what it was predicted to be with what it is, and with random networks under the same limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from mathnas._records import write_json
from mathnas.demo.bench import Bench, Delivery, require_demo_extra
from mathnas.errors import EvaluationError, InvalidInputError
from mathnas.evaluation import Evaluator
from mathnas.fitting import fit
from mathnas.runner import evaluate
from mathnas.sampling import Sample, single_sampling
from mathnas.search import Answer, search
from mathnas.space import Network
from mathnas.study import Study
from mathnas.table import BlockTable

STUDY_FILE = "demo.study"
TABLE_FILE = "table.json"
RESULTS_FILE = "results.json"
_RIVALS = 20
_RESULTS_FORMAT = "mathnas-demo"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Measured:
    """A network and its measured values."""

    network: Network
    accuracy: float
    latency_ms: float

    def to_dict(self) -> dict[str, object]:
        return {
            "network": list(self.network),
            "accuracy": self.accuracy,
            "latency_ms": self.latency_ms,
        }


@dataclass(frozen=True)
class DemoResult:
    """What a run of the demo found.

    Attributes:
        bench: what it ran on.
        folder: where the files are.
        files: their names.
        evaluated: networks that the block table comes from.
        limit_ms: the latency limit: the median predicted latency over the space.
        answer: of the search.
        found: the found network, measured.
        rivals: random networks that are predicted to meet the limit, measured.
        delivery: what the found network was turned into.
        seconds: by step, in order.
    """

    bench: Bench
    folder: Path
    files: tuple[str, ...]
    evaluated: int
    limit_ms: float
    answer: Answer
    found: Measured
    rivals: tuple[Measured, ...]
    delivery: Delivery
    seconds: Mapping[str, float]

    @property
    def percentile(self) -> float:
        """Share of the rivals that the found network beats in accuracy, in percent; ties half."""
        better = [np.sign(self.found.accuracy - rival.accuracy) for rival in self.rivals]
        return 50.0 * float(1 + np.mean(better))

    def to_dict(self) -> dict[str, object]:
        return {
            "format": _RESULTS_FORMAT,
            "version": 1,
            "bench": self.bench.title,
            "provenance": dict(self.bench.provenance),
            "conditions": _conditions(self.bench),
            "evaluated": self.evaluated,
            "limit_ms": self.limit_ms,
            "answer": self.answer.to_dict(),
            "found": self.found.to_dict(),
            "rivals": [rival.to_dict() for rival in self.rivals],
            "percentile": self.percentile,
            "delivered": dict(self.delivery.measured),
            "seconds": dict(self.seconds),
        }


def run_trained_demo(
    folder: str | Path = "mathnas-demo", *, seed: int = 0, console: Console | None = None
) -> DemoResult:
    """Train a small supernet on scikit-learn's digits, then `follow` the flow: a minute or two.

    Args:
        folder: for the files. What its study holds of an earlier demo is used again where weights
            and conditions are the same; the other files are replaced.
        seed: of training and of the random networks.
        console: where to print; by default standard output.

    Raises:
        MissingExtraError: torch, onnx, onnxruntime or scikit-learn is not installed.
    """
    require_demo_extra()
    from mathnas.demo.trained import TrainedBench  # needs torch

    screen = console or Console()
    screen.print("Training a small supernet on scikit-learn's digits ...")
    clock = _Clock()
    bench = clock.time("train", lambda: TrainedBench.train(seed=seed))
    screen.print(f"  {bench.space}, trained in {clock.seconds['train']:.0f} s")
    clock.time("export the blocks", lambda: bench.latency)
    return follow(bench, folder, seed=seed, console=screen, clock=clock)


def run_tabular_demo(
    folder: str | Path = "mathnas-demo", *, seed: int = 0, console: Console | None = None
) -> DemoResult:
    """`follow` the flow on measurements that mathnas carries: a few seconds, numpy alone.

    Args:
        folder, seed, console: as in `run_trained_demo`; the seed is of the random networks.

    Raises:
        FileFormatError: the measurements are damaged.
    """
    from mathnas.demo.tabular import TabularBench

    screen = console or Console()
    clock = _Clock()
    bench = clock.time("read", TabularBench.load)
    return follow(bench, folder, seed=seed, console=screen, clock=clock)


def follow(
    bench: Bench,
    folder: str | Path,
    *,
    seed: int = 0,
    rivals: int = _RIVALS,
    console: Console | None = None,
    clock: _Clock | None = None,
) -> DemoResult:
    """The flow on any bench; prints what it does and leaves files in `folder`.

    Args:
        rivals: how many random networks to compare with.
        clock: with the times of what came before.

    Raises:
        EvaluationError: a network could not be evaluated.
        InvalidInputError: fewer than `rivals` networks meet the limit.
    """
    screen = console or Console()
    timer = clock or _Clock()
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    sample = single_sampling(bench.space)
    screen.print(
        f"Evaluating {len(sample)} of {bench.space.num_networks:,} networks: the average one, and "
        "each with one block switched ..."
    )
    with Study(place / STUDY_FILE, bench.space) as study:
        _evaluate(study, sample, bench.accuracy, timer)
        # measured times are noisy, and the reference's error enters every prediction m - 1 times
        repeated = single_sampling(bench.space, repeat_reference=True)
        _evaluate(study, repeated, bench.latency, timer)
        table = fit(
            study, ["accuracy", "latency_ms"], method="single", conditions=_conditions(bench)
        )
        table.save(place / TABLE_FILE)
        limit, answer = timer.time("search", lambda: _search(table))
        screen.print(str(answer), markup=False, highlight=False)
        screen.print("Delivering the found network ...")
        delivery = timer.time("deliver", lambda: bench.deliver(answer.network, place))
        chosen = _rivals(table, limit, answer.network, rivals, seed)
        screen.print(f"Measuring it beside {rivals} random networks that meet the limit ...")
        compared = [answer.network, *chosen]
        for evaluator in (bench.accuracy, bench.latency):
            _evaluate(study, compared, evaluator, timer)
        found, *others = _measured(study, bench, compared)
    result = DemoResult(
        bench=bench,
        folder=place,
        files=(STUDY_FILE, TABLE_FILE, RESULTS_FILE, *delivery.files),
        evaluated=sample.cost,
        limit_ms=limit,
        answer=answer,
        found=found,
        rivals=tuple(others),
        delivery=delivery,
        seconds=dict(timer.seconds),
    )
    write_json(place / RESULTS_FILE, result.to_dict())
    _show(result, screen)
    return result


class _Clock:
    """Wall seconds by step, in the order of the steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, step: str, action: Callable[[], _T]) -> _T:
        start = time.perf_counter()
        try:
            return action()
        finally:
            spent = time.perf_counter() - start
            self.seconds[step] = self.seconds.get(step, 0.0) + spent


def _conditions(bench: Bench) -> dict[str, dict[str, str]]:
    return {
        "accuracy": dict(bench.accuracy.conditions),
        "latency_ms": dict(bench.latency.conditions),
    }


def _evaluate(
    study: Study, networks: Sample | Sequence[Network], evaluator: Evaluator, clock: _Clock
) -> None:
    step = f"measure {evaluator.metrics[0].name}"
    report = clock.time(step, partial(evaluate, study, networks, evaluator))
    if report.failures:
        raise EvaluationError(f"the demo needs every evaluation: {report}")


def _search(table: BlockTable) -> tuple[float, Answer]:
    """The best network that is predicted to be faster than half of the space."""
    limit = float(np.median(table.predict_all("latency_ms")))
    answer = search(table, maximize="accuracy", limits={"latency_ms": limit})
    # half of the space meets the limit
    assert isinstance(answer, Answer)
    return limit, answer


def _rivals(
    table: BlockTable, limit: float, found: Network, count: int, seed: int
) -> list[Network]:
    """Random networks that are predicted to meet the limit, without the found one."""
    # another stream than the random networks of training with the same seed
    rng = np.random.default_rng([seed, count])
    order = table.space.networks_at(rng.permutation(table.space.num_networks))
    meets = order[table.predict(order, "latency_ms") <= limit].tolist()
    rivals = [network for network in map(tuple, meets) if network != found][:count]
    if len(rivals) < count:
        raise InvalidInputError(
            f"the found network is compared with {count} others under the limit, but only "
            f"{len(rivals)} are predicted to meet it: compare with fewer."
        )
    return rivals


def _measured(study: Study, bench: Bench, networks: Sequence[Network]) -> list[Measured]:
    values = []
    for name, conditions in _conditions(bench).items():
        data = study.measurements(name, conditions)
        known = dict(zip(map(tuple, data.networks.tolist()), data.values.tolist(), strict=True))
        values.append([known[network] for network in networks])
    return [Measured(*row) for row in zip(networks, *values, strict=True)]


def _show(result: DemoResult, screen: Console) -> None:
    predicted = result.answer.predictions
    table = Table(title=f"{result.bench.title}: limit {result.limit_ms:.4g} ms")
    for column in ("", "accuracy, %", "latency, ms"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row(
        "found, predicted",
        f"{predicted['accuracy'].value:.2f}",
        f"{predicted['latency_ms'].value:.4g}",
    )
    table.add_row(
        "found, measured", f"{result.found.accuracy:.2f}", f"{result.found.latency_ms:.4g}"
    )
    if result.delivery.measured:
        table.add_row(
            "delivered file, measured",
            f"{result.delivery.measured['accuracy']:.2f}",
            f"{result.delivery.measured['latency_ms']:.4g}",
        )
    accuracies = sorted(rival.accuracy for rival in result.rivals)
    latencies = sorted(rival.latency_ms for rival in result.rivals)
    table.add_section()
    for name, share in (("best", 1.0), ("median", 0.5), ("worst", 0.0)):
        table.add_row(
            f"{len(accuracies)} random networks, {name}",
            f"{np.quantile(accuracies, share):.2f}",
            f"{np.quantile(latencies, 1 - share):.4g}",
        )
    screen.print(table)
    screen.print(
        f"The found network is at percentile {result.percentile:.0f} of the random ones in "
        f"measured accuracy, after {result.evaluated} evaluations for "
        f"{result.bench.space.num_networks:,} networks."
    )
    spent = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in result.seconds.items())
    screen.print(f"Time: {sum(result.seconds.values()):.1f} s ({spent}).", highlight=False)
    screen.print(f"{result.delivery.note}.", markup=False)
    screen.print(f"Files in {result.folder}: {', '.join(result.files)}", markup=False)
