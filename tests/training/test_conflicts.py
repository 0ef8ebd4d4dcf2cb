"""Conflicts between the gradients of a teaching network and of those it teaches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

import torch
from torch import Tensor, nn
from training_cases import ALONE, same_bits, small_net, square_data

from mathnas import InvalidInputError
from mathnas.training.config import TrainingConfig
from mathnas.training.conflicts import resolved, resolved_gradient
from mathnas.training.losses import LabelLoss
from mathnas.training.recipes import Pass, Passes, summed
from mathnas.training.trainer import train

Row = list[float]


def pairs(
    count: int, opposed: float, shape: tuple[int, ...] = (4, 3)
) -> list[tuple[Tensor, Tensor]]:
    """Gradients of students and teacher; the second has `opposed` times the first taken away."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        students, other = (torch.randn(shape, generator=generator) for _ in range(2))
        found.append((students, other - opposed * students))
    return found


def share_of(students: Tensor, teacher: Tensor) -> float:
    """The formula before it is cut, in numbers of python."""
    a, b = (gradient.flatten().tolist() for gradient in (students, teacher))
    inner = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return -inner / (math.fsum(x * x for x in a) + 1e-6)


def given(step_gradients: Sequence[Sequence[Row | None]], scale: float = 1.0) -> Given:
    return Given(
        [[None if row is None else torch.tensor(row) for row in own] for own in step_gradients],
        scale,
    )


class Given:
    """Passes whose gradients are given: of every pass one for every parameter, or None."""

    def __init__(self, gradients: Sequence[Sequence[Tensor | None]], scale: float = 1.0) -> None:
        self.gradients = gradients
        self.scale = scale
        self.parameters = [nn.Parameter(torch.zeros(3)) for _ in gradients[0]]
        self.runs = 0
        self.averaged_after: list[int] = []

    def passes(self) -> list[Pass]:
        """The first teaches."""
        return [Pass((i,), LabelLoss(), "random", i == 0) for i in range(len(self.gradients))]

    def run(self, one: Pass) -> None:
        self.runs += 1
        for own, gradient in zip(self.parameters, self.gradients[one.network[0]], strict=True):
            if gradient is not None:
                scaled = self.scale * gradient
                # as backward does: added in place to what is there
                own.grad = scaled if own.grad is None else own.grad.add_(scaled)

    def average(self) -> None:
        self.averaged_after.append(self.runs)

    def result(self) -> list[Row | None]:
        resolved(self.passes(), self)
        return [None if own.grad is None else own.grad.tolist() for own in self.parameters]


# ---- one parameter ------------------------------------------------------------------------------


@pytest.mark.parametrize("opposed", [-1.0, 0.0, 0.5, 1.0, 3.0])
def test_the_gradient_is_that_of_the_formula(opposed: float) -> None:
    for students, teacher in pairs(20, opposed):
        share = min(2.0, max(0.0, share_of(students, teacher)))
        expected = (1 + share) * students + teacher
        torch.testing.assert_close(resolved_gradient(students, teacher), expected)


def test_what_opposes_the_students_is_taken_out() -> None:
    """Along their gradient the step goes as far as without the teacher; across it, as before."""
    conflicts = 0
    for students, teacher in pairs(200, 1.0):
        if not 0 < share_of(students, teacher) < 2:
            continue
        conflicts += 1
        found = resolved_gradient(students, teacher)
        along = float((found * students).sum())
        assert along >= 0
        assert along == pytest.approx(float(students.square().sum()), rel=1e-4)
        across = (found - teacher) - students * ((found - teacher) * students).sum() / (
            students.square().sum()
        )
        torch.testing.assert_close(across, torch.zeros_like(across), atol=1e-4, rtol=0)
    assert conflicts > 150


def test_gradients_that_agree_are_added() -> None:
    for students, teacher in pairs(20, -2.0):
        assert torch.equal(resolved_gradient(students, teacher), students + teacher)


def test_a_strong_teacher_is_not_outvoted() -> None:
    """Of its opposing part at most twice the students' gradient is taken out."""
    students = torch.tensor([1.0, 0.0])
    assert resolved_gradient(students, torch.tensor([-5.0, 1.0])).tolist() == [-2.0, 1.0]


def test_students_without_a_gradient_change_nothing() -> None:
    teacher = torch.tensor([1.0, -2.0])
    assert torch.equal(resolved_gradient(torch.zeros(2), teacher), teacher)


# ---- a step -------------------------------------------------------------------------------------


def test_students_are_summed_before_and_nothing_is_doubled() -> None:
    step = given(
        [
            [[-1.0, 2.0, 0.0], [1.0, 1.0, 1.0], None, None],
            [[1.0, 0.0, 0.0], None, [3.0, 0.0, 0.0], None],
            [[1.0, 0.0, 0.0], None, [0.0, 4.0, 0.0], None],
        ]
    )
    # students (2, 0, 0), teacher (-1, 2, 0): c = 2 / 4
    assert step.result() == [
        pytest.approx([2.0, 2.0, 0.0]),
        [1.0, 1.0, 1.0],
        [3.0, 4.0, 0.0],
        None,
    ]
    # both gradients are averaged over the processes, before they become one
    assert step.averaged_after == [1, 3]


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**16, 2.0**24])
def test_the_loss_scale_changes_nothing_but_the_scale(scale: float) -> None:
    rows: list[list[Row | None]] = [
        [[-1.0, 2.0, 0.5], [-1e-3, 1e-3, 2e-4]],
        [[1.0, 0.1, 0.0], [8e-4, 3e-4, 0.0]],  # the second's squared norm is below 1e-6
    ]
    plain = given(rows).result()
    for own, expected in zip(given(rows, scale).result(), plain, strict=True):
        assert own is not None
        assert [value / scale for value in own] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_what_overflowed_stays_visible(side: int, wrong: float) -> None:
    """A loss scale that was too high is found out by gradients that are not finite."""
    rows: list[list[Row | None]] = [[[-1.0, 2.0, 0.5]], [[1.0, 0.1, 0.2]]]
    own = rows[side][0]
    assert own is not None
    own[0] = wrong
    (found,) = given(rows).result()
    assert found is not None
    assert not torch.tensor(found).isfinite().all()


def test_a_step_without_a_teacher_is_refused() -> None:
    step = given([[[1.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]])
    for passes in (step.passes()[:1], step.passes()[::-1]):
        with pytest.raises(InvalidInputError, match=r"of this step's . passes the first does not"):
            resolved(passes, step)
    config = TrainingConfig(recipe="uniform", epochs=1)
    with pytest.raises(InvalidInputError, match="take combine='sum'"):
        train(small_net(), square_data(), config, processes=ALONE, combine=resolved)


# ---- the whole ----------------------------------------------------------------------------------


def test_conflicts_are_resolved_after_the_epochs_of_the_configuration() -> None:
    config = TrainingConfig(epochs=3, batch_size=20, combine="resolve", resolve_after=2)

    def switching(passes: Sequence[Pass], step: Passes) -> None:
        done.append(0)
        (summed if len(done) <= 6 else resolved)(passes, step)

    done: list[int] = []
    nets = [small_net() for _ in range(3)]
    train(nets[0], square_data(), config, processes=ALONE)
    train(nets[1], square_data(), TrainingConfig(epochs=3, batch_size=20), processes=ALONE)
    train(nets[2], square_data(), config, processes=ALONE, combine=switching)
    assert same_bits(nets[0], nets[2])
    assert not same_bits(nets[0], nets[1])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_step(precision: str) -> None:
    """One step of the same networks; the loss scale is gone when weights move."""
    config = TrainingConfig(
        epochs=1, batch_size=60, combine="resolve", momentum=0.0, learning_rate=0.5
    )
    plain, half = small_net(), small_net()
    before = dict(small_net().named_parameters())
    train(plain, square_data(60), config, processes=ALONE)
    train(half, square_data(60), config.replace(precision=precision), processes=ALONE)
    moved, error = 0.0, 0.0
    for name, own in plain.named_parameters():
        moved += float((own - before[name]).detach().square().sum())
        error += float((own - half.get_parameter(name)).detach().square().sum())
    assert moved > 0
    assert error < 0.01 * moved
