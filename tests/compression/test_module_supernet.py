"""From a trained model to networks: blocks, costs, extraction, refusals."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from compression_cases import Impossible, Scaled, batches, chained, odd, odd_batches, pictures
from torch import nn

from mathnas import InvalidInputError
from mathnas.compression.nodes import CutError
from mathnas.compression.supernet import ModuleSupernet, from_module
from mathnas.nets.counting import counted_macs, counted_params


def supernet() -> ModuleSupernet:
    return from_module(chained(), batches(), [Scaled(0.9), Scaled(0.5)])


def test_the_first_block_of_every_node_is_the_original() -> None:
    net = supernet()
    assert net.space.sizes == (3, 3, 3)
    assert net.space.block_names((0, 1, 2)) == ("original", "scaled:0.9", "scaled:0.5")
    assert net.space.reference == (0, 0, 0)
    with torch.no_grad():
        expected = chained().eval()(pictures())
        torch.testing.assert_close(net(pictures(), (0, 0, 0)), expected)


def test_costs_are_those_that_torch_counts_of_extracted_networks() -> None:
    net = supernet()
    for network in ((0, 0, 0), (2, 1, 0)):
        module = net.extract(network)
        assert net.space.macs([network])[0] == pytest.approx(counted_macs(module, pictures()))
        assert net.space.params([network])[0] == counted_params(module)


@torch.no_grad()
def test_what_is_extracted_gives_the_same_and_has_its_own_memory() -> None:
    net = supernet()
    network = (2, 0, 1)
    module = net.extract(network)
    expected = net(pictures(), network)
    assert torch.equal(module(pictures()), expected)
    for parameter in module.parameters():
        parameter.zero_()
    assert torch.equal(net(pictures(), network), expected)
    assert type(module) is type(chained())


def test_local_errors_are_relative_to_the_variance_of_the_output() -> None:
    net = supernet()
    for node in net.errors:
        assert node[0] == 0
        assert 0 < node[1] < node[2]


def test_an_alternative_that_a_node_cannot_have_is_told_with_its_reason() -> None:
    net = from_module(chained(), [pictures()], [Scaled(0.9), Impossible()])
    assert net.space.sizes == (2, 2, 2)
    assert [one.node for one in net.refusals] == ["blocks.0", "blocks.1", "blocks.2"]
    assert net.refusals[0].alternative == "impossible"
    assert "nothing that could be made so" in net.refusals[0].reason
    with pytest.raises(InvalidInputError, match=r"none could be made; of blocks\.0: .*made so"):
        from_module(chained(), [pictures()], [Impossible()])


def test_alternatives_may_differ_by_node() -> None:
    wanted = {"blocks.0": [Scaled(0.9)], "blocks.*": [Scaled(0.5)]}
    assert from_module(chained(), [pictures()], wanted).space.sizes == (3, 2, 2)
    with pytest.raises(CutError, match="alternatives are for nodes"):
        from_module(chained(), [pictures()], {"stem": [Scaled(0.5)]})
    with pytest.raises(InvalidInputError, match="names of their own"):
        from_module(chained(), [pictures()], [Scaled(0.5), Scaled(0.5)])


@torch.no_grad()
def test_a_model_of_odd_structure_works() -> None:
    model, given = odd(), odd_batches()
    net = from_module(model, given, [Scaled(0.5)])
    assert net.space.num_networks == 8
    network = (1, 0, 1)
    module = net.extract(network)
    for batch in given:
        assert torch.equal(module(**batch)["logits"], net(batch, network))
    # without a mask
    assert torch.equal(net((given[0]["x"],), (0, 0, 0)), model.eval()(given[0]["x"])["logits"])


def test_samples_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="one tensor of shape"):
        from_module(chained(), pictures(), [Scaled(0.5)])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="at least one sample"):
        from_module(chained(), [], [Scaled(0.5)])


def test_it_stays_in_evaluation_mode() -> None:
    net = supernet()
    net.train()
    assert not any(part.training for part in net.modules() if isinstance(part, nn.Module))
