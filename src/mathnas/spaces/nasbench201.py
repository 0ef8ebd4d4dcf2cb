"""NAS-Bench-201 (the topology space of NATS-Bench): a cell of 6 edges with 5 operations each.

A cell has four nodes, 0 (input) to 3 (output). Each edge applies an operation to its source, a node
is the sum of its incoming edges, and the output is node 3. The network stacks 15 copies of the cell
in three stages of 16, 32 and 64 channels (Dong and Yang, ICLR 2020).

Blocks die here: an edge that cannot be reached from the input, or that cannot reach the output,
changes nothing in what the network computes, though its operation is still executed. Which cells
count as the same is therefore a choice, and this module offers four:

- *as written*: the cell itself;
- `edges_reaching_output`: edges without a path to the output are set to ``none``;
- `alive_edges`: also those without a path from the input (`NASBench201.canonical`);
- `expression`: cells with the same text of what the output node computes are one class.

The first is what is declared (MACs) and what a runtime executes that skips nothing; a runtime that
skips what nobody reads executes the form ``executed``: `edges_reaching_output`, and nothing at all
where the output does not depend on the input (it is folded into a constant). Accuracy depends on
the form ``alive``. Where a value was measured once for all cells of an expression, it is that of
the first cell with it, the form ``measured``, of which a runtime may skip edges again
(``measured-executed``). Which one counts for a metric is chosen by evidence
(`mathnas.regression`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError
from mathnas.space import Block, BlockNode, Floats, Indices, Network, SearchSpace

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, SKIP, CONV_1X1, CONV_3X3, AVG_POOL = range(5)
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (source, target), canonical order
_OUTPUT = 3
_PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # from the input to the output, as edges
_MOST_OPERATIONS = 4  # more than any path has
STAGES = 3
CHANNELS, CELLS = 16, 5  # of the benchmark: channels of the first stage, cells a stage
_SHUFFLE_SEED = 88


@dataclass(frozen=True, slots=True)
class _Input:
    resolution: int
    classes: int


_INPUTS = {
    "cifar10": _Input(32, 10),
    "cifar100": _Input(32, 100),
    "imagenet16-120": _Input(16, 120),
}
DATASETS = tuple(_INPUTS)


class NASBench201(SearchSpace):
    """The 15,625 cells of NAS-Bench-201, with MACs and parameters for one data set.

    MACs count convolutions and the linear layer (its bias adds one per class); pooling, batch norm
    and sums are 0. Parameters are all trainable ones. Every operation is executed even where its
    edge is dead, so both are exact sums over edges. A few entries of the published benchmark file
    differ from these formulas.

    Args:
        dataset: ``cifar10``, ``cifar100`` or ``imagenet16-120`` (in any case).
        channels: of the first stage; the second has twice, the third four times as many.
        cells: of each stage. The benchmark was measured with 16 channels and 5 cells; smaller
            networks train on a CPU.

    Raises:
        InvalidInputError: the data set is not one of these, or a count is out of range.

    Example:
        >>> from mathnas.spaces import NASBench201
        >>> space = NASBench201("cifar100")
        >>> cell = space.parse("|skip_connect~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|")
        >>> cell, space.index(cell), space.canonical(cell)
        ((1, 0, 0, 3, 0, 0), 2047, (0, 0, 0, 3, 0, 0))
        >>> int(space.macs([cell])[0])
        43178340
    """

    def __init__(
        self, dataset: str = "cifar100", channels: int = CHANNELS, cells: int = CELLS
    ) -> None:
        key = dataset.lower()
        if key not in _INPUTS:
            raise InvalidInputError(
                f"NAS-Bench-201 is defined for {', '.join(DATASETS)}, but got {dataset!r}: "
                "choose one of these."
            )
        for name, count, most in (("channels", channels, 1024), ("cells", cells, 100)):
            if not 1 <= count <= most:
                raise InvalidInputError(
                    f"{name} is 1 to {most}, but got {count}: the benchmark has {CHANNELS} "
                    f"channels in the first stage and {CELLS} cells a stage."
                )
        self.dataset = key
        self.resolution = _INPUTS[key].resolution
        self.classes = _INPUTS[key].classes
        self.channels, self.cells = int(channels), int(cells)
        self.stage_channels = tuple(self.channels * 2**stage for stage in range(STAGES))
        blocks = tuple(
            Block(name, *_edge_costs(operation, self.resolution, self.stage_channels, self.cells))
            for operation, name in enumerate(OPERATIONS)
        )
        macs, params = _skeleton_costs(self.resolution, self.classes, self.stage_channels)
        # named only where they are not the benchmark's: files of that space stay as they are
        sizes = (("channels", self.channels, CHANNELS), ("cells", self.cells, CELLS))
        other = {name: count for name, count, usual in sizes if count != usual}
        super().__init__(
            [BlockNode(f"{source}->{target}", blocks) for source, target in EDGES],
            name=f"nasbench201:{key}" + "".join(f",{k}={v}" for k, v in other.items()),
            fixed_macs=macs,
            fixed_params=params,
            canonical=alive_edges,
            forms={
                "executed": executed_cells,
                "alive": alive_cells,
                "measured": representative_cells,
                "measured-executed": executed_representatives,
            },
            features=path_features,
            family={"name": "nasbench201", "dataset": key, **other},
        )

    def parse(self, text: str) -> Network:
        """A cell as an arch string, as ``3,0,2,1,4,1``, or as operation names with commas."""
        return parse_arch(text.strip()) if text.strip().startswith("|") else super().parse(text)

    def arch(self, network: Sequence[int | str]) -> str:
        """The arch string of a cell."""
        return format_arch(self.check(network))

    def index(self, network: Sequence[int | str]) -> int:
        """The cell's index in NAS-Bench-201, NATS-Bench and HW-NAS-Bench."""
        return _index_of()[self.check(network)]

    def at(self, index: int) -> Network:
        """The cell with this benchmark index.

        Raises:
            InvalidInputError: the index is not in 0 to 15,624.
        """
        if not 0 <= index < self.num_networks:
            raise InvalidInputError(
                f"benchmark indices go from 0 to {self.num_networks - 1}, but got {index}."
            )
        return cells_in_benchmark_order()[index]

    def representative(self, network: Sequence[int | str]) -> Network:
        """The cell with the lowest benchmark index among those of the same `expression`."""
        return _representatives()[self.check(network)]

    def graphs(self, networks: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Cells as graphs of operations, as `cell_graphs` gives them."""
        return cell_graphs(self.check_many(networks))


# ---- costs ----------------------------------------------------------------------------------


def _edge_costs(
    operation: int, resolution: int, widths: Sequence[int], cells: int
) -> tuple[int, int]:
    """(MACs, parameters) that an operation on one edge adds to the network, over all its cells."""
    kernel = {CONV_1X1: 1, CONV_3X3: 3}.get(operation)
    if kernel is None:
        return 0, 0
    macs = params = 0
    for stage, channels in enumerate(widths):
        side = resolution // 2**stage
        weights = kernel**2 * channels**2
        macs += cells * weights * side**2
        params += cells * (weights + _norm_params(channels))
    return macs, params


def _skeleton_costs(resolution: int, classes: int, widths: Sequence[int]) -> tuple[int, int]:
    """(MACs, parameters) of everything outside the cells: stem, two reductions, head."""
    stem = 3 * 3**2 * widths[0]
    macs = stem * resolution**2
    params = stem + _norm_params(widths[0])
    for stage, channels in enumerate(widths[1:], start=1):
        before, side = widths[stage - 1], resolution // 2**stage
        # two 3x3 convolutions with batch norm, and a 1x1 convolution on the shortcut
        weights = 3**2 * before * channels + 3**2 * channels**2 + before * channels
        macs += weights * side**2
        params += weights + 2 * _norm_params(channels)
    head = widths[-1] * classes + classes
    return macs + head, params + _norm_params(widths[-1]) + head


def _norm_params(channels: int) -> int:
    return 2 * channels


# ---- names and numbers ----------------------------------------------------------------------

_ITEM = re.compile(r"(?P<operation>[a-z0-9_]+)~(?P<source>[0-9])")


def parse_arch(text: str) -> Network:
    """Read an arch string, for example
    ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|``.

    Raises:
        InvalidInputError: the text is not exactly of this grammar.
    """
    parts = text.split("+")
    if len(parts) != _OUTPUT:
        raise InvalidInputError(
            f"an arch string has {_OUTPUT} nodes joined by '+', but got {len(parts)}: {text!r}."
        )
    cell = []
    for target, part in enumerate(parts, start=1):
        if not (part.startswith("|") and part.endswith("|") and len(part) > 1):
            raise InvalidInputError(
                f"node {target} of an arch string stands between bars, |op~0|...|, "
                f"but got {part!r}."
            )
        items = part[1:-1].split("|")
        if len(items) != target:
            raise InvalidInputError(
                f"node {target} of an arch string has one operation for each of its {target} "
                f"sources, but got {len(items)}: {part!r}."
            )
        for source, item in enumerate(items):
            match = _ITEM.fullmatch(item)
            if match is None or match["operation"] not in OPERATIONS:
                raise InvalidInputError(
                    f"an operation is written {OPERATIONS[1]}~{source}, with one of "
                    f"{', '.join(OPERATIONS)}, but got {item!r} in node {target}."
                )
            if int(match["source"]) != source:
                raise InvalidInputError(
                    f"the sources of node {target} stand in the order 0 to {target - 1}, "
                    f"but got {item!r} at place {source}."
                )
            cell.append(OPERATIONS.index(match["operation"]))
    return tuple(cell)


def format_arch(cell: Network) -> str:
    """The arch string of a cell."""
    nodes: list[str] = []
    for target in range(1, _OUTPUT + 1):
        items = [
            f"{OPERATIONS[operation]}~{source}"
            for (source, end), operation in zip(EDGES, cell, strict=True)
            if end == target
        ]
        nodes.append(f"|{'|'.join(items)}|")
    return "+".join(nodes)


@lru_cache(maxsize=1)
def cells_in_benchmark_order() -> tuple[Network, ...]:
    """All 15,625 cells; the place of a cell is its index in the benchmark files.

    The benchmark's authors listed the cells with the last edge fastest and shuffled the list once
    with Python's generator, seed 88.
    """
    cells = list(product(range(len(OPERATIONS)), repeat=len(EDGES)))
    random.Random(_SHUFFLE_SEED).shuffle(cells)
    return tuple(cells)


@lru_cache(maxsize=1)
def _index_of() -> dict[Network, int]:
    return {cell: index for index, cell in enumerate(cells_in_benchmark_order())}


# ---- cells that are the same ----------------------------------------------------------------


def edges_reaching_output(cell: Network) -> Network:
    """`cell` with every edge that has no path to the output set to ``none``.

    What a runtime must compute: it skips what nobody reads, but does not see that an input is
    zero.
    """
    reaching = {_OUTPUT}
    for (source, target), operation in zip(reversed(EDGES), reversed(cell), strict=True):
        if operation != NONE and target in reaching:
            reaching.add(source)
    return _keep(cell, [target in reaching for _, target in EDGES])


def alive_edges(cell: Network) -> Network:
    """`cell` with every edge set to ``none`` that is on no path from the input to the output."""
    reached = {0}
    for (source, target), operation in zip(EDGES, cell, strict=True):
        if operation != NONE and source in reached:
            reached.add(target)
    return edges_reaching_output(_keep(cell, [source in reached for source, _ in EDGES]))


def alive_cells(cells: Indices) -> Indices:
    """`alive_edges` of cells of shape (k, 6)."""
    alive: Indices = cells * (_reached(cells) & _reaching(cells))
    return alive


def executed_cells(cells: Indices) -> Indices:
    """`edges_reaching_output` of cells of shape (k, 6); all ``none`` where no path leads from the
    input to the output."""
    connected = alive_cells(cells).any(axis=1, keepdims=True)
    executed: Indices = cells * (_reaching(cells) & connected)
    return executed


def representative_cells(cells: Indices) -> Indices:
    """`NASBench201.representative` of cells of shape (k, 6)."""
    weights = len(OPERATIONS) ** np.arange(len(EDGES) - 1, -1, -1)
    found: Indices = _representative_of()[cells @ weights]
    return found


def executed_representatives(cells: Indices) -> Indices:
    """`executed_cells` of the representatives of cells of shape (k, 6)."""
    return executed_cells(representative_cells(cells))


@lru_cache(maxsize=1)
def _representative_of() -> Indices:
    """The representatives of all cells in lexicographic order, shape (15625, 6)."""
    representatives = _representatives()
    every = product(range(len(OPERATIONS)), repeat=len(EDGES))
    return np.array([representatives[cell] for cell in every], dtype=np.intp)


def _reached(cells: Indices) -> np.ndarray:
    """Which edges have a path from the input; NONE is 0, so a product cuts the others off."""
    reached = np.zeros((len(cells), _OUTPUT + 1), dtype=bool)
    reached[:, 0] = True
    for edge, (source, target) in enumerate(EDGES):
        reached[:, target] |= reached[:, source] & (cells[:, edge] != NONE)
    return reached[:, [source for source, _ in EDGES]]


def _reaching(cells: Indices) -> np.ndarray:
    """Which edges have a path to the output."""
    reaching = np.zeros((len(cells), _OUTPUT + 1), dtype=bool)
    reaching[:, _OUTPUT] = True
    for edge, (source, target) in reversed(list(enumerate(EDGES))):
        reaching[:, source] |= reaching[:, target] & (cells[:, edge] != NONE)
    return reaching[:, [target for _, target in EDGES]]


def path_features(cells: Indices) -> Floats:
    """What of a cell trains: ten counts over its alive edges and its paths; shape (k, 10).

    Of alive edges: convolutions, those of 3x3, poolings. Of paths from input to output (none of
    whose edges is ``none``): how many have no convolution; the fewest, the mean and the most
    convolutions, the last of paths without pooling; the mean number of 3x3 convolutions and of
    poolings; and the fewest operations that are no skips. Skips count as nothing, so that cells
    that are the same graph have the same features.
    """
    alive = alive_cells(cells)
    whole = [(alive[:, path] != NONE).all(axis=1) for path in _PATHS]
    exists = np.array(whole)

    def counts(operations: Sequence[int]) -> Floats:
        """Per path of shape (paths, k); 0 for those that do not exist."""
        chosen = np.isin(alive, operations)
        found: Floats = np.array([chosen[:, path].sum(axis=1) for path in _PATHS]) * exists
        return found

    convolutions, large = counts([CONV_1X1, CONV_3X3]), counts([CONV_3X3])
    poolings = counts([AVG_POOL])
    paths = np.maximum(exists.sum(axis=0), 1)
    features = [
        np.isin(alive, [CONV_1X1, CONV_3X3]).sum(axis=1),
        (alive == CONV_3X3).sum(axis=1),
        (alive == AVG_POOL).sum(axis=1),
        (exists & (convolutions == 0)).sum(axis=0),
        np.where(exists, convolutions, _MOST_OPERATIONS).min(axis=0),
        convolutions.sum(axis=0) / paths,
        (convolutions * (poolings == 0)).max(axis=0),
        large.sum(axis=0) / paths,
        poolings.sum(axis=0) / paths,
        np.where(exists, convolutions + poolings, _MOST_OPERATIONS).min(axis=0),
    ]
    return np.column_stack(features).astype(np.float64)


def has_path(cell: Network) -> bool:
    """Whether anything of the input reaches the output; the other 341 cells are constant."""
    return any(alive_edges(cell))


def expression(cell: Network, *, zeros: bool = True) -> str:
    """What the output node computes, as a text that is equal for cells known to be the same.

    The terms of a sum are sorted, and a skip stands for its source. With `zeros`, a term that is
    ``none`` or whose source is zero becomes ``#`` (but stays a term: a sum of zeros is no zero).
    NATS-Bench counts the 6,466 classes that this gives; without `zeros` there are 12,751.
    """
    values = ["x", "", "", ""]
    terms: list[list[str]] = [[] for _ in values]
    for (source, target), operation in zip(EDGES, cell, strict=True):
        if source and not values[source]:
            values[source] = "+".join(sorted(terms[source]))
        if zeros and (operation == NONE or values[source] == "#"):
            term = "#"
        elif operation == SKIP:
            term = values[source]
        else:
            # the operation stands last: how terms sort decides which sums inside sums coincide,
            # and the published classes belong to the order of these texts
            term = f"({values[source]}){OPERATIONS[operation]}"
        terms[target].append(term)
    return "+".join(sorted(terms[_OUTPUT]))


@lru_cache(maxsize=1)
def _representatives() -> dict[Network, Network]:
    """For every cell, the first cell in benchmark order with the same expression."""
    first: dict[str, Network] = {}
    return {cell: first.setdefault(expression(cell), cell) for cell in cells_in_benchmark_order()}


# ---- cells as graphs ------------------------------------------------------------------------

# input, the six edges, output: an edge is linked to the edges that start where it ends
_GRAPH_LINKS = (
    *[(0, 1 + edge) for edge, (source, _) in enumerate(EDGES) if source == 0],
    *[
        (1 + one, 1 + other)
        for one, (_, end) in enumerate(EDGES)
        for other, (start, _) in enumerate(EDGES)
        if end == start
    ],
    *[(1 + edge, 7) for edge, (_, target) in enumerate(EDGES) if target == _OUTPUT],
)
_GRAPH_LABELS = {CONV_1X1: 0, CONV_3X3: 1, AVG_POOL: 2}
_INPUT_LABEL, _OUTPUT_LABEL, _GLOBAL_LABEL, _NUM_LABELS = 3, 4, 5, 6


def cell_graphs(cells: npt.NDArray[np.integer]) -> tuple[Floats, Floats]:
    """Cells as graphs whose nodes are operations, as BRP-NAS reads them.

    Nodes are the global node, the input, the six edges in their order, and the output. A ``none``
    loses its links; a ``skip_connect`` too, after each node before it was linked to each node
    behind it. Nodes on no path from the input to the output lose their links and their label, but
    stay. Then the global node is linked to all, and every node to itself (Dudziak et al., BRP-NAS,
    NeurIPS 2020).

    Args:
        cells: operations of shape (k, 6).

    Returns:
        One-hot labels of shape (k, 9, 6): 1x1 convolution, 3x3 convolution, pooling, input, output,
        global; and adjacency of shape (k, 9, 9), where entry (i, j) says that i is linked to j. It
        is not normalised.
    """
    count = len(cells)
    links = np.zeros((count, 8, 8), dtype=bool)
    for one, other in _GRAPH_LINKS:
        links[:, one, other] = True
    for node in range(1, 7):
        operation = cells[:, node - 1]
        through = links[:, :, node, None] & links[:, None, node, :]
        links |= through & (operation == SKIP)[:, None, None]
        gone = (operation == NONE) | (operation == SKIP)
        links[gone, node, :] = False
        links[gone, :, node] = False
    path = links | np.eye(8, dtype=bool)  # which nodes a node reaches, by doubling: 8 steps at most
    for _ in range(3):
        path = path @ path
    alive = path[:, 0, :] & path[:, :, 7] & path[:, 0, 7, None]
    links &= alive[:, :, None] & alive[:, None, :]

    adjacency = np.tile(np.eye(9), (count, 1, 1))
    adjacency[:, 0, :] = 1.0
    adjacency[:, 1:, 1:] += links
    features = np.zeros((count, 9, _NUM_LABELS))
    features[:, 0, _GLOBAL_LABEL] = 1.0
    features[:, 1, _INPUT_LABEL] = alive[:, 0]
    features[:, 8, _OUTPUT_LABEL] = alive[:, 7]
    for labelled, label in _GRAPH_LABELS.items():
        features[:, 2:8, label] = alive[:, 1:7] & (cells == labelled)
    return features, adjacency


def _keep(cell: Network, kept: Sequence[bool]) -> Network:
    return tuple(operation if keep else NONE for operation, keep in zip(cell, kept, strict=True))
