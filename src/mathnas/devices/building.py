"""A device's table, from nothing, within a budget of minutes; and how far it can be trusted.

The life of a table: a *method* says which networks to measure, in rounds; after every round it fits
a table and says how uncertain predictions are because of the effects. When that is below a target,
or the minutes are nearly spent, fresh random networks are measured, and the table is judged by
them: errors, worst residuals, and whether blocks add up at all (`mathnas.devices.additivity`).

Everything is kept in a study, so that the same call goes on where another was stopped.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import numpy as np

from mathnas import runner
from mathnas._progress import Progress, Show, progress_bar
from mathnas.designs import balanced_sampling
from mathnas.devices.additivity import Additivity, check_additivity, noise_of_repeats
from mathnas.devices.isolation import PartSpace, isolation_table
from mathnas.devices.relative import REFERENCE_MS, RelativeLatencyEvaluator
from mathnas.errors import EvaluationError, InvalidInputError
from mathnas.evaluation import Evaluator
from mathnas.metrics import Floats, Metric
from mathnas.sampling import single_sampling
from mathnas.space import Network, SearchSpace, network_text
from mathnas.study import Failure, Measurements, Study
from mathnas.table import BlockTable
from mathnas.validation import MetricValidation, Quality, fit_without, validate, validation_sampling

BuildingMethod = Literal["regression", "differences", "isolation"]

TARGET = 0.005
VALIDATION_REPEATS = 2
_FEWEST = 24  # networks of the first round
_PER_EFFECT = 1.2  # networks of the first round, for each effect
_GROWTH = 0.25  # of each round that follows
_MOST_ROUNDS = 200
_WORST = 5


@dataclass(frozen=True)
class Isolated:
    """What measures blocks alone: the parts of networks, evaluated into a study of their own.

    Attributes:
        study: of the parts; its space is a `PartSpace`.
        evaluators: of the parts, one for each evaluator of networks, in its order.
    """

    study: Study
    evaluators: Sequence[Evaluator]

    @property
    def space(self) -> PartSpace:
        """Raises:
        InvalidInputError: the study is not one of parts.
        """
        space = self.study.space
        if not isinstance(space, PartSpace):
            raise InvalidInputError(
                f"blocks alone are kept in a study of parts, but {self.study.path} is one of "
                f"{space.name}: open it with the PartSpace."
            )
        return space


@dataclass(frozen=True)
class Residual:
    """A fresh network that was predicted badly."""

    network: Network
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Predicted - measured, relative to the measured value."""
        return self.predicted / self.measured - 1 if self.measured else math.inf


@dataclass(frozen=True)
class MetricReport:
    """How the table serves one metric.

    Attributes:
        validation: predictions and measurements of the fresh networks.
        uncertainty: of predictions because of the effects, relative, as the method knows it: root
            mean square over the fresh networks; infinite where the method cannot tell.
        additivity: the test; None for blocks in isolation, whose residuals are mostly bias.
        noise: of one measurement of a fresh network, relative, from its repeats; None where
            there were none.
    """

    validation: MetricValidation
    uncertainty: float
    additivity: Additivity | None
    noise: float | None

    @property
    def metric(self) -> Metric:
        return self.validation.metric

    @property
    def quality(self) -> Quality:
        return self.validation.quality

    @property
    def factor(self) -> float:
        """Mean predicted over mean measured value: the bias of the table, 1 where it has none."""
        measured = float(self.validation.measured.mean())
        return float(self.validation.predicted.mean()) / measured if measured else math.nan

    @property
    def worst(self) -> list[Residual]:
        """The fresh networks with the largest relative errors, the largest first."""
        found = self.validation
        rows = [
            Residual(tuple(network), predicted, measured)
            for network, predicted, measured in zip(
                found.networks.tolist(),
                found.predicted.tolist(),
                found.measured.tolist(),
                strict=True,
            )
        ]
        return sorted(rows, key=lambda row: -abs(row.error))[:_WORST]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            **self.validation.to_dict(),
            "uncertainty": self.uncertainty,
            "noise": self.noise,
            "factor": self.factor,
            "worst": [
                {
                    "network": list(row.network),
                    "predicted": row.predicted,
                    "measured": row.measured,
                    "error": row.error,
                }
                for row in self.worst
            ],
            "additivity": None if self.additivity is None else self.additivity.to_dict(),
        }

    def __str__(self) -> str:
        found, metric = self.quality, self.metric
        mape = "unknown" if found.mape is None else f"{found.mape:.2f} %"
        rank = "undefined" if found.spearman is None else f"{found.spearman:.3f}"
        lines = [
            f"{metric.name}: MAPE {mape}, Spearman {rank} on {found.networks} fresh random "
            f"networks ({metric.format(float(self.validation.measured.min()))} to "
            f"{metric.format(float(self.validation.measured.max()))})",
            f"  bias: predictions are {self.factor:.3f} times the measurements on average",
        ]
        if math.isfinite(self.uncertainty):
            noise = "" if self.noise is None else f"; noise of a measurement {self.noise:.2%}"
            lines.append(f"  uncertainty of predictions: {self.uncertainty:.2%}{noise}")
        lines.append("  worst residuals:")
        lines += [
            f"    {row.error:+7.1%}  predicted {metric.format(row.predicted)}, measured "
            f"{metric.format(row.measured)}  {network_text(row.network)}"
            for row in self.worst
        ]
        if self.additivity is not None:
            lines += [f"  {line}" for line in str(self.additivity).splitlines()]
        return "\n".join(lines)


@dataclass(frozen=True)
class BuildingReport:
    """What `measure` made.

    Attributes:
        method: how.
        table: the effects.
        metrics: how it serves, by metric.
        networks: distinct networks (or parts) that the table is fitted on.
        measurements: made by this call, validation included.
        seconds: of this call.
        stopped: why no more was measured: ``target``, ``budget`` or ``everything`` (nothing is left
            to measure).
        drift: by metric the lowest and the highest value that the reference had, relative to its
            mean, where it was measured again and again.
        failures: of evaluations; they are tried again by the next call.
    """

    method: str
    table: BlockTable
    metrics: Mapping[str, MetricReport]
    networks: int
    measurements: int
    seconds: float
    stopped: str
    drift: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """For JSON; without the table."""
        return {
            "method": self.method,
            "networks": self.networks,
            "measurements": self.measurements,
            "seconds": self.seconds,
            "stopped": self.stopped,
            "drift": {name: list(ends) for name, ends in self.drift.items()},
            "failures": [
                {"network": list(failure.network), "error": failure.error}
                for failure in self.failures
            ],
            "metrics": {name: found.to_dict() for name, found in self.metrics.items()},
        }

    def __str__(self) -> str:
        why = {
            "target": "the target was met",
            "budget": "the minutes were spent",
            "everything": "everything was measured",
        }[self.stopped]
        what = "parts" if self.method == "isolation" else "networks"
        lines = [
            f"{self.method}: {self.networks} {what}, {self.measurements} measurements in "
            f"{self.seconds / 60:.1f} minutes; {why}.",
            *(str(found) for found in self.metrics.values()),
        ]
        lines += [
            f"drift of the reference's {name}: {low - 1:+.1%} to {high - 1:+.1%} of its mean"
            for name, (low, high) in self.drift.items()
        ]
        if self.failures:
            lines.append(
                f"{len(self.failures)} evaluations failed, the first: {self.failures[0].error}"
            )
        return "\n".join(lines)


def measure(
    study: Study,
    evaluators: Sequence[Evaluator],
    *,
    method: BuildingMethod = "regression",
    minutes: float = 10.0,
    target: float = TARGET,
    networks: int = 40,
    isolated: Isolated | None = None,
    seed: int = 0,
    progress: Show = None,
    clock: Callable[[], float] = time.monotonic,
) -> BuildingReport:
    """Build a table of the study's space, and judge it by fresh random networks.

    What the study holds already (the same metrics under the same conditions) is not measured again.

    Args:
        evaluators: what measures costs; each network is measured by all of them.
        method: ``regression``: balanced samples, about a fifth more networks than effects at
            first, then a quarter more each round. ``differences``: single sampling (the paper's
            way), the whole sample again each round. ``isolation``: every block alone.
        minutes: of this call, validation included; what is under way is finished.
        target: stop before when the uncertainty of predictions is below this share of their value
            for every metric.
        networks: fresh random networks, each measured twice by noisy evaluators.
        isolated: for ``isolation``.
        seed: of the samples.
        progress: as in `mathnas.evaluate`; steps are seconds.
        clock: seconds, for the budget.

    Raises:
        InvalidInputError: a number is out of range, two evaluators have one metric, or there is
            nothing that measures blocks alone.
        EvaluationError: the minutes were spent before a table could be fitted (what was measured is
            kept), or fresh networks could not be measured.
    """
    if method not in get_args(BuildingMethod):
        raise InvalidInputError(
            f"a table is built by {', '.join(get_args(BuildingMethod))}, but got {method!r}."
        )
    if not minutes > 0 or not target > 0:
        raise InvalidInputError(
            f"minutes and the target are positive, but got {minutes} and {target}."
        )
    names = [metric.name for evaluator in evaluators for metric in evaluator.metrics]
    if not names or len(set(names)) < len(names):
        raise InvalidInputError(
            f"each metric is measured by one evaluator, but got {', '.join(names) or 'none'}."
        )
    for evaluator in evaluators:
        if isinstance(evaluator, RelativeLatencyEvaluator):
            evaluator.settle(study)
    held = list(validation_sampling(study.space, networks, seed=seed, reference=_base(study)))
    building = _Building(study, list(evaluators), held, seed, clock, clock() + 60 * minutes)
    way = _way(method, building, isolated)
    with progress_bar(f"measuring by {method}", max(1, round(60 * minutes)), progress) as bar:
        building.bar = bar
        table, stopped = _grow(way, building, target)
        building.measure_held()
    return _report(method, building, way, table, stopped)


# ---- budget ------------------------------------------------------------------------------------


@dataclass
class _Building:
    """What a call measures with, and what it has spent."""

    study: Study
    evaluators: list[Evaluator]
    held: list[Network]
    seed: int
    clock: Callable[[], float]
    deadline: float
    bar: Progress | None = None
    measurements: int = 0
    failures: list[Failure] = field(default_factory=list)
    note: str = ""

    def __post_init__(self) -> None:
        self.start = self._shown = self.clock()
        self._seconds: dict[int, float] = {}  # of one evaluation, by evaluator
        self._made: dict[int, int] = {}
        self._lacks: dict[int, int] = {}

    @property
    def space(self) -> SearchSpace:
        return self.study.space

    @property
    def names(self) -> list[str]:
        return [metric.name for evaluator in self.evaluators for metric in evaluator.metrics]

    def conditions(self) -> dict[str, Mapping[str, str]]:
        """By metric."""
        return {
            metric.name: evaluator.conditions
            for evaluator in self.evaluators
            for metric in evaluator.metrics
        }

    def run(
        self,
        study: Study,
        evaluators: Sequence[Evaluator],
        networks: Sequence[Network],
        *,
        limited: bool,
    ) -> bool:
        """Measure what the study lacks of these networks, a network that stands k times k times.

        Returns:
            Whether it was not stopped by the deadline, if `limited`.
        """
        study.declare(metric for evaluator in evaluators for metric in evaluator.metrics)
        order = _in_rounds(networks)
        size = max(evaluator.batch_size for evaluator in evaluators)
        lacking = {id(e): self._lacking(study, e, order) for e in evaluators}
        for begin in range(0, len(order), size):
            for evaluator in evaluators:
                part = [
                    order[place]
                    for place in range(begin, min(begin + size, len(order)))
                    if place in lacking[id(evaluator)]
                ]
                if not part:
                    continue
                if limited and self.clock() + self._expected(evaluator, len(part)) > self._end():
                    return False
                self._batch(study, evaluator, part)
        return True

    def _lacking(self, study: Study, evaluator: Evaluator, order: Sequence[Network]) -> set[int]:
        """Places in `order` that are not measured yet."""
        counts = study.counts([m.name for m in evaluator.metrics], evaluator.conditions)
        seen: Counter[Network] = Counter()
        found = set()
        for place, network in enumerate(order):
            seen[network] += 1
            if seen[network] > counts[network]:
                found.add(place)
        return found

    def _batch(self, study: Study, evaluator: Evaluator, part: Sequence[Network]) -> None:
        counts = study.counts([m.name for m in evaluator.metrics], evaluator.conditions)
        added = Counter(part)
        wanted = [n for network in added for n in [network] * (counts[network] + added[network])]
        begin = self.clock()
        report = runner.evaluate(study, wanted, evaluator, seed=self.seed, progress=False)
        key = id(evaluator)
        self._seconds[key] = self._seconds.get(key, 0.0) + self.clock() - begin
        self._made[key] = self._made.get(key, 0) + len(part)
        self.measurements += report.done
        self.failures += report.failures
        self._show()

    def _show(self) -> None:
        now = self.clock()
        steps = int(now - self._shown)
        if self.bar is not None and steps > 0:
            self._shown += steps
            self.bar.advance(steps, f"{self.measurements} measurements{self.note}")

    def _each(self, evaluator: Evaluator) -> float:
        """Seconds of one evaluation, as far as known."""
        made = self._made.get(id(evaluator), 0)
        return self._seconds.get(id(evaluator), 0.0) / made if made else 0.0

    def _expected(self, evaluator: Evaluator, count: int) -> float:
        return count * self._each(evaluator)

    def _end(self) -> float:
        """When the validation must begin."""
        return self.deadline - sum(
            self._expected(evaluator, self._held_lacking(evaluator))
            for evaluator in self.evaluators
        )

    def _held_lacking(self, evaluator: Evaluator) -> int:
        """How many measurements the validation needs still."""
        key = id(evaluator)
        if key not in self._lacks:
            wanted = _in_rounds(self._wanted_held(evaluator))
            self._lacks[key] = len(self._lacking(self.study, evaluator, wanted))
        return self._lacks[key]

    def _wanted_held(self, evaluator: Evaluator) -> list[Network]:
        return self.held * (VALIDATION_REPEATS if evaluator.noisy else 1)

    def measure_held(self) -> None:
        """The fresh networks, whatever the time: a table is never given without its test."""
        for evaluator in self.evaluators:
            self.run(self.study, [evaluator], self._wanted_held(evaluator), limited=False)


def _in_rounds(networks: Sequence[Network]) -> list[Network]:
    """Every network once, then those that stand twice again, and so on."""
    seen: Counter[Network] = Counter()
    rounds: list[list[Network]] = []
    for network in networks:
        if seen[network] == len(rounds):
            rounds.append([])
        rounds[seen[network]].append(network)
        seen[network] += 1
    return [network for part in rounds for network in part]


# ---- methods -----------------------------------------------------------------------------------


class _Way(Protocol):
    """What to measure, and what table comes of it."""

    @property
    def study(self) -> Study: ...

    @property
    def evaluators(self) -> Sequence[Evaluator]: ...

    def networks(self, number: int) -> list[Network] | None:
        """All that is measured after this many rounds (from 1); None: nothing more."""
        ...

    def uses(self, network: Network) -> bool:
        """Whether the fit is of this network too."""
        ...

    def fit(self) -> BlockTable: ...


def _way(method: BuildingMethod, building: _Building, isolated: Isolated | None) -> _Way:
    if method == "regression":
        return _Designed(building)
    if method == "differences":
        return _Switched(building)
    if isolated is None or len(isolated.evaluators) != len(building.evaluators):
        raise InvalidInputError(
            "blocks in isolation are measured by evaluators of parts, one for each of "
            f"{', '.join(building.names)}: give isolated=, or use another method."
        )
    for evaluator in isolated.evaluators:
        if isinstance(evaluator, RelativeLatencyEvaluator):
            evaluator.settle(isolated.study)
    return _Alone(building, isolated)


class _Designed:
    """Designed samples and regression; the reference once more each round, to see drift."""

    def __init__(self, building: _Building) -> None:
        self.building = building
        self.study, self.evaluators = building.study, building.evaluators
        self.noisy = any(evaluator.noisy for evaluator in self.evaluators)
        self._rounds: list[list[Network]] = []  # what each adds

    def networks(self, number: int) -> list[Network] | None:
        while len(self._rounds) < number:
            added = self._more()
            if added is None:
                return None
            # at the beginning and, since repeats come last, at the end
            reference = [_base(self.study)] * (2 if self.noisy else 0)
            self._rounds.append([*reference, *added])
        return [network for part in self._rounds[:number] for network in part]

    def _more(self) -> list[Network] | None:
        """The networks of another round; where the space has no more, all again."""
        space = self.building.space
        held = set(self.building.held)
        chosen = {network for part in self._rounds for network in part}
        effects = space.num_blocks - space.num_nodes
        first = max(_FEWEST, math.ceil(_PER_EFFECT * effects))
        wanted = math.ceil(_GROWTH * len(chosen)) if chosen else first
        count = min(wanted, space.num_networks - len(chosen))
        if count:
            seed = self.building.seed + len(self._rounds)
            # held networks are left out afterwards: the others are to be balanced without them
            found = balanced_sampling(space, count, seed=seed, include=sorted(chosen))
            fresh = [network for network in found if network not in held]
            if not fresh:  # a small space: what is left of it
                fresh = [n for n in space.enumerate() if n not in held and n not in chosen]
            if fresh:
                return fresh
        if not chosen:
            raise InvalidInputError(
                f"a table is fitted on other networks than the {len(held)} that validate it, but "
                f"{space.name} has {space.num_networks}: validate with fewer."
            )
        return sorted(chosen) if self.noisy else None

    def uses(self, network: Network) -> bool:
        return network not in self.building.held

    def fit(self) -> BlockTable:
        return _fitted(self.building, "regression")


class _Switched:
    """Single sampling, repeated."""

    def __init__(self, building: _Building) -> None:
        self.building = building
        self.study, self.evaluators = building.study, building.evaluators
        self.sample = single_sampling(building.space, _base(building.study))
        building.study.add_sample(self.sample)

    def networks(self, number: int) -> list[Network] | None:
        noisy = any(evaluator.noisy for evaluator in self.evaluators)
        return list(self.sample) * number if noisy or number == 1 else None

    def uses(self, network: Network) -> bool:
        return network in self.sample.networks

    def fit(self) -> BlockTable:
        return _fitted(self.building, "single")


class _Alone:
    """Blocks in isolation, repeated."""

    def __init__(self, building: _Building, isolated: Isolated) -> None:
        self.building = building
        self.space = isolated.space
        self.study, self.evaluators = isolated.study, isolated.evaluators

    def networks(self, number: int) -> list[Network] | None:
        noisy = any(evaluator.noisy for evaluator in self.evaluators)
        return self.space.parts * number if noisy or number == 1 else None

    def uses(self, network: Network) -> bool:
        return network in self.space.parts

    def fit(self) -> BlockTable:
        conditions = {
            metric.name: evaluator.conditions
            for evaluator in self.evaluators
            for metric in evaluator.metrics
        }
        reference = _base(self.building.study)
        return isolation_table(self.space, self.study, self.building.names, conditions, reference)


def _base(study: Study) -> Network:
    return study.space.reference


def _fitted(building: _Building, method: Literal["regression", "single"]) -> BlockTable:
    return fit_without(
        building.study,
        building.held,
        building.names,
        method=method,
        reference=_base(building.study),
        conditions=building.conditions(),
    )


def _grow(way: _Way, building: _Building, target: float) -> tuple[BlockTable, str]:
    """Measure in rounds until predictions are certain enough or the time is spent."""
    for number in range(1, _MOST_ROUNDS + 1):
        networks = way.networks(number)
        if networks is None:
            break
        if not building.run(way.study, way.evaluators, networks, limited=True):
            return _fit(way, building), "budget"  # with what the unfinished round brought
        with _quiet():
            table = _fit(way, building)
        worst = max(_uncertainty(table, building.held, name) for name in building.names)
        building.note = f", uncertainty {worst:.2%}"
        if worst <= target:
            return table, "target"
    return _fit(way, building), "everything"


def _fit(way: _Way, building: _Building) -> BlockTable:
    """The table as it is known now.

    Raises:
        EvaluationError: too little was measured.
    """
    failed = ""
    if building.failures:
        count, first = len(building.failures), building.failures[0].error
        failed = f" {count} evaluations failed, the first: {first}."
    for evaluator in way.evaluators:
        if not way.study.counts([m.name for m in evaluator.metrics], evaluator.conditions):
            names = ", ".join(metric.name for metric in evaluator.metrics)
            raise EvaluationError(
                f"{names} of no network was measured.{failed} Before the first one a supernet is "
                "exported, which takes a minute or more: give more minutes."
            )
    try:
        return way.fit()
    except InvalidInputError as error:
        raise EvaluationError(
            f"the measurements are not enough for a table: {error}{failed} What was measured is "
            "kept: the same command goes on."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Between rounds: what is to be warned of is said of the last fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _uncertainty(table: BlockTable, networks: Sequence[Network], metric: str) -> float:
    """Of predictions because of the effects, relative: root mean square over networks."""
    deviations = _deviations(table, networks, metric)
    return _relative(deviations, table.predict(np.array(networks), metric))


def _relative(deviations: Floats | None, predicted: Floats) -> float:
    """The root mean square of deviations, relative to the predictions' mean size."""
    scale = float(np.abs(predicted).mean())
    if deviations is None or not scale:
        return math.inf
    return math.sqrt(float(np.mean(deviations**2))) / scale


def _deviations(table: BlockTable, networks: Sequence[Network], metric: str) -> Floats | None:
    """How far predictions may be off because of the effects, shape (networks,), in the metric's
    unit; None where the fit does not say."""
    column = table.column(metric)
    rows = np.array(networks)
    if column.uncertainty is not None:
        own = table.response_deviation(rows, metric)
        middle = table.responses(rows, metric)
        inverse = column.metric.scale.inverse
        found: Floats = np.abs(inverse(middle + own) - inverse(middle - own)) / 2
        return found
    spreads = column.spread[rows + table.space.offsets[:-1]]
    if not np.isfinite(spreads).all():
        return None
    total: Floats = np.sqrt((spreads**2).sum(axis=1))
    return total


# ---- report ------------------------------------------------------------------------------------


def judge(
    study: Study,
    table: BlockTable,
    networks: Sequence[Network],
    conditions: Mapping[str, Mapping[str, str]],
    *,
    additivity: bool = True,
) -> dict[str, MetricReport]:
    """How a table serves fresh networks that a study holds, by metric.

    Args:
        networks: that the table was not fitted on.
        conditions: by metric, under which they were measured; other metrics are left out.
        additivity: whether to test if blocks add up.

    Raises:
        InvalidInputError: fewer than 3 of the networks were measured for a metric.
    """
    measured = {name: study.measurements(name, own) for name, own in conditions.items()}
    found = validate(table, measured, networks)
    return {
        name: _judged(study, table, own, measured[name], additivity=additivity)
        for name, own in found.metrics.items()
    }


def _judged(
    study: Study,
    table: BlockTable,
    found: MetricValidation,
    data: Measurements,
    *,
    additivity: bool,
) -> MetricReport:
    name, rows = found.metric.name, [tuple(row) for row in found.networks.tolist()]
    values: dict[Network, list[float]] = {network: [] for network in rows}
    for fact in study.evaluations(name, conditions=data.conditions):
        if fact.network in values:
            values[fact.network].append(fact.measurement.value)
    noise = noise_of_repeats(list(values.values()))
    once = None
    if noise is not None:
        repeats = len(values[rows[0]])
        once = float(noise[0]) * math.sqrt(repeats) / float(np.abs(found.measured).mean())
    deviations = _deviations(table, rows, name)
    tested = None
    if additivity:
        tested = check_additivity(
            study.space, found, data, table.reference, deviations=deviations, noise=noise
        )
    return MetricReport(found, _relative(deviations, found.predicted), tested, once)


def _report(
    method: str, building: _Building, way: _Way, table: BlockTable, stopped: str
) -> BuildingReport:
    try:
        reports = judge(
            building.study,
            table,
            building.held,
            building.conditions(),
            additivity=method != "isolation",
        )
    except InvalidInputError as error:
        first = f" The first failure: {building.failures[0].error}" if building.failures else ""
        raise EvaluationError(f"the table cannot be judged: {error}{first}") from error
    networks: set[Network] = set()
    for evaluator in way.evaluators:
        for metric in evaluator.metrics:
            networks |= way.study.counts([metric.name], evaluator.conditions).keys()
    return BuildingReport(
        method,
        table,
        reports,
        sum(map(way.uses, networks)),
        building.measurements,
        building.clock() - building.start,
        stopped,
        _drift(building),
        tuple(building.failures),
    )


def _drift(building: _Building) -> dict[str, tuple[float, float]]:
    """From the notes of relative measurements, and otherwise from the reference's repeats."""
    found = {}
    for name, conditions in building.conditions().items():
        noted, repeated = [], []
        for fact in building.study.evaluations(name, conditions=conditions):
            if REFERENCE_MS in fact.measurement.notes:
                noted.append(float(fact.measurement.notes[REFERENCE_MS]))
            elif fact.network == _base(building.study):
                repeated.append(fact.measurement.value)
        values = noted or repeated
        if len(values) > 1 and np.mean(values):
            mean = float(np.mean(values))
            found[name] = (min(values) / mean, max(values) / mean)
    return found
