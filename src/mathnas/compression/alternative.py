"""Alternatives for a part of a trained model: what makes them, and what it is told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mathnas.compression.batches import first_tensor
from mathnas.errors import MathNASError


class InapplicableError(MathNASError):
    """An alternative cannot be made for a node; the message says why."""


@dataclass(frozen=True)
class Call:
    """One run of a node inside the original model.

    Attributes:
        args, kwargs: what it was called with.
        output: what it gave.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any

    @property
    def tensor(self) -> Tensor:
        """What flows on: the first tensor of the output."""
        return first_tensor(self.output)

    def run(self, module: nn.Module) -> Any:
        """What another module gives for the same input."""
        return module(*self.args, **self.kwargs)


@dataclass(frozen=True, eq=False)
class RecordedNode:
    """A node of a model as it was while the model ran on samples.

    Attributes:
        name: of the submodule.
        module: the original, in evaluation mode. It is never edited: an alternative is a copy.
        calls: one for each batch of calibration samples, at least one.
        seed: for what is drawn.
    """

    name: str
    module: nn.Module
    calls: Sequence[Call]
    seed: int = 0


class Alternative(ABC):
    """Makes blocks of one kind: inherit from it for an alternative of your own.

    Attributes:
        name: of the blocks, as on the command line: ``skip``, ``width:0.75``. One word without
            spaces or commas; names of the alternatives of a node differ.
    """

    name: str

    @abstractmethod
    def build(self, node: RecordedNode) -> nn.Module:
        """A module that is called as the node is and gives what it gives, or nearly.

        It has its own memory, is in evaluation mode, and does not change afterwards; the node stays
        as it was.

        Raises:
            InapplicableError: this node has no such alternative; says why.
        """
