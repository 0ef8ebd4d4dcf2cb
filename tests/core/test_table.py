"""Block tables: prediction, files, what is refused, and how they are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_cases import column_of, networks_of, space_of, table_of, tables, usual
from hypothesis import given

from mathnas import (
    Block,
    BlockEffects,
    BlockNode,
    BlockTable,
    Form,
    InvalidInputError,
    MathNASError,
    SearchSpace,
)
from mathnas.errors import FileFormatError


def small() -> BlockTable:
    space = space_of([2, 3], [10, 20, 10, 30, 50], fixed_macs=100)
    accuracy = column_of("accuracy", [0, 30, 0, 60, 90], base=70, form=Form.SPACE_MEAN)
    latency = column_of("latency_ms", [0, 1.5, 0, 2.5, 4], base=10)
    return BlockTable(
        space,
        (0, 0),
        {
            "accuracy": replace(accuracy, spread=np.array([0, math.nan, 0, 0.3, 0.4])),
            "latency_ms": replace(latency, spread=np.array([0, 0.3, 0, 0.4, 0.1])),
        },
        {"study": "docs.study"},
    )


# ---- prediction ----------------------------------------------------------------------------------


def test_linear_predictions_add_effects_to_the_base() -> None:
    assert small().predict([(0, 0), (1, 2)], "latency_ms").tolist() == [10, 15.5]


def test_fractional_predictions_divide_the_effects_by_the_macs() -> None:
    # (1, 2) has 100 + 20 + 50 MACs
    assert small().predict([(1, 2)], "accuracy")[0] == pytest.approx(70 + 120 / 170)


@given(table=tables())
@usual
def test_fast_and_exact_predictions_agree(table: BlockTable) -> None:
    networks = networks_of(table.space)
    for name, column in table.columns.items():
        exact = [table.exact(network, name) for network in networks]
        near = 1e-13 * (np.abs(column.effects).max() * table.space.num_nodes + abs(column.base))
        np.testing.assert_allclose(table.predict(networks, name), exact, rtol=1e-12, atol=near)
        in_order = [table.exact(network, name) for network in table.space.enumerate()]
        np.testing.assert_allclose(table.predict_all(name), in_order, rtol=1e-12, atol=near)


@given(table=tables())
@usual
def test_exact_linear_predictions_are_correctly_rounded(table: BlockTable) -> None:
    column = table.column("latency_ms")
    for network in networks_of(table.space)[::7]:
        rows = [int(o) + j for o, j in zip(table.space.offsets[:-1], network, strict=True)]
        total = Fraction(column.base) + sum(Fraction(float(column.effects[row])) for row in rows)
        assert table.exact(network, "latency_ms") == float(total)


def test_all_metrics_are_predicted_where_none_is_named() -> None:
    predictions = small().predict(np.array([[0, 0], [1, 2]], dtype=np.uint8))
    assert list(predictions) == ["macs", "accuracy", "latency_ms"]
    assert predictions["macs"].tolist() == [120, 170]
    assert small().predict([], "macs").shape == (0,)


def test_declared_costs_are_columns_from_the_start() -> None:
    nodes = [BlockNode("a", (Block("x", macs=1, params=5), Block("y", macs=3, params=4)))]
    table = BlockTable(SearchSpace(nodes, fixed_params=100), (1,), {})
    assert list(table.columns) == ["macs", "params"]
    assert table.predict_all("macs").tolist() == [1, 3]
    assert table.predict_all("params").tolist() == [105, 104]


def test_a_prediction_of_one_network_carries_its_spread() -> None:
    table = small()
    prediction = table.prediction(("b1", "b1"), "latency_ms")
    assert prediction.value == 14
    assert prediction.spread == pytest.approx(0.5)
    assert str(prediction) == "14 ms (block spread 0.5)"
    assert table.prediction((0, 0), "latency_ms").spread == 0
    assert str(table.prediction((0, 0), "latency_ms")) == "10 ms"
    unknown = table.prediction((1, 1), "accuracy")
    assert unknown.spread is None
    assert str(unknown) == "70.60 %"


@pytest.mark.parametrize("networks", [(0, 0), [(0, 0, 0)], [(0, 3)], [(0,), (0, 1)], [(0.5, 1)]])
def test_what_is_no_list_of_networks_cannot_be_predicted(networks: object) -> None:
    with pytest.raises(InvalidInputError):
        small().predict(networks, "latency_ms")  # type: ignore[call-overload]


def test_an_unknown_metric_lists_the_known_ones() -> None:
    for use in (
        lambda: small().predict([(0, 0)], "speed"),
        lambda: small().predict_all("speed"),
        lambda: small().prediction((0, 0), "speed"),
        lambda: small().column("speed"),
    ):
        with pytest.raises(InvalidInputError, match="'speed'; it has macs, accuracy, latency_ms"):
            use()


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"effects": np.array([0, math.nan, 0, 0, 0])}, "effects and base are finite.*accuracy"),
        ({"effects": np.array([0, math.inf, 0, 0, 0])}, "effects and base are finite"),
        ({"base": math.nan}, "effects and base are finite"),
        ({"effects": np.zeros(4)}, r"has 5 effects for accuracy, but got an array of shape \(4,\)"),
        ({"spread": np.zeros((5, 1))}, "has 5 spread for accuracy"),
        ({"contexts": np.zeros(6)}, "has 5 contexts for accuracy"),
    ],
)
def test_a_column_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    column = replace(small().column("accuracy"), **change)
    with pytest.raises(InvalidInputError, match=message):
        BlockTable(small().space, (0, 0), {"accuracy": column})


def test_a_column_under_another_metric_s_name_is_refused() -> None:
    column = small().column("accuracy")
    with pytest.raises(InvalidInputError, match="'latency_ms' holds the metric 'accuracy'"):
        BlockTable(small().space, (0, 0), {"latency_ms": column})


def test_a_reference_outside_the_space_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="blocks 0 to 2, but got 3"):
        BlockTable(small().space, (0, 3), {})


def test_a_form_that_divides_by_macs_needs_macs() -> None:
    column = column_of("accuracy", [0, 1], form=Form.BLOCK_MEAN)
    with pytest.raises(InvalidInputError, match="'b0' of node 'n0' has none"):
        BlockTable(space_of([2]), (0,), {"accuracy": column})
    with pytest.raises(InvalidInputError, match=r"smallest.*has 0: declare fixed_macs"):
        BlockTable(space_of([2], [0, 1]), (1,), {"accuracy": column})
    table = BlockTable(space_of([2], [0, 1], fixed_macs=1), (1,), {"accuracy": column})
    assert table.exact((0,), "accuracy") == 0


# ---- files ---------------------------------------------------------------------------------------


@given(table=tables())
@usual
def test_a_record_brings_back_identical_predictions(table: BlockTable) -> None:
    restored = BlockTable.from_dict(json.loads(json.dumps(table.to_dict(), allow_nan=False)))
    assert restored.space == table.space
    assert restored.reference == table.reference
    assert restored.metrics == table.metrics
    for name in table.columns:
        assert restored.predict_all(name).tolist() == table.predict_all(name).tolist()


def test_a_file_brings_back_every_part_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "net.table.json"
    small().save(path)
    restored = BlockTable.load(path)
    assert restored.provenance == {"study": "docs.study"}
    for name, column in small().columns.items():
        same = restored.column(name)
        assert (same.metric, same.base, same.form) == (column.metric, column.base, column.form)
        assert dict(same.conditions) == dict(column.conditions)
        for part in ("effects", "spread", "contexts"):
            np.testing.assert_array_equal(getattr(same, part), getattr(column, part))


def test_numbers_are_saved_to_the_last_bit(tmp_path: Path) -> None:
    values = [0.0, 0.1 + 0.2, 1e-300, -1 / 3, 5e-324, 1.7976931348623157e308]
    table = table_of(space_of([6]), {"latency_ms": values}, base=1 / 7)
    table.save(tmp_path / "table.json")
    restored = BlockTable.load(tmp_path / "table.json")
    assert restored.column("latency_ms").effects.tolist() == values
    assert restored.column("latency_ms").base == 1 / 7


def test_a_truncated_file_is_one_clear_error_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    small().save(path)
    text = path.read_text()
    for length in range(0, len(text) - 2, 97):
        path.write_text(text[:length])
        with pytest.raises(FileFormatError, match="damaged or not JSON"):
            BlockTable.load(path)


def edited(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(json.dumps(small().to_dict()))
    change(record)
    return record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.clear(), "'format' is missing"),
        (lambda r: r.update(format="mathnas-space"), "expected the format 'mathnas-table'"),
        (lambda r: r.update(version=2), r"version 2 .*\(1 to 1\): upgrade mathnas"),
        (lambda r: r.update(version=0), "version 0"),
        (lambda r: r.update(version="1"), "version: expected int, but got '1'"),
        (lambda r: r.pop("space"), "'space' is missing"),
        (lambda r: r["space"].update(format="x"), "space: expected the format 'mathnas-space'"),
        (lambda r: r.pop("reference"), "'reference' is missing"),
        (lambda r: r.pop("metrics"), "'metrics' is missing"),
        (lambda r: r.update(metrics={}), "metrics: expected list"),
        (lambda r: r.update(metrics=[7]), r"metrics\[0\]: expected an object"),
        (lambda r: r["metrics"][1].pop("base"), r"metrics\[1\]: the field 'base' is missing"),
        (lambda r: r["metrics"][1].update(base="70"), "base: expected float"),
        (lambda r: r["metrics"][1].update(base=10**400), "base: expected float"),
        (lambda r: r["metrics"][1].update(form="cubic"), "'cubic' is not a valid Form"),
        (lambda r: r["metrics"][1].update(effects=[1, 2]), "effects.*one list of numbers for each"),
        (lambda r: r["metrics"][1].update(effects=[[0, 1], [0, "x", 2]]), "effects.*one list of"),
        (lambda r: r["metrics"][1].update(effects=[[0, 1], [0, 10**400, 2]]), "effects.*one list"),
        (lambda r: r["metrics"][1].update(effects=[[0, 1, 0], [1, 2]]), "effects.*one list of"),
        (lambda r: r["metrics"][1].update(effects=[[0, 1]]), "effects.*one list of"),
        (lambda r: r["metrics"][1].update(conditions=[]), "conditions: expected dict"),
    ],
)
def test_a_foreign_newer_or_damaged_record_is_one_clear_error(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(edited(change)))
    with pytest.raises(FileFormatError, match=message):
        BlockTable.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(reference=["b0"]), "one block for each of its 2 nodes"),
        (lambda r: r.update(reference=["b0", "b7"]), "has no block 'b7'"),
        (lambda r: r.update(reference=["b0", None]), "indices or names"),
        (lambda r: r["metrics"][1].update(direction="sideways"), "a metric record needs"),
        (lambda r: r["metrics"][1].update(effects=[[0, None], [0, 1, 2]]), "are finite"),
        (lambda r: r["metrics"][1].update(base=math.inf), "are finite"),
    ],
)
def test_a_file_whose_numbers_make_no_table_says_which(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        BlockTable.from_dict(edited(change))


def test_any_single_damage_to_a_record_is_an_error_of_mathnas_or_harmless() -> None:
    """Replace every value in the record by something else: nothing but `MathNASError` is raised."""
    for path in paths_of(edited(lambda record: None)):
        others: list[object] = [None, [], {}, "text", -1, 1e99, [[1]]]
        for value in others:
            record = edited(lambda record: None)
            inner: Any = record
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            try:
                table = BlockTable.from_dict(record)
            except MathNASError as error:
                assert len(str(error)) > 20, path  # noqa: PT017
            else:
                assert np.isfinite(table.predict_all("macs")).all(), path


def paths_of(value: object) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        items: list[tuple[Any, object]] = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return []
    return [
        path for key, inner in items for path in [(key,), *((key, *p) for p in paths_of(inner))]
    ]


def test_a_missing_file_or_a_folder_is_a_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(FileFormatError, match="cannot be read"):
            BlockTable.load(path)
    (tmp_path / "binary.json").write_bytes(b"\x80\x04\x95\xff")
    with pytest.raises(FileFormatError, match="damaged or not JSON"):
        BlockTable.load(tmp_path / "binary.json")


def test_a_failed_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.json"
    small().save(path)
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(FileFormatError, match=r"No space left on device.*is unchanged"):
        small().save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]


# ---- showing -------------------------------------------------------------------------------------


def test_a_table_prints_the_effects_of_every_block() -> None:
    text = str(small())
    assert "effects relative to the reference network" in text
    assert "latency_ms: reference 10 ms" in text
    assert "n1: b0 +0, b1 +2.5, b2 +4" in text
    assert repr(small()) == "BlockTable(space: macs, accuracy, latency_ms)"


def test_long_nodes_are_cut_in_print() -> None:
    table = table_of(space_of([30]), {"latency_ms": np.arange(30.0)})
    assert "b11 +11, ..." in str(table)
    assert "b12" not in str(table)


def test_html_shows_every_block_and_escapes_names() -> None:
    node = BlockNode("<b>bold</b>", (Block("a & b"), Block("x<y")))
    effects = BlockEffects(
        small().metrics["latency_ms"], 1.0, np.array([0, 0.25]), np.zeros(2), np.ones(2)
    )
    page = BlockTable(SearchSpace([node]), (0,), {"latency_ms": effects})._repr_html_()
    assert "<td>&lt;b&gt;bold&lt;/b&gt;</td><td>a &amp; b (reference)</td>" in page
    assert "x&lt;y" in page
    assert "+0.25" in page
    assert "<b>" not in page
