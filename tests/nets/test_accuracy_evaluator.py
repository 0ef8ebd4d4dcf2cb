"""Accuracy of sub-networks: shared work gives the numbers of separate work."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import pytest

pytest.importorskip("torch")

import torch
from nets_cases import TINY, images, lived_in
from torch.nn import functional

from mathnas import Evaluator, InvalidInputError, Network
from mathnas._threads import torch_threads
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.evaluators import AccuracyEvaluator, LabelledImages
from mathnas.testing import EvaluatorContract

HELD_OUT = LabelledImages(images(50, seed=5), torch.arange(50) % 10)
CALIBRATION = [images(20, seed=6), images(12, seed=7)]


def evaluator_of(seed: int = 0, *, with_loss: bool = True) -> AccuracyEvaluator:
    supernet = lived_in(TINY, seed)
    return AccuracyEvaluator(
        supernet, CALIBRATION, HELD_OUT, with_loss=with_loss, images_at_once=16
    )


class TestAccuracy(EvaluatorContract):
    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return evaluator_of()

    @pytest.fixture
    def networks(self) -> Sequence[Network]:
        return lived_in().space.sample(5)


def test_shared_work_gives_what_extracting_and_recalibrating_gives() -> None:
    evaluator = evaluator_of()
    networks = list(evaluator.supernet.space.enumerate())
    for network, found in zip(networks, evaluator.evaluate_batch(networks), strict=True):
        static = evaluator.supernet.extract(network)
        recalibrate(static, CALIBRATION)
        with torch.no_grad():
            logits = static(HELD_OUT.images)
        right = (logits.argmax(1) == HELD_OUT.labels).float().mean()
        assert found["accuracy"] == pytest.approx(100 * float(right))
        loss = float(functional.cross_entropy(logits, HELD_OUT.labels))
        assert found["loss"] == pytest.approx(loss, rel=1e-5)


def test_a_network_may_stand_twice_in_a_batch() -> None:
    evaluator = evaluator_of()
    first, other, again = evaluator.evaluate_batch([(2, 1, 1), (0, 0, 0), (2, 1, 1)])
    assert first == again
    assert first != other


def test_loss_is_measured_where_it_is_asked_for() -> None:
    assert [metric.name for metric in evaluator_of(with_loss=False).metrics] == ["accuracy"]
    assert set(evaluator_of(with_loss=False).evaluate((0, 0, 0))) == {"accuracy"}


def test_another_training_has_other_conditions() -> None:
    assert evaluator_of(0).conditions == evaluator_of(0).conditions
    assert evaluator_of(0).conditions["weights"] != evaluator_of(1).conditions["weights"]
    fewer = AccuracyEvaluator(lived_in(), CALIBRATION[:1], HELD_OUT)
    assert fewer.conditions["calibration"] != evaluator_of().conditions["calibration"]
    assert fewer.conditions["held_out"] == evaluator_of().conditions["held_out"]


def test_a_spawned_process_gives_the_same_values() -> None:
    evaluator = evaluator_of()
    networks = evaluator.supernet.space.sample(3)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        there = pool.submit(evaluator.evaluate_batch, networks).result(timeout=120)
    assert there == evaluator.evaluate_batch(networks)


def test_pickling_leaves_the_evaluator_as_it_was() -> None:
    evaluator = evaluator_of()
    before = evaluator.evaluate((2, 1, 1))
    received = pickle.loads(pickle.dumps(evaluator))
    with torch.no_grad():
        received.supernet.stem.weight.zero_()
    assert evaluator.evaluate((2, 1, 1)) == before


def test_evaluating_leaves_supernet_and_threads_alone() -> None:
    evaluator = evaluator_of()
    before = {name: value.clone() for name, value in evaluator.supernet.state_dict().items()}
    with torch_threads(2):
        evaluator.evaluate((2, 1, 1))
        assert torch.get_num_threads() == 2
    after = evaluator.supernet.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="needs a calibration batch"):
        AccuracyEvaluator(lived_in(), [], HELD_OUT)
    with pytest.raises(InvalidInputError, match="threads is at least 1, but got 0"):
        AccuracyEvaluator(lived_in(), CALIBRATION, HELD_OUT, threads=0)
    with pytest.raises(InvalidInputError, match="3 images and 2 labels"):
        LabelledImages(images(3), torch.zeros(2))
    with pytest.raises(InvalidInputError, match="blocks 0 to 2, but got 3"):
        evaluator_of().evaluate((3, 0, 0))
