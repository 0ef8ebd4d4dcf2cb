"""Networks that have their first blocks in common compute these once.

A run in which the slots before node i give back what an earlier run computed there costs only what
is around the nodes and what follows. Which earlier outputs it still needs is found by trying: with
other numbers in their places, outputs that nothing sees change nothing. So the cut is right for any
model, also where a later part looks at several nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mathnas.compression.alternative import Call
from mathnas.compression.batches import (
    Batch,
    first_tensor,
    replaced_first,
    run,
    tensors_of,
    versions_of,
)
from mathnas.compression.nodes import CutError, check_nodes
from mathnas.compression.shell import Filling, Reached, Shell

_ROUNDING = 1e-3  # of the largest output


@dataclass(frozen=True)
class Prefix:
    """What the first nodes of a network gave for a batch.

    Attributes:
        outputs: of the nodes, in their order; where nothing that follows sees one, its numbers are
            not kept.
    """

    outputs: tuple[Any, ...] = ()


class Chain:
    """A model whose nodes run one after another, each once.

    Args:
        model: left as it is.
        names: of its nodes, in any order.
        batch: samples on which the cuts are tried.

    Attributes:
        names: in the order of their calls.
        shell: the model around its nodes.
        needed: for each node, which earlier ones are looked at from there on; the last needed ones
            of ``len(names)`` are those of what follows all nodes.

    Raises:
        CutError: a node cannot be cut out; says which and why.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], batch: Batch) -> None:
        was = {part: part.training for part in model.modules()}
        model.eval()
        try:
            self.names = tuple(check_nodes(model, names, batch))
            with torch.no_grad():
                expected = run(model, batch)
        finally:
            for part, training in was.items():
                part.training = training
        self.shell = Shell(model, self.names)
        with torch.no_grad():
            self.needed = self._tried(batch, expected)

    @property
    def nodes(self) -> Sequence[nn.Module]:
        """The original nodes, in evaluation mode."""
        return self.shell.nodes

    def run(self, batch: Batch, blocks: Sequence[Filling], prefix: Prefix | None = None) -> Any:
        """What a network gives for a batch.

        Args:
            blocks: one for each node.
            prefix: of the first blocks, which are then not run.
        """
        given = () if prefix is None else prefix.outputs
        return self.shell.run(batch, [*map(_Given, given), *blocks[len(given) :]])

    def extended(self, batch: Batch, prefix: Prefix, block: Filling) -> Prefix:
        """The prefix with one more block."""
        return self.with_output(prefix, self.shell.run(batch, self._until(prefix, block)))

    def with_output(self, prefix: Prefix, found: object) -> Prefix:
        """The prefix with what one more block gave."""
        place = len(prefix.outputs)
        kept = [
            output if one in self.needed[place + 1] else _without_numbers(output)
            for one, output in enumerate((*prefix.outputs, found))
        ]
        return Prefix(tuple(kept))

    def call(self, batch: Batch, prefix: Prefix) -> Call:
        """The call of the node behind a prefix, with what the original gives for it.

        Raises:
            CutError: the node changes what it was given.
        """
        place = len(prefix.outputs)
        seen: list[tuple[tuple[Any, ...], Mapping[str, Any]]] = []

        def record(*args: Any, **kwargs: Any) -> Any:
            seen.append((args, kwargs))
            before = versions_of((args, kwargs))
            output = self.nodes[place](*args, **kwargs)
            if before != versions_of((args, kwargs)):
                raise CutError(
                    f"node {self.names[place]!r} cannot be cut out: it changes its input in "
                    "place, which alternatives could not see as it was. Write x = x + y instead "
                    "of x += y there, or leave it out."
                )
            return output

        output = self.shell.run(batch, self._until(prefix, record))
        return Call(seen[0][0], seen[0][1], output)

    # ---- inside -----------------------------------------------------------------------------

    def _until(self, prefix: Prefix, block: Filling) -> list[Filling]:
        """The prefix, one block, and an end behind it."""

        def last(*args: Any, **kwargs: Any) -> Any:
            raise Reached(block(*args, **kwargs))

        # nothing behind the end is called
        return [*map(_Given, prefix.outputs), last]

    def _tried(self, batch: Batch, expected: object) -> tuple[frozenset[int], ...]:
        """Which outputs each cut needs."""
        outputs: list[Any] = []
        versions: list[list[int]] = []

        def kept(node: nn.Module) -> Filling:
            def filling(*args: Any, **kwargs: Any) -> Any:
                outputs.append(node(*args, **kwargs))
                versions.append(versions_of(outputs[-1]))
                return outputs[-1]

            return filling

        whole = self.shell.run(batch, [kept(node) for node in self.nodes])
        self._check_same(whole, expected, "a copy of it gives other outputs", _close)
        expected = whole
        for name, output, version in zip(self.names, outputs, versions, strict=True):
            if versions_of(output) != version:
                raise CutError(
                    f"node {name!r} cannot be cut out: what follows changes its output in place. "
                    "Write x = x + y instead of x += y there, or leave it out."
                )
        needed = []
        for place in range(len(self.nodes) + 1):
            given = [_Given(output) for output in outputs[:place]]
            found = self.shell.run(batch, [*given, *self.nodes[place:]])
            if place:
                self._check_same(
                    found,
                    expected,
                    f"what follows node {self.names[place - 1]!r} depends on more than the outputs "
                    "of nodes (a cache, a counter, or randomness)",
                )
            needed.append(self._needed(batch, outputs, place, expected))
        return tuple(needed)

    def _needed(
        self, batch: Batch, outputs: Sequence[Any], place: int, expected: object
    ) -> frozenset[int]:
        """Which of the first outputs a run from `place` on looks at."""

        def unseen(places: Sequence[int]) -> bool:
            given = [
                _Given(_other_numbers(output) if one in places else output)
                for one, output in enumerate(outputs[:place])
            ]
            try:
                found = self.shell.run(batch, [*given, *self.nodes[place:]])
            except Exception:
                # other numbers are not what the model was made for
                return False
            return _same(found, expected)

        if place == 0 or unseen(range(place - 1)):
            return frozenset({place - 1} if place else ())
        return frozenset(one for one in range(place) if not unseen([one]))

    def _check_same(
        self,
        found: object,
        expected: object,
        why: str,
        alike: Callable[[Tensor, Tensor], bool] = torch.equal,
    ) -> None:
        if not _same(found, expected, alike):
            raise CutError(
                f"the model cannot be cut at its nodes {self.names[0]!r} to {self.names[-1]!r}: "
                f"{why}. Does it compute the same each time, in evaluation mode?"
            )


class _Given:
    """A filling that gives back what was computed before."""

    def __init__(self, output: object) -> None:
        self.output = output

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.output


def _same(
    one: object, other: object, alike: Callable[[Tensor, Tensor], bool] = torch.equal
) -> bool:
    found, expected = list(tensors_of(one)), list(tensors_of(other))
    return len(found) == len(expected) and all(map(alike, found, expected))


def _close(one: Tensor, other: Tensor) -> bool:
    """But for the order of sums, which layouts change."""
    if one.shape != other.shape or not other.is_floating_point():
        return torch.equal(one, other)
    scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
    return bool(((one - other).abs() <= _ROUNDING * scale).all())


def _other_numbers(output: object) -> object:
    tensor = first_tensor(output)
    if not tensor.is_floating_point():
        return replaced_first(output, torch.zeros_like(tensor))
    generator = torch.Generator(tensor.device).manual_seed(0)
    return replaced_first(
        output,
        torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype, device=tensor.device),
    )


def _without_numbers(output: object) -> object:
    """The same shape in the memory of one number."""
    tensor = first_tensor(output)
    empty: Tensor = tensor.new_zeros(()).expand(tensor.shape)
    return replaced_first(output, empty)
