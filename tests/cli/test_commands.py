"""The command line as scripts and people use it: output, exit codes, errors without traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mathnas as mn

COMMANDS = (
    *("demo", "spaces", "data", "evaluate", "fit", "validate", "predict", "search", "pareto"),
    *("refine", "extract", "show-env"),
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def space(tmp_path: Path) -> mn.SearchSpace:
    """A space of 18 networks, also in space.json."""

    def node(name: str, *costs: float) -> mn.BlockNode:
        return mn.BlockNode(name, tuple(mn.Block(f"b{j}", c) for j, c in enumerate(costs)))

    made = mn.SearchSpace(
        [node("a", 1, 2), node("b", 1, 2, 4), node("c", 1, 3, 5)], name="small", fixed_macs=2
    )
    made.save(tmp_path / "space.json")
    return made


@pytest.fixture
def table_csv(space: mn.SearchSpace, tmp_path: Path) -> Path:
    """Measurements of all its networks."""
    lines = ["network,accuracy,latency_ms"]
    for network in space.enumerate():
        accuracy = 60 + 3 * network[0] + 2 * network[1] + network[2]
        latency = 1 + network[0] + network[1] ** 2 + 0.5 * network[2]
        lines.append(f'"{",".join(map(str, network))}",{accuracy},{latency}')
    path = tmp_path / "measured.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def evaluated(run: Run, *more: str) -> tuple[int, str, str]:
    return run(
        *("evaluate", "my.study", "--space", "space.json", "--evaluator", "table:measured.csv"),
        *more,
    )


def json_of(result: tuple[int, str, str]) -> Any:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"mathnas {command}" in out


def test_the_main_job_from_measurements_to_answer(run: Run, table_csv: Path) -> None:
    report = json_of(evaluated(run, "--json"))
    assert (report["done"], report["already"]) == (1 + 1 + 2 + 2, 0)
    assert json_of(evaluated(run, "--json"))["done"] == 0  # the same command resumes

    code, out, _ = run("fit", "my.study")
    assert code == 0
    assert "written: my.table.json" in out

    predicted = json_of(run("predict", "my.table.json", "--network", "b1,b2,b2", "--json"))
    assert predicted[0]["predictions"]["latency_ms"]["value"] == pytest.approx(7.0)

    answer = json_of(run("search", "my.table.json", "--limit", "latency_ms<=4ms", "--json"))
    assert answer["status"] == "optimal"
    assert answer["network"] == [1, 1, 2]
    assert answer["predictions"]["accuracy"]["value"] == pytest.approx(67)
    # a study is fitted on the spot, and a table printed for people says the same
    code, out, _ = run("search", "my.study", "--limit", "latency_ms=4", "--maximize", "accuracy")
    assert code == 0
    assert "[1,1,2]" in out


def test_fit_with_a_prior(run: Run, table_csv: Path, tmp_path: Path) -> None:
    assert evaluated(run, "--sampling", "full")[0] == 0
    options = ("fit", "my.study", "--method", "regression", "--metric", "latency_ms")
    assert run(*options, "-o", "device.json")[0] == 0
    few = ("evaluate", "few.study", "--space", "space.json", "--evaluator", "table:measured.csv")
    assert run(*few, "--sampling", "random", "--count", "5")[0] == 0
    with_prior = ("fit", "few.study", *options[2:], "--prior", "device.json", "--json")
    found = json_of(run(*with_prior))
    assert found["provenance"]["chosen"]["latency_ms"]["prior_share"] > 0
    without = json_of(run("fit", "few.study", *options[2:], "--json"))
    assert without["provenance"]["chosen"]["latency_ms"]["prior_share"] == 0


def test_fit_with_a_proxy(run: Run, table_csv: Path) -> None:
    assert evaluated(run, "--sampling", "full")[0] == 0
    options = ("fit", "my.study", "--method", "regression", "--json")
    found = json_of(run(*options, "--proxy", "accuracy=latency_ms"))
    assert found["provenance"]["proxy"] == {"accuracy": "latency_ms"}
    assert "proxy" not in json_of(run(*options))["provenance"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "paired", "--prior", "table.json"), "method='paired'"),
        (("--method", "paired", "--proxy", "accuracy=latency_ms"), "method='paired'"),
        (("--method", "regression", "--proxy", "accuracy"), "--proxy is written METRIC=OTHER"),
        (("--method", "regression", "--proxy", "accuracy=loss"), "another metric of the study"),
        (("--method", "regression", "--proxy", "accuracy=accuracy"), "another metric of the study"),
        (
            (
                *("--method", "regression", "--prior", "table.json"),
                *("--proxy", "latency_ms=accuracy"),
            ),
            "has a proxy and effects in prior=",
        ),
        (("--method", "regression", "--prior", "other.json"), "other"),
        (("--method", "regression", "--metric", "accuracy", "--prior", "table.json"), "same name"),
        (("--method", "regression", "--prior", "missing.json"), "missing.json"),
        (("--method", "regression", "--prior", "my.study"), "my.study"),
    ],
)
def test_priors_that_are_none(
    run: Run, table_csv: Path, options: tuple[str, ...], message: str
) -> None:
    assert evaluated(run, "--sampling", "full")[0] == 0
    assert run("fit", "my.study", "--metric", "latency_ms", "-o", "table.json")[0] == 0
    nodes = [mn.BlockNode("a", (mn.Block("x"), mn.Block("y")))]
    mn.BlockTable(mn.SearchSpace(nodes, name="other"), (0,), {}).save("other.json")
    code, out, err = run("fit", "my.study", "-o", "not.json", *options)
    assert (code, out) == (1, "")
    assert message in err
    assert not Path("not.json").exists()


def test_fit_says_what_a_metric_varies_with(run: Run, table_csv: Path) -> None:
    evaluated(run)
    code, out, _ = run("fit", "my.study", "--variance")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    # accuracy is 60 + 3 a + 2 b + c: variances 9/4, 8/3 and 2/3
    assert lines.index(["b", "47.8%"]) < lines.index(["a", "40.3%"]) < lines.index(["c", "11.9%"])
    shares = json_of(run("fit", "my.study", "--variance", "--json"))["variance"]
    assert shares["accuracy"]["nodes"]["a"] == pytest.approx(27 / 67)
    assert "variance" not in json_of(run("fit", "my.study", "--json"))
    code, _, err = run("fit", "my.study", "--variance", "--form", "accuracy=inverse-macs-corrected")
    assert (code, "need effects that add up" in " ".join(err.split())) == (1, True)


def test_an_infeasible_search_exits_with_1_and_says_why(run: Run, table_csv: Path) -> None:
    evaluated(run)
    code, out, _ = run("search", "my.study", "--limit", "latency_ms=0.5")
    assert code == 1
    assert "the lowest possible latency_ms is 1 ms" in out
    code, out, _ = run("search", "my.study", "--limit", "latency_ms=0.5", "--json")
    assert code == 1
    assert json.loads(out)["conflicts"][0]["best_possible"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "missing.json"), "cannot be read"),
        (("search", "my.study", "--limit", "latency_ms=fast"), "a limit on latency_ms is a number"),
        (("search", "my.study", "--limit", "speed=3"), "the table has no metric 'speed'"),
        (
            ("search", "my.study", "--limit", "latency_ms<=2", "--limit", "latency_ms>=3"),
            "contradict",
        ),
        (("predict", "my.study", "--network", "0,0"), "one block for each of its 3 nodes"),
        (("predict", "my.study", "--network", "0,9,0"), "has blocks 0 to 2, but got 9"),
        (("fit", "measured.csv"), "not a study"),
        (("search", "space.json"), "expected the format 'mathnas-table'"),
        (("search", "my.study", "--form", "accuracy"), "METRIC=FORM"),
        (("spaces", "nasbench20"), "did you mean 'nasbench201'"),
        (("data", "cifar"), "known data sets are"),
        (("evaluate", "my.study", "--evaluator", "table:gone.csv"), "cannot be read as CSV"),
        (("evaluate", "my.study", "--evaluator", "nothing"), "data:NAME, table:FILE.csv"),
        (("evaluate", "my.study", "--evaluator", "no_such_module:x"), "cannot be loaded"),
    ],
)
def test_wrong_use_gets_one_clear_error(
    run: Run, table_csv: Path, arguments: tuple[str, ...], message: str
) -> None:
    evaluated(run)
    code, _, err = run(*arguments)
    assert code == 1
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_unknown_commands_and_options_exit_with_1(run: Run) -> None:
    assert run("serch")[0] == 1
    assert run("search", "x", "--no-such-option")[0] == 1


def test_debug_shows_the_traceback_wherever_it_stands(run: Run) -> None:
    code, _, err = run("search", "missing.json", "--debug")
    assert code == 1
    assert "Traceback" in err


def test_a_fault_of_ours_exits_with_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("mathnas.cli.show_env._version", broken)
    code, _, err = run("show-env")
    assert code == 2
    assert "internal error: RuntimeError: a bug" in err
    assert "Traceback" not in err


def test_failing_evaluations_are_reported_and_exit_with_1(
    run: Run, space: mn.SearchSpace, table_csv: Path
) -> None:
    lines = table_csv.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith('"1,0,0"')]
    table_csv.write_text("\n".join(kept) + "\n", encoding="utf-8")
    code, out, _ = evaluated(run, "--sampling", "full")
    assert code == 1
    assert "17 evaluated" in out
    assert "1,0,0: EvaluationError" in out


def test_designs_and_networks_can_be_named(run: Run, table_csv: Path) -> None:
    assert json_of(evaluated(run, "--network", "b1,b1,b1", "--json"))["done"] == 1
    assert json_of(evaluated(run, "--sampling", "random", "--count", "3", "--json"))["done"] <= 3
    report = json_of(evaluated(run, "--sampling", "full", "--json"))
    assert report["done"] + report["already"] == 18


@pytest.mark.usefixtures("table_csv")
@pytest.mark.parametrize("design", ["balanced", "d-optimal"])
def test_a_designed_sample_resumes_and_leaves_the_reference(
    run: Run, space: mn.SearchSpace, tmp_path: Path, design: str
) -> None:
    assert evaluated(run, "--sampling", "single", "--context", "1,2,2")[0] == 0
    function = mn.balanced_sampling if design == "balanced" else mn.d_optimal_sampling
    wanted = function(space, 6).networks
    for again in (False, True):
        report = json_of(evaluated(run, "--sampling", design, "--count", "6", "--json"))
        assert report["done"] + report["already"] == 6
        assert (report["done"] == 0) == again
    with mn.Study(tmp_path / "my.study") as study:
        measured = {tuple(row) for row in study.measurements("accuracy").networks.tolist()}
        assert set(wanted) <= measured
        assert study.reference == (1, 2, 2)


def test_an_evaluator_of_ones_own_is_named_by_module(
    run: Run, space: mn.SearchSpace, tmp_path: Path
) -> None:
    (tmp_path / "my_evaluator.py").write_text(
        "import mathnas as mn\n"
        "def make():\n"
        "    return mn.FunctionEvaluator(lambda network: float(sum(network)), ['loss'])\n",
        encoding="utf-8",
    )
    result = run(
        *("evaluate", "own.study", "--space", "space.json", "--evaluator", "my_evaluator:make"),
        "--json",
    )
    assert json_of(result)["done"] == 6


def test_spaces_are_listed_shown_and_saved(run: Run) -> None:
    listed = {entry["name"]: entry for entry in json_of(run("spaces", "--json"))}
    assert listed["nasbench201"]["networks"] == 15625
    code, out, _ = run("spaces", "nasbench201:cifar10", "--save", "cells.json")
    assert code == 0
    assert "nor_conv_3x3" in out
    assert mn.SearchSpace.load("cells.json").num_networks == 15625


def test_data_sets_are_listed_with_licences(run: Run) -> None:
    listed = json_of(run("data", "--json"))
    assert all(entry["citation"] and entry["sources"][0]["licence"] for entry in listed)
    assert run("data")[0] == 0


def test_missing_data_says_what_and_where(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MATHNAS_DATA", raising=False)
    code, _, err = run("evaluate", "x.study", "--evaluator", "data:nasbench_macro")
    assert code == 1
    assert "nas-bench-macro_cifar10.json" in err
    assert "MATHNAS_DATA" in err


def test_show_env_names_versions(run: Run) -> None:
    found = json_of(run("show-env", "--json"))
    assert found["mathnas"] == mn.__version__
    assert found["numpy"]


def test_the_demo_without_torch_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mathnas.demo.bench.importlib.util.find_spec", lambda _: None)
    code, _, err = run("demo")
    assert code == 1
    assert "pip install 'mathnas[demo]'" in err
    assert "--tabular" in err


def test_the_tabular_demo_runs_and_leaves_its_files(run: Run, tmp_path: Path) -> None:
    result = json_of(run("demo", "--tabular", "--out", "out", "--json"))
    assert result["answer"]["status"] == "optimal"
    assert result["found"]["accuracy"] > 0
    assert len(result["rivals"]) == 20
    table = mn.BlockTable.load(tmp_path / "out" / "table.json")
    assert set(table.columns) >= {"accuracy", "latency_ms"}
    assert json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8")) == result


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mathnas", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == mn.__version__


def test_shell_completion_is_offered() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mathnas", "--show-completion", "bash"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},  # as named above
    )
    assert "complete" in done.stdout
