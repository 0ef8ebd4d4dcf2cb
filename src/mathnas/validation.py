"""How well a table predicts networks that it was not fitted on.

Validation networks are random, are kept in the study like any other, and are left out of the fit
that they validate: `validation_sampling` draws them, `fit_without` fits the rest, `validate`
compares. They depend on a seed and the reference alone, so that the same call resumes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError
from mathnas.evaluation import Evaluation
from mathnas.fitting import Method, fit
from mathnas.metrics import Floats, Metric
from mathnas.sampling import Sample
from mathnas.space import Indices, Network, SearchSpace, network_text
from mathnas.study import Measurements, Study
from mathnas.table import BlockTable, Form

_FEWEST = 3
_CHUNK = 256
_STREAM = 0x76616C69  # apart from the networks that other designs draw from the same seed
_SAME = 1e-12  # relative; what sums differ by in their last bits is equal
_PLOT_WIDTH, _PLOT_HEIGHT = 48, 16


# ---- one metric ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quality:
    """How predictions agree with measurements.

    Attributes:
        networks: how many.
        spearman: rank correlation, average ranks for ties; None where it is undefined.
        kendall: tau-b; None where it is undefined.
        mae: mean absolute error, in the metric's unit.
        mape: mean absolute error relative to the measurement, in percent; None where a measurement
            is 0, and in a `Validation` where the metric is not additive.
        bias: mean of predicted - measured, in the metric's unit.
        coverage: share of the measurements inside their interval; None without intervals.
        undefined: why there is no rank correlation; empty where there is one.
    """

    networks: int
    spearman: float | None
    kendall: float | None
    mae: float
    mape: float | None
    bias: float
    coverage: float | None = None
    undefined: str = ""

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "networks": self.networks,
            "spearman": self.spearman,
            "kendall": self.kendall,
            "mae": self.mae,
            "mape": self.mape,
            "bias": self.bias,
            "coverage": self.coverage,
            "undefined": self.undefined or None,
        }


def quality(
    predicted: npt.ArrayLike,
    measured: npt.ArrayLike,
    interval: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
) -> Quality:
    """Compare predictions with measurements, both of shape (k,) and in one unit.

    Args:
        interval: lowest and highest values that the predictions allow, two of shape (k,).

    Raises:
        InvalidInputError: fewer than 3 networks, different shapes, or a number is not finite
            (interval ends may be infinite).
    """
    guess, truth = _column("predictions", predicted), _column("measurements", measured)
    if guess.shape != truth.shape:
        raise InvalidInputError(
            f"each prediction has its measurement, but got {len(guess)} predictions and "
            f"{len(truth)} measurements."
        )
    if len(truth) < _FEWEST:
        raise InvalidInputError(
            f"a comparison needs at least {_FEWEST} networks, but got {len(truth)}: evaluate more."
        )
    error = guess - truth
    with np.errstate(over="ignore"):
        mape = None if (truth == 0).any() else float(100 * np.abs(error / truth).mean())
    undefined = " and ".join(
        f"all {what} are equal"
        for what, values in (("predictions", guess), ("measurements", truth))
        if _constant(values)
    )
    return Quality(
        networks=len(truth),
        spearman=None if undefined else _spearman(guess, truth),
        kendall=None if undefined else _kendall(guess, truth),
        mae=float(np.abs(error).mean()),
        mape=mape,
        bias=float(error.mean()),
        coverage=None if interval is None else _coverage(truth, interval),
        undefined=undefined,
    )


def _column(what: str, values: npt.ArrayLike) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1:
        raise InvalidInputError(
            f"{what} are one number a network, but got an array of shape {column.shape}."
        )
    if not np.isfinite(column).all():
        place = int(np.flatnonzero(~np.isfinite(column))[0])
        raise InvalidInputError(
            f"{what} are finite, but number {place} is {column[place]}: leave that network out."
        )
    return column


def _constant(values: Floats) -> bool:
    return bool(np.ptp(values) <= _SAME * np.abs(values).max())


def _coverage(truth: Floats, interval: tuple[npt.ArrayLike, npt.ArrayLike]) -> float:
    low, high = (np.asarray(end, dtype=np.float64) for end in interval)
    if low.shape != truth.shape or high.shape != truth.shape:
        raise InvalidInputError(
            f"an interval has a lower and an upper end for each of the {len(truth)} networks, but "
            f"got the shapes {low.shape} and {high.shape}."
        )
    return float(((low <= truth) & (truth <= high)).mean())


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: Floats = (last - (count - 1) / 2)[group.ravel()]
    return ranks


def _spearman(one: Floats, other: Floats) -> float:
    ranks = [_ranks(values) for values in (one, other)]
    first, second = (values - values.mean() for values in ranks)
    product = float(first @ second) / math.sqrt(float(first @ first) * float(second @ second))
    return min(1.0, max(-1.0, product))


def _kendall(one: Floats, other: Floats) -> float:
    """Tau-b: pairs that agree minus pairs that disagree, over those tied in neither."""
    agreement = untied_one = untied_other = 0
    for i in range(len(one) - 1):
        first, second = np.sign(one[i + 1 :] - one[i]), np.sign(other[i + 1 :] - other[i])
        agreement += int(first @ second)
        untied_one += int(np.count_nonzero(first))
        untied_other += int(np.count_nonzero(second))
    return agreement / math.sqrt(untied_one * untied_other)


# ---- a table ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class MetricValidation:
    """One metric of a validation.

    Attributes:
        metric: what was predicted and measured.
        networks: shape (k, m).
        predicted, measured: shape (k,), in the metric's unit; measured values are means over
            repeats.
        interval: two of shape (k,): between which values the table expects one measurement, with
            probability `confidence`; None where its fit gives no uncertainty.
        quality: how the two agree.
    """

    metric: Metric
    networks: Indices
    predicted: Floats
    measured: Floats
    interval: tuple[Floats, Floats] | None
    confidence: float
    quality: Quality

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        points: list[dict[str, object]] = [
            {"network": network, "predicted": predicted, "measured": measured}
            for network, predicted, measured in zip(
                self.networks.tolist(),
                self.predicted.tolist(),
                self.measured.tolist(),
                strict=True,
            )
        ]
        if self.interval is not None:
            low, high = (end.tolist() for end in self.interval)
            for point, *ends in zip(points, low, high, strict=True):
                point["interval"] = ends
        return {
            "unit": self.metric.unit,
            **self.quality.to_dict(),
            "confidence": self.confidence if self.interval is not None else None,
            "points": points,
        }

    def __str__(self) -> str:
        found = self.quality
        lines = [f"{self.metric.name}: {found.networks} networks"]
        if found.spearman is None or found.kendall is None:
            lines.append(f"  rank correlation: undefined, {found.undefined}")
        else:
            lines.append(
                f"  rank correlation: Spearman {found.spearman:.3f}, Kendall {found.kendall:.3f}"
            )
        relative = "" if found.mape is None else f" ({found.mape:.3g} % of the measured)"
        sign = "+" if found.bias > 0 else ""
        lines.append(
            f"  mean absolute error: {self.metric.format(found.mae)}{relative}, "
            f"bias {sign}{self.metric.format(found.bias)}"
        )
        if found.coverage is not None:
            lines.append(
                f"  {100 * self.confidence:g} % intervals hold "
                f"{round(found.coverage * found.networks)} of {found.networks} measurements "
                f"({100 * found.coverage:.0f} %)"
            )
        return "\n".join([*lines, *self._plot()])

    def _plot(self) -> list[str]:
        """Predicted values upwards, measured ones to the right, both from the same lowest to the
        same highest value; on the dotted diagonal predictions are right."""
        both = np.concatenate([self.predicted, self.measured])
        low, high = float(both.min()), float(both.max())
        canvas = [[" "] * _PLOT_WIDTH for _ in range(_PLOT_HEIGHT)]
        for column in range(_PLOT_WIDTH):
            row = round(column / (_PLOT_WIDTH - 1) * (_PLOT_HEIGHT - 1))
            canvas[_PLOT_HEIGHT - 1 - row][column] = "."
        rights = _cells(self.measured, low, high, _PLOT_WIDTH)
        ups = _cells(self.predicted, low, high, _PLOT_HEIGHT)
        for column, row in zip(rights, ups, strict=True):
            canvas[_PLOT_HEIGHT - 1 - row][column] = "o"
        first, last = self.metric.format(low), self.metric.format(high)
        labels = {0: last, 1: "predicted", _PLOT_HEIGHT - 1: first}
        width = max(map(len, labels.values()))
        lines = [
            f"  {labels.get(row, ''):>{width}} |{''.join(cells).rstrip()}"
            for row, cells in enumerate(canvas)
        ]
        middle = "measured".center(max(10, _PLOT_WIDTH - len(first) - len(last)))
        left = " " * (width + 2)
        return [*lines, f"{left} +{'-' * _PLOT_WIDTH}", f"{left}  {first}{middle}{last}"]


@dataclass(frozen=True)
class Validation:
    """What `validate` found, by metric."""

    metrics: Mapping[str, MetricValidation]

    def __getitem__(self, metric: str) -> Quality:
        """The quality of one metric.

        Raises:
            InvalidInputError: the metric was not validated.
        """
        if metric not in self.metrics:
            raise InvalidInputError(
                f"{', '.join(self.metrics)} were validated, but not {metric!r}."
            )
        return self.metrics[metric].quality

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"metrics": {name: found.to_dict() for name, found in self.metrics.items()}}

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.metrics.values()))


def validate(
    table: BlockTable,
    data: Study | Mapping[str, Measurements],
    networks: Sample | Iterable[Sequence[int | str]] | None = None,
    *,
    metrics: Sequence[str] | None = None,
    confidence: float = 0.9,
) -> Validation:
    """Compare a table's predictions with measurements of networks that it was not fitted on.

    Args:
        data: a study that holds the measurements, taken under the table's own conditions; or
            measurements by metric.
        networks: which ones; by default those that `fit_without` held out or, without a study, all
            that were measured. A metric is compared on those that were measured for it.
        metrics: which ones; by default all of the table that were measured.
        confidence: of the intervals whose coverage is counted, between 0 and 1.

    Raises:
        InvalidInputError: fewer than 3 of the networks were measured for a metric, some were in the
            fit (known where the table was fitted on this study), a metric is unknown, or the
            confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise InvalidInputError(f"a confidence is between 0 and 1, but got {confidence}.")
    chosen = _chosen(table, data, networks)
    if isinstance(data, Study):
        _refuse_fitted(table, data, chosen or ())
        measured = [
            name
            for name, column in table.columns.items()
            if any(column.conditions.items() <= held.items() for held in data.conditions(name))
        ]
    else:
        measured = [name for name in table.columns if name in data]
    names = measured if metrics is None else list(metrics)
    if not names:
        raise InvalidInputError(
            f"none of the table's metrics ({', '.join(table.columns)}) was measured: evaluate the "
            "networks first."
        )
    found = {}
    for name in names:
        column = table.column(name)
        if isinstance(data, Study):
            held = data.measurements(name, column.conditions)
        elif name in data:
            held = data[name]
        else:
            raise InvalidInputError(
                f"measurements are given for {', '.join(data)}, but not for {name!r}."
            )
        found[name] = _compare(table, held, name, chosen, confidence)
    return Validation(found)


def validation_sampling(
    space: SearchSpace,
    count: int,
    *,
    seed: int = 0,
    reference: Sequence[int | str] | None = None,
) -> Sample:
    """`count` distinct random networks to validate with; a larger count adds to the same ones.

    The reference and the networks one switch away from it are not among them: they are what single
    sampling evaluates and no fit of it can do without.

    Args:
        reference: by default the space's; for a study give its `Study.reference`.

    Raises:
        InvalidInputError: the count is below 3, or more than there are such networks; or the seed
            is negative.
    """
    base = space.reference if reference is None else space.check(reference)
    near = set(_near(space, base))
    if count < _FEWEST:
        raise InvalidInputError(
            f"a validation needs at least {_FEWEST} networks, but {count} were asked for."
        )
    if seed < 0:
        raise InvalidInputError(f"a seed is a whole number from 0, but got {seed}.")
    if count > space.num_networks - len(near):
        raise InvalidInputError(
            f"{space.name} has {max(0, space.num_networks - len(near))} networks that are more "
            f"than one switch away from the reference, but {count} were asked for: ask for fewer."
        )
    rng = np.random.default_rng([_STREAM, seed])
    found: dict[Network, None] = {}
    while len(found) < count:
        for network in space.sample(_CHUNK, seed=rng, distinct=False):
            if network not in near:
                found.setdefault(network)
    return Sample("random", tuple(found)[:count], base, seed=seed)


def fit_without(
    study: Study,
    networks: Sample | Iterable[Sequence[int | str]],
    metrics: Sequence[str] | None = None,
    *,
    method: Method = "paired",
    form: Form | str | Mapping[str, Form | str] = Form.LINEAR,
    power: float = 1.0,
    reference: Sequence[int | str] | None = None,
    conditions: Mapping[str, Mapping[str, str]] | None = None,
) -> BlockTable:
    """As `fit`, on what the study holds apart from some networks, which the table notes.

    Args:
        networks: what to leave out; they need not be measured yet.
        metrics, method, form, power, reference, conditions: as in `fit`.

    Raises:
        InvalidInputError: as in `fit`; or nothing is left for a metric.
    """
    left_out = sorted({study.space.check(network) for network in networks})
    with _Rest(study, left_out) as rest:
        for name in metrics or ():
            if name in study.metrics and study.conditions(name) and not rest.conditions(name):
                raise InvalidInputError(
                    f"{study.path} has measurements of {name} for the {len(left_out)} networks "
                    "that are left out alone: evaluate a sample to fit first."
                )
        table = fit(
            rest,
            metrics,
            method=method,
            form=form,
            power=power,
            reference=study.reference if reference is None else reference,
            conditions=conditions,
        )
    table.provenance["held_out"] = [list(network) for network in left_out]
    return table


class _Rest(Study):
    """A study as it would be without some networks; read-only."""

    def __init__(self, study: Study, left_out: Iterable[Network]) -> None:
        self._left_out = frozenset(left_out)
        super().__init__(study.path, study.space, read_only=True)

    def evaluations(
        self,
        metric: str | None = None,
        network: Network | None = None,
        conditions: Mapping[str, str] | None = None,
    ) -> Iterator[Evaluation]:
        for fact in super().evaluations(metric, network, conditions):
            if fact.network not in self._left_out:
                yield fact

    def conditions(self, metric: str) -> list[dict[str, str]]:
        return [
            found
            for found in super().conditions(metric)
            if self.counts([metric], found).keys() - self._left_out
        ]

    def measurements(
        self,
        metric: str,
        conditions: Mapping[str, str] | None = None,
        *,
        device: str | None = None,
    ) -> Measurements:
        data = super().measurements(metric, conditions, device=device)
        return data.where([tuple(row) not in self._left_out for row in data.networks.tolist()])


def _near(space: SearchSpace, reference: Network) -> Iterator[Network]:
    """The reference and all networks one switch away."""
    yield reference
    for node, size in enumerate(space.sizes):
        for block in range(size):
            try:
                yield space.with_block(reference, node, block)
            except InvalidInputError:  # an optional node after one that is absent
                continue


def _held_out(table: BlockTable) -> set[Network]:
    """The networks that `fit_without` left out of the table's fit."""
    noted = table.provenance.get("held_out")
    return {tuple(network) for network in noted} if isinstance(noted, list) else set()


def _chosen(
    table: BlockTable,
    data: Study | Mapping[str, Measurements],
    networks: Sample | Iterable[Sequence[int | str]] | None,
) -> set[Network] | None:
    """The networks to compare on; None for all that were measured."""
    if networks is not None:
        return {table.space.check(network) for network in networks}
    held_out = _held_out(table)
    if isinstance(data, Study) and not held_out:
        raise InvalidInputError(
            "name the networks to validate with: the table does not say which were left out of "
            "its fit. fit_without makes tables that do."
        )
    return held_out if isinstance(data, Study) else None


def _refuse_fitted(table: BlockTable, study: Study, networks: Iterable[Network]) -> None:
    """Refuse networks that the table was fitted on, as far as it says that.

    A study only grows, so a fit on k networks of it was one on the first k that it holds.
    """
    used, source = table.provenance.get("networks"), table.provenance.get("study")
    if source != study.path.name or not isinstance(used, int):
        return
    asked, held_out = set(networks), _held_out(table)
    if asked <= held_out:
        return
    first: dict[Network, None] = {}
    for fact in study.evaluations():
        column = table.columns.get(fact.metric)
        if (
            column is not None
            and fact.network not in held_out
            and dict(fact.conditions) == dict(column.conditions)
        ):
            first.setdefault(fact.network)
    fitted = set(list(first)[:used])
    if "single" in str(table.provenance.get("method")):
        fitted &= set(_near(table.space, table.reference))
    both = sorted(asked & fitted)
    if both:
        shown = "; ".join(map(network_text, both[:5])) + "; ..." * (len(both) > 5)
        raise InvalidInputError(
            f"networks that validate a table must not be in its fit, but {len(both)} of "
            f"{len(asked)} are: {shown}. Leave them out here, or fit the table without them "
            "(fit_without)."
        )


def _compare(
    table: BlockTable,
    data: Measurements,
    name: str,
    chosen: set[Network] | None,
    confidence: float,
) -> MetricValidation:
    if chosen is not None:
        data = data.where([tuple(row) in chosen for row in data.networks.tolist()])
    if len(data) < _FEWEST:
        raise InvalidInputError(
            f"a validation needs at least {_FEWEST} networks, but {name} was measured for "
            f"{len(data)} of those: evaluate more."
        )
    column = table.column(name)
    predicted = table.predict(data.networks, name)
    interval = None
    if column.uncertainty is not None:
        interval = table.interval(data.networks, name, confidence)
    found = quality(_settled(predicted), _settled(data.values), interval)
    if not column.metric.additive:
        found = replace(found, mape=None)
    return MetricValidation(
        column.metric, data.networks, predicted, data.values, interval, confidence, found
    )


def _settled(values: Floats) -> Floats:
    """Values to 12 digits of the largest: sums in different orders, equal but for their last bits,
    would be ranked otherwise."""
    largest = float(np.abs(values).max())
    digits = 12 - math.ceil(math.log10(largest)) if largest > 0 else 0
    settled: Floats = values.round(min(digits, 300))
    return settled


def _cells(values: Floats, low: float, high: float, count: int) -> list[int]:
    """Values from `low` to `high` to 0 .. count - 1."""
    span = (high - low) or 1.0
    cells: list[int] = np.rint((values - low) / span * (count - 1)).astype(int).tolist()
    return cells
