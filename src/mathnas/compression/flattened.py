"""Networks of any signature as functions of tensors: what exporters and engines take."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mathnas.compression.batches import (
    Batch,
    call_of,
    has_samples,
    mapped,
    run,
    sample_count,
    tensors_of,
)
from mathnas.nets.agreement import ExportError


class Flattened(nn.Module):
    """A network that takes its tensors one after another and gives a list of tensors.

    What else it is given stays as in an example.

    Args:
        network: in evaluation mode; it is not copied.
        example: a batch as the network takes it.
        weights: names of parameters that are given besides, behind the tensors.

    Attributes:
        input_names: of the tensors: the argument, or the argument and the place in it.
        output_names: the key or place in what the network gives; no input is called so.
    """

    def __init__(self, network: nn.Module, example: Batch, weights: Sequence[str] = ()) -> None:
        super().__init__()
        self.network = network
        self.weights = tuple(weights)
        self._args, self._kwargs = call_of(example)
        with torch.no_grad():
            output = run(network, example)
        arguments = [*zip(_parameters(network), self._args, strict=False), *self._kwargs.items()]
        inputs = [name for own, value in arguments for name in _names(value, own)]
        self.input_names = _distinct(inputs, {*weights})
        several = isinstance(output, (Mapping, tuple, list))
        outputs = list(_names(output, "" if isinstance(output, Mapping) else "output"))
        if several and len(outputs) == 1 and not isinstance(output, Mapping):
            outputs = ["output"]
        self.output_names = _distinct(outputs, {*weights, *self.input_names})
        self.train(network.training)

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        given, own = iter(tensors), tensors[len(tensors) - len(self.weights) :]
        args = mapped(self._args, lambda _: next(given))
        kwargs = mapped(self._kwargs, lambda _: next(given))
        if not self.weights:
            return list(tensors_of(self.network(*args, **kwargs)))
        exchanged = dict(zip(self.weights, own, strict=True))
        return list(tensors_of(functional_call(self.network, exchanged, args, kwargs)))


def untraced(network: nn.Module, form: str, any_batch: bool, error: Exception) -> ExportError:
    """What an exporter said of a network, as an error with a way out.

    Args:
        form: what was to be written, as ``as ONNX``.
    """
    told = str(error).strip().splitlines() or [""]
    return ExportError(
        f"torch cannot export this {type(network).__name__} {form}"
        f"{' with an open batch' * any_batch} ({type(error).__name__}: {told[0]}). "
        f"{'Try a fixed batch, any_batch=False, or ' if any_batch else 'Try '}another format."
    )


def doubled(batch: Batch) -> Batch:
    """A batch with every sample twice."""
    count = sample_count(batch)

    def twice(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor]) if has_samples(tensor, count) else tensor

    found: Batch = mapped(batch, twice)
    return found


def _parameters(network: nn.Module) -> Iterator[str]:
    """Names of arguments by place."""
    for parameter in inspect.signature(network.forward).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            yield parameter.name
    place = 0
    while True:
        yield f"input{place}"
        place += 1


def _names(value: object, name: str) -> Iterator[str]:
    if isinstance(value, Tensor):
        yield name or "output"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _names(item, f"{name}_{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from _names(item, f"{name}{place}" if name else f"output{place}")


def _distinct(names: Sequence[str], taken: set[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        own = name
        while own in taken or own in found:
            own = f"{own}_out" if own in taken else f"{own}_"
        found.append(own)
    return found
