"""ONNX graphs of static networks and of a supernet's parts.

Exporting takes about a second a graph. `OnnxParts` therefore exports all parts of a supernet at
once and puts a network's graph together from them in milliseconds: many networks can be measured
on the engine that will serve them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import onnx.compose
import onnx.utils
import onnxruntime
import torch
from torch import Tensor, nn

from mathnas.errors import InvalidInputError
from mathnas.nets.agreement import TOLERANCE, check_agreement
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.supernet import ChainSupernet, StagedNetwork, Supernet
from mathnas.space import Network, SearchSpace


def export_onnx(
    module: nn.Module, example: Tensor, *, any_batch: bool = False, tolerance: float = TOLERANCE
) -> onnx.ModelProto:
    """Export a static module and check the graph in onnxruntime on `example`.

    The graph's input is called ``images``, its output ``logits``.

    Args:
        module: in evaluation mode; one input, one output.
        example: an input, shape (batch, ...).
        any_batch: leave the batch open, instead of fixing the example's.
        tolerance: largest difference between graph and module, relative to the largest output.

    Raises:
        ExportError: graph and module disagree.
    """
    graph = exported(module, (example,), ["images"], ["logits"], open_shapes=_any(any_batch, 1))
    with torch.no_grad():
        expected = module(example)
    found = torch.from_numpy(run_onnx(graph, example.numpy(force=True)).copy())
    check_agreement(found, expected, "a graph and its module", tolerance=tolerance)
    return graph


def run_onnx(graph: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    """The only output of a graph for its only input, computed by onnxruntime on the CPU."""
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs})
    return np.asarray(outputs)


@dataclass(frozen=True)
class OnnxParts:
    """The parts of a supernet as graphs for one batch size.

    Attributes:
        space: the networks that can be put together.
        stem, head: what every network has.
        blocks: per node and block; None where nothing is computed.
    """

    space: SearchSpace
    stem: onnx.ModelProto
    blocks: tuple[tuple[onnx.ModelProto | None, ...], ...]
    head: onnx.ModelProto

    @classmethod
    def export(cls, supernet: ChainSupernet, example: Tensor) -> OnnxParts:
        """Export stem, blocks and head in one go.

        Args:
            supernet: any; batch-norm statistics are taken as they stand.
            example: an input; its batch size is that of the graphs.
        """
        blocks = [
            [supernet.extract_block(node, block) for block in range(size)]
            for node, size in enumerate(supernet.space.sizes)
        ]
        ends = (supernet.extract_stem(), supernet.extract_head())
        return cls.export_modules(supernet.space, ends, blocks, example)

    @classmethod
    def export_modules(
        cls,
        space: SearchSpace,
        ends: tuple[nn.Module, nn.Module],
        modules: Sequence[Sequence[nn.Module]],
        example: Tensor,
        *,
        any_batch: bool = False,
    ) -> OnnxParts:
        """As `export`, of modules.

        Args:
            ends: stem and head.
            modules: per node and block; `nn.Identity` where nothing is computed.
            example: an input, of at least 2 images where the batch is left open.
            any_batch: leave the batch open, instead of fixing the example's.
        """
        parts = _Parts(ends, modules, example).eval()
        shapes = _any(any_batch, len(parts.examples))
        whole = exported(
            parts,
            tuple(parts.examples),
            parts.input_names,
            parts.output_names,
            # it takes its inputs as one tuple
            open_shapes=None if shapes is None else (shapes,),
        )
        extractor = onnx.utils.Extractor(whole)

        def cut(name: str) -> onnx.ModelProto:
            graph = extractor.extract_model([parts.input_of[name]], [name])
            # equal constants are stored once in `whole`: give each part its own names
            return _own_names(graph, name)

        names = [
            [_block_name(node, block) for block in range(size)]
            for node, size in enumerate(space.sizes)
        ]
        blocks = tuple(
            tuple(cut(name) if name in parts.input_of else None for name in node) for node in names
        )
        return cls(space, cut("stem"), blocks, cut("logits"))

    def assemble(self, network: Network) -> onnx.ModelProto:
        """The graph of one network.

        Raises:
            InvalidInputError: the network does not belong to the space.
        """
        chosen = [self.blocks[i][j] for i, j in enumerate(self.space.check(network))]
        return joined([self.stem, *(part for part in chosen if part is not None), self.head])

    def assemble_bytes(self, network: Network) -> bytes:
        """The graph of one network as an ONNX file's content."""
        return bytes(self.assemble(network).SerializeToString())


class NetworkGraphs:
    """The networks of a supernet as ONNX files' contents: what an engine's latencies are taken of.

    The parts of a `ChainSupernet` are exported when the first network is asked for, which takes
    about a quarter of a second a block, once. Where a supernet says which parts of its networks are
    alike (`Supernet.part_keys`), each is exported when a network first has it. Other supernets'
    networks are exported one by one.
    A supernet in groups is put together from the finer supernet's parts.

    Args:
        supernet: batch-norm statistics are taken as they stand: times do not depend on them.
        example: an input; its batch size is that of the graphs.
        parts: of the finer supernet, where they were exported before with such an example.
    """

    def __init__(
        self, supernet: Supernet, example: Tensor, *, parts: OnnxParts | None = None
    ) -> None:
        grouped = supernet if isinstance(supernet, GroupedSupernet) else None
        self.supernet = supernet if grouped is None else grouped.fine
        self.example = example
        self.space = supernet.space
        self._grouped = None if grouped is None else grouped.space
        self._given = parts
        self._known: dict[Hashable, onnx.ModelProto] = {}

    @cached_property
    def parts(self) -> OnnxParts | None:
        """Of a chain supernet; None for others."""
        if self._given is not None:
            return self._given
        if not isinstance(self.supernet, ChainSupernet):
            return None
        return OnnxParts.export(self.supernet, self.example)

    def __call__(self, network: Network) -> bytes:
        """The graph of one network.

        Raises:
            InvalidInputError: the network does not belong to the space.
        """
        if self._grouped is not None:
            network = self._grouped.expand(network)
        if self.parts is not None:
            return self.parts.assemble_bytes(network)
        module, keys = self.supernet.extract(network), self.supernet.part_keys(network)
        if keys is None or not isinstance(module, StagedNetwork):
            return bytes(export_onnx(module, self.example).SerializeToString())
        return bytes(self._of_parts(module, keys).SerializeToString())

    def _of_parts(self, module: StagedNetwork, keys: Sequence[Hashable]) -> onnx.ModelProto:
        """A graph of parts, of which the unknown ones are exported."""
        x = self.example
        parts: list[onnx.ModelProto] = []
        for key, part in zip(keys, (module.stem, *module.nodes, module.head), strict=True):
            if isinstance(part, nn.Identity):
                continue
            if key not in self._known:
                name = f"part{len(self._known)}"
                # the first part's input and the last one's output are the network's
                outer = "logits" if part is module.head else name
                graph = exported(part, (x,), [f"{name}_input" if parts else "images"], [outer])
                self._known[key] = _own_names(graph, name)
            parts.append(self._known[key])
            with torch.no_grad():
                x = part(x)
        graph = joined(parts)
        found = torch.from_numpy(run_onnx(graph, self.example.numpy(force=True)).copy())
        check_agreement(found, x, "a graph of parts and its module")
        return graph

    def block_parts(self, node: int, block: int) -> list[onnx.ModelProto]:
        """The parts of a chain supernet that a block consists of, in their order: none where
        nothing is computed, several where it is a candidate of a group.

        Raises:
            InvalidInputError: the supernet is no chain.
        """
        if self.parts is None:
            raise InvalidInputError(
                f"blocks run one after another in chain supernets, but {self.space.name} is of "
                f"a {type(self.supernet).__name__}."
            )
        places = [(node, block)]
        if self._grouped is not None:
            chosen = self._grouped.candidates[node][block].tolist()
            places = list(zip(self._grouped.partition[node], chosen, strict=True))
        found = [self.parts.blocks[i][j] for i, j in places]
        return [part for part in found if part is not None]


def joined(parts: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """One graph of parts that run one after another.

    Nodes and constants of parts have names of their own (see `_own_names`), so that the parts are
    copied as they are: ten times as fast as `onnx.compose.merge_models`.
    """
    graph = onnx.ModelProto()
    graph.CopyFrom(parts[0])
    last = parts[0].graph.output[0].name
    for part in parts[1:]:
        own = part.graph.input[0].name
        for node in part.graph.node:
            copy = graph.graph.node.add()
            copy.CopyFrom(node)
            copy.input[:] = [last if name == own else name for name in node.input]
        graph.graph.initializer.extend(part.graph.initializer)
        last = part.graph.output[0].name
    del graph.graph.output[:]
    graph.graph.output.extend(parts[-1].graph.output)
    return graph


def _own_names(graph: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A part whose nodes and constants no other part's are called like."""
    return onnx.compose.add_prefix(graph, f"{name}/", rename_inputs=False, rename_outputs=False)


class _Parts(nn.Module):
    """All parts side by side, each on an input of its own: what is exported in one go."""

    def __init__(
        self,
        ends: tuple[nn.Module, nn.Module],
        modules: Sequence[Sequence[nn.Module]],
        example: Tensor,
    ) -> None:
        super().__init__()
        stem, head = ends
        self.parts = nn.ModuleList()
        self.input_names: list[str] = []
        self.output_names: list[str] = []
        self.examples: list[Tensor] = []
        self.input_of: dict[str, str] = {}
        self._stage(example, "images", {"stem": stem})
        for node, own in enumerate(modules):
            x = self._last_output()
            blocks = {_block_name(node, j): block for j, block in enumerate(own)}
            computing = {n: b for n, b in blocks.items() if not isinstance(b, nn.Identity)}
            if computing:
                self._stage(x, f"node{node}", computing)
        self._stage(self._last_output(), "head", {"logits": head})

    def _stage(self, example: Tensor, name: str, parts: dict[str, nn.Module]) -> None:
        self.input_names.append(name)
        self.examples.append(example)
        for output, part in parts.items():
            self.parts.append(part)
            self.output_names.append(output)
            self.input_of[output] = name

    def _last_output(self) -> Tensor:
        with torch.no_grad():
            output: Tensor = self.parts[-1](self.examples[-1])
        return output

    def forward(self, *examples: Tensor) -> list[Tensor]:
        inputs = dict(zip(self.input_names, examples, strict=True))
        return [
            part(inputs[self.input_of[name]])
            for name, part in zip(self.output_names, self.parts, strict=True)
        ]


def _block_name(node: int, block: int) -> str:
    return f"node{node}_block{block}"


def exported(
    module: nn.Module,
    examples: tuple[Tensor | tuple[Tensor, ...], ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    *,
    open_shapes: tuple[object, ...] | None = None,
    opset: int | None = None,
) -> onnx.ModelProto:
    """The graph of a module with several inputs and outputs; it is not compared with the module.

    Args:
        module: in evaluation mode.
        open_shapes: for each input which of its sizes are left open, as in `torch.export`; None
            fixes all to the examples'.
        opset: version of ONNX's operators; by default the exporter's.

    Raises:
        InvalidInputError: the module is in training mode.
    """
    if module.training:
        raise InvalidInputError(
            "a module is exported in evaluation mode, but this one is in training mode: call "
            "eval() first."
        )
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module,
            examples,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=open_shapes,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _any(batch: bool, inputs: int) -> tuple[object, ...] | None:
    """Shapes whose batch is open, if it is."""
    return tuple({0: torch.export.Dim("batch")} for _ in range(inputs)) if batch else None


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep torch's exporter from warning about packages that it does not need here, and of
    constants that it leaves to engines."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript.optimizer")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            # inputs of several parts have some sizes in common, and so one name of each
            warnings.filterwarnings("ignore", message=".*The axis name: .* will not be used")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
