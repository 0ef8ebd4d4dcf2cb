"""Accuracy of sub-networks: shared work gives the numbers of separate work."""

from __future__ import annotations

import multiprocessing
import pickle
import weakref
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from nets_cases import TINY, images, live_in, lived_in
from torch import Tensor, nn
from torch.nn import functional

from mathnas import Evaluator, InvalidInputError, Network, Study, evaluate, single_sampling
from mathnas._threads import torch_threads
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.digits import DigitsNet
from mathnas.nets.evaluators import AccuracyEvaluator
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.nasbench201 import NASBench201Net
from mathnas.nets.scores import LabelledImages
from mathnas.nets.supernet import Supernet
from mathnas.spaces import MobileNetV3, NASBench201
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


def colours(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def mobilenet() -> MobileNetV3Net:
    net = MobileNetV3Net(MobileNetV3(width=0.35, resolution=32, classes=10, stem_stride=1))
    live_in(net)
    return net.eval()


def cells() -> NASBench201Net:
    net = NASBench201Net(NASBench201("cifar10", channels=4, cells=1))
    live_in(net)
    return net.eval()


@pytest.mark.parametrize("make", [mobilenet, cells], ids=["a chain", "no chain"])
def test_every_supernet_gives_what_its_networks_give_alone(make: type[Supernet]) -> None:
    supernet = make()
    held_out = LabelledImages(colours(30, 32), torch.arange(30) % 10)
    calibration = [colours(12, 32, seed=1), colours(8, 32, seed=2)]
    evaluator = AccuracyEvaluator(
        supernet, calibration, held_out, with_loss=True, images_at_once=20
    )
    networks = supernet.space.sample(5, seed=1)
    for network, found in zip(networks, evaluator.evaluate_batch(networks), strict=True):
        static = supernet.extract(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        recalibrate(static, calibration)
        with torch.no_grad():
            logits = torch.cat([static(part) for part in torch.split(held_out.images, 20)])
        right = int((logits.argmax(1) == held_out.labels).sum())
        assert found["accuracy"] == 100 * right / 30
        loss = float(functional.cross_entropy(logits, held_out.labels))
        assert found["loss"] == pytest.approx(loss, rel=1e-6)


class Watched(DigitsNet):
    """Counts what runs and how many bytes of its parts' outputs are alive."""

    def __init__(self) -> None:
        super().__init__(TINY)
        self.images: Counter[tuple[int, ...]] = Counter()
        self.alive = self.most = 0

    def extract_stem(self) -> nn.Module:
        return self._watch((), super().extract_stem())

    def extract_block(self, node: int, block: int) -> nn.Module:
        return self._watch((node, block), super().extract_block(node, block))

    def extract_head(self) -> nn.Module:
        return self._watch((9,), super().extract_head())

    def _watch(self, step: tuple[int, ...], module: nn.Module) -> nn.Module:
        def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.images[step] += len(output)
            if output is not inputs[0]:
                self.alive += output.nbytes
                self.most = max(self.most, self.alive)
                weakref.finalize(output, self._gone, output.nbytes)

        module.register_forward_hook(look)
        return module

    def _gone(self, size: int) -> None:
        self.alive -= size


def watched(memory: int) -> tuple[Watched, AccuracyEvaluator]:
    supernet = Watched()
    evaluator = AccuracyEvaluator(supernet, CALIBRATION, HELD_OUT, images_at_once=10, memory=memory)
    supernet.images.clear()
    supernet.alive = supernet.most = 0
    return supernet, evaluator


@pytest.mark.parametrize("memory", [1, 40_000, 2**30])
def test_what_is_common_runs_once_whatever_the_memory(memory: int) -> None:
    supernet, evaluator = watched(memory)
    evaluator.evaluate_batch(single_sampling(supernet.space, (2, 1, 1)).networks)
    every = sum(map(len, CALIBRATION)) + len(HELD_OUT)
    # the reference (2, 1, 1), and each other block in it
    networks_behind: dict[tuple[int, ...], int] = {
        (): 1,
        **{(0, block): 1 for block in range(3)},
        # behind each block of node 0; another block only behind the reference's
        (1, 1): 3,
        (1, 0): 1,
        (2, 1): 4,
        (2, 0): 1,
        (9,): 5,
    }
    assert supernet.images == {step: n * every for step, n in networks_behind.items()}


def test_the_memory_is_kept_to_and_changes_nothing() -> None:
    # bytes that the outputs of one node take: 82 images, 4 channels of 8 x 8 floats
    one_node = 82 * 4 * 8 * 8 * 4
    networks = list(lived_in().space.enumerate())
    found = []
    for memory in (2**30, one_node, one_node // 2, 1):
        supernet, evaluator = watched(memory)
        found.append(evaluator.evaluate_batch(networks))
        a_batch = 20 * 4 * 8 * 8 * 4
        # depth first, outputs are dropped when the last node that reads them has run
        assert supernet.most <= max(min(memory, 4 * one_node), 4 * a_batch)
        assert supernet.alive == 0
    assert all(values == found[0] for values in found)


def test_networks_come_one_after_another() -> None:
    evaluator = evaluator_of()
    networks = list(evaluator.supernet.space.enumerate())
    threads = torch.get_num_threads()
    with torch_threads(threads + 1):
        seen = {}
        for place, values in evaluator.evaluate_each(networks):
            seen[place] = values
            assert not torch.is_inference_mode_enabled()
            assert torch.get_num_threads() == threads + 1
    assert [seen[place] for place in range(len(networks))] == evaluator.evaluate_batch(networks)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_of_single_sampling_holds_the_same_with_any_number_of_workers(
    tmp_path: Path, workers: int
) -> None:
    evaluator = evaluator_of()
    sample = single_sampling(evaluator.supernet.space)
    with Study(tmp_path / "a.study", evaluator.supernet.space) as study:
        evaluate(study, sample.networks[:2], evaluator)
        report = evaluate(study, sample, evaluator, workers=workers)
        assert (report.done, report.already) == (sample.cost - 2, 2)
        for found in study.evaluations("accuracy"):
            assert found.measurement.value == evaluator.evaluate(found.network)["accuracy"]


def test_images_run_together_in_numbers_that_stay_in_fast_memory() -> None:
    def at_once(side: int) -> int:
        held_out = LabelledImages(colours(2, side), torch.tensor([0, 1]))
        return AccuracyEvaluator(mobilenet(), [colours(4, 32)], held_out).images_at_once

    small, large = at_once(32), at_once(128)
    assert small > 8 * large > 0


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
    with pytest.raises(InvalidInputError, match="memory is at least 1, but got -5"):
        AccuracyEvaluator(lived_in(), CALIBRATION, HELD_OUT, memory=-5)
    with pytest.raises(InvalidInputError, match="3 images and 2 labels"):
        LabelledImages(images(3), torch.zeros(2))
    with pytest.raises(InvalidInputError, match="blocks 0 to 2, but got 3"):
        evaluator_of().evaluate((3, 0, 0))
