"""Bundles: a folder that measures networks on another machine.

The life of a bundle: `write_bundle` writes it here; it is copied; ``python run.py`` measures there,
with Python, numpy and onnxruntime alone; `mathnas.devices.bundle_import` takes its results into a
study here. `mathnas.devices.ssh` does the copying, running and fetching.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx.external_data_helper
import onnx.numpy_helper

import mathnas
from mathnas._progress import Show, progress_bar
from mathnas._records import write_json, write_text
from mathnas.devices.bundle_plan import GRAPHS, LIBRARY, PLAN, RUNNER, BundlePlan, Manifest
from mathnas.devices.bundle_runner import check_plan
from mathnas.devices.common import Engine
from mathnas.devices.noise import NoiseRule
from mathnas.devices.onnxruntime import OnnxRuntimeEngine
from mathnas.devices.timing import TimingSettings
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.sampling import Sample
from mathnas.space import Network, SearchSpace

_WEIGHTS = "weights.bin"
_INLINE = 256  # bytes; shapes and the like must stand in the graph
_ALIGNMENT = 64
_ENTRY = "mathnas.devices.bundle_runner"
_PACKAGE = '''"""The part of mathnas that measures a bundle."""

from mathnas._version import __version__ as __version__
'''
# read by whatever Python is there, so in the oldest words
_RUN = '''"""Measures the networks of this folder; see python run.py --help."""

import os
import sys

if sys.version_info < (3, 10):
    sys.exit("error: this bundle needs Python 3.10 or newer, but this is " + sys.version.split()[0])
sys.dont_write_bytecode = True
folder = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(folder, "lib"))
try:
    import numpy
    import onnxruntime
except ImportError as error:
    sys.exit(
        "error: this bundle needs numpy and onnxruntime, but this Python lacks one (%s): run\\n"
        "    %s -m pip install numpy onnxruntime" % (error, sys.executable or "python3")
    )
try:
    from pathlib import Path

    from mathnas.devices.bundle_runner import main
except Exception as error:
    sys.stderr.write("error: the folder lib is not as it was written (%s): copy again.\\n" % error)
    sys.exit(3)

if __name__ == "__main__":
    sys.exit(main(Path(folder)))
'''


def write_bundle(
    folder: str | Path,
    space: SearchSpace,
    networks: Sample | Iterable[Sequence[int | str]],
    models: Callable[[Network], bytes],
    *,
    engine: Engine[bytes] | None = None,
    timing: TimingSettings | None = None,
    metrics: Sequence[str] = ("latency_ms",),
    together: int = 8,
    repeats: int = 1,
    seed: int = 0,
    conditions: Mapping[str, str] | None = None,
    noise: NoiseRule | None = None,
    accept_noise: bool = False,
    also: Iterable[Sequence[int | str]] = (),
    progress: Show = None,
) -> BundlePlan:
    """Write a bundle, whole or not at all.

    Args:
        folder: must not be there yet.
        networks: of the space; one that stands twice is measured twice. A `Sample` is noted in the
            study that imports the results.
        models: a network to its graph, an ONNX file's content, for `engine`'s batch.
        engine: threads, batch and precision; by default one thread and one input.
        timing: how latency is timed.
        metrics: what is measured.
        together: networks that are measured in turns.
        repeats: measurements of each network.
        seed: of the order of measurement.
        conditions: what else the values depend on, for example the resolution of the inputs.
        noise: what is too noisy, and how often it is tried again.
        accept_noise: keep times that stay disturbed, with notes of what was seen.
        also: further networks, to validate with.
        progress: as in `mathnas.evaluate`.

    Raises:
        InvalidInputError: the folder is there, a network is not of the space, or a metric cannot be
            measured.
        FileFormatError: the folder cannot be written.
    """
    target = Path(folder)
    if target.exists():
        raise InvalidInputError(f"{target} is there already: name another folder, or remove it.")
    runs = engine or OnnxRuntimeEngine()
    chosen = [space.check(network) for network in (*networks, *also)]
    plan = BundlePlan(
        space,
        tuple(chosen),
        tuple(metrics),
        runs.name,
        runs.threads,
        runs.batch,
        runs.precision,
        timing or TimingSettings(),
        together,
        repeats,
        seed,
        dict(conditions or {}),
        noise or NoiseRule(),
        accept_noise,
        networks if isinstance(networks, Sample) else None,
    )
    check_plan(plan)
    building = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        building.mkdir(parents=True)
        _fill(building, plan, models, progress)
        os.rename(building, target)
    except OSError as error:
        raise FileFormatError(
            f"{target} cannot be written: {error.strerror or error}. Name another place."
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return plan


def zip_bundle(folder: Path) -> Path:
    """A bundle in one file, ``FOLDER.zip``; returns its path.

    Raises:
        FileFormatError: it cannot be written, or the bundle is not whole.
    """
    manifest = Manifest.load(folder)
    manifest.check(folder)
    path = folder.with_name(f"{folder.name}.zip")
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name in [*sorted(manifest.files), "manifest.json"]:
                file.write(folder / name, f"{folder.name}/{name}")
    except OSError as error:
        raise FileFormatError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


def share_weights(models: Iterable[bytes], weights: BinaryIO, name: str) -> Iterator[bytes]:
    """The same graphs, with their large tensors in one file that all share.

    Args:
        models: ONNX files' contents.
        weights: where tensors go, each content once.
        name: of that file, which must lie beside the graphs.

    Yields:
        The graphs, each when its tensors are written, without what engines do not need:
        documentation, where nodes come from, and shapes that follow from the inputs'.
    """
    places: dict[bytes, tuple[int, int]] = {}
    end = 0
    for content in models:
        model = onnx.load_from_string(content)
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.STRING:
                continue
            if not tensor.HasField("raw_data"):
                array = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
            data = tensor.raw_data
            if len(data) < _INLINE:
                continue
            key = hashlib.sha256(data).digest()
            if key not in places:
                gap = -end % _ALIGNMENT
                weights.write(bytes(gap) + data)
                places[key] = (end + gap, len(data))
                end += gap + len(data)
            offset, length = places[key]
            onnx.external_data_helper.set_external_data(tensor, name, offset, length=length)
            tensor.ClearField("raw_data")
        _bare(model)
        yield bytes(model.SerializeToString())


def _bare(model: onnx.ModelProto) -> None:
    graph = model.graph
    graph.ClearField("value_info")
    for item in (model, graph, *graph.node, *graph.initializer):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")


def _fill(
    folder: Path, plan: BundlePlan, models: Callable[[Network], bytes], progress: Show
) -> None:
    (folder / GRAPHS).mkdir()
    paths = plan.graphs
    with (
        (folder / GRAPHS / _WEIGHTS).open("wb") as weights,
        progress_bar("writing networks", len(paths), progress) as bar,
    ):
        graphs = share_weights(map(models, paths), weights, _WEIGHTS)
        for path, graph in zip(paths.values(), graphs, strict=True):
            (folder / path).write_bytes(graph)
            bar.advance(1)
    write_json(folder / PLAN, plan.to_dict())
    write_text(folder / RUNNER, _RUN)
    library = _copy_library(folder)
    listed = [PLAN, RUNNER, f"{GRAPHS}/{_WEIGHTS}", *paths.values(), *library]
    Manifest.of(folder, listed).save(folder)


# ---- the modules that a bundle carries ----------------------------------------------------------


def _copy_library(folder: Path) -> list[str]:
    """Copy the runner's module and all that it imports; returns the paths inside the bundle.

    The package itself becomes an empty one: its own imports would bring the search and the studies,
    which no measurement needs.
    """
    root = Path(mathnas.__file__).parent
    written = []
    for module in sorted(_needed(_ENTRY)):
        source = _source(module)
        path = f"{LIBRARY}/mathnas/{source.relative_to(root).as_posix()}"
        text = _PACKAGE if module == "mathnas" else source.read_text(encoding="utf-8")
        write_text(folder / path, text)
        written.append(path)
    return written


def _needed(module: str) -> set[str]:
    """A module, the modules of mathnas that it imports, and so on."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if "." in name:
            waiting.append(name.rpartition(".")[0])
        if name == "mathnas":
            waiting.append("mathnas._version")
        else:
            waiting += _imported(_source(name))
    return found


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.startswith("mathnas.") and _is_module(name))


def _is_module(name: str) -> bool:
    return _source(name).is_file()


def _source(name: str) -> Path:
    path = Path(mathnas.__file__).parent.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
