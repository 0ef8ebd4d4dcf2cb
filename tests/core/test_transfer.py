"""Transfer of a table to a new device: exact recovery, one factor as the floor, rubbish, real data.

Devices are drawn: a known one with a cost for each block, and new ones that differ from it as the
test says. Networks to judge on are all that were not measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mathnas as mn
from mathnas.datasets import fbnet, nasbench201
from mathnas.metrics import Floats
from mathnas.regression import regress, regress_with
from mathnas.responses import responses_of
from mathnas.space import Indices, SearchSpace
from mathnas.spaces.nasbench201 import NASBench201, has_path
from mathnas.study import Measurements
from mathnas.transfer import scaling

NODES, BLOCKS = 6, 4
LATENCY = mn.metric_named("latency_ms")


@pytest.fixture
def space() -> SearchSpace:
    blocks = tuple(map(mn.Block, ("skip", "small", "wide", "deep")))
    return SearchSpace([mn.BlockNode(f"layer{i}", blocks) for i in range(NODES)])


def costs(seed: int) -> Floats:
    """A device: what each block takes, ms, shape (nodes, blocks); a skip takes nothing."""
    rng = np.random.default_rng(seed)
    found: Floats = rng.uniform(0.5, 3.0, (NODES, BLOCKS)) * (np.arange(BLOCKS) > 0)
    return found


def latency(device: Floats, networks: Indices, fixed: float = 4.0) -> Floats:
    found: Floats = fixed + device[np.arange(NODES), networks].sum(axis=1)
    return found


def table_of(
    space: SearchSpace, device: Floats, name: str = "latency_ms", fixed: float = 4.0
) -> mn.BlockTable:
    metric = mn.metric_named(name)
    effects = (device - device[:, :1]).ravel()
    base = fixed + float(device[:, 0].sum())
    column = mn.BlockEffects(metric, base, effects, np.zeros(24), np.ones(24))
    return mn.BlockTable(space, (0,) * NODES, {name: column})


def measured(networks: Indices, values: Floats, metric: mn.Metric = LATENCY) -> Measurements:
    count = len(values)
    return Measurements(metric, {}, networks, values, np.full(count, np.nan), np.ones(count))


def split(space: SearchSpace, count: int, seed: int = 0) -> tuple[Indices, Indices]:
    """Networks to measure, and all others."""
    order = np.random.default_rng(seed).permutation(space.all_networks())
    return order[:count], order[count:]


def mape(table: mn.BlockTable, networks: Indices, truth: Floats, name: str = "latency_ms") -> float:
    return float(100 * np.abs(table.predict(networks, name) / truth - 1).mean())


def quietly(*arguments: object, **options: object) -> mn.BlockTable:
    """A transfer whose warning that fitting anew is better is not the matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mn.MathNASWarning)
        return mn.transfer(*arguments, **options)  # type: ignore[arg-type]


# ---- devices that are alike ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_scaling_of_each_node_is_recovered_from_fewer_networks_than_effects(
    space: SearchSpace, seed: int
) -> None:
    old, factors = costs(seed), np.random.default_rng(seed).uniform(0.5, 4.0, (NODES, 1))
    new, others = old * factors, space.all_networks()
    few = np.array(mn.transfer_plan(space, 15, seed=seed).networks)
    assert len(few) < NODES * (BLOCKS - 1)
    found = quietly(table_of(space, old), measured(few, latency(new, few, fixed=9.0)))
    assert mape(found, others, latency(new, others, fixed=9.0)) < 0.3
    guess = table_of(space, old).predict(few, "latency_ms")
    factor = scaling(guess, latency(new, few, fixed=9.0))
    one = factor * table_of(space, old).predict(others, "latency_ms")
    assert np.abs(one / latency(new, others, fixed=9.0) - 1).mean() > 0.03


@pytest.mark.parametrize("seed", range(4))
def test_a_scaling_of_each_block_name_is_recovered(space: SearchSpace, seed: int) -> None:
    old, factors = costs(seed), np.random.default_rng(seed).uniform(0.5, 4.0, BLOCKS)
    few, others = split(space, 14, seed)
    found = quietly(table_of(space, old), measured(few, latency(old * factors, few)))
    assert mape(found, others, latency(old * factors, others)) < 0.5


def test_several_known_devices_are_combined(space: SearchSpace) -> None:
    known = [costs(seed) for seed in range(3)]
    new = 0.4 * known[0] + 2.5 * known[1]
    few, others = split(space, 10)
    data = measured(few, latency(new, few))
    tables = [table_of(space, device) for device in known]
    together = mape(quietly(tables, data), others, latency(new, others))
    assert together < 0.5
    assert together < 0.2 * mape(quietly(tables[0], data), others, latency(new, others))


def test_it_is_hardly_worse_than_one_factor_where_that_is_true(space: SearchSpace) -> None:
    errors = []
    for seed in range(8):
        rng, old = np.random.default_rng(seed), costs(seed)
        few, others = split(space, 20, seed)
        truth = 2.5 * latency(old, others)
        values = 2.5 * latency(old, few) * (1 + 0.05 * rng.standard_normal(len(few)))
        table = table_of(space, old)
        one = scaling(table.predict(few, "latency_ms"), values) * latency(old, others)
        found = quietly(table, measured(few, values))
        errors.append((mape(found, others, truth), 100 * np.abs(one / truth - 1).mean()))
    transfer, one_factor = np.mean(errors, axis=0)
    assert transfer < one_factor + 0.7


def test_one_factor_is_taken_where_it_leaves_out_less(space: SearchSpace) -> None:
    old = costs(1)
    few, others = split(space, 8)
    noise = np.random.default_rng(1).standard_normal(len(few))
    values = 3 * latency(old, few) * (1 + 0.08 * noise)
    table = table_of(space, old)
    found = quietly(table, measured(few, values), reference=(1,) * NODES)
    chosen = found.provenance["chosen"]["latency_ms"]  # type: ignore[index]
    assert chosen["model"] == "one factor"
    ratio = found.predict(others, "latency_ms") / table.predict(others, "latency_ms")
    assert ratio == pytest.approx(np.median(values / latency(old, few)))
    assert found.reference == (1,) * NODES
    assert found.exact((1,) * NODES, "latency_ms") == pytest.approx(found.column("latency_ms").base)
    assert (found.deviation(others, "latency_ms") > 0).all()
    # each network left out, by hand
    guess = table.predict(few, "latency_ms")
    off = [
        abs(np.median(np.delete(values, i) / np.delete(guess, i)) * guess[i] / values[i] - 1)
        for i in range(len(few))
    ]
    errors = found.provenance["left_out_error"]
    assert errors["one factor"] == pytest.approx(100 * np.mean(off), rel=1e-3)  # type: ignore[index]


# ---- devices that are not ------------------------------------------------------------------------


def test_what_does_not_help_is_told(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    # all nodes alike on the new device, and nothing of it known
    new = np.tile(rng.uniform(1, 3, BLOCKS), (NODES, 1))
    few, others = split(space, 20)
    data = measured(few, latency(new, few) * (1 + 0.01 * rng.standard_normal(20)))
    anew = regress(space, data, (0,) * NODES)
    column = anew.column(space, data)
    alone = mn.BlockTable(space, (0,) * NODES, {"latency_ms": column})
    found = quietly(table_of(space, costs(5)), data)
    truth = latency(new, others)
    assert mape(found, others, truth) < 1.3 * mape(alone, others, truth) + 0.5


def test_a_warning_says_where_fitting_anew_leaves_out_less(space: SearchSpace) -> None:
    rng = np.random.default_rng(3)
    told = []
    for seed in range(4):
        new, old = costs(50 + seed), rng.uniform(0, 3, (NODES, BLOCKS))
        few, _ = split(space, 24, seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", mn.MathNASWarning)
            found = mn.transfer(table_of(space, old), measured(few, latency(new, few)))
        errors = found.provenance["left_out_error"]
        assert isinstance(errors, dict)
        worse = errors["anew"] < errors["transfer"]
        assert errors["transfer"] < errors["one factor"]
        assert worse == any("fitting anew" in str(warning.message) for warning in caught)
        told.append(worse)
    assert any(told)


def fitted_anew(space: SearchSpace, data: Measurements) -> mn.BlockTable:
    """Fitted anew."""
    reference = (0,) * NODES
    column = regress(space, data, reference).column(space, data)
    return mn.BlockTable(space, reference, {"latency_ms": column})


def test_known_devices_that_are_unlike_leave_it_as_good_as_fitting_anew(
    space: SearchSpace,
) -> None:
    ratios = []
    for seed in range(4):
        rng, new = np.random.default_rng(seed), costs(70 + seed)
        few, others = split(space, 30, seed)
        data = measured(few, latency(new, few) * (1 + 0.01 * rng.standard_normal(30)))
        found = quietly(table_of(space, rng.uniform(0, 3, (NODES, BLOCKS))), data)
        truth = latency(new, others)
        ratios.append(mape(found, others, truth) / mape(fitted_anew(space, data), others, truth))
    assert np.exp(np.log(ratios).mean()) < 1.05


def test_a_known_device_that_is_alike_keeps_its_weight(space: SearchSpace) -> None:
    ratios, weights = [], []
    for seed in range(4):
        rng, old = np.random.default_rng(seed), costs(seed)
        new = old * rng.uniform(0.5, 3, (NODES, 1))
        few, others = split(space, 16, seed)
        data = measured(few, latency(new, few) * (1 + 0.01 * rng.standard_normal(16)))
        found = quietly(table_of(space, old), data)
        truth = latency(new, others)
        ratios.append(mape(found, others, truth) / mape(fitted_anew(space, data), others, truth))
        weights.append(found.provenance["chosen"]["latency_ms"]["weight"])  # type: ignore[index]
    assert np.exp(np.log(ratios).mean()) < 0.5
    assert np.mean(weights) > 0.9


@pytest.mark.parametrize("count", [5, 6, 7, 11])
def test_few_measurements_break_nothing(space: SearchSpace, count: int) -> None:
    for seed in range(3):
        few, others = split(space, count, seed)
        rng = np.random.default_rng(seed)
        values = latency(costs(seed), few) * (1 + 0.1 * rng.standard_normal(count))
        found = quietly(table_of(space, costs(seed + 20)), measured(few, values))
        predicted = found.predict(others, "latency_ms")
        assert (np.abs(predicted - values.mean()) < 4 * np.ptp(latency(costs(seed), others))).all()
        assert (found.deviation(others, "latency_ms") > 0).all()
        chosen = found.provenance["chosen"]["latency_ms"]  # type: ignore[index]
        if chosen["model"] != "one factor":
            assert 0 <= chosen["weight"] <= 1
            assert chosen["deviations_times"] >= 1


def test_networks_that_switch_one_block_at_a_time_serve_too(space: SearchSpace) -> None:
    """Each fold leaves out blocks that no other network holds."""
    old, factors = costs(1), np.linspace(0.5, 3, NODES)[:, None]
    few = np.array(mn.single_sampling(space, (0,) * NODES).networks)
    others = split(space, 0)[1]
    found = quietly(table_of(space, old), measured(few, latency(old * factors, few)))
    assert mape(found, others, latency(old * factors, others)) < 1


def test_blocks_that_interact_are_fitted_anew_and_kept(space: SearchSpace, tmp_path: Path) -> None:
    """The transfer is a sum over blocks; what pairs of them add comes from fitting anew."""
    small = SearchSpace(list(space.nodes[:3]))
    rng = np.random.default_rng(0)
    old, entry = rng.uniform(0.5, 1, (3, BLOCKS)), rng.uniform(0, 6, (BLOCKS, BLOCKS))

    def truth(networks: Indices) -> Floats:
        summed = old[np.arange(3), networks].sum(axis=1)
        found: Floats = 4.0 + summed + entry[networks[:, 0], networks[:, 1]]
        return found

    effects = (old - old[:, :1]).ravel()
    column = mn.BlockEffects(LATENCY, 5.0, effects, np.zeros(12), np.ones(12))
    every = np.random.default_rng(1).permutation(small.all_networks())
    few, others = every[:48], every[48:]
    known = mn.BlockTable(small, (0,) * 3, {"latency_ms": column})
    found = quietly(known, measured(few, truth(few)))
    chosen = found.provenance["chosen"]["latency_ms"]  # type: ignore[index]
    assert chosen["weight"] < 0.1
    assert found.column("latency_ms").pairs
    assert mape(found, others, truth(others)) < 3
    low, high = found.interval(others, "latency_ms", 0.9)
    assert ((low <= truth(others)) & (truth(others) <= high)).mean() > 0.7
    found.save(tmp_path / "pairs.table.json")
    again = mn.BlockTable.load(tmp_path / "pairs.table.json")
    assert again.deviation(others, "latency_ms") == pytest.approx(
        found.deviation(others, "latency_ms")
    )


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_models_of_different_forms_of_a_network_are_not_mixed(seed: int) -> None:
    space, rng = NASBench201(), np.random.default_rng(seed)
    known = rng.uniform(0.5, 3, (6, 5)) * [0, 0.2, 1, 2, 0.5]
    few = space.all_networks()[rng.permutation(space.num_networks)[:9]]
    new = known * rng.uniform(0.5, 2, (6, 1))
    values = 4 + new[np.arange(6), space.formed(few, space.forms[-1])].sum(axis=1)
    data = measured(few, values * (1 + 0.05 * rng.standard_normal(9)))
    effects = (known - known[:, :1]).ravel()
    column = mn.BlockEffects(LATENCY, 4.0, effects, np.zeros(30), np.ones(30))
    found = quietly(mn.BlockTable(space, (0,) * 6, {"latency_ms": column}), data)
    chosen = found.provenance["chosen"]["latency_ms"]  # type: ignore[index]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mn.MathNASWarning)
        anew = regress(space, data, (0,) * 6)
    assert chosen["form"] != anew.form
    assert chosen["weight"] in (0, 1)
    taken = chosen["form"] if chosen["weight"] else anew.form
    assert found.column("latency_ms").network_form == taken


def test_one_measurement_that_is_far_off_does_little_harm(space: SearchSpace) -> None:
    old, factors = costs(2), np.linspace(0.5, 3, NODES)[:, None]
    few, others = split(space, 30)
    noise = 1 + 0.01 * np.random.default_rng(2).standard_normal(len(few))
    values = latency(old * factors, few) * noise
    values[4] *= 2.5
    found = quietly(table_of(space, old), measured(few, values))
    assert found.provenance["chosen"]["latency_ms"]["heavy_tails"]  # type: ignore[index]
    assert mape(found, others, latency(old * factors, others)) < 4


# ---- the model -----------------------------------------------------------------------------------


def test_predictions_under_a_given_prior_are_those_of_dense_matrices(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    root, share = rng.standard_normal((space.num_blocks, 5)), 0.3
    few, others = split(space, 12)
    data = measured(few, rng.uniform(5, 20, len(few)))
    response = responses_of(data.values, LATENCY, None)[0]
    reference = (1,) * NODES
    found = regress_with(space, data, reference, root, response, share)

    def summed(networks: Indices) -> Floats:
        return np.array([root[space.offsets[:-1] + row].sum(axis=0) for row in networks])

    inverse = np.linalg.inv(summed(few) @ summed(few).T + share * np.eye(len(few)))
    constant = float((inverse @ data.values).sum() / inverse.sum())
    across = summed(others) @ summed(few).T
    expected = constant + across @ inverse @ (data.values - constant)
    column = found.column(space, data)
    predicted = mn.BlockTable(space, reference, {"latency_ms": column}).predict(
        others, "latency_ms"
    )
    assert predicted == pytest.approx(expected)
    assert column.effects[space.offsets[:-1] + 1] == pytest.approx(0, abs=1e-9)


def test_intervals_hold_about_what_they_promise(space: SearchSpace) -> None:
    held = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        old = costs(seed)
        new = old * rng.uniform(0.5, 2, (NODES, 1)) * rng.uniform(0.9, 1.1, (NODES, BLOCKS))
        few, others = split(space, 30, seed)
        noise = 1 + 0.02 * rng.standard_normal(space.num_networks)
        found = quietly(table_of(space, old), measured(few, latency(new, few) * noise[:30]))
        low, high = found.interval(others, "latency_ms", 0.9)
        truth = latency(new, others) * noise[30:]
        held.append(((low <= truth) & (truth <= high)).mean())
    assert 0.75 < np.mean(held) < 0.98


def test_the_table_says_how_it_was_made_and_is_read_again(
    space: SearchSpace, tmp_path: Path
) -> None:
    few, others = split(space, 20)
    device = costs(0)
    tables = [table_of(space, device, name) for name in ("latency_ms_phone", "latency_ms_board")]
    found = quietly(
        tables,
        measured(few, latency(2 * device, few)),
        known=["latency_ms_phone", "latency_ms_board"],
    )
    provenance = found.provenance
    assert provenance["method"] == "transfer"
    assert provenance["known"] == ["latency_ms_phone of a table", "latency_ms_board of a table"]
    assert provenance["networks"] == 20
    assert provenance["left_out_unit"] == "%"
    chosen = provenance["chosen"]["latency_ms"]  # type: ignore[index]
    if chosen["model"] != "one factor":
        assert sum(chosen["parts"].values()) == pytest.approx(1, abs=0.01)
    errors = provenance["left_out_error"]
    assert list(errors) == ["transfer", "one factor", "anew", "together"]  # type: ignore[call-overload]
    found.save(tmp_path / "new.table.json")
    again = mn.BlockTable.load(tmp_path / "new.table.json")
    assert again.provenance == provenance
    assert again.predict(others, "latency_ms") == pytest.approx(found.predict(others, "latency_ms"))


def test_a_study_is_transferred_to_as_its_measurements_are(
    space: SearchSpace, tmp_path: Path
) -> None:
    old, new = costs(0), 2 * costs(0)
    few = mn.transfer_plan(space, 12)
    with mn.Study(tmp_path / "new.study", space) as study:
        evaluator = mn.FunctionEvaluator(
            lambda network: {"latency_ms": float(latency(new, np.array([network]))[0])},
            ["latency_ms"],
        )
        mn.evaluate(study, few, evaluator)
        found = quietly(table_of(space, old), study)
        data = study.measurements("latency_ms")
    assert found.provenance["study"] == "new.study"
    networks = space.all_networks()
    other = quietly(table_of(space, old), data)
    assert (found.predict(networks, "latency_ms") == other.predict(networks, "latency_ms")).all()


def test_a_plan_holds_every_block_and_nothing_that_was_measured(space: SearchSpace) -> None:
    first = mn.transfer_plan(space, 8)
    second = mn.transfer_plan(space, 12, measured=first.networks, seed=1)
    assert not set(first.networks) & set(second.networks)
    counts = [
        np.bincount(column, minlength=BLOCKS)
        for column in np.array(first.networks + second.networks).T
    ]
    assert np.array(counts).min() >= 4


# ---- rubbish -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 4}, "at least 5 measured networks"),
        ({"known": "latency_ms_phone"}, "they have latency_ms: name the known columns"),
        ({"tables": []}, "needs the table of a known device, but got none"),
        ({"metric": "accuracy", "known": "latency_ms"}, "sums over blocks"),
        ({"other": True}, "are of the space that is measured"),
        ({"values": np.nan}, "measurements are finite"),
        ({"reference": (9,) * NODES}, "9"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_rubbish_is_refused(space: SearchSpace, options: dict[str, object], message: str) -> None:
    few, _ = split(space, int(str(options.get("count", 20))))
    values = latency(costs(0), few)
    if "values" in options:
        values[3] = np.nan
    metric = mn.metric_named(str(options.get("metric", "latency_ms")))
    tables = options.get("tables", [table_of(space, costs(0))])
    if "other" in options:
        blocks = tuple(map(mn.Block, "abcd"))
        other = SearchSpace([mn.BlockNode(f"n{i}", blocks) for i in range(NODES)])
        tables = [table_of(space, costs(0)), table_of(other, costs(0))]
    passed = {key: options[key] for key in ("known", "reference") if key in options}
    with pytest.raises(mn.InvalidInputError, match=message):
        quietly(tables, measured(few, values, metric), **passed)


def test_a_known_column_on_a_response_scale_is_refused(space: SearchSpace) -> None:
    table = table_of(space, costs(0))
    column = table.column("latency_ms")
    curved = replace(column, metric=replace(column.metric, scale=mn.LogScale(1, 99)))
    few, _ = split(space, 20)
    with pytest.raises(mn.InvalidInputError, match="sums over blocks"):
        quietly(
            mn.BlockTable(space, table.reference, {"latency_ms": curved}),
            measured(few, latency(costs(0), few)),
        )


def test_a_study_of_several_metrics_asks_for_one(space: SearchSpace, tmp_path: Path) -> None:
    with mn.Study(tmp_path / "new.study", space) as study:
        evaluator = mn.FunctionEvaluator(
            lambda network: {"latency_ms": 1.0 + sum(network), "energy_mj": 2.0},
            ["latency_ms", "energy_mj"],
        )
        mn.evaluate(study, mn.random_sampling(space, 6), evaluator)
        with pytest.raises(mn.InvalidInputError, match="latency_ms, energy_mj: name one"):
            mn.transfer(table_of(space, costs(0)), study)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_device_on_which_all_networks_are_equal_is_no_fault(
    space: SearchSpace, value: float
) -> None:
    few, others = split(space, 10)
    found = quietly(table_of(space, costs(0)), measured(few, np.full(10, value)))
    assert found.predict(others, "latency_ms") == pytest.approx(value, abs=0.2)
    flat = quietly(
        table_of(space, np.zeros((NODES, BLOCKS))), measured(few, latency(costs(0), few))
    )
    assert np.isfinite(flat.predict(others, "latency_ms")).all()


# ---- real devices --------------------------------------------------------------------------------

Require = Callable[..., Path]


def ratios(
    space: SearchSpace,
    networks: Indices,
    values: dict[str, Floats],
    pairs: Sequence[tuple[str, str]],
    known: int,
) -> Floats:
    """By pair of devices, MAPE of one factor, fitting anew and transfer from 20 networks."""
    found = []
    order = np.random.default_rng(7).permutation(len(networks))
    few, rest = order[known : known + 20], order[known + 20 :]
    for old, new in pairs:
        base = tuple(networks[0].tolist())
        seen = measured(networks[order[:known]], values[old][order[:known]], mn.metric_named(old))
        column = regress(space, seen, base, pairs=False).column(space, seen)
        table = mn.BlockTable(space, base, {old: column})
        data = measured(networks[few], values[new][few], mn.metric_named(new))
        guess, truth = table.predict(networks, old), values[new]
        factor = scaling(guess[few], truth[few])
        anew = regress(space, data, base).column(space, data)
        alone = mn.BlockTable(space, base, {new: anew})
        found.append(
            (
                100 * np.abs(factor * guess[rest] / truth[rest] - 1).mean(),
                mape(alone, networks[rest], truth[rest], new),
                mape(quietly(table, data, known=old), networks[rest], truth[rest], new),
            )
        )
    return np.array(found)


def test_layers_of_phones_and_processors(require: Require) -> None:
    require("fbnet", "latency.csv")
    table = fbnet()
    names = ("latency_ms_raspi4", "latency_ms_silver_4114", "latency_ms_1080ti_64")
    rows = [table.evaluate(network) for network in table.networks]
    values = {name: np.array([float(row[name]) for row in rows]) for name in names}  # type: ignore[arg-type]
    pairs = [(names[0], names[1]), (names[1], names[2]), (names[2], names[0])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mn.MathNASWarning)  # blocks in none of the 20
        found = ratios(table.space, np.array(table.networks), values, pairs, 300)
    one, anew, transfer = np.median(found, axis=0)
    assert transfer < one / 1.3
    assert transfer < 1.1 * anew


def test_cells_of_boards_and_processors(require: Require) -> None:
    require("nasbench201")
    names = ("latency_ms_gold_6226", "latency_ms_fpga", "latency_ms_titan_rtx_1")
    table = nasbench201(metrics=names)
    cells = [cell for cell in table.networks if has_path(cell)]
    rows = [table.evaluate(cell) for cell in cells]
    values = {name: np.array([float(row[name]) for row in rows]) for name in names}  # type: ignore[arg-type]
    pairs = [(names[0], names[1]), (names[1], names[2]), (names[2], names[0])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mn.MathNASWarning)
        found = ratios(table.space, np.array(cells), values, pairs, 200)
    assert np.median(found[:, 2]) < np.median(found[:, 0]) / 3.5
