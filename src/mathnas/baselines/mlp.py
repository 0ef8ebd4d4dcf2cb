"""Multilayer perceptrons as predictors: Once-for-All's for accuracy and HAT's for latency.

`MLPRegressor` learns from plain features, so it also serves data that have features and no
networks; `MLPPredictor` reads networks, one-hot unless told otherwise. Written from the
descriptions of Cai et al., "Once-for-All" (ICLR 2020), and Wang et al., "HAT: Hardware-Aware
Transformers" (ACL 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from mathnas._threads import torch_threads
from mathnas.baselines.hat_features import HAT_FEATURES, hat_features
from mathnas.baselines.predictor import checked_evaluations, checked_values
from mathnas.errors import InvalidInputError
from mathnas.space import Floats, SearchSpace

_CHECKS = 100  # how often the validation part is looked at

Read: TypeAlias = "Callable[[SearchSpace, npt.ArrayLike], Floats]"


@dataclass(frozen=True, slots=True)
class MLPSettings:
    """What a perceptron looks like and how it is trained, always with Adam on squared errors.

    Attributes:
        hidden: widths of the hidden layers, each with ReLU.
        last_bias: whether the output has a bias of its own.
        targets: ``standardised`` (mean 0 and deviation 1 over the networks that are trained on, so
            that their mean is the base of every prediction) or ``divided`` by `value_scale`.
        learning_rate: of Adam.
        steps: how many batches are trained on.
        batch: rows of one step, drawn without replacement; all where there are fewer.
        validation: share of the rows that decides which weights are kept; 0: the last are kept.
        feature_scale: the features are divided by these, shape (f,); None: by the largest absolute
            value of each in the data (1 where that is 0).
        value_scale: for ``divided`` targets; None: the largest absolute value in the data.

    Raises:
        InvalidInputError: a value is out of its range.
    """

    hidden: tuple[int, ...]
    last_bias: bool
    targets: Literal["standardised", "divided"]
    learning_rate: float
    steps: int
    batch: int
    validation: float
    feature_scale: tuple[float, ...] | None = None
    value_scale: float | None = None

    def __post_init__(self) -> None:
        if self.targets not in ("standardised", "divided"):
            raise InvalidInputError(
                f"targets are standardised or divided, but got {self.targets!r}."
            )
        for name, count in (
            ("steps", self.steps),
            ("batch", self.batch),
            ("the width of a hidden layer", min(self.hidden, default=1)),
        ):
            if count < 1:
                raise InvalidInputError(f"{name} is at least 1, but got {count}.")
        if not 0 <= self.validation < 1:
            raise InvalidInputError(
                f"validation is a share from 0 to below 1, but got {self.validation}."
            )
        scales = [*(self.feature_scale or ()), self.value_scale or 1.0, self.learning_rate]
        if not all(0 < scale < np.inf for scale in scales):
            raise InvalidInputError(
                f"scales and the learning rate are above 0 and finite, but got {scales}."
            )


OFA = MLPSettings(
    hidden=(400, 400, 400),
    last_bias=False,
    targets="standardised",
    learning_rate=1e-3,
    steps=2000,
    batch=256,
    validation=0.2,
)
"""Once-for-All's: three hidden layers of 400, an output without bias on top of the mean of the
targets, batches of 256, and a fifth held out. Optimiser, learning rate and length are not
published: Adam, 1e-3 and 2,000 steps are ours, and so is keeping the weights that are best on the
held-out fifth, looked at 100 times."""

HAT = MLPSettings(
    hidden=(400, 400, 400, 400),
    last_bias=True,
    targets="divided",
    learning_rate=1e-5,
    steps=5000,
    batch=128,
    validation=0.0,
)
"""HAT's, as its code is: a first layer and three more of 400, features and latency divided by
constants, Adam with 1e-5, 5,000 batches of 128. Its constants are near the largest values of its
data, which are the default here; it keeps the last weights."""


class MLPRegressor:
    """A perceptron that learns a value from features.

    Args:
        settings: `OFA`, `HAT` or a variant of them.
        seed: of the first weights, the batches and the validation part.
        threads: torch threads.
    """

    def __init__(self, settings: MLPSettings, *, seed: int = 0, threads: int = 1) -> None:
        if threads < 1:
            raise InvalidInputError(f"threads is at least 1, but got {threads}.")
        self.settings = settings
        self.seed = seed
        self.threads = threads
        self.network_: nn.Sequential | None = None
        self._divisors: Floats = np.ones(0)
        self._base, self._scale = 0.0, 1.0

    def fit(self, features: npt.ArrayLike, values: npt.ArrayLike) -> None:
        """Train a new perceptron.

        Args:
            features: shape (k, f), k at least 2.
            values: shape (k,), in any unit.

        Raises:
            InvalidInputError: the shapes do not fit, a number is not finite, or there are too few
                rows for the validation share.
        """
        settings = self.settings
        rows = _checked_features(features)
        targets = checked_values(values, len(rows), fewest=2)
        held_out = round(settings.validation * len(rows))
        if settings.validation and not 1 <= held_out < len(rows):
            raise InvalidInputError(
                f"a validation share of {settings.validation} of {len(rows)} rows leaves none to "
                "train on or to validate: give more, or set it to 0."
            )
        self._divisors = self._divisors_of(rows)
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(rows), generator=generator).numpy()
        own = targets[order[held_out:]]
        if settings.targets == "standardised":
            self._base, self._scale = float(own.mean()), float(own.std()) or 1.0
        else:
            self._base = 0.0
            self._scale = settings.value_scale or float(np.abs(own).max()) or 1.0
        inputs = torch.from_numpy((rows / self._divisors)[order]).float()
        wanted = torch.from_numpy((targets[order] - self._base) / self._scale).float()
        with torch_threads(self.threads):
            self.network_ = _new(rows.shape[1], settings, generator)
            _train(
                self.network_,
                settings,
                (inputs[held_out:], wanted[held_out:]),
                (inputs[:held_out], wanted[:held_out]),
                generator,
            )

    def predict(self, features: npt.ArrayLike) -> Floats:
        """The value of each row, shape (k,), in the unit of the values that were learnt.

        Raises:
            InvalidInputError: the features have another shape, are not finite, or nothing was
                fitted yet.
        """
        if self.network_ is None:
            raise InvalidInputError("a predictor predicts after fit(), but nothing was fitted yet.")
        rows = _checked_features(features)
        if rows.shape[1] != len(self._divisors):
            raise InvalidInputError(
                f"what was fitted has {len(self._divisors)} features, but got {rows.shape[1]}."
            )
        inputs = torch.from_numpy(rows / self._divisors).float()
        with torch_threads(self.threads), torch.no_grad():
            outputs: Floats = self.network_(inputs)[:, 0].double().numpy()
        return self._base + self._scale * outputs

    def _divisors_of(self, rows: Floats) -> Floats:
        given = self.settings.feature_scale
        if given is None:
            largest = np.abs(rows).max(axis=0)
            return np.where(largest > 0, largest, 1.0)
        if len(given) != rows.shape[1]:
            raise InvalidInputError(
                f"feature_scale has one number a feature, but got {len(given)} for "
                f"{rows.shape[1]} features."
            )
        return np.array(given, dtype=np.float64)


def one_hot(space: SearchSpace, networks: npt.ArrayLike) -> Floats:
    """Networks as features, shape (k, num_blocks): 1 where a block is chosen.

    Blocks that a depth rule calls absent have 0 even where they are chosen.

    Raises:
        InvalidInputError: a network is not of the space.
    """
    chosen = space.check_many(networks)
    features = np.zeros((len(chosen), space.num_blocks))
    np.put_along_axis(features, chosen + space.offsets[:-1], 1.0, axis=1)
    for rule in space.depth_rules:
        features[:, space.offsets[list(rule.nodes)] + np.array(rule.absent)] = 0.0
    return features


class MLPPredictor:
    """A perceptron that reads networks.

    Once-for-All encodes a layer's kernel and expansion apart; one-hot, one block has one input,
    which any space can give.

    Args:
        space: whose networks are read.
        regressor: what learns from the encoded networks; one that was fitted on the same features
            elsewhere predicts at once.
        read: how networks become features, shape (k, f).
    """

    def __init__(self, space: SearchSpace, regressor: MLPRegressor, read: Read = one_hot) -> None:
        self.space = space
        self.regressor = regressor
        self.read = read

    def fit(self, networks: npt.ArrayLike, values: npt.ArrayLike) -> None:
        """Train a new perceptron; see `Predictor.fit`. k is at least 2."""
        known, targets = checked_evaluations(self.space, networks, values, fewest=2)
        self.regressor.fit(self.read(self.space, known), targets)

    def predict(self, networks: npt.ArrayLike) -> Floats:
        """The values of networks; see `Predictor.predict`."""
        return self.regressor.predict(self.read(self.space, networks))


def ofa_predictor(space: SearchSpace, *, seed: int = 0) -> MLPPredictor:
    """Once-for-All's accuracy predictor for a space, trained as `OFA` says."""
    return MLPPredictor(space, MLPRegressor(OFA, seed=seed))


def hat_predictor(space: SearchSpace, *, seed: int = 0) -> MLPPredictor:
    """HAT's latency predictor for a space, trained as `HAT` says, on one-hot blocks.

    HAT itself reads ten averages of a transformer: see `hat_latency_predictor`.
    """
    return MLPPredictor(space, MLPRegressor(HAT, seed=seed))


def hat_latency_predictor(
    space: SearchSpace, *, value_scale: float | None = None, seed: int = 0
) -> MLPPredictor:
    """HAT's latency predictor as HAT has it: on `hat_features` divided by HAT's constants.

    Its ``regressor`` also learns from the rows of `mathnas.datasets.hat`, which have these features
    and no networks; then the predictor serves networks without another fit.

    Args:
        space: a `mathnas.spaces.SuperTransformer`.
        value_scale: what latencies are divided by; HAT takes 5,000 ms for a Raspberry Pi, 300 for a
            Xeon and 200 for a TITAN Xp; by default the largest value that is learnt.
    """
    settings = replace(HAT, feature_scale=tuple(HAT_FEATURES.values()), value_scale=value_scale)
    return MLPPredictor(space, MLPRegressor(settings, seed=seed), hat_features)


def _checked_features(features: npt.ArrayLike) -> Floats:
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise InvalidInputError(f"features have shape (k, f), but got {rows.shape}.")
    if not np.isfinite(rows).all():
        bad = int(np.argmin(np.isfinite(rows).all(axis=1)))
        raise InvalidInputError(f"features are finite, but row {bad} is {rows[bad]}.")
    return rows


def _new(features: int, settings: MLPSettings, generator: torch.Generator) -> nn.Sequential:
    """Layers whose first weights come from `generator`, spread as torch spreads them."""
    sizes = [features, *settings.hidden, 1]
    layers: list[nn.Module] = []
    for place, (before, behind) in enumerate(pairwise(sizes)):
        last = place == len(sizes) - 2
        layer = nn.Linear(before, behind, bias=settings.last_bias or not last)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.uniform_(-(before**-0.5), before**-0.5, generator=generator)
        layers += [layer] if last else [layer, nn.ReLU()]
    return nn.Sequential(*layers)


def _train(
    network: nn.Sequential,
    settings: MLPSettings,
    trained: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> None:
    """Train on features and targets; the held-out ones, where there are any, choose the weights."""
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True)
    every = max(1, settings.steps // _CHECKS)
    best, kept = np.inf, None
    batches = _batches(len(trained[0]), settings.batch, settings.steps, generator)
    for step, batch in enumerate(batches, start=1):
        loss = functional.mse_loss(network(trained[0][batch])[:, 0], trained[1][batch])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if len(held_out[0]) and (step % every == 0 or step == settings.steps):
            with torch.no_grad():
                error = float(functional.mse_loss(network(held_out[0])[:, 0], held_out[1]))
            if error < best:
                best = error
                kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    if kept is not None:
        network.load_state_dict(kept)


def _batches(rows: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`steps` batches; the rows stand in a new order whenever too few for a batch are left."""
    size = min(size, rows)
    order, used = torch.randperm(rows, generator=generator), 0
    for _ in range(steps):
        if used + size > rows:
            order, used = torch.randperm(rows, generator=generator), 0
        yield order[used : used + size]
        used += size
