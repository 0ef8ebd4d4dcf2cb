"""The graph network, its losses and trainings, against plain formulas and easy tasks."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from baselines_cases import additive, chain_space, small_space

from mathnas.baselines import Graphs, Predictor, graphs_of
from mathnas.baselines.brp_nas import (
    ACCURACY,
    LATENCY,
    BRPNASPredictor,
    GraphNetwork,
    iterative,
    pair_loss,
    value_loss,
)
from mathnas.errors import InvalidInputError
from mathnas.space import Floats, Indices, SearchSpace
from mathnas.spaces import NASBench201

CELLS = [(1, 0, 0, 3, 0, 0), (3, 3, 3, 3, 3, 3), (0,) * 6, (2, 1, 4, 0, 3, 2), (1,) * 6]
PAIRS = replace(ACCURACY, batch=32, epochs=12)
VALUES = replace(LATENCY, batch=8, epochs=30)


def network(features: int, outputs: int, *, dropout: float = 0.0, layers: int = 4) -> GraphNetwork:
    made = GraphNetwork(
        features,
        width=12,
        layers=layers,
        outputs=outputs,
        dropout=dropout,
        generator=torch.Generator().manual_seed(3),
        dtype=torch.float64,
    )
    with torch.no_grad():  # gains and shifts that are not 1 and 0
        for parameter in [*made.gains, *made.shifts]:
            parameter += 0.2 * torch.randn(parameter.shape, dtype=torch.float64)
    return made


def embedded(made: GraphNetwork, graphs: Graphs) -> torch.Tensor:
    mixed = torch.from_numpy(graphs.adjacency @ graphs.features)
    return made.embed(mixed, torch.tensor(graphs.adjacency))


def formula(made: GraphNetwork, graphs: Graphs) -> np.ndarray:
    """Every node through H' = ReLU(LayerNorm(A (H W) + b)), one graph after the other."""
    found = []
    for features, adjacency in zip(graphs.features, graphs.adjacency, strict=True):
        hidden = features
        parts = (made.weights, made.biases, made.gains, made.shifts)
        for weight, bias, gain, shift in zip(*parts, strict=True):
            rows = adjacency @ (hidden @ array(weight)) + array(bias)
            centred = rows - rows.mean(axis=1, keepdims=True)
            normal = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
            hidden = np.maximum(normal * array(gain) + array(shift), 0)
        found.append(hidden[0])
    return np.array(found)


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_the_read_out_is_the_global_node_of_the_full_formula(layers: int) -> None:
    graphs = graphs_of(NASBench201(), CELLS)
    made = network(6, 1, layers=layers).eval()
    np.testing.assert_allclose(array(embedded(made, graphs)), formula(made, graphs), atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradients_are_those_of_plain_torch(dropout: float) -> None:
    """The joined step of a layer against autograd on its parts, with the same things dropped."""
    graphs = graphs_of(NASBench201(), CELLS)
    made = network(6, 1, dropout=dropout)
    made.generator.manual_seed(0)
    embedded(made, graphs).pow(2).sum().backward()  # type: ignore[no-untyped-call]
    joined = {name: parameter.grad for name, parameter in made.named_parameters()}

    made.zero_grad()
    made.generator.manual_seed(0)
    adjacency = torch.tensor(graphs.adjacency)
    hidden = torch.from_numpy(graphs.features)
    parts = (made.weights, made.biases, made.gains, made.shifts)
    for layer, (weight, bias, gain, shift) in enumerate(zip(*parts, strict=True)):
        rows = adjacency @ (hidden @ weight) + bias
        hidden = torch.relu(torch.nn.functional.layer_norm(rows, (12,), gain, shift))
        if layer == 3:
            hidden = hidden[:, :1]
        kept = made._kept(hidden.flatten(0, 1)) if dropout else torch.ones_like(hidden)
        hidden = hidden * kept.view(hidden.shape) / (1 - made._dropped / 2**16)
    hidden[:, 0].pow(2).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in made.named_parameters():
        if not name.startswith("head"):
            torch.testing.assert_close(joined[name], parameter.grad, atol=1e-9, rtol=1e-9)


def test_dropout_drops_its_share_and_scales_the_rest() -> None:
    made = network(6, 1, dropout=0.2)
    kept = made._kept(torch.zeros(1000, 301, dtype=torch.float64))
    assert set(np.unique(array(kept))) == {0.0, 1.0}
    assert abs(kept.mean().item() - 0.8) < 0.003
    # neighbours and columns are independent
    assert abs((kept[:, 1:] * kept[:, :-1]).mean().item() - 0.64) < 0.005
    assert (kept.mean(dim=0) - 0.8).abs().max() < 0.08


def test_the_pairs_loss_is_the_divergence_of_two_softmaxes() -> None:
    graphs = graphs_of(NASBench201(), CELLS)
    made = network(6, 2).eval()
    embeddings = embedded(made, graphs)
    values = np.array([0.1, 0.9, 0.3, 0.35, 0.2])
    pairs = list(permutations(range(5), 2))
    expected = 0.0
    for first, second in pairs:
        joined = np.concatenate([array(embeddings[first]), array(embeddings[second])])
        # two outputs of one linear layer on both embeddings, one after the other
        weight = array(made.head).reshape(12, 2, 2).transpose(2, 0, 1).reshape(24, 2)
        outputs = joined @ weight + array(made.head_bias)
        log_output = outputs - np.log(np.exp(outputs).sum())
        target = np.exp(values[[first, second]]) / np.exp(values[[first, second]]).sum()
        expected += (target * (np.log(target) - log_output)).sum()
    found = pair_loss(made, embeddings, torch.tensor(pairs), torch.from_numpy(values))
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_the_loss_of_values_is_the_sum_of_absolute_errors() -> None:
    graphs = graphs_of(NASBench201(), CELLS)
    made = network(6, 1).eval()
    embeddings = embedded(made, graphs)
    values = np.array([0.1, 0.9, 0.3, 0.35, 0.2])
    outputs = array(embeddings) @ array(made.head)[:, 0] + array(made.head_bias)
    found = value_loss(made, embeddings, torch.arange(5)[:, None], torch.from_numpy(values))
    assert found.item() == pytest.approx(np.abs(outputs - values).sum())


# ---- training -------------------------------------------------------------------------------


def rank_correlation(one: Floats, other: Floats) -> float:
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def cells(count: int, seed: int = 0) -> Indices:
    space = NASBench201()
    return space.check_many(space.sample(count, seed=seed))


def convolutions(networks: Indices) -> Floats:
    """An easy quantity of cells: how many 3x3 convolutions are alive."""
    features = NASBench201().graphs(networks)[0]
    counted: Floats = features[:, 2:8, 1].sum(axis=1)
    return counted


def test_pairs_learn_an_easy_order() -> None:
    space = NASBench201()
    predictor = BRPNASPredictor(space, replace(PAIRS, learning_rate=2e-3), width=32)
    predictor.fit(cells(30), convolutions(cells(30)))
    others = cells(300, seed=1)
    assert rank_correlation(predictor.predict(others), convolutions(others)) > 0.8


def test_scores_are_values_up_to_a_constant() -> None:
    space = NASBench201()
    settings = replace(PAIRS, epochs=40, learning_rate=2e-3)
    predictor = BRPNASPredictor(space, settings, width=32)
    known = cells(30)
    predictor.fit(known, convolutions(known))
    slope = np.polyfit(convolutions(known), predictor.predict(known), 1)[0]
    assert slope == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("unit", [1.0, 1e-3])
def test_values_are_learnt_in_their_unit(unit: float) -> None:
    settings = replace(VALUES, epochs=25, learning_rate=2e-3)
    predictor = BRPNASPredictor(NASBench201(), settings, width=32)
    known, others = cells(200), cells(300, seed=1)
    predictor.fit(known, unit * (5 + convolutions(known)))
    error = np.abs(predictor.predict(others) / unit - 5 - convolutions(others))
    assert error.mean() < 0.5


def test_a_chain_of_blocks_is_learnt() -> None:
    space = chain_space(4, 3)
    networks = space.all_networks()
    # a block is worth the same in every node, since a chain's labels are names
    values = (networks == 1).sum(axis=1) - 0.5 * (networks == 2).sum(axis=1)
    predictor = BRPNASPredictor(space, replace(PAIRS, learning_rate=2e-3), width=32)
    predictor.fit(networks[::3], values[::3].astype(float))
    assert rank_correlation(predictor.predict(networks), values.astype(float)) > 0.8


@pytest.mark.parametrize("training", [replace(PAIRS, epochs=3), replace(VALUES, epochs=3)])
def test_the_seed_determines_everything(training: object) -> None:
    space, known = small_space(), small_space().all_networks()
    values = additive(space, known)

    def predicted(seed: int, torch_seed: int) -> list[float]:
        torch.manual_seed(torch_seed)
        predictor = BRPNASPredictor(space, training, seed=seed, width=8)  # type: ignore[arg-type]
        for _ in range(2):  # a second fit starts afresh
            predictor.fit(known, values)
        once = BRPNASPredictor(space, training, seed=seed, width=8)  # type: ignore[arg-type]
        once.fit(known, values)
        assert once.predict(known).tolist() == predictor.predict(known).tolist()
        found: list[float] = predictor.predict(known).tolist()
        return found

    assert predicted(0, 0) == predicted(0, 1)
    assert predicted(0, 0) != predicted(1, 0)


def test_training_stops_when_validation_does_not_improve() -> None:
    space, known = small_space(), small_space().all_networks()
    seen: list[float] = []
    training = replace(VALUES, learning_rate=1e-12, epochs=100, settling=4, patience=3)
    predictor = BRPNASPredictor(
        space, training, width=8, on_epoch=lambda epoch, loss: seen.append(loss)
    )
    predictor.fit(known, additive(space, known))
    assert predictor.epochs_ == len(seen) < 20


def test_what_is_best_on_validation_is_kept() -> None:
    space = chain_space(4, 3)
    known = space.all_networks()
    values = additive(space, known)
    seen: list[float] = []
    training = replace(
        PAIRS, schedule="plateau", learning_rate=0.3, epochs=8, batch=600, settling=9
    )
    predictor = BRPNASPredictor(
        space, training, width=8, on_epoch=lambda epoch, loss: seen.append(loss), dtype="float64"
    )
    predictor.fit(known, values)
    predicted = predictor.network_
    assert predicted is not None
    graphs = graphs_of(space, known)
    pairs = torch.tensor(list(permutations(range(len(known)), 2)))
    kept = pair_loss(predicted, embedded(predicted, graphs), pairs, torch.from_numpy(values))
    assert kept.item() / len(pairs) == pytest.approx(min(seen), rel=1e-6)
    assert min(seen) < seen[-1]  # otherwise the test shows nothing


def test_it_is_a_predictor_in_double_precision_too() -> None:
    space, known = small_space(), small_space().all_networks()
    predictor = BRPNASPredictor(space, replace(VALUES, epochs=1), width=8, dtype="float64")
    assert isinstance(predictor, Predictor)
    predictor.fit(known, additive(space, known))
    assert predictor.predict(known).dtype == np.float64
    assert predictor.network_ is not None
    assert predictor.network_.head.dtype == torch.float64


def test_threads_and_subnormals_are_left_as_they_were() -> None:
    space, known = small_space(), small_space().all_networks()
    before = torch.get_num_threads()
    BRPNASPredictor(space, replace(VALUES, epochs=1), width=8).fit(known, additive(space, known))
    assert torch.get_num_threads() == before
    assert float(np.float64(5e-324) * 1.0) > 0


# ---- iterative sampling ---------------------------------------------------------------------


def test_iterative_sampling_evaluates_each_network_once_and_seeks_good_ones() -> None:
    space = NASBench201()
    candidates = cells(2000)
    asked: list[int] = []

    def evaluate(networks: Indices) -> Floats:
        asked.append(len(networks))
        return convolutions(networks)

    settings = replace(PAIRS, epochs=8, learning_rate=2e-3)
    predictor = BRPNASPredictor(space, settings, width=32)
    found = iterative(predictor, evaluate, candidates, count=50, iterations=5, seed=0)
    assert asked == [10] * 5
    assert len({tuple(cell) for cell in found.networks.tolist()}) == 50
    assert (found.values == convolutions(found.networks)).all()
    assert found.values[10:].mean() > found.values[:10].mean() + 1


def test_iterations_grow_and_keep_their_weights() -> None:
    epochs: list[int] = []
    predictor = BRPNASPredictor(
        NASBench201(),
        replace(PAIRS, epochs=10),
        width=8,
        on_epoch=lambda epoch, loss: epochs.append(epoch),
    )
    made = set()

    def evaluate(networks: Indices) -> Floats:
        made.add(id(predictor.network_))
        return convolutions(networks)

    iterative(predictor, evaluate, cells(500), count=20, iterations=5)
    assert epochs == [*range(1, 3), *range(1, 5), *range(1, 7), *range(1, 9), *range(1, 11)]
    assert len(made) == 2  # none at first, then always the same


def test_iterative_sampling_is_determined_by_its_seeds() -> None:
    predictor = BRPNASPredictor(NASBench201(), replace(PAIRS, epochs=2), width=8)
    one, same, other = (
        iterative(predictor, convolutions, cells(500), count=12, iterations=3, seed=seed).networks
        for seed in (0, 0, 1)
    )
    assert (one == same).all()
    assert (one != other).any()


# ---- refusals -------------------------------------------------------------------------------


def refused(space: SearchSpace, networks: object, values: object) -> None:
    BRPNASPredictor(space, width=8).fit(networks, values)  # type: ignore[arg-type]


def test_bad_evaluations_are_refused() -> None:
    space = small_space()
    known = space.all_networks()
    with pytest.raises(InvalidInputError, match=r"one value for each of 12 networks, but got"):
        refused(space, known, np.zeros(3))
    with pytest.raises(InvalidInputError, match="values are finite, but value 0 is nan"):
        refused(space, known, np.full(12, np.nan))
    with pytest.raises(InvalidInputError, match="at least 2 networks, but got 1"):
        refused(space, known[:1], np.zeros(1))
    with pytest.raises(InvalidInputError, match=r"validation share of 0\.1 of 4 networks"):
        refused(space, known[:4], np.zeros(4))
    with pytest.raises(InvalidInputError, match="blocks 0 to 1, but got 9"):
        refused(space, [(9, 0, 0)] * 20, np.zeros(20))


def test_predicting_needs_a_fit() -> None:
    with pytest.raises(InvalidInputError, match=r"after fit\(\), but nothing was fitted"):
        BRPNASPredictor(small_space()).predict([(0, 0, 0)])


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"dropout is a share .* but got 1"):
        replace(LATENCY, dropout=1.0)
    with pytest.raises(InvalidInputError, match="batch is at least 1, but got 0"):
        replace(LATENCY, batch=0)
    with pytest.raises(InvalidInputError, match="learning_rate is above 0"):
        replace(LATENCY, learning_rate=0.0)
    with pytest.raises(InvalidInputError, match="schedule is one of plateau, cosine, but got"):
        replace(LATENCY, schedule="step")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="width is at least 1, but got 0"):
        BRPNASPredictor(small_space(), width=0)
    with pytest.raises(InvalidInputError, match="dtype is float32 or float64"):
        BRPNASPredictor(small_space(), dtype="float16")  # type: ignore[arg-type]


def test_a_predictor_goes_on_with_the_same_task_only() -> None:
    predictor = BRPNASPredictor(small_space(), replace(VALUES, epochs=1), width=8)
    known = small_space().all_networks()
    with pytest.raises(InvalidInputError, match="learns values with dropout"):
        predictor.train(known, np.arange(12.0), training=PAIRS)


@pytest.mark.parametrize(("count", "iterations"), [(51, 5), (5, 5), (10, 0)])
def test_iterations_of_unequal_or_too_small_size_are_refused(count: int, iterations: int) -> None:
    predictor = BRPNASPredictor(NASBench201(), PAIRS, width=8)
    with pytest.raises(InvalidInputError, match="the same number of networks, at least 2"):
        iterative(predictor, convolutions, cells(500), count=count, iterations=iterations)


def test_too_few_candidates_are_refused() -> None:
    predictor = BRPNASPredictor(NASBench201(), PAIRS, width=8)
    with pytest.raises(InvalidInputError, match="at least 960 candidates, but got 500"):
        iterative(predictor, convolutions, cells(500), count=50, iterations=5)
