"""A Bayesian linear model of block effects: any set of networks, a response scale, uncertainty.

On a response scale g the value of a network is a constant plus one effect a block, plus what pairs
of blocks add, plus noise:

    g(y) = a + sum_i w_i(N_i) + sum_(i<k) v_ik(N_i, N_k) + e

The effects have a normal prior in which a block's effects in two nodes are correlated (the same
block helps in similar places), by ``rho ** distance`` for blocks of one name. How strongly, how
much pairs add, how large the noise is, which scale serves and, where the space has several,
which form of a network counts, are chosen by the evidence (see `mathnas.responses`). Where the
space tells features of a network and the metric is not additive, a Gaussian process on these stands
for election too. A flat prior on the data of single sampling gives the paper's differences.

The prior's mean is 0, or along the effects of another table (single sampling on a proxy, another
device): their size is estimated with the rest, and none of it where they do not help.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mathnas.errors import InvalidInputError, MathNASWarning
from mathnas.gaussian_process import GaussianProcess, ProcessChoice, fit_process
from mathnas.metrics import Floats
from mathnas.posterior import Posterior
from mathnas.responses import (
    NEGLIGIBLE,
    NOISES,
    Response,
    constant_column,
    evidences,
    grouped,
    most_evident,
    responses_of,
    whitened,
)
from mathnas.scales import ResponseScale
from mathnas.space import AS_WRITTEN, Indices, Network, SearchSpace
from mathnas.study import Measurements
from mathnas.table import BlockEffects, Form, PairEffects

_CORRELATIONS = (0.0, 0.5, 0.8, 0.95, 1.0)
_PAIR_SHARES = (
    0.0,
    0.01,
    0.03,
    0.1,
    0.3,
)  # prior variance of a pair's entry, relative to a block's
_PRIOR_SHARES = (0.0, 1.0, 10.0, 100.0)  # prior variance of another table's effects, likewise
_MOST_PAIR_ENTRIES = 600  # more, and only neighbours may interact; again more, and none


@dataclass(frozen=True)
class Regression:
    """A fitted model.

    Attributes:
        scale: the response scale that serves best.
        base: response of the reference network.
        effects: flat; relative to the reference's blocks, whose effect is 0.
        spread: flat; posterior standard deviation of `effects`.
        pairs: interactions, 0 in each row and column of the reference's blocks.
        posterior: of any network's response.
        correlation: of one block's effects in neighbouring nodes.
        pair_share: prior variance of a pair's entry, relative to a block's effect.
        noise_share: variance of the noise, relative to a block's effect.
        relative: whether errors are proportional to values.
        evidence: log marginal likelihood of the measurements, with the noise's prior.
        left_out: shape (networks,): each network's value as the others predict it.
        left_out_error: mean absolute error of that, in the metric's unit.
        form: which form of a network the blocks are those of.
        prior_share: prior variance of the effects of the prior's table, relative to a block's.
        process: the Gaussian process on features, where it has more evidence than block effects:
            `effects` are then differences of its predictions in the reference, and `spread` is
            NaN, `posterior` None, `correlation` and `pair_share` 0.
    """

    scale: ResponseScale
    base: float
    effects: Floats
    spread: Floats
    pairs: tuple[PairEffects, ...]
    posterior: Posterior | None
    correlation: float
    pair_share: float
    noise_share: float
    relative: bool
    evidence: float
    left_out: Floats
    left_out_error: float
    form: str = AS_WRITTEN
    prior_share: float = 0.0
    process: GaussianProcess | None = None

    def column(self, space: SearchSpace, data: Measurements) -> BlockEffects:
        """The column of a table, for the measurements that were fitted."""
        rows = (space.formed(data.networks, self.form) + space.offsets[:-1]).ravel()
        return BlockEffects(
            replace(data.metric, scale=self.scale),
            self.base,
            self.effects,
            self.spread,
            np.bincount(rows, minlength=space.num_blocks).astype(np.float64),
            Form.LINEAR,
            data.conditions,
            pairs=self.pairs,
            posterior=self.posterior,
            network_form=self.form,
            process=self.process,
        )

    def to_dict(self) -> dict[str, object]:
        """What the evidence chose, for JSON and for people."""
        known = self.process or self.posterior
        assert known is not None  # one of the two is there
        return {
            "model": "block effects" if self.process is None else "Gaussian process on features",
            "form": self.form,
            "scale": str(self.scale),
            "errors": "relative" if self.relative else "absolute",
            "block_correlation": self.correlation,
            "pair_share": self.pair_share,
            "prior_share": self.prior_share,
            "noise_share": float(f"{self.noise_share:.3g}"),
            "noise": float(f"{known.noise:.3g}"),
            "evidence": round(self.evidence, 2),
            "left_out_error": float(f"{self.left_out_error:.4g}"),
        }


def regress(
    space: SearchSpace,
    data: Measurements,
    reference: Network,
    *,
    scale: ResponseScale | None = None,
    pairs: bool | None = None,
    features: bool = True,
    prior: Floats | None = None,
) -> Regression:
    """Fit the model to all measurements of a metric.

    Args:
        scale: the response scale; by default the evidence chooses among `scales_for`. Additive
            metrics (latency, energy) stay as they are, with errors that are absolute or relative to
            the value, whichever has more evidence.
        pairs: whether pairs of nodes interact; by default the evidence decides. All pairs of nodes
            in small spaces (up to 600 entries of the matrices), in larger ones neighbours up to as
            many; with True neighbours in any space.
        features: whether a Gaussian process on the space's features may be chosen.
        prior: effects along which the prior is centred, flat, in any unit; see the module.

    Raises:
        InvalidInputError: fewer than three networks were measured, or the prior does not fit.

    Warns:
        MathNASWarning: a block is in no measured network, so that its effect is what the prior
            makes of other nodes.
    """
    if len(data) < 3:
        raise InvalidInputError(
            f"a regression needs at least 3 measured networks, but {data.metric.name} has "
            f"{len(data)}: evaluate more."
        )
    _warn_of_unseen(space, data)
    responses = responses_of(data.values, data.metric, scale)
    designs = {
        form: _Design(space, networks, pairs=pairs, prior=prior)
        for form, networks in forms_of(space, data.networks).items()
    }
    form = AS_WRITTEN
    if len(designs) > 1:  # pairs cost much and add little: the form is chosen without them
        alone = {form: _choose(design, responses, False) for form, design in designs.items()}
        form = list(alone)[most_evident([choice.evidence for choice in alone.values()])]
    design = designs[form]
    chosen = _choose(design, responses, pairs)
    if features and space.has_features and not data.metric.additive:
        process = fit_process(space.features(data.networks), data.values, responses)
        if process is not None and process.evidence > chosen.evidence:
            return _of_process(space, process, data, reference)
    weights = _heteroscedastic(design, chosen, data)
    if weights is not None:  # once more, with the noise of each network's own repeats
        chosen = _choose(design, [chosen.response.weighted(weights)], chosen.prior.pair_share > 0)
    base = space.formed(np.array([reference]), form)[0]
    found = _solution(design, chosen, tuple(base.tolist()), data.values)
    return replace(found, form=form)


def regress_with(
    space: SearchSpace,
    data: Measurements,
    reference: Network,
    root: Floats,
    response: Response,
    noise_share: float,
    *,
    evidence: float = math.nan,
    form: str = AS_WRITTEN,
) -> Regression:
    """The model with a given prior, response and noise, for callers that chose these themselves.

    Args:
        root: shape (blocks, rank): B of the prior covariance B B^T of the effects of blocks.
        noise_share: variance of the noise, in the unit of that covariance.
        form: which form of a network the blocks are those of.
    """
    networks = space.formed(data.networks, form)
    design = _GivenDesign(space, networks, root)
    choice = _Choice(response, _Prior(0.0), noise_share, evidence)
    base = space.formed(np.array([reference]), form)[0]
    return replace(_solution(design, choice, tuple(base.tolist()), data.values), form=form)


def name_root(space: SearchSpace, correlation: float) -> Floats:
    """A root of the covariance of effects that are alike in near nodes: for blocks of one name it
    is ``correlation ** distance``, for others 0; shape (blocks, rank)."""
    names = np.array([block.name for node in space.nodes for block in node.blocks])
    node = np.repeat(np.arange(space.num_nodes), space.sizes)
    same = names[:, None] == names[None]
    distance = np.abs(node[:, None] - node[None])
    values, vectors = np.linalg.eigh(same * correlation**distance)
    kept = values > NEGLIGIBLE
    root: Floats = vectors[:, kept] * np.sqrt(values[kept])
    return root


def forms_of(space: SearchSpace, networks: Indices) -> dict[str, Indices]:
    """The networks in each of the space's forms; those that change none of them are left out."""
    found = {AS_WRITTEN: networks}
    for form in space.forms:
        seen = space.formed(networks, form)
        if not any((seen == other).all() for other in found.values()):
            found[form] = seen
    return found


class _Design:
    """Indicators of blocks, and of the entries of the pairs that may interact."""

    def __init__(
        self,
        space: SearchSpace,
        networks: Indices,
        *,
        pairs: bool | None,
        prior: Floats | None = None,
    ) -> None:
        self.space, self.networks = space, networks
        self.prior = None if prior is None else _centre(space, prior)
        self.blocks = np.zeros((len(networks), space.num_blocks))
        np.put_along_axis(self.blocks, networks + space.offsets[:-1], 1.0, axis=1)
        nodes = range(space.num_nodes)
        self.pairs = [(i, k) for i in nodes for k in nodes[i + 1 :]]
        if self._entries() > _MOST_PAIR_ENTRIES:
            self.pairs = [(i, i + 1) for i in nodes[:-1]]
        if self._entries() > _MOST_PAIR_ENTRIES and not pairs:
            self.pairs = []
        self._roots: dict[tuple[float, float], Floats] = {}  # every share of the pairs asks

    def _entries(self) -> int:
        return sum(self.space.sizes[i] * self.space.sizes[k] for i, k in self.pairs)

    @cached_property
    def entries(self) -> Floats:
        """Indicators of the pairs' entries, shape (networks, entries): built where pairs count."""
        networks, sizes = self.networks, self.space.sizes
        found = np.zeros((len(networks), self._entries()))
        start = 0
        for i, k in self.pairs:
            found[np.arange(len(networks)), start + networks[:, i] * sizes[k] + networks[:, k]] = 1
            start += sizes[i] * sizes[k]
        return found

    def root(self, shape: _Prior) -> Floats:
        """A root B of the prior covariance B B^T of effects and pair entries."""
        key, pair_share = (shape.correlation, shape.prior_share), shape.pair_share
        if key not in self._roots:
            blocks = name_root(self.space, shape.correlation)
            if self.prior is not None and shape.prior_share:
                own = math.sqrt(shape.prior_share) * self.prior
                blocks = np.hstack([own[:, None], blocks])
            self._roots[key] = blocks
        blocks = self._roots[key]
        if not pair_share:
            return blocks
        count = self.entries.shape[1]
        root = np.zeros((len(blocks) + count, blocks.shape[1] + count))
        root[: len(blocks), : blocks.shape[1]] = blocks
        root[len(blocks) :, blocks.shape[1] :] = math.sqrt(pair_share) * np.eye(count)
        return root

    def features(self, root: Floats) -> Floats:
        """Shape (networks, rank): in coordinates that are independent a priori."""
        blocks = self.space.num_blocks
        features: Floats = self.blocks @ root[:blocks]
        if len(root) > blocks:
            # the lower right corner of the root is a multiple of the identity
            rank = root.shape[1] - (len(root) - blocks)
            features = np.hstack([features[:, :rank], self.entries * root[-1, -1]])
        return features


class _GivenDesign(_Design):
    """A design without pairs whose prior is given."""

    def __init__(self, space: SearchSpace, networks: Indices, root: Floats) -> None:
        super().__init__(space, networks, pairs=False)
        self.pairs, self.given = [], root

    def root(self, shape: _Prior) -> Floats:
        return self.given


@dataclass(frozen=True)
class _Prior:
    """The shape of the prior covariance; see `Regression`."""

    correlation: float
    pair_share: float = 0.0
    prior_share: float = 0.0


@dataclass(frozen=True)
class _Choice:
    """What the evidence chose."""

    response: Response
    prior: _Prior
    noise_share: float
    evidence: float


def _choose(design: _Design, responses: Sequence[Response], pairs: bool | None) -> _Choice:
    """The response, prior and noise with the most evidence."""
    names = [block.name for node in design.space.nodes for block in node.blocks]
    shared = len(set(names)) < len(names)
    correlations = _CORRELATIONS if shared else _CORRELATIONS[:1]
    along = _PRIOR_SHARES if design.prior is not None else _PRIOR_SHARES[:1]
    best = _best_of(
        design, responses, [_Prior(rho, 0.0, own) for rho in correlations for own in along]
    )
    if pairs is False or not design.pairs:
        return best
    shares = [share for share in _PAIR_SHARES if share or not pairs]
    priors = [_Prior(rho, share, own) for rho in correlations for share in shares for own in along]
    if not priors:
        return best
    paired = _best_of(design, responses, priors)
    return paired if pairs or paired.evidence > best.evidence else best


def _best_of(design: _Design, responses: Sequence[Response], priors: Sequence[_Prior]) -> _Choice:
    best: _Choice | None = None
    groups = grouped(responses)
    for prior in priors:
        features = design.features(design.root(prior))
        for group in groups:
            evidence = _evidence(features, group)
            noise, place = np.unravel_index(int(evidence.argmax()), evidence.shape)
            found = float(evidence[noise, place])
            if best is None or found > best.evidence:
                best = _Choice(group[int(place)], prior, float(NOISES[int(noise)]), found)
    assert best is not None
    return best


def _evidence(features: Floats, group: Sequence[Response]) -> Floats:
    """Evidence of shape (noises, responses); all responses of the same weights.

    The decomposition serves all noises and scales.
    """
    weights = group[0].weights
    own = whitened(features, weights)
    values = whitened(np.column_stack([response.values for response in group]), weights)
    wide = own.shape[1] >= len(own)
    strength, vectors = np.linalg.eigh(own @ own.T if wide else own.T @ own)
    kept = strength > NEGLIGIBLE * max(strength.max(), 1e-300)
    strength, vectors = strength[kept], vectors[:, kept]
    if wide:
        inside = vectors.T @ values
    else:
        inside = (vectors.T @ (own.T @ values)) / np.sqrt(strength)[:, None]
    return evidences(strength, inside, (values**2).sum(axis=0) - (inside**2).sum(axis=0), group)


@dataclass(frozen=True)
class _Solved:
    """A choice with its coordinates' posterior: mean `weights`, and covariance
    ``amplitude^2 root root^T``.

    Attributes:
        constant: of the response, at features 0.
        predicted: shape (n,): standardised responses with each network left out.
    """

    weights: Floats
    root: Floats
    amplitude: float
    centre: Floats
    constant: float
    predicted: Floats


def _solve(features: Floats, choice: _Choice) -> _Solved:
    response = choice.response
    own_rows = whitened(features, response.weights)
    values = whitened(response.values[:, None], response.weights)[:, 0]
    column = constant_column(response.weights)
    gram = own_rows.T @ own_rows / choice.noise_share
    # by eigenvectors: rounding makes the inverse indefinite where the noise is next to nothing
    strength, vectors = np.linalg.eigh(gram)
    root = vectors / np.sqrt(1 + np.maximum(strength, 0.0))
    weights = root @ (root.T @ (own_rows.T @ values)) / choice.noise_share
    rest = values - own_rows @ weights
    own = len(values) - 1
    misfit = float(weights @ weights + rest @ rest / choice.noise_share)
    precision = 1.0 / response.weights**2
    precision /= precision.sum()
    centre = precision @ features
    constant = float(precision @ response.values)
    # the hat matrix of the ridge, with the constant's own column
    leverage = ((own_rows @ root) ** 2).sum(axis=1) / choice.noise_share
    leverage = np.minimum(leverage + column**2, 1 - NEGLIGIBLE)
    fitted = constant + (features - centre) @ weights
    left_out = response.values - (response.values - fitted) / (1 - leverage)
    return _Solved(weights, root, math.sqrt(misfit / own), centre, constant, left_out)


def _heteroscedastic(design: _Design, choice: _Choice, data: Measurements) -> Floats | None:
    """How much larger each network's noise is for its own repeats; None where repeats tell
    nothing."""
    error = np.where(np.isfinite(data.spread), data.spread, 0.0) / np.sqrt(data.repeats)
    if not error.any() or np.ptp(error) == 0:
        return None
    response = choice.response
    solved = _solve(design.features(design.root(choice.prior)), choice)
    common = solved.amplitude * math.sqrt(choice.noise_share) * response.weights
    own = error * response.scale.derivative(data.values) / response.unit
    # the common noise was found with the repeats' noise in it: what is beyond their typical one
    excess = np.maximum(own**2 - float(np.median(own**2)), 0.0)
    factors: Floats = np.sqrt(1 + excess / common**2)
    return factors if np.ptp(factors) > 0.01 else None


def _solution(design: _Design, choice: _Choice, reference: Network, measured: Floats) -> Regression:
    space = design.space
    root = design.root(choice.prior)
    response = choice.response
    solved = _solve(design.features(root), choice)
    values = root @ solved.weights * response.unit
    effects = values[: space.num_blocks].copy()
    constant = solved.constant - float(solved.centre @ solved.weights)
    base, pairs = about(
        space,
        reference,
        response.centre + response.unit * constant,
        effects,
        _pairs(design, values[space.num_blocks :]),
    )
    factor = root @ solved.root * (solved.amplitude * response.unit)
    noise = solved.amplitude * response.unit * math.sqrt(choice.noise_share)
    # centred as the features were: the constant is known best where the measurements are
    shift = solved.root.T @ solved.centre
    posterior = Posterior(
        factor,
        shift * (solved.amplitude * response.unit),
        noise**2 / float((1 / response.weights**2).sum()),
        noise,
        float(np.exp(np.log(measured).mean())) if response.relative else None,
    )
    left_out = response.scale.inverse(response.centre + response.unit * solved.predicted)
    own = space.offsets[:-1] + np.array(reference)
    differences = factor[: space.num_blocks] - np.repeat(factor[own], space.sizes, axis=0)
    return Regression(
        response.scale,
        base,
        effects,
        np.linalg.norm(differences, axis=1),
        pairs,
        posterior,
        choice.prior.correlation,
        choice.prior.pair_share,
        choice.noise_share,
        response.relative,
        choice.evidence,
        left_out,
        float(np.abs(left_out - measured).mean()),
        prior_share=choice.prior.prior_share,
    )


def _of_process(
    space: SearchSpace, choice: ProcessChoice, data: Measurements, reference: Network
) -> Regression:
    """The regression that a Gaussian process is."""
    process, scale = choice.process, choice.response.scale
    predicted = process.predict(space.features(np.array(_switched(space, reference))))
    base = float(process.predict(space.features(np.array([reference])))[0])
    left_out = scale.inverse(process.left_out)
    return Regression(
        scale,
        base,
        predicted - base,
        np.full(space.num_blocks, np.nan),
        (),
        None,
        0.0,
        0.0,
        process.noise_share,
        choice.response.relative,
        choice.evidence,
        left_out,
        float(np.abs(left_out - data.values).mean()),
        process=process,
    )


def _switched(space: SearchSpace, reference: Network) -> list[Network]:
    """The reference with each block in turn; as it is where a depth rule does not let it."""
    found = []
    for node, size in enumerate(space.sizes):
        for block in range(size):
            try:
                found.append(space.with_block(reference, node, block))
            except InvalidInputError:
                found.append(reference)
    return found


def _pairs(design: _Design, values: Floats) -> list[PairEffects]:
    found, start = [], 0
    if not len(values):
        return []
    for i, k in design.pairs:
        rows, columns = design.space.sizes[i], design.space.sizes[k]
        part = values[start : start + rows * columns].reshape(rows, columns)
        found.append(PairEffects(i, k, part))
        start += rows * columns
    return found


def about(
    space: SearchSpace,
    reference: Network,
    base: float,
    effects: Floats,
    pairs: Sequence[PairEffects],
) -> tuple[float, tuple[PairEffects, ...]]:
    """The same predictions with effects (changed in place) and pairs that are 0 at the reference's
    blocks."""
    moved = []
    for pair in pairs:
        entry, i, k = pair.effects, reference[pair.first], reference[pair.second]
        first, second = (int(space.offsets[node]) for node in (pair.first, pair.second))
        effects[first : first + entry.shape[0]] += entry[:, k]
        effects[second : second + entry.shape[1]] += entry[i] - entry[i, k]
        inner = entry - entry[:, [k]] - entry[[i]] + entry[i, k]
        inner[i], inner[:, k] = 0.0, 0.0
        moved.append(PairEffects(pair.first, pair.second, inner))
    own = effects[space.offsets[:-1] + np.array(reference)]
    effects -= np.repeat(own, space.sizes)
    return base + float(own.sum()), tuple(moved)


def _centre(space: SearchSpace, prior: Floats) -> Floats:
    """Effects in a unit in which they vary by 1 over the blocks of a node, on average."""
    if prior.shape != (space.num_blocks,) or not np.isfinite(prior).all():
        raise InvalidInputError(
            f"a prior of {space.name} is one finite effect for each of its {space.num_blocks} "
            f"blocks, but got an array of shape {prior.shape}."
        )
    parts = np.split(prior, space.offsets[1:-1])
    centred = np.concatenate([part - part.mean() for part in parts])
    spread = float(np.sqrt(np.mean(centred**2)))
    found: Floats = centred / (spread or 1.0)
    return found


def _warn_of_unseen(space: SearchSpace, data: Measurements) -> None:
    rows = (data.networks + space.offsets[:-1]).ravel()
    unseen = np.flatnonzero(np.bincount(rows, minlength=space.num_blocks) == 0)
    if len(unseen):
        number, block = space.place_of(int(unseen[0]))
        node = space.nodes[number]
        warnings.warn(
            f"{len(unseen)} blocks are in no network that was measured for {data.metric.name}, "
            f"among them {node.blocks[block].name!r} of {node.name!r}: what is said of them is "
            "only what the prior makes of the same block elsewhere. Evaluate networks that hold "
            "them.",
            MathNASWarning,
            stacklevel=3,
        )
