"""`mathnas search`: the numbers of the Python API, one JSON document, clear errors, rules."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mathnas as mn
from mathnas.cli import main
from mathnas.search import (
    Status,
    at_most_changes,
    exclude,
    fix,
    forbid,
    kernel_is_available,
    require,
)

Run = Callable[..., tuple[int, str, str]]
SOLVERS = ("auto", "enumeration", "kernel", "numpy", "chain", "highs")
LIMIT = ("--limit", "latency_ms=2.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds t.json and t.study: 4^5 networks whose accuracy and latency are at odds."""
    made = tmp_path_factory.mktemp("search")
    blocks = [tuple(mn.Block(f"b{j}", 1e6 * (1 + j + i)) for j in range(4)) for i in range(5)]
    space = mn.SearchSpace(
        [mn.BlockNode(f"n{i}", own) for i, own in enumerate(blocks)], name="five", fixed_macs=2e6
    )
    draws = np.random.default_rng(4).uniform(0.1, 1.0, size=(2, 5, 4)).cumsum(axis=2)

    def measure(network: mn.Network) -> dict[str, float]:
        accuracy, latency = draws[:, range(5), list(network)].sum(axis=1).tolist()
        return {"accuracy": 60 + accuracy, "latency_ms": 1 + latency / 4}

    evaluator = mn.FunctionEvaluator(measure, ["accuracy", "latency_ms"])
    with mn.Study(made / "t.study", space) as study:
        mn.evaluate(study, mn.single_sampling(space), evaluator)
        mn.fit(study).save(made / "t.json")
    return made


@pytest.fixture
def table(folder: Path) -> mn.BlockTable:
    return mn.BlockTable.load(folder / "t.json")


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``mathnas search`` in the folder; returns exit code, stdout, stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str, path: str = "t.json") -> tuple[int, str, str]:
        code = main(("search", path, *arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def json_of(result: tuple[int, str, str], code: int = 0) -> Any:
    """The one document on stdout; nothing else may be there, nor on stderr."""
    assert (result[0], result[2]) == (code, "")
    return json.loads(result[1])


def one_line(text: str) -> str:
    """Text without the breaks and frames of a narrow terminal."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def assert_error(result: tuple[int, str, str], message: str) -> None:
    code, out, err = result
    assert (code, out) == (1, "")
    assert message in one_line(err)
    assert "Traceback" not in err


# ---- answers ------------------------------------------------------------------------------------


def test_several_limits_give_the_answer_of_the_api(run: Run, table: mn.BlockTable) -> None:
    limits = ["latency_ms<=2500us", "macs=-10%", "accuracy>=61"]
    found = json_of(run(*(part for text in limits for part in ("--limit", text)), "--json"))
    expected = mn.search(table, limits=limits)
    assert isinstance(expected, mn.Answer)
    assert found["network"] == list(expected.network)
    assert found["bound"] == expected.value == found["predictions"]["accuracy"]["value"]
    assert [use["metric"] for use in found["limits"]] == ["latency_ms", "macs", "accuracy"]
    assert [use["used"] for use in found["limits"]] == [use.used for use in expected.limits]
    assert [use["binds"] for use in found["limits"]] == [use.binds for use in expected.limits]
    # and nothing is better among all networks
    meets = (table.predict_all("latency_ms") <= 2.5) & (table.predict_all("accuracy") >= 61)
    meets &= table.predict_all("macs") <= 0.9 * table.exact(table.reference, "macs")
    assert table.predict_all("accuracy")[meets].max() == pytest.approx(expected.value, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--maximize", "latency_ms"), {"maximize": "latency_ms"}),
        (("--minimize", "macs"), {"minimize": "macs"}),
    ],
)
def test_any_metric_can_be_optimised(
    run: Run, table: mn.BlockTable, arguments: tuple[str, ...], names: dict[str, str]
) -> None:
    found = json_of(run(*arguments, "--limit", "accuracy=62", "--json"))
    expected = mn.search(table, limits={"accuracy": 62}, **names)  # type: ignore[arg-type]
    assert isinstance(expected, mn.Answer)
    assert found["objective"] == expected.objective.name
    assert found["network"] == list(expected.network)


@pytest.mark.parametrize("diverse", [0, 3])
def test_top_gives_the_networks_of_the_api(run: Run, table: mn.BlockTable, diverse: int) -> None:
    more = ("--diverse", str(diverse)) if diverse else ()
    found = json_of(run("--top", "4", *more, *LIMIT, "--json"))
    expected = mn.k_best(table, 4, limits={"latency_ms": 2.5}, diverse=diverse)
    assert isinstance(expected, mn.Ranking)
    assert [answer["network"] for answer in found["answers"]] == [list(a.network) for a in expected]
    assert found["complete"] is True
    networks = np.array([answer["network"] for answer in found["answers"]])
    apart = (networks[:, None] != networks[None]).sum(axis=2)
    assert apart[~np.eye(4, dtype=bool)].min() >= max(1, diverse)

    code, out, err = run("--top", "4", *more, *LIMIT)
    assert (code, err) == (0, "")
    assert re.findall(r"^no\. (\d):", out, re.MULTILINE) == ["2", "3", "4"]


def test_explain_gives_the_prices_of_the_api(run: Run, table: mn.BlockTable) -> None:
    found = json_of(run("--explain", *LIMIT, "--json"))
    expected = mn.explain(table, limits={"latency_ms": 2.5})
    assert isinstance(expected, mn.Explanation)
    assert found["answer"]["network"] == list(expected.answer.network)
    assert found["prices"] == [price.to_dict() for price in expected.prices]
    assert found["alternatives"] == [other.to_dict() for other in expected.alternatives]

    code, out, _ = run("--explain", *LIMIT)
    assert code == 0
    assert "what more of a limit buys" in out
    assert "what another block costs (accuracy)" in out


def test_verify_names_the_second_solver(run: Run) -> None:
    found = json_of(run("--verify", *LIMIT, "--json"))
    assert found["verified_by"] == "enumeration" != found["solver"]
    assert "verified: enumeration comes to the same optimum" in run("--verify", *LIMIT)[1]
    code, out, _ = run("--verify", "--limit", "latency_ms=0.1")
    assert code == 1
    assert "verified: enumeration proves the same" in out


def test_an_answer_that_could_not_be_verified_in_time_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the package's attribute `search` is the function, so the module is looked up
    module = sys.modules[mn.search.__module__]
    monkeypatch.setattr(module, "compare", lambda *_: ("enumeration", False))
    code, out, err = run("--verify", "--time-limit", "60", "--json")
    assert (code, json.loads(out)["verified_by"]) == (0, None)
    assert "not verified" in err


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_can_be_named(run: Run, table: mn.BlockTable, solver: str) -> None:
    if solver == "highs":
        pytest.importorskip("highspy")
    if solver == "kernel" and not kernel_is_available():
        pytest.skip("needs the compiled kernel")
    found = json_of(run("--solver", solver, *LIMIT, "--json"))
    expected = mn.search(table, limits={"latency_ms": 2.5}, solver="enumeration")
    assert isinstance(expected, mn.Answer)
    assert found["network"] == list(expected.network)
    assert solver in ("auto", found["solver"])


def test_a_study_gives_what_its_table_gives(run: Run) -> None:
    one, two = (json_of(run(*LIMIT, "--json", path=path)) for path in ("t.json", "t.study"))
    assert one["predictions"] == two["predictions"]


@pytest.mark.parametrize("more", [(), ("--top", "2"), ("--verify",)])
def test_with_time_enough_the_answer_is_proven(run: Run, more: tuple[str, ...]) -> None:
    found = json_of(run("--time-limit", "60", *LIMIT, *more, "--json"))
    first = found["answers"][0] if "answers" in found else found
    assert (first["status"], first["gap"]) == ("optimal", 0.0)


# ---- no answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--top", "3"), ("--explain",), ("--verify",)])
def test_infeasible_says_the_nearest_value(
    run: Run, table: mn.BlockTable, more: tuple[str, ...]
) -> None:
    limits = ("--limit", "latency_ms=2", "--limit", "accuracy=66")
    # each could be met alone
    latencies = table.predict_all("latency_ms")
    assert latencies.min() <= 2
    least = latencies[table.predict_all("accuracy") >= 66].min()
    found = json_of(run(*limits, *more, "--json"), code=1)
    assert found["status"] == "infeasible"
    assert found["conflicts"][0]["best_possible"] == pytest.approx(least)
    assert found["rules"] == []

    code, out, err = run(*limits, *more)
    assert (code, err) == (1, "")
    assert "no network meets the limits (proven)" in out
    assert f"the lowest possible latency_ms is {least:.4g} ms" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--maximize", "acuracy"), "the table has no metric 'acuracy'"),
        (("--minimize", "energy_mj"), "it has macs, accuracy, latency_ms"),
        (("--maximize", "accuracy", "--minimize", "macs"), "one metric is optimised"),
        (("--limit", "speed=3"), "the table has no metric 'speed'"),
        (("--limit", "latency_ms"), "a limit is written as"),
        (("--solver", "gurobi"), "auto, enumeration, kernel, numpy, chain, highs, but got"),
        (("--time-limit", "0"), "--time-limit is positive seconds, but got 0"),
        (("--time-limit", "-1", "--top", "2"), "--time-limit is positive seconds, but got -1"),
        (("--time-limit", "nan"), "--time-limit is positive seconds, but got nan"),
        (("--time-limit", "inf"), "--time-limit is positive seconds, but got inf"),
        (("--time-limit", "soon"), "Invalid value for '--time-limit'"),
        (("--top", "0"), "--top is at least 1, but got 0"),
        (("--top", "2", "--diverse", "9"), "answers differ in 0 to 5 nodes"),
        (("--top", "2", "--diverse", "-1"), "answers differ in 0 to 5 nodes"),
        (("--diverse", "2"), "--diverse needs --top"),
        (("--explain", "--top", "2"), "--explain and --top do not go together"),
        (("--explain", "--verify"), "--explain and --verify do not go together"),
        (("--verify", "--top", "2"), "--verify and --top do not go together"),
        (("--explain", "--time-limit", "3"), "it takes no --time-limit"),
    ],
)
@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_wrong_use_gets_one_clear_error(
    run: Run, arguments: tuple[str, ...], message: str, as_json: tuple[str, ...]
) -> None:
    assert_error(run(*arguments, *as_json), message)


def test_a_missing_table_and_a_folder_are_named(run: Run) -> None:
    assert_error(run(path="gone.json"), "gone.json cannot be read: No such file")
    assert_error(run(path="."), ". cannot be read")


# ---- rules --------------------------------------------------------------------------------------


def rule_cases() -> Iterator[Any]:
    """Options, and the rules that they stand for."""
    yield "--fix n0=b1", lambda s: [fix(s, {"n0": "b1"})]
    yield "--fix 0=1,n2=3", lambda s: [fix(s, {"n0": "b1", "n2": "b3"})]
    yield (
        "--exclude n1=b3 --exclude n1=b2,n0=3",
        lambda s: [exclude(s, {"n1": ["b3", "b2"], "n0": "b3"})],
    )
    yield "--forbid n0=b3,n1=b3", lambda s: [forbid(s, {"n0": "b3", "n1": "b3"})]
    yield (
        "--require n0=b0:n1=b0,n2=b0",
        lambda s: [require(s, {"n0": "b0"}, {"n1": "b0", "n2": "b0"})],
    )
    yield "--max-changes 2 --from 0,0,0,0,0", lambda s: [at_most_changes(s, (0,) * 5, 2)]
    yield (
        "--max-changes 0 --from b1,b0,b0,b0,b1",
        lambda s: [at_most_changes(s, (1, 0, 0, 0, 1), 0)],
    )
    yield (
        "--fix n4=b2 --max-changes 3 --from 0,0,0,0,0",
        lambda s: [fix(s, {"n4": "b2"}), at_most_changes(s, (0,) * 5, 3)],
    )


@pytest.mark.parametrize(("line", "rules_of"), list(rule_cases()))
def test_rules_give_the_answer_of_the_api(
    run: Run,
    table: mn.BlockTable,
    line: str,
    rules_of: Callable[[mn.SearchSpace], list[mn.Rule]],
) -> None:
    rules = rules_of(table.space)
    limits = {"latency_ms": 2.7}
    arguments = (*line.split(), "--limit", "latency_ms=2.7", "--json")
    expected = mn.search(table, limits=limits, rules=rules)
    assert isinstance(expected, mn.Answer)
    found = json_of(run(*arguments))
    assert found["network"] == list(expected.network)
    assert all(rule.holds(tuple(found["network"])) for rule in rules)
    # the other ways to search keep them too
    ranked = json_of(run(*arguments, "--top", "3"))["answers"]
    assert ranked[0]["network"] == found["network"]
    assert all(rule.holds(tuple(answer["network"])) for answer in ranked for rule in rules)
    assert json_of(run(*arguments, "--explain"))["answer"]["network"] == found["network"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--fix n0", "--fix n0: blocks are written NODE=BLOCK, but got 'n0'"),
        ("--fix n0=", "--fix n0=: blocks are written NODE=BLOCK"),
        ("--fix n9=b1", "--fix n9=b1: five has no node 'n9'"),
        ("--fix n0=b9", "--fix n0=b9: node 'n0' has no block 'b9'"),
        ("--fix n0=9", "--fix n0=9: node 'n0' has blocks 0 to 3, but got 9"),
        ("--fix n0=b0,n0=b1", "--fix n0=b0,n0=b1: the node 'n0' stands twice"),
        ("--exclude n0=b0,n7=b0", "--exclude n7=b0: five has no node 'n7'"),
        ("--forbid n0=b0,", "--forbid n0=b0,: blocks are written"),
        ("--require n0=b0", "--require n0=b0: it is written NODE=BLOCK:NODE=BLOCK"),
        ("--require n0=b0:n0=b1", "condition and consequence are about different nodes"),
        ("--max-changes 2", "--max-changes N and --from NETWORK are given together"),
        ("--from 0,0,0,0,0", "--max-changes N and --from NETWORK are given together"),
        ("--max-changes -1 --from 0,0,0,0,0", "a number of changes is at least 0, but got -1"),
        ("--max-changes 2 --from 0,0", "--max-changes 2 --from 0,0: a network of five has"),
    ],
)
def test_errors_name_the_rule(run: Run, line: str, message: str) -> None:
    assert_error(run(*line.split()), message)


@pytest.mark.parametrize("more", [(), ("--limit", "latency_ms=2"), ("--top", "2"), ("--explain",)])
def test_rules_that_leave_nothing_are_to_blame(run: Run, more: tuple[str, ...]) -> None:
    arguments = ("--fix", "n0=b0", "--fix", "n0=b1", *more)
    message = "no network keeps the rules, whatever the limits: fixed: n0=b0; fixed: n0=b1."
    code, out, err = run(*arguments)
    assert (code, err) == (1, "")
    assert message in out
    found = json_of(run(*arguments, "--json"), code=1)
    assert (found["status"], found["rules_conflict"]) == ("infeasible", True)
    assert found["reasons"] == [message]


def test_limits_that_fail_under_rules_say_so(run: Run, table: mn.BlockTable) -> None:
    arguments = ("--fix", "n0=b3", "--limit", "latency_ms=1.2")
    found = json_of(run(*arguments, "--json"), code=1)
    assert found["rules"] == ["fixed: n0=b3"]
    rows = table.space.all_networks()[:, 0] == 3
    least = table.predict_all("latency_ms")[rows].min()
    assert found["conflicts"][0]["best_possible"] == pytest.approx(least)
    assert "all this under the rules: fixed: n0=b3" in run(*arguments)[1]


# ---- as a program -------------------------------------------------------------------------------


def test_help_fits_80_columns_and_has_an_example(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "mathnas search phone.table.json --limit" in one_line(out)
    for option in ("--fix", "--exclude", "--forbid", "--require", "--max-changes", "--from"):
        assert option in out


def program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mathnas", "search", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=60,
    )


def test_the_program_prints_json_and_exits_as_promised(folder: Path, table: mn.BlockTable) -> None:
    done = program(folder, "t.json", *LIMIT, "--top", "2", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    expected = mn.k_best(table, 2, limits={"latency_ms": 2.5})
    assert isinstance(expected, mn.Ranking)
    assert [a["network"] for a in json.loads(done.stdout)["answers"]] == [
        list(a.network) for a in expected
    ]

    done = program(folder, "t.json", "--limit", "latency_ms=0.1", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["status"] == Status.INFEASIBLE.value

    done = program(folder, "t.json", "--diverse", "2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --diverse needs --top")


def test_the_program_prints_nothing_but_json_with_highs(folder: Path) -> None:
    pytest.importorskip("highspy")
    done = program(folder, "t.json", "--solver", "highs", "--json")
    assert json.loads(done.stdout)["solver"] == "highs"
