"""Deployment packages: kept blocks' weights, their table and what they are, in one file.

A safetensors file. Its tensors are weights (each once, however many parts use it) and, for engines
that need them, graphs as bytes; its record says which part consists of which tensors. Reading it
needs numpy and safetensors; no code of a file runs.

What a part is depends on the engine:

``torch``
    `PackagedPart.tensors` is a state dict: names in the module to names of tensors. The module is
    made by the supernet of the table's space (`mathnas.nets.families`; for a grouped space the view
    in groups of that of its fine space): ``extract_stem()``, ``extract_block(node, block)``,
    ``extract_head()``.
``onnxruntime``
    `PackagedPart.graph` names a tensor of bytes that is an ONNX model with one input and one
    output, whose first axis is the batch, of any size. Its weights are declared as external data
    and stand in none of its bytes: `PackagedPart.tensors` has them by the names of the graph's
    initializers, for ``SessionOptions.add_external_initializers``, so that a device needs no
    ``onnx``. Batch norms are folded into the weights before them.

A block that computes nothing has no part; `Package.skipped` says which those are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mathnas import spaces
from mathnas._records import Record
from mathnas._tensor_files import read_arrays, write_arrays
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.space import Network, SearchSpace
from mathnas.table import BlockTable

PACKAGE_FORMAT = "mathnas-package"
PACKAGE_VERSION = 1
ENGINES = ("onnxruntime", "torch")
STEM, HEAD = "stem", "head"
BLOCK, PAIR = "block", "pair"
Arrays = Mapping[str, npt.NDArray[np.generic]]
_SHOWN = 3  # names in a message


def block_key(node: int, block: int, previous: int | None = None) -> str:
    """The name of a block's part; with `previous`, of the one whose batch-norm statistics are for
    that block of the node before."""
    after = "" if previous is None else f"/after{previous}"
    return f"node{node}/block{block}{after}"


@dataclass(frozen=True)
class PackagedPart:
    """One part of a package.

    Attributes:
        tensors: names inside the part (of a state dict or of a graph's constants) to names of the
            package's tensors.
        graph: the package's tensor that holds the part's graph without its weights; None for
            engines that build parts from the space.
    """

    tensors: Mapping[str, str]
    graph: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor of the package that it uses."""
        return (*self.tensors.values(), *([] if self.graph is None else [self.graph]))


@dataclass(frozen=True)
class Package:
    """What `mathnas deploy` writes and a dynamic network runs.

    Attributes:
        table: predictions of every executable network; its space holds the kept blocks.
        engine: the kind of parts: ``onnxruntime`` or ``torch``.
        parts: by `STEM`, `HEAD` and `block_key`; a block that computes nothing has none. Where
            statistics are per (block, previous block), blocks after the first node have one part
            for each block of the node before.
        tensors: arrays by name.
        input_shape: of one image: (channels, height, width).
        statistics: of batch norms: `BLOCK`, one set a block, or `PAIR`, one set a block and block
            of the node before.
        skipped: (node, block) of the blocks that compute nothing.
        notes: JSON values: how images are normalised (``preprocessing``), provenance.

    Raises:
        InvalidInputError: parts do not cover every block of the table's space, or belong to none;
            tensors are missing or used by no part; a graph is not bytes, or is where the engine
            takes none; a size is not positive.
    """

    table: BlockTable
    engine: str
    parts: Mapping[str, PackagedPart]
    tensors: Arrays
    input_shape: tuple[int, int, int]
    statistics: str = BLOCK
    skipped: frozenset[tuple[int, int]] = frozenset()
    notes: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("an engine", self.engine, ENGINES)
        _one_of("batch-norm statistics", self.statistics, (BLOCK, PAIR))
        if len(self.input_shape) != 3 or any(side < 1 for side in self.input_shape):
            raise InvalidInputError(
                "an image has a shape (channels, height, width) of positive numbers, but got "
                f"{self.input_shape}."
            )
        _check_skipped(self.space, self.skipped)
        blocks = [block_key(*place) for place in self.places()]
        _check_names("parts", self.parts, dict.fromkeys([STEM, *blocks, HEAD]))
        used = dict.fromkeys(name for part in self.parts.values() for name in part.names)
        _check_names("tensors", self.tensors, used)
        for key, part in self.parts.items():
            self._check_graph(key, part)

    @property
    def space(self) -> SearchSpace:
        """The kept blocks."""
        return self.table.space

    def part(self, node: int, block: int, previous: int | None) -> PackagedPart | None:
        """The part of a block after `previous` of the node before (None for the first node); None
        where nothing is computed."""
        if (node, block) in self.skipped:
            return None
        by_pair = self.statistics == PAIR and node > 0
        return self.parts[block_key(node, block, previous if by_pair else None)]

    def parts_of(self, network: Network) -> list[PackagedPart]:
        """The parts that a network runs: stem, its blocks that compute something, head."""
        before = (None, *network)
        blocks = [self.part(i, j, before[i]) for i, j in enumerate(network)]
        return [self.parts[STEM], *(p for p in blocks if p is not None), self.parts[HEAD]]

    def weight_bytes(self, network: Network | None = None) -> int:
        """Bytes of the weights of all parts, or of those that a network runs: each tensor once,
        graphs left out."""
        parts = self.parts.values() if network is None else self.parts_of(network)
        names = {name for part in parts for name in part.tensors.values()}
        return sum(self.tensors[name].nbytes for name in names)

    def largest_bytes(self) -> int:
        """Bytes of the weights of the network of each node's largest block: with statistics for the
        block before, a block takes as much behind one as behind another."""
        largest = []
        for node, size in enumerate(self.space.sizes):
            found = [self.part(node, block, 0 if node else None) for block in range(size)]
            sizes = [
                0 if part is None else sum(self.tensors[n].nbytes for n in part.tensors.values())
                for part in found
            ]
            largest.append(int(np.argmax(sizes)))
        return self.weight_bytes(tuple(largest))

    def places(self) -> Iterator[tuple[int, int, int | None]]:
        """Node, block and block before of every part but stem and head: what `block_key` takes."""
        for node, size in enumerate(self.space.sizes):
            pairs = self.statistics == PAIR and node > 0
            previous = range(self.space.sizes[node - 1]) if pairs else [None]
            for block in range(size):
                if (node, block) not in self.skipped:
                    yield from ((node, block, before) for before in previous)

    def _check_graph(self, key: str, part: PackagedPart) -> None:
        if (part.graph is None) != (self.engine == "torch"):
            raise InvalidInputError(
                f"parts of torch have no graph and those of onnxruntime one, but {key} of "
                f"{self.engine} has {'none' if part.graph is None else 'one'}."
            )
        if part.graph is None:
            return
        graph = self.tensors[part.graph]
        if graph.dtype != np.uint8 or graph.ndim != 1:
            raise InvalidInputError(
                f"a graph is bytes in one dimension, but that of {key} is {graph.dtype} of the "
                f"shape {graph.shape}."
            )

    # ---- files ------------------------------------------------------------------------------

    def write(self, path: str | Path) -> None:
        """Write the package, whole or not at all: a crash leaves the file that was there before.

        Raises:
            FileFormatError: the file cannot be written.
        """
        record = {
            "format": PACKAGE_FORMAT,
            "version": PACKAGE_VERSION,
            "table": self.table.to_dict(),
            "engine": self.engine,
            "statistics": self.statistics,
            "parts": [
                {"name": key, "graph": part.graph, "tensors": dict(part.tensors)}
                for key, part in self.parts.items()
            ],
            "skipped": [list(place) for place in sorted(self.skipped)],
            "input_shape": list(self.input_shape),
            "notes": dict(self.notes),
        }
        write_arrays(Path(path), self.tensors, record)

    @classmethod
    def read(cls, path: str | Path) -> Package:
        """The package of a file, checked; needs numpy and safetensors alone.

        Raises:
            FileFormatError: the file is missing, damaged, foreign or newer, or its content makes no
                package: see `Package`.
            MissingExtraError: safetensors is not installed.
        """
        tensors, record = read_arrays(Path(path), PACKAGE_FORMAT, PACKAGE_VERSION)
        try:
            table = record.record("table")
            space = spaces.restore(table.get("space", dict), f"{table.where}.space")
            return cls(
                BlockTable.from_dict(table.value, table.where, space=space),
                record.get("engine", str),
                _parts(record),
                tensors,
                _shape(record),
                record.get("statistics", str),
                frozenset(_places(record)),
                record.get("notes", dict, {}),
            )
        except InvalidInputError as error:
            raise FileFormatError(f"{path}: {error} Deploy it again.") from error


def _one_of(what: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise InvalidInputError(f"{what} of a package: {', '.join(known)}, but got {found!r}.")


def _check_skipped(space: SearchSpace, skipped: frozenset[tuple[int, int]]) -> None:
    for node, block in skipped:
        if not (0 <= node < space.num_nodes and 0 <= block < space.sizes[node]):
            raise InvalidInputError(
                f"blocks that compute nothing are blocks of {space.name}, but got block {block} of "
                f"node {node}."
            )


def _check_names(what: str, found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    for names, how in ((missing, "lacks"), (unknown, "has, though nothing uses them,")):
        if names:
            more = ", ..." if len(names) > _SHOWN else ""
            raise InvalidInputError(
                f"a package has exactly the {what} that its networks need, but it {how} "
                f"{len(names)}: {', '.join(names[:_SHOWN])}{more}."
            )


def _parts(record: Record) -> dict[str, PackagedPart]:
    found: dict[str, PackagedPart] = {}
    for where, entry in record.items("parts"):
        item = Record(entry, where)
        item.only("name", "graph", "tensors")
        name, tensors = item.get("name", str), item.get("tensors", dict)
        if name in found:
            raise FileFormatError(f"{where}: the part {name!r} stands twice.")
        if not all(isinstance(tensor, str) for tensor in tensors.values()):
            raise FileFormatError(f"{where}.tensors: expected names of tensors.")
        found[name] = PackagedPart(tensors, item.get("graph", str) if "graph" in item else None)
    return found


def _places(record: Record) -> Iterator[tuple[int, int]]:
    for where, entry in record.items("skipped"):
        yield _whole(entry, 2, where)  # type: ignore[misc]


def _shape(record: Record) -> tuple[int, int, int]:
    return _whole(record.get("input_shape", list), 3, f"{record.where}.input_shape")  # type: ignore[return-value]


def _whole(value: object, count: int, where: str) -> tuple[int, ...]:
    good = isinstance(value, list) and len(value) == count
    if not good or not all(type(number) is int for number in value):  # type: ignore[attr-defined]
        raise FileFormatError(f"{where}: expected {count} whole numbers, but got {value!r}.")
    return tuple(value)  # type: ignore[arg-type]
