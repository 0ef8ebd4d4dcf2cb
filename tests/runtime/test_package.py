"""Packages: what they hold, and which files are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("safetensors")

import safetensors.numpy

from mathnas import Block, BlockNode, BlockTable, FileFormatError, InvalidInputError, SearchSpace
from mathnas._tensor_files import write_arrays
from mathnas.runtime.package import HEAD, PAIR, STEM, Package, PackagedPart, block_key

SPACE = SearchSpace(
    [BlockNode(f"n{i}", (Block("none", macs=0), Block("conv", macs=5))) for i in range(2)]
)
TABLE = BlockTable(SPACE, (0, 0), {})
SKIPPED = frozenset({(1, 0)})


def package_of(engine: str = "torch", statistics: str = "block") -> Package:
    """Two nodes; block 0 of the second computes nothing, those of the first share weights."""
    after = range(2) if statistics == PAIR else [None]
    blocks = [block_key(0, 0), block_key(0, 1), *(block_key(1, 1, before) for before in after)]
    names = {
        key: "same" if key.startswith("node0") else f"w {key}" for key in (STEM, *blocks, HEAD)
    }
    tensors = {name: np.arange(4, dtype=np.float32) for name in names.values()}
    graph = "graph" if engine == "onnxruntime" else None
    if graph is not None:
        tensors[graph] = np.frombuffer(b"bytes", dtype=np.uint8)
    parts = {key: PackagedPart({"weight": name}, graph) for key, name in names.items()}
    notes = {"preprocessing": {"mean": [0.5]}}
    return Package(TABLE, engine, parts, tensors, (3, 8, 8), statistics, SKIPPED, notes)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
@pytest.mark.parametrize("statistics", ["block", "pair"])
def test_what_is_written_is_read(tmp_path: Path, engine: str, statistics: str) -> None:
    package = package_of(engine, statistics)
    package.write(tmp_path / "net.mathnas")
    found = Package.read(tmp_path / "net.mathnas")
    assert (found.space, found.table.to_dict()) == (SPACE, TABLE.to_dict())
    for name in ("engine", "parts", "input_shape", "statistics", "skipped", "notes"):
        assert getattr(found, name) == getattr(package, name)
    assert found.tensors.keys() == package.tensors.keys()
    for name, tensor in package.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found.tensors[name], tensor)


def test_weights_are_counted_once_and_graphs_are_not() -> None:
    package = package_of("onnxruntime")
    assert package.weight_bytes() == 4 * 16  # stem, what the first node's blocks share, block, head
    assert package.weight_bytes((0, 0)) == 3 * 16
    assert package.largest_bytes() == package.weight_bytes((0, 1)) == 4 * 16


def test_parts_of_a_network() -> None:
    package = package_of(statistics="pair")
    first, second = (package.part(1, 1, before) for before in (0, 1))
    assert first is not None
    assert first != second
    assert package.part(1, 0, 1) is None
    assert package.part(0, 1, None) == package.parts["node0/block1"]
    assert package.parts_of((1, 1)) == [
        package.parts[name] for name in (STEM, "node0/block1", "node1/block1/after1", HEAD)
    ]


def without(parts: dict[str, PackagedPart], name: str) -> dict[str, PackagedPart]:
    return {key: part for key, part in parts.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"engine": "abacus"}, "an engine of a package"),
        (lambda p: {"statistics": "none"}, "batch-norm statistics"),
        (lambda p: {"input_shape": (3, 0, 8)}, "positive numbers"),
        (lambda p: {"parts": without(p.parts, HEAD)}, "lacks 1: head"),
        (lambda p: {"parts": without(p.parts, "node0/block1")}, "lacks 1: node0/block1"),
        (lambda p: {"skipped": frozenset()}, "lacks 1: node1/block0"),
        (lambda p: {"skipped": frozenset({(1, 0), (2, 0)})}, "got block 0 of node 2"),
        (lambda p: {"parts": {**p.parts, "node2/block0": p.parts[HEAD]}}, "nothing uses them"),
        (lambda p: {"statistics": "pair"}, "lacks 2: node1/block1/after0"),
        (lambda p: {"tensors": {}}, "exactly the tensors"),
        (lambda p: {"tensors": {**p.tensors, "more": np.zeros(1)}}, "nothing uses them, 1: more"),
        (lambda p: {"engine": "onnxruntime"}, "stem of onnxruntime has none"),
        (
            lambda p: {"parts": {**p.parts, HEAD: replace(p.parts[HEAD], graph="same")}},
            "head of torch has one",
        ),
    ],
)
def test_what_makes_no_package(change: Callable[[Package], Any], message: str) -> None:
    package = package_of()
    with pytest.raises(InvalidInputError, match=message):
        replace(package, **change(package))


def test_a_graph_is_bytes() -> None:
    package = package_of("onnxruntime")
    with pytest.raises(InvalidInputError, match="a graph is bytes"):
        replace(package, tensors={**package.tensors, "graph": np.zeros(3, np.float32)})


# ---- files that are refused ----------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "net.mathnas"
    package_of("onnxruntime").write(path)
    return path


def test_every_truncated_file_is_refused(written: Path) -> None:
    content = written.read_bytes()
    for length in {0, 7, 8, 100, len(content) // 2, len(content) - 1}:
        written.write_bytes(content[:length])
        with pytest.raises(FileFormatError, match="damaged, or no safetensors file"):
            Package.read(written)


def test_any_changed_bit_of_a_weight_is_found(written: Path) -> None:
    content = bytearray(written.read_bytes())
    content[-3] ^= 1
    written.write_bytes(content)
    with pytest.raises(FileFormatError, match="do not have the digest"):
        Package.read(written)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"cannot be read: No such file"):
        Package.read(tmp_path / "none.mathnas")
    (tmp_path / "text").write_text("a network, honestly")
    with pytest.raises(FileFormatError, match="no safetensors file"):
        Package.read(tmp_path / "text")
    safetensors.numpy.save_file({"x": np.zeros(2)}, tmp_path / "other")
    with pytest.raises(FileFormatError, match="not a mathnas-package file"):
        Package.read(tmp_path / "other")


def record_of(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of a file, and its tensors."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["mathnas"]), safetensors.numpy.load(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "mathnas-network"}, "expected the format 'mathnas-package'"),
        ({"version": 2}, "upgrade mathnas"),
        ({"engine": 3}, "engine: expected str"),
        ({"table": None}, "'table' is missing"),
        ({"parts": []}, "lacks 5: stem"),
        ({"parts": [{"name": "stem"}]}, "'tensors' is missing"),
        ({"parts": [{"name": "stem", "tensors": {"w": 1}}]}, "expected names of tensors"),
        ({"parts": [{"name": "stem", "tensors": {}}] * 2}, "stands twice"),
        ({"skipped": [[1, 0, 2]]}, "expected 2 whole numbers"),
        ({"skipped": [[1, True]]}, "expected 2 whole numbers"),
        ({"input_shape": [3, 8]}, "expected 3 whole numbers"),
        ({"input_shape": [3, 8, -8]}, "positive numbers"),
    ],
)
def test_records_that_make_no_package(written: Path, change: dict[str, Any], message: str) -> None:
    record, tensors = record_of(written)
    write_arrays(written, tensors, {**record, **change})
    with pytest.raises(FileFormatError, match=message):
        Package.read(written)


def test_a_table_of_another_space_is_refused(written: Path) -> None:
    """Its blocks have no parts."""
    record, tensors = record_of(written)
    other = SearchSpace([*SPACE.nodes, BlockNode("n2", (Block("conv", macs=1),))])
    write_arrays(written, tensors, {**record, "table": BlockTable(other, (0,) * 3, {}).to_dict()})
    with pytest.raises(FileFormatError, match="lacks 1: node2/block0"):
        Package.read(written)


def test_reading_needs_neither_torch_nor_onnx(written: Path) -> None:
    code = (
        "import sys\nfrom mathnas.runtime.package import Package\n"
        f"package = Package.read({str(written)!r})\n"
        "print(package.engine, *sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["onnxruntime"]
