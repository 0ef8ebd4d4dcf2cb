"""The squeeze-and-excite gate, its slices, and its order of channels."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from mathnas.nets.squeeze import ElasticSqueezeExcite, squeezed


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def gate() -> ElasticSqueezeExcite:
    gate = ElasticSqueezeExcite(96)
    with torch.no_grad():
        for seed, parameter in enumerate(gate.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=seed))
    return gate


@pytest.mark.parametrize(
    ("channels", "middle"),
    [(16, 8), (96, 24), (144, 40), (240, 64), (72, 24), (960, 240)],
)
def test_the_middle_is_a_quarter_rounded_to_eights(channels: int, middle: int) -> None:
    assert squeezed(channels) == middle


@pytest.mark.parametrize("width", [96, 64, 24])
def test_a_slice_is_the_gate_written_out(gate: ElasticSqueezeExcite, width: int) -> None:
    x, middle = drawn(3, width, 5, 4, seed=9), squeezed(width)
    mean = x.mean((2, 3))
    reduce, expand = gate.reduce, gate.expand
    assert reduce.bias is not None
    assert expand.bias is not None
    hidden = (mean @ reduce.weight[:middle, :width, 0, 0].T + reduce.bias[:middle]).clamp_min(0)
    opened = hidden @ expand.weight[:width, :middle, 0, 0].T + expand.bias[:width]
    expected = x * ((opened + 3).clamp(0, 6) / 6)[:, :, None, None]
    torch.testing.assert_close(gate(x), expected)
    torch.testing.assert_close(gate.extract(width)(x), expected)


def test_reordering_channels_reorders_outputs(gate: ElasticSqueezeExcite) -> None:
    x = drawn(2, 96, 3, 3, seed=9)
    channels = torch.randperm(96, generator=torch.Generator().manual_seed(1))
    middle = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    expected = gate(x)[:, channels]
    gate.permute(channels, middle)
    torch.testing.assert_close(gate(x[:, channels]), expected)
