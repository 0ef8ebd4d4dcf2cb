"""Perceptrons: what they read, what they learn, what they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from baselines_cases import additive, chain_space, optional_space, small_space
from torch import nn

from mathnas.baselines import Predictor
from mathnas.baselines.mlp import (
    HAT,
    OFA,
    MLPPredictor,
    MLPRegressor,
    hat_predictor,
    ofa_predictor,
    one_hot,
)
from mathnas.errors import InvalidInputError

SHORT = replace(OFA, hidden=(32, 32), steps=400, batch=64)


def layers(regressor: MLPRegressor) -> list[nn.Linear]:
    assert regressor.network_ is not None
    return [layer for layer in regressor.network_ if isinstance(layer, nn.Linear)]


def test_networks_are_read_one_hot() -> None:
    features = one_hot(small_space(), [(0, 2, 1), (1, 0, 0)])
    assert features.tolist() == [[1, 0, 0, 0, 1, 0, 1], [0, 1, 1, 0, 0, 1, 0]]


def test_an_absent_block_is_all_zeros() -> None:
    features = one_hot(optional_space(), [(1, 0), (1, 1)])
    assert features.tolist() == [[0, 1, 1, 0], [0, 1, 0, 0]]


def test_the_published_shapes() -> None:
    space, known = small_space(), small_space().all_networks()
    values = additive(space, known)
    for predictor, hidden, bias in (
        (MLPPredictor(space, MLPRegressor(replace(OFA, steps=1))), [400] * 3, False),
        (MLPPredictor(space, MLPRegressor(replace(HAT, steps=1))), [400] * 4, True),
    ):
        predictor.fit(known, values)
        made = layers(predictor.regressor)
        assert [layer.out_features for layer in made] == [*hidden, 1]
        assert (made[-1].bias is not None) == bias
        assert isinstance(predictor, Predictor)
    assert ofa_predictor(space).regressor.settings is OFA
    assert hat_predictor(space).regressor.settings is HAT


def test_an_additive_function_is_learnt() -> None:
    space = chain_space(6, 4)
    networks = space.check_many(space.sample(600, seed=0))
    values = 70 + 0.5 * additive(space, networks)
    predictor = MLPPredictor(space, MLPRegressor(replace(SHORT, steps=1500)))
    predictor.fit(networks[:400], values[:400])
    error = predictor.predict(networks[400:]) - values[400:]
    assert np.sqrt((error**2).mean()) < 0.2 * values.std()


def test_plain_features_are_learnt_on_their_scale() -> None:
    rng = np.random.default_rng(0)
    features = rng.integers(1, 5, (400, 3)) * np.array([1000.0, 1.0, 0.01])
    values = features[:, 0] / 10 + 50 * features[:, 1] + 100
    regressor = MLPRegressor(replace(HAT, hidden=(32, 32), learning_rate=1e-3, steps=2000))
    regressor.fit(features, values)
    assert np.abs(regressor.predict(features) / values - 1).mean() < 0.05


def test_the_base_is_the_mean_of_what_was_trained_on() -> None:
    """Without a step, an output without bias adds little to it."""
    space, known = small_space(), small_space().all_networks()
    regressor = MLPRegressor(replace(SHORT, steps=1, learning_rate=1e-12, validation=0.0))
    predictor = MLPPredictor(space, regressor)
    values = 70 + additive(space, known)
    predictor.fit(known, values)
    layers(regressor)[-1].weight.data.zero_()
    np.testing.assert_allclose(predictor.predict(known), values.mean())


def test_equal_values_are_predicted() -> None:
    space, known = small_space(), small_space().all_networks()
    predictor = MLPPredictor(space, MLPRegressor(SHORT))
    predictor.fit(known, np.full(len(known), 3.0))
    np.testing.assert_allclose(predictor.predict(known), 3.0, atol=0.1)


def test_the_seed_determines_everything() -> None:
    space, known = small_space(), small_space().all_networks()
    values = additive(space, known)

    def predicted(seed: int, torch_seed: int) -> list[float]:
        torch.manual_seed(torch_seed)
        predictor = MLPPredictor(space, MLPRegressor(replace(SHORT, steps=20), seed=seed))
        predictor.fit(known, values)
        predictor.fit(known, values)
        found: list[float] = predictor.predict(known).tolist()
        return found

    assert predicted(0, 0) == predicted(0, 1)
    assert predicted(0, 0) != predicted(1, 0)


def test_bad_input_is_refused() -> None:
    space, known = small_space(), small_space().all_networks()
    predictor = ofa_predictor(space)
    with pytest.raises(InvalidInputError, match=r"after fit\(\), but nothing was fitted"):
        predictor.predict(known)
    with pytest.raises(InvalidInputError, match="one value for each of 12 networks"):
        predictor.fit(known, np.zeros(3))
    with pytest.raises(InvalidInputError, match="at least 2 networks, but got 1"):
        predictor.fit(known[:1], np.zeros(1))
    with pytest.raises(InvalidInputError, match=r"validation share of 0\.2 of 2 rows"):
        predictor.fit(known[:2], np.zeros(2))
    regressor = MLPRegressor(replace(SHORT, steps=1))
    with pytest.raises(InvalidInputError, match="features are finite, but row 1"):
        regressor.fit([[1.0], [np.inf]], [1.0, 2.0])
    with pytest.raises(InvalidInputError, match=r"features have shape \(k, f\), but got"):
        regressor.fit(np.zeros(3), np.zeros(3))
    regressor.fit(np.zeros((9, 2)), np.zeros(9))
    with pytest.raises(InvalidInputError, match="fitted has 2 features, but got 3"):
        regressor.predict(np.zeros((1, 3)))
    with pytest.raises(InvalidInputError, match="one number a feature, but got 1 for 2"):
        MLPRegressor(replace(SHORT, feature_scale=(1.0,))).fit(np.zeros((9, 2)), np.zeros(9))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="steps is at least 1, but got 0"):
        replace(OFA, steps=0)
    with pytest.raises(InvalidInputError, match="validation is a share"):
        replace(OFA, validation=1.0)
    with pytest.raises(InvalidInputError, match="targets are standardised or divided, but got"):
        replace(OFA, targets="raw")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="scales and the learning rate are above 0"):
        replace(HAT, feature_scale=(0.0,))
    with pytest.raises(InvalidInputError, match="threads is at least 1, but got 0"):
        MLPRegressor(OFA, threads=0)
