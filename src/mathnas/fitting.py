"""From evaluations to a block table: the paper's differences (Eq. 3), or a regression.

The effect of a block is the mean, over the contexts that were evaluated, of the difference that
switching to it from the reference's block makes. Single sampling has one context, partial sampling
some, full sampling all; one rule serves the three. `mathnas.regression` takes any networks.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np

from mathnas.errors import InvalidInputError, MathNASWarning
from mathnas.metrics import Floats
from mathnas.regression import Regression, regress
from mathnas.space import Network, SearchSpace
from mathnas.study import Measurements, Study
from mathnas.table import BlockEffects, BlockTable, Form, check_form

Method = Literal["paired", "single", "means", "regression"]


@dataclass(frozen=True)
class _Differences:
    """Per block (flat): mean difference to the reference's block, its spread, its contexts."""

    mean: Floats
    spread: Floats
    contexts: Floats


def fit(
    study: Study,
    metrics: Sequence[str] | None = None,
    *,
    method: Method = "paired",
    form: Form | str | Mapping[str, Form | str] = Form.LINEAR,
    power: float = 1.0,
    reference: Sequence[int | str] | None = None,
    conditions: Mapping[str, Mapping[str, str]] | None = None,
    device: str | None = None,
    prior: BlockTable | None = None,
    proxy: Mapping[str, str] | None = None,
) -> BlockTable:
    """Estimate the effects of all blocks on the metrics of a study.

    Args:
        metrics: which ones; by default all that were measured (on the device, or on none).
        method: ``paired``: differences between networks that differ in one node, averaged over all
            contexts that the study holds. ``single``: only the reference network's context
            (Algorithm 1). ``means``: differences of block means (unpaired partial sampling).
            ``regression``: a Bayesian linear model on a response scale, from any networks, with
            uncertainty (`mathnas.regression`); best where more was evaluated than one switch a
            block.
        form: how effects of metrics that are not additive add up (see `Form`); one for all or one
            by metric. Additive metrics and regressions are always linear.
        power: of the MACs in the forms that are not linear; 1 is the paper's.
        reference: what effects are relative to; by default the newest sample's.
        conditions: by metric, which measurements to use where there are several kinds.
        device: the device to fit, where the study holds several: its name, or a part that no
            other's has. Metrics that were measured on no device (accuracy) serve all.
        prior: another table of the space, whose effects on a metric of the same name the prior of
            a regression is centred along: single sampling on a proxy, another device.
        proxy: for a regression, by metric another one of the study whose effects its prior is
            centred along in the same way: of accuracy the loss, which tells networks apart with
            fewer images.

    Raises:
        InvalidInputError: a metric or block was not measured as the method needs, or a form needs
            MACs that the space does not declare, a form is given for a regression, or a prior or
            a proxy is of no metric that is fitted.

    Warns:
        MathNASWarning: the reference was measured several times and disagrees with itself by more
            than most effects; or a regression meets blocks that were never measured.
    """
    if method not in get_args(Method):
        known = ", ".join(get_args(Method))
        raise InvalidInputError(f"a method is one of {known}, but got {method!r}.")
    if method == "regression" and form != Form.LINEAR and form:
        raise InvalidInputError(
            "a regression is linear on a response scale that the evidence chooses, so it takes no "
            f"form, but got {form!r}: leave out one of them."
        )
    if prior is not None and (method != "regression" or prior.space != study.space):
        raise InvalidInputError(
            f"a prior is a table of the study's space, {study.space.name}, for a regression, but "
            f"got one of {prior.space.name} for method={method!r}."
        )
    base = study.reference if reference is None else study.space.check(reference)
    on = None if device is None else study.device_named(device)
    names = [
        name
        for name in study.metrics
        if any(on is None or found.get("device", on) == on for found in study.conditions(name))
    ]
    wanted = names if metrics is None else list(metrics)
    if not wanted:
        raise InvalidInputError(f"{study.path} holds no evaluations: evaluate a sample first.")
    if prior is not None and not set(wanted) & set(prior.columns):
        raise InvalidInputError(
            f"a prior has effects on a metric that is fitted, {', '.join(wanted)}, but got a table "
            f"of {', '.join(prior.columns) or 'none'}: give metrics the same name."
        )
    centres = {} if prior is None else {n: c.effects for n, c in prior.columns.items()}
    if proxy:
        _check_proxy(proxy, wanted, names, method, centres)
    columns = {}
    evaluated: set[bytes] = set()
    chosen: dict[str, object] = {}

    @cache
    def data_of(name: str) -> Measurements:
        return study.measurements(name, (conditions or {}).get(name), device=on)

    @cache
    def alone(name: str) -> Regression:
        return regress(study.space, data_of(name), base)

    for name in wanted:
        data = data_of(name)
        if method == "regression":
            if proxy and name in proxy:
                other = proxy[name]
                centres[name] = alone(other).column(study.space, data_of(other)).effects
            centre = centres.get(name)
            found = (
                alone(name) if centre is None else regress(study.space, data, base, prior=centre)
            )
            columns[name], chosen[name] = found.column(study.space, data), found.to_dict()
        else:
            columns[name] = fit_column(
                study.space, data, base, method, _form_of(data.metric.additive, name, form), power
            )
            _check_reference(study, data, base, columns[name])
        evaluated |= {row.tobytes() for row in data.networks}
    provenance = {
        "method": method if method == "regression" else f"differences, {method}",
        **({"chosen": chosen} if chosen else {}),
        **({"proxy": dict(proxy)} if proxy else {}),
        "study": study.path.name,
        **({} if on is None else {"device": on}),
        "networks": len(evaluated),
        "fitted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return BlockTable(study.space, base, columns, provenance)


def _check_proxy(
    proxy: Mapping[str, str],
    wanted: Sequence[str],
    measured: Sequence[str],
    method: Method,
    centres: Mapping[str, object],
) -> None:
    if method != "regression":
        raise InvalidInputError(
            f"a proxy is the prior of a regression, but got proxy= for method={method!r}: take "
            "method='regression'."
        )
    for name, other in proxy.items():
        if name not in wanted or other not in measured or other == name:
            raise InvalidInputError(
                f"a proxy is another metric of the study, {', '.join(measured)}, for one that is "
                f"fitted, {', '.join(wanted)}, but got {other!r} for {name!r}."
            )
        if name in centres:
            raise InvalidInputError(
                f"a metric has one prior, but {name!r} has a proxy and effects in prior=: leave "
                "one of them out."
            )


def fit_column(
    space: SearchSpace,
    data: Measurements,
    reference: Network,
    method: Method = "paired",
    form: Form = Form.LINEAR,
    power: float = 1.0,
) -> BlockEffects:
    """The effects on one metric, from its measurements; what `fit` does for each metric.

    Raises:
        InvalidInputError: a block was not measured as the method needs, or the form needs MACs that
            the space does not declare.
    """
    check_form(space, form, data.metric.name)
    response = data.metric.scale.forward(data.values)
    if method == "means":
        found = _block_means(space, data, response, reference)
    else:
        found = _paired(space, data, response, reference, only_reference=method == "single")
    effects = found.mean * _numerator(space, reference, form) ** power
    effects[space.offsets[:-1] + np.array(reference)] = 0.0
    own = data.lookup(reference)
    if own is not None and float(found.contexts.max()) <= 1:
        base = float(response[own])
    else:
        added = effects[data.networks + space.offsets[:-1]].sum(axis=1)
        if form is not Form.LINEAR:
            added /= space.additive_macs(data.networks) ** power
        base = float(np.mean(response - added))
    return BlockEffects(
        data.metric, base, effects, found.spread, found.contexts, form, data.conditions, power
    )


def _paired(
    space: SearchSpace,
    data: Measurements,
    response: Floats,
    reference: Network,
    *,
    only_reference: bool,
) -> _Differences:
    """Differences between measured networks that differ in one node, one side the reference's."""
    networks = data.networks
    variance = (data.spread**2) / data.repeats
    mean, spread = np.zeros(space.num_blocks), np.full(space.num_blocks, np.nan)
    contexts = np.zeros(space.num_blocks)
    # contexts are compared by sums of random keys, one a block, and then block by block
    keys = np.random.default_rng(0).integers(2**63, size=space.num_blocks, dtype=np.uint64)
    chosen = keys[networks + space.offsets[:-1]]
    whole = chosen.sum(axis=1, dtype=np.uint64)
    for node, start in enumerate(space.offsets[:-1]):
        context = whole - chosen[:, node]
        column = networks[:, node]
        sides = np.flatnonzero(column == reference[node])
        if only_reference:
            sides = sides[_same_context(space, networks[sides], reference, node)]
        sides = sides[np.argsort(context[sides], kind="stable")]
        if len(sides):
            place = np.searchsorted(context[sides], context).clip(max=len(sides) - 1)
            partner = sides[place]
            paired = (context[partner] == context) & (column != reference[node])
            others = np.arange(space.num_nodes) != node
            paired[paired] = (
                networks[paired][:, others] == networks[partner[paired]][:, others]
            ).all(axis=1)
            row, side = np.flatnonzero(paired), partner[paired]
            difference = response[row] - response[side]
            block = column[row]
            size = space.sizes[node]
            count = np.bincount(block, minlength=size)
            with np.errstate(invalid="ignore", divide="ignore"):
                average = np.bincount(block, difference, size) / count
                squares = np.bincount(block, (difference - average[block]) ** 2, size)
                over_contexts = np.sqrt(squares / (count - 1))
                over_repeats = np.sqrt(np.bincount(block, variance[row] + variance[side], size))
            part = slice(int(start), int(start) + size)
            mean[part], contexts[part] = np.where(count > 0, average, 0.0), count
            spread[part] = np.where(count > 1, over_contexts, over_repeats)
    _require_all(space, contexts, reference, data, only_reference)
    own = space.offsets[:-1] + np.array(reference)
    spread[own], contexts[own] = 0.0, 0.0
    return _Differences(mean, spread, contexts)


def _same_context(
    space: SearchSpace, networks: np.ndarray, reference: Network, node: int
) -> np.ndarray:
    """Which networks are the reference outside `node`, as far as depth rules allow.

    The context in which an optional node is switched to absent has the later nodes absent too.
    """
    allowed = {reference}
    for block in range(space.sizes[node]):
        switched = list(space.with_block(reference, node, block))
        switched[node] = reference[node]
        allowed.add(tuple(switched))
    return np.array([tuple(row) in allowed for row in networks.tolist()], dtype=bool)


def _block_means(
    space: SearchSpace, data: Measurements, response: Floats, reference: Network
) -> _Differences:
    """Mean of the networks that hold a block, minus that of those that hold the reference's."""
    rows = (data.networks + space.offsets[:-1]).ravel()
    values = np.repeat(response, space.num_nodes)
    count = np.bincount(rows, minlength=space.num_blocks).astype(np.float64)
    missing = np.flatnonzero(count == 0)
    if len(missing):
        raise InvalidInputError(
            f"block means need every block in at least one evaluated network, but "
            f"{_block_name(space, int(missing[0]))} is in none of the {len(data)} measured for "
            f"{data.metric.name}: evaluate more networks."
        )
    average = np.bincount(rows, values, space.num_blocks) / count
    own = np.repeat(average[space.offsets[:-1] + np.array(reference)], space.sizes)
    return _Differences(average - own, np.full(space.num_blocks, np.nan), count)


def _numerator(space: SearchSpace, reference: Network, form: Form) -> Floats:
    """What measured differences are multiplied by before they are divided by F(N) (Eq. 5)."""
    if form is Form.LINEAR:
        return np.ones(space.num_blocks)
    if form is Form.BLOCK_MEAN:
        return space.mean_macs_with_block()
    if form is Form.SPACE_MEAN:
        return np.full(space.num_blocks, space.mean_macs())
    switched = [
        space.with_block(reference, node, block)
        for node, size in enumerate(space.sizes)
        for block in range(size)
    ]
    return space.macs(switched)


def _form_of(additive: bool, metric: str, form: Form | str | Mapping[str, Form | str]) -> Form:
    if additive:
        return Form.LINEAR
    chosen = form.get(metric, Form.LINEAR) if isinstance(form, Mapping) else form
    try:
        return Form(chosen)
    except ValueError as error:
        raise InvalidInputError(
            f"a form is one of {', '.join(item.value for item in Form)}, but got {chosen!r}."
        ) from error


def _require_all(
    space: SearchSpace,
    contexts: Floats,
    reference: Network,
    data: Measurements,
    only_reference: bool,
) -> None:
    needed = np.ones(space.num_blocks, dtype=bool)
    needed[space.offsets[:-1] + np.array(reference)] = False
    missing = np.flatnonzero(needed & (contexts == 0))
    if len(missing):
        where = "in the reference network" if only_reference else "in any context"
        raise InvalidInputError(
            f"an effect needs a network with the block and the same network with the reference's "
            f"block, but {_block_name(space, int(missing[0]))} was not measured so {where} for "
            f"{data.metric.name} ({len(missing)} of {int(needed.sum())} blocks are missing): "
            "evaluate the rest of the sample, or fit block means with method='means'."
        )


def _check_reference(
    study: Study, data: Measurements, reference: Network, column: BlockEffects
) -> None:
    """Warn where repeated measurements of the reference differ by more than most effects."""
    values = [
        fact.measurement.value
        for fact in study.evaluations(data.metric.name, reference, data.conditions)
    ]
    effects = np.abs(np.delete(column.effects, study.space.offsets[:-1] + np.array(reference)))
    if len(values) < 2 or not len(effects) or column.power:
        return
    noise = float(np.std(values, ddof=1)) * math.sqrt(2)
    lost = int((effects < noise).sum())
    if 2 * lost > len(effects):
        warnings.warn(
            f"{data.metric.name} of the reference network came out from {min(values):.6g} to "
            f"{max(values):.6g} in {len(values)} measurements: {lost} of {len(effects)} block "
            "effects are smaller than that noise. Measure with more repeats, or look for state "
            "that leaks from one evaluation to the next.",
            MathNASWarning,
            stacklevel=3,
        )


def _block_name(space: SearchSpace, flat: int) -> str:
    node, block = space.place_of(flat)
    return f"block {space.nodes[node].blocks[block].name!r} of node {space.nodes[node].name!r}"
