"""The demo's flow on a bench where the right answer is known."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from demo_cases import MadeUpBench, accuracy, best_under, latency, median_latency
from rich.console import Console

from mathnas import BlockTable, EvaluationError, InvalidInputError, Network, Study
from mathnas.demo.flow import DemoResult, Measured, follow
from mathnas.evaluation import FunctionEvaluator


def run(folder: Path, bench: MadeUpBench | None = None, seed: int = 0) -> tuple[DemoResult, str]:
    screen = io.StringIO()
    console = Console(file=screen, width=100)
    result = follow(bench or MadeUpBench(), folder, seed=seed, rivals=10, console=console)
    return result, screen.getvalue()


def test_it_finds_the_best_network_under_the_median_latency(tmp_path: Path) -> None:
    result, _ = run(tmp_path)
    assert result.limit_ms == pytest.approx(median_latency())
    assert result.found.latency_ms <= result.limit_ms
    assert result.found.accuracy == best_under(result.limit_ms)
    assert result.found.network == result.answer.network
    assert result.percentile > 90


def test_it_evaluates_a_single_sample_and_then_what_it_compares(tmp_path: Path) -> None:
    bench = MadeUpBench()
    result, _ = run(tmp_path, bench)
    assert result.evaluated == 4 * 2 + 1
    asked = [network for metric, network in bench.asked if metric == "accuracy"]
    assert len(asked) == len(set(asked)) <= 9 + 1 + 10
    assert {network for _, network in bench.asked} == set(asked)


def test_the_latency_of_the_reference_is_measured_once_more_with_every_node(tmp_path: Path) -> None:
    bench = MadeUpBench()
    run(tmp_path, bench)
    reference = bench.space.reference
    assert bench.asked.count(("latency_ms", reference)) == 1 + 4
    assert bench.asked.count(("accuracy", reference)) == 1


def test_rivals_are_others_that_meet_the_limit(tmp_path: Path) -> None:
    result, _ = run(tmp_path)
    networks = [rival.network for rival in result.rivals]
    assert len(set(networks)) == 10
    assert result.found.network not in networks
    for rival in result.rivals:
        assert rival.latency_ms == latency(rival.network) <= result.limit_ms
        assert rival.accuracy == accuracy(rival.network)


def test_the_seed_draws_the_rivals(tmp_path: Path) -> None:
    def rivals(folder: str, seed: int) -> list[Network]:
        return [rival.network for rival in run(tmp_path / folder, seed=seed)[0].rivals]

    assert rivals("a", 1) == rivals("b", 1)
    assert rivals("a", 1) != rivals("c", 2)


def test_the_files_hold_what_was_found(tmp_path: Path) -> None:
    result, _ = run(tmp_path / "new" / "folder")
    assert {path.name for path in result.folder.iterdir()} >= set(result.files)
    with Study(result.folder / "demo.study") as study:
        assert study.measurements("accuracy").lookup(result.found.network) is not None
    table = BlockTable.load(result.folder / "table.json")
    predicted = table.prediction(result.found.network, "accuracy").value
    assert predicted == pytest.approx(result.found.accuracy)
    record = json.loads((result.folder / "results.json").read_text(encoding="utf-8"))
    assert record["found"] == result.found.to_dict()
    assert record["percentile"] == result.percentile
    assert record["delivered"]["accuracy"] == result.found.accuracy
    assert record["provenance"] == {"made": "up"}
    assert len(record["rivals"]) == 10


def test_it_prints_what_it_found(tmp_path: Path) -> None:
    result, text = run(tmp_path)
    assert f"percentile {result.percentile:.0f}" in text
    assert "proven highest predicted accuracy" in text
    for row in ("found, predicted", "found, measured", "delivered file", "10 random networks"):
        assert row in text
    assert all(name in text for name in ("delivered.txt", "demo.study", "table.json"))


def test_running_again_measures_nothing_again(tmp_path: Path) -> None:
    first, _ = run(tmp_path)
    bench = MadeUpBench()
    second, _ = run(tmp_path, bench)
    assert bench.asked == []
    assert second.found == first.found
    assert second.limit_ms == first.limit_ms


def test_the_percentile_counts_ties_half(tmp_path: Path) -> None:
    result, _ = run(tmp_path)
    rivals = tuple(
        Measured((0, 0, 0, 0), result.found.accuracy + difference, 1.0)
        for difference in (-2.0, -1.0, 0.0, 3.0)
    )
    assert replace(result, rivals=rivals).percentile == pytest.approx(100 * 2.5 / 4)


def test_a_failing_evaluation_ends_the_demo(tmp_path: Path) -> None:
    bench = MadeUpBench()

    def fails(network: Network) -> float:
        raise OSError("the disk is gone")

    bench.accuracy = FunctionEvaluator(fails, ["accuracy"])
    with pytest.raises(EvaluationError, match="the disk is gone"):
        run(tmp_path, bench)


def test_too_many_rivals_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"compared with 81 others.*compare with fewer"):
        follow(MadeUpBench(), tmp_path, rivals=81, console=Console(file=io.StringIO()))
