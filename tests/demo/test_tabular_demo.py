"""The demo on the measurements that the package carries."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from demo_cases import SPACE, MadeUpBench, accuracy, latency
from rich.console import Console

from mathnas import FileFormatError
from mathnas.demo.flow import run_tabular_demo
from mathnas.demo.make_table import make_table
from mathnas.demo.tabular import PROVENANCE_FILE, TABLE_FILE, TabularBench


@pytest.fixture(scope="module")
def packaged() -> TabularBench:
    return TabularBench.load()


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A table that `make_table` wrote."""
    make_table(MadeUpBench(), tmp_path, progress=False)
    return tmp_path


def test_the_package_carries_every_network(packaged: TabularBench) -> None:
    assert packaged.space.num_networks == 10_000
    for evaluator in (packaged.accuracy, packaged.latency):
        outcomes = [evaluator.evaluate(network, 0) for network in packaged.space.enumerate()]
        assert len(outcomes) == 10_000


def test_the_packages_numbers_are_plausible(packaged: TabularBench) -> None:
    networks = packaged.space.all_networks()
    rows = list(map(tuple, networks.tolist()))
    accuracies = [float(str(packaged.accuracy.evaluate(row, 0)["accuracy"])) for row in rows]
    latencies = [float(str(packaged.latency.evaluate(row, 0)["latency_ms"])) for row in rows]
    assert 50 < min(accuracies) < max(accuracies) - 5 < 95
    assert 0 < min(latencies) < max(latencies) / 3
    # more work takes longer
    assert np.corrcoef(packaged.space.macs(networks), latencies)[0, 1] > 0.9


def test_the_package_says_how_it_was_measured(packaged: TabularBench) -> None:
    provenance = packaged.provenance
    assert set(provenance) >= {"device", "made_by", "measured_from", "seed", "versions"}
    assert packaged.latency.conditions["engine"] == "onnxruntime"
    assert "held_out" in packaged.accuracy.conditions


def test_the_space_is_that_of_the_digits_net(packaged: TabularBench) -> None:
    pytest.importorskip("torch")
    from mathnas.nets.digits import DigitsConfig, digits_space

    assert packaged.space == digits_space(DigitsConfig())


def test_the_demo_on_the_packages_table(tmp_path: Path) -> None:
    screen = io.StringIO()
    percentiles = []
    for seed in range(3):
        folder = tmp_path / str(seed)
        result = run_tabular_demo(folder, seed=seed, console=Console(file=screen))
        percentiles.append(result.percentile)
        choice = json.loads((folder / "network.json").read_text(encoding="utf-8"))
        assert tuple(choice["network"]) == result.found.network
    assert np.mean(percentiles) >= 80
    assert "pip install 'mathnas[demo]'" in screen.getvalue()


def test_it_needs_neither_torch_nor_onnx_nor_sklearn(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'sklearn'): sys.modules[name] = None\n"
        "from mathnas.demo.flow import run_tabular_demo\n"
        f"print(run_tabular_demo({str(tmp_path)!r}).percentile)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 <= float(ran.stdout.splitlines()[-1]) <= 100


def test_a_made_table_reads_back(made: Path) -> None:
    bench = TabularBench.load(made)
    assert bench.space == SPACE
    for network in SPACE.enumerate():
        assert bench.accuracy.evaluate(network, 0) == {"accuracy": accuracy(network)}
        assert bench.latency.evaluate(network, 0) == {"latency_ms": latency(network)}
    assert bench.provenance["made"] == "up"
    assert bench.provenance["networks"] == 81
    assert bench.latency.conditions == {"passes": "lower of 2, in a shuffled order"}


def test_making_a_table_goes_on_where_it_stopped(made: Path) -> None:
    before = (made / TABLE_FILE).read_bytes()
    (made / TABLE_FILE).unlink()
    bench = MadeUpBench()
    make_table(bench, made, progress=False)
    assert bench.asked == []
    assert (made / TABLE_FILE).read_bytes() == before


def test_a_table_keeps_the_lower_of_two_latencies(tmp_path: Path) -> None:
    bench = MadeUpBench()
    disturbed = iter([5.0] * 81 + [0.0] * 81)
    undisturbed = bench.latency.function
    bench.latency.function = lambda network: float(str(undisturbed(network))) + next(disturbed)
    make_table(bench, tmp_path, progress=False)
    table = TabularBench.load(tmp_path)
    for network in SPACE.enumerate():
        assert table.latency.evaluate(network, 0) == {"latency_ms": latency(network)}


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"measurements.*cannot be read"):
        TabularBench.load(tmp_path)


def test_a_table_that_lacks_networks_is_told(made: Path) -> None:
    text = 'network,accuracy,latency_ms\n"0,0,0,0",60.0,1.0\n'
    (made / TABLE_FILE).write_bytes(gzip.compress(text.encode()))
    with pytest.raises(FileFormatError, match="holds 1 of the 81 networks"):
        TabularBench.load(made)


@pytest.mark.parametrize(
    "damage",
    [b"", b"not gzip", gzip.compress(b"\xff")[:-9]],
    ids=["empty", "not gzip", "cut"],  # gzip notes the time, and workers must collect the same
)
def test_a_damaged_table_is_told(made: Path, damage: bytes) -> None:
    (made / TABLE_FILE).write_bytes(damage)
    with pytest.raises(FileFormatError):
        TabularBench.load(made)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ('"0,0,0,9",60.0,1.0', "blocks 0 to 2, but got 9"),
        ('"0,0,0,0",much,1.0', "could not convert"),
        ('"0,0,0,0",60.0', "float"),
    ],
)
def test_a_damaged_row_is_told(made: Path, row: str, complaint: str) -> None:
    text = f"network,accuracy,latency_ms\n{row}\n"
    (made / TABLE_FILE).write_bytes(gzip.compress(text.encode()))
    with pytest.raises(FileFormatError, match=f"line 2: .*{complaint}"):
        TabularBench.load(made)


def test_a_foreign_description_is_told(made: Path) -> None:
    (made / PROVENANCE_FILE).write_text('{"format": "other", "version": 1}', encoding="utf-8")
    with pytest.raises(FileFormatError, match="expected the format 'mathnas-demo-table'"):
        TabularBench.load(made)
