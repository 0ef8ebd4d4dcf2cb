"""Limits: how they are written, read and refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from core_cases import column_of, space_of

from mathnas import BlockTable, Direction, InvalidInputError, Limit, Metric, search
from mathnas.search import read_limits

METRICS = ("accuracy", "latency_ms", "energy_mj", "bleu", "loss")


@pytest.fixture
def table() -> BlockTable:
    """The reference has 70 % accuracy, 10 ms, 200 M MACs, ..."""
    space = space_of([2, 2], [50e6, 150e6, 50e6, 150e6], fixed_macs=100e6, reference=(0, 0))
    bases = dict(zip(METRICS, (70.0, 10.0, 40.0, 25.0, 3.0), strict=True))
    columns = {name: column_of(name, [0, 1, 0, 2], base=base) for name, base in bases.items()}
    return BlockTable(space, (0, 0), columns)


@pytest.mark.parametrize(
    ("name", "given", "sense", "value"),
    [
        # a bare number bounds the bad side
        ("latency_ms", 20, "<=", 20),
        ("latency_ms", 20.5, "<=", 20.5),
        ("accuracy", 75, ">=", 75),
        ("bleu", "27", ">=", 27),
        ("loss", "2.5", "<=", 2.5),
        # units
        ("latency_ms", "20ms", "<=", 20),
        ("latency_ms", " 20 ms ", "<=", 20),
        ("latency_ms", "0.02s", "<=", 20),
        ("latency_ms", "20000us", "<=", 20),
        ("energy_mj", "30 mJ", "<=", 30),
        ("energy_mj", "3e-2J", "<=", 30),
        ("macs", "1.5G", "<=", 1.5e9),
        ("macs", "300M", "<=", 3e8),
        ("accuracy", "75%", ">=", 75),
        ("accuracy", "75 %", ">=", 75),
        # senses
        ("latency_ms", "<=20ms", "<=", 20),
        ("latency_ms", ">= 2 ms", ">=", 2),
        ("latency_ms", "=20", "<=", 20),
        ("accuracy", "<=80%", "<=", 80),
        # changes from the reference network
        ("latency_ms", "-30%", "<=", 7),
        ("latency_ms", "+10%", "<=", 11),
        ("latency_ms", ">=-30%", ">=", 7),
        ("macs", "-50%", "<=", 100e6),
        ("accuracy", "+10%", ">=", 77),
        ("accuracy", "-1%", ">=", 69.3),
    ],
)
def test_a_limit_is_read_as_written(
    table: BlockTable, name: str, given: float | str, sense: str, value: float
) -> None:
    (limit,) = read_limits({name: given}, table)
    assert (limit.metric, limit.sense) == (table.metrics[name], sense)
    assert limit.value == pytest.approx(value, rel=1e-12)
    if isinstance(given, str):
        joined = f"{name}{given}" if given.strip()[0] in "<>=" else f"{name}={given}"
        assert read_limits([joined], table) == (limit,)


def test_several_limits_may_stand_on_one_metric(table: BlockTable) -> None:
    both = read_limits({"latency_ms": [">=10", "<=20ms"], "accuracy": 70}, table)
    assert [str(limit) for limit in both] == [
        "latency_ms >= 10 ms",
        "latency_ms <= 20 ms",
        "accuracy >= 70.00 %",
    ]
    assert read_limits(["latency_ms>=10", "latency_ms<=20ms", "accuracy=70"], table) == both
    assert read_limits(both, table) == both


def test_a_limit_given_twice_counts_once(table: BlockTable) -> None:
    assert len(read_limits(["latency_ms<=20", "latency_ms=20ms", "latency_ms<=0.02s"], table)) == 1


def test_no_limits_are_none(table: BlockTable) -> None:
    assert read_limits(None, table) == read_limits({}, table) == read_limits([], table) == ()


@pytest.mark.parametrize("number", [np.float64(20), np.float32(20), np.int64(20), 20])
def test_numbers_of_numpy_are_numbers(table: BlockTable, number: float) -> None:
    (limit,) = read_limits({"latency_ms": number}, table)
    assert limit.value == 20
    assert type(limit.value) is float


def test_a_signed_percentage_starts_from_the_reference_network(table: BlockTable) -> None:
    space = table.space
    other = BlockTable(space, (1, 1), {"latency_ms": column_of("latency_ms", [-1, 0, -2, 0])})
    (limit,) = read_limits({"macs": "-30%"}, other)
    assert limit.value == pytest.approx(0.7 * 400e6)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("latency_ms<=20", "put it in a list"),
        (["latency_ms"], "a limit is written as METRIC<=VALUE"),
        (["latency_ms<20"], "a limit is written as METRIC<=VALUE"),
        (["<=20"], "a limit is written as METRIC<=VALUE"),
        ([20], "a limit is written as METRIC<=VALUE"),
        ({"latency_ms": "fast"}, "a number with or without a unit, or a change such as -30%"),
        ({"latency_ms": "20 ms or so"}, "a number with or without a unit"),
        ({"latency_ms": "1.5.2"}, "a number with or without a unit"),
        ({"latency_ms": ""}, "a number with or without a unit"),
        ({"latency_ms": "nan"}, "a number with or without a unit"),
        ({"latency_ms": True}, "a number with or without a unit"),
        ({"latency_ms": None}, "a number with or without a unit"),
        ({"latency_ms": [None]}, "a number with or without a unit"),
        ({"latency_ms": math.nan}, "must be finite"),
        ({"latency_ms": math.inf}, "must be finite"),
        ({"latency_ms": "1e999"}, "must be finite"),
        ({"latency_ms": "1e308s"}, "must be finite"),
        ({"latency_ms": "20mJ"}, "takes ns, us, ms, s, but got the unit 'mJ'"),
        ({"latency_ms": "20%"}, r"has a sign, but got '20%': write -20% or \+20%"),
        ({"accuracy": "75 ms"}, "takes %, but got the unit 'ms'"),
        ({"speed": 3}, "no metric 'speed'; it has macs, accuracy, latency_ms"),
        (["speed<=3"], "no metric 'speed'"),
        ({"latency_ms": [">=20", "<=10"]}, "latency_ms >= 20 ms and latency_ms <= 10 ms contra"),
    ],
)
def test_a_limit_that_cannot_be_read_is_explained(
    table: BlockTable, limits: object, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_limits(limits, table)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=message):
        search(table, maximize="accuracy", limits=limits)  # type: ignore[arg-type]


def test_a_limit_object_on_a_metric_that_the_table_lacks_is_refused(table: BlockTable) -> None:
    metric = Metric("memory_mb", "MB", Direction.MINIMIZE, additive=True)
    with pytest.raises(InvalidInputError, match="no metric 'memory_mb'"):
        read_limits([Limit(metric, "<=", 3.0)], table)


def test_a_limit_holds_exactly_as_given(table: BlockTable) -> None:
    most = Limit(table.metrics["latency_ms"], "<=", 0.3)
    assert most.holds(0.3)
    assert not most.holds(0.1 + 0.2)
    assert most.slack(0.1) == 0.3 - 0.1
    least = Limit(table.metrics["accuracy"], ">=", 75.0)
    assert least.holds(75.0)
    assert not least.holds(math.nextafter(75.0, 0))
    assert least.slack(74.0) == -1.0
