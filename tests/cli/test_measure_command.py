"""`mathnas measure`: a real table of a small supernet on this machine, resumed; errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mathnas as mn
from mathnas.cli import main

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

Run = Callable[..., tuple[int, str, str]]
COMMAND = ("--minutes", "20", "--target", "60%", "--validate", "5", "--accept-noise")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measure")


def test_a_table_is_built_judged_and_gone_on_with(run: Run, folder: Path) -> None:
    study, table = folder / "digits.study", folder / "digits.table.json"
    metrics = ("--metrics", "latency_ms,memory_mb_weights")
    code, out, err = run("measure", "digits", study, *COMMAND, *metrics)
    assert code == 0, err
    assert "latency_ms: MAPE" in out
    assert "worst residuals" in out
    assert f"study: {study}\ntable: {table}" in out
    fitted = mn.BlockTable.load(table)
    assert {"latency_ms", "memory_mb_weights", "macs", "params"} <= set(fitted.columns)
    # sizes are sums over blocks, so that the fit is nothing but exact
    space = fitted.space
    rows = np.array(space.sample(20, seed=1))
    sizes = fitted.predict(rows, "memory_mb_weights")
    assert sizes == pytest.approx(4e-6 * fitted.predict(rows, "params"), rel=1e-3)
    largest = np.array([[size - 1 for size in space.sizes]])
    assert 0 < float(fitted.predict(largest, "latency_ms")[0]) < 100

    code, out, err = run("measure", "digits", study, *COMMAND, *metrics, "--json")
    assert code == 0, err
    again = json.loads(out)
    assert again["measurements"] == 0
    assert again["metrics"]["latency_ms"]["networks"] == 5
    assert len(again["metrics"]["latency_ms"]["worst"]) == 5
    assert again["metrics"]["latency_ms"]["additivity"]["networks"] == 5


def test_blocks_in_isolation_say_how_biased_they_are(run: Run, folder: Path) -> None:
    study, target = folder / "digits.study", folder / "alone.json"
    code, out, err = run(
        *("measure", "digits", study, *COMMAND, "--method", "isolation", "-o", target, "--json")
    )
    assert code == 0, err
    record = json.loads(out)
    assert record["method"] == "isolation"
    assert record["table"] == str(target)
    factor = record["metrics"]["latency_ms"]["factor"]
    # every part pays for a call of its own
    assert factor > 1.05
    assert (folder / "digits.parts.study").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--metrics", "speed"), "--metrics takes some of latency_ms"),
        (("--device", "phone"), "another machine is written ssh://"),
        (("--device", "ssh://box", "--metrics", "memory_mb"), "latency_ms is measured on onnxr"),
        (("--device", "ssh://box", "--method", "isolation"), "on this machine only"),
        (("--ssh-option", "Port=22"), "--ssh-option is for --device ssh://"),
        (("--target", "soon"), "--target is a share"),
        (("--engine", "abacus"), "but got 'abacus'"),
        (("--partition", "halves"), "--partition is layers"),
        (("--minutes", "0"), "minutes and the target are positive"),
        (("--method", "isolation", "--metrics", "memory_mb_weights"), "known by formula"),
    ],
)
def test_what_cannot_be_measured_is_told(
    run: Run, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    code, out, err = run("measure", "digits", tmp_path / "s.study", *options)
    assert code == 1
    assert message in err
    assert out == ""


def test_a_study_of_other_nodes_is_told(run: Run, tmp_path: Path) -> None:
    fine = mn.SearchSpace([mn.BlockNode("a", (mn.Block("x"), mn.Block("y")))], name="other")
    mn.Study(tmp_path / "s.study", fine).close()
    code, _, err = run("measure", "digits", tmp_path / "s.study")
    assert code == 1
    assert "'other'" in err
    code, _, err = run("measure", "digits", tmp_path / "s.study", "--partition", "layers")
    assert code == 1
    assert "use another study file" in err


def test_a_supernet_that_is_not_there_is_told(run: Run, tmp_path: Path) -> None:
    code, _, err = run("measure", tmp_path / "none.safetensors")
    assert code == 1
    assert "none.safetensors" in err
