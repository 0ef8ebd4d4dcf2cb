"""A table for a new device, from tables of known devices and a few measurements (10 to 40).

Between devices costs are not scaled by one factor: what a device has is more of some operations
than of others. The model of the new device's values is that of `mathnas.regression`, a constant
plus one effect a block plus noise, with a prior in which the effects are a sum of parts, each with
a variance of its own:

- *known*: a multiple of each known device's effects (a low-rank regression over devices);
- *nodes*: another multiple of a known device's costs in each node;
- *names*: another multiple of them for each block name;
- *costs*: a deviation of each block in proportion to its known costs, alike in nodes that are near;
- *alike*: an effect of each block name that is the same in all nodes, whatever is known;
- *free*: an effect of each block, alike in nodes that are near, whatever is known.

The variances, the noise, whether errors are relative, and the form of networks that counts are
those with the most evidence, so a part that does not help has hardly any. Noise has heavy tails
where that is seen (Student's t, by weights).

How far known devices help is then asked of the measurements: the transfer, and fitting anew, say
what the networks of each of five folds take from those of the others. The table is the mean of the
two that is nearest, by a standard error nearer to the transfer (see `mathnas.stacking`), and its
deviations are widened to what the folds were off. Scaling one known table by one factor is kept
beside this, and taken unless the transfer's error, each network left out, is smaller by more than a
standard error.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mathnas.designs import balanced_sampling
from mathnas.errors import InvalidInputError, MathNASWarning
from mathnas.metrics import IDENTITY, Floats
from mathnas.posterior import Posterior
from mathnas.regression import Regression, about, forms_of, name_root, regress, regress_with
from mathnas.responses import (
    NEGLIGIBLE,
    NOISES,
    Response,
    evidences,
    most_evident,
    responses_of,
    whitened,
)
from mathnas.sampling import Sample
from mathnas.space import Indices, Network, SearchSpace
from mathnas.stacking import HeldOut, calibration, heavy_tailed, mixture, weight_of, widened
from mathnas.study import Measurements, Study
from mathnas.table import BlockEffects, BlockTable, Form

_LEAST = 5  # measurements
_SHARES: Floats = np.array([0.0, *np.logspace(-3, 2, 11)])  # of a part, relative to one another
_FIRST, _OTHERS = 7, 3  # places in it where the climb starts: what is known, and the other parts
# a weak log-normal prior of these variances: few measurements tell little of six
_USUAL = {"known": 3.0, "nodes": 0.1, "names": 0.3, "costs": 0.3, "alike": 1.0, "free": 0.1}
_WIDTH = 3.0
_NOTHING = 3e-4  # what a share of 0 counts as there
_NEAR = 0.8  # correlation of a name's effects in neighbouring nodes
_MOST_SWEEPS, _REACH = 4, 2
_REWEIGHTED = 2
_FOLDS = 5
_CLEARLY = 0.97  # of the left-out error: heavy tails are taken where they have less


def transfer(
    sources: BlockTable | Sequence[BlockTable],
    measured: Study | Measurements,
    metric: str | None = None,
    *,
    known: str | Sequence[str] | None = None,
    conditions: Mapping[str, str] | None = None,
    reference: Sequence[int | str] | None = None,
) -> BlockTable:
    """A table of one metric on a new device.

    Args:
        sources: tables of the same space from known devices.
        measured: what was measured on the new device, 10 to 40 networks.
        metric: which of a study's metrics; by default the only one that was measured.
        known: the columns of `sources` to transfer from; by default those of the metric's name.
        conditions: which measurements of a study to use where there are several kinds.
        reference: what effects are relative to; by default the first source's.

    Returns:
        A table with the one column, whose provenance says what was chosen (with the weight of the
        transfer beside fitting anew), and the left-out error of the transfer, of scaling by one
        factor, of fitting anew, and of transfer and fitting anew together, in percent of the values
        (in the metric's unit where a value is not positive). Folds are left out, for one factor
        single networks.

    Raises:
        InvalidInputError: the tables are of another space or lack the columns, the metric is not
            additive, or fewer than five networks were measured.

    Warns:
        MathNASWarning: fitting anew has a smaller left-out error than the transfer, or than one
            factor where that is taken.
    """
    tables = [sources] if isinstance(sources, BlockTable) else list(sources)
    data = (
        measured if isinstance(measured, Measurements) else _of_study(measured, metric, conditions)
    )
    space = _space_of(tables, measured)
    columns = _columns_of(tables, data.metric.name, known)
    _check(space, data)
    base = tables[0].reference if reference is None else space.check(reference)
    parts = _parts(space, columns)
    found = _fitted(space, data, base, parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MathNASWarning)  # blocks that few networks leave out
        anew = regress(space, data, base)
        held, held_anew = _held_out(space, data, base, parts, found)
    together = _stacked(space, data, (found, held), (anew, held_anew))
    scaled = min(
        (_scaled(space, data, base, table, name) for table, name in columns),
        key=lambda one: float(one.off.mean()),
    )
    errors = {
        "transfer": _error(held.values, data.values),
        "one factor": float(scaled.off.mean()),
        "anew": _error(held_anew.values, data.values),
        "together": _error(together.held.values, data.values),
    }
    column, chosen = together.column, {**found.to_dict(), **together.to_dict()}
    if not _surely_less(_off(found.regression.left_out, data.values), scaled.off):
        column, chosen = scaled.column, {"model": "one factor", "factor": scaled.factor}
    factored = "factor" in chosen
    best = errors["one factor" if factored else "transfer"]
    if errors["anew"] < best:
        share = 0.0 if factored else 1 - together.weight
        warnings.warn(
            f"{data.metric.name}: fitting anew leaves out the {len(data)} networks with an error "
            f"of {errors['anew']:.3g}, the transfer with {best:.3g}: what is known of the other "
            f"devices helps little here. The table is for {share:.0%} what fitting anew gives; "
            "compare fit(method='regression'), or measure more.",
            MathNASWarning,
            stacklevel=2,
        )
    provenance = {
        "method": "transfer",
        "known": [f"{name} of {_title(table)}" for table, name in columns],
        "chosen": {data.metric.name: chosen},
        "left_out_error": {name: float(f"{value:.4g}") for name, value in errors.items()},
        "left_out_unit": "%" if (data.values > 0).all() else data.metric.unit,
        **({"study": measured.path.name} if isinstance(measured, Study) else {}),
        "networks": len(data),
        "fitted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return BlockTable(space, base, {data.metric.name: column}, provenance)


def transfer_plan(
    space: SearchSpace,
    count: int,
    *,
    measured: Iterable[Sequence[int | str]] = (),
    seed: int = 0,
) -> Sample:
    """`count` networks to measure on a new device, beside those that were measured already: a
    balanced design.

    Raises:
        InvalidInputError: as `mathnas.designs.balanced_sampling`.
    """
    return balanced_sampling(space, count, seed=seed, include=measured)


# ---- what is known -----------------------------------------------------------------------------

_Column = tuple[BlockTable, str]


def _of_study(
    study: Study, metric: str | None, conditions: Mapping[str, str] | None
) -> Measurements:
    names = [name for name in study.metrics if study.conditions(name)]
    if metric is None and len(names) != 1:
        raise InvalidInputError(
            f"a transfer is of one metric, but {study.path} has measurements of "
            f"{', '.join(names) or 'none'}: name one."
        )
    return study.measurements(names[0] if metric is None else metric, conditions)


def _space_of(tables: Sequence[BlockTable], measured: Study | Measurements) -> SearchSpace:
    if not tables:
        raise InvalidInputError("a transfer needs the table of a known device, but got none.")
    space = measured.space if isinstance(measured, Study) else tables[0].space
    for table in tables:
        if table.space != space:
            raise InvalidInputError(
                f"known tables are of the space that is measured, {space.name}, but got one of "
                f"{table.space.name}."
            )
    return space


def _columns_of(
    tables: Sequence[BlockTable], metric: str, known: str | Sequence[str] | None
) -> list[_Column]:
    names = [metric] if known is None else [known] if isinstance(known, str) else list(known)
    found = [(table, name) for table in tables for name in names if name in table.columns]
    for name in names:
        if not any(name == own for _, own in found):
            offered = sorted({own for table in tables for own in table.columns})
            raise InvalidInputError(
                f"a transfer needs a known table's column of {name}, but they have "
                f"{', '.join(offered)}: name the known columns."
            )
    for table, name in found:
        column = table.column(name)
        linear = column.form is Form.LINEAR and column.metric.scale == IDENTITY
        if not column.metric.additive or not linear or column.process is not None:
            raise InvalidInputError(
                f"a transfer is of metrics that are sums over blocks (latency, energy), but {name} "
                "is not: fit it with method='regression' and the known table as the prior."
            )
    return found


def _check(space: SearchSpace, data: Measurements) -> None:
    if not data.metric.additive:
        raise InvalidInputError(
            f"a transfer is of metrics that are sums over blocks (latency, energy), but "
            f"{data.metric.name} is not: fit it with method='regression' and the known table as "
            "the prior."
        )
    if len(data) < _LEAST:
        raise InvalidInputError(
            f"a transfer needs at least {_LEAST} measured networks, better 20, but "
            f"{data.metric.name} has {len(data)}: measure more."
        )
    space.check_array(data.networks)
    if not np.isfinite(data.values).all():
        raise InvalidInputError(
            f"measurements are finite, but of {data.metric.name} some are not: leave them out."
        )


def _title(table: BlockTable) -> str:
    return str(table.provenance.get("study", "a table"))


def _main_effects(table: BlockTable, name: str) -> Floats:
    """Effects of single blocks; what pairs of blocks add is averaged over the other block."""
    column, space = table.column(name), table.space
    effects: Floats = column.effects.copy()
    for pair in column.pairs:
        for node, own in (
            (pair.first, pair.effects.mean(axis=1)),
            (pair.second, pair.effects.mean(axis=0)),
        ):
            effects[space.offsets[node] : space.offsets[node + 1]] += own
    return effects


# ---- the prior's parts -------------------------------------------------------------------------


def _parts(space: SearchSpace, columns: Sequence[_Column]) -> dict[str, Floats]:
    """Roots of shape (blocks, rank) of the parts' covariances."""
    known = [_main_effects(table, name) for table, name in columns]
    node = np.repeat(np.arange(space.num_nodes), space.sizes)
    names = np.array([block.name for own in space.nodes for block in own.blocks])
    pieces = [np.split(effects, space.offsets[1:-1]) for effects in known]
    effects = _unit([np.concatenate([piece - piece.mean() for piece in own]) for own in pieces])
    # above the cheapest of its node: what a block costs, as far as a table can tell
    costs = _unit([np.concatenate([piece - piece.min() for piece in own]) for own in pieces])
    size = np.sqrt((costs**2).mean(axis=1))
    near = name_root(space, _NEAR)
    parts: dict[str, Floats] = {
        "known": effects,
        "nodes": _split(costs, node),
        "costs": size[:, None] * near,
        "free": near,
    }
    if len(set(names)) < len(names):
        parts |= {"names": _split(costs, names), "alike": name_root(space, 1.0)}
    return parts


def _unit(vectors: Sequence[Floats]) -> Floats:
    """Shape (blocks, vectors): of mean square 1 where they are not 0."""
    found = np.column_stack(vectors)
    spread = np.sqrt((found**2).mean(axis=0))
    scaled: Floats = found / np.where(spread > 0, spread, 1.0)
    return scaled


def _split(vectors: Floats, label: np.ndarray) -> Floats:
    """Each vector cut into those of the blocks with one label, and 0 elsewhere."""
    parts = [np.where(label == own, vectors.T, 0.0).T for own in np.unique(label)]
    return np.hstack(parts)


# ---- choosing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """What the evidence chose.

    Attributes:
        shares: by part: its prior variance in the measured networks' responses, as a share of all.
        factors: shape (networks,): how much larger each network's noise is than the common one.
    """

    regression: Regression
    shares: Mapping[str, float]
    heavy: bool
    factors: Floats

    def to_dict(self) -> dict[str, object]:
        own = self.regression.to_dict()
        kept = ("form", "errors", "noise_share", "noise", "evidence")
        return {
            "model": "parts of known devices",
            **{key: own[key] for key in kept},
            "heavy_tails": self.heavy,
            "parts": {name: float(f"{share:.3g}") for name, share in self.shares.items()},
        }


class _Climb:
    """The variances of the parts with the most evidence for one form and response.

    Attributes:
        place: of each part's variance in `_SHARES`.
        evidence: there, with the variances' prior.
        noise: share of the noise, there.
    """

    def __init__(self, features: Mapping[str, Floats], response: Response) -> None:
        weights = response.weights
        own = [whitened(part, weights) for part in features.values()]
        self.usual = np.log([_USUAL[name] for name in features])
        kernels = np.stack([part @ part.T for part in own])
        size = np.trace(kernels, axis1=1, axis2=2) / len(response.values)
        self.unit = np.where(size > NEGLIGIBLE, size, np.inf)  # such a part moves nothing
        self.kernels = kernels / self.unit[:, None, None]
        self.values = whitened(response.values[:, None], weights)
        self.response = response
        self.place = np.full(len(own), _OTHERS)
        self.place[0] = _FIRST  # what is known
        self.evidence, self.noise = -math.inf, 1.0

    def sweep(self, reach: int = len(_SHARES)) -> bool:
        """Each variance in turn to where the evidence is highest, at most `reach` steps away; False
        where none moves."""
        before = self.place.copy()
        for part, own in enumerate(before.tolist()):
            places = np.arange(max(own - reach, 0), min(own + reach + 1, len(_SHARES)))
            shares = _SHARES[self.place].copy()
            shares[part] = 0.0
            rest = np.tensordot(shares, self.kernels, 1)
            tried = rest + _SHARES[places, None, None] * self.kernels[part]
            for place, strength, vectors in zip(
                places.tolist(), *np.linalg.eigh(tried), strict=True
            ):
                found, noise = self._evidence(strength, vectors)
                found += self._prior(part, place)
                if found > self.evidence + NEGLIGIBLE:
                    self.evidence, self.noise, self.place[part] = found, noise, place
        return bool((before != self.place).any())

    def _evidence(self, strength: Floats, vectors: Floats) -> tuple[float, float]:
        kept = strength > NEGLIGIBLE * max(float(strength[-1]), 1e-300)
        if not strength[-1] > 0:
            return -math.inf, 1.0
        inside = vectors[:, kept].T @ self.values
        outside = (self.values**2).sum(axis=0) - (inside**2).sum(axis=0)
        found = evidences(strength[kept], inside, outside, [self.response])[:, 0]
        best = int(found.argmax())
        return float(found[best]), float(NOISES[best])

    def _prior(self, part: int, place: int) -> float:
        """Log density of the variances with that of one part changed, whatever their size is."""
        places = self.place.copy()
        places[part] = place
        off = np.log(np.maximum(_SHARES[places], _NOTHING)) - self.usual
        return -0.5 * float(((off - off.mean()) ** 2).sum()) / _WIDTH**2

    @property
    def variances(self) -> Floats:
        """Of the parts' roots."""
        found: Floats = _SHARES[self.place] / self.unit
        return found


def _fitted(
    space: SearchSpace, data: Measurements, reference: Network, parts: Mapping[str, Floats]
) -> _Found:
    plain = responses_of(data.values, data.metric, None)
    forms = forms_of(space, data.networks)
    features = {
        form: {name: _summed(space, networks, root) for name, root in parts.items()}
        for form, networks in forms.items()
    }
    starts = [(form, _Climb(own, response)) for form, own in features.items() for response in plain]
    for _, climb in starts:
        climb.sweep()
    form, best = starts[most_evident([climb.evidence for _, climb in starts])]
    _to_the_top(best)
    found = _regression(space, data, reference, parts, best, form)
    ones = np.ones(len(data))
    heavy, tried, trial, factors = False, best, found, ones
    for _ in range(_REWEIGHTED):
        factors = _outlying(trial, data, best.response)
        if np.ptp(factors) < 0.01:
            break
        tried = _Climb(features[form], best.response.weighted(factors))
        tried.place = best.place.copy()
        _to_the_top(tried)
        trial = _regression(space, data, reference, parts, tried, form)
    if _error(trial.left_out, data.values) < _CLEARLY * _error(found.left_out, data.values):
        heavy, best, found = True, tried, _noisier(trial, factors)
    shares = _SHARES[best.place] * np.isfinite(best.unit)
    whole = float(shares.sum()) or 1.0
    named = dict(zip(parts, (shares / whole).tolist(), strict=True))
    return _Found(found, named, heavy, factors if heavy else ones)


def _held_out(
    space: SearchSpace,
    data: Measurements,
    reference: Network,
    parts: Mapping[str, Floats],
    found: _Found,
) -> tuple[HeldOut, HeldOut]:
    """What the transfer, and fitting anew, say of each network from those of the other folds.

    The variances are chosen again in each fold; the form of networks, the kind of errors and which
    networks are outlying stay as all networks chose them.
    """
    form, relative = found.regression.form, found.regression.relative
    networks = space.formed(data.networks, form)
    features = {name: _summed(space, networks, root) for name, root in parts.items()}
    # by chance: networks that switch one block at a time are measured in order
    folds = np.random.default_rng(0).permutation(len(data)) % _FOLDS
    both = HeldOut(*np.empty((2, len(data)))), HeldOut(*np.empty((2, len(data))))
    for fold in range(_FOLDS):
        left = folds == fold
        rest = ~left
        own, factors = data.where(rest), found.factors[rest]
        plain = responses_of(own.values, own.metric, None)
        # a fold whose values are all equal has no relative errors
        response = next((one for one in plain if one.relative == relative), plain[0])
        climb = _Climb(
            {name: rows[rest] for name, rows in features.items()}, response.weighted(factors)
        )
        climb.sweep()
        _to_the_top(climb)
        known = _noisier(_regression(space, own, reference, parts, climb, form), factors)
        for kept, fitted in zip(both, (known, regress(space, own, reference)), strict=True):
            name = data.metric.name
            table = BlockTable(space, reference, {name: fitted.column(space, own)})
            kept.values[left] = table.predict(data.networks[left], name)
            kept.deviations[left] = table.deviation(data.networks[left], name)
    return both


@dataclass(frozen=True)
class _Stacked:
    """The transfer and what was fitted anew, as one column.

    Attributes:
        weight: of the transfer.
        widening: by how much deviations were multiplied.
        held: what the two together say of networks that were left out, deviations as they were.
    """

    column: BlockEffects
    weight: float
    widening: float
    held: HeldOut

    def to_dict(self) -> dict[str, object]:
        return {
            "weight": float(f"{self.weight:.3g}"),
            "deviations_times": float(f"{self.widening:.3g}"),
        }


def _stacked(
    space: SearchSpace,
    data: Measurements,
    known: tuple[_Found, HeldOut],
    anew: tuple[Regression, HeldOut],
) -> _Stacked:
    (found, held), (other, held_anew) = known, anew
    unit = data.values if found.regression.relative else np.ones(len(data))
    weight = weight_of(data.values, held, held_anew, unit)
    if found.regression.form != other.form:  # blocks of different forms have no common effects
        weight = float(weight >= 0.5)
    together = held.mixed(held_anew, weight)
    columns = [one.column(space, data) for one in (found.regression, other)]
    if 0 < weight < 1:
        column = mixture(columns[0], columns[1], weight)
    else:
        column = columns[0 if weight else 1]
    widening = calibration(data.values, together)
    return _Stacked(widened(column, widening), weight, widening, together)


def _to_the_top(climb: _Climb) -> None:
    for _ in range(_MOST_SWEEPS):
        if not climb.sweep(_REACH):
            return


def _summed(space: SearchSpace, networks: Indices, root: Floats) -> Floats:
    found: Floats = root[networks + space.offsets[:-1]].sum(axis=1)
    return found


def _regression(
    space: SearchSpace,
    data: Measurements,
    reference: Network,
    parts: Mapping[str, Floats],
    climb: _Climb,
    form: str,
) -> Regression:
    root = np.hstack(
        [
            math.sqrt(variance) * part
            for variance, part in zip(climb.variances.tolist(), parts.values(), strict=True)
            if variance > 0
        ]
        or [np.zeros((space.num_blocks, 1))]
    )
    return regress_with(
        space,
        data,
        reference,
        root,
        climb.response,
        climb.noise,
        evidence=climb.evidence,
        form=form,
    )


def _outlying(found: Regression, data: Measurements, plain: Response) -> Floats:
    """By how much each network's noise is larger than the common one, from how far it is off what
    the others predict."""
    off = np.abs(found.left_out - data.values) / plain.weights
    larger = heavy_tailed(off)
    return np.ones(len(off)) if larger is None else np.sqrt(larger)


def _noisier(found: Regression, factors: Floats) -> Regression:
    """With the noise of a network drawn from these, where it was that of the common one."""
    assert found.posterior is not None  # block effects have one
    noise = found.posterior.noise * math.sqrt(float((factors**2).mean()))
    return replace(found, posterior=replace(found.posterior, noise=noise))


def _off(left_out: Floats, values: Floats) -> Floats:
    """Absolute errors in percent, or in the metric's unit where a value is not positive."""
    off = np.abs(left_out - values)
    found: Floats = 100 * off / values if (values > 0).all() else off
    return found


def _error(left_out: Floats, values: Floats) -> float:
    return float(_off(left_out, values).mean())


def _surely_less(one: Floats, other: Floats) -> bool:
    """Whether errors are less than those of a simpler model by more than a standard error of the
    difference (Breiman et al., 1984): what was fitted to the same networks looks better than it
    is."""
    less = other - one
    return float(less.mean()) > float(less.std(ddof=1)) / math.sqrt(len(less))


# ---- one factor --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scaled:
    """A known table times one factor."""

    column: BlockEffects
    factor: float
    off: Floats


def _scaled(
    space: SearchSpace, data: Measurements, reference: Network, table: BlockTable, name: str
) -> _Scaled:
    old = table.column(name)
    predicted = table.predict(data.networks, name)
    factor = scaling(predicted, data.values)
    others = ~np.eye(len(data), dtype=bool)
    factors = np.array([scaling(predicted[rest], data.values[rest]) for rest in others])
    off = factors * predicted - data.values
    effects = old.effects.copy()
    own = space.formed(np.array([reference]), old.network_form)[0]
    base, pairs = about(space, tuple(own.tolist()), old.base, effects, old.pairs)
    entries = space.num_blocks + sum(pair.effects.size for pair in old.pairs)
    known = old.posterior or Posterior(np.zeros((entries, 1)), np.zeros(1), 0.0, 0.0)
    posterior = Posterior(
        known.factor * factor,
        known.centre * factor,
        known.constant * factor**2 + float(factors.var()) * float(predicted.mean()) ** 2,
        float(np.sqrt((off**2).mean())),
    )
    moved = table.reference != reference
    column = replace(
        old,
        metric=data.metric,
        base=base * factor,
        effects=effects * factor,
        spread=np.full(space.num_blocks, np.nan) if moved else old.spread * abs(factor),
        pairs=tuple(replace(pair, effects=pair.effects * factor) for pair in pairs),
        conditions=data.conditions,
        posterior=posterior,
    )
    return _Scaled(column, factor, _off(off + data.values, data.values))


def scaling(predicted: Floats, measured: Floats) -> float:
    """The factor by which a known device's predictions are nearest to measurements, both of shape
    (k,): the median ratio, or least squares where a number is not positive."""
    if (predicted > 0).all() and (measured > 0).all():
        return float(np.median(measured / predicted))
    square = float(predicted @ predicted)
    return float(predicted @ measured) / square if square else 0.0
