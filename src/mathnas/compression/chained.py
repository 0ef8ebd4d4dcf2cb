"""Alternatives that are applied one after another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from mathnas.compression.alternative import Alternative, Call, RecordedNode
from mathnas.compression.quantised import QuantisedAlternative
from mathnas.errors import InvalidInputError


class ChainedAlternative(Alternative):
    """The node with one alternative after another: fewer channels, then weights of 8 bits.

    Each is made for what the one before made, with what that gives: it is fitted to that, no longer
    to the original. A node has the whole where it has every step.

    Args:
        steps: at least two, of different names; one of few bits can only be the last, because
            what is rounded must not be changed.

    Raises:
        InvalidInputError: the steps are not such.
    """

    def __init__(self, steps: Sequence[Alternative]) -> None:
        self.steps = tuple(steps)
        self.name = "+".join(step.name for step in self.steps)
        if len({step.name for step in self.steps}) < max(2, len(self.steps)):
            raise InvalidInputError(
                f"at least two alternatives, all different, are applied one after another, but got "
                f"{self.name or 'none'}."
            )
        for step in self.steps[:-1]:
            if isinstance(step, QuantisedAlternative):
                raise InvalidInputError(
                    f"weights are put in few bits when nothing else changes them any more, but got "
                    f"{self.name}: put {step.name} last."
                )

    def build(self, node: RecordedNode) -> nn.Module:
        made = self.steps[0].build(node).eval()
        for step in self.steps[1:]:
            with torch.no_grad():
                calls = [Call(call.args, call.kwargs, call.run(made)) for call in node.calls]
            made = step.build(RecordedNode(node.name, made, calls, node.seed)).eval()
        return made
