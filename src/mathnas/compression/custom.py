"""A user's own module in the place of a node."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mathnas.compression.alternative import Alternative, Call, InapplicableError, RecordedNode
from mathnas.compression.batches import versions_of
from mathnas.errors import InvalidInputError


class FactoryAlternative(Alternative):
    """What a function makes of a node: a module of one's own, trained or fitted there.

    It is called as the node is, and must give for the recorded calls what the node gives: the same
    tuples, lists and mappings, and in them tensors of the same shapes and types. Their values are
    the function's business.

    Args:
        name: of the block: one word without spaces, commas and ``+``.
        factory: makes a module of a node; its result is copied.

    Raises:
        InvalidInputError: the name is no such word.
    """

    def __init__(self, name: str, factory: Callable[[RecordedNode], nn.Module]) -> None:
        if not name or any(sign.isspace() or sign in ",+" for sign in name):
            raise InvalidInputError(
                f"an alternative's name is one word without spaces, commas and +, but got {name!r}."
            )
        if isinstance(factory, nn.Module):
            raise InvalidInputError(
                f"an alternative is made by a function of a node, but {name!r} got a "
                f"{type(factory).__name__}: write lambda node: module."
            )
        self.name = name
        self.factory = factory

    def build(self, node: RecordedNode) -> nn.Module:
        made: object = self.factory(node)
        if not isinstance(made, nn.Module):
            raise InvalidInputError(
                f"what makes an alternative gives a torch.nn.Module, but {self.name!r} gave a "
                f"{type(made).__name__} for {node.name}."
            )
        module = copy.deepcopy(made).eval()
        for call in node.calls:
            why = _difference(call, module)
            if why:
                raise InapplicableError(
                    f"an alternative gives what the node gives, but {self.name!r} in the place of "
                    f"{node.name}, a {type(node.module).__name__}, {why}."
                )
        return module


def _difference(call: Call, module: nn.Module) -> str | None:
    """How a module is no stand-in for what was recorded; None where it is one."""
    before = versions_of((call.args, call.kwargs))
    try:
        with torch.no_grad():
            found = call.run(module)
    except Exception as error:  # whatever a user's code raises
        return f"raised {type(error).__name__}: {error}"
    if before != versions_of((call.args, call.kwargs)):
        return "changes its input in place"
    return next(_differences(found, call.output, "its output"), None)


def _differences(found: Any, expected: Any, where: str) -> Iterator[str]:
    if isinstance(expected, Tensor):
        if not isinstance(found, Tensor):
            yield f"gives a {type(found).__name__} where {where} is a tensor"
        elif found.shape != expected.shape:
            yield f"gives shape {tuple(found.shape)} where {where} is {tuple(expected.shape)}"
        elif found.dtype != expected.dtype:
            yield f"gives {found.dtype} where {where} is {expected.dtype}"
        elif found.device != expected.device:
            yield f"gives a tensor on {found.device} where {where} is on {expected.device}"
    elif isinstance(expected, Mapping):
        if not isinstance(found, Mapping) or list(found) != list(expected):
            got = list(found) if isinstance(found, Mapping) else type(found).__name__
            yield f"gives {got} where {where} is a mapping of {list(expected)}"
        else:
            for key, own in expected.items():
                yield from _differences(found[key], own, f"{where}[{key!r}]")
    elif isinstance(expected, (tuple, list)):
        if type(found) is not type(expected) or len(found) != len(expected):
            got = f"{type(found).__name__}"
            got += f" of {len(found)}" if isinstance(found, (tuple, list)) else ""
            yield f"gives a {got} where {where} is a {type(expected).__name__} of {len(expected)}"
        else:
            for place, own in enumerate(expected):
                yield from _differences(found[place], own, f"{where}[{place}]")
    elif type(found) is not type(expected):
        yield f"gives a {type(found).__name__} where {where} is a {type(expected).__name__}"
