"""Scores of a model's networks: exact values, shared first blocks, other processes."""

from __future__ import annotations

import pickle

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from compression_cases import Scaled, batches, chained, odd, odd_batches, pictures
from torch import Tensor
from torch.nn import functional

import mathnas as mn
from mathnas import Direction, InvalidInputError, Metric
from mathnas.compression.evaluator import ScoreEvaluator
from mathnas.compression.scores import Accuracy, CosineDistance, Divergence, Loss, UserScore
from mathnas.compression.supernet import ModuleSupernet, from_module
from mathnas.testing import EvaluatorContract

SCORES = (CosineDistance(), Divergence(), Accuracy(), Loss())


def supernet() -> ModuleSupernet:
    return from_module(chained(), batches(), [Scaled(0.9), Scaled(0.5)])


def labels() -> list[Tensor]:
    drawn = torch.randint(0, 5, (12,), generator=torch.Generator().manual_seed(3))
    return list(torch.split(drawn, 6))


def evaluator(share: bool = True) -> ScoreEvaluator:
    return ScoreEvaluator(supernet(), batches(), labels(), scores=SCORES, share=share, batch_size=5)


@torch.no_grad()
def test_scores_are_what_their_definitions_say() -> None:
    found = evaluator().evaluate((1, 2, 0))
    net = supernet()
    outputs, original = (net(pictures(), one).double() for one in ((1, 2, 0), (0, 0, 0)))
    truth = torch.cat(labels())
    centred = [one - one.mean(1, keepdim=True) for one in (outputs, original)]
    cosine = functional.cosine_similarity(*centred).mean()
    assert found["drift"] == pytest.approx(float(1 - cosine), rel=1e-6)
    logs = [functional.log_softmax(one, 1) for one in (outputs, original)]
    divergence = functional.kl_div(logs[0], logs[1], reduction="batchmean", log_target=True)
    assert found["divergence"] == pytest.approx(float(divergence), rel=1e-6)
    assert found["loss"] == pytest.approx(float(functional.cross_entropy(outputs, truth)))
    assert found["accuracy"] == pytest.approx(
        100 * float((outputs.argmax(1) == truth).float().mean())
    )


def test_the_original_has_no_drift() -> None:
    found = evaluator().evaluate((0, 0, 0))
    assert found["drift"] == pytest.approx(0, abs=1e-12)
    assert found["divergence"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("share", [True, False])
def test_sharing_first_blocks_changes_no_value(share: bool) -> None:
    networks = [tuple(map(int, row)) for row in np.random.default_rng(7).integers(0, 3, (20, 3))]
    found = evaluator(share).evaluate_batch(networks)
    alone = [evaluator(False).evaluate(network) for network in networks]
    assert found == alone


def test_networks_that_share_blocks_run_them_once() -> None:
    own = evaluator()
    runs: list[int] = []
    for place, blocks in enumerate(own.supernet.blocks):
        for block in blocks:  # type: ignore[attr-defined]
            block.register_forward_hook(lambda *_, place=place: runs.append(place))
    own.evaluate_batch(mn.single_sampling(own.supernet.space).networks)
    batches = len(own.samples)
    # node 0: its three blocks; node 1: two more behind the original, and behind two others
    assert [runs.count(place) // batches for place in range(3)] == [3, 5, 7]


def test_a_model_with_two_inputs_and_a_dictionary_is_scored() -> None:
    net = from_module(odd(), odd_batches(), [Scaled(0.5)])
    found = ScoreEvaluator(net, odd_batches()).evaluate_batch([(0, 0, 0), (1, 1, 1)])
    assert found[0]["drift"] == pytest.approx(0, abs=1e-12)
    assert float(found[1]["drift"]) > 1e-6  # type: ignore[arg-type]


def test_a_score_of_ones_own() -> None:
    largest = UserScore(
        Metric("gap", "", Direction.MINIMIZE, additive=False),
        lambda found, original, labels: (found - original).abs().amax(1),
    )
    net = supernet()
    values = ScoreEvaluator(net, [pictures()], scores=[largest]).evaluate((2, 2, 2))
    with torch.no_grad():
        gaps = (net(pictures(), (2, 2, 2)) - net(pictures(), (0, 0, 0))).abs().amax(1)
    assert values["gap"] == pytest.approx(float(gaps.mean()), rel=1e-6)


def test_single_sampling_makes_a_table(tmp_path: object) -> None:
    own = evaluator()
    with mn.Study(f"{tmp_path}/s.study", own.supernet.space) as study:
        mn.evaluate(study, mn.single_sampling(own.supernet.space, (0, 0, 0)), own)
        answer = mn.search(mn.fit(study, ["drift"]), minimize="drift")
    assert isinstance(answer, mn.Answer)
    assert answer.network == (0, 0, 0)


def test_what_is_missing_is_told() -> None:
    net = supernet()
    with pytest.raises(InvalidInputError, match="accuracy compares with labels"):
        ScoreEvaluator(net, [pictures()], scores=[Accuracy()])
    with pytest.raises(InvalidInputError, match=r"\[12\] samples and \[6, 6\] labels"):
        ScoreEvaluator(net, [pictures()], labels())
    with pytest.raises(InvalidInputError, match="threads is at least 1"):
        ScoreEvaluator(net, [pictures()], threads=0)


class TestContract(EvaluatorContract):
    @pytest.fixture
    def evaluator(self) -> ScoreEvaluator:
        return evaluator()

    @pytest.fixture
    def networks(self) -> list[mn.Network]:
        return [(0, 0, 0), (1, 2, 0), (2, 2, 2)]


def test_it_travels_to_other_processes() -> None:
    own = evaluator()
    other = pickle.loads(pickle.dumps(own))
    assert other.evaluate((2, 1, 0)) == own.evaluate((2, 1, 0))
    assert other.conditions == own.conditions
