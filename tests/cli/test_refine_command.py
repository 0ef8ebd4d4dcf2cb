"""``mathnas refine``: what it prints, its exit codes, how it resumes and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import mathnas as mn
from mathnas.baselines import METHODS

Run = Callable[..., tuple[int, str, str]]
EVALUATOR = ("--evaluator", "table:measured.csv")
WANTED = (*EVALUATOR, "--space", "space.json", "--maximize", "accuracy", "--budget", "20")


@pytest.fixture(autouse=True)
def measured(tmp_path: Path) -> None:
    """space.json and measured.csv."""
    nodes = [
        mn.BlockNode(name, tuple(mn.Block(f"b{j}", 1.0 + j) for j in range(3))) for name in "abcd"
    ]
    space = mn.SearchSpace(nodes, name="small", fixed_macs=2)
    space.save(tmp_path / "space.json")
    lines = ["network,accuracy,latency_ms"]
    for network in space.enumerate():
        a, b, c, d = network
        lines.append(
            f'"{",".join(map(str, network))}",{60 + 3 * a + 2 * b + c + d},'
            f"{1 + 2 * a + b + 0.5 * c + d}"
        )
    (tmp_path / "measured.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_makes_the_study_and_answers_with_what_was_measured(run: Run) -> None:
    code, out, err = run("refine", "my.study", *WANTED, "--limit", "latency_ms=5", "--json")
    assert code == 0, err
    found = json.loads(out)
    a, b, c, d = found["network"]
    # the best of all 81: 8 points for 4 ms above the least
    assert found["values"]["accuracy"] == 60 + 3 * a + 2 * b + c + d == 67.0
    assert found["values"]["latency_ms"] <= 5
    assert found["evaluated"] <= 20
    assert found["rounds"][0]["evaluated"] == 9
    with mn.Study("my.study", read_only=True) as study:
        assert len({fact.network for fact in study.evaluations()}) == found["evaluated"]


def test_choices_and_repeats(run: Run) -> None:
    options = ("--choice", "thompson", "--repeats", "1", "--limit", "latency_ms=5", "--json")
    code, out, err = run("refine", "my.study", *WANTED, *options)
    assert code == 0, err
    found = json.loads(out)
    assert found["values"]["accuracy"] == 67.0
    assert found["rounds"]
    for done in found["rounds"]:
        assert done["seconds"] >= done["thinking"] >= 0
    assert found["rounds"][0]["thinking"] == 0
    assert found["rounds"][-1]["thinking"] > 0
    with mn.Study("my.study", read_only=True) as study:
        networks = [fact.network for fact in study.evaluations("accuracy")]
    assert len(set(networks)) == len(networks) == found["evaluated"]


def test_the_same_command_resumes(run: Run) -> None:
    first = run("refine", "my.study", *WANTED, "--batch", "2", "--start", "balanced")
    assert first[0] == 0
    assert "best measured network [2,2,2,2]: " in first[1]
    assert "round 1: " in first[2]
    code, out, _ = run("refine", "my.study", *WANTED, "--batch", "2", "--start", "balanced")
    assert (code, out) == (0, first[1])


def test_rules_as_in_search(run: Run) -> None:
    options = ("--fix", "a=b0", "--exclude", "b=b2", "--json")
    code, out, err = run("refine", "my.study", *WANTED, *options)
    assert code == 0, err
    assert json.loads(out)["network"] == [0, 1, 2, 2]


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("mathnas", "nsga2")])
def test_other_methods_answer_alike(run: Run, method: str) -> None:
    options = ("--method", method, "--limit", "latency_ms=5")
    code, out, err = run("refine", "my.study", *WANTED, *options)
    assert code == 0, err
    assert "best measured network" in out
    assert "round 1: " in err
    assert run("refine", "my.study", *WANTED, *options)[:2] == (0, out)


def test_methods_are_known_by_name(run: Run) -> None:
    code, out, err = run("refine", "my.study", *WANTED, "--method", "guessing")
    assert (code, out) == (1, "")
    assert "evolution" in err
    assert "'guessing'" in err


def test_nothing_that_meets_the_limits(run: Run) -> None:
    code, out, _ = run("refine", "my.study", *WANTED, "--limit", "latency_ms=0.5")
    assert code == 1
    assert "no measured network meets the limits" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--limit", "energy_mj=3"), "energy_mj"),
        (("--limit", "latency_ms=3parsec"), "parsec"),
        (("--minimize", "latency_ms"), "one of them"),
        (("--budget", "1"), "budget"),
        (("--fix", "z=b0"), "--fix z=b0"),
        (("--repeats", "0"), "repeats=0"),
    ],
)
def test_wrong_use(run: Run, options: tuple[str, ...], message: str) -> None:
    code, out, err = run("refine", "my.study", *WANTED, *options)
    assert (code, out) == (1, "")
    assert message in err
    with mn.Study("my.study", read_only=True) as study:
        assert len(study) == 0


def test_choices_are_known_by_name(run: Run) -> None:
    code, out, err = run("refine", "my.study", *WANTED, "--choice", "best")
    assert (code, out) == (1, "")
    assert "optimistic" in err
    assert "'best'" in err
    assert run("refine", "my.study", *WANTED, "--repeats", "many")[0] == 1


def test_ctrl_c_keeps_what_was_measured(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine_interrupted.py").write_text(
        "import mathnas as mn\n"
        "calls = []\n"
        "def measure(network):\n"
        "    calls.append(network)\n"
        "    if len(calls) == 5:\n"
        "        raise KeyboardInterrupt\n"
        "    return 60.0 + sum(network)\n"
        "def made():\n"
        "    return mn.FunctionEvaluator(measure, ['accuracy'])\n",
        encoding="utf-8",
    )
    options = ("--evaluator", "mine_interrupted:made", *WANTED[2:])
    code, _, err = run("refine", "my.study", *options)
    assert code == 130
    assert "4 measurements are in my.study. The same command goes on from here." in err
    assert run("refine", "my.study", *options)[0] == 0


def test_help_has_an_example(run: Run) -> None:
    code, out, _ = run("refine", "--help")
    assert code == 0
    assert "Example: mathnas refine" in " ".join(out.split())
