"""Fewer attention heads, chosen and made up for on samples, without training."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mathnas.compression.alternative import Alternative, InapplicableError, RecordedNode
from mathnas.compression.narrowing import blank_inputs, cut, difference, keep_inputs, resize
from mathnas.compression.probing import Probe, inputs_of, mixes, outputs_of
from mathnas.compression.refit import fit_to_original, moments_of
from mathnas.compression.selection import elimination_order
from mathnas.errors import InvalidInputError

# attributes that forward code reshapes by; sizes of one head stay as they are
_COUNTS, _TOTALS, _NO_COUNTS = "head", ("all_head_size", "inner_dim"), ("dim", "size")


@dataclass(frozen=True)
class Attention:
    """Heads of a node, in groups that share keys and values where there are such groups.

    Attributes:
        groups: how many; as many as heads where nothing is shared.
        heads: how many.
        producers: layers of queries, keys and values, with the number of their outputs.
        consumer: the layer that mixes heads.
    """

    groups: int
    heads: int
    producers: Mapping[str, int]
    consumer: str

    def rows(self, name: str, kept: Tensor, parts: int) -> Tensor:
        """Outputs of a producer that the kept groups have.

        Args:
            parts: how many its outputs consist of, each with all groups one after another.
        """
        size = self.producers[name] // (parts * self.groups)
        own = kept[:, None] * size + torch.arange(size)
        starts = torch.arange(parts) * (self.producers[name] // parts)
        return (starts[:, None] + own.flatten()).flatten()


class HeadsAlternative(Alternative):
    """The node with a share of its attention heads; of its groups of heads, where several share
    keys and values.

    Heads are found by moving channels: one of a query moves the inputs of the output layer that
    belong to its head, one of a key those of its group. Which groups go is a second-order choice,
    and the output layer is fitted again, as for `WidthAlternative`. Queries, keys and values may
    come from layers of their own or from one layer. Integer attributes that count heads are changed
    with them, and the narrowed node is checked against the node that does not read the other heads.
    Attention inside one function (`torch.nn.MultiheadAttention`) cannot be looked into, and is
    refused.

    Args:
        share: of the groups that stay, above 0 and below 1; at least one stays.

    Raises:
        InvalidInputError: the share is out of range.
    """

    def __init__(self, share: float) -> None:
        if not 0 < share < 1:
            raise InvalidInputError(
                f"heads are a share above 0 and below 1 of those of a node, but got {share}."
            )
        self.share = share
        self.name = f"heads:{share:g}"

    def build(self, node: RecordedNode) -> nn.Module:
        probe = Probe(node)
        made, reasons = node.module, []
        for attention in _attentions(probe):
            count = max(1, round(self.share * attention.groups))
            if count == attention.groups:
                reasons.append(f"{attention.consumer}: {self.share:g} of {count} groups are all")
                continue
            found = moments_of(node, attention.consumer)
            if found is None:
                reasons.append(f"{attention.consumer}: its outputs are no numbers")
                continue
            gram, weights = found
            order = elimination_order(gram, weights, len(gram) // attention.groups)
            kept = torch.tensor(sorted(order[attention.groups - count :]))
            changed = _narrowed(made, attention, kept, probe)
            if isinstance(changed, str):
                reasons.append(f"{attention.consumer}: {changed}")
            elif fit_to_original(node, changed, attention.consumer):
                made = changed
        if made is node.module:
            why = "; ".join(reasons) or "no layer of it mixes what moves in groups of channels"
            raise InapplicableError(
                f"heads are taken out of attention, but {node.name}, a "
                f"{type(node.module).__name__}, has none that can be cut: {why}."
            )
        return made


def _attentions(probe: Probe) -> Iterator[Attention]:
    """Layers that mix heads, with what makes these."""
    reached = {
        name: [probe.reach(name, channel) for channel in (0, outputs_of(probe.layers[name]) - 1)]
        for name in probe.mixing
    }
    for consumer in probe.mixing:
        spans: dict[str, int] = {}
        for name, seen in reached.items():
            # what reaches another layer, too, is no query, key or value
            if name != consumer and all(one is not None and set(one) == {consumer} for one in seen):
                spans[name] = max(len(one[consumer]) for one in seen if one is not None)
        width = inputs_of(probe.layers[consumer])
        largest = max(spans.values(), default=1)
        if largest == 1 or width % largest:
            continue
        groups = width // largest
        producers = {name: outputs_of(probe.layers[name]) for name in spans}
        if groups == 1 or any(size % groups for size in producers.values()):
            continue
        # of queries, which alone have an output for each input where keys are shared
        queries = (spans[name] for name, size in producers.items() if size >= width)
        head = min((span for span in queries if span > 1), default=largest)
        yield Attention(groups, width // head, producers, consumer)


def _narrowed(
    module: nn.Module, attention: Attention, kept: Tensor, probe: Probe
) -> nn.Module | str:
    """A node with the kept groups alone, or why it has none."""
    why = ""
    masked = copy.deepcopy(module)
    layer = masked.get_submodule(attention.consumer)
    lost = torch.ones(attention.groups, dtype=torch.bool)
    lost[kept] = False
    columns = lost.repeat_interleave(inputs_of(layer) // attention.groups)
    blank_inputs(layer, columns)
    # one layer for queries, keys and values has these one after another, or head by head
    for parts in (1, 3) if len(attention.producers) == 1 else (1,):
        if any(size % (parts * attention.groups) for size in attention.producers.values()):
            continue
        made = _cut_out(module, attention, kept, ~columns, parts)
        found = difference(masked, made, probe.call)
        if found is None:
            return made
        why = found
    return why


def _cut_out(
    module: nn.Module, attention: Attention, kept: Tensor, columns: Tensor, parts: int
) -> nn.Module:
    made = copy.deepcopy(module)
    for name in attention.producers:
        layer = made.get_submodule(name)
        rows = attention.rows(name, kept, parts)
        cut(layer, "weight", rows)
        cut(layer, "bias", rows)
        resize(layer, ("out_features", "out_channels"), len(rows))
    layer = made.get_submodule(attention.consumer)
    before = inputs_of(layer)
    keep_inputs(layer, columns)
    share = len(kept) / attention.groups
    for part in made.modules():
        if mixes(part):
            continue
        for name, value in list(vars(part).items()):
            if type(value) is not int:
                continue
            counts = _COUNTS in name and not any(word in name for word in _NO_COUNTS)
            if (counts and value in (attention.heads, attention.groups)) or (
                name in _TOTALS and value == before
            ):
                setattr(part, name, math.floor(value * share + 0.5))
    return made
