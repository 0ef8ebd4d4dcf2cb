"""What a training cost is in its folder and its supernet; runs that go on add up."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")

from training_cases import ALONE, SCRIPTS, small_net, square_data, start

from mathnas.costs import RunCost, read_runs
from mathnas.nets.files import supernet_notes
from mathnas.training.config import TrainingConfig
from mathnas.training.trainer import SUPERNET_FILE, train

CONFIG = TrainingConfig(
    recipe="uniform", epochs=4, batch_size=20, checkpoint_interval=2, log_interval=1
)


class Lamp:
    name = "lamp"

    def start(self) -> None:
        self.asked = 0

    def joules(self) -> float:
        self.asked += 1
        return 3.6e6 * self.asked

    def stop(self) -> None:
        self.asked = -1


class Stopped(Exception):
    pass


def stop(progress: object) -> None:
    raise Stopped


def costs_in(folder: Path) -> list[RunCost]:
    """What the supernet's notes tell."""
    records = supernet_notes(folder / SUPERNET_FILE)["costs"]
    assert isinstance(records, list)
    return [RunCost.from_dict(record) for record in records]


def test_runs_that_go_on_add_up(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(small_net(), square_data(), CONFIG, tmp_path, processes=ALONE, told=stop)
    (first,) = read_runs(tmp_path)
    assert (first.what, first.finished, first.joules) == ("training", True, None)
    report = train(
        small_net(),
        square_data(),
        CONFIG,
        tmp_path,
        processes=ALONE,
        meter=Lamp(),
        grid_intensity=50.0,
    )
    assert report.costs[0] == first
    second = report.costs[1]
    assert (second.meter, second.joules, second.co2_grams) == ("lamp", 3.6e6, 50.0)
    assert 0 < second.seconds <= report.seconds
    assert second.cpu_seconds > 0
    assert read_runs(tmp_path) == costs_in(tmp_path) == list(report.costs)
    told = json.loads(json.dumps(report.to_dict()))["costs"]
    assert [RunCost.from_dict(record) for record in told] == list(report.costs)


def test_a_finished_training_costs_nothing_more_and_its_files_stay(tmp_path: Path) -> None:
    first = train(small_net(), square_data(), CONFIG, tmp_path, processes=ALONE)
    names = (SUPERNET_FILE, "costs.json")
    before = [(tmp_path / name).read_bytes() for name in names]
    again = train(small_net(), square_data(), CONFIG, tmp_path, processes=ALONE)
    assert again.costs == first.costs
    # evaluations know a supernet by its file
    assert [(tmp_path / name).read_bytes() for name in names] == before


def test_without_a_folder_the_report_tells(tmp_path: Path) -> None:
    report = train(small_net(), square_data(), CONFIG, processes=ALONE)
    (cost,) = report.costs
    assert (cost.finished, cost.joules, cost.co2_grams) == (True, None, None)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_is_in_the_account(tmp_path: Path) -> None:
    CONFIG.save(tmp_path / "config.json")
    process = start([str(SCRIPTS / "train_slowly.py"), "config.json"], tmp_path)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 3:
        pass
    process.kill()
    process.communicate()
    (killed,) = read_runs(tmp_path / "out")
    assert not killed.finished
    report = train(small_net(), square_data(), CONFIG, tmp_path / "out", processes=ALONE)
    assert report.resumed > 0
    assert [cost.finished for cost in report.costs] == [False, True]
    assert report.costs[0] == killed


def test_the_account_of_a_study_with_its_training(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    arguments = ("train", "out", "--space", "digits", "--data", "digits", "--threads", "1")
    short = ("--recipe", "uniform", "--device", "cpu", "--epochs", "1", "--set", "batch_size=500")
    code, out, err = run(*arguments, *short, "--set", "evaluation_interval=0")
    assert code == 0, err
    assert "training: 1 run, " in out
    supernet = ("--evaluator", "supernet:out/supernet.safetensors,count=20,calibration=20")
    code, _, err = run("evaluate", "my.study", *supernet, "--sampling", "random", "--count", "2")
    assert code == 0, err
    code, out, _ = run("costs", "my.study", "--training", "out")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == ["training", "estimation", "total"]
    assert "2 evaluations" in out
