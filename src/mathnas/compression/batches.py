"""Samples as a model takes them, and what it gives for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, TypeAlias, cast

from torch import Tensor, nn

from mathnas.errors import InvalidInputError

# a tensor, arguments by place, or arguments by name, as tokenizers give them
Batch: TypeAlias = "Tensor | tuple[object, ...] | Mapping[str, object]"


def call_of(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch as arguments by place and by name."""
    if isinstance(batch, Tensor):
        return (batch,), {}
    return ((), dict(batch)) if isinstance(batch, Mapping) else (tuple(batch), {})


def run(model: nn.Module, batch: Batch) -> Any:
    """What a model gives for a batch."""
    args, kwargs = call_of(batch)
    return model(*args, **kwargs)


def tensors_of(value: object) -> Iterator[Tensor]:
    """All tensors inside a value, in the order in which it holds them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item)


def versions_of(value: object) -> list[int]:
    """How often each tensor inside a value was changed in place."""
    return [tensor._version for tensor in tensors_of(value)]


def first_tensor(value: object) -> Tensor:
    """The first tensor inside what a model or a part of it gives.

    Raises:
        InvalidInputError: there is none.
    """
    found = next(tensors_of(value), None)
    if found is None:
        raise InvalidInputError(
            f"a model gives a tensor, or a tuple or mapping of tensors, but got "
            f"{type(value).__name__}: wrap the model in a module that gives its tensor."
        )
    return found


def mapped(value: object, function: Callable[[Tensor], Tensor]) -> Any:
    """The same value with other tensors, each made of the one in its place, in their order."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        made = [mapped(item, function) for item in value]
        # a named tuple takes its fields one by one
        return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
    if isinstance(value, list):
        return [mapped(item, function) for item in value]
    if isinstance(value, Mapping):
        return cast("Any", type(value))(
            {key: mapped(item, function) for key, item in value.items()}
        )
    return value


def replaced_first(value: object, tensor: Tensor) -> object:
    """The same value with another first tensor."""
    others = chain([tensor], islice(tensors_of(value), 1, None))
    return mapped(value, lambda _: next(others))


def sample_count(batch: Batch) -> int:
    """Samples of a batch: the length of its first tensor."""
    found = next(tensors_of(batch), None)
    if found is None or found.ndim == 0:
        raise InvalidInputError(
            "a batch holds a tensor whose first axis is the samples, but got "
            f"{type(batch).__name__} without one."
        )
    return len(found)


def has_samples(tensor: Tensor, count: int) -> bool:
    """Whether the first axis of a tensor of a batch is its samples."""
    return tensor.ndim > 0 and len(tensor) == count


def first_samples(value: object, count: int, few: int) -> Any:
    """The same value with the first samples of its tensors alone.

    Args:
        count: how many samples it has.
        few: how many are kept.
    """
    return mapped(value, lambda own: own[:few] if has_samples(own, count) else own)


def checked_batches(batches: Sequence[Batch], what: str) -> tuple[Batch, ...]:
    """The batches as a tuple.

    Raises:
        InvalidInputError: there is none, or one holds no samples.
    """
    if isinstance(batches, Tensor):
        raise InvalidInputError(
            f"{what} are a sequence of batches, but got one tensor of shape "
            f"{tuple(batches.shape)}: write [tensor], or tensor.split(32)."
        )
    found = tuple(batches)
    if not found or not all(map(sample_count, found)):
        raise InvalidInputError(f"{what} hold at least one sample a batch, but got none.")
    return found
