"""`mathnas pareto`: the points of the Python API, as a plot, CSV or JSON; errors; Ctrl-C."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mathnas as mn
from mathnas.cli import main
from mathnas.search import exclude, fix

Run = Callable[..., tuple[int, str, str]]
X = ("--x", "latency_ms")
SEEN = "front of accuracy:"  # how progress begins in a log


def make_table(path: Path, nodes: int, blocks: int) -> None:
    """A table in which accuracies and latencies are at odds."""
    kinds = tuple(mn.Block(f"b{j}", 1e6 * (j + 1)) for j in range(blocks))
    space = mn.SearchSpace([mn.BlockNode(f"n{i}", kinds) for i in range(nodes)], name="pair")
    draws = np.random.default_rng(7).uniform(0.1, 1.0, size=(2, nodes, blocks))
    draws = draws.cumsum(axis=2)

    def measure(network: mn.Network) -> dict[str, float]:
        accuracy, latency = draws[:, range(nodes), list(network)].sum(axis=1).tolist()
        return {"accuracy": 60 + accuracy, "latency_ms": 1 + latency}

    evaluator = mn.FunctionEvaluator(measure, ["accuracy", "latency_ms"])
    with mn.Study(path.with_suffix(".study"), space) as study:
        mn.evaluate(study, mn.single_sampling(space), evaluator)
        mn.fit(study).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds t.json: 4^6 networks."""
    made = tmp_path_factory.mktemp("pareto")
    make_table(made / "t.json", 6, 4)
    return made


@pytest.fixture
def table(folder: Path) -> mn.BlockTable:
    return mn.BlockTable.load(folder / "t.json")


@pytest.fixture
def run(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs ``mathnas pareto`` on t.json in an empty folder; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str, path: Path = folder / "t.json") -> tuple[int, str, str]:
        code = main(("pareto", str(path), *arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def json_of(result: tuple[int, str, str], code: int = 0) -> Any:
    """The one document on stdout; with --json, nothing is on stderr either."""
    assert (result[0], result[2]) == (code, "")
    return json.loads(result[1])


def assert_error(result: tuple[int, str, str], message: str) -> None:
    code, out, err = result
    assert (code, out) == (1, "")
    assert message in " ".join(re.sub(r"[│╭╮╰╯─]", " ", err).split())
    assert "Traceback" not in err
    assert "internal error" not in err


def points_of(front: mn.Front | mn.Infeasible) -> list[dict[str, object]]:
    assert isinstance(front, mn.Front)
    found = front.to_dict()["points"]
    assert isinstance(found, list)
    return found


# ---- points -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ((), []),
        (("--limit", "macs=12M"), ["macs=12M"]),
        (("--limit", "macs<=15M", "--limit", "accuracy>=62"), ["macs<=15M", "accuracy>=62"]),
    ],
)
def test_points_are_those_of_the_api(
    run: Run, table: mn.BlockTable, arguments: tuple[str, ...], limits: list[str]
) -> None:
    found = json_of(run(*X, *arguments, "--json"))
    expected = mn.pareto_front(table, "latency_ms", "accuracy", limits=limits)
    assert found["points"] == points_of(expected)
    assert (found["x"], found["y"], found["complete"]) == ("latency_ms", "accuracy", True)
    assert len(found["limits"]) == len(limits)


def test_the_front_is_that_of_all_networks(run: Run, table: mn.BlockTable) -> None:
    x, y = table.predict_all("latency_ms"), table.predict_all("accuracy")
    order = np.lexsort((-y, x))
    best = np.maximum.accumulate(y[order])
    kept = order[np.concatenate([[True], y[order][1:] > best[:-1]])]
    found = json_of(run(*X, "--json"))["points"]
    assert [point["latency_ms"] for point in found] == pytest.approx(x[kept].tolist())
    assert [point["accuracy"] for point in found] == pytest.approx(y[kept].tolist())


def test_y_is_accuracy_unless_named(run: Run, table: mn.BlockTable) -> None:
    found = json_of(run("--x", "macs", "--y", "latency_ms", "--json"))
    assert found["points"] == points_of(mn.pareto_front(table, "macs", "latency_ms"))


def test_max_points_takes_some_of_the_front(run: Run, table: mn.BlockTable) -> None:
    whole = json_of(run(*X, "--json"))["points"]
    found = json_of(run(*X, "--max-points", "4", "--json"))
    assert found["complete"] is False
    assert 2 <= len(found["points"]) <= 4
    assert all(point in whole for point in found["points"])
    assert (found["points"][0], found["points"][-1]) == (whole[0], whole[-1])


@pytest.mark.parametrize("solver", ["numpy", "enumeration", "chain"])
def test_solvers_can_be_named(run: Run, solver: str) -> None:
    found = json_of(run(*X, "--solver", solver, "--json"))
    assert found["solver"] == solver
    assert found["points"] == json_of(run(*X, "--json"))["points"]


def test_rules_hold_for_every_point(run: Run, table: mn.BlockTable) -> None:
    found = json_of(run(*X, "--fix", "n0=b2", "--exclude", "n1=0", "--json"))["points"]
    rules = [fix(table.space, {"n0": "b2"}), exclude(table.space, {"n1": "b0"})]
    expected = mn.pareto_front(table, "latency_ms", "accuracy", rules=rules)
    assert found == points_of(expected)
    assert all(point["network"][0] == 2 and point["network"][1] != 0 for point in found)


# ---- output -------------------------------------------------------------------------------------


def test_people_get_a_plot_and_the_networks(run: Run) -> None:
    code, out, err = run(*X, "--max-points", "4")
    assert code == 0
    assert out.startswith("Pareto front of accuracy against latency_ms: ")
    plot, listed = out.rstrip().split("\n\n")
    points = json_of(run(*X, "--max-points", "4", "--json"))["points"]
    assert plot.count("o") - plot.splitlines()[0].count("o") == len(points)
    assert max(map(len, plot.splitlines()[1:])) <= 80
    assert [line.split("[")[1] for line in listed.splitlines()] == [
        ",".join(map(str, point["network"])) + "]" for point in points
    ]
    # progress is told, but never on standard output
    assert SEEN in err
    assert SEEN not in out


def test_of_many_points_the_plot_says_where_the_networks_are(run: Run) -> None:
    points = json_of(run(*X, "--json"))["points"]
    assert len(points) > 20
    assert "the networks: --csv FILE, --json" in run(*X)[1]


@pytest.mark.parametrize("option", ["--csv", "-o"])
def test_csv_holds_the_exact_points(run: Run, tmp_path: Path, option: str) -> None:
    code, out, _ = run(*X, option, "new/front.csv")
    assert code == 0
    assert "written: new/front.csv" in out
    with (tmp_path / "new" / "front.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    points = json_of(run(*X, "--json"))["points"]
    assert [(r["network"], float(r["latency_ms"]), float(r["accuracy"])) for r in rows] == [
        (",".join(map(str, p["network"])), p["latency_ms"], p["accuracy"]) for p in points
    ]


def test_csv_can_go_to_standard_output(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*X, "--csv", "-")
    assert code == 0
    assert len(list(csv.DictReader(io.StringIO(out)))) == out.count("\n") - 1
    assert not list(tmp_path.iterdir())
    assert_error(run(*X, "--csv", "-", "--json"), "--csv - and --json both print")


def test_json_stays_one_document_beside_a_file(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*X, "--json", "--csv", "front.csv")
    assert (code, err) == (0, "written: front.csv\n")
    assert len(json.loads(out)["points"]) == (tmp_path / "front.csv").read_text().count("\n") - 1


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_file_that_cannot_be_written_costs_an_error_but_not_the_front(
    run: Run, tmp_path: Path, as_json: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for target in ("file/front.csv", "folder"):
        code, out, err = run(*X, "--csv", target, *as_json)
        assert code == 1
        assert f"error: {target} cannot be written" in err
        assert "Traceback" not in err
        assert json.loads(out)["points"] if as_json else "Pareto front" in out


# ---- no front -----------------------------------------------------------------------------------


def test_infeasible_exits_with_1_and_says_the_nearest_value(
    run: Run, table: mn.BlockTable, tmp_path: Path
) -> None:
    least = table.predict_all("latency_ms").min()
    arguments = (*X, "--limit", "latency_ms=0.5", "--csv", "front.csv")
    found = json_of(run(*arguments, "--json"), code=1)
    assert (found["points"], found["status"]) == ([], "infeasible")
    assert found["conflicts"][0]["best_possible"] == pytest.approx(least)
    code, out, _ = run(*arguments)
    assert code == 1
    assert f"the lowest possible latency_ms is {least:.4g} ms" in out
    assert not (tmp_path / "front.csv").exists()


def test_rules_that_leave_nothing_are_to_blame(run: Run) -> None:
    arguments = (*X, "--fix", "n0=b0", "--exclude", "n0=b0")
    code, out, _ = run(*arguments)
    assert code == 1
    assert "no network keeps the rules, whatever the limits: fixed: n0=b0; without n0=b0." in out
    found = json_of(run(*X, "--fix", "n0=b1", "--limit", "macs=1M", "--json"), code=1)
    assert found["rules"] == ["fixed: n0=b1"]


@pytest.mark.parametrize("more", [(), ("--max-points", "3")])
def test_no_point_in_the_time_is_not_called_infeasible(run: Run, more: tuple[str, ...]) -> None:
    found = json_of(run(*X, "--time-limit", "1e-9", *more, "--json"), code=1)
    assert (found["complete"], found["points"]) == (False, [])
    code, out, _ = run(*X, "--time-limit", "1e-9", *more)
    assert code == 1
    assert "no point was proven in the time: give more time (time_limit)." in out


def test_with_time_enough_the_front_is_complete(run: Run) -> None:
    assert json_of(run(*X, "--time-limit", "60", "--json"))["complete"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--x", "speed"), "the table has no metric 'speed'"),
        ((*X, "--y", "speed"), "the table has no metric 'speed'"),
        (("--x", "accuracy"), "a front is between two metrics, but both are 'accuracy'"),
        ((), "Missing option '--x'"),
        ((*X, "--max-points", "1"), "at least 2 points"),
        ((*X, "--max-points", "few"), "Invalid value for '--max-points'"),
        ((*X, "--limit", "latency_ms=fast"), "a limit on latency_ms is a number"),
        ((*X, "--solver", "gurobi"), "a solver is one of auto"),
        ((*X, "--time-limit", "0"), "--time-limit is positive seconds, but got 0"),
        ((*X, "--time-limit", "-3"), "--time-limit is positive seconds, but got -3"),
        ((*X, "--time-limit", "nan"), "--time-limit is positive seconds, but got nan"),
        ((*X, "--fix", "n0"), "--fix n0: blocks are written NODE=BLOCK"),
        ((*X, "--from", "0,0,0,0,0,0"), "--max-changes N and --from NETWORK are given together"),
        ((*X, "--form", "accuracy=linear"), "is a table that is fitted already"),
    ],
)
def test_wrong_use_gets_one_clear_error(run: Run, arguments: tuple[str, ...], message: str) -> None:
    assert_error(run(*arguments), message)


def test_a_missing_table_is_named(run: Run) -> None:
    assert_error(run(*X, path=Path("gone.json")), "gone.json cannot be read")


# ---- as a program -------------------------------------------------------------------------------


def test_help_fits_80_columns_and_has_an_example(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "mathnas pareto phone.table.json --x latency_ms" in out
    assert "-o" in out


def test_the_program_keeps_progress_off_standard_output(folder: Path, table: mn.BlockTable) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mathnas", "pareto", "t.json", *X, "--csv", "-"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=60,
    )
    assert done.returncode == 0
    front = mn.pareto_front(table, "latency_ms", "accuracy")
    assert isinstance(front, mn.Front)
    assert done.stdout == front.to_csv()
    assert SEEN in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_stops_with_130_and_no_traceback(tmp_path: Path) -> None:
    import pty

    make_table(tmp_path / "slow.json", 40, 9)
    terminal, end = pty.openpty()  # both stay open: some systems drop what is unread on closing
    with subprocess.Popen(
        [sys.executable, "-m", "mathnas", "pareto", "slow.json", *X, "--solver", "chain"],
        stdout=subprocess.PIPE,
        stderr=end,
        cwd=tmp_path,
    ) as process:
        try:
            seen = _read_until(terminal, b"front of accuracy")  # the bar is there: it solves
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=30)
            seen += _read_until(terminal, b"Traceback", 0.1)
        finally:
            process.kill()
            os.close(terminal)
            os.close(end)
    assert process.returncode == 130
    assert out == b""
    assert b"front of accuracy" in seen
    assert b"Traceback" not in seen


def _read_until(terminal: int, text: bytes, seconds: float = 30.0) -> bytes:
    """What a program writes to a terminal up to some text, or until the time is over."""
    seen, last = b"", time.monotonic() + seconds
    while text not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, last - time.monotonic()))
        if not ready:
            break
        seen += os.read(terminal, 4096)
    return seen
