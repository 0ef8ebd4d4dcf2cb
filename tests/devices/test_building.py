"""Tables of simulated devices: known costs come back, and what does not add up is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from building_cases import (
    BOX,
    QUICK,
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
)
from mathnas.devices.building import BuildingReport, Isolated, measure
from mathnas.devices.isolation import PartSpace
from mathnas.devices.relative import RelativeLatencyEvaluator

SPACE = chain_space()
ROUGH = {"noise": 0.05, "drift": 0.5, "spikes": 0.05, "busy": (20.0, 60.0)}


def built(path: Path, device: SimulatedDevice, costs=additive_ms, **options) -> BuildingReport:
    with Study(path / "s.study", SPACE) as study:
        evaluator = latency_of(device, costs, SPACE)
        return measure(study, [evaluator], clock=device.clock, **options)


# ---- known costs come back -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["regression", "differences"])
def test_a_quiet_device_is_known_exactly(tmp_path: Path, method) -> None:
    report = built(tmp_path, SimulatedDevice(), method=method)
    rows = SPACE.sample(100, seed=3)
    expected = np.array([additive_ms(row) for row in rows])
    found = report.table.predict(np.array(rows), "latency_ms")
    assert np.abs(found / expected - 1).max() < 2e-3
    assert report.stopped == "target"
    assert report.metrics["latency_ms"].quality.spearman == pytest.approx(1.0, abs=1e-3)


def test_noise_drift_spikes_and_a_busy_time_do_not_reach_the_table(tmp_path: Path) -> None:
    device = SimulatedDevice(**ROUGH)
    report = built(tmp_path, device, target=0.004)
    found = report.metrics["latency_ms"]
    rows = SPACE.sample(100, seed=3)
    expected = np.array([additive_ms(row) for row in rows])
    predicted = report.table.predict(np.array(rows), "latency_ms")
    # all share one factor: how fast the device was when the reference was timed
    ratio = predicted / expected
    assert ratio.std() / ratio.mean() < 0.015
    assert found.quality.mape is not None
    assert found.quality.mape < 2.0
    assert found.additivity is not None
    assert found.additivity.holds
    low, high = report.drift["latency_ms"]
    assert high / low > 1.4  # the busy time is seen, not felt
