"""Fronts of several devices side by side, compared with a brute force over every network."""

from __future__ import annotations

import csv
import io
import itertools
import json

import numpy as np
import pytest

import mathnas as mn
from mathnas.search import DeviceFronts, Front, Infeasible, device_fronts
from mathnas.table import BlockEffects

NODES, BLOCKS = 4, 3
KINDS = tuple(mn.Block(f"b{j}", 1e6 * (j + 1)) for j in range(BLOCKS))
SPACE = mn.SearchSpace([mn.BlockNode(f"n{i}", KINDS) for i in range(NODES)], name="devices")
NETWORKS = list(itertools.product(range(BLOCKS), repeat=NODES))


def table_of(seed: int, x: str = "latency_ms") -> mn.BlockTable:
    """Accuracy is the same for every seed, x is not."""
    columns = {}
    for name, source in (("accuracy", 0), (x, seed)):
        effects = np.random.default_rng(source).uniform(0.1, 1.0, (NODES, BLOCKS)).cumsum(axis=1)
        effects -= effects[:, :1]
        metric = mn.metric_named(name)
        zeros = np.zeros(effects.size)
        columns[name] = BlockEffects(metric, 5.0, effects.ravel(), zeros, zeros)
    return mn.BlockTable(SPACE, (0,) * NODES, columns)


TABLES = {"phone": table_of(1), "board": table_of(2), "server": table_of(3)}


@pytest.fixture(scope="module")
def found() -> DeviceFronts:
    return device_fronts(TABLES, "latency_ms", "accuracy")


def front_on(found: DeviceFronts, device: str) -> Front:
    front = found.fronts[device]
    assert isinstance(front, Front)
    return front


def test_each_front_is_the_devices_own(found: DeviceFronts) -> None:
    for name, table in TABLES.items():
        alone = mn.pareto_front(table, "latency_ms", "accuracy")
        assert isinstance(alone, Front)
        assert front_on(found, name).points == alone.points
    assert found


def test_the_excess_is_against_the_best_network_of_the_same_quality(found: DeviceFronts) -> None:
    excesses: list[float] = []
    for device, point in found.points():
        for other, table in TABLES.items():
            here = found.elsewhere(point)[other]
            assert here.x == table.exact(point.network, "latency_ms")
            assert here.y == point.y  # accuracy serves all devices
            best = min(
                table.exact(network, "latency_ms")
                for network in NETWORKS
                if table.exact(network, "accuracy") >= point.y - 1e-9
            )
            assert here.excess == pytest.approx(here.x / best - 1, abs=1e-9)
            assert here.excess is not None
            if other == device:
                assert here.excess == pytest.approx(0)
            else:
                excesses.append(here.excess)
    assert min(excesses) >= -1e-9
    assert max(excesses) > 0.01, "the devices do not differ"


def test_the_mean_over_a_front(found: DeviceFronts) -> None:
    own = [found.elsewhere(p)["board"].excess for p in front_on(found, "phone")]
    assert found.mean_excess("phone", "board") == pytest.approx(np.mean(np.array(own, dtype=float)))


def test_more_of_x_may_be_better() -> None:
    tables = {name: table_of(seed, "bleu") for name, seed in (("one", 4), ("two", 5))}
    fronts = device_fronts(tables, "bleu", "accuracy")
    for _, point in fronts.points():
        for other, table in tables.items():
            best = max(
                table.exact(network, "bleu")
                for network in NETWORKS
                if table.exact(network, "accuracy") >= point.y - 1e-9
            )
            here = fronts.elsewhere(point)[other]
            assert here.excess == pytest.approx((best - here.x) / best, abs=1e-9)


def test_limits_hold_on_each_device_and_say_where_they_break() -> None:
    limit = 6.0
    fronts = device_fronts(TABLES, "latency_ms", "accuracy", limits={"latency_ms": limit})
    broken = 0
    for device, point in fronts.points():
        assert point.x <= limit
        for other, here in fronts.elsewhere(point).items():
            assert here.feasible == (here.x <= limit)
            if not here.feasible:
                broken += 1
                assert other != device
                assert here.excess is None
    assert broken
    assert "(breaks a limit)" in str(fronts)


def test_a_part_of_a_front_tells_no_excess() -> None:
    fronts = device_fronts(TABLES, "latency_ms", "accuracy", max_points=3)
    assert all(o.excess is None for _, p in fronts.points() for o in fronts.elsewhere(p).values())
    assert fronts.mean_excess("phone", "board") is None
    assert "on average" not in str(fronts)


def test_a_device_without_a_front() -> None:
    fastest = {name: min(t.exact(n, "latency_ms") for n in NETWORKS) for name, t in TABLES.items()}
    tables = dict(TABLES)
    column = TABLES["server"].column("latency_ms")
    slow = BlockEffects(column.metric, 50.0, column.effects, column.spread, column.contexts)
    tables["slow"] = mn.BlockTable(
        SPACE, (0,) * NODES, {**TABLES["server"].columns, "latency_ms": slow}
    )
    fronts = device_fronts(
        tables, "latency_ms", "accuracy", limits={"latency_ms": 1.5 * max(fastest.values())}
    )
    assert not fronts
    assert isinstance(fronts.fronts["slow"], Infeasible)
    assert list(fronts.found) == list(TABLES)
    assert "slow: " in str(fronts)
    record = json.loads(json.dumps(fronts.to_dict()))["devices"]
    assert record["slow"]["status"] == "infeasible"
    assert set(record["phone"]["mean_excess"]) == {"board", "server"}


def test_json_and_csv_have_every_point(found: DeviceFronts) -> None:
    record = json.loads(json.dumps(found.to_dict()))["devices"]
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    points = list(found.points())
    assert len(rows) == len(points) == sum(len(one["points"]) for one in record.values())
    listed = [(name, item) for name, one in record.items() for item in one["points"]]
    for row, (device, item), (name, point) in zip(rows, listed, points, strict=True):
        assert row["device"] == device == name
        assert row["network"] == ",".join(map(str, item["network"]))
        assert float(row["latency_ms"]) == item["latency_ms"] == point.x
        for other, here in item["elsewhere"].items():
            assert float(row[f"latency_ms on {other}"]) == here["latency_ms"]
            assert float(row[f"excess on {other}"]) == here["excess"]


def test_tables_of_several_spaces_are_refused() -> None:
    other = mn.SearchSpace([mn.BlockNode("n", KINDS)], name="other")
    with pytest.raises(mn.InvalidInputError, match="tables of one space, but got devices, other"):
        device_fronts({**TABLES, "x": mn.BlockTable(other, (0,), {})}, "latency_ms", "accuracy")
    with pytest.raises(mn.InvalidInputError, match="but got no table"):
        device_fronts({}, "latency_ms", "accuracy")
