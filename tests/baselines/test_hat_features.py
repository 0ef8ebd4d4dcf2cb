"""HAT's ten averages: as in its data, and blind to which layer has which choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from baselines_cases import small_space
from hypothesis import given
from hypothesis import strategies as st

from mathnas import datasets
from mathnas.baselines import HAT_FEATURES, Predictor, hat_features
from mathnas.errors import InvalidInputError
from mathnas.space import Floats, Network
from mathnas.spaces import SuperTransformer

SPACE = SuperTransformer()
PUBLISHED = SPACE.from_config(  # raspberrypi@5.0s
    encoder_ffn_embed_dim=[3072, 3072, 3072, 2048, 3072, 3072],
    encoder_self_attention_heads=[8, 8, 8, 8, 8, 4],
    decoder_layer_num=3,
    decoder_ffn_embed_dim=[1024, 2048, 3072],
    decoder_self_attention_heads=[4, 8, 8],
    decoder_ende_attention_heads=[4, 8, 8],
    decoder_arbitrary_ende_attn=[-1, 1, -1],
)


def test_features_are_averages_over_layers_that_are_present() -> None:
    row = dict(zip(HAT_FEATURES, hat_features(SPACE, [PUBLISHED])[0].tolist(), strict=True))
    assert row == {
        "encoder_embed_dim": 512,
        "encoder_layer_num": 6,
        "encoder_ffn_embed_dim_avg": 17408 / 6,
        "encoder_self_attention_heads_avg": 44 / 6,
        "decoder_embed_dim": 512,
        "decoder_layer_num": 3,
        "decoder_ffn_embed_dim_avg": 2048,
        "decoder_self_attention_heads_avg": 20 / 3,
        "decoder_ende_attention_heads_avg": 20 / 3,
        "decoder_arbitrary_ende_attn_avg": 4 / 3,
    }


@pytest.mark.parametrize(("attention", "counted"), [(-1, 1), (1, 2), (2, 3)])
def test_attention_counts_as_the_layers_it_is_to(attention: int, counted: int) -> None:
    network = ["f1024_h4"] * 6 + [f"f1024_s4_c4_a{attention}"] * 2 + ["absent"] * 4
    assert hat_features(SPACE, [SPACE.check(network)])[0, -1] == counted


def test_widths_are_those_of_the_space() -> None:
    wide = SuperTransformer(640, 512)
    assert hat_features(wide, wide.sample(3))[:, [0, 4]].tolist() == [[640, 512]] * 3
    assert hat_features(wide, np.empty((0, 12), dtype=int)).shape == (0, 10)


def test_features_are_columns_of_the_data(require: Callable[..., Path]) -> None:
    for name in datasets.hat_names():
        require("hat", f"{name}_all.csv")
        table = datasets.hat(name)
        assert table.feature_names == tuple(HAT_FEATURES)
        attended = table.column("decoder_arbitrary_ende_attn_avg")
        assert (attended.min(), attended.max()) == (1, 3)
        # averages over layers that are present: times their number, sums of choices
        for part in ("encoder", "decoder"):
            layers = table.column(f"{part}_layer_num")
            sums = table.column(f"{part}_ffn_embed_dim_avg") * layers / 256
            assert np.abs(sums - sums.round()).max() < 1e-9
    space = SuperTransformer()
    ours = hat_features(space, space.sample(500, seed=0))
    low, high = table.features.min(axis=0), table.features.max(axis=0)
    varied = [1, 5, 9]  # the data's other columns are of a wider space, IWSLT's have other widths
    assert (ours[:, varied] >= low[varied]).all()
    assert (ours[:, varied] <= high[varied]).all()


@given(st.integers(0, 2**32 - 1))
def test_they_cannot_tell_which_layer_changed(seed: int) -> None:
    """Exchanging layers changes nothing, to the bit."""
    rng = np.random.default_rng(seed)
    (network,) = SPACE.sample(1, seed=seed, distinct=False)
    depth = SPACE.to_config(network)["decoder_layer_num"]
    encoder, decoder = np.array(network[:6]), np.array(network[6 : 6 + depth])
    exchanged = [*rng.permutation(encoder), *rng.permutation(decoder), *network[6 + depth :]]
    one, other = hat_features(SPACE, [network, exchanged])
    assert one.tolist() == other.tolist()


def test_other_spaces_have_none() -> None:
    with pytest.raises(InvalidInputError, match="those of a SuperTransformer, but small is none"):
        hat_features(small_space(), [(0, 0, 0)])


# ---- the predictor -------------------------------------------------------------------------------


def latency(networks: list[Network]) -> Floats:
    """Layers count the more, the later they are, which averages cannot tell."""
    blocks = SPACE.check_many(networks)
    weights = np.arange(1, 13)
    present = np.where(blocks == 36, -5, blocks)
    found: Floats = np.asarray(100.0 + present @ weights, dtype=np.float64)
    return found


def test_the_predictor_gives_every_layer_the_same_effect() -> None:
    mlp = pytest.importorskip("mathnas.baselines.mlp")
    predictor = mlp.hat_latency_predictor(SPACE, value_scale=200.0, seed=1)
    settings = predictor.regressor.settings
    assert settings.feature_scale == (640, 6, 2048, 6, 640, 6, 2048, 6, 6, 2)
    assert settings == replace(mlp.HAT, feature_scale=settings.feature_scale, value_scale=200.0)
    as_predictor: object = predictor
    assert isinstance(as_predictor, Predictor)
    predictor.regressor.settings = replace(settings, hidden=(32, 32), steps=300, learning_rate=1e-3)
    known = SPACE.sample(200, seed=0)
    predictor.fit(SPACE.check_many(known), latency(known))
    average = SPACE.average_macs_network()
    for nodes, block in ((range(6), 5), (range(6, 12), 35)):
        switched = [SPACE.with_block(average, node, block) for node in nodes]
        assert len(set(latency(switched).tolist())) == 6  # in truth they differ
        assert len(set(predictor.predict(SPACE.check_many(switched)).tolist())) == 1


def test_rows_without_networks_teach_the_predictor() -> None:
    mlp = pytest.importorskip("mathnas.baselines.mlp")
    settings = replace(mlp.HAT, hidden=(32, 32), steps=400, learning_rate=1e-3)
    known = SPACE.sample(300, seed=0)
    rows = hat_features(SPACE, known)
    rows[:, 5] = np.random.default_rng(0).integers(1, 7, len(rows))  # shallow ones are rare
    values = 20 + 50 * rows[:, 5] + rows[:, 2] / 100
    regressor = mlp.MLPRegressor(settings)
    regressor.fit(rows, values)
    predictor = mlp.MLPPredictor(SPACE, regressor, hat_features)
    own = regressor.predict(hat_features(SPACE, known))
    np.testing.assert_array_equal(predictor.predict(known), own)
    gone = len(SPACE.decoder_choices)
    average = SPACE.average_macs_network()
    depths = [(*average[: 6 + depth], *(gone,) * (6 - depth)) for depth in range(1, 7)]
    predicted = predictor.predict(depths)
    assert (np.diff(predicted) > 20).all()  # 50 a layer
