"""Compressed networks as tensors and a short Python file that needs torch and safetensors alone.

The Python file makes the user's original, by the function that the user names, and changes it:
nodes that are left out, layers that became two, sizes that became smaller; then it puts in the
tensors. What changed is found by comparing the network with a new original, module by module; what
cannot be told so (a block whose code is in no file) is refused. The two files are tried in a new
process that cannot import mathnas before they take their places.
"""

from __future__ import annotations

import copy
import importlib
import math
import os
import pprint
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from mathnas._files import replacing
from mathnas.compression.batches import Batch, call_of
from mathnas.compression.levels import levels_of
from mathnas.compression.skip import Skip
from mathnas.errors import InvalidInputError
from mathnas.nets.agreement import ExportError, check_agreement
from mathnas.nets.tensors import write_tensors

FORMAT, VERSION = "mathnas-compressed", 1
REBUILT_TOLERANCE = 1e-6  # the same layers compute the same, but for the order of sums
_OWN = '"""A compressed network: the original'  # how a file that may be replaced begins
_SECONDS = 600  # for the new process


_Pair: TypeAlias = "tuple[str, tuple[int, int, int], bool, tuple[int, ...]]"


@dataclass
class Changes:
    """What to do to an original.

    Attributes:
        skipped: nodes that are left out, by name; whether they give a tuple.
        pairs: layers that became two, by name: kind, (inputs, rank, outputs), bias, stride.
        attributes: plain values of modules that differ, by name.
    """

    skipped: dict[str, bool] = field(default_factory=dict)
    pairs: dict[str, _Pair] = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)


def changes_between(original: nn.Module, network: nn.Module) -> Changes:
    """What makes a network of an original, but for the tensors.

    Raises:
        ExportError: a part of the network is neither the original's nor a change that a file can
            tell; names it.
    """
    found = Changes()
    _compare("", original, network, found)
    return found


def write_rebuildable(
    network: nn.Module,
    path: Path,
    make: str,
    examples: Sequence[Batch],
    expected: Sequence[Sequence[Tensor]],
    tolerance: float,
) -> float:
    """Write the tensors of a network and a Python file beside them, once both were tried.

    Args:
        path: of the tensors; the Python file has its name and the ending ``.py``.
        make: ``module:object``, as it can be imported in this process and where the files are used.
        examples, expected: batches, and the tensors that the network gives for them.
        tolerance: largest difference, relative to the largest output.

    Returns:
        The largest difference that was found.

    Raises:
        InvalidInputError: a Python file of that name is there that is none of these.
        ExportError: the network cannot be made again from the original.
        FileFormatError: a file cannot be written.
    """
    script = path.with_suffix(".py")
    if script.exists() and not script.read_text(encoding="utf-8", errors="replace").startswith(
        _OWN
    ):
        raise InvalidInputError(
            f"{script.name} is written beside {path.name}, but there is one that mathnas did not "
            "write: take another name."
        )
    changes = changes_between(_original(make), network)
    stored = _stored(network)
    code = _TEMPLATE.format(
        make=make,
        weights=path.name,
        skipped=_literal(changes.skipped),
        pairs=_literal(changes.pairs),
        attributes=_literal(changes.attributes),
        rounded=_literal(stored.rounded),
        same=_literal(stored.same),
        channels_last=_literal(stored.channels_last),
    )
    record = {"format": FORMAT, "version": VERSION, "make": make}
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder)
        write_tensors(trial / path.name, stored.tensors, record)
        (trial / f"{path.stem}.py").write_text(code, encoding="utf-8")
        difference = _tried(trial, path.stem, examples, expected, tolerance)
    write_tensors(path, stored.tensors, record)
    with replacing(script) as temporary:
        temporary.write_text(code, encoding="utf-8")
    return difference


# ---- what changed -------------------------------------------------------------------------------


def _compare(name: str, original: nn.Module, network: nn.Module, found: Changes) -> None:
    where = name or "the model itself"
    if _kind(original) != _kind(network):
        if isinstance(network, Skip):
            found.skipped[name] = network.as_tuple
        elif (pair := _as_pair(network)) is not None:
            found.pairs[name] = pair
        else:
            raise ExportError(
                f"a file makes a network of its original by leaving nodes out, by sizes and by two "
                f"layers for one, but {where}, a {_kind(original)}, became a {_kind(network)}, "
                "whose code is in no file: write a .pt2 or .onnx file, or put that block into the "
                "function that makes the original."
            )
        return
    before = _plain(original)
    differing = {
        key: value
        for key, value in _plain(network).items()
        if key not in before or before[key] != value
    }
    if differing:
        found.attributes[name] = differing
    own, other = dict(original._modules), dict(network._modules)
    if list(own) != list(other):
        raise ExportError(
            f"a network has the submodules of its original, but {where}, a {_kind(network)}, has "
            f"{', '.join(other) or 'none'}, and the original {', '.join(own) or 'none'}: does the "
            "function make the model that was compressed?"
        )
    for key, part in own.items():
        changed = other[key]
        if part is not None and changed is not None:
            _compare(f"{name}.{key}" if name else key, part, changed, found)


def _kind(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _as_pair(module: nn.Module) -> _Pair | None:
    """Two layers as `mathnas.compression.low_rank` makes them."""
    if type(module) is not nn.Sequential or len(module) != 2:
        return None
    first, second = module
    if type(first) is nn.Linear and type(second) is nn.Linear and first.bias is None:
        sizes = (first.in_features, first.out_features, second.out_features)
        return "Linear", sizes, second.bias is not None, ()
    if type(first) is nn.Conv2d and type(second) is nn.Conv2d and first.bias is None:
        if not first.kernel_size == second.kernel_size == (1, 1):
            return None
        sizes = (first.in_channels, first.out_channels, second.out_channels)
        return "Conv2d", sizes, second.bias is not None, tuple(first.stride)
    return None


def _plain(module: nn.Module) -> dict[str, Any]:
    """A module's own attributes that can be written as Python; others are the original's."""
    torchs = {*vars(nn.Module()), "quantised_bits", "quantised_scales"}
    return {
        key: value for key, value in vars(module).items() if key not in torchs and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return type(value) in (tuple, list) and all(map(_is_plain, value))
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)


# ---- tensors ------------------------------------------------------------------------------------


@dataclass
class _Stored:
    """What the file of tensors holds, and what the Python file says of it.

    Attributes:
        tensors: by name; rounded weights as bytes, and beside them their scales.
        rounded: bits and shapes of rounded weights.
        same: names of a tensor that has another name, too, with that.
        channels_last: weights that are laid out so.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    rounded: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    channels_last: list[str] = field(default_factory=list)


def _stored(network: nn.Module) -> _Stored:
    levels, found = levels_of(network), _Stored()
    known: dict[int, str] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise ExportError(
                f"a .safetensors file holds tensors, but the state {name!r} of the network is a "
                f"{type(tensor).__name__}: write a .pt2 or .onnx file."
            )
        if id(tensor) in known:
            found.same[name] = known[id(tensor)]
            continue
        known[id(tensor)] = name
        found.tensors[name] = tensor.detach().clone()
        if name in levels:
            own = levels[name]
            found.tensors[name] = own.packed
            found.tensors[f"{name}.scales"] = own.scales.clone()
            found.rounded[name] = (own.bits, tuple(own.steps.shape))
        if tensor.ndim == 4 and not tensor.is_contiguous():
            found.channels_last.append(name)
    return found


# ---- a trial ------------------------------------------------------------------------------------


def _original(make: str) -> nn.Module:
    """A new original."""
    module, _, name = make.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)
        made = copy.deepcopy(made) if isinstance(made, nn.Module) else made()
    except Exception as error:  # whatever a user's code raises
        raise ExportError(
            f"the original is made by an object that can be imported, as my_package:make_model, "
            f"but {make!r} gave {type(error).__name__}: {error}."
        ) from error
    if not isinstance(made, nn.Module):
        raise ExportError(
            f"the original is a torch.nn.Module, but {make!r} gave a {type(made).__name__}."
        )
    return made.eval()


def _tried(
    folder: Path,
    stem: str,
    examples: Sequence[Batch],
    expected: Sequence[Sequence[Tensor]],
    tolerance: float,
) -> float:
    """The largest difference of what the files give in a new process."""
    from safetensors.torch import load_file, save_file

    given: dict[str, Tensor] = {}
    calls = [_written(call_of(batch), given) for batch in examples]
    save_file(
        {key: own.detach().cpu().contiguous().clone() for key, own in given.items()},
        folder / "given",
    )
    script = _TRIAL.format(
        code=str(folder / f"{stem}.py"),
        threads=torch.get_num_threads(),
        given=str(folder / "given"),
        found=str(folder / "found"),
        calls="[" + ", ".join(calls) + "]",
    )
    paths = [os.getcwd(), *(path for path in sys.path if path)]
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ExportError(
            "the files make the network in a new process without mathnas, but there it failed: "
            f"{told[-1]}. Write a .pt2 or .onnx file instead."
        )
    found = load_file(folder / "found")
    pairs = {
        f"{one}.{place}": own for one, row in enumerate(expected) for place, own in enumerate(row)
    }
    if set(pairs) != set(found):
        raise ExportError(
            f"the files' network gives {len(found)} tensors, but the network {len(pairs)}."
        )
    what = "a network that was made again and the network"
    return max(
        check_agreement(found[key], own, what, tolerance=tolerance) for key, own in pairs.items()
    )


def _written(value: object, given: dict[str, Tensor]) -> str:
    """A value as Python, its tensors as ``given["0"]``."""
    if isinstance(value, Tensor):
        key = str(len(given))
        given[key] = value
        return f'given["{key}"]'
    if type(value) is tuple:
        return "(" + "".join(f"{_written(item, given)}, " for item in value) + ")"
    if type(value) is list:
        return "[" + ", ".join(_written(item, given) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_written(v, given)}" for k, v in value.items()) + "}"
    if _is_plain(value):
        return repr(value)
    raise ExportError(
        "a network that is made again is tried on tensors, numbers, texts, and tuples, lists and "
        f"mappings of them, but the example holds a {type(value).__name__}: write a .pt2 or .onnx "
        "file instead."
    )


def _literal(value: object) -> str:
    return pprint.pformat(value, width=96, sort_dicts=False)


_TRIAL = """
import importlib.util
import sys

sys.modules["mathnas"] = None
import torch
from safetensors.torch import load_file, save_file

torch.set_num_threads({threads})
spec = importlib.util.spec_from_file_location("rebuilt", {code!r})
rebuilt = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rebuilt)


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif hasattr(value, "values"):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


given = load_file({given!r})
network = rebuilt.load()
found = {{}}
with torch.no_grad():
    for one, (args, kwargs) in enumerate({calls}):
        for place, own in enumerate(tensors(network(*args, **kwargs))):
            found[f"{{one}}.{{place}}"] = own.contiguous().clone()
save_file(found, {found!r})
"""

_TEMPLATE = '''"""A compressed network: the original, with what was changed in it, and its tensors.

Needs torch and safetensors, and what makes the original.

    from this_file import load

    network = load()
"""

import copy
import importlib
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

ORIGINAL = "{make}"
WEIGHTS = Path(__file__).with_name("{weights}")
# nodes that pass on their input; True: in a tuple
SKIPPED = {skipped}
# layers that became two: kind, (inputs, rank, outputs), bias, stride
PAIRS = {pairs}
# sizes and other values that changed
ATTRIBUTES = {attributes}
# weights in few bits, with a scale for each output channel: bits, shape
ROUNDED = {rounded}
# tensors that are another one
SAME = {same}
# weights whose channels come last in memory
CHANNELS_LAST = {channels_last}


class Skip(nn.Module):
    def __init__(self, as_tuple):
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, *args, **kwargs):
        x = next(tensors_in((args, kwargs)))
        return (x,) if self.as_tuple else x


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)


def pair(kind, sizes, bias, stride):
    inputs, rank, outputs = sizes
    if kind == "Linear":
        first = nn.Linear(inputs, rank, bias=False)
        return nn.Sequential(first, nn.Linear(rank, outputs, bias=bias))
    first = nn.Conv2d(inputs, rank, 1, stride, bias=False)
    return nn.Sequential(first, nn.Conv2d(rank, outputs, 1, bias=bias))


def unrounded(stored, scales, bits, shape):
    if bits == 8:
        steps = stored.view(torch.int8)
    else:  # two in a byte, the first in the lower half
        steps = torch.stack([stored & 15, stored >> 4], 1).reshape(-1).to(torch.int8)
        steps = torch.where(steps > 7, steps - 16, steps)
        steps = steps[: torch.Size(shape).numel()]
    return steps.reshape(shape).to(scales.dtype) * scales.reshape(-1, *[1] * (len(shape) - 1))


def load():
    module, _, name = ORIGINAL.partition(":")
    made = getattr(importlib.import_module(module), name)
    network = copy.deepcopy(made) if isinstance(made, nn.Module) else made()
    for name, as_tuple in SKIPPED.items():
        network.set_submodule(name, Skip(as_tuple))
    for name, own in PAIRS.items():
        network.set_submodule(name, pair(*own))
    for name, values in ATTRIBUTES.items():
        for key, value in values.items():
            setattr(network.get_submodule(name), key, value)
    with safe_open(str(WEIGHTS), framework="pt") as file:
        tensors = {{name: file.get_tensor(name) for name in file.keys()}}
    for name, (bits, shape) in ROUNDED.items():
        tensors[name] = unrounded(tensors[name], tensors.pop(name + ".scales"), bits, shape)
    for name in CHANNELS_LAST:
        tensors[name] = tensors[name].contiguous(memory_format=torch.channels_last)
    state = set(network.state_dict())
    if state != {{*tensors, *SAME}}:
        raise ValueError(f"{{WEIGHTS}} is not of {{ORIGINAL}}: {{state ^ {{*tensors, *SAME}}}}")
    for name, source in [*zip(tensors, tensors), *SAME.items()]:
        owner, _, own = name.rpartition(".")
        part = network.get_submodule(owner)
        if own in part._buffers:
            part._buffers[own] = tensors[source]
        else:
            if not isinstance(tensors[source], nn.Parameter):
                tensors[source] = nn.Parameter(tensors[source], tensors[source].is_floating_point())
            part._parameters[own] = tensors[source]
    return network.eval()
'''
