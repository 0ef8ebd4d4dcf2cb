"""One evaluation: what was measured of a network; and what measures it.

The life of an evaluation: `mathnas.evaluate` picks a network that the study lacks, hands it to an
`Evaluator` (in this process or a worker), checks what comes back, and writes one `Evaluation` a
metric into the study. An evaluator never touches the study.
"""

from __future__ import annotations

import csv
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mathnas.device import Device
from mathnas.errors import EvaluationError, FileFormatError, InvalidInputError
from mathnas.metrics import Metric, metric_named
from mathnas.space import Network, SearchSpace, network_text


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measured value.

    Attributes:
        value: in the metric's unit.
        spread: standard deviation over the repeats inside this measurement, where known.
        repeats: how many times the quantity was measured to give `value`.
        notes: what else is known of this measurement (load, frequency, attempts); kept with it,
            without effect on what is fitted.
    """

    value: float
    spread: float | None = None
    repeats: int = 1
    notes: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))
        if not isinstance(self.notes, Mapping):
            raise InvalidInputError(
                f"notes are a mapping of texts to texts, but got {self.notes!r}."
            )
        # a plain dict of texts, which can be sent by any worker and stored
        object.__setattr__(self, "notes", {str(k): str(v) for k, v in self.notes.items()})
        if self.repeats < 1:
            raise InvalidInputError(f"a measurement has at least 1 repeat, but got {self.repeats}.")
        if self.spread is not None and not (math.isfinite(self.spread) and self.spread >= 0):
            raise InvalidInputError(
                f"a spread is a standard deviation, finite and at least 0, but got {self.spread}."
            )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A fact: one metric of one network, measured once, under stated conditions.

    Attributes:
        network: block indices.
        metric: the metric's name.
        measurement: value, spread and repeats.
        seed: what the evaluator was given for its randomness, where it was given one.
        conditions: what else the value depends on (device, engine, threads, precision, ...).
        time: when it was finished, seconds since 1970.
    """

    network: Network
    metric: str
    measurement: Measurement
    seed: int | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)
    time: float = 0.0


class BatchError(EvaluationError):
    """Results of a batch that cannot be told to belong to networks."""


class Evaluator(Protocol):
    """Measures networks. Inherit from it to get the defaults, or match its members.

    Attributes:
        metrics: what `evaluate` returns a value for.
        conditions: what the values depend on; two evaluators with different conditions fill
            different rows of a study.
        exclusive: True for latency and energy: nothing else may run beside an evaluation, so they
            are made one at a time, whatever the number of workers.
        threads: how many threads one evaluation uses, the same for any number of workers.
        batch_size: how many networks `evaluate_batch` likes to be given at once. They are one
            evaluation in flight, written to the study together; but see `evaluate_each`.
        noisy: whether measuring a network again may give another value; where False, a refinement
            measures no network twice.
        device: the machine that the values depend on, which the study then has a record of; its
            name is the condition ``device``. None where values are the same on every machine.
    """

    metrics: tuple[Metric, ...]
    conditions: Mapping[str, str] = {}
    exclusive: bool = False
    threads: int = 1
    batch_size: int = 1
    noisy: bool = True
    device: Device | None = None

    def evaluate(self, network: Network, seed: int) -> Mapping[str, Measurement | float]:
        """The metrics of one network, by name.

        Any exception is recorded as a failed evaluation; the others go on. `seed` depends only on
        the study's seed, the network and the repeat, not on order or workers.
        """
        ...

    def evaluate_batch(
        self, networks: Sequence[Network], seeds: Sequence[int]
    ) -> Sequence[Mapping[str, Measurement | float]]:
        """The metrics of several networks; override it where they can share work."""
        return [self.evaluate(network, seed) for network, seed in zip(networks, seeds, strict=True)]

    def evaluate_each(
        self, networks: Sequence[Network], seeds: Sequence[int]
    ) -> Iterator[tuple[int, Mapping[str, Measurement | float]]]:
        """The place and the metrics of each network, in any order, as soon as they are there.

        Override it where networks that share work are finished one after another: then a run that
        is killed keeps what had come.

        Raises:
            BatchError: `evaluate_batch` does not return one mapping for each network.
        """
        found = list(self.evaluate_batch(networks, seeds))
        if len(found) != len(networks):
            raise BatchError(
                f"evaluate_batch returns one mapping for each network, but {type(self).__name__} "
                f"gave {len(found)} for {len(networks)}."
            )
        yield from enumerate(found)


class StreamingEvaluator(Evaluator):
    """An evaluator that finishes networks one after another: write `evaluate_each`, and the other
    ways to ask follow from it.

    Example:
        >>> from mathnas import StreamingEvaluator, metric_named
        >>> class Sums(StreamingEvaluator):
        ...     metrics = (metric_named("latency_ms"),)
        ...     def evaluate_each(self, networks, seeds=()):
        ...         for place, network in enumerate(networks):
        ...             yield place, {"latency_ms": float(sum(network))}
        >>> Sums().evaluate((1, 2))
        {'latency_ms': 3.0}
    """

    def evaluate(self, network: Network, seed: int = 0) -> Mapping[str, Measurement | float]:
        return self.evaluate_batch([network], [seed])[0]

    def evaluate_batch(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Sequence[Mapping[str, Measurement | float]]:
        """The metrics of several networks, in their order.

        Raises:
            BatchError: `evaluate_each` leaves a network out.
        """
        found = dict(self.evaluate_each(networks, seeds))
        missing = [place for place in range(len(networks)) if place not in found]
        if missing:
            raise BatchError(
                f"evaluate_each gives each place in the batch once, 0 to {len(networks) - 1}, but "
                f"{type(self).__name__} left out {missing[0]}: raise where a network cannot be "
                "measured."
            )
        return [found[place] for place in range(len(networks))]

    @abstractmethod
    def evaluate_each(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Iterator[tuple[int, Mapping[str, Measurement | float]]]:
        """The place and the metrics of each network, as soon as they are there.

        Networks that cannot be measured raise, best after all others have come: what came before
        is kept.

        Args:
            seeds: one for each network, where they are given.
        """
        ...


class FunctionEvaluator(Evaluator):
    """An evaluator from a function of a network.

    Args:
        function: takes a network; returns a number (for one metric) or a mapping of metric names.
        metrics: names (see `metric_named`) or `Metric` declarations.
        conditions, exclusive, threads, noisy: as in `Evaluator`.

    Example:
        >>> from mathnas import FunctionEvaluator
        >>> evaluator = FunctionEvaluator(lambda network: 1.0 + sum(network), ["latency_ms"])
        >>> evaluator.evaluate((1, 2), seed=0)
        {'latency_ms': 4.0}
    """

    def __init__(
        self,
        function: Callable[[Network], Mapping[str, Measurement | float] | float],
        metrics: Sequence[str | Metric],
        *,
        conditions: Mapping[str, str] | None = None,
        exclusive: bool = False,
        threads: int = 1,
        noisy: bool = True,
    ) -> None:
        self.function = function
        self.metrics = _declared(metrics)
        self.conditions = dict(conditions or {})
        self.exclusive = exclusive
        self.threads = threads
        self.noisy = noisy

    def evaluate(self, network: Network, seed: int) -> Mapping[str, Measurement | float]:
        result = self.function(network)
        if isinstance(result, Mapping):
            return result
        if len(self.metrics) != 1:
            raise EvaluationError(
                f"a function for {len(self.metrics)} metrics returns a mapping of their names, "
                f"but got {result!r}."
            )
        return {self.metrics[0].name: result}


class TabularEvaluator(Evaluator):
    """Looks measurements up in a table: a benchmark, or somebody else's measurements.

    Args:
        space: the space of the networks.
        rows: for each known network, its metrics by name.
        metrics: names or declarations of the metrics.
        conditions: conditions under which the table was measured.

    Raises:
        InvalidInputError: a network does not belong to the space, or a value is missing or not
            finite.
    """

    batch_size = 1024
    noisy = False

    def __init__(
        self,
        space: SearchSpace,
        rows: Mapping[Network, Mapping[str, Measurement | float]],
        metrics: Sequence[str | Metric],
        *,
        conditions: Mapping[str, str] | None = None,
    ) -> None:
        self.space = space
        self.metrics = _declared(metrics)
        self.conditions = dict(conditions or {})
        space.check_many(list(rows))
        for network, row in rows.items():
            _check_row(network, row, self.metrics)
        self._rows = rows

    @property
    def networks(self) -> list[Network]:
        """The networks that the table holds."""
        return list(self._rows)

    def __contains__(self, network: Network) -> bool:
        return network in self._rows

    def evaluate(self, network: Network, seed: int = 0) -> Mapping[str, Measurement | float]:
        try:
            row = self._rows[network]
        except KeyError:
            raise EvaluationError(
                f"the table of {self.space.name} has {len(self._rows)} networks, but not "
                f"{network_text(network)}: choose among TabularEvaluator.networks."
            ) from None
        return {metric.name: row[metric.name] for metric in self.metrics}

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        space: SearchSpace,
        *,
        metrics: Sequence[str | Metric] | None = None,
        conditions: Mapping[str, str] | None = None,
    ) -> TabularEvaluator:
        """Read a table with a column ``network`` (``3,0,2`` or block names) and a column a metric.

        Args:
            metrics: the columns to read; by default all but ``network``.

        Raises:
            FileFormatError: the file cannot be read, or a column is missing.
            InvalidInputError: a row does not fit the space, is not a number, or repeats a network.
        """
        try:
            with Path(path).open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                columns = list(reader.fieldnames or [])
                lines = list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise FileFormatError(f"{path} cannot be read as CSV: {error}.") from error
        wanted: Sequence[str | Metric] = (
            metrics if metrics is not None else [name for name in columns if name != "network"]
        )
        chosen = _declared(wanted)
        for name in ["network", *(metric.name for metric in chosen)]:
            if name not in columns:
                raise FileFormatError(f"{path} has no column {name!r}; it has {columns}.")
        rows: dict[Network, dict[str, Measurement | float]] = {}
        for number, line in enumerate(lines, start=2):
            try:
                network = space.parse(line["network"] or "")
                if network in rows:
                    raise InvalidInputError(
                        f"{network_text(network)} stands twice: a table has one row a network, "
                        "so average its repeats first."
                    )
                rows[network] = {m.name: m.check(float(line[m.name])) for m in chosen}
            except (TypeError, ValueError) as error:
                raise InvalidInputError(f"{path}, line {number}: {error}") from error
        return cls(space, rows, chosen, conditions=conditions)


def _check_row(
    network: Network, row: Mapping[str, Measurement | float], metrics: Sequence[Metric]
) -> None:
    for metric in metrics:
        if metric.name not in row:
            raise InvalidInputError(
                f"a table has every metric of every network, but {network_text(network)} has no "
                f"{metric.name}: leave the network or the metric out."
            )
        value = row[metric.name]
        metric.check(value.value if isinstance(value, Measurement) else value)


def _declared(metrics: Sequence[str | Metric]) -> tuple[Metric, ...]:
    """Metrics that are given by name or by declaration."""
    return tuple(item if isinstance(item, Metric) else metric_named(item) for item in metrics)
