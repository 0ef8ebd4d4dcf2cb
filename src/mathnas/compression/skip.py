"""Leave a node out: its input is its output."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mathnas.compression.alternative import Alternative, Call, InapplicableError, RecordedNode
from mathnas.compression.batches import first_tensor, tensors_of


class SkipAlternative(Alternative):
    """The node passes on its input, where that has the shape of its output.

    A node that gives several tensors has no such alternative: what the others would be is not
    known.
    """

    name = "skip"

    def build(self, node: RecordedNode) -> nn.Module:
        for call in node.calls:
            _check(node.name, call)
        inner = [call.output for call in node.calls]
        return Skip(isinstance(inner[0], tuple))


class Skip(nn.Module):
    """Gives its first argument, as the original would.

    Args:
        as_tuple: in a tuple of one.
    """

    def __init__(self, as_tuple: bool = False) -> None:
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        x = first_tensor((args, kwargs))
        return (x,) if self.as_tuple else x


def _check(name: str, call: Call) -> None:
    outputs = list(tensors_of(call.output))
    if len(outputs) != 1 or not isinstance(call.output, (Tensor, tuple)):
        raise InapplicableError(
            f"a node is left out where it gives one tensor, but {name} gives {len(outputs)}, in a "
            f"{type(call.output).__name__}."
        )
    if isinstance(call.output, tuple) and len(call.output) != 1:
        raise InapplicableError(
            f"a node is left out where it gives one tensor, but {name} gives a tuple of "
            f"{len(call.output)}."
        )
    given = next(tensors_of((call.args, call.kwargs)), None)
    expected = outputs[0]
    if given is None or given.shape != expected.shape or given.dtype != expected.dtype:
        found = "no tensor" if given is None else f"{tuple(given.shape)} in {given.dtype}"
        raise InapplicableError(
            f"a node is left out where its input has the shape of its output, but {name} takes "
            f"{found} and gives {tuple(expected.shape)} in {expected.dtype}."
        )
