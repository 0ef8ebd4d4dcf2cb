"""Gradients of a teaching network and of those it teaches, without what sets them against each
other (Gong et al., NASViT, ICLR 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mathnas.errors import InvalidInputError
from mathnas.training.recipes import Pass, Passes

_SMALLEST = 1e-6  # beside a squared norm, of gradients that no loss scale has multiplied
_MOST = 2.0  # how much of the students' gradient is added at most


def resolved(passes: Sequence[Pass], step: Passes) -> None:
    """The gradient of a step whose first network teaches the others, conflicts resolved.

    The first pass gives a gradient, the others the sum of theirs; both are averaged over the
    processes and become one by `resolved_gradient`, parameter by parameter. A parameter that only
    one side runs through has that side's gradient, one that none does has none.

    Raises:
        InvalidInputError: the first pass teaches nobody.
    """
    first, *others = passes
    if not first.teaches or not others:
        raise InvalidInputError(
            "conflicts are those of a network with the ones that it teaches, but of this step's "
            f"{len(passes)} passes the first does not teach: take combine='sum'."
        )
    step.run(first)
    step.average()
    teachers = [own.grad for own in step.parameters]
    for own in step.parameters:
        own.grad = None  # the others' gradients are not added to the tensor that is kept
    for one in others:
        step.run(one)
    step.average()
    # gradients have the loss scale as a factor, squared norms have its square
    smallest = _SMALLEST * step.scale**2
    for own, teacher in zip(step.parameters, teachers, strict=True):
        if own.grad is None:
            own.grad = teacher
        elif teacher is not None:
            own.grad = resolved_gradient(own.grad, teacher, smallest)


def resolved_gradient(students: Tensor, teacher: Tensor, smallest: float = _SMALLEST) -> Tensor:
    """``(1 + c) students + teacher``, c = -<students, teacher> / (|students|^2 + smallest) in
    [0, 2].

    Where the two point against each other, the teacher's part along the students' gradient is
    taken out, as far as c is not cut: the step then goes as far along it as theirs alone.

    Args:
        students, teacher: gradients of one parameter.
        smallest: keeps c small where the students' gradient is next to nothing.
    """
    norm = students.square().sum()
    share = (-(students * teacher).sum() / (norm + smallest)).clamp(0.0, _MOST)
    return (1.0 + share) * students + teacher
