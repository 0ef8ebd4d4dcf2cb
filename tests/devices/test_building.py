"""Tables of simulated devices: known costs come back, and what does not add up is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from building_cases import (
    Costs,
    SimulatedDevice,
    additive_ms,
    chain_space,
    curved_ms,
    interacting_ms,
    latency_of,
    part_ms,
)

from mathnas import (
    EvaluationError,
    FunctionEvaluator,
    InvalidInputError,
    Network,
    SearchSpace,
    Study,
    TabularEvaluator,
)
from mathnas.devices.building import BuildingMethod, BuildingReport, Isolated, measure
from mathnas.devices.isolation import PartSpace

SPACE = chain_space()


def rough() -> SimulatedDevice:
    """Noise of single runs, drift, interruptions, and some other program for a while."""
    return SimulatedDevice(noise=0.05, drift=0.5, spikes=0.05, busy=(20.0, 40.0))


def built(
    folder: Path,
    device: SimulatedDevice,
    costs: Costs = additive_ms,
    *,
    method: BuildingMethod = "regression",
    minutes: float = 10.0,
    target: float = 0.005,
    networks: int = 20,
) -> BuildingReport:
    with Study(folder / "s.study", SPACE) as study:
        return measure(
            study,
            [latency_of(device, costs, SPACE)],
            networks=networks,
            method=method,
            minutes=minutes,
            target=target,
            clock=device.clock,
        )


def error_of(report: BuildingReport, costs: Costs = additive_ms) -> float:
    """Relative spread of predictions around the true costs; all may share one factor: how fast the
    device was when the reference was timed."""
    rows = SPACE.sample(100, seed=3)
    expected = np.array([costs(row) for row in rows])
    ratio = report.table.predict(np.array(rows), "latency_ms") / expected
    return float(ratio.std() / ratio.mean())


# ---- known costs come back -----------------------------------------------------------------------


def test_a_quiet_device_is_known_exactly(tmp_path: Path) -> None:
    report = built(tmp_path, SimulatedDevice())
    found = report.metrics["latency_ms"]
    assert error_of(report) < 1e-3
    assert report.stopped == "target"
    assert found.quality.spearman is not None
    assert found.quality.spearman > 0.995
    assert found.factor == pytest.approx(1.0, abs=0.002)
    assert found.additivity is not None
    assert found.additivity.holds


def test_noise_drift_spikes_and_a_busy_time_do_not_reach_the_table(tmp_path: Path) -> None:
    report = built(tmp_path, rough(), target=0.0035)
    found = report.metrics["latency_ms"]
    assert error_of(report) < 0.01
    assert found.quality.mape is not None
    assert found.quality.mape < 2.0
    assert found.additivity is not None
    assert found.additivity.holds
    low, high = report.drift["latency_ms"]
    assert high / low > 1.4  # the busy time is seen, not felt


def test_single_sampling_finds_the_effects_too(tmp_path: Path) -> None:
    report = built(tmp_path, rough(), method="differences", target=0.02)
    assert report.method == "differences"
    assert report.networks == 1 + sum(size - 1 for size in SPACE.sizes)
    assert error_of(report) < 0.03
    assert report.metrics["latency_ms"].uncertainty <= 0.02


# ---- the budget and the target -------------------------------------------------------------------


def test_it_stops_at_the_budget_and_validates_all_the_same(tmp_path: Path) -> None:
    device = rough()
    report = built(tmp_path, device, minutes=0.8, target=1e-6)
    assert report.stopped == "budget"
    assert device.now < 1.2 * 48  # what was under way is finished
    assert report.metrics["latency_ms"].quality.networks == 20


def test_a_looser_target_takes_fewer_networks(tmp_path: Path) -> None:
    for name in ("loose", "tight"):
        (tmp_path / name).mkdir()
    loose = built(tmp_path / "loose", rough(), target=0.02)
    tight = built(tmp_path / "tight", rough(), target=0.0035)
    assert loose.stopped == tight.stopped == "target"
    assert loose.networks < tight.networks


def test_the_same_call_goes_on_with_what_is_there(tmp_path: Path) -> None:
    device = rough()
    first = built(tmp_path, device, minutes=0.3, target=0.0035)
    again = SimulatedDevice(noise=0.05, seed=1)
    second = built(tmp_path, again, target=0.0035)
    assert second.stopped == "target"
    assert second.networks > first.networks
    with Study(tmp_path / "s.study", read_only=True) as study:
        assert len(study.conditions("latency_ms")) == 1  # relative to the same reference
        assert len(study) == first.measurements + second.measurements
    third = built(tmp_path, again, target=0.0035)
    assert third.measurements == 0


def test_minutes_too_few_for_a_table_are_told_and_nothing_is_lost(tmp_path: Path) -> None:
    device = SimulatedDevice()
    with pytest.raises(EvaluationError, match="the same command goes on"):
        built(tmp_path, device, method="differences", minutes=0.02)
    with Study(tmp_path / "s.study", read_only=True) as study:
        kept = len(study)
    assert kept > 0
    assert built(tmp_path, device, method="differences").networks == 16


# ---- do blocks add up? ---------------------------------------------------------------------------


def test_interactions_are_told_with_the_nodes_that_interact(tmp_path: Path) -> None:
    report = built(
        tmp_path, SimulatedDevice(noise=0.02), interacting_ms, method="differences", networks=40
    )
    found = report.metrics["latency_ms"].additivity
    assert found is not None
    assert not found.holds
    assert found.share > 0.1
    assert found.alternatives[0].kind == "interactions"
    assert "--method regression" in found.advice[0]
    assert "node" in found.advice[0]
    assert "NOT" in str(report)


def test_a_regression_holds_interactions_that_differences_cannot(tmp_path: Path) -> None:
    report = built(tmp_path, SimulatedDevice(noise=0.02), interacting_ms, target=0.02, networks=40)
    found = report.metrics["latency_ms"]
    assert report.table.column("latency_ms").pairs
    assert found.quality.mape is not None
    assert found.quality.mape < 3.0


def test_factors_ask_for_a_response_scale(tmp_path: Path) -> None:
    report = built(
        tmp_path, SimulatedDevice(noise=0.01), curved_ms, method="differences", networks=40
    )
    found = report.metrics["latency_ms"].additivity
    assert found is not None
    assert not found.holds
    kinds = {item.kind: item for item in found.alternatives}
    assert kinds["response scale"].helps
    assert any("response scale" in text for text in found.advice)


# ---- blocks in isolation -------------------------------------------------------------------------


def parts_of(space: SearchSpace) -> PartSpace:
    """Block 0 of the last node computes nothing."""
    computing = [[True] * size for size in space.sizes]
    computing[-1][0] = False
    return PartSpace(space, computing)


def alone_ms(parts: PartSpace, part: Network) -> float:
    """Every part that is run alone pays a call of 0.05 ms of its own; stem and head have 0.1."""
    if part == (0,):
        return additive_ms(parts.whole.reference)
    if part in (parts.stem, parts.head):
        return 0.15 + 0.05
    return part_ms(*parts.places[part[0]]) + 0.05


def test_blocks_in_isolation_are_summed_and_their_bias_is_told(tmp_path: Path) -> None:
    parts = parts_of(SPACE)
    device = SimulatedDevice(noise=0.02)
    with (
        Study(tmp_path / "s.study", SPACE) as study,
        Study(tmp_path / "p.study", parts) as alone,
    ):
        report = measure(
            study,
            [latency_of(device, additive_ms, SPACE)],
            method="isolation",
            isolated=Isolated(
                alone, [latency_of(device, lambda part: alone_ms(parts, part), parts)]
            ),
            clock=device.clock,
        )
    found = report.metrics["latency_ms"]
    # seven calls of 0.05 ms where a network pays one, or six without the last node
    rows = np.array(SPACE.sample(50, seed=1))
    expected = [
        additive_ms(tuple(row)) + 0.05 * (7 if row[-1] else 6) - (0 if row[-1] else part_ms(4, 0))
        for row in rows.tolist()
    ]
    ratio = report.table.predict(rows, "latency_ms") / np.array(expected)
    assert ratio.std() < 0.005
    assert ratio.mean() == pytest.approx(1.0, abs=0.05)  # the fastest runs are below the mean
    assert found.factor > 1.3
    assert f"predictions are {found.factor:.3f} times" in str(report)
    assert report.networks == len(parts.parts)


def test_isolation_needs_something_that_measures_parts(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="evaluators of parts"):
        built(tmp_path, SimulatedDevice(), method="isolation")


# ---- any evaluator -------------------------------------------------------------------------------


def test_several_metrics_are_measured_of_the_same_networks(tmp_path: Path) -> None:
    device = SimulatedDevice(noise=0.01)
    energy = FunctionEvaluator(lambda network: 2.0 + additive_ms(network), ["energy_mj"])
    with Study(tmp_path / "s.study", SPACE) as study:
        evaluators = [latency_of(device, additive_ms, SPACE), energy]
        report = measure(study, evaluators, clock=device.clock)
        assert study.counts(["latency_ms"], evaluators[0].conditions).keys() == (
            study.counts(["energy_mj"], energy.conditions).keys()
        )
    assert set(report.metrics) == {"latency_ms", "energy_mj"}
    assert report.drift["energy_mj"] == (1.0, 1.0)  # the reference was measured every round
    json.dumps(report.to_dict())


def test_a_small_space_is_measured_whole(tmp_path: Path) -> None:
    space = chain_space(3, 3)
    rows = {network: {"latency_ms": additive_ms(network)} for network in space.enumerate()}
    with Study(tmp_path / "s.study", space) as study:
        report = measure(
            study, [TabularEvaluator(space, rows, ["latency_ms"])], networks=5, target=1e-9
        )
        assert len(study) == 27
    assert report.stopped == "everything"


def test_what_cannot_be_asked_for_is_refused(tmp_path: Path) -> None:
    evaluator = FunctionEvaluator(additive_ms, ["latency_ms"])
    with Study(tmp_path / "s.study", SPACE) as study:
        with pytest.raises(InvalidInputError, match="minutes and the target are positive"):
            measure(study, [evaluator], minutes=0)
        with pytest.raises(InvalidInputError, match="one evaluator"):
            measure(study, [evaluator, evaluator])
        with pytest.raises(InvalidInputError, match="one evaluator"):
            measure(study, [])


def test_fresh_networks_that_all_fail_are_told(tmp_path: Path) -> None:
    def fails(network: Network) -> float:
        raise RuntimeError("the sensor is gone")

    with (
        Study(tmp_path / "s.study", SPACE) as study,
        pytest.raises(
            EvaluationError, match="24 evaluations failed, the first: RuntimeError: the sensor"
        ),
    ):
        measure(study, [FunctionEvaluator(fails, ["energy_mj"])])
