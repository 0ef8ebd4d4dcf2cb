"""Deployment: which blocks to keep, their statistics, and the package of both.

Life of a package: `choose_blocks` keeps candidates that fit a memory, `deploy` sets their batch
norms, takes their weights and graphs, checks that every part computes what it was made from, and
gives a `Package` to write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mathnas._progress import Show
from mathnas.errors import InvalidInputError, MissingExtraError
from mathnas.grouped import GroupedSpace, Groups
from mathnas.nets.calibrated import CalibratedParts, Place, Sharing, calibrated_parts
from mathnas.nets.folding import folding
from mathnas.nets.inputs import example_inputs
from mathnas.nets.supernet import ChainSupernet
from mathnas.runtime.package import (
    BLOCK,
    ENGINES,
    HEAD,
    PAIR,
    STEM,
    Package,
    PackagedPart,
    block_key,
)
from mathnas.search.selection import Selection, Storage, choose_candidates
from mathnas.space import SearchSpace
from mathnas.table import BlockTable


def default_sharing(engine: str) -> Sharing:
    """Which networks share statistics where that is not said, chosen by benchmarks/deploying.py:
    one set for each block and block before it costs torch little; in onnxruntime, where
    statistics are part of the weights, only the first layer of a block has several.

    Raises:
        InvalidInputError: the engine is unknown.
    """
    if engine not in ENGINES:
        raise InvalidInputError(f"an engine is one of {', '.join(ENGINES)}, but got {engine!r}.")
    return Sharing.PAIR if engine == "torch" else Sharing.ENTRY


def choose_blocks(
    supernet: ChainSupernet,
    table: BlockTable,
    groups: Groups | GroupedSpace | None,
    count: int,
    *,
    memory: float | None = None,
    engine: str = "onnxruntime",
    sharing: Sharing | None = None,
    example: Tensor | None = None,
    limit: str = "latency_ms",
    maximize: str | None = None,
    minimize: str | None = None,
    budgets: int | Sequence[float | int | str] = 32,
    effort: float = 1.0,
    time_limit: float | None = None,
    seed: int = 0,
    progress: Show = False,
) -> Selection:
    """Which blocks to keep resident: at most `count` a group, whose networks are predicted best
    over a range of budgets, and whose weights fit into a memory (see `choose_candidates`).

    Args:
        supernet: of the table's space.
        table: of its nodes.
        groups: the partition into nodes of the dynamic network; None: every node by itself.
        memory: bytes of resident weights at most, stem and head included, as `storage_of` counts
            them.
        engine, sharing: as in `deploy`: what weights take depends on them.
        example: as in `storage_of`.
        limit, maximize, minimize, budgets, effort, time_limit, seed, progress: as in
            `choose_candidates`.

    Raises:
        InvalidInputError: as `choose_candidates`, or the supernet is of another space.
    """
    if supernet.space != table.space:
        raise InvalidInputError(
            f"blocks of one space are chosen, but the table is of {table.space.name} and the "
            f"supernet of {supernet.space.name}."
        )
    whole = _grouped(groups, table.space)
    return choose_candidates(
        table,
        whole,
        count,
        limit=limit,
        maximize=maximize,
        minimize=minimize,
        budgets=budgets,
        storage=storage_of(supernet, count, whole, engine=engine, sharing=sharing, example=example),
        memory=memory,
        effort=effort,
        time_limit=time_limit,
        seed=seed,
        progress=progress,
    )


def storage_of(
    supernet: ChainSupernet,
    count: int,
    groups: Groups | GroupedSpace | None = None,
    *,
    engine: str,
    sharing: Sharing | None = None,
    example: Tensor | None = None,
) -> Storage:
    """What keeping blocks takes in a package, in bytes of weights.

    Equal tensors of blocks are one piece. Each candidate's own are statistics for torch, and for
    onnxruntime, whose batch norms are folded, the convolutions before them; where there is a set
    for each block before, those of a group's first node are one piece for all candidates that
    begin with a block. They count as often as the group before can have candidates: never less
    than there will be.

    Args:
        groups: as in `choose_blocks`.
        example: an input of the supernet, shape (batch, ...), in which a run sees what is folded;
            by default one of `example_inputs`. Not used for torch.

    Raises:
        InvalidInputError: the engine is unknown, the groups are no partition, or an example is
            needed, and the supernet does not say how large its inputs are.
    """
    usual = default_sharing(engine)  # refuses an unknown engine in any case
    sharing = sharing or usual
    space = supernet.space
    whole = _grouped(groups, space)
    ends = (supernet.extract_stem(), supernet.extract_head())
    value = None  # what comes into a node: of one shape, whatever was before
    if engine == "onnxruntime":
        shown = example_inputs(supernet, 1) if example is None else example
        value = _output(ends[0], shown[:1])
    own, pieces = [], []
    for group, nodes in enumerate(whole.partition):
        first = True  # whether candidates may begin with this node
        for node in nodes:
            modules = [supernet.extract_block(node, block) for block in range(space.sizes[node])]
            by_pair = sharing is Sharing.PAIR or (sharing is Sharing.ENTRY and first)
            times = min(count, whole.sizes[group - 1]) if group and by_pair else 1
            # what comes into a group's first node, and so its statistics, is the same for all
            # candidates that begin with a block
            alike = node == nodes[0] and (not group or by_pair)
            for block, module in enumerate(modules):
                copied, shared = _sizes(module, value)
                if alike:
                    shared[f"{node}/{block}"] = float(times * copied)
                own.append(0.0 if alike else float(times * copied))
                pieces.append(shared)
            first = first and any(isinstance(module, nn.Identity) for module in modules)
            value = None if value is None else _output(modules[0], value)
    # statistics that are equal now will not be
    fixed = sum(tensor.nbytes for module in ends for tensor in module.state_dict().values())
    return Storage(float(fixed), np.array(own), pieces)


def _grouped(groups: Groups | GroupedSpace | None, space: SearchSpace) -> GroupedSpace:
    if isinstance(groups, GroupedSpace):
        return groups
    if groups is None:
        groups = {node.name: [node.name] for node in space.nodes}
    return GroupedSpace(space, groups)


def _sizes(module: nn.Module, given: Tensor | None) -> tuple[int, dict[str, float]]:
    """Bytes of what there is one of for each set of statistics, and the others by content.

    Args:
        given: the module's input, where its batch norms are folded.
    """
    if given is None:
        changing = {
            _joined(name, own)
            for name, part in module.named_modules()
            if isinstance(part, _BatchNorm)
            for own in dict(part.named_buffers(recurse=False))
        }
    else:
        module, convolutions = folding(module, given)
        changing = {_joined(name, own) for name in convolutions for own in ("weight", "bias")}
    copied, shared = 0, {}
    for name, tensor in module.state_dict().items():
        if name in changing:
            copied += tensor.nbytes
        else:
            shared[_content(tensor.numpy())] = float(tensor.nbytes)
    return copied, shared


def _output(module: nn.Module, given: Tensor) -> Tensor:
    with torch.no_grad():
        return cast(Tensor, module(given))


def _joined(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name


def deploy(
    supernet: ChainSupernet,
    table: BlockTable,
    batches: Sequence[Tensor],
    *,
    engine: str = "onnxruntime",
    sharing: Sharing | None = None,
    notes: Mapping[str, object] | None = None,
    seed: int = 0,
    progress: Show = False,
) -> Package:
    """The package of all networks of a supernet: every block's weights with statistics of its own.

    Args:
        supernet: in evaluation mode, with the blocks to keep and no others: for candidates of
            groups a `mathnas.nets.grouped.GroupedSupernet`.
        table: predictions of its networks; how far they may be off is not kept.
        batches: training images for batch-norm statistics, each of shape (batch, channels, height,
            width).
        engine: ``onnxruntime`` or ``torch``: what the parts are made for.
        sharing: which networks share statistics; by default `default_sharing`.
        notes: JSON values to keep, such as how inputs are normalised.
        seed: of the calibration.
        progress: whether to show it (see `mathnas._progress`).

    Raises:
        InvalidInputError: the engine is unknown, the table is of another space, or there is no
            batch.
        ExportError: a graph does not compute what its module does.
        MissingExtraError: the engine's packages are not installed.
    """
    usual = default_sharing(engine)  # refuses an unknown engine in any case
    sharing = sharing or usual
    if table.space != supernet.space:
        raise InvalidInputError(
            f"a package's table is of the blocks that are kept, those of {supernet.space.name}, "
            f"but got a table of {table.space.name}."
        )
    onnx_parts = _onnx_parts_of(engine)  # what is missing is named at once
    parts = calibrated_parts(supernet, batches, sharing=sharing, seed=seed, progress=progress)
    modules = {place: m for place, m in parts.blocks.items() if not isinstance(m, nn.Identity)}
    skipped = frozenset(place[:2] for place in parts.blocks if place not in modules)
    shelf = _Shelf()
    if onnx_parts is None:
        made = _torch_parts(parts, modules, shelf)
    else:
        made = onnx_parts(parts, modules, batches[0], shelf.add, progress=progress)
    channels, height, width = batches[0].shape[1:]
    images = sum(map(len, batches))
    return Package(
        table.without_posteriors(),
        engine,
        made,
        shelf.tensors,
        (channels, height, width),
        PAIR if parts.by_pair else BLOCK,
        skipped,
        {**(notes or {}), "sharing": sharing.value, "calibration_images": images},
    )


def check_engine(engine: str) -> None:
    """Whether parts for an engine can be made here.

    Raises:
        InvalidInputError: the engine is unknown.
        MissingExtraError: its packages are not installed.
    """
    default_sharing(engine)
    _onnx_parts_of(engine)


def _onnx_parts_of(engine: str) -> Callable[..., dict[str, PackagedPart]] | None:
    """What makes graphs for an engine; None where it takes modules."""
    if engine == "torch":
        return None
    try:
        from mathnas.runtime.onnx_packaging import onnx_parts
    except ImportError as error:
        raise MissingExtraError(
            f"parts for onnxruntime need {error.name or error}: pip install 'mathnas[onnx]'."
        ) from error
    return onnx_parts


def _torch_parts(
    parts: CalibratedParts, modules: Mapping[Place, nn.Module], shelf: _Shelf
) -> dict[str, PackagedPart]:
    def part(module: nn.Module) -> PackagedPart:
        state = module.state_dict()
        return PackagedPart({name: shelf.add(tensor.numpy()) for name, tensor in state.items()})

    blocks = {block_key(*place): part(module) for place, module in modules.items()}
    return {STEM: part(parts.stem), **blocks, HEAD: part(parts.head)}


@dataclass
class _Shelf:
    """Tensors by content: each is there once."""

    tensors: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    def add(self, array: npt.NDArray[np.generic]) -> str:
        """The name of a tensor with this content."""
        name = _content(array)
        self.tensors.setdefault(name, np.array(array))
        return name


def _content(array: npt.NDArray[np.generic]) -> str:
    """A name that equal arrays have, and no others."""
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:24]
