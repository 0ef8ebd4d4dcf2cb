"""Weights in few bits: grids, bytes, what is lost."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from compression_cases import batches, chained, pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mathnas import InvalidInputError
from mathnas.compression.alternative import Call, InapplicableError, RecordedNode
from mathnas.compression.quantised import (
    QuantisedAlternative,
    quantised_bits,
    rounded,
    weight_bytes,
)
from mathnas.compression.supernet import from_module


@given(st.integers(0, 10_000), st.sampled_from([4, 8]), st.floats(1e-6, 1e4))
@settings(max_examples=40, deadline=None)
def test_weights_lie_on_the_grid_of_their_channel(seed: int, bits: int, size: float) -> None:
    weight = size * torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    found, scales = rounded(weight, bits)
    steps = found / scales[:, None, None, None]
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert steps.abs().max() <= 2 ** (bits - 1) - 1 + 1e-3
    # never worse than the grid that ends at the largest weight
    plain = weight.abs().amax((1, 2, 3), keepdim=True) / (2 ** (bits - 1) - 1)
    theirs = (weight / plain).round() * plain - weight
    assert (found - weight).square().sum() <= theirs.square().sum() * (1 + 1e-4)


def test_weights_of_nothing_stay_nothing() -> None:
    found, scales = rounded(torch.zeros(2, 3), 4)
    assert torch.equal(found, torch.zeros(2, 3))
    assert torch.isfinite(scales).all()


def test_bytes_are_counted_at_their_width() -> None:
    layer = nn.Linear(7, 3)
    assert weight_bytes(layer) == 4 * (21 + 3)
    node = RecordedNode("node", layer, [Call((torch.randn(2, 7),), {}, torch.randn(2, 3))])
    for bits, weights in ((8, 21), (4, 11)):
        made = QuantisedAlternative(bits).build(node)
        assert weight_bytes(made) == weights + 4 * 3 + 4 * 3  # weights, scales, biases
        found = quantised_bits(made)
        assert found is not None
        assert found[0] == bits
    assert quantised_bits(layer) is None


@torch.no_grad()
def test_fewer_bits_lose_more_and_the_original_nothing() -> None:
    model = chained()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    net = from_module(model, batches(), [QuantisedAlternative(8), QuantisedAlternative(4)])
    for node in net.errors:
        assert node[0] == 0 < node[1] < node[2] / 20
        assert node[2] < 0.1
    assert all(torch.equal(before[name], own) for name, own in model.state_dict().items())
    assert all(own[2] < own[1] < own[0] for own in net.weight_bytes)
    # an extracted network knows its bytes, too
    module = net.extract((1, 2, 0))
    own = [net.weight_bytes[node][block] for node, block in enumerate((1, 2, 0))]
    assert weight_bytes(module) == net.fixed_bytes + sum(own)
    torch.testing.assert_close(module(pictures()), net(pictures(), (1, 2, 0)))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="8 or 4 bits, but got 3"):
        QuantisedAlternative(3)
    node = RecordedNode("act", nn.ReLU(), [Call((torch.ones(1),), {}, torch.ones(1))])
    with pytest.raises(InapplicableError, match="act has none"):
        QuantisedAlternative(8).build(node)
