"""The block table: what each block adds to a network, and prediction from it.

Convention, stated once: **effects are candidate minus reference, and predictions add them.** A
latency effect of +2 ms makes the network slower. (The paper writes base minus candidate and
subtracts, which gives the same predictions.)
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from statistics import NormalDist
from typing import overload

import numpy as np
import numpy.typing as npt

from mathnas._records import Record, check_header, is_number, read_json, write_json
from mathnas._version import __version__
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.gaussian_process import GaussianProcess
from mathnas.metrics import IDENTITY, Direction, Floats, Metric
from mathnas.posterior import Posterior
from mathnas.space import AS_WRITTEN, Network, SearchSpace

TABLE_FORMAT = "mathnas-table"
TABLE_VERSION = 1
_CHUNK = 4096


class Form(str, Enum):
    """How effects d_ij measured in the reference network add up in another network N.

    F(N) are MACs (where a space declares costs of pairs of nodes, without those:
    `SearchSpace.additive_macs`), F_ref those of the reference, meanF_ij the mean MACs of the
    networks that hold block j in node i, Fbar the mean over the space. All but LINEAR are the
    paper's Eq. 5, in which an effect weighs less in a larger network.
    """

    LINEAR = "linear"
    """base + sum d_ij."""
    BLOCK_MEAN = "inverse-macs-block-mean"
    """base + sum d_ij * meanF_ij / F(N) (Eq. 5)."""
    SPACE_MEAN = "inverse-macs-space-mean"
    """base + sum d_ij * Fbar / F(N) (Eq. 6)."""
    CORRECTED = "inverse-macs-corrected"
    """base + sum d_ij * F(reference with b_ij) / F(N): Algorithm 1 takes meanF_ij as that."""


@dataclass(frozen=True)
class PairEffects:
    """What two nodes add together, beyond what their blocks add each by itself.

    Attributes:
        first, second: node indices, ``first < second``.
        effects: shape (blocks of `first`, blocks of `second`), finite, in the unit of the column's
            effects; the chosen blocks' entry is added to their sum.

    Raises:
        InvalidInputError: the nodes are not in order, or the effects are not a finite matrix.
    """

    first: int
    second: int
    effects: Floats

    def __post_init__(self) -> None:
        object.__setattr__(self, "effects", np.ascontiguousarray(self.effects, dtype=np.float64))
        if not 0 <= self.first < self.second:
            raise InvalidInputError(
                "a pair names its nodes in their order in the network, first < second, but got "
                f"first={self.first}, second={self.second}: swap them and transpose the effects."
            )
        if self.effects.ndim != 2:
            raise InvalidInputError(
                "the effects of a pair are a matrix (blocks of the first node x blocks of the "
                f"second), but got an array of shape {self.effects.shape}."
            )
        if not np.isfinite(self.effects).all():
            raise InvalidInputError(
                f"effects are finite, but those of nodes {self.first} and {self.second} are not: "
                "write 0 where nothing is known."
            )


@dataclass(frozen=True)
class BlockEffects:
    """One metric's column of a table.

    A network's prediction is ``base + sum(effects) / F(N)^p``, on the metric's response scale, with
    p = 0 for `Form.LINEAR` and p = 1 for the paper's forms, whose effects carry the numerator's
    MACs^p; 0 < p < 1 is an empirical exponent. The sum is over one effect a node and one entry of
    each of `pairs`, of the network in `network_form`. Where there is a `process`, it predicts
    instead, and effects only tell what single switches of the reference's blocks change.

    Attributes:
        metric: what is predicted.
        base: the reference network's value: as measured where effects come from that context
            alone, otherwise as it makes predictions right on average.
        effects: flat, one a block, 0 for the reference's blocks (those of its form); in the
            metric's unit (LINEAR) or unit x MACs.
        spread: flat; standard deviation of the difference over contexts or, where there is one
            context, its standard error from repeats; of a regression the posterior's; NaN where
            unknown.
        contexts: flat; how many contexts the difference is the mean of; of a regression, how many
            measured networks hold the block.
        form: how effects add up.
        conditions: under which conditions the metric was measured.
        power: p, in (0, 1]; 0 where the form is linear, whatever is given.
        pairs: interactions of two nodes, at most one entry for each two; none in the paper.
        posterior: how far predictions may be off; None where the fit does not say (differences).
        network_form: the form of a network (`SearchSpace.forms`) whose blocks count.
        process: a Gaussian process on the space's features, where blocks do not add up.
    """

    metric: Metric
    base: float
    effects: Floats
    spread: Floats
    contexts: Floats
    form: Form = Form.LINEAR
    conditions: Mapping[str, str] = field(default_factory=dict)
    power: float = 1.0
    pairs: tuple[PairEffects, ...] = ()
    posterior: Posterior | None = None
    network_form: str = AS_WRITTEN
    process: GaussianProcess | None = None

    @property
    def additive(self) -> bool:
        """Whether a prediction is a sum over the blocks, and pairs of blocks, of the network as it
        is written."""
        return self.process is None and self.network_form == AS_WRITTEN

    @property
    def uncertainty(self) -> Posterior | GaussianProcess | None:
        """How far predictions may be off, where the fit says that."""
        return self.posterior if self.process is None else self.process

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple(self.pairs))
        if not self.additive and self.form is not Form.LINEAR:
            raise InvalidInputError(
                f"a form of networks or a process goes with linear effects, but got "
                f"{self.form.value}: fit {self.metric.name} by regression."
            )
        if self.form is Form.LINEAR:
            object.__setattr__(self, "power", 0.0)
        elif not 0 < self.power <= 1:
            raise InvalidInputError(
                f"the power of MACs in {self.form.value} lies in (0, 1], but got {self.power}."
            )


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted value of one network.

    Attributes:
        value: in the metric's unit.
        spread: how far a measurement may be off, as one standard deviation in the metric's unit,
            where the fit says that (`BlockTable.deviation`); otherwise the root of the summed
            squared spreads of the blocks, or None where one is unknown or pairs contribute.
    """

    metric: Metric
    value: float
    spread: float | None
    measured: bool = False

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"value": self.value, "spread": self.spread, "unit": self.metric.unit}

    def __str__(self) -> str:
        if self.spread is None or self.spread == 0:
            return self.metric.format(self.value)
        kind = "+-" if self.measured else "block spread"
        return f"{self.metric.format(self.value)} ({kind} {self.spread:.2g})"


class BlockTable:
    """Effects of every block on every metric, relative to a reference network.

    Args:
        space: the search space.
        reference: the network whose measured values are the bases.
        columns: effects by metric name.
        provenance: where the table comes from; JSON values.

    MACs and parameters that the space declares are columns too (exact).

    Raises:
        InvalidInputError: an array does not fit the space, a number is not finite, or a form needs
            MACs that the space does not have.
    """

    def __init__(
        self,
        space: SearchSpace,
        reference: Sequence[int],
        columns: Mapping[str, BlockEffects],
        provenance: Mapping[str, object] | None = None,
    ) -> None:
        self.space = space
        self.reference = space.check(reference)
        self.provenance = dict(provenance or {})
        self.columns: dict[str, BlockEffects] = {}
        self._whole: dict[str, Floats] = {}
        for name, column in {**_declared(space, self.reference), **columns}.items():
            self._check_column(name, column)
            self.columns[name] = column

    @property
    def metrics(self) -> dict[str, Metric]:
        return {name: column.metric for name, column in self.columns.items()}

    def column(self, metric: str) -> BlockEffects:
        """The effects on a metric.

        Raises:
            InvalidInputError: the table does not have the metric.
        """
        if metric not in self.columns:
            raise InvalidInputError(
                f"the table has no metric {metric!r}; it has {', '.join(self.columns)}."
            )
        return self.columns[metric]

    # ---- prediction -------------------------------------------------------------------------

    @overload
    def predict(self, networks: npt.ArrayLike, metric: str) -> Floats: ...

    @overload
    def predict(self, networks: npt.ArrayLike, metric: None = None) -> dict[str, Floats]: ...

    def predict(
        self, networks: npt.ArrayLike, metric: str | None = None
    ) -> Floats | dict[str, Floats]:
        """Predicted values of networks of shape (k, m): an array (k,), or one for each metric.

        Raises:
            InvalidInputError: a network does not belong to the space, or the metric is unknown.
        """
        rows = self.space.check_array(networks)
        if metric is None:
            return {name: self._predict(rows, column) for name, column in self.columns.items()}
        return self._predict(rows, self.column(metric))

    def predict_all(self, metric: str) -> Floats:
        """Predictions of every network in the order of `SearchSpace.all_networks`."""
        column = self.column(metric)
        return column.metric.scale.inverse(self.all_responses(metric))

    def responses(self, networks: npt.ArrayLike, metric: str) -> Floats:
        """As `predict`, on the metric's response scale, on which effects add up."""
        return self._responses(self.space.check_array(networks), self.column(metric))

    def all_responses(self, metric: str) -> Floats:
        """Predictions of every network in the order of `SearchSpace.all_networks`, on the metric's
        response scale; kept where blocks do not add up, because that takes long."""
        column = self.column(metric)
        if column.additive:
            return self._responses(self.space.all_networks(), column)
        if metric not in self._whole:
            self._whole[metric] = self._responses(self.space.all_networks(), column)
        return self._whole[metric]

    def prediction(self, network: Sequence[int | str], metric: str) -> Prediction:
        """The prediction of one network with its spread, summed exactly (`math.fsum`)."""
        chosen = self.space.check(network)
        column = self.column(metric)
        if column.uncertainty is not None:
            deviation = float(self.deviation([chosen], metric)[0])
            return Prediction(column.metric, self.exact(chosen, metric), deviation, measured=True)
        # where a form of networks counts, it is its blocks whose effects are added
        both = self.space.formed(np.array([chosen, self.reference]), column.network_form)
        spread = column.spread[self.space.offsets[:-1] + both[0]]
        own = both[0] == both[1]
        total = math.nan if column.pairs else math.fsum(np.where(own, 0.0, spread) ** 2)
        value = self.exact(chosen, metric)
        slope = float(column.metric.scale.derivative(np.array([value]))[0])
        return Prediction(
            column.metric, value, math.sqrt(total) / slope if math.isfinite(total) else None
        )

    def deviation(self, networks: npt.ArrayLike, metric: str) -> Floats:
        """How far measurements of networks of shape (k, m) may be off their predictions.

        One standard deviation, shape (k,), in the metric's unit: of the effects and of the noise of
        one measurement together. On a response scale that is curved it is half the width of the
        interval between one deviation below and one above.

        Raises:
            InvalidInputError: a network does not belong to the space, the metric is unknown, or its
                fit gives no uncertainty.
        """
        low, high = self._at_deviations(networks, metric, 1.0)
        return (high - low) / 2

    def response_deviation(self, networks: npt.ArrayLike, metric: str) -> Floats:
        """Standard deviations of the responses of networks of shape (k, m), on the metric's scale
        and without the noise of a measurement.

        Raises:
            InvalidInputError: as `deviation`.
        """
        rows, column = self.space.check_array(networks), self.column(metric)
        if column.uncertainty is None:
            raise InvalidInputError(
                f"the effects on {metric} were fitted without uncertainty: fit them with "
                "method='regression'."
            )
        if column.process is not None:
            return column.process.deviations(self.space.features(rows.astype(np.intp)))
        assert column.posterior is not None  # one of the two is there
        pairs = [(pair.first, pair.second) for pair in column.pairs]
        own = self.space.formed(rows.astype(np.intp), column.network_form)
        return column.posterior.deviations(self.space, own, pairs)

    def drawn(self, metric: str, rng: np.random.Generator) -> BlockTable:
        """The table with the effects on a metric drawn from their posterior (Thompson sampling).

        Raises:
            InvalidInputError: the metric is unknown, its fit gives no uncertainty, or it is a
                process, which has no effects to draw: see `GaussianProcess.sample`.
        """
        column = self.column(metric)
        if column.posterior is None or column.process is not None:
            raise InvalidInputError(
                f"effects on {metric} are drawn from their posterior, but it has none: fit block "
                "effects with method='regression'."
            )
        drawn = column.posterior.draw(rng)
        effects = column.effects + drawn[: self.space.num_blocks]
        pairs, start = [], self.space.num_blocks
        for pair in column.pairs:
            part = drawn[start : start + pair.effects.size].reshape(pair.effects.shape)
            pairs.append(replace(pair, effects=pair.effects + part))
            start += pair.effects.size
        moved = replace(column, effects=effects, pairs=tuple(pairs), posterior=None)
        columns = {**self.columns, metric: moved}
        return BlockTable(self.space, self.reference, columns, self.provenance)

    def without_posteriors(self) -> BlockTable:
        """The same predictions in a smaller table: how far they may be off is forgotten, but for
        what belongs to the predictions of processes."""
        columns = {name: replace(column, posterior=None) for name, column in self.columns.items()}
        return BlockTable(self.space, self.reference, columns, self.provenance)

    def interval(
        self, networks: npt.ArrayLike, metric: str, confidence: float = 0.9
    ) -> tuple[Floats, Floats]:
        """Between which values a measurement lies with the given probability, two of shape (k,).

        Raises:
            InvalidInputError: as `deviation`, or the confidence is not between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise InvalidInputError(f"a confidence is between 0 and 1, but got {confidence}.")
        return self._at_deviations(networks, metric, -NormalDist().inv_cdf((1 - confidence) / 2))

    def _at_deviations(
        self, networks: npt.ArrayLike, metric: str, count: float
    ) -> tuple[Floats, Floats]:
        sd = self.response_deviation(networks, metric)
        rows, column = self.space.check_array(networks), self.column(metric)
        assert column.uncertainty is not None  # there are deviations
        responses, scale = self._responses(rows, column), column.metric.scale
        noise = column.uncertainty.noises(scale.inverse(responses))
        sd = count * np.sqrt(sd**2 + noise**2)
        return scale.inverse(responses - sd), scale.inverse(responses + sd)

    def exact(self, network: Network, metric: str) -> float:
        """The predicted value, correctly rounded where the form is linear.

        This is the arithmetic that answers are checked with: a limit holds if it holds for this.
        """
        response = self.response(network, metric)
        return float(self.column(metric).metric.scale.inverse(np.array([response]))[0])

    def response(self, network: Network, metric: str) -> float:
        """As `exact`, on the metric's response scale, on which effects add up."""
        column = self.column(metric)
        if column.process is not None:
            return float(self._responses(np.array([network]), column)[0])
        if column.network_form != AS_WRITTEN:
            form = self.space.formed(np.array([network]), column.network_form)
            network = tuple(form[0].tolist())
        rows = (self.space.offsets[:-1] + np.array(network)).tolist()
        effects = [float(column.effects[row]) for row in rows]
        effects += [
            float(pair.effects[network[pair.first], network[pair.second]]) for pair in column.pairs
        ]
        if column.power == 0:
            return math.fsum([column.base, *effects])
        macs = self.space.require_macs(f"predicting {metric}")
        total = math.fsum([self.space.fixed_macs or 0.0, *(float(macs[row]) for row in rows)])
        return float(column.base + math.fsum(effects) / total**column.power)

    def _predict(self, networks: npt.NDArray[np.integer], column: BlockEffects) -> Floats:
        return column.metric.scale.inverse(self._responses(networks, column))

    def _responses(self, networks: npt.NDArray[np.integer], column: BlockEffects) -> Floats:
        if column.process is not None:
            features = self.space.features(networks.astype(np.intp, copy=False))
            # few networks differ in all features: the kernel is asked once for each
            unique, place = np.unique(features, axis=0, return_inverse=True)
            return column.process.predict(unique)[place.ravel()]
        networks = self.space.formed(networks, column.network_form)  # type: ignore[arg-type]
        result = self._sums(networks, column.effects, column.pairs)
        if column.power:
            macs = self.space.require_macs(f"predicting {column.metric.name}")
            total = self._sums(networks, macs) + (self.space.fixed_macs or 0.0)
            result /= total if column.power == 1 else total**column.power
        result += column.base
        return result

    def _sums(
        self,
        networks: npt.NDArray[np.integer],
        values: Floats,
        pairs: Sequence[PairEffects] = (),
    ) -> Floats:
        """Sum of the chosen blocks' values and pairs' entries, a chunk at a time so that it stays
        in the cache."""
        result = np.empty(len(networks))
        nodes = [
            values[a:b]
            for a, b in zip(self.space.offsets[:-1], self.space.offsets[1:], strict=True)
        ]
        for start in range(0, len(networks), _CHUNK):
            part = networks[start : start + _CHUNK]
            total = nodes[0].take(part[:, 0])
            for node, own in enumerate(nodes[1:], start=1):
                total += own.take(part[:, node])
            for pair in pairs:
                # intp before multiplying: networks may be bytes
                row = part[:, pair.first].astype(np.intp) * pair.effects.shape[1]
                total += pair.effects.ravel().take(row + part[:, pair.second])
            result[start : start + _CHUNK] = total
        return result

    # ---- files ------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, whole or not at all; numpy alone is needed to read it."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: str | Path, *, space: SearchSpace | None = None) -> BlockTable:
        """Read a table.

        Args:
            space: the space of the table, with its forms and features where a column needs them
                (`mathnas.spaces.restore` gives those of known families); by default as declared in
                the file.

        Raises:
            FileFormatError: the file is missing, damaged, foreign or from a newer version.
            InvalidInputError: its numbers do not make a table, or its space is another one or lacks
                a form or features.
        """
        return cls._from_record(read_json(Path(path), TABLE_FORMAT, TABLE_VERSION), space)

    @classmethod
    def from_dict(
        cls, value: object, where: str = "table", *, space: SearchSpace | None = None
    ) -> BlockTable:
        """The table that `to_dict` describes; see `load`."""
        return cls._from_record(check_header(value, TABLE_FORMAT, TABLE_VERSION, where), space)

    def to_dict(self) -> dict[str, object]:
        """The JSON form; effects, spread and contexts are lists of one list a node, and pairs name
        their nodes."""
        return {
            "format": TABLE_FORMAT,
            "version": TABLE_VERSION,
            "mathnas": __version__,
            "space": self.space.to_dict(),
            "reference": list(self.space.block_names(self.reference)),
            "metrics": [self._column_record(column) for column in self.columns.values()],
            "provenance": self.provenance,
        }

    def _column_record(self, column: BlockEffects) -> dict[str, object]:
        record: dict[str, object] = {
            **column.metric.to_dict(),
            "form": column.form.value,
            "power": column.power,
            "base": column.base,
            "effects": self._by_node(column.effects),
            "spread": self._by_node(column.spread),
            "contexts": self._by_node(column.contexts),
            "conditions": dict(column.conditions),
        }
        if column.pairs:
            record["pairs"] = [
                {
                    "first": self.space.nodes[pair.first].name,
                    "second": self.space.nodes[pair.second].name,
                    "effects": pair.effects.tolist(),
                }
                for pair in column.pairs
            ]
        if column.posterior is not None:
            record["posterior"] = column.posterior.to_dict()
        if column.network_form != AS_WRITTEN:
            record["network_form"] = column.network_form
        if column.process is not None:
            record["process"] = column.process.to_dict()
        return record

    @classmethod
    def _from_record(cls, record: Record, given: SearchSpace | None) -> BlockTable:
        space = SearchSpace.from_dict(record.get("space", dict), f"{record.where}.space")
        if given is not None and given != space:
            raise InvalidInputError(
                f"{record.where} is about {space!r}, but got {given!r}: give the space that it was "
                "made for, or none."
            )
        space = space if given is None else given
        columns = {}
        for where, entry in record.items("metrics"):
            item = Record(entry, where)
            metric = Metric.from_dict(item.value)
            try:
                form = Form(item.get("form", str))
            except ValueError as error:
                raise FileFormatError(f"{where}: {error}.") from error
            columns[metric.name] = BlockEffects(
                metric,
                item.get("base", float),
                _flat(item, "effects", space),
                _flat(item, "spread", space),
                _flat(item, "contexts", space),
                form,
                item.get("conditions", dict, {}),
                item.get("power", float, 1.0),
                _pairs(item, space),
                _posterior(item),
                item.get("network_form", str, AS_WRITTEN),
                _process(item),
            )
        return cls(
            space, record.get("reference", list), columns, record.get("provenance", dict, {})
        )

    def _by_node(self, values: Floats) -> list[list[float | None]]:
        pieces = np.split(values, self.space.offsets[1:-1])
        return [[v if math.isfinite(v) else None for v in piece.tolist()] for piece in pieces]

    def _check_column(self, name: str, column: BlockEffects) -> None:
        if name != column.metric.name:
            raise InvalidInputError(f"column {name!r} holds the metric {column.metric.name!r}.")
        for what in ("effects", "spread", "contexts"):
            array = getattr(column, what)
            if array.shape != (self.space.num_blocks,):
                raise InvalidInputError(
                    f"a table of {self.space.name} has {self.space.num_blocks} {what} for {name}, "
                    f"but got an array of shape {array.shape}."
                )
        if not (np.isfinite(column.effects).all() and math.isfinite(column.base)):
            raise InvalidInputError(
                f"effects and base are finite, but those of {name} are not: fit the table again."
            )
        check_form(self.space, column.form, name)
        self.space.formed(np.array([self.reference]), column.network_form)
        if column.process is not None:
            width = self.space.features(np.array([self.reference])).shape[1]
            if column.process.features.shape[1] != width:
                raise InvalidInputError(
                    f"the process of {name} is about {column.process.features.shape[1]} features, "
                    f"but {self.space.name} tells {width}."
                )
        self._check_pairs(name, column.pairs)
        entries = self.space.num_blocks + sum(pair.effects.size for pair in column.pairs)
        if column.posterior is not None and len(column.posterior.factor) != entries:
            raise InvalidInputError(
                f"the posterior of {name} is about its {entries} effects and pair entries, but has "
                f"{len(column.posterior.factor)}."
            )

    def _check_pairs(self, name: str, pairs: Sequence[PairEffects]) -> None:
        seen: set[tuple[int, int]] = set()
        for pair in pairs:
            if pair.second >= self.space.num_nodes:
                raise InvalidInputError(
                    f"nodes of {self.space.name} go from 0 to {self.space.num_nodes - 1}, but a "
                    f"pair of {name} is about nodes {pair.first} and {pair.second}."
                )
            sizes = (self.space.sizes[pair.first], self.space.sizes[pair.second])
            if pair.effects.shape != sizes:
                raise InvalidInputError(
                    f"the effects of nodes {pair.first} and {pair.second} on {name} have the shape "
                    f"{sizes}, one entry for each two blocks, but got {pair.effects.shape}."
                )
            if (pair.first, pair.second) in seen:
                raise InvalidInputError(
                    f"two nodes have one matrix of effects on {name}, but nodes {pair.first} and "
                    f"{pair.second} have several: add them up."
                )
            seen.add((pair.first, pair.second))

    # ---- showing ----------------------------------------------------------------------------

    def __str__(self) -> str:
        lines = [f"Block table of {self.space.name}, effects relative to the reference network"]
        for name, column in self.columns.items():
            reference = column.metric.format(self.exact(self.reference, name))
            scale = (
                "" if column.metric.scale == IDENTITY else f" on the scale {column.metric.scale}"
            )
            form = (
                ""
                if column.network_form == AS_WRITTEN
                else f" of networks in the form {column.network_form}"
            )
            lines.append(f"\n{name}{scale}{form}: reference {reference}")
            if column.process is not None:
                lines.append("  a Gaussian process on features; switched alone in the reference:")
            for node, start in zip(self.space.nodes, self.space.offsets, strict=False):
                shown = [
                    f"{block.name} {column.effects[start + i]:+.4g}"
                    for i, block in enumerate(node.blocks[:12])
                ]
                more = ", ..." if len(node.blocks) > 12 else ""
                lines.append(f"  {node.name}: {', '.join(shown)}{more}")
            for pair in column.pairs:
                one, other = self.space.nodes[pair.first].name, self.space.nodes[pair.second].name
                most = float(np.abs(pair.effects).max())
                lines.append(f"  {one} with {other}: at most {most:.4g} either way")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"BlockTable({self.space.name}: {', '.join(self.columns)})"

    def _repr_html_(self) -> str:
        names = list(self.columns)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ["node", "block", *names])
        rows = []
        for i, node in enumerate(self.space.nodes):
            for j, block in enumerate(node.blocks):
                mark = " (reference)" if self.reference[i] == j else ""
                cells = "".join(
                    f"<td>{self.columns[n].effects[self.space.offsets[i] + j]:+.4g}</td>"
                    for n in names
                )
                title = f"<td>{html.escape(node.name)}</td><td>{html.escape(block.name)}{mark}</td>"
                rows.append(f"<tr>{title}{cells}</tr>")
        return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def check_form(space: SearchSpace, form: Form, metric: str) -> None:
    """Raise `InvalidInputError` where a form divides by MACs that are unknown or may be 0."""
    if form is Form.LINEAR:
        return
    macs = space.require_macs(f"the form {form.value} of {metric}")
    least = (space.fixed_macs or 0.0) + float(np.minimum.reduceat(macs, space.offsets[:-1]).sum())
    if not least > 0:
        raise InvalidInputError(
            f"a form that divides by MACs needs networks with MACs, but the smallest of "
            f"{space.name} has {least:g}: declare fixed_macs, or use the linear form for {metric}."
        )


def _declared(space: SearchSpace, reference: Network) -> dict[str, BlockEffects]:
    """Columns of the MACs and parameters that the space declares."""
    columns = {}
    known = (
        ("macs", space.block_macs, space.fixed_macs),
        ("params", space.block_params, space.fixed_params),
    )
    for name, values, fixed in known:
        if values is None:
            continue
        metric = Metric(name, "", Direction.MINIMIZE, additive=True)
        rows = space.offsets[:-1] + np.array(reference)
        effects = values - np.repeat(values[rows], space.sizes)
        parts = [fixed or 0.0, *values[rows].tolist()]
        pairs = []
        for pair in space.pair_costs:
            costs = pair.macs if name == "macs" else pair.params
            if costs is None:
                continue
            # what a switch of one block changes is that block's effect, the rest is the pair's
            first, second = reference[pair.first], reference[pair.second]
            own = float(costs[first, second])
            parts.append(own)
            columnwise, rowwise = costs[:, second] - own, costs[first] - own
            effects[space.offsets[pair.first] : space.offsets[pair.first + 1]] += columnwise
            effects[space.offsets[pair.second] : space.offsets[pair.second + 1]] += rowwise
            rest = costs - own - columnwise[:, None] - rowwise
            if rest.any():
                pairs.append(PairEffects(pair.first, pair.second, rest))
        columns[name] = BlockEffects(
            metric,
            math.fsum(parts),
            effects,
            np.zeros(len(values)),
            np.ones(len(values)),
            conditions={"source": "declared by the space"},
            pairs=tuple(pairs),
        )
    return columns


def _flat(record: Record, key: str, space: SearchSpace) -> Floats:
    nodes = record.get(key, list)
    lengths = tuple(len(node) if isinstance(node, list) else -1 for node in nodes)
    if lengths != space.sizes or not all(
        map(_is_number_or_none, itertools.chain.from_iterable(nodes))
    ):
        raise FileFormatError(
            f"{record.where}.{key}: expected one list of numbers for each node of "
            f"{', '.join(map(str, space.sizes))} blocks."
        )
    return np.array(
        [math.nan if value is None else value for node in nodes for value in node],
        dtype=np.float64,
    )


def _posterior(record: Record) -> Posterior | None:
    if "posterior" not in record:
        return None
    where = f"{record.where}.posterior"
    return Posterior.from_record(Record(record.get("posterior", dict), where))


def _process(record: Record) -> GaussianProcess | None:
    if "process" not in record:
        return None
    where = f"{record.where}.process"
    return GaussianProcess.from_record(Record(record.get("process", dict), where))


def _pairs(record: Record, space: SearchSpace) -> tuple[PairEffects, ...]:
    if "pairs" not in record:
        return ()
    index = {node.name: i for i, node in enumerate(space.nodes)}
    found = []
    for where, entry in record.items("pairs"):
        item = Record(entry, where)
        names = (item.get("first", str), item.get("second", str))
        for name in names:
            if name not in index:
                raise InvalidInputError(f"{where}: there is no node {name!r} in {space.name}.")
        rows = item.get("effects", list)
        try:
            effects = np.array(rows, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise FileFormatError(
                f"{where}.effects: expected one list of numbers for each block of the first node."
            ) from error
        found.append(PairEffects(index[names[0]], index[names[1]], effects))
    return tuple(found)


def _is_number_or_none(value: object) -> bool:
    """None stands for NaN."""
    return value is None or is_number(value)
