"""``mathnas validate``: what it evaluates, holds out, prints, resumes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mathnas as mn

Run = Callable[..., tuple[int, str, str]]
EVALUATOR = ("--evaluator", "table:measured.csv")


@pytest.fixture
def space(tmp_path: Path) -> mn.SearchSpace:
    """A space of 81 networks in space.json, their measurements in measured.csv."""
    nodes = [
        mn.BlockNode(name, tuple(mn.Block(f"b{j}", 1.0 + j) for j in range(3))) for name in "abcd"
    ]
    made = mn.SearchSpace(nodes, name="small", fixed_macs=2)
    made.save(tmp_path / "space.json")
    lines = ["network,accuracy,latency_ms"]
    for network in made.enumerate():
        a, b, c, d = network
        lines.append(
            f'"{",".join(map(str, network))}",{60 + 3 * a + 2 * b + c * d},'
            f"{1 + a + b**2 + 0.5 * c + d}"
        )
    (tmp_path / "measured.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return made


@pytest.fixture
def sampled(run: Run, space: mn.SearchSpace) -> Run:
    """`run`, with a single sample in my.study."""
    assert run("evaluate", "my.study", "--space", "space.json", *EVALUATOR)[0] == 0
    return run


def json_of(result: tuple[int, str, str]) -> Any:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


def networks_of(report: Any, metric: str = "latency_ms") -> set[tuple[int, ...]]:
    return {tuple(point["network"]) for point in report["metrics"][metric]["points"]}


def test_the_same_command_resumes_and_more_networks_add(
    sampled: Run, space: mn.SearchSpace, tmp_path: Path
) -> None:
    command = ("validate", "my.study", *EVALUATOR, "--json")
    first = json_of(sampled(*command, "--networks", "10"))
    assert (first["done"], first["already"], first["fitted_networks"]) == (10, 0, 9)
    again = json_of(sampled(*command, "--networks", "10"))
    assert (again["done"], again["already"]) == (0, 10)
    assert again["metrics"] == first["metrics"]
    more = json_of(sampled(*command, "--networks", "20"))
    assert (more["done"], more["already"], more["fitted_networks"]) == (10, 10, 9)
    assert networks_of(first) < networks_of(more)
    assert first["metrics"]["latency_ms"]["mae"] < 1e-9
    assert first["metrics"]["latency_ms"]["spearman"] == pytest.approx(1)
    assert first["metrics"]["accuracy"]["mape"] is None
    with mn.Study(tmp_path / "my.study") as study:
        assert not networks_of(more) & set(mn.single_sampling(space).networks)
        assert study.reference == space.reference


def test_people_read_figures_and_a_plot(sampled: Run) -> None:
    code, out, err = sampled("validate", "my.study", *EVALUATOR, "--networks", "12")
    assert code == 0
    assert "12 evaluated" in out
    assert "Fitted on 9 other networks (differences, paired)." in out
    assert "latency_ms: 12 networks" in out
    assert "Spearman 1.000, Kendall 1.000" in out
    assert "predicted |" in out
    assert "12/12" in err  # progress, as in a log


def test_a_regression_reports_its_intervals(sampled: Run) -> None:
    sampled(
        *("evaluate", "my.study", "--space", "space.json", *EVALUATOR),
        *("--sampling", "random", "--count", "25"),
    )
    report = json_of(
        sampled(
            *("validate", "my.study", *EVALUATOR, "--method", "regression", "--networks", "15"),
            *("--confidence", "0.95", "--metric", "accuracy", "--json"),
        )
    )
    assert list(report["metrics"]) == ["accuracy"]
    found = report["metrics"]["accuracy"]
    assert found["confidence"] == 0.95
    inside = [p["interval"][0] <= p["measured"] <= p["interval"][1] for p in found["points"]]
    assert found["coverage"] == pytest.approx(sum(inside) / 15)


def test_a_metric_that_was_not_sampled_stays_out_also_when_resumed(
    run: Run, space: mn.SearchSpace
) -> None:
    sample = ("evaluate", "my.study", "--space", "space.json", *EVALUATOR)
    assert run(*sample, "--metric", "latency_ms")[0] == 0
    for done in (10, 0):
        report = json_of(run("validate", "my.study", *EVALUATOR, "--networks", "10", "--json"))
        assert report["done"] == done
        assert list(report["metrics"]) == ["latency_ms"]


def test_failing_evaluations_are_reported_and_exit_with_1(sampled: Run, tmp_path: Path) -> None:
    with mn.Study(tmp_path / "my.study") as study:
        lost = mn.validation_sampling(study.space, 10, reference=study.reference).networks[4]
    path = tmp_path / "measured.csv"
    kept = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if not line.startswith(f'"{",".join(map(str, lost))}"')
    ]
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    code, out, err = sampled("validate", "my.study", *EVALUATOR, "--networks", "10")
    assert code == 1
    assert "latency_ms: 9 networks" in out
    assert "1 failed" in err
    code, out, _ = sampled("validate", "my.study", *EVALUATOR, "--networks", "10", "--json")
    assert code == 1
    assert json.loads(out)["failures"][0]["network"] == list(lost)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone.study", *EVALUATOR), "gone.study"),
        (("my.study", *EVALUATOR, "--networks", "2"), "at least 3 networks"),
        (("my.study", *EVALUATOR, "--networks", "500"), "72 networks that are more than one"),
        (("my.study", *EVALUATOR, "--confidence", "90"), "--confidence is between 0 and 1"),
        (("my.study", *EVALUATOR, "--metric", "energy_mj"), "--metric got 'energy_mj'"),
        (("my.study", *EVALUATOR, "--form", "accuracy"), "METRIC=FORM"),
        (("my.study", "--evaluator", "nothing"), "data:NAME, table:FILE.csv"),
        (("my.study", *EVALUATOR, "--method", "magic"), "magic"),
        (("my.study",), "--evaluator"),
    ],
)
def test_wrong_use_gets_one_clear_error(
    sampled: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = sampled("validate", *arguments)
    assert code == 1
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "gone.study").exists()


def test_nothing_is_evaluated_where_there_is_no_fit(
    run: Run, space: mn.SearchSpace, tmp_path: Path
) -> None:
    sample = ("evaluate", "my.study", "--space", "space.json", *EVALUATOR)
    assert run(*sample, "--network", "0,0,0,0")[0] == 0
    code, _, err = run("validate", "my.study", *EVALUATOR, "--networks", "10")
    assert code == 1
    assert "was not measured" in err
    with mn.Study(tmp_path / "my.study") as study:
        assert len(study) == 2


def test_an_empty_study_has_nothing_to_fit(run: Run, space: mn.SearchSpace, tmp_path: Path) -> None:
    mn.Study(tmp_path / "my.study", space).close()
    code, _, err = run("validate", "my.study", *EVALUATOR)
    assert code == 1
    assert "holds no measurements of accuracy, latency_ms to fit" in " ".join(err.split())


def test_help_shows_an_example(run: Run) -> None:
    code, out, _ = run("validate", "--help")
    assert code == 0
    assert "mathnas validate macro.study" in out
