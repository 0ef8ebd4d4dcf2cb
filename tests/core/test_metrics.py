"""Metrics: what a name says, units, and values as text."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from mathnas import Direction, InvalidInputError, Metric, PowerScale, metric_named
from mathnas.metrics import IDENTITY, convert


@pytest.mark.parametrize(
    ("name", "unit", "direction", "additive"),
    [
        ("accuracy", "%", "maximize", False),
        ("accuracy_cifar100", "%", "maximize", False),
        ("bleu", "BLEU", "maximize", False),
        ("loss", "nats", "minimize", False),
        ("latency_ms", "ms", "minimize", True),
        ("latency_us_raspi4", "us", "minimize", True),
        ("energy_mj", "mJ", "minimize", True),
        ("memory_kb", "kB", "minimize", True),
        ("macs", "", "minimize", True),
        ("params", "", "minimize", True),
    ],
)
def test_a_name_says_unit_direction_and_additivity(
    name: str, unit: str, direction: str, additive: bool
) -> None:
    metric = metric_named(name)
    assert metric == Metric(name, unit, Direction(direction), additive)
    assert metric.scale is IDENTITY


@pytest.mark.parametrize(
    "name", ["", "speed", "latency", "latency_minutes", "energy_ms", "Accuracy", "accuracy-top1"]
)
def test_an_unknown_name_is_refused_with_the_way_out(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"rename it"):
        metric_named(name)


def test_other_metrics_are_declared() -> None:
    metric = Metric("f1", "", Direction("maximize"), additive=False)
    assert (metric.name, metric.direction) == ("f1", Direction.MAXIMIZE)
    with pytest.raises(InvalidInputError, match="lower-case"):
        Metric("F1 score", "", Direction.MAXIMIZE, additive=False)


@pytest.mark.parametrize("name", ["accuracy", "latency_ms", "macs"])
def test_a_record_brings_back_the_metric(name: str) -> None:
    metric = metric_named(name)
    assert Metric.from_dict(json.loads(json.dumps(metric.to_dict()))) == metric


@pytest.mark.parametrize(
    "change",
    [{"name": "No Name"}, {"direction": "up"}, {"name": None}],
)
def test_a_damaged_record_is_refused(change: dict[str, object]) -> None:
    record = {**metric_named("accuracy").to_dict(), **change}
    with pytest.raises(InvalidInputError, match="a metric record needs name, unit"):
        Metric.from_dict(record)
    del record["unit"]
    with pytest.raises(InvalidInputError, match="a metric record needs name, unit"):
        Metric.from_dict(record)


@pytest.mark.parametrize("name", ["accuracy", "loss", "latency_ms"])
def test_a_record_brings_back_the_scale(name: str) -> None:
    metric = replace(metric_named(name), scale=PowerScale(105, 2, 60, 80))
    again = Metric.from_dict(json.loads(json.dumps(metric.to_dict())))
    assert again == metric
    assert again.scale == PowerScale(105, 2, 60, 80)
    assert len({again, metric, metric_named(name)}) == 2


def test_a_record_without_a_curved_scale_is_as_before_there_were_any() -> None:
    assert metric_named("loss").to_dict() == {
        "name": "loss",
        "unit": "nats",
        "direction": "minimize",
        "additive": False,
        "scale": "identity",
    }
    assert Metric.from_dict(metric_named("loss").to_dict()).scale is IDENTITY


@pytest.mark.parametrize("scale", ["logit", None, 3, {"kind": "cubic"}])
def test_a_record_with_a_damaged_scale_is_refused(scale: object) -> None:
    record = {**metric_named("accuracy").to_dict(), "scale": scale}
    with pytest.raises(InvalidInputError, match="a response scale is 'identity' or an object"):
        Metric.from_dict(record)


def test_values_that_are_not_finite_are_refused() -> None:
    metric = metric_named("latency_ms")
    assert metric.check(np.float32(1.5)) == 1.5
    for value in (math.nan, math.inf):
        with pytest.raises(InvalidInputError, match="must be finite, but latency_ms = "):
            metric.check(value)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 71.256, "71.26 %"),
        ("latency_ms", 12.3456, "12.35 ms"),
        ("energy_mj", 0.000123456, "0.0001235 mJ"),
        ("macs", 0.0, "0"),
        ("macs", 950.0, "950"),
        ("macs", 12_345.0, "12.35 k"),
        ("macs", 3.2e8, "320 M"),
        ("params", -1.5e9, "-1.5 G"),
    ],
)
def test_values_are_printed_with_their_unit(name: str, value: float, text: str) -> None:
    assert metric_named(name).format(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "name", "expected"),
    [
        (20, "ms", "latency_ms", 20),
        (0.02, "s", "latency_ms", 20),
        (20, "ms", "latency_s", 0.02),
        (1500, "us", "latency_ms", 1.5),
        (30, "mJ", "energy_mj", 30),
        (2, "J", "energy_mj", 2000),
        (512, "kB", "memory_mb", 0.512),
        (1.5, "G", "macs", 1.5e9),
        (300, "M", "macs", 3e8),
        (5, "m", "params", 5e6),
        (7, "k", "params_decoder", 7e3),
        (75, "%", "accuracy", 75),
        (27, "BLEU", "bleu", 27),
        (3, "", "latency_ms", 3),
    ],
)
def test_units_of_one_dimension_are_converted_exactly(
    value: float, unit: str, name: str, expected: float
) -> None:
    assert convert(value, unit, metric_named(name)) == expected


@pytest.mark.parametrize(
    ("unit", "name", "known"),
    [
        ("mJ", "latency_ms", "ns, us, ms, s"),
        ("ms", "accuracy", "%"),
        ("GB", "macs", "k, m, g"),
        ("%", "bleu", "BLEU"),
    ],
)
def test_a_unit_of_another_dimension_is_refused(unit: str, name: str, known: str) -> None:
    with pytest.raises(InvalidInputError, match=f"takes {known}, but got the unit '{unit}'"):
        convert(1.0, unit, metric_named(name))


def test_metrics_are_values() -> None:
    metric = metric_named("latency_ms")
    assert replace(metric, name="latency_ms_pi") == metric_named("latency_ms_pi")
    assert len({metric, metric_named("latency_ms")}) == 1
