"""What a run costs, and what several cost together."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mathnas import FileFormatError, InvalidInputError
from mathnas.costs import Account, CostRecorder, CostSum, RunCost, read_runs, write_runs


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


# ---- one run ------------------------------------------------------------------------------------


def test_time_is_wall_time_and_that_of_processors() -> None:
    before = time.perf_counter()
    with CostRecorder("search") as recorder:
        inside = time.perf_counter()
        burn(0.2)  # of all threads: what they do at the same time takes less by the clock
        time.sleep(0.2)
        least = time.perf_counter() - inside
    cost = recorder.cost
    assert least <= cost.seconds <= time.perf_counter() - before
    assert 0.2 <= cost.cpu_seconds < cost.seconds
    assert abs(cost.begun + cost.seconds - time.time()) < 5


def test_processor_time_of_children_counts_when_they_end() -> None:
    code = "import time\nwhile time.process_time() < 0.4: pass"
    with CostRecorder("training") as recorder:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert recorder.cost.cpu_seconds >= 0.39


def test_reports_come_at_the_start_now_and_then_and_at_the_end() -> None:
    told: list[RunCost] = []
    with CostRecorder("estimation", told=told.append, interval=0.05) as recorder:
        for _ in range(4):
            recorder.add(networks=2)
        time.sleep(0.06)
        recorder.add(networks=1)
    assert [(cost.networks, cost.finished) for cost in told] == [(0, False), (9, False), (9, True)]
    assert told[1].seconds >= 0.06
    assert told[-1] == recorder.cost


def test_co2_is_an_estimate_of_measured_energy_at_a_stated_intensity() -> None:
    assert RunCost("training", joules=3.6e6, grid_intensity=50).co2_grams == pytest.approx(50)
    assert RunCost("training", joules=9e5, grid_intensity=400).co2_grams == pytest.approx(100)
    assert RunCost("training", joules=3.6e6).co2_grams is None
    assert RunCost("training", grid_intensity=50).co2_grams is None


@pytest.mark.parametrize("intensity", [-1.0, float("nan"), float("inf")])
def test_an_intensity_that_is_none(intensity: float) -> None:
    with pytest.raises(InvalidInputError, match="grams of CO2 for a kWh, at least 0, but got"):
        CostRecorder("search", grid_intensity=intensity)


def test_records_come_back(tmp_path: Path) -> None:
    runs = [
        RunCost("training", 10.0, 9.5, 0, 100.0, "rapl", 56.0, 1.5e9, False),
        RunCost("search", 0.1, 0.1),
    ]
    assert [RunCost.from_dict(run.to_dict()) for run in runs] == runs
    write_runs(tmp_path, runs)
    assert read_runs(tmp_path) == runs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"what": "sleep"}, "a cost is that of training, estimation"),
        ({"seconds": -1.0}, "seconds of a cost is at least 0"),
        ({"joules": float("inf")}, "joules of a cost"),
        ({"grid_intensity": -5.0}, "for a kWh"),
        ({"seconds": "long"}, "expected float"),
        ({"networks": None}, "'networks' is missing"),
        ({"joule": 1.0}, "unknown field 'joule'"),
    ],
)
def test_records_that_are_none(change: dict[str, Any], words: str) -> None:
    record = {**RunCost("search").to_dict(), **change}
    with pytest.raises((InvalidInputError, FileFormatError), match=words):
        RunCost.from_dict(record)


# ---- several ------------------------------------------------------------------------------------

RUNS = [
    RunCost("estimation", 100.0, 150.0, 20, 1000.0, "rapl", 360.0),
    RunCost("estimation", 50.0, 40.0, 10, 500.0, "rapl", finished=False),
    RunCost("training", 7200.0, 7000.0, 0, 3.6e6, "rapl", 50.0),
    RunCost("search", 0.5, 0.25),
]


def test_sums_say_what_they_are_of() -> None:
    found = CostSum.of(RUNS)
    assert (found.runs, found.unfinished, found.networks) == (4, 1, 30)
    assert (found.seconds, found.cpu_seconds) == (7350.5, 7190.25)
    assert (found.joules, found.metered) == (3_601_500.0, 3)
    # 1 kJ at 360 g/kWh and 1 kWh at 50; the 500 J have no intensity and so no CO2
    assert found.co2_grams == pytest.approx(0.1 + 50)
    assert (found.estimated, found.intensities) == (2, (360.0, 50.0))
    record = found.to_dict()
    assert record["metered_runs"] == 3
    co2 = record["co2"]
    assert isinstance(co2, dict)
    assert (co2["estimate"], co2["grid_intensities_g_per_kwh"]) == (True, [360.0, 50.0])


def test_nothing_is_invented_for_runs_without_a_meter() -> None:
    found = CostSum.of(RUNS[3:])
    assert (found.joules, found.co2_grams, found.to_dict()["co2"]) == (None, None, None)
    assert "CO2" not in found.line("search")
    assert "J" not in found.line("search")


def test_an_account_for_people() -> None:
    lines = str(Account(RUNS)).splitlines()
    assert [line.split(":")[0] for line in lines] == ["training", "estimation", "search", "total"]
    assert lines[1].startswith("estimation: 2 runs (1 not finished), 2.5 min (3.17 min of proc")
    assert "30 evaluations" in lines[1]
    assert "1.5 kJ" in lines[1]
    assert "about 50 g CO2 (estimate at 50 g/kWh)" in lines[0]
    assert "(measured in 3 of them)" in lines[3]
    assert "estimate at 360 and 50 g/kWh, 2 runs" in lines[3]
    assert str(Account([])) == "no runs are recorded."


def test_threads_count_together() -> None:
    with CostRecorder("estimation", interval=0.0) as recorder:

        def count() -> None:
            for _ in range(200):
                recorder.add(networks=1)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert recorder.cost.networks == 800
