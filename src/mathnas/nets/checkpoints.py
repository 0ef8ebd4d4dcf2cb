"""Public weights: once-for-all MobileNetV3 supernets, and networks of NAS-Bench-201.

Files are state dictionaries, as `torch.save` or safetensors writes them. Nothing in a file is run:
a pickle that asks for anything but tensors and plain containers is refused. Every tensor must land
in a place of its shape, and every place must be filled; what may be missing is said by an argument.
"""

from __future__ import annotations

import itertools
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mathnas.errors import FileFormatError, InvalidInputError, MissingExtraError
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.nasbench201 import CellNetwork, NASBench201Net
from mathnas.spaces.mobilenetv3 import MobileNetV3
from mathnas.spaces.nasbench201 import DATASETS, EDGES, STAGES, NASBench201

MOST_BYTES = 2**30  # the largest of these files holds 43 MB
_SHOWN = 4  # names in a message
_MIX = MobileNetV3().widths.mix
_ERRORS = (
    *(OSError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError),
    *(AssertionError, OverflowError, MemoryError, ImportError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)


def load_once_for_all(
    path: str | Path,
    *,
    width: float | None = None,
    resolution: int = 224,
    stem_stride: int = 2,
    dropout: float = 0.0,
    identity_matrices: bool = False,
    most_bytes: int = MOST_BYTES,
) -> MobileNetV3Net:
    """The supernet of a once-for-all checkpoint such as ``ofa_mbv3_d234_e346_k357_w1.2``, in
    evaluation mode.

    Its statistics describe the largest network at best: recalibrate what is extracted.

    Names may be spelled as in the released files (``mobile_inverted_conv``; ``bn.bn`` or ``bn``):
    two names are the same if they are after writing ``conv`` for ``mobile_inverted_conv`` and
    repeated parts once.

    Args:
        path: the weights, bare or under ``state_dict``.
        width: of the space; by default what the classifier's input says (1.0 for 1,280 channels,
            1.2 for 1,536).
        resolution, stem_stride: of the space, which weights do not tell.
        dropout: of the supernet.
        identity_matrices: accept a file without kernel matrices and start them at identity. The
            checkpoints trained at kernel 7 alone (``ofa_D4_E6_K7``) have none, since kernel 7 needs
            none; kernels 5 and 3 are then plain centres, which nobody has trained.
        most_bytes: larger files are refused.

    Raises:
        FileFormatError: the file is missing, too large, no such file, or its tensors are not those
            of this supernet; says which.
        InvalidInputError: an argument is out of range.
        MissingExtraError: the file is safetensors, which is not installed.
    """
    tensors = read_state(path, most_bytes=most_bytes)
    classifier = _matrix(tensors, ("classifier.linear.weight", "classifier.linear.linear.weight"))
    if classifier is None:
        raise _foreign(path, tensors, "a once-for-all MobileNetV3", "classifier.linear.weight")
    classes, mix = classifier.shape
    if width is None:
        width = mix / _MIX
        if not 0.1 <= width <= 10:
            raise FileFormatError(
                f"{path}: the classifier of a MobileNetV3 reads {_MIX} channels times its width "
                f"of 0.1 to 10, but this one reads {mix}."
            )
    supernet = MobileNetV3Net(MobileNetV3(width, resolution, classes, stem_stride), dropout=dropout)
    matrices = {name for name in supernet.state_dict() if name.endswith("_matrix")}
    _fill(
        supernet,
        _renamed(tensors, supernet.state_dict(), path),
        path,
        f"a once-for-all MobileNetV3 of width {width:g}; was it trained with another width, or "
        "with other kernels, expansions or depths than 3,5,7 / 3,4,6 / 2,3,4? Give `width=...` if "
        "only that is guessed wrongly",
        may_lack=[matrices] if identity_matrices else [],
        advice={
            "if it was trained at kernel 7 alone, give `identity_matrices=True`": matrices,
        },
    )
    return supernet.eval()


def load_cell_network(
    path: str | Path,
    cell: str | Sequence[int | str],
    space: NASBench201 | None = None,
    *,
    most_bytes: int = MOST_BYTES,
) -> CellNetwork:
    """A network of NAS-Bench-201 that was trained alone, in evaluation mode.

    Args:
        path: the weights, bare or under ``state_dict``.
        cell: which network it is, as an arch string or as operations; weights do not tell
            ``none``, ``skip_connect`` and ``avg_pool_3x3`` apart.
        space: data set and size; by default what the shapes say.
        most_bytes: larger files are refused.

    Raises:
        FileFormatError: as `load_once_for_all`.
        InvalidInputError: the cell is none of the space.
    """
    tensors = read_state(path, most_bytes=most_bytes)
    space = space or _cell_space(path, tensors, "stem.0.weight", "cells.")
    network = space.parse(cell) if isinstance(cell, str) else space.check(cell)
    static = CellNetwork(network, space)
    _fill(
        static,
        tensors,
        path,
        f"the cell {space.arch(network)} of {space.name}; its file has "
        f"{_operations(tensors)} on the edges of the first cell",
    )
    return static.eval()


def load_cell_supernet(
    path: str | Path,
    space: NASBench201 | None = None,
    *,
    without_statistics: bool = False,
    most_bytes: int = MOST_BYTES,
) -> NASBench201Net:
    """A weight-sharing network of NAS-Bench-201, in evaluation mode.

    ``arch_parameters`` may be missing: where cells were drawn at random there are none.

    Args:
        path: the weights, bare or under ``state_dict``.
        space: data set and size; by default what the shapes say.
        without_statistics: accept a file without running means and variances, as networks with
            ``track_running_stats=False`` have none. They stay 0 and 1: recalibrate what is
            extracted.
        most_bytes: larger files are refused.

    Raises:
        FileFormatError: as `load_once_for_all`.
    """
    tensors = read_state(path, most_bytes=most_bytes)
    space = space or _cell_space(path, tensors, "_stem.0.weight", "_cells.")
    supernet = NASBench201Net(space)
    statistics = {
        name
        for name in supernet.state_dict()
        if name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    _fill(
        supernet,
        tensors,
        path,
        f"the weight-sharing network of {space.name}, whose cells have normalisations without "
        "scales and shifts (affine=False) and convolutions with biases",
        may_lack=[{"arch_parameters"}, *([statistics] if without_statistics else [])],
        advice={
            "if its normalisations tracked no statistics, give `without_statistics=True` and "
            "recalibrate what you extract": statistics,
        },
    )
    return supernet.eval()


# ---- reading -------------------------------------------------------------------------------------


def read_state(
    path: str | Path,
    *,
    most_bytes: int = MOST_BYTES,
    entry: str = "state_dict",
    harmless: Sequence[type | tuple[type, str]] = (),
) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU.

    A dictionary is taken as it is or from its entry `entry`; ``module.`` in front of every name is
    dropped.

    Args:
        path: a file of `torch.save`, or safetensors (told apart by their content).
        most_bytes: files that are larger, or become larger by decompression, are refused.
        entry: under which the tensors are, where there are others.
        harmless: classes besides tensors and containers that a pickle may make; they run no code
            when they are made. With a name, the class stands for the one of that name, which then
            need not be there.

    Raises:
        FileFormatError: the file cannot be read, is too large, or holds anything else.
        MissingExtraError: the file is safetensors, which is not installed.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(entry.file_size for entry in archive.infolist()))
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileFormatError(
            f"{path} cannot be read: {reason}. Weights are one file of torch.save or safetensors."
        ) from error
    if size > most_bytes:
        raise FileFormatError(
            f"{path} holds {size} bytes, but at most {most_bytes} are read: give most_bytes=... if "
            "it is to be trusted."
        )
    loaded = _safetensors(path) if start[8:] == b"{" else _torch(path, harmless)
    if isinstance(loaded, Mapping) and isinstance(loaded.get(entry), Mapping):
        loaded = loaded[entry]
    if not isinstance(loaded, Mapping) or not loaded:
        raise FileFormatError(
            f"{path}: weights are a dictionary of tensors, bare or under {entry!r}, but it "
            f"holds {_described(loaded)}."
        )
    for name, tensor in loaded.items():
        if not (isinstance(name, str) and _is_plain(tensor)):
            raise FileFormatError(
                f"{path}: weights are a dictionary of tensors, bare or under {entry!r}, but "
                f"{name!r} is {_described(tensor)}."
            )
    if all(name.startswith("module.") for name in loaded):
        return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}
    return dict(loaded)


def _torch(path: Path, harmless: Sequence[type | tuple[type, str]]) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(harmless)):
            # of pickles that are no files of torch's: they are refused, or load as they are
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except _ERRORS as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = (
            f"it asks for {asked[1]}, and a pickle may run anything"
            if asked
            # the first line: what follows is advice to trust the file
            else f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
            if not isinstance(error, pickle.UnpicklingError)
            else "it is no pickle of torch"
        )
        raise FileFormatError(
            f"{path} is not a file of plain tensors, or is damaged ({reason}): download it again, "
            "or save its state_dict alone."
        ) from error


def _safetensors(path: Path) -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise MissingExtraError(
            f"{path} is a safetensors file, and safetensors is not installed: pip install "
            "safetensors."
        ) from error
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise FileFormatError(
            f"{path} is a damaged safetensors file ({error}): download it again."
        ) from error


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_complex() or value.is_nested or value.is_meta)
    )


def _described(value: object) -> str:
    if isinstance(value, Mapping):
        keys = ", ".join(map(repr, itertools.islice(value, _SHOWN)))
        return f"a dictionary of {len(value)} ({keys})" if value else "an empty dictionary"
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, {value.layout}"
    return f"a {type(value).__name__}"


# ---- whose tensors they are ----------------------------------------------------------------------


def _matrix(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Tensor | None:
    """The first of these tensors, if it has two dimensions."""
    found = next((tensors[name] for name in names if name in tensors), None)
    return found if found is not None and found.ndim == 2 else None


def _foreign(
    path: str | Path, tensors: Mapping[str, Tensor], what: str, lacking: str
) -> FileFormatError:
    return FileFormatError(
        f"{path} does not hold {what}: it has no matrix {lacking}, but {_listed(list(tensors))}."
    )


def _cell_space(
    path: str | Path, tensors: Mapping[str, Tensor], stem: str, cells: str
) -> NASBench201:
    """The space whose networks have tensors of these shapes."""
    what = "a network of NAS-Bench-201"
    classifier = _matrix(tensors, ["classifier.weight"])
    if classifier is None:
        raise _foreign(path, tensors, what, "classifier.weight")
    if stem not in tensors or tensors[stem].ndim != 4:
        other = "alone" if stem.startswith("_") else "with shared weights"
        raise FileFormatError(
            f"{path} does not hold {what} of this kind: it has no convolution {stem}, but "
            f"{_listed(list(tensors))}. Networks {other} are read by "
            f"{'load_cell_network' if stem.startswith('_') else 'load_cell_supernet'}."
        )
    by_classes = {NASBench201(dataset).classes: dataset for dataset in DATASETS}
    classes = len(classifier)
    if classes not in by_classes:
        raise FileFormatError(
            f"{path} has {classes} classes, but data sets are known for "
            f"{', '.join(map(str, by_classes))}."
        )
    numbers = [re.match(rf"{re.escape(cells)}(\d{{1,6}})\.", name) for name in tensors]
    # the last stage of a network may own no tensors, but the residual blocks always do
    places = {int(found[1]) for found in numbers if found}
    residual = sorted(place for place in places if f"{cells}{place}.downsample.1.weight" in tensors)
    if len(residual) != STAGES - 1:
        raise FileFormatError(
            f"{path} does not hold {what}: it has {len(residual)} residual blocks "
            f"({cells}N.downsample.1.weight), but {STAGES - 1} are expected."
        )
    try:
        return NASBench201(by_classes[classes], len(tensors[stem]), residual[0])
    except InvalidInputError as error:
        raise FileFormatError(f"{path}: {error}") from error


def _operations(tensors: Mapping[str, Tensor]) -> str:
    """What can be told of a cell's operations from the tensors of its first place."""
    found = []
    for edge in range(len(EDGES)):
        weight = tensors.get(f"cells.0.layers.{edge}.op.1.weight")
        kernel = None if weight is None or weight.ndim != 4 else weight.shape[-1]
        found.append("no convolution" if kernel is None else f"nor_conv_{kernel}x{kernel}")
    return ", ".join(found)


def _spelling(name: str) -> str:
    """A name with ``mobile_inverted_conv`` as ``conv`` and repeated parts written once."""
    parts = name.replace(".mobile_inverted_conv.", ".conv.").split(".")
    return ".".join(part for part, _ in itertools.groupby(parts))


def _renamed(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str | Path
) -> dict[str, Tensor]:
    """Tensors under our names where those are spelled otherwise; unknown ones keep theirs."""
    ours = {_spelling(name): name for name in own}
    assert len(ours) == len(own)
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for name, tensor in tensors.items():
        new = ours.get(_spelling(name), name)
        if new in renamed:
            raise FileFormatError(
                f"{path}: every tensor stands once, but {origin[new]} and {name} are two "
                "spellings of one name."
            )
        renamed[new], origin[new] = tensor, name
    return renamed


def _fill(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    path: str | Path,
    what: str,
    *,
    may_lack: Sequence[Collection[str]] = (),
    advice: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Copy tensors into a module's parameters and buffers.

    Args:
        what: the module, for messages.
        may_lack: groups of names; a group may be missing as a whole.
        advice: what to say where exactly this group is missing.

    Raises:
        FileFormatError: a tensor is unknown, missing, or of another shape or kind.
    """
    own = module.state_dict()
    unknown = [name for name in tensors if name not in own]
    missing = {name for name in own if name not in tensors}
    for group in may_lack:
        if missing.issuperset(group):
            missing = missing - set(group)
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        if tensors[name].shape != tensor.shape
        else f"{name} of {tensors[name].dtype} instead of {tensor.dtype}"
        for name, tensor in own.items()
        if name in tensors
        and (
            tensors[name].shape != tensor.shape
            or tensors[name].is_floating_point() != tensor.is_floating_point()
        )
    ]
    problems = [
        f"{label} {_listed(names)}"
        for label, names in (
            ("unknown are", unknown),
            ("missing are", [name for name in own if name in missing]),
            ("of a wrong shape or kind are", wrong),
        )
        if names
    ]
    if problems:
        if not unknown and not wrong:
            for text, group in (advice or {}).items():
                if missing == set(group):
                    what += f"; {text}"
        raise FileFormatError(
            f"{path} has {len(tensors)} tensors where {len(own)} are expected: "
            f"{'; '.join(problems)}. It was read as {what}."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            if name in tensors:
                tensor.copy_(tensors[name])


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
