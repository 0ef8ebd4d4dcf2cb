"""The adaptive alpha divergence: its values, and the gradient of its surrogate."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor
from torch.nn import functional

from mathnas import InvalidInputError
from mathnas.training.losses import AlphaDivergenceLoss, Batch

LOSS = AlphaDivergenceLoss()
UNCLIPPED = AlphaDivergenceLoss(clip=math.inf)


def drawn(rows: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of a network and of its teacher."""
    generator = torch.Generator().manual_seed(seed)
    network, teacher = (spread * torch.randn(rows, 6, generator=generator) for _ in range(2))
    return network, teacher


def value(network: Tensor, teacher: Tensor, loss: AlphaDivergenceLoss = LOSS) -> float:
    return float(loss(network, Batch(network, torch.zeros(len(network)), teacher)))


def gradient(network: Tensor, teacher: Tensor, loss: AlphaDivergenceLoss = LOSS) -> Tensor:
    logits = network.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(logits, Batch(logits, torch.zeros(1), teacher)), logits)
    return found


def logs(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).log()


def divergence(q: list[float], p: list[float], alpha: float, clip: float) -> float:
    """sum of q (r^alpha - 1) / (alpha (alpha - 1)), r = p / q; its limit at alpha = 1."""
    if alpha == 1:
        return math.fsum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
    factor = alpha * (alpha - 1)
    terms = (a * (min((b / a) ** alpha, clip) - 1) / factor for a, b in zip(q, p, strict=True))
    return math.fsum(terms)


def surrogate(network: Tensor, teacher: Tensor, clip: float) -> Tensor:
    """Wang et al.: -sum of q rho log q, rho = r^alpha / alpha + 1 / (alpha (alpha - 1)), without
    gradient through q rho; a sample's is that of its larger divergence."""
    p, q = teacher.softmax(1), network.softmax(1)
    ratio = (p / q).detach()
    total = torch.zeros(())
    for i in range(len(p)):
        rows = q[i].tolist(), p[i].tolist()
        if divergence(*rows, -1, clip) > divergence(*rows, 1, clip):
            rho = (1 / ratio[i]).clamp(max=clip) / -1 + 1 / 2
        else:
            rho = ratio[i]
        total = total - (q[i].detach() * rho * q[i].log()).sum()
    return total / len(p)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_the_value_is_the_larger_divergence_of_every_sample(spread: float) -> None:
    network, teacher = drawn(40, spread)
    expected = []
    for q, p in zip(network.softmax(1).tolist(), teacher.softmax(1).tolist(), strict=True):
        expected.append(max(divergence(q, p, -1, 5.0), divergence(q, p, 1, 5.0)))
    assert value(network, teacher) == pytest.approx(sum(expected) / 40, rel=1e-4)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_the_gradient_is_that_of_the_surrogate(spread: float) -> None:
    network, teacher = drawn(40, spread)
    logits = network.clone().requires_grad_()
    (expected,) = torch.autograd.grad(surrogate(logits, teacher, 5.0), logits)
    torch.testing.assert_close(gradient(network, teacher), expected, rtol=1e-4, atol=1e-6)


def test_where_nothing_is_clipped_the_gradient_is_that_of_the_divergence() -> None:
    network, teacher = (rows.double() for rows in drawn(40, 1.0))
    logits = network.clone().requires_grad_()
    p, q = teacher.softmax(1), logits.softmax(1)
    kl = functional.kl_div(logits.log_softmax(1), p, reduction="none").sum(1)
    chi = 0.5 * ((q * q / p).sum(1) - 1)
    seeking = chi > kl
    assert 5 < int(seeking.sum()) < 35, "both kinds of samples are there"
    (expected,) = torch.autograd.grad(torch.where(seeking, chi, kl).mean(), logits)
    torch.testing.assert_close(gradient(network, teacher, UNCLIPPED), expected)


def test_equal_distributions_have_no_divergence_and_no_gradient() -> None:
    _, teacher = drawn(10, 2.0)
    same = teacher + 3.0  # softmax does not see it
    assert value(same, teacher) == pytest.approx(0.0, abs=1e-5)
    assert gradient(same, teacher).abs().max() < 1e-6
    network, _ = drawn(10, 2.0)
    assert value(network, teacher) > 0.01


def test_one_divergence_covers_mass_and_the_other_seeks_modes() -> None:
    """Alpha 1 is the larger where the network misses what its teacher finds likely; alpha -1 where
    it finds likely what its teacher does not."""
    sure, even = logs(0.98, 0.01, 0.01), logs(0.34, 0.33, 0.33)
    kl = float(functional.kl_div(sure, even, log_target=True, reduction="sum"))
    assert value(sure, even) == pytest.approx(kl, rel=1e-5)
    # the network is even, its teacher sure: kl would say 0.9, half of chi-squared says more
    kl = float(functional.kl_div(even, sure, log_target=True, reduction="sum"))
    assert value(even, sure, UNCLIPPED) > kl + 1.0
    chi = 0.5 * (0.34**2 / 0.98 + 2 * 0.33**2 / 0.01 - 1)
    assert value(even, sure, UNCLIPPED) == pytest.approx(chi, rel=1e-4)
    # clipped, a class counts no more than five times
    clipped = 0.5 * (0.34 * (0.34 / 0.98 - 1) + 2 * 0.33 * (5 - 1))
    assert value(even, sure) == pytest.approx(max(kl, clipped), rel=1e-4)


def test_probabilities_of_nothing_are_no_trouble() -> None:
    network = torch.tensor([[200.0, 0.0, -200.0], [0.0, 0.0, 0.0]])
    teacher = torch.tensor([[-200.0, 0.0, 200.0], [300.0, 0.0, -300.0]])
    assert math.isfinite(value(network, teacher))
    assert gradient(network, teacher).isfinite().all()


def test_it_needs_a_teacher() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(InvalidInputError, match="needs one, but none has run on this batch"):
        LOSS(logits, Batch(logits, torch.zeros(2)))
