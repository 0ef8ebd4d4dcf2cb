"""Statistics of extracted networks: sample-weighted averages over batches."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from nets_cases import images, lived_in
from torch import nn

from mathnas import InvalidInputError
from mathnas.nets.batchnorm import recalibrate


def batches_of(*sizes: int) -> list[torch.Tensor]:
    return [(1 + number) * images(size, seed=number) for number, size in enumerate(sizes)]


def test_averages_are_weighted_by_samples() -> None:
    norm = nn.BatchNorm2d(1)
    batches = batches_of(10, 30, 2)
    recalibrate(norm, batches)
    means = torch.stack([batch.mean() for batch in batches])
    variances = torch.stack([batch.var(correction=0) for batch in batches])
    weights = torch.tensor([10.0, 30.0, 2.0]) / 42
    torch.testing.assert_close(norm.running_mean, (weights * means).sum().reshape(1))
    torch.testing.assert_close(norm.running_var, (weights * variances).sum().reshape(1))


def test_a_later_norm_sees_batches_normalised_by_themselves() -> None:
    first, second = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    with torch.no_grad():
        first.weight.fill_(3.0)
        first.bias.fill_(7.0)
    outputs = recalibrate(nn.Sequential(first, second), batches_of(10, 30))
    # every batch reaches the second with the mean 7 and the deviation 3, whatever its own were
    torch.testing.assert_close(second.running_mean, torch.tensor([7.0]))
    torch.testing.assert_close(second.running_var, torch.tensor([9.0]), rtol=1e-3, atol=0)
    for output in outputs:
        assert float(output.mean()) == pytest.approx(0, abs=1e-5)
        assert float(output.var(correction=0)) == pytest.approx(1, abs=1e-3)


def test_part_by_part_gives_the_statistics_of_the_whole() -> None:
    net = lived_in()
    whole, parts = net.extract((2, 1, 1)), net.extract((2, 1, 1))
    recalibrate(whole, batches_of(10, 30))
    flow = batches_of(10, 30)
    for part in (parts.stem, *parts.nodes, parts.head):
        flow = recalibrate(part, flow)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, msg=name)


def test_it_replaces_what_was_there() -> None:
    once, twice = lived_in().extract((2, 1, 1)), lived_in().extract((2, 1, 1))
    recalibrate(twice, [9 + images(20)])
    for module in (once, twice):
        recalibrate(module, batches_of(10, 30))
    x = images(4, seed=9)
    assert torch.equal(once(x), twice(x))


def test_the_module_is_left_ready_for_inference() -> None:
    module = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5)).train()
    outputs = recalibrate(module, batches_of(10))
    # dropout was off, or half of the outputs would be zero
    assert int((outputs[0] == 0).sum()) == 0
    assert not module.training
    assert module[0].track_running_stats
    x = images(4)
    assert torch.equal(module(x), module(x))


def test_no_batch_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least one batch, but got none"):
        recalibrate(nn.BatchNorm2d(1), [])


def test_a_single_value_a_channel_is_refused_and_nothing_is_changed() -> None:
    norm = nn.BatchNorm2d(3)
    with pytest.raises(InvalidInputError, match=r"more than one value a channel.*\(1, 3, 1, 1\)"):
        recalibrate(norm, [torch.rand(1, 3, 1, 1)])
    assert norm.running_mean is not None
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert norm.track_running_stats
    assert not norm._forward_pre_hooks
