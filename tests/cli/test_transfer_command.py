"""`mathnas transfer`: a plan, a table as the Python API makes it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mathnas as mn
from mathnas.cli import main

Run = Callable[..., tuple[int, str, str]]
COSTS = np.array([[0.0, 1.0, 2.0], [0.0, 1.5, 2.5], [0.0, 0.5, 3.0], [0.0, 1.0, 1.0]])
FACTORS = np.array([[1.0], [2.0], [3.0], [0.5]])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """old.table.json: four layers of three blocks."""
    blocks = tuple(map(mn.Block, ("skip", "small", "large")))
    space = mn.SearchSpace([mn.BlockNode(f"n{i}", blocks) for i in range(4)], name="small")
    metric = mn.metric_named("latency_ms")
    column = mn.BlockEffects(metric, 5.0, COSTS.ravel(), np.zeros(12), np.ones(12))
    path = tmp_path / "old.table.json"
    mn.BlockTable(space, (0,) * 4, {"latency_ms": column}).save(path)
    return path


def new_latency(network: tuple[int, ...]) -> float:
    return 7.0 + float((COSTS * FACTORS)[np.arange(4), list(network)].sum())


def measure(study: Path, old: Path, networks: list[tuple[int, ...]]) -> None:
    evaluator = mn.FunctionEvaluator(
        lambda network: {"latency_ms": new_latency(network)}, ["latency_ms"]
    )
    with mn.Study(study, mn.BlockTable.load(old).space) as store:
        mn.evaluate(store, networks, evaluator)


def test_plan_measure_transfer(run: Run, old: Path, tmp_path: Path) -> None:
    study, plan = tmp_path / "new.study", tmp_path / "plan.txt"
    code, out, err = run("transfer", old, study, "--plan", 9, "-o", plan)
    assert code == 0, err
    assert plan.read_text() == out
    networks = [tuple(map(int, line.split(","))) for line in out.split()]
    assert len(set(networks)) == 9
    assert not study.exists()

    measure(study, old, networks)
    code, out, err = run("transfer", old, study, "--plan", 4, "--json")
    record = json.loads(out)
    assert record["measured"] == 9
    assert not {tuple(network) for network in record["networks"]} & set(networks)

    code, out, err = run("transfer", old, study)
    assert code == 0, err
    assert "left-out error (%): transfer" in out
    assert "chosen: " in out
    assert "weight of the transfer 100%" in out
    assert ", together " in out
    found = mn.BlockTable.load(tmp_path / "new.table.json")
    every = found.space.all_networks()
    truth = np.array([new_latency(network) for network in map(tuple, every.tolist())])
    assert np.abs(found.predict(every, "latency_ms") / truth - 1).max() < 0.05


def test_more_tables_and_json(run: Run, old: Path, tmp_path: Path) -> None:
    study, target = tmp_path / "new.study", tmp_path / "t.json"
    space = mn.BlockTable.load(old).space
    measure(study, old, list(mn.transfer_plan(space, 8).networks))
    options = ("--source", old, "--metric", "latency_ms", "--known", "latency_ms", "-o", target)
    code, out, err = run("transfer", old, study, *options, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["table"] == str(target)
    assert len(record["provenance"]["known"]) == 2
    assert target.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--known", "energy_mj"), "name the known columns"),
        (("--metric", "energy_mj"), "has no metric 'energy_mj'"),
        (("--condition", "device"), "--condition is written KEY=VALUE"),
        (("--condition", "device=phone"), "0 sets of conditions fit"),
        (("--plan", 0), "at least 1 network"),
        (("--plan", 9999), "ask for fewer"),
    ],
)
def test_what_is_refused(
    run: Run, old: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    study = tmp_path / "new.study"
    space = mn.BlockTable.load(old).space
    measure(study, old, list(mn.transfer_plan(space, 6).networks))
    code, _, err = run("transfer", old, study, *options)
    assert code == 1
    assert message in err
    assert not (tmp_path / "new.table.json").exists()


def test_a_missing_study_or_table_is_named(run: Run, old: Path, tmp_path: Path) -> None:
    for arguments in ((old, tmp_path / "no.study"), (tmp_path / "no.json", tmp_path / "no.study")):
        code, _, err = run("transfer", *arguments)
        assert code == 1
        assert "no." in err
