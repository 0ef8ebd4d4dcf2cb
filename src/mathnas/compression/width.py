"""Fewer hidden channels, chosen and made up for on samples, without training."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mathnas.compression.alternative import Alternative, InapplicableError, RecordedNode
from mathnas.compression.narrowing import difference, masked, narrowed
from mathnas.compression.probing import Hidden, Structure, probed
from mathnas.compression.refit import fit_to_original, moments_of
from mathnas.compression.selection import elimination_order
from mathnas.errors import InvalidInputError

_MULTIPLE, _FROM = 8, 32  # channels are kept in multiples of 8 where there are 32 or more
_LEAST_MACS = 0.1  # of a node's, below which a dimension is left as it is

# what several shares of one node have in common
_STRUCTURES: WeakKeyDictionary[RecordedNode, Structure] = WeakKeyDictionary()
_ORDERS: WeakKeyDictionary[RecordedNode, dict[Hidden, list[int]]] = WeakKeyDictionary()


class WidthAlternative(Alternative):
    """The node with a share of its hidden channels: the middle of an inverted residual, of a
    bottleneck, of a feed-forward network.

    Which channels go is a second-order choice (`mathnas.compression.selection`), and the layer that
    reads the others is fitted again, by least squares on the samples, to give what it gave. What
    the node takes and gives keeps its shape, so the alternative fits any neighbour.

    The dimensions are found by trying (`mathnas.compression.probing`). A dimension that runs at a
    tenth of the node's MACs is left as it is, as the inside of a squeeze-and-excite gate; so is one
    that the node's code does not let narrow, as values of attention heads.

    Args:
        share: of the channels that stay, above 0 and below 1; rounded to multiples of 8 where a
            dimension has 32 or more.

    Raises:
        InvalidInputError: the share is out of range.
    """

    def __init__(self, share: float) -> None:
        if not 0 < share < 1:
            raise InvalidInputError(
                f"a width is a share of the channels above 0 and below 1, but got {share}."
            )
        self.share = share
        self.name = f"width:{share:g}"

    def build(self, node: RecordedNode) -> nn.Module:
        structure = _structure(node)
        made, reasons = node.module, list(structure.reasons)
        for hidden in structure.hidden:
            where = " and ".join(hidden.producers)
            count = _kept_count(hidden.channels, self.share)
            if hidden.macs < _LEAST_MACS:
                reasons.append(f"{where}: they are {100 * hidden.macs:.0f} % of the node's MACs")
            elif count == hidden.channels:
                reasons.append(f"{where}: {self.share:g} of {hidden.channels} channels are all")
            elif (order := _order(node, hidden)) is None:
                reasons.append(f"{hidden.consumers[-1]}: it pads in a way of its own")
            else:
                gone = order[: hidden.channels - count]
                kept = torch.tensor(sorted(set(range(hidden.channels)) - set(gone)))
                why = difference(
                    masked(made, hidden, kept), narrowed(made, hidden, kept), structure.call
                )
                fitted = None if why is not None else _refitted(node, made, hidden, kept)
                if fitted is None:
                    reasons.append(f"{where}: {why or 'its outputs are no numbers'}")
                else:
                    made = fitted
        if made is node.module:
            why = "; ".join(reasons) or "no layer of it reads what another one makes"
            raise InapplicableError(
                f"channels are taken out of a dimension inside a node, but {node.name}, a "
                f"{type(node.module).__name__}, has none that can be narrowed: {why}."
            )
        return made


def _structure(node: RecordedNode) -> Structure:
    if node not in _STRUCTURES:
        _STRUCTURES[node] = probed(node)
    return _STRUCTURES[node]


def _order(node: RecordedNode, hidden: Hidden) -> list[int] | None:
    """Channels in the order in which they go; None where the consumer is no map of rows."""
    known = _ORDERS.setdefault(node, {})
    if hidden not in known:
        found = moments_of(node, hidden.consumers[-1])
        if found is None:
            return None
        gram, weights = found
        known[hidden] = elimination_order(gram, weights, len(gram) // hidden.channels)
    return known[hidden]


def _refitted(
    node: RecordedNode, module: nn.Module, hidden: Hidden, kept: Tensor
) -> nn.Module | None:
    """A narrowed module whose last reader of the dimension gives what it gave in the original; None
    where that is no map of rows."""
    made = narrowed(module, hidden, kept)
    return made if fit_to_original(node, made, hidden.consumers[-1]) else None


def _kept_count(channels: int, share: float) -> int:
    if channels < _FROM:
        return max(1, round(share * channels))
    return max(_MULTIPLE, _MULTIPLE * round(share * channels / _MULTIPLE))
