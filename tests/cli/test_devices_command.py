"""Several devices in one study on the command line, and what was spent on it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mathnas as mn
from mathnas.device import Device

Run = Callable[..., tuple[int, str, str]]
COSTS = {"phone": [[0, 3], [0, 5, 1]], "board, 4 cores": [[0, 1], [0, 2, 8]]}
METER = """
class Meter:
    name = "a lamp of 100 W"
    def start(self):
        import time
        self.begun = time.monotonic()
    def joules(self):
        import time
        return 100.0 * (time.monotonic() - self.begun)
    def stop(self):
        pass
"""


def json_of(result: tuple[int, str, str]) -> Any:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Accuracy, and latency on two devices of which one has a record."""
    blocks = [mn.Block(f"b{j}", 1e6 * (j + 1)) for j in range(3)]
    nodes = [mn.BlockNode("a", tuple(blocks[:2])), mn.BlockNode("b", tuple(blocks))]
    space = mn.SearchSpace(nodes, name="small")
    with mn.Study(tmp_path / "my.study", space) as made:
        made.add_device(Device("phone", "Kryo", 8, "Linux aarch64"))
        for network in space.enumerate():
            for name, costs in COSTS.items():
                value = 10.0 + sum(c[b] for c, b in zip(costs, network, strict=True))
                fact = mn.Measurement(value)
                made.add([mn.Evaluation(network, "latency_ms", fact, 0, {"device": name})])
            quality = mn.Measurement(60.0 + sum(network))
            made.add([mn.Evaluation(network, "accuracy", quality, 0, {})])
    return made.path


@pytest.fixture
def sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The evaluator of a module in the folder, beside a meter."""
    (tmp_path / "costs_case.py").write_text(
        "import mathnas as mn\n"
        "def make():\n"
        "    return mn.FunctionEvaluator(lambda n: 1.0 + sum(n), ['loss'])\n" + METER,
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "costs_case:make"


# ---- devices ------------------------------------------------------------------------------------


def test_devices_are_listed_with_their_measurements(run: Run, study: Path) -> None:
    code, out, _ = run("devices", "my.study")
    assert code == 0
    assert out.splitlines() == [
        "phone: 6 measurements",
        "  Kryo, 8 cores; Linux aarch64",
        "board, 4 cores: 6 measurements",
        "  no record of it",
        "6 measurements name no device and serve all.",
    ]
    found = json_of(run("devices", "my.study", "--json"))
    assert [one["name"] for one in found["devices"]] == list(COSTS)
    assert found["devices"][0]["record"]["cpu"] == "Kryo"
    assert found["devices"][1] == {"name": "board, 4 cores", "measurements": 6, "record": None}


def test_fit_search_and_predict_are_of_one_device(run: Run, study: Path) -> None:
    for device, network in (("phone", [0, 2]), ("board", [1, 1])):
        table = json_of(run("fit", "my.study", "--device", device, "-o", "t.json", "--json"))
        assert table["provenance"]["device"].startswith(device)
        limit = ("--limit", "latency_ms<=13", "--json")
        for given in (("my.study", "--device", device), ("t.json",)):
            assert json_of(run("search", *given, *limit))["network"] == network
        predicted = json_of(
            run("predict", "my.study", "--device", device, "--network", "1,2", "--json")
        )
        expected = {"phone": 14.0, "board": 19.0}[device]
        assert predicted[0]["predictions"]["latency_ms"]["value"] == pytest.approx(expected)


def test_tables_of_several_devices_do_not_replace_each_other(run: Run, study: Path) -> None:
    for device in ("phone", "board"):
        assert run("fit", "my.study", "--device", device)[0] == 0
    assert Path("my.phone.table.json").exists()
    assert Path("my.board-4-cores.table.json").exists()


@pytest.mark.parametrize("command", ["fit", "search", "pareto"])
def test_without_a_device_the_error_says_what_to_give(run: Run, study: Path, command: str) -> None:
    more = ("--x", "latency_ms") if command == "pareto" else ()
    code, out, err = run(command, "my.study", *more)
    assert (code, out) == (1, "")
    assert "phone; board, 4 cores: choose one of them with device= (--device)" in err


def test_names_and_tables_that_do_not_fit(run: Run, study: Path) -> None:
    code, _, err = run("fit", "my.study", "--device", "watch")
    assert (code, "my.study has phone; board, 4 cores" in err) == (1, True)
    assert run("fit", "my.study", "--device", "phone", "-o", "t.json")[0] == 0
    code, _, err = run("search", "t.json", "--device", "phone")
    assert (code, "--device is for fitting, but t.json is a table" in err) == (1, True)
    code, _, err = run("pareto", "my.study", "--x", "latency_ms", *("--device", "phone") * 2)
    assert (code, "'phone' came twice" in err) == (1, True)


def test_fronts_side_by_side(run: Run, study: Path) -> None:
    both = ("pareto", "my.study", "--x", "latency_ms", "--device", "phone", "--device", "board")
    code, out, _ = run(*both)
    assert code == 0
    assert "phone: 3 points (all of them, each proven)" in out
    assert "on board, 4 cores these have +12.8% latency_ms on average" in out
    # accuracy 63 costs 14 ms on the phone with [1,2], where the board needs 19
    row = next(line.split() for line in out.splitlines() if line.endswith("[1,2]"))
    assert row[:4] == ["14", "ms", "63.00", "%"]
    assert row[4] == "19"
    found = json_of(run(*both, "--json"))["devices"]
    assert list(found) == list(COSTS)
    point = next(p for p in found["phone"]["points"] if p["network"] == [0, 2])
    # 62 % costs the board 18 ms with [0,2], and 13 ms with [1,1]
    here = point["elsewhere"]["board, 4 cores"]
    assert here == {
        "latency_ms": 18.0,
        "accuracy": 62.0,
        "excess": pytest.approx(18 / 13 - 1),
        "feasible": True,
    }
    assert run(*both, "--csv", "fronts.csv")[0] == 0
    with Path("fronts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["device"] for row in rows} == set(COSTS)
    code, out, _ = run(*both, "--csv", "-")
    assert (code, out) == (0, Path("fronts.csv").read_text())
    # one device is a front as ever
    alone = json_of(run(*both[:4], "--device", "phone", "--json"))
    assert [p["network"] for p in alone["points"]] == [
        p["network"] for p in found["phone"]["points"]
    ]


def test_a_device_without_a_front_ends_with_1(run: Run, study: Path) -> None:
    both = ("pareto", "my.study", "--x", "latency_ms", "--device", "phone", "--device", "board")
    code, out, _ = run(*both, "--limit", "accuracy>=70")
    assert code == 1
    assert "phone: no network meets the limits (proven)" in out


# ---- costs --------------------------------------------------------------------------------------


def test_commands_record_what_they_cost(run: Run, study: Path, sums: str) -> None:
    energy = ("--meter", "costs_case:Meter", "--grid-intensity", "360")
    assert run("evaluate", "my.study", "--evaluator", sums, *energy)[0] == 0
    refining = ("refine", "my.study", "--evaluator", sums, "--minimize", "loss", "--budget", "6")
    assert run(*refining, *energy)[0] == 0
    assert run("search", "my.study", "--device", "phone", "--limit", "macs=4M")[0] == 0
    assert run("pareto", "my.study", "--device", "phone", "--x", "latency_ms")[0] == 0
    found = json_of(run("costs", "my.study", "--json"))
    assert [one["what"] for one in found["runs"]] == [
        *("estimation", "refinement", "search", "search")
    ]
    assert all(one["finished"] for one in found["runs"])
    assert (found["by_work"]["estimation"]["networks"], found["by_work"]["search"]["runs"]) == (
        4,
        2,
    )
    assert found["by_work"]["search"]["joules"] is None
    assert found["by_work"]["search"]["co2"] is None
    for kind in ("estimation", "refinement"):
        own = found["by_work"][kind]
        assert own["joules"] == pytest.approx(100 * own["seconds"], rel=0.2)
        co2 = own["co2"]
        assert (co2["estimate"], co2["grid_intensities_g_per_kwh"]) == (True, [360.0])
        assert co2["grams"] == pytest.approx(own["joules"] / 1e4)
    code, out, _ = run("costs", "my.study")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == [
        *("estimation", "refinement", "search", "total")
    ]
    assert "estimate at 360 g/kWh" in out


def test_the_environment_gives_meter_and_intensity(
    run: Run, study: Path, sums: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATHNAS_METER", "costs_case:Meter")
    monkeypatch.setenv("MATHNAS_GRID_INTENSITY", "50")
    assert run("search", "my.study", "--device", "phone")[0] == 0
    (one,) = json_of(run("costs", "my.study", "--json"))["runs"]
    assert (one["meter"], one["grid_intensity"]) == ("a lamp of 100 W", 50.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--meter", "lamp"), "or MODULE:OBJECT, but got 'lamp'"),
        (("--meter", "costs_case:make"), "without start and joules and stop"),
        (("--meter", "costs_case:none"), "the meter costs_case:none cannot be loaded"),
        (("--grid-intensity", "-5"), "at least 0, but got -5"),
        (("--grid-intensity", "green"), "Invalid value for '--grid-intensity'"),
    ],
)
def test_meters_and_intensities_that_are_none(
    run: Run, study: Path, sums: str, options: tuple[str, ...], message: str
) -> None:
    code, _, err = run("evaluate", "my.study", "--evaluator", sums, *options)
    assert code == 1
    assert message in " ".join(err.replace("│", " ").split())
    assert json_of(run("costs", "my.study", "--json"))["runs"] == []


def test_a_search_answers_where_its_cost_cannot_be_written(
    run: Run, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: mn.Study, cost: object) -> None:
        raise mn.FileFormatError("the disk is full.")

    monkeypatch.setattr(mn.Study, "add_run", refuse)
    code, out, err = run("search", "my.study", "--device", "phone", "--json")
    assert (code, json.loads(out)["status"]) == (0, "optimal")
    assert "warning: the cost of this search is not recorded: the disk is full." in err


def test_costs_of_nothing_and_of_a_folder_without_an_account(run: Run, study: Path) -> None:
    code, out, _ = run("costs", "my.study")
    assert (code, out) == (0, "no runs are recorded.\n")
    code, _, err = run("costs", "my.study", "--training", "nowhere")
    assert (code, "costs.json cannot be read" in err) == (1, True)
