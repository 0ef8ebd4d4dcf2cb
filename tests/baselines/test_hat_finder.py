"""HAT's evolution: genes, budget, limits on predicted costs, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mathnas as mn
from mathnas.baselines import ByMetric, Predictions, hat_search
from mathnas.baselines._genome import Genome, genome_of
from mathnas.metrics import Floats
from mathnas.search import fix
from mathnas.space import Indices
from mathnas.spaces import MobileNetV3, SuperTransformer
from mathnas.trials import Outcome

HAT = SuperTransformer()
SMALL = SuperTransformer(64, 64, (64, 128, 256), (2, 4), (-1, 1), 2, 2, 64)  # 21,600 networks
GAPPED = mn.SearchSpace(
    [mn.BlockNode(f"n{i}", tuple(mn.Block(f"b{j}") for j in range(3))) for i in range(4)],
    depth_rules=[mn.DepthRule((1, 2, 3), (1, 0, 2))],  # absent blocks stand anywhere
)


def random_table(seed: int, space: mn.SearchSpace = SMALL) -> mn.BlockTable:
    """BLEU and latency of random blocks; an absent layer brings and costs the least."""
    rng = np.random.default_rng(seed)
    columns = {}
    for name in ("bleu", "latency_ms"):
        values = rng.random(space.num_blocks) + 0.5
        for rule in space.depth_rules:
            for node, absent in zip(rule.nodes, rule.absent, strict=True):
                values[space.offsets[node] + absent] = 0.3 * rng.random()
        own = values[space.offsets[:-1] + np.array(space.reference)]
        nothing = np.zeros(space.num_blocks)
        columns[name] = mn.BlockEffects(
            mn.metric_named(name), own.sum(), values - np.repeat(own, space.sizes), nothing, nothing
        )
    return mn.BlockTable(space, space.reference, columns)


TABLE = random_table(0)
LIMIT = float(np.quantile(TABLE.predict(SMALL.all_networks(), "latency_ms"), 0.3))


def bleu_of(table: mn.BlockTable) -> mn.FunctionEvaluator:
    return mn.FunctionEvaluator(lambda n: table.exact(n, "bleu"), ["bleu"], noisy=False)


def searched(path: Path, table: mn.BlockTable = TABLE, **wanted: Any) -> tuple[Outcome, Indices]:
    """What is found in a new study, and what it holds, in the order of measurement."""
    with mn.Study(path, table.space) as study:
        found = hat_search(study, bleu_of(table), maximize="bleu", **wanted)
        return found, np.array([fact.network for fact in study.evaluations()])


# ---- genes ---------------------------------------------------------------------------------------


def test_genes_are_choices_of_layers_and_a_depth() -> None:
    """HAT's 40 genes without those of a fixed size: two embedding widths, encoder layers."""
    assert genome_of(HAT).sizes.tolist() == [3, 2] * 6 + [3, 2, 2, 3] * 6 + [6]
    assert Genome(HAT).sizes.tolist() == [6] * 6 + [36] * 6 + [6]
    assert genome_of(GAPPED).sizes.tolist() == [3, 2, 2, 2, 4]


@given(st.integers(0, 2**32 - 1))
def test_genes_say_what_each_layer_is(seed: int) -> None:
    genes = genome_of(HAT).drawn(1, np.random.default_rng(seed))
    config = HAT.to_config(tuple(genome_of(HAT).networks(genes)[0].tolist()))
    encoder, decoder, depth = np.split(genes[0], [12, 36])
    layers = int(depth[0]) + 1
    assert config["decoder_layer_num"] == layers
    width, heads, attention = np.array(HAT.ffn), np.array(HAT.heads), np.array(HAT.attention)
    assert config["encoder_ffn_embed_dim"] == width[encoder[::2]].tolist()
    assert config["encoder_self_attention_heads"] == heads[encoder[1::2]].tolist()
    own = decoder.reshape(6, 4)[:layers].T
    assert config["decoder_arbitrary_ende_attn"] == attention[own[0]].tolist()
    assert config["decoder_ende_attention_heads"] == heads[own[1]].tolist()
    assert config["decoder_self_attention_heads"] == heads[own[2]].tolist()
    assert config["decoder_ffn_embed_dim"] == width[own[3]].tolist()


@pytest.mark.parametrize("space", [HAT, SMALL, MobileNetV3(), GAPPED], ids=lambda own: own.name)
def test_networks_have_genes_and_genes_have_networks(space: mn.SearchSpace) -> None:
    rng = np.random.default_rng(0)
    networks = space.check_many(space.sample(60, seed=0, distinct=False))
    for genome in (genome_of(space), Genome(space)):
        genes = genome.of(networks, rng)
        assert genome.networks(genes).tolist() == networks.tolist()
        assert (genes >= 0).all()
        assert (genes < genome.sizes).all()
        space.check_many(genome.networks(genome.drawn(200, rng)))


def test_genes_of_absent_layers_are_inherited() -> None:
    genome = genome_of(HAT)
    deep = genome.drawn(1, np.random.default_rng(0))
    deep[0, -1] = 5
    shallow = deep.copy()
    shallow[0, -1] = 0
    assert genome.networks(shallow)[0, 7:].tolist() == [36] * 5
    assert genome.networks(shallow)[0, :7].tolist() == genome.networks(deep)[0, :7].tolist()
    again = shallow.copy()
    again[0, -1] = 5
    assert genome.networks(again).tolist() == genome.networks(deep).tolist()


def test_children_have_genes_of_parents_not_blocks() -> None:
    genome, rng = genome_of(HAT), np.random.default_rng(0)
    parents = np.stack([np.zeros_like(genome.sizes), genome.sizes - 1])
    children = genome.crossed(parents, 400, rng)
    assert ((children == parents[0]) | (children == parents[1])).all()
    wide_with_few_heads = (children[:, 0] == 2) & (children[:, 1] == 0)  # a block of no parent
    assert 0.08 < wide_with_few_heads.mean() < 0.17  # of half of the pairs a quarter
    mutants = genome.mutants(parents[:1], 0.3, 4000, rng)
    # a gene is drawn anew with 0.3, and is another one then but for its own chance
    expected = 0.3 * (1 - 1 / genome.sizes)
    assert (mutants > 0).mean(axis=0) == pytest.approx(expected, abs=0.04)
    same = genome.mutants(parents, 0.0, 50, rng)
    assert {tuple(row) for row in same.tolist()} == {tuple(row) for row in parents.tolist()}


# ---- the search ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_what_a_brute_force_finds(seed: int, tmp_path: Path) -> None:
    table = random_table(seed)
    networks = SMALL.all_networks()
    bleu, latency = (table.predict(networks, name) for name in ("bleu", "latency_ms"))
    limit = float(np.quantile(latency, 0.3))
    found, _ = searched(
        tmp_path / "my.study",
        table,
        costs=table,
        cost_limits={"latency_ms": limit},
        budget=700,
        population=50,
    )
    assert found.values["bleu"] == pytest.approx(bleu[latency <= limit].max())


def test_the_budget_is_kept_and_every_network_is_predicted_to_meet_the_limits(
    tmp_path: Path,
) -> None:
    for seed, budget in enumerate((1, 7, 60)):
        rules = [fix(SMALL, {"encoder.layer1": "f128_h2"})]
        found, held = searched(
            tmp_path / f"{seed}.study",
            costs=TABLE,
            cost_limits={"latency_ms": LIMIT},
            limits={"macs": "+10%"},
            rules=rules,
            budget=budget,
            seed=seed,
        )
        assert found.evaluated == len(held) == budget
        assert len(np.unique(held, axis=0)) == budget  # none is measured twice
        assert (TABLE.predict(held, "latency_ms") <= LIMIT).all()
        assert (SMALL.macs(held) <= 1.1 * SMALL.macs([SMALL.reference])[0]).all()
        assert all(rules[0].holds(tuple(network)) for network in held.tolist())


def test_the_seed_decides(tmp_path: Path) -> None:
    wanted: dict[str, Any] = {"costs": TABLE, "cost_limits": {"latency_ms": LIMIT}, "budget": 40}
    held = [
        searched(tmp_path / f"{number}.study", seed=seed, **wanted)[1].tolist()
        for number, seed in enumerate((3, 3, 4))
    ]
    assert held[0] == held[1] != held[2]


def test_generations_are_better_than_random_networks(tmp_path: Path) -> None:
    found, _ = searched(tmp_path / "my.study", budget=100)
    sizes = [len(done.proposed) for done in found.rounds]
    assert sizes[0] == 10
    assert max(sizes[1:]) == 8
    assert sum(sizes) == 100
    values = [
        np.mean([TABLE.exact(network, "bleu") for network in done.proposed])
        for done in found.rounds
    ]
    assert min(values[-4:]) > values[0]


@pytest.mark.parametrize(("budget", "size"), [(20, 10), (1210, 50), (3025, 125), (9999, 125)])
def test_populations_are_hats_for_hats_budget(budget: int, size: int, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(done: Any) -> None:
        assert len(done.proposed) == size
        raise StopError

    with pytest.raises(StopError):
        searched(tmp_path / "my.study", budget=budget, on_round=stop)


def test_costs_are_any_predictions(tmp_path: Path) -> None:
    class Layers:
        """A predictor of one quantity, as HAT's of latency is."""

        def fit(self, networks: Indices, values: Floats) -> None:
            raise NotImplementedError

        def predict(self, networks: Indices) -> Floats:
            found: Floats = 1.0 + np.sum(networks[:, 3:] < 24, axis=1)
            return found

    costs: Predictions = ByMetric(SMALL, {"latency_ms": Layers()})
    limit = mn.Limit(mn.metric_named("latency_ms"), "<=", 1.0)
    found, held = searched(tmp_path / "my.study", costs=costs, cost_limits=[limit], budget=30)
    assert found.evaluated == 30
    assert (held[:, 3] == 24).all()  # one decoder layer
    with pytest.raises(mn.InvalidInputError, match="predictors of latency_ms, but not of 'bleu'"):
        costs.predict([SMALL.reference], "bleu")


def test_measured_limits_count_too(tmp_path: Path) -> None:
    """What is predicted may be wrong: the answer meets the measured limit."""

    def measure(network: mn.Network) -> Mapping[str, float]:
        bleu, latency = (TABLE.exact(network, name) for name in ("bleu", "latency_ms"))
        return {"bleu": bleu, "latency_ms": 1.2 * latency}

    evaluator = mn.FunctionEvaluator(measure, ["bleu", "latency_ms"], noisy=False)
    with mn.Study(tmp_path / "my.study", SMALL) as study:
        found = hat_search(
            study,
            evaluator,
            maximize="bleu",
            limits={"latency_ms": LIMIT},
            costs=TABLE,
            cost_limits={"latency_ms": LIMIT},
            budget=120,
        )
    assert found.network is not None
    assert 1.2 * TABLE.exact(found.network, "latency_ms") <= LIMIT


def test_it_ends_where_nothing_is_predicted_to_meet_the_limits(tmp_path: Path) -> None:
    space = SuperTransformer(64, 64, (64, 128), (2,), (-1, 1), 2, 2, 64)
    table = random_table(0, space)
    limits = {"latency_ms": 0.01}
    with mn.Study(tmp_path / "my.study", space) as study:
        found = hat_search(
            study, bleu_of(table), maximize="bleu", costs=table, cost_limits=limits, budget=20
        )
    assert not found
    assert found.evaluated == 0
    assert found.reason == "exhausted"


def test_it_finds_the_few_that_are_predicted_to_meet_the_limits(tmp_path: Path) -> None:
    latency = np.sort(TABLE.predict(SMALL.all_networks(), "latency_ms"))
    limits = {"latency_ms": float(latency[5])}
    found, held = searched(tmp_path / "my.study", costs=TABLE, cost_limits=limits, budget=40)
    assert len(held) == np.sum(latency <= latency[5])
    assert found.reason == "exhausted"
    assert (TABLE.predict(held, "latency_ms") <= latency[5]).all()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"costs": TABLE}, "given together, costs= and cost_limits=, but got no cost_limits"),
        ({"cost_limits": {"latency_ms": 3}}, "given together, .* but got no costs"),
        ({"costs": random_table(0, HAT), "cost_limits": {"latency_ms": 3}}, "study's space"),
        ({"costs": TABLE, "cost_limits": {"energy_mj": 3}}, "energy_mj"),
        ({"costs": ByMetric(SMALL, {}), "cost_limits": {"latency_ms": 3}}, r"mathnas\.Limit"),
        ({"population": 2}, "at least 1 parent and 1 child, .* population=2"),
        ({"parent_ratio": 1.0}, "at least 1 parent and 1 child, .* parent_ratio=1.0"),
        ({"mutation_ratio": 0.9}, "mutants are children, .* mutation_ratio=0.9"),
        ({"mutation_probability": 1.5}, r"probability is in \[0, 1\], but got 1.5"),
    ],
)
def test_what_cannot_be_is_refused(wanted: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(mn.InvalidInputError, match=message):
        searched(tmp_path / "my.study", **wanted)
    with mn.Study(tmp_path / "my.study", SMALL) as study:
        assert len(study) == 0


def test_a_study_that_holds_costly_networks_is_refused(tmp_path: Path) -> None:
    latency = TABLE.predict(SMALL.all_networks(), "latency_ms")
    costly = tuple(SMALL.all_networks()[int(np.argmax(latency))].tolist())
    with mn.Study(tmp_path / "my.study", SMALL) as study:
        mn.evaluate(study, [costly], bleu_of(TABLE))
        with pytest.raises(mn.InvalidInputError, match="a study of its own"):
            hat_search(
                study,
                bleu_of(TABLE),
                maximize="bleu",
                costs=TABLE,
                cost_limits={"latency_ms": LIMIT},
            )
        assert len(study) == 1


def test_a_predictor_is_asked_with_networks(tmp_path: Path) -> None:
    """Never with genes: what it is given are networks of the space."""

    class Checked:
        space = SMALL

        def predict(self, networks: npt.ArrayLike, metric: str) -> Floats:
            rows = SMALL.check_many(networks)
            assert metric == "latency_ms"
            return TABLE.predict(rows, metric)

    limit = mn.Limit(mn.metric_named("latency_ms"), "<=", LIMIT)
    found, _ = searched(tmp_path / "my.study", costs=Checked(), cost_limits=[limit], budget=30)
    assert found.evaluated == 30
