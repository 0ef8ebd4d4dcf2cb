"""Hidden dimensions of a node, found by watching what moves when a channel is moved.

A node's layers are watched while it runs on recorded samples. One output channel of a layer is
moved, the layers that mix channels are held at what they gave before, and it is seen which inputs
of other layers move, in which channels. So what a dimension consists of is known for any Python in
between (gates, reshapes, functional calls), and nothing is read from the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from mathnas.compression.alternative import Call, RecordedNode
from mathnas.compression.batches import first_samples, tensors_of

_SAMPLES = 2  # of a batch are enough to see what moves
_CHANNELS = 4  # of a layer are moved, one after another
_MOVED = 1e-6  # of the largest input, from which on a channel has moved

Mixing: TypeAlias = "nn.Linear | nn.Conv1d | nn.Conv2d"


@dataclass(frozen=True)
class Hidden:
    """A dimension inside a node whose channels may be taken out.

    Attributes:
        channels: how many it has.
        producers: layers whose outputs they are.
        through: layers that take every channel by itself and have a number for each.
        consumers: layers that mix them, in the order of their calls.
        macs: share of the node's that these layers have.
    """

    channels: int
    producers: tuple[str, ...]
    through: tuple[str, ...]
    consumers: tuple[str, ...]
    macs: float


@dataclass(frozen=True)
class Structure:
    """The hidden dimensions of a node.

    Attributes:
        hidden: those whose channels may be taken out.
        reasons: why layers have none, for messages.
        call: the few samples that it was seen on.
    """

    hidden: tuple[Hidden, ...]
    reasons: tuple[str, ...]
    call: Call


def mixes(layer: nn.Module) -> bool:
    """Whether every output of a layer depends on all channels of its input."""
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.groups == 1
    )


def separates(layer: nn.Module) -> bool:
    """Whether a layer takes every channel by itself and has numbers for each that can be cut."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        return layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters > 1
    return isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))


def outputs_of(layer: nn.Module) -> int:
    """Channels of a mixing layer's output."""
    return len(cast(Mixing, layer).weight)


def inputs_of(layer: nn.Module) -> int:
    """Channels of a mixing layer's input."""
    return int(cast(Mixing, layer).weight.shape[1])


def channel_axis(layer: nn.Module) -> int:
    """Where channels stand in a layer's input and output."""
    return -1 if isinstance(layer, nn.Linear) else 1


def probed(node: RecordedNode) -> Structure:
    """The hidden dimensions of a node.

    Every layer that mixes channels is tried as a producer. Producers that reach one consumer in the
    same channels belong to one dimension, as the two inputs of a gate do.
    """
    probe = Probe(node)
    reached: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    reasons = []
    for name in probe.mixing:
        found = probe.moved_by(name)
        if isinstance(found, str):
            reasons.append(f"{name}: {found}")
        else:
            reached[name] = found
    total = sum(probe.macs.values())
    hidden = []
    for group in _tied(reached):
        channels = {outputs_of(probe.layers[name]) for name in group}
        consumers = {one for name in group for one in reached[name][1]}
        through = {one for name in group for one in reached[name][0]}
        ordered = [name for name in probe.order if name in {*consumers, *through, *group}]
        if len(channels) > 1:
            reasons.append(f"{', '.join(group)}: they have different numbers of channels")
            continue
        hidden.append(
            Hidden(
                channels.pop(),
                tuple(name for name in ordered if name in group),
                tuple(name for name in ordered if name in through),
                tuple(name for name in ordered if name in consumers),
                sum(probe.macs.get(name, 0.0) for name in ordered) / max(total, 1.0),
            )
        )
    return Structure(tuple(hidden), tuple(reasons), probe.call)


class Probe:
    """A node that runs on a few samples while its layers are watched.

    Attributes:
        call: the samples.
        layers: those that mix channels, and others that have numbers, by name.
        mixing: names of the layers that mix channels and run once.
        often: names of those that run several times.
        order: names of the layers that run, in their order.
        macs: of layers on these samples.
    """

    def __init__(self, node: RecordedNode) -> None:
        self.module = module = node.module
        self.call = _few(node)
        self.layers = {
            name: part
            for name, part in module.named_modules()
            if name and (mixes(part) or _has_own_numbers(part))
        }
        self.order: list[str] = []
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.macs: dict[str, float] = {}
        self.result = self._run(self._remember)
        counts = {name: self.order.count(name) for name in self.order}
        self.mixing = [name for name in counts if counts[name] == 1 and mixes(self.layers[name])]
        self.often = {name for name, count in counts.items() if count > 1}
        self.order = list(counts)

    def moved_by(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]] | str:
        """Layers that separate, and layers that mix, which see each channel of a layer alone; or
        why its channels cannot be taken out."""
        channels = outputs_of(self.layers[name])
        generator = torch.Generator().manual_seed(0)
        some = torch.randperm(channels, generator=generator)[:_CHANNELS].tolist()
        # a channel that is dead on these samples moves less than others do
        through: dict[str, None] = {}
        consumers: dict[str, None] = {}
        for channel in some:
            seen = self._moved(name, channel)
            if isinstance(seen, str):
                return seen
            through.update(dict.fromkeys(seen[0]))
            consumers.update(dict.fromkeys(seen[1]))
        if not consumers:
            return "no layer mixes its channels"
        return tuple(through), tuple(consumers)

    def reach(self, name: str, channel: int) -> dict[str, list[int]] | None:
        """Which layers' inputs move with one channel of a layer, and in which channels; None where
        it leaves the node, or changes a shape."""
        inputs: dict[str, Tensor] = {}

        def act(own: str, layer: nn.Module, given: Tensor, output: Tensor) -> Tensor:
            if own == name:
                moved = self.outputs[own].clone()
                part = moved.select(channel_axis(layer), channel)
                part += _nudge(part)
                return moved
            inputs[own] = given
            return self.outputs[own] if mixes(layer) else output

        result = self._run(act)
        if not all(map(torch.equal, tensors_of(result), tensors_of(self.result))):
            return None
        found = {}
        for own, given in inputs.items():
            if given.shape != self.inputs[own].shape:
                return None
            axis = channel_axis(self.layers[own])
            if changed := _changed(given, self.inputs[own], axis):
                found[own] = changed
        return found

    def _moved(self, name: str, channel: int) -> tuple[tuple[str, ...], tuple[str, ...]] | str:
        seen = self.reach(name, channel)
        if seen is None:
            return "its channels leave the node"
        through: list[str] = []
        consumers: list[str] = []
        channels = outputs_of(self.layers[name])
        for own, changed in seen.items():
            layer = self.layers[own]
            kind = type(layer).__name__
            if own in self.often:
                return f"they reach {own}, which runs several times"
            if not (mixes(layer) or separates(layer)):
                return f"they reach {own}, a {kind}, whose numbers cannot be cut channel by channel"
            size = self.inputs[own].shape[channel_axis(layer)]
            if changed != [channel] or size != channels:
                return f"one of them moves {len(changed)} of the {size} inputs of {own}"
            (consumers if mixes(layer) else through).append(own)
        return tuple(through), tuple(consumers)

    def _remember(self, name: str, layer: nn.Module, given: Tensor, output: Tensor) -> Tensor:
        self.order.append(name)
        self.inputs[name], self.outputs[name] = given.clone(), output.clone()
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            positions = output.numel() / len(layer.weight)
            self.macs[name] = positions * layer.weight.numel()
        return output

    @torch.no_grad()
    def _run(self, act: Callable[[str, nn.Module, Tensor, Tensor], Tensor]) -> Any:
        with watched(self.layers, act):
            return self.call.run(self.module)


@contextmanager
def watched(
    layers: dict[str, nn.Module], act: Callable[[str, nn.Module, Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Let layers give what a function says, of their name, themselves, their input and their
    output."""

    def hook(name: str) -> Callable[..., Any]:
        def run(
            layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> Any:
            given = next(tensors_of((args, kwargs)), None)
            if given is None or not isinstance(output, Tensor):
                return output
            return act(name, layer, given, output)

        return run

    handles = [
        layer.register_forward_hook(hook(name), with_kwargs=True) for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _few(node: RecordedNode) -> Call:
    """A call of the node on its first samples, where it can be cut so."""
    call = node.calls[0]
    count = len(call.tensor)

    try:
        args, kwargs = first_samples((call.args, dict(call.kwargs)), count, _SAMPLES)
        few = Call(args, kwargs, None)
        with torch.no_grad():
            output = few.run(node.module)
        expected = call.tensor[:_SAMPLES]
        found = next(tensors_of(output))
        if found.shape == expected.shape and torch.allclose(found, expected, atol=1e-4):
            return Call(few.args, few.kwargs, output)
    except Exception:  # a model may need its whole batch
        return call
    return call


def _has_own_numbers(part: nn.Module) -> bool:
    own = [*part._parameters.values(), *part._buffers.values()]
    return any(tensor is not None for tensor in own)


def _nudge(part: Tensor) -> Tensor:
    """Numbers of the size of a channel's own, which no activation cuts off in all places."""
    generator = torch.Generator().manual_seed(1)
    size = float(part.abs().mean()) + 1.0
    return size * torch.randn(part.shape, generator=generator, dtype=part.dtype).to(part.device)


def _changed(now: Tensor, before: Tensor, axis: int) -> list[int]:
    """Channels that moved."""
    difference = (now - before).abs().movedim(axis, 0).flatten(1).amax(1)
    most = _MOVED * max(1.0, float(before.abs().max()))
    return (difference > most).nonzero().flatten().tolist()


def _tied(reached: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> Iterator[list[str]]:
    """Producers that have a consumer in common, directly or through others."""
    left = list(reached)
    while left:
        group = [left.pop(0)]
        consumers = set(reached[group[0]][1])
        grown = True
        while grown:
            grown = False
            for name in list(left):
                if consumers & set(reached[name][1]):
                    group.append(name)
                    consumers |= set(reached[name][1])
                    left.remove(name)
                    grown = True
        yield group
