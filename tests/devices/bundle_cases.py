"""A space of small graphs made by hand, and a place where nothing but a bundle's needs is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mathnas import Block, BlockNode, Network, SearchSpace
from mathnas.devices.bundle import write_bundle
from mathnas.devices.bundle_plan import BundlePlan
from mathnas.devices.bundle_runner import run_bundle
from mathnas.devices.noise import NoiseRule
from mathnas.devices.timing import TimingSettings
from mathnas.space import network_text

SPACE = SearchSpace(
    [BlockNode(f"node{i}", tuple(Block(f"x{n}") for n in range(3))) for i in range(3)],
    name="layers",
)
NETWORKS: tuple[Network, ...] = tuple(
    (a, b, c) for a in range(3) for b in range(3) for c in range(3)
)
SIDE = 48
QUICK = TimingSettings(rounds=2, slice_ms=0.2, warmup_ms=1.0)
ONCE = NoiseRule(attempts=1)
_WEIGHTS = [
    np.random.default_rng(seed).normal(size=(SIDE, SIDE)).astype(np.float32) / 7
    for seed in range(3)
]


def model(network: Network) -> bytes:
    """Block n of a node multiplies with the node's matrix and adds a bias, n times."""
    names = iter(range(100))
    value, nodes, tensors = "x", [], []
    for node, times in enumerate(network):
        for _ in range(times):
            number = next(names)
            weight, bias, product, total = (f"{what}{number}" for what in "wbpt")
            # each layer has its tensors under a name of its own, as exporters do it
            tensors.append(numpy_helper.from_array(_WEIGHTS[node], weight))
            tensors.append(numpy_helper.from_array(np.array(node + times, dtype=np.float32), bias))
            nodes.append(helper.make_node("MatMul", [value, weight], [product]))
            nodes.append(helper.make_node("Add", [product, bias], [total], doc_string="a layer"))
            value = total
    tensors.append(numpy_helper.from_array(np.array([-1, SIDE // 2], dtype=np.int64), "shape"))
    nodes.append(helper.make_node("Reshape", [value, "shape"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, SIDE // 2])],
        tensors,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def a_bundle(
    folder: Path,
    networks: Sequence[Network] = NETWORKS,
    *,
    timing: TimingSettings = QUICK,
    together: int = 2,
    repeats: int = 1,
) -> BundlePlan:
    return write_bundle(
        folder,
        SPACE,
        networks,
        model,
        timing=timing,
        together=together,
        repeats=repeats,
        conditions={"resolution": "48"},
        # other tests may run beside these
        noise=ONCE,
        accept_noise=True,
    )


def bare_python(folder: Path) -> str:
    """Python in an environment with numpy and onnxruntime, with what these need, and nothing else:
    not mathnas."""
    venv.create(folder, symlinks=True, with_pip=False)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    there = folder / "lib" / version / "site-packages"
    here = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs", "onnxruntime", "flatbuffers", "packaging", "google"):
        if (here / name).exists():
            (there / name).symlink_to(here / name, target_is_directory=True)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return bare_python(tmp_path_factory.mktemp("bare"))


def ran(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def lines_of(results: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def measured(results: Path) -> list[str]:
    """The networks that stand in a results file, in its order."""
    found = []
    for line in lines_of(results):
        if line["kind"] == "measured":
            assert isinstance(line["network"], list)
            found.append(network_text(line["network"]))
    return found


@pytest.fixture(scope="module", autouse=True)
def own_lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measurements wait for others on the machine, but those of these tests not for anybody's."""
    folder = str(tmp_path_factory.mktemp("lock"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="module")
def _written(own_lock: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    a_bundle(folder / "new")
    shutil.copytree(folder / "new", folder / "measured")
    run_bundle(folder / "measured", name="a box")
    return folder


@pytest.fixture
def bundle(_written: Path, tmp_path: Path) -> Path:
    """A bundle of all networks."""
    return Path(shutil.copytree(_written / "new", tmp_path / "made"))


@pytest.fixture
def measured_bundle(_written: Path, tmp_path: Path) -> Path:
    """The same, with results."""
    return Path(shutil.copytree(_written / "measured", tmp_path / "made"))
