"""HAT's SuperTransformer: numbers, costs of published networks, codes, genes, depth in the search.

Figures with FLOPs are HAT's, which are 2 x MACs.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mathnas as mn
from mathnas.errors import InvalidInputError
from mathnas.metrics import Floats, metric_named
from mathnas.search import program as programs
from mathnas.space import Network, SearchSpace
from mathnas.spaces import SuperTransformer, named, restore
from mathnas.spaces.supertransformer import DecoderChoice, EncoderChoice
from mathnas.testing import SpaceContract

SPACE = SuperTransformer()
WIDE = SuperTransformer(640, 640)
METRICS = ("bleu", "latency_ms", "energy_mj")


def genes(**own: Any) -> dict[str, Any]:
    """Genes by HAT's names from short ones: e of the encoder, d of the decoder."""
    names = {
        "e_ffn": "encoder_ffn_embed_dim",
        "e_heads": "encoder_self_attention_heads",
        "layers": "decoder_layer_num",
        "d_ffn": "decoder_ffn_embed_dim",
        "d_self": "decoder_self_attention_heads",
        "d_cross": "decoder_ende_attention_heads",
        "d_attention": "decoder_arbitrary_ende_attn",
    }
    return {names[key]: value for key, value in own.items()}


# space, genes, parameters in M, FLOPs in G
PUBLISHED = {
    "raspberrypi@3.5s": (
        SPACE,
        genes(
            e_ffn=[1024, 3072, 3072, 2048, 2048, 2048],
            e_heads=[4, 8, 4, 4, 4, 8],
            layers=1,
            d_ffn=[3072],
            d_self=[8],
            d_cross=[8],
            d_attention=[-1],
        ),
        25.218,
        1.525,
    ),
    "raspberrypi@6.9s": (
        SPACE,
        genes(
            e_ffn=[3072] * 6,
            e_heads=[8, 4, 8, 8, 8, 8],
            layers=5,
            d_ffn=[2048, 2048, 3072, 3072, 2048],
            d_self=[8, 8, 8, 4, 8],
            d_cross=[4, 8, 8, 8, 8],
            d_attention=[-1, 1, 1, 1, -1],
        ),
        48.331,
        3.023,
    ),
    "xeon@450.9ms": (
        SPACE,
        genes(
            e_ffn=[3072] * 6,
            e_heads=[4, 4, 8, 8, 8, 4],
            layers=6,
            d_ffn=[3072] * 6,
            d_self=[8, 8, 8, 4, 4, 4],
            d_cross=[4, 8, 8, 8, 8, 8],
            d_attention=[-1, 1, 1, 1, -1, -1],
        ),
        56.734,
        3.530,
    ),
    "titanxp@146.7ms": (
        WIDE,
        genes(
            e_ffn=[3072] * 6,
            e_heads=[4, 8, 8, 8, 4, 4],
            layers=3,
            d_ffn=[3072] * 3,
            d_self=[8] * 3,
            d_cross=[4, 8, 8],
            d_attention=[-1, 1, 1],
        ),
        51.204,
        3.172,
    ),
}


def params(space: SuperTransformer, network: Network) -> float:
    assert space.block_params is not None
    assert space.fixed_params == 0
    return float(space.block_params[space.offsets[:-1] + list(network)].sum())


def gflops(space: SuperTransformer, network: Network) -> float:
    return 2 * float(space.macs([network])[0]) / 1e9


@pytest.mark.parametrize("name", PUBLISHED)
def test_costs_of_published_networks(name: str) -> None:
    space, config, parameters, flops = PUBLISHED[name]
    network = space.from_config(**config)
    assert round(params(space, network) / 1e6, 3) == parameters
    assert round(gflops(space, network), 3) == flops
    assert space.to_config(network) == config


def test_costs_of_the_extremes() -> None:
    smallest, largest = (0,) * 7 + (36,) * 5, (5,) * 6 + (35,) * 6
    assert round(params(WIDE, largest) / 1e6, 3) == 70.901
    assert round(params(SPACE, largest) / 1e6, 3) == 56.734
    assert round(gflops(SPACE, largest), 3) == 3.830
    assert round(params(SPACE, smallest) / 1e6, 3) == 15.771
    assert round(gflops(SPACE, smallest), 3) == 0.958


def test_flops_of_layers() -> None:
    encoder = [127.672, 190.587, 253.501]
    decoder = [
        [192.430, 255.345, 318.259],
        [225.731, 288.645, 351.560],
        [259.031, 321.946, 384.860],
    ]
    assert SPACE.block_macs is not None
    flops = [(2 * own / 1e6).round(3) for own in np.split(SPACE.block_macs, SPACE.offsets[1:-1])]
    for node in flops[:6]:
        assert node.tolist() == np.repeat(encoder, 2).tolist()  # heads cost nothing
    for node in flops[6:]:
        assert node[:36].reshape(3, 4, 3).tolist() == [[row] * 4 for row in decoder]
        assert node[36:].tolist() == [0.0] * (len(node) - 36)


@pytest.mark.parametrize(
    ("parameters", "flops"),
    [
        *[(28.37, 1.713), (34.68, 2.132), (44.13, 2.805)],  # Raspberry Pi
        *[(29.42, 1.843), (38.88, 2.387), (44.13, 2.838)],  # Xeon
        *[(32.57, 2.035), (40.98, 2.579)],  # TITAN Xp, whose first is the Xeon's
    ],
)
def test_published_results_of_mathnas_are_costs_of_networks(
    parameters: float, flops: float
) -> None:
    """What fits both figures: few of all the sums of widths, depths and attended layers."""
    assert SPACE.block_macs is not None
    assert SPACE.block_params is not None
    macs, own = (np.split(v, SPACE.offsets[1:-1]) for v in (SPACE.block_macs, SPACE.block_params))
    wider = (macs[0][2] - macs[0][0], own[0][2] - own[0][0])
    assert wider == (macs[6][1] - macs[6][0], own[6][1] - own[6][0])
    attended = (macs[6][12] - macs[6][0], own[6][12] - own[6][0])
    assert attended[1] == 0
    matches = 0
    for depth in range(1, 7):
        base = [6 * v[0][0] + depth * v[6][0] for v in (macs, own)]
        for wide in range(2 * (6 + depth) + 1):
            if round((base[1] + wide * wider[1]) / 1e6, 2) == parameters:
                for more in range(2 * depth + 1):
                    total = 2 * (base[0] + wide * wider[0] + more * attended[0])
                    matches += round(total / 1e9, 3) == flops
    assert 1 <= matches <= 2


def test_numbers_of_the_space() -> None:
    assert SPACE.num_networks == 104_461_669_668_096
    assert SPACE.num_nodes == 12
    assert SPACE.sizes == (6,) * 6 + (36,) + (37,) * 5
    assert (SPACE.fixed_macs, SPACE.fixed_params) == (0, 0)
    embeds = [SuperTransformer(e, d).num_networks for e in (512, 640) for d in (512, 640)]
    assert sum(embeds) == 417_846_678_672_384


def test_the_average_network_is_that_of_mathnas() -> None:
    assert SPACE.average_macs_network() == (2,) * 6 + (13,) * 6
    assert SPACE.reference == SPACE.average_macs_network()
    assert SPACE.block_names(SPACE.reference) == ("f2048_h4",) * 6 + ("f2048_s4_c4_a1",) * 6


def test_codes_are_block_indices() -> None:
    for place, choice in enumerate(SPACE.encoder_choices):
        assert place == 2 * (choice.ffn // 1024 - 1) + (choice.heads // 4 - 1)
        assert SPACE.encoder_choice(place) == choice
    for place, own in enumerate(SPACE.decoder_choices):
        attended = (-1, 1, 2).index(own.attention)
        heads = 6 * (own.cross_heads // 4 - 1) + 3 * (own.self_heads // 4 - 1)
        assert place == 12 * attended + heads + own.ffn // 1024 - 1
        assert SPACE.decoder_choice(place) == own
    assert SPACE.encoder_choice(3) == EncoderChoice(ffn=2048, heads=8)
    assert SPACE.decoder_choice(7) == DecoderChoice(2048, 4, 8, -1)
    assert SPACE.decoder_choice(36) is None
    assert SPACE.nodes[6].blocks[7].name == "f2048_s4_c8_a-1"
    assert SPACE.nodes[7].blocks[36].name == "absent"


def test_costs_follow_from_lengths_and_widths() -> None:
    """Written again, layer by layer: a matrix has rows x columns, and meets a number of tokens."""
    space = SuperTransformer(96, 48, (64, 160), (2,), (-1, 2), 3, 2, 32, source=7, target=5)
    assert space.block_macs is not None
    assert space.block_params is not None
    encoder = {64: (7, 96, 64), 160: (7, 96, 160)}
    for block, choice in enumerate(space.encoder_choices):
        tokens, embed, width = encoder[choice.ffn]
        matrices = [(embed, 32)] * 3 + [(32, embed), (embed, width), (width, embed)]
        macs = tokens * sum(a * b for a, b in matrices) + 2 * tokens * tokens * 32
        weights = sum(a * b + b for a, b in matrices) + 2 * 2 * embed
        assert (space.block_macs[block], space.block_params[block]) == (macs, weights)
    for block, own in enumerate(space.decoder_choices, start=int(space.offsets[3])):
        keys = 7 * {-1: 1, 2: 3}[own.attention]
        target = [(48, 32)] * 3 + [(32, 48), (48, 32), (32, 48), (48, own.ffn), (own.ffn, 48)]
        source = [(96, 32)] * 2
        macs = 5 * sum(a * b for a, b in target) + keys * sum(a * b for a, b in source)
        macs += 2 * 5 * 5 * 32 + 2 * 5 * keys * 32
        weights = sum(a * b + b for a, b in target + source) + 3 * 2 * 48
        assert (space.block_macs[block], space.block_params[block]) == (macs, weights)


# ---- genes ---------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
def test_genes_round_trip(seed: int) -> None:
    (network,) = SPACE.sample(1, seed=seed, distinct=False)
    config = SPACE.to_config(network)
    assert SPACE.from_config(**config) == network
    assert len(config["decoder_ffn_embed_dim"]) == config["decoder_layer_num"]


def test_genes_beyond_the_depth_are_ignored() -> None:
    config = PUBLISHED["raspberrypi@3.5s"][1]
    longer: dict[str, Any] = {
        key: [*value, *[0] * 5] if key.startswith("decoder") and isinstance(value, list) else value
        for key, value in config.items()
    }
    assert SPACE.from_config(**longer) == SPACE.from_config(**config)


def test_every_published_network_is_of_a_space(require: Callable[..., Path]) -> None:
    text = require("hat", "hat_published_subtransformers.csv").read_text(encoding="utf-8")
    small = {"ffn": (512, 1024, 2048), "heads": (2, 4), "source": 23, "target": 23}
    count = 0
    for row in csv.DictReader(text.splitlines()):
        get = {key.removesuffix("-subtransformer"): value for key, value in row.items()}
        space = SuperTransformer(
            int(get["encoder-embed-dim"]),
            int(get["decoder-embed-dim"]),
            **(small if row["task"].startswith("iwslt") else {}),  # type: ignore[arg-type]
        )
        config = genes(
            e_ffn=json.loads(get["encoder-ffn-embed-dim-all"]),
            e_heads=json.loads(get["encoder-self-attention-heads-all"]),
            layers=int(get["decoder-layer-num"]),
            d_ffn=json.loads(get["decoder-ffn-embed-dim-all"]),
            d_self=json.loads(get["decoder-self-attention-heads-all"]),
            d_cross=json.loads(get["decoder-ende-attention-heads-all"]),
            d_attention=json.loads(get["decoder-arbitrary-ende-attn-all"]),
        )
        assert space.to_config(space.from_config(**config)) == config
        count += 1
    assert count == 44


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_layer_num": 0}, "1 to 6 decoder layers .* got 0"),
        ({"decoder_layer_num": 7}, "1 to 6 decoder layers .* got 7"),
        ({"decoder_layer_num": 2}, "decoder_ffn_embed_dim has .* 2 to 6 of them, but got 1"),
        ({"encoder_ffn_embed_dim": [1024] * 5}, "one entry a layer, 6 of them, but got 5"),
        ({"encoder_self_attention_heads": [4] * 7}, "6 of them, but got 7"),
        ({"encoder_self_attention_heads": [4] * 5 + [2]}, "encoder layer 6 got 1024 and 2"),
        ({"decoder_arbitrary_ende_attn": [3]}, "decoder layer 1 got 1024, 4, 4 and 3"),
        ({"decoder_ffn_embed_dim": [512]}, "decoder layer 1 got 512"),
    ],
)
def test_wrong_genes(change: dict[str, Any], message: str) -> None:
    config: dict[str, Any] = {**SPACE.to_config((0,) * 7 + (36,) * 5), **change}
    with pytest.raises(InvalidInputError, match=message):
        SPACE.from_config(**config)


# ---- variants ------------------------------------------------------------------------------------

SMALL = SuperTransformer(128, 256, (256, 512), (2, 4), (-1, 1), 2, 3, 128, 10, 12)


def test_variants_by_name_and_from_files() -> None:
    assert SPACE.name == "supertransformer:encoder_embed=512,decoder_embed=512"
    one = SuperTransformer(attention=(-1,), decoder_layers=1)
    for space in (SPACE, WIDE, SMALL, one):
        assert named(space.name) == space
        restored = restore(json.loads(json.dumps(space.to_dict())))
        assert isinstance(restored, SuperTransformer)
        assert restored == space
    assert named("supertransformer:640,decoder_embed=640") == WIDE
    assert named("supertransformer:ffn=1024,heads=8").num_networks == sum(3**d for d in range(1, 7))
    assert not one.depth_rules
    assert one.num_networks == 6**6 * 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"encoder_embed": 0},
            "1 to 65536 channels of the encoder's embedding, as an integer, but got 0",
        ),
        ({"decoder_embed": 511}, "width is even, but the decoder's is 511: take 512"),
        ({"ffn": ()}, r"widths of feed-forward networks are listed, .* got \(\)"),
        ({"ffn": 1024}, "are listed, as .* but got 1024"),
        ({"ffn": (2048, 1024)}, "ascending order"),
        ({"heads": (4, 4)}, "once each"),
        ({"heads": (3, 4)}, "3 heads do not divide 512"),
        ({"heads": (-4, 4)}, "heads of an attention, .* got -4"),
        ({"attention": ()}, r"attention is \(\)"),
        ({"attention": -1}, "listed once each .* attention is -1"),
        ({"attention": (1, -1)}, "in this order"),
        ({"attention": (-1, 3)}, r"attention is \(-1, 3\)"),
        ({"encoder_layers": 2}, "attention 2 means 3 of 2"),
        ({"ffn": (1024, 70_000)}, "1 to 65536 channels of a feed-forward network, .* got 70000"),
        ({"encoder_layers": 101}, "1 to 100 encoder layers"),
        ({"decoder_layers": 0}, "1 to 100 decoder layers, .* got 0"),
        ({"projection": 1.5}, "channels of queries, keys and values, as an integer, but got 1.5"),
        ({"source": 0}, "tokens of the source sentence"),
        ({"target": True}, "tokens of the target sentence, .* got True"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        SuperTransformer(**arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("supertransformer:ffn=1024/2048", "ffn got '1024/2048'"),
        ("supertransformer:heads=8+4", "ascending order"),
    ],
)
def test_wrong_names(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        named(text)


class TestSuperTransformer(SpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return SPACE


class TestSmallSuperTransformer(SpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return SuperTransformer(128, 128, (256, 512), (2,), (-1, 1), 2, 4, 128)


# ---- depth in the search -------------------------------------------------------------------------


def random_table(space: SearchSpace, seed: int) -> mn.BlockTable:
    """BLEU, latency and energy of random blocks; an absent layer costs and brings the least."""
    rng = np.random.default_rng(seed)
    columns = {}
    for name in METRICS:
        values = rng.random(space.num_blocks) + 0.5
        for rule in space.depth_rules:
            for node, absent in zip(rule.nodes, rule.absent, strict=True):
                values[space.offsets[node] + absent] = 0.3 * rng.random()
        columns[name] = effects(space, name, values)
    return mn.BlockTable(space, space.reference, columns)


def effects(space: SearchSpace, name: str, values: Floats) -> mn.BlockEffects:
    own = values[space.offsets[:-1] + np.array(space.reference)]
    nothing = np.zeros(space.num_blocks)
    return mn.BlockEffects(
        metric_named(name), own.sum(), values - np.repeat(own, space.sizes), nothing, nothing
    )


@pytest.mark.parametrize("most", [100_000, 1], ids=["as candidates", "as rows"])
def test_searches_of_small_spaces_are_the_brute_force(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_MOST_CANDIDATES", most)
    programs.layout_of.cache_clear()
    small = SuperTransformer(64, 64, (64, 128), (2,), (-1, 1), 2, 5, 64)
    choices = np.array(list(itertools.product(*map(range, small.sizes))))
    gone = choices[:, 3:] == 4
    networks = choices[~(gone[:, :-1] & ~gone[:, 1:]).any(axis=1)]
    assert len(networks) == small.num_networks
    depths = set()
    for seed in range(25):
        table = random_table(small, seed)
        bleu, latency, energy = (table.predict(networks, name) for name in METRICS)
        shares = np.random.default_rng(seed).uniform(0.02, 0.6, 2)
        limits = {
            "latency_ms": float(np.quantile(latency, shares[0])),
            "energy_mj": float(np.quantile(energy, shares[1])),
        }
        within = (latency <= limits["latency_ms"]) & (energy <= limits["energy_mj"])
        answer = mn.search(table, maximize="bleu", limits=limits)
        assert isinstance(answer, mn.Answer) == within.any()
        if isinstance(answer, mn.Answer):
            assert answer.status is mn.Status.OPTIMAL
            assert small.check(answer.network) == answer.network  # no gap
            assert answer.value == pytest.approx(bleu[within].max(), abs=1e-9)
            depths.add(small.to_config(answer.network)["decoder_layer_num"])
    assert len(depths) > 1
    programs.layout_of.cache_clear()


def test_searches_of_the_whole_space_are_proven_optimal() -> None:
    for seed in range(60):
        table = random_table(SPACE, seed)
        rng = np.random.default_rng(seed)
        sample = SPACE.check_many(SPACE.sample(200, seed=seed))
        limits = {
            name: float(np.quantile(table.predict(sample, name), share)) * factor
            for name, share, factor in zip(
                ("latency_ms", "energy_mj"),
                rng.uniform(0, 1, 2),
                rng.uniform(0.6, 1, 2),
                strict=True,
            )
        }
        answer = mn.search(table, maximize="bleu", limits=limits)
        assert isinstance(answer, mn.Answer)
        assert answer.status is mn.Status.OPTIMAL
        assert SPACE.check(answer.network) == answer.network
        feasible = np.all(
            [table.predict(sample, name) <= value for name, value in limits.items()], axis=0
        )
        assert (table.predict(sample, "bleu")[feasible] <= answer.value + 1e-9).all()


def test_a_second_solver_confirms() -> None:
    for seed in range(5):
        table = random_table(SPACE, seed)
        limits = {"latency_ms": 7.0, "energy_mj": 8.0}
        answer = mn.search(table, maximize="bleu", limits=limits, verify=True)
        assert isinstance(answer, mn.Answer)
        assert answer.verified_by is not None
