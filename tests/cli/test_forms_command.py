"""The command line on a space of a known family: its forms and features come back everywhere."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mathnas as mn
from mathnas.cli._options import load_table, read_study, restored_space
from mathnas.errors import FileFormatError
from mathnas.spaces import NASBench201
from mathnas.spaces.nasbench201 import executed_cells

Run = Callable[..., tuple[int, str, str]]
SPACE = NASBench201("cifar10")
CELLS = np.array([cell for cell in SPACE.sample(260, seed=3) if any(SPACE.canonical(cell))][:110])
EVALUATOR = ("--evaluator", "table:measured.csv")


def values_of(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An accuracy that depends on paths alone, and a latency of what is executed."""
    features = SPACE.features(cells)
    accuracy = (
        60 + 8 * np.tanh(features[:, 1] - 2) - 5 * (features[:, 4] == 0) - features[:, 8] ** 2
    )
    costs = np.array([0.0, 0.1, 0.6, 1.7, 0.4]) * np.arange(1, 7)[:, None]
    latency = 1 + costs[np.arange(6), executed_cells(cells)].sum(axis=1)
    return accuracy, latency


@pytest.fixture
def studied(run: Run) -> Run:
    """`run`, with c.study of 80 cells and measured.csv of 30 more."""
    accuracy, latency = values_of(CELLS)
    lines = ["network,accuracy,latency_ms"]
    for cell, quality, cost in zip(CELLS.tolist(), accuracy, latency, strict=True):
        lines.append(f'"{",".join(map(str, cell))}",{quality},{cost}')
    Path("measured.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    networks = itertools.chain.from_iterable(
        ("--network", ",".join(map(str, cell))) for cell in CELLS[:80].tolist()
    )
    done = run("evaluate", "c.study", "--space", "nasbench201:cifar10", *EVALUATOR, *networks)
    assert done[0] == 0, done[2]
    return run


@pytest.fixture
def fitted(studied: Run) -> Run:
    """The same with c.table.json, fitted by regression."""
    assert studied("fit", "c.study", "--method", "regression")[0] == 0
    return studied


def json_of(result: tuple[int, str, str]) -> Any:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


def column(record: Any, name: str) -> Any:
    return next(entry for entry in record["metrics"] if entry["name"] == name)


def test_fit_chooses_forms_and_features_and_says_so(studied: Run) -> None:
    code, out, err = studied("fit", "c.study", "--method", "regression")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "accuracy: Gaussian process on features; scale" in text
    assert "latency_ms: block effects of networks in the form executed; scale y" in text
    assert "networks left out are predicted within" in text
    record = json_of(studied("fit", "c.study", "--method", "regression", "--json"))
    chosen = record["provenance"]["chosen"]
    assert chosen["accuracy"]["model"] == "Gaussian process on features"
    assert chosen["latency_ms"]["form"] == "executed"
    assert column(record, "latency_ms")["network_form"] == "executed"
    assert set(column(record, "accuracy")["process"]) >= {"features", "responses", "length"}


def test_differences_say_nothing_of_evidence(studied: Run) -> None:
    code, out, _ = studied("fit", "c.study", "--method", "means")
    assert code == 0
    assert "chosen by evidence" not in out


def test_fit_tells_shares_of_columns_that_are_not_additive(studied: Run) -> None:
    found = json_of(studied("fit", "c.study", "--method", "regression", "--variance", "--json"))
    assert found["variance"]["accuracy"]["higher"] > 0
    assert found["variance"]["latency_ms"]["higher"] > 0


def test_a_saved_table_predicts_what_the_fit_does(fitted: Run) -> None:
    with read_study(Path("c.study")) as study:
        expected = mn.fit(study, method="regression")
    table = load_table(Path("c.table.json"))
    assert isinstance(table.space, NASBench201)
    every = table.space.all_networks()
    for name in ("accuracy", "latency_ms"):
        np.testing.assert_allclose(table.predict(every, name), expected.predict(every, name))
    cell = CELLS[90].tolist()
    text = ",".join(map(str, cell))
    found = json_of(fitted("predict", "c.table.json", "--network", text, "--json"))[0]
    assert found["predictions"]["latency_ms"]["value"] == table.exact(tuple(cell), "latency_ms")
    assert found["predictions"]["accuracy"]["value"] == table.exact(tuple(cell), "accuracy")
    # an arch string names a cell too
    arch = json_of(fitted("predict", "c.table.json", "--network", SPACE.arch(cell), "--json"))[0]
    assert arch["network"] == cell


def test_a_saved_table_is_searched(fitted: Run) -> None:
    table = load_table(Path("c.table.json"))
    limit = ("--limit", "latency_ms=12", "--exclude", "0->1=nor_conv_3x3")
    answer = json_of(fitted("search", "c.table.json", *limit, "--verify", "--json"))
    every = table.space.all_networks()
    allowed = (table.predict_all("latency_ms") <= 12) & (every[:, 0] != 3)
    best = table.predict_all("accuracy")[allowed].max()
    assert answer["predictions"]["accuracy"]["value"] == pytest.approx(best)
    assert answer["status"] == "optimal"
    assert answer["verified_by"] == "numpy"
    top = json_of(fitted("search", "c.table.json", *limit, "--top", "3", "--json"))
    assert len(top["answers"]) == 3
    code, out, _ = fitted("search", "c.table.json", *limit, "--explain")
    assert code == 0
    assert "what more of a limit buys" in out
    code, out, _ = fitted("search", "c.table.json", "--limit", "latency_ms=0.01")
    assert code == 1
    assert "the lowest possible latency_ms" in out


def test_a_saved_table_has_a_front(fitted: Run) -> None:
    table = load_table(Path("c.table.json"))
    found = json_of(fitted("pareto", "c.table.json", "--x", "latency_ms", "--json"))
    x, y = table.predict_all("latency_ms"), table.predict_all("accuracy")
    points = [(point["latency_ms"], point["accuracy"]) for point in found["points"]]
    assert len(points) > 3
    for cost, quality in points:
        assert not ((x <= cost - 1e-6) & (y >= quality + 1e-6)).any()
    assert max(quality for _, quality in points) == pytest.approx(y.max())


def test_a_study_of_all_cells_is_validated_with_intervals(studied: Run, tmp_path: Path) -> None:
    every = SPACE.all_networks()
    lines = ["network,accuracy,latency_ms"]
    for cell, *values in zip(every.tolist(), *values_of(every), strict=True):
        lines.append(f'"{",".join(map(str, cell))}",{values[0]},{values[1]}')
    (tmp_path / "measured.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = json_of(
        studied(
            *("validate", "c.study", *EVALUATOR, "--method", "regression"),
            *("--networks", "25", "--json"),
        )
    )
    assert found["fitted_networks"] == 80
    accuracy, latency = (found["metrics"][name] for name in ("accuracy", "latency_ms"))
    assert accuracy["spearman"] > 0.9
    assert latency["spearman"] > 0.99
    assert accuracy["coverage"] is not None


def test_one_helper_brings_spaces_back(studied: Run, tmp_path: Path) -> None:
    space = restored_space(tmp_path / "c.study")
    assert type(space) is NASBench201
    assert space.has_features
    assert "executed" in space.forms
    with read_study(tmp_path / "c.study") as study:
        assert type(study.space) is NASBench201
        assert study.read_only
    for use in (restored_space, read_study, load_table):
        with pytest.raises(FileFormatError):
            use(tmp_path / "missing")


def test_a_damaged_space_in_a_table_says_where(fitted: Run) -> None:
    record = json.loads(Path("c.table.json").read_text(encoding="utf-8"))
    record["space"]["format"] = "something"
    Path("bad.json").write_text(json.dumps(record), encoding="utf-8")
    code, _, err = fitted("predict", "bad.json", "--network", "0,0,0,0,0,0")
    assert code == 1
    assert "bad.json.space: expected the format 'mathnas-space'" in " ".join(err.split())
