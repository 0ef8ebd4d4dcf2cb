"""The sandwich rule: which networks run, what they learn, and that the seed decides everything."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from torch.nn import functional

from mathnas import Block, BlockNode, DepthRule, InvalidInputError, Network, SearchSpace
from mathnas.nets.digits import DigitsConfig, DigitsNet, DigitsNode
from mathnas.nets.mbconv import MBConvChoice
from mathnas.nets.supernet import ChainSupernet
from mathnas.training.batches import shuffled_batches
from mathnas.training.sandwich import SandwichConfig, TrainingStep, extreme_networks, train

# these networks are too small to gain from more, and waiting threads would slow other tests
torch.set_num_threads(1)

SMALL = DigitsConfig(
    stem=4,
    nodes=(
        DigitsNode(4, 1, (None, MBConvChoice(3, 1), MBConvChoice(3, 2))),
        DigitsNode(8, 2, (MBConvChoice(3, 1), MBConvChoice(5, 2))),
    ),
    head=8,
    classes=3,
)


class Choosing(ChainSupernet):
    """One node whose block is a row of logits: what a network learned can be read off."""

    def __init__(self, macs: tuple[float, ...]) -> None:
        super().__init__()
        blocks = tuple(Block(f"b{i}", macs=value) for i, value in enumerate(macs))
        self.space = SearchSpace([BlockNode("only", blocks)])
        self.rows = nn.Parameter(torch.zeros(len(macs), 3))
        self.runs: list[Network] = []

    def forward(self, x: Tensor, network: Network) -> Tensor:
        self.runs.append(network)
        return super().forward(x, network)

    def run_stem(self, x: Tensor) -> Tensor:
        return x

    def run_node(self, node: int, block: int, x: Tensor) -> Tensor:
        return self.rows[block].expand(len(x), 3)

    def run_head(self, x: Tensor) -> Tensor:
        return x

    def extract_stem(self) -> nn.Module:
        return nn.Identity()

    def extract_block(self, node: int, block: int) -> nn.Module:
        return nn.Identity()

    def extract_head(self) -> nn.Module:
        return nn.Identity()


def endless(labels: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield torch.zeros(len(labels), 1), torch.tensor(labels)


def squares(count: int) -> tuple[Tensor, Tensor]:
    """Images of three classes: a bright upper half, left half, or centre."""
    generator = torch.Generator().manual_seed(0)
    images = 0.2 * torch.rand(count, 1, 8, 8, generator=generator)
    labels = torch.arange(count) % 3
    images[labels == 0, :, :4] += 1
    images[labels == 1, :, :, :4] += 1
    images[labels == 2, :, 2:6, 2:6] += 1
    return images, labels


def trained(seed: int, steps: int = 30) -> DigitsNet:
    net = DigitsNet(SMALL, seed=seed)
    batches = shuffled_batches(*squares(60), 30, torch.Generator().manual_seed(seed))
    train(net, batches, SandwichConfig(steps, learning_rate=2e-2, seed=seed))
    return net


def test_every_step_runs_largest_smallest_and_random_networks() -> None:
    net = Choosing((5.0, 9.0, 1.0, 3.0))
    train(net, endless([0, 1]), SandwichConfig(steps=50, random_networks=2))
    steps = [net.runs[start : start + 4] for start in range(0, len(net.runs), 4)]
    assert len(steps) == 50
    assert all(step[:2] == [(1,), (2,)] for step in steps)
    drawn = [network for step in steps for network in step[2:]]
    assert set(drawn) == {(0,), (1,), (2,), (3,)}


def test_the_others_learn_from_the_largest_and_not_from_the_labels() -> None:
    """The first step: the largest gets the labels' gradient, the smallest the largest's outputs."""
    net = Choosing((1.0, 9.0))
    with torch.no_grad():
        net.rows.copy_(torch.tensor([[0.3, 0.0, -0.3], [0.0, 1.0, 2.0]]))
    gradients: list[Tensor] = []

    def keep(gradient: Tensor) -> None:
        gradients.append(gradient.clone())

    net.rows.register_hook(keep)  # type: ignore[no-untyped-call]
    soft = net.rows.detach()[1].softmax(0)
    own = net.rows.detach().softmax(1)
    config = SandwichConfig(steps=1, random_networks=0, label_smoothing=0.0)
    train(net, endless([0, 0, 0]), config)
    largest, smallest = gradients
    torch.testing.assert_close(largest[1], own[1] - torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(smallest[0], own[0] - soft)
    # the largest is the teacher: nothing flows back to it
    assert torch.equal(smallest[1], torch.zeros(3))


def test_training_teaches_every_network() -> None:
    net = trained(0, steps=60).train()
    images, labels = squares(60)
    with torch.no_grad():
        for network in net.space.enumerate():
            loss = functional.cross_entropy(net(images, network), labels)
            assert float(loss) < 0.5 * math.log(3)


def test_the_seed_decides_everything() -> None:
    state = torch.get_rng_state()
    one, same, other = trained(1), trained(1), trained(2)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_progress_is_told_after_every_step() -> None:
    told: list[TrainingStep] = []
    net = DigitsNet(SMALL)
    batches = shuffled_batches(*squares(60), 30, torch.Generator().manual_seed(0))
    train(net, batches, SandwichConfig(40), told.append)
    assert [step.number for step in told] == list(range(1, 41))
    assert {step.total for step in told} == {40}
    assert told[-1].loss < told[0].loss
    assert 0 <= told[0].accuracy <= told[-1].accuracy <= 100
    assert not net.training


def test_batches_that_end_early_are_refused() -> None:
    batch = next(endless([0, 1]))
    with pytest.raises(InvalidInputError, match="5 steps, but the batches ended after 2"):
        train(Choosing((1.0, 2.0)), [batch, batch], SandwichConfig(steps=5))


def test_the_rate_rises_and_falls() -> None:
    config = SandwichConfig(steps=100, warmup=0.1)
    rates = [config.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 1 step"):
        SandwichConfig(steps=0)
    with pytest.raises(InvalidInputError, match="0 random networks, but got 1 and -1"):
        SandwichConfig(steps=1, random_networks=-1)


def test_extremes_follow_macs_and_depth_rules() -> None:
    def node(name: str, *macs: float) -> BlockNode:
        return BlockNode(name, tuple(Block(f"b{i}", macs=value) for i, value in enumerate(macs)))

    # the absent block of the rule is the last; a cheap block may stand after a dear one
    nodes = [node("a", 4, 7, 7), node("b", 5, 2, 0), node("c", 9, 3, 0)]
    space = SearchSpace(nodes, depth_rules=[DepthRule((1, 2), (2, 2))])
    assert extreme_networks(space) == ((0, 2, 2), (1, 0, 0))
    every = space.all_networks()
    assert space.macs([(0, 2, 2)])[0] == space.macs(every).min()
    assert space.macs([(1, 0, 0)])[0] == space.macs(every).max()


def test_extremes_need_macs() -> None:
    space = SearchSpace([BlockNode("a", (Block("x"), Block("y")))])
    with pytest.raises(InvalidInputError, match="sandwich rule needs the MACs"):
        extreme_networks(space)
