"""Forms of networks and features in fits and tables: what the evidence chooses, and that files,
predictions and their uncertainty follow."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_cases import Floats, column_of, space_of

import mathnas as mn
from mathnas import BlockTable, InvalidInputError, MathNASError, Measurements, SearchSpace
from mathnas.gaussian_process import GaussianProcess, Kernel
from mathnas.regression import Regression, regress
from mathnas.scales import IDENTITY
from mathnas.space import AS_WRITTEN, Indices
from mathnas.table import Form

SIZES = (3, 3, 3, 3, 3)
ORIGIN = (0,) * len(SIZES)


def cut(networks: Indices) -> Indices:
    """What follows a node with block 0 is not executed: block 0 too."""
    return np.asarray(networks * (np.cumprod(networks != 0, axis=1) > 0))


def mirrored(networks: Indices) -> Indices:
    return networks[:, ::-1]


def depths(networks: Indices) -> Floats:
    """How many nodes are executed, and the sum of their blocks."""
    alive = cut(networks)
    return np.column_stack([(alive != 0).sum(axis=1), alive.sum(axis=1)]).astype(np.float64)


def formed_space(**options: Any) -> SearchSpace:
    given: dict[str, Any] = {"forms": {"cut": cut, "mirrored": mirrored}, "features": depths}
    return SearchSpace(space_of(SIZES).nodes, **{**given, **options})


SPACE = formed_space()
EVERY = SPACE.all_networks()


def drawn(count: int, seed: int = 0) -> Indices:
    return np.random.default_rng(seed).permutation(EVERY)[:count]


def effects_of(form: str, networks: Indices, seed: int = 1) -> Floats:
    """A sum of random effects of the blocks of networks in a form."""
    effects = np.random.default_rng(seed).normal(size=SPACE.num_blocks)
    rows = SPACE.formed(networks, form) + SPACE.offsets[:-1]
    return np.asarray(effects[rows].sum(axis=1))


def measured(networks: Indices, values: Floats, metric: str = "accuracy") -> Measurements:
    count = len(values)
    unknown = np.full(count, np.nan)
    return Measurements(mn.metric_named(metric), {}, networks, values, unknown, np.ones(count))


def table_of(found: Regression, data: Measurements, space: SearchSpace = SPACE) -> BlockTable:
    return BlockTable(space, ORIGIN, {data.metric.name: found.column(space, data)})


def nonlinear(networks: Indices) -> Floats:
    """A function of the features that no sum over blocks gives."""
    depth, total = depths(networks).T
    return np.asarray(70 + 6 * np.sin(1.3 * depth) + 4 * np.cos(0.9 * total))


# ---- what the evidence chooses -------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "latency_ms"])
@pytest.mark.parametrize("form", [AS_WRITTEN, "cut"])
def test_the_form_that_adds_up_is_chosen(form: str, metric: str) -> None:
    networks = drawn(80)
    noise = 0.02 * np.random.default_rng(3).normal(size=len(EVERY))
    data = measured(networks, 30 + effects_of(form, networks) + noise[:80], metric)
    found = regress(SPACE, data, ORIGIN)
    assert (found.form, found.process) == (form, None)
    assert found.to_dict()["form"] == form
    truth = 30 + effects_of(form, EVERY)
    np.testing.assert_allclose(table_of(found, data).predict(EVERY, metric), truth, atol=0.2)


def test_features_are_chosen_where_blocks_do_not_add_up() -> None:
    networks = drawn(80)
    data = measured(networks, nonlinear(networks))
    found = regress(SPACE, data, ORIGIN)
    assert found.process is not None
    assert found.to_dict()["model"] == "Gaussian process on features"
    predicted = table_of(found, data).predict(EVERY, "accuracy")
    assert np.abs(predicted - nonlinear(EVERY)).mean() < 0.5
    without = regress(SPACE, data, ORIGIN, features=False)
    assert without.process is None
    assert without.evidence < found.evidence


def test_additive_metrics_stay_sums_over_blocks() -> None:
    data = measured(drawn(80), nonlinear(drawn(80)), "latency_ms")
    assert regress(SPACE, data, ORIGIN).process is None


def test_a_space_without_forms_and_features_is_fitted_as_before() -> None:
    networks = drawn(60)
    data = measured(networks, 30 + effects_of("cut", networks))
    found = regress(space_of(SIZES), data, ORIGIN)
    assert (found.form, found.process) == (AS_WRITTEN, None)
    plain = regress(formed_space(forms=None, features=None), data, ORIGIN)
    np.testing.assert_array_equal(found.effects, plain.effects)


@pytest.mark.filterwarnings("ignore::mathnas.MathNASWarning")
def test_a_form_that_changes_no_measured_network_is_no_choice() -> None:
    networks = EVERY[(EVERY > 0).all(axis=1)]
    data = measured(networks, 30 + effects_of("cut", networks))
    assert regress(SPACE, data, ORIGIN, features=False).form != "cut"


def test_effects_of_a_process_are_switches_of_the_reference() -> None:
    data = measured(drawn(80), nonlinear(drawn(80)))
    reference = (2, 1, 2, 1, 2)
    found = regress(SPACE, data, reference)
    table = BlockTable(SPACE, reference, {"accuracy": found.column(SPACE, data)})
    assert table.response(reference, "accuracy") == pytest.approx(found.base, abs=1e-9)
    for node, size in enumerate(SPACE.sizes):
        for block in range(size):
            switched = SPACE.with_block(reference, node, block)
            effect = found.effects[SPACE.offsets[node] + block]
            response = table.response(switched, "accuracy")
            assert response == pytest.approx(found.base + effect, abs=1e-9)


def test_contexts_count_networks_that_hold_the_block_in_the_form() -> None:
    networks = drawn(80)
    data = measured(networks, 30 + effects_of("cut", networks), "latency_ms")
    column = regress(SPACE, data, ORIGIN).column(SPACE, data)
    assert column.network_form == "cut"
    rows = (cut(networks) + SPACE.offsets[:-1]).ravel()
    assert column.contexts.tolist() == np.bincount(rows, minlength=SPACE.num_blocks).tolist()


def test_values_left_out_are_told_in_the_metric_s_unit() -> None:
    networks = drawn(60)
    data = measured(networks, nonlinear(networks))
    found = regress(SPACE, data, ORIGIN)
    assert found.process is not None
    expected = found.scale.inverse(found.process.left_out)
    np.testing.assert_allclose(found.left_out, expected)
    assert found.left_out_error == pytest.approx(np.abs(expected - data.values).mean())


def test_costs_that_are_next_to_free_of_noise_can_be_fitted() -> None:
    """Many pairs, the smallest noise, and networks that are equal in their form."""
    rng = np.random.default_rng(0)
    nodes = [mn.BlockNode(f"n{i}", tuple(map(mn.Block, "abcde"))) for i in range(6)]
    space = SearchSpace(nodes, forms={"cut": cut})
    networks = np.array(space.sample(200, seed=0))
    rows = cut(networks) + space.offsets[:-1]
    values = 5 + rng.uniform(0.1, 2, size=30)[rows].sum(axis=1)
    for i in range(5):
        values += 1e-3 * rng.normal(size=(5, 5))[cut(networks)[:, i], cut(networks)[:, i + 1]]
    data = measured(networks, values, "energy_mj")
    found = regress(space, data, (0,) * 6, pairs=True)
    table = BlockTable(space, (0,) * 6, {"energy_mj": found.column(space, data)})
    assert np.isfinite(table.deviation(networks, "energy_mj")).all()
    np.testing.assert_allclose(table.predict(networks, "energy_mj"), values, atol=0.01)


# ---- tables --------------------------------------------------------------------------------------


def fitted() -> BlockTable:
    """A form for latency and a process for accuracy."""
    networks = drawn(80)
    accuracy = measured(networks, nonlinear(networks) + np.random.default_rng(1).normal(size=80))
    values = 30 + effects_of("cut", networks) + 0.1 * np.random.default_rng(2).normal(size=80)
    latency = measured(networks, values, "latency_ms")
    columns = {
        data.metric.name: regress(SPACE, data, ORIGIN).column(SPACE, data)
        for data in (accuracy, latency)
    }
    return BlockTable(SPACE, ORIGIN, columns)


TABLE = fitted()


def test_the_columns_are_what_these_tests_are_about() -> None:
    accuracy, latency = TABLE.column("accuracy"), TABLE.column("latency_ms")
    assert accuracy.process is not None
    assert latency.network_form == "cut"
    assert not accuracy.additive
    assert not latency.additive
    assert accuracy.uncertainty is accuracy.process
    assert latency.uncertainty is latency.posterior is not None


@pytest.mark.parametrize("metric", ["accuracy", "latency_ms"])
def test_all_ways_to_predict_agree(metric: str) -> None:
    exact = [TABLE.exact(tuple(network), metric) for network in EVERY.tolist()]
    np.testing.assert_allclose(TABLE.predict(EVERY, metric), exact, rtol=1e-10)
    np.testing.assert_allclose(TABLE.predict_all(metric), exact, rtol=1e-10)
    small = EVERY.astype(np.uint8)
    np.testing.assert_allclose(TABLE.predict(small, metric), exact, rtol=1e-10)
    responses = [TABLE.response(tuple(network), metric) for network in EVERY.tolist()]
    np.testing.assert_allclose(TABLE.all_responses(metric), responses, rtol=1e-10)
    assert TABLE.predict(EVERY[:0], metric).shape == (0,)


def test_networks_of_one_form_are_predicted_alike() -> None:
    np.testing.assert_array_equal(
        TABLE.predict(EVERY, "latency_ms"), TABLE.predict(cut(EVERY), "latency_ms")
    )
    np.testing.assert_allclose(
        TABLE.deviation(EVERY, "latency_ms"), TABLE.deviation(cut(EVERY), "latency_ms")
    )


@pytest.mark.parametrize("metric", ["accuracy", "latency_ms"])
def test_intervals_hold_what_they_say(metric: str) -> None:
    truth = nonlinear(EVERY) if metric == "accuracy" else 30 + effects_of("cut", EVERY)
    noise = np.random.default_rng(8).normal(size=len(EVERY)) * (1 if metric == "accuracy" else 0.1)
    low, high = TABLE.interval(EVERY, metric, 0.9)
    # a third of the networks have the same features, and so one error together
    assert 0.7 < ((low <= truth + noise) & (truth + noise <= high)).mean() < 0.99
    deviations = TABLE.deviation(EVERY[:9], metric)
    for network, deviation in zip(EVERY[:9].tolist(), deviations.tolist(), strict=True):
        prediction = TABLE.prediction(network, metric)
        assert prediction.spread == pytest.approx(deviation)
        assert prediction.measured


def test_the_spread_of_a_form_without_a_posterior_is_that_of_its_blocks() -> None:
    column = replace(
        column_of("latency_ms", np.arange(15.0)), spread=np.arange(15.0), network_form="cut"
    )
    table = BlockTable(SPACE, ORIGIN, {"latency_ms": column})
    # (1, 0, 2, 2, 2) is (1, 0, 0, 0, 0), which differs from the reference in its first node
    assert table.prediction((1, 0, 2, 2, 2), "latency_ms").spread == pytest.approx(1.0)
    assert table.prediction((0, 2, 2, 2, 2), "latency_ms").spread == 0


def test_a_file_brings_back_predictions_and_uncertainty(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    TABLE.save(path)
    restored = BlockTable.load(path, space=formed_space())
    for metric in ("accuracy", "latency_ms"):
        same = restored.column(metric)
        assert same.network_form == TABLE.column(metric).network_form
        np.testing.assert_allclose(
            restored.predict(EVERY, metric), TABLE.predict(EVERY, metric), rtol=1e-12
        )
        np.testing.assert_allclose(
            restored.deviation(EVERY, metric), TABLE.deviation(EVERY, metric), rtol=1e-6
        )


def test_a_table_is_sent_to_other_processes() -> None:
    received = pickle.loads(pickle.dumps(TABLE))
    expected = TABLE.predict(EVERY, "accuracy")
    np.testing.assert_allclose(received.predict(EVERY, "accuracy"), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("metric", "message"),
    [("latency_ms", "has the forms as-written, but got 'cut'"), ("accuracy", "tells no features")],
)
def test_a_file_whose_space_lacks_what_it_needs_says_so(
    metric: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.json"
    BlockTable(SPACE, ORIGIN, {metric: TABLE.column(metric)}).save(path)
    with pytest.raises(InvalidInputError, match=message):
        BlockTable.load(path)
    with pytest.raises(InvalidInputError, match="give the space that it was made for"):
        BlockTable.load(path, space=formed_space(name="another"))


def test_features_of_another_width_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    TABLE.save(path)
    with pytest.raises(InvalidInputError, match="about 2 features, but space tells 1"):
        BlockTable.load(path, space=formed_space(features=one_feature))


def one_feature(networks: Indices) -> Floats:
    return networks[:, :1].astype(np.float64)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(network_form="sideways"),
        lambda c: c.update(network_form=3),
        lambda c: c.update(process=7),
        lambda c: c["process"].pop("features"),
        lambda c: c["process"].update(noise_share=-1),
        lambda c: c["process"].update(responses=[1.0]),
    ],
)
def test_damaged_columns_are_refused(change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(json.dumps(TABLE.to_dict(), allow_nan=False))
    change(next(column for column in record["metrics"] if column["name"] == "accuracy"))
    with pytest.raises(MathNASError):
        BlockTable.from_dict(record, space=formed_space())


def test_forms_and_processes_go_with_linear_effects() -> None:
    for more in ({"network_form": "cut"}, {"process": a_process()}):
        with pytest.raises(InvalidInputError, match="linear effects"):
            replace(column_of("accuracy", np.zeros(15), form=Form.SPACE_MEAN), **more)


def a_process() -> GaussianProcess:
    rng = np.random.default_rng(0)
    return GaussianProcess(
        rng.normal(size=(5, 2)), rng.normal(size=5), Kernel(1, 1, 0), 0.1, np.ones(5)
    )


def test_tables_say_what_their_columns_are() -> None:
    text = str(TABLE)
    assert "latency_ms of networks in the form cut: reference" in text
    assert "a Gaussian process on features; switched alone in the reference:" in text
    assert "<td>n0</td><td>b1</td>" in TABLE._repr_html_()


def test_shares_of_the_variance_are_those_of_all_predictions() -> None:
    for metric in ("accuracy", "latency_ms"):
        found = mn.table_shares(TABLE, metric)
        expected = mn.variance_shares(SPACE, TABLE.all_responses(metric))
        assert found.to_dict() == expected.to_dict()
        assert found.higher > 0


def test_a_study_is_fitted_validated_and_searched(tmp_path: Path) -> None:
    with mn.Study(tmp_path / "f.study", SPACE) as study:
        evaluator = mn.FunctionEvaluator(accuracy_of, ["accuracy"])
        mn.evaluate(study, [tuple(network) for network in drawn(100).tolist()], evaluator)
        held_out = [tuple(network) for network in drawn(100)[70:].tolist()]
        table = mn.fit_without(study, held_out, method="regression")
        found = mn.validate(table, study, held_out)
    assert table.column("accuracy").process is not None
    assert (found["accuracy"].spearman or 0) > 0.9
    assert found["accuracy"].coverage is not None
    answer = mn.search(table)
    assert isinstance(answer, mn.Answer)
    assert answer.value == pytest.approx(table.predict_all("accuracy").max())


def accuracy_of(network: mn.Network) -> float:
    return float(nonlinear(np.array([network]))[0])


# ---- spaces --------------------------------------------------------------------------------------


def test_as_written_is_no_name_for_a_form() -> None:
    with pytest.raises(InvalidInputError, match="the network itself"):
        formed_space(forms={AS_WRITTEN: cut})


def test_forms_and_features_are_code_and_no_part_of_a_declaration() -> None:
    plain = SearchSpace.from_dict(SPACE.to_dict())
    assert plain == SPACE
    assert plain.forms == (AS_WRITTEN,)
    assert not plain.has_features
    assert SPACE.forms == (AS_WRITTEN, "cut", "mirrored")
    for use in (lambda: plain.formed(EVERY, "cut"), lambda: plain.features(EVERY)):
        with pytest.raises(InvalidInputError, match=r"mathnas\.spaces\.restore"):
            use()


def test_scales_of_a_regression_may_be_given() -> None:
    data = measured(drawn(60), nonlinear(drawn(60)))
    found = regress(SPACE, data, ORIGIN, scale=IDENTITY)
    assert found.scale == IDENTITY
    assert found.process is not None
