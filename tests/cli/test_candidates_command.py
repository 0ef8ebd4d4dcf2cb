"""`mathnas candidates`: what the Python API chooses, as a space file, text or JSON; errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mathnas as mn
from mathnas.cli import main
from mathnas.spaces import MobileNetV3, named

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """t.json: four layers of three blocks."""
    rng = np.random.default_rng(0)
    blocks = tuple(mn.Block(f"b{j}", 1e6 * (j + 1)) for j in range(3))
    space = mn.SearchSpace([mn.BlockNode(f"n{i}", blocks) for i in range(4)], name="small")
    gains = np.sort(rng.random((4, 3)), axis=1).ravel()
    column = mn.BlockEffects(mn.metric_named("accuracy"), 70.0, gains, np.zeros(12), np.ones(12))
    mn.BlockTable(space, (0,) * 4, {"accuracy": column}).save(tmp_path / "t.json")
    return tmp_path / "t.json"


def test_the_space_is_written_and_budgets_are_told(run: Run, table: Path, tmp_path: Path) -> None:
    target = tmp_path / "s.json"
    options = ("--groups", "2,2", "--count", 3, "--limit", "macs", "--budgets", 4)
    code, out, err = run("candidates", table, *options, "-o", target)
    assert code == 0, err
    assert f"written: {target}" in out
    assert out.count("macs <=") == 4
    space = named(str(target))
    assert isinstance(space, mn.GroupedSpace)
    fine = mn.BlockTable.load(table)
    expected = mn.choose_candidates(
        fine, {"group1": [0, 1], "group2": [2, 3]}, 3, limit="macs", budgets=4
    )
    assert space == expected.space
    code, out, err = run("candidates", table, *options, "-o", target, "--json")
    record = json.loads(out)
    assert f"written: {target}" in err
    assert record["value"] == expected.value
    assert [group["kept"] for group in record["groups"]] == [
        [block.name for block in node.blocks] for node in space.nodes
    ]


def test_candidates_of_a_grouped_space_and_budgets_by_value(
    run: Run, table: Path, tmp_path: Path
) -> None:
    fine = mn.BlockTable.load(table).space
    whole = mn.GroupedSpace(fine, {"a": [0], "b": [1, 2, 3]})
    whole.save(tmp_path / "whole.json")
    arguments = ("--groups", tmp_path / "whole.json", "--count", 1, "--limit", "macs")
    code, out, err = run("candidates", table, *arguments, "--budgets", "5M,7M", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert [budget["value"] for budget in record["budgets"]] != []
    assert [len(group["kept"]) for group in record["groups"]] == [1, 1]
    code, out, err = run("candidates", table, *arguments, "--budgets", "<=6M")
    assert code == 0, err
    assert "over 1 budgets" in out


def test_a_partition_that_the_space_knows(run: Run, tmp_path: Path) -> None:
    space = MobileNetV3()
    assert space.block_macs is not None
    column = mn.BlockEffects(
        mn.metric_named("accuracy"),
        70.0,
        np.sqrt(space.block_macs) / 1e4 * np.random.default_rng(0).random(space.num_blocks),
        np.zeros(space.num_blocks),
        np.ones(space.num_blocks),
    )
    mn.BlockTable(space, space.reference, {"accuracy": column}).save(tmp_path / "t.json")
    target = tmp_path / "stages.json"
    options = ("--groups", "stages", "--count", 2, "--limit", "macs", "--budgets", 3)
    code, _, err = run("candidates", tmp_path / "t.json", *options, "--effort", 0.02, "-o", target)
    assert code == 0, err
    stages = named(str(target))
    assert isinstance(stages, mn.GroupedSpace)
    assert isinstance(stages.fine, MobileNetV3)
    assert [node.name for node in stages.nodes] == [f"stage{i}" for i in range(1, 6)]
    assert max(stages.sizes) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--groups", "stages"), r"small knows \(none\)"),
        (("--groups", "2,1"), "is about 3 nodes, but small has 4"),
        (("--groups", "2,0,2"), "how many nodes each group has"),
        (("--groups", "2,2", "--budgets", "1M"), "macs <= 1 M by none"),
        (("--groups", "2,2", "--maximize", "speed"), "no metric 'speed'"),
    ],
)
def test_wrong_arguments_are_explained(
    run: Run, table: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run("candidates", table, "--limit", "macs", *arguments)
    assert (code, out) == (1, "")
    assert re.search(message, err), err


def test_a_space_without_groups_is_refused(run: Run, table: Path, tmp_path: Path) -> None:
    mn.BlockTable.load(table).space.save(tmp_path / "plain.json")
    code, _, err = run("candidates", table, "--limit", "macs", "--groups", tmp_path / "plain.json")
    assert code == 1
    assert "takes a grouped space" in err
