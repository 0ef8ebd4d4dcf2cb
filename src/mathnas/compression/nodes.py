"""Which submodules of a model can be nodes: found by themselves, or named, and always checked."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from mathnas.compression.batches import Batch, run
from mathnas.errors import InvalidInputError

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
# layers, also where a class of one's own derives from them and holds, say, its padding
_LAYERS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.Linear, nn.Embedding)


class CutError(InvalidInputError):
    """A node cannot be cut out of its model; the message names it and says why."""


def find_nodes(model: nn.Module) -> list[str]:
    """Names of the repeated blocks of a model: residual blocks, transformer layers, stages.

    These are the outermost submodules with submodules of their own, no layers such as convolutions,
    whose class occurs at least twice; a `torch.nn.Sequential` counts where all it holds are single
    layers.

    Raises:
        CutError: nothing repeats.
    """
    own = {id(one): one for one in model.modules() if one is not model}
    repeated = Counter(type(one) for one in own.values() if _is_block(one))

    def walk(module: nn.Module, prefix: str) -> Iterator[str]:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if _is_block(child) and repeated[type(child)] > 1:
                yield path
            else:
                yield from walk(child, f"{path}.")

    found = list(walk(model, ""))
    if not found:
        raise CutError(
            f"nodes are found where blocks of one class repeat, but {type(model).__name__} has no "
            "class of submodules twice: name the nodes, as nodes=['encoder.0', 'encoder.1'] or "
            "nodes='encoder.*'."
        )
    return found


def named_nodes(model: nn.Module, names: str | Sequence[str]) -> list[str]:
    """The submodules that names or patterns such as ``blocks.*`` say, in the model's order.

    A pattern's star stands for anything inside one level: ``blocks.*`` are the blocks, not what is
    inside them.

    Raises:
        CutError: a name or pattern fits nothing.
    """
    patterns = [names] if isinstance(names, str) else list(names)
    known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    chosen: set[str] = set()
    for pattern in patterns:
        fitting = {name for name in known if _fits(name, pattern)}
        if not fitting:
            near = [name for name in known if name.count(".") == pattern.count(".")][:8]
            raise CutError(
                f"a node is the name of a submodule or a pattern of names, but nothing in "
                f"{type(model).__name__} is called {pattern!r}; there are "
                f"{', '.join(near or known[:8])}."
            )
        chosen |= fitting
    return [name for name in known if name in chosen]


def check_nodes(model: nn.Module, names: Sequence[str], batch: Batch) -> list[str]:
    """The nodes in the order in which the model calls them, each of them exactly once.

    Args:
        model: in evaluation mode.
        batch: one batch of samples, on which the model is run.

    Raises:
        CutError: a node is called never or several times, lies inside another one, shares weights
            with another part of the model, or is the model itself.
    """
    modules = {name: model.get_submodule(name) for name in names}
    _check_apart(model, modules)
    calls: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    times = Counter(calls)
    for name, module in modules.items():
        if times[name] == 0:
            raise CutError(
                f"node {name!r} cannot be cut out: the model never calls it (it calls what is "
                f"inside {type(module).__name__}, or only its weights, or not on these samples). "
                f"Take {_inside(name, module)}, or leave it out."
            )
        if times[name] > 1:
            raise CutError(
                f"node {name!r} cannot be cut out: the model calls it {times[name]} times a run, "
                "so that an alternative would stand in several places. Take what is around it, or "
                "leave it out."
            )
    return calls


def _check_apart(model: nn.Module, modules: dict[str, nn.Module]) -> None:
    if not modules:
        raise CutError("a space needs at least one node, but got none.")
    owner: dict[int, str] = {}
    for name, module in modules.items():
        if module is model:
            raise CutError("a node is a part of the model, but got the model itself.")
        if isinstance(module, _CONTAINERS):
            raise CutError(
                f"node {name!r} cannot be cut out: a {type(module).__name__} is never called. "
                f"Take what it holds, as {name}.*"
            )
        for inner in module.modules():
            if owner.setdefault(id(inner), name) != name:
                raise CutError(
                    f"nodes {owner[id(inner)]!r} and {name!r} cannot both be cut out: they have a "
                    f"{type(inner).__name__} in common. Take one of them, or what is around both."
                )
    holders: dict[int, set[str]] = {}
    for name, part in model.named_modules(remove_duplicate=False):
        node = next((one for one in modules if name == one or name.startswith(f"{one}.")), "")
        if not node and id(part) in owner:
            raise CutError(
                f"node {owner[id(part)]!r} cannot be cut out: the rest of the model uses a "
                f"{type(part).__name__} of it as {name!r}. Leave it out."
            )
        for parameter in part._parameters.values():
            if parameter is not None:
                holders.setdefault(id(parameter), set()).add(node)
    for node, module in modules.items():
        for own, parameter in module.named_parameters():
            others = holders[id(parameter)] - {node}
            if others:
                where = sorted(others)[0]
                raise CutError(
                    f"node {node!r} cannot be cut out: its parameter {own!r} is shared with "
                    f"{f'node {where!r}' if where else 'the rest of the model'}, so that it has "
                    "no cost and no alternatives of its own. Leave it out."
                )


def _is_block(module: nn.Module) -> bool:
    if isinstance(module, (*_CONTAINERS, *_LAYERS)) or not any(True for _ in module.children()):
        return False
    if type(module) is nn.Sequential:
        leaves = all(not any(True for _ in child.children()) for child in module)
        if not leaves:
            return False
    return any(True for _ in module.parameters())


def _fits(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(
        fnmatch.fnmatchcase(part, one) for part, one in zip(parts, wanted, strict=True)
    )


def _inside(name: str, module: nn.Module) -> str:
    inner = [f"{name}.{child}" for child, _ in module.named_children()][:3]
    return f"what it holds ({', '.join(inner)})" if inner else "what is around it"
