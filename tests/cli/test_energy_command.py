"""`--evaluator energy`, and the meters that `show-env` lists."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("safetensors")
pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import mathnas as mn
from mathnas.cli._evaluators import evaluator_named
from mathnas.cli._measuring import CostEvaluators, CostSettings, read_supernet
from mathnas.devices.energy import Channel, FoundMeters, MeterKind
from mathnas.devices.energy.evaluator import EnergyEvaluator
from mathnas.devices.relative import RelativeLatencyEvaluator
from mathnas.errors import MeterPermissionError
from mathnas.nets.digits import DigitsConfig, DigitsNet, DigitsNode
from mathnas.nets.files import save_supernet
from mathnas.nets.mbconv import MBConvChoice

Run = Callable[..., tuple[int, str, str]]
WATTS = 10.0
NOISY = "accept_noise=true,attempts=1"  # other tests may run beside these


class ProcessorMeter:
    """Stands for a counter: 2 W always, and `WATTS` for each second of this process's work."""

    name = "made-up"
    kind = MeterKind.COUNTER
    covers = "this process"
    channels = (Channel("processor"),)
    interval_s = 0.001
    resolution = 1e-6

    def read(self) -> tuple[float, ...]:
        return (2 * time.monotonic() + WATTS * time.process_time(),)


@pytest.fixture
def supernet(tmp_path: Path) -> str:
    """A tiny one in the folder where commands run."""
    nodes = (DigitsNode(4, 1, (None, MBConvChoice(3, 1))), DigitsNode(6, 2, (MBConvChoice(3, 1),)))
    net = DigitsNet(DigitsConfig(stem=4, nodes=nodes, head=8))
    save_supernet(tmp_path / "tiny.safetensors", net)
    return "tiny.safetensors"


def evaluated(run: Run, spec: str) -> Any:
    code, out, err = run(
        *("evaluate", "e.study", "--sampling", "full", "--json", "--evaluator", spec)
    )
    assert code == 0, err
    return json.loads(out)


def test_energy_of_networks_that_run_on_an_engine(
    run: Run, supernet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mathnas.devices.energy.meter_named", lambda _: ProcessorMeter())
    spec = (
        f"energy:{supernet},meter=made-up,batch=2,rounds=2,window=0.1,accept_noise=true,attempts=1"
    )
    assert evaluated(run, spec)["done"] == 2
    with mn.Study("e.study", read_only=True) as study:
        found = list(study.evaluations("energy_mj"))
        conditions = study.measurements("energy_mj").conditions
    assert conditions["energy"] == "measured, idle power subtracted"
    assert (conditions["meter"], conditions["covers"]) == ("made-up", "this process")
    assert (conditions["engine"], conditions["batch"]) == ("onnxruntime", "2")
    assert conditions["resolution"] == "8"
    assert conditions["statistic"] == "median of 2 windows of 0.1 s"
    assert all(evaluation.measurement.value > 0 for evaluation in found)
    assert all(evaluation.measurement.repeats == 2 for evaluation in found)


def test_a_stated_power_fills_a_metric_of_its_own(run: Run, supernet: str) -> None:
    spec = f"energy:{supernet},meter=stated:5W:datasheet,rounds=2,{NOISY}"
    assert evaluated(run, spec)["done"] == 2
    with mn.Study("e.study", read_only=True) as study:
        assert list(study.metrics) == ["energy_mj_stated"]
        conditions = study.measurements("energy_mj_stated").conditions
    assert conditions["energy"] == "stated power 5 W x latency"
    assert conditions["energy_source"] == "datasheet"
    assert "2 medians" in conditions["statistic"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("energy:tiny.safetensors,meter=wattmeter", "meters are auto, rapl, perf"),
        ("energy:tiny.safetensors,meter=stated:5", "a stated power is written 5W"),
        ("energy:tiny.safetensors,window=long", "window is seconds, but got 'long'"),
        ("energy,meter=stated:5W,meter=rapl", "takes each option once, but got 'meter=rapl'"),
        ("energy:tiny.safetensors,meter=stated:5W,window=2", "a stated power is not measured"),
        ("energy:tiny.safetensors,meter=stated:5W,speed=2", "as latency does, and latency"),
        (
            "energy:tiny.safetensors,meter=stated:5W,statistics=median",
            "statistics= is about measured times",
        ),
        ("energy,meter=stated:5W", "add --space"),
        ("energy:none.safetensors,meter=stated:5W", "none.safetensors cannot be read"),
    ],
)
def test_energy_that_cannot_be_measured(run: Run, supernet: str, spec: str, message: str) -> None:
    code, _, err = run("evaluate", "e.study", "--evaluator", spec)
    assert code == 1
    assert message in err


@pytest.mark.parametrize("option", ["statistics=median", "reference=true"])
def test_options_of_times_are_refused_where_energy_is_measured(
    run: Run, supernet: str, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr("mathnas.devices.energy.meter_named", lambda _: ProcessorMeter())
    code, _, err = run("evaluate", "e.study", "--evaluator", f"energy:{supernet},{option}")
    assert code == 1
    name = option.partition("=")[0]
    assert f"{name}= is about measured times" in err
    assert f"evaluate latency,{option} as well" in err
    assert not Path("e.study").exists()


def test_how_often_noise_is_tried_again_is_passed_on(
    tmp_path: Path, supernet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mathnas.devices.energy.meter_named", lambda _: ProcessorMeter())
    spec = f"energy:{tmp_path / supernet},attempts=7,accept_noise=true"
    evaluator = evaluator_named(spec, None, [])
    assert isinstance(evaluator, EnergyEvaluator)
    assert (evaluator.noise.attempts, evaluator.accept_noise) == (7, True)


@pytest.mark.parametrize("accepted", [True, False])
def test_measure_accepts_the_noise_of_energy_too(
    monkeypatch: pytest.MonkeyPatch, accepted: bool
) -> None:
    monkeypatch.setattr("mathnas.devices.energy.meter_named", lambda _: ProcessorMeter())
    monkeypatch.setattr(RelativeLatencyEvaluator, "level_ms", 1.0)
    settings = CostSettings(("latency_ms", "energy_mj"), accept_noise=accepted)
    evaluators = CostEvaluators(read_supernet("digits"), settings).of_networks
    for evaluator in evaluators:
        assert (evaluator.conditions.get("noise") == "accepted") == accepted


@pytest.mark.parametrize(("option", "value"), [("rounds", "0"), ("window", "nan")])
def test_impossible_windows_are_refused(
    run: Run, supernet: str, monkeypatch: pytest.MonkeyPatch, option: str, value: str
) -> None:
    monkeypatch.setattr("mathnas.devices.energy.meter_named", lambda _: ProcessorMeter())
    code, _, err = run("evaluate", "e.study", "--evaluator", f"energy:{supernet},{option}={value}")
    assert code == 1
    assert "at least 1 round of windows longer than 0 s" in err


def test_show_env_lists_meters_and_why_others_are_not_there(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = FoundMeters((ProcessorMeter(),), {"rapl": MeterPermissionError("ask for it.")})
    monkeypatch.setattr("mathnas.cli.show_env.find_meters", lambda: found)
    _, out, _ = run("show-env")
    assert "\nenergy meters\n  made-up: counter, this process\n  no rapl: ask for it.\n" in out
    listed = json.loads(run("show-env", "--json")[1])
    assert listed["meters"] == [{"name": "made-up", "kind": "counter", "covers": "this process"}]
    assert listed["meters_absent"] == {"rapl": "ask for it."}


def test_show_env_looks_for_real(run: Run) -> None:
    listed = json.loads(run("show-env", "--json")[1])
    names = [meter["name"].partition(":")[0] for meter in listed["meters"]]
    names += [name.partition(":")[0] for name in listed["meters_absent"]]
    assert {"rapl", "perf", "jetson", "raspberry-pi", "battery", "hwmon", "nvml"} <= set(names)
