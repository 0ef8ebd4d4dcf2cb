"""How far predictions may be off: deviations, intervals, and the record of it in files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from core_cases import Floats, column_of, networks_of, space_of

from mathnas import (
    BlockEffects,
    BlockTable,
    FileFormatError,
    InvalidInputError,
    Measurements,
    Network,
    PairEffects,
    PowerScale,
    Prediction,
    ResponseScale,
    SearchSpace,
    metric_named,
)
from mathnas.posterior import Posterior
from mathnas.regression import regress
from mathnas.scales import IDENTITY

SIZES = (3, 2, 4)
PAIRS = [(0, 2), (1, 2)]
CURVED = PowerScale(limit=105.0, exponent=2.0, low=40.0, high=90.0)


def posterior_of(entries: int, *, noise: float = 0.5, rank: int = 5) -> Posterior:
    rng = np.random.default_rng(0)
    return Posterior(rng.normal(size=(entries, rank)), rng.normal(size=rank), 0.3, noise)


def table_of(
    scale: ResponseScale = IDENTITY, *, base: float = 70.0, size: float = 1.0, noise: float = 0.5
) -> BlockTable:
    """Accuracy with two matrices of pairs, effects and a posterior of that size; latency without a
    posterior."""
    space, rng = space_of(SIZES), np.random.default_rng(1)
    pairs = tuple(PairEffects(i, k, size * rng.normal(size=(SIZES[i], SIZES[k]))) for i, k in PAIRS)
    posterior = posterior_of(space.num_blocks + 12 + 8, noise=noise)
    column = BlockEffects(
        replace(metric_named("accuracy"), scale=scale),
        base,
        size * rng.normal(size=space.num_blocks),
        np.ones(space.num_blocks),
        np.ones(space.num_blocks),
        pairs=pairs,
        posterior=Posterior(
            size * posterior.factor,
            size * posterior.centre,
            size**2 * posterior.constant,
            size * posterior.noise,
        ),
    )
    latency = column_of("latency_ms", np.arange(space.num_blocks, dtype=np.float64), base=9.0)
    return BlockTable(space, (0, 0, 0), {"accuracy": column, "latency_ms": latency})


def indicator(space: SearchSpace, network: Network) -> Floats:
    """Of a network's blocks, and of the entries of its pairs."""
    parts = [np.eye(size)[block] for size, block in zip(space.sizes, network, strict=True)]
    for i, k in PAIRS:
        entry = np.zeros((space.sizes[i], space.sizes[k]))
        entry[network[i], network[k]] = 1
        parts.append(entry.ravel())
    return np.concatenate(parts)


# ---- deviations ----------------------------------------------------------------------------------


def test_deviations_are_those_of_the_covariance() -> None:
    space = space_of(SIZES)
    posterior = posterior_of(space.num_blocks + 20)
    networks = networks_of(space)
    expected = []
    for network in networks:
        shift = posterior.factor.T @ indicator(space, network) - posterior.centre
        expected.append(math.sqrt(float(shift @ shift) + posterior.constant))
    rows = np.array(networks, dtype=np.intp)
    np.testing.assert_allclose(posterior.deviations(space, rows, PAIRS), expected, rtol=1e-12)


def test_deviations_of_many_networks_and_of_none() -> None:
    space = space_of(SIZES)
    posterior = posterior_of(space.num_blocks + 20)
    rows = np.random.default_rng(2).integers(0, SIZES, (10_000, 3))
    alone = np.array([posterior.deviations(space, row[None], PAIRS)[0] for row in rows[4000:4200]])
    np.testing.assert_array_equal(posterior.deviations(space, rows, PAIRS)[4000:4200], alone)
    assert posterior.deviations(space, rows[:0], PAIRS).shape == (0,)


def test_a_measurement_deviates_by_its_own_noise_besides() -> None:
    table = table_of()
    posterior = table.column("accuracy").posterior
    assert posterior is not None
    rows = table.space.all_networks()
    of_effects = posterior.deviations(table.space, rows.astype(np.intp), PAIRS)
    np.testing.assert_allclose(
        table.deviation(rows, "accuracy"), np.hypot(of_effects, posterior.noise), rtol=1e-9
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_bytes_are_networks_too(dtype: type) -> None:
    space = space_of((120, 150))
    rank = 2
    entries = space.num_blocks + 120 * 150
    factor = np.random.default_rng(0).normal(size=(entries, rank))
    effects = np.zeros(space.num_blocks)
    column = replace(
        column_of("accuracy", effects),
        pairs=(PairEffects(0, 1, np.zeros((120, 150))),),
        posterior=Posterior(factor, np.zeros(rank), 0.0, 0.0),
    )
    table = BlockTable(space, (0, 0), {"accuracy": column})
    rows = np.array([[119, 149], [7, 100]])
    expected = [
        np.linalg.norm(factor[i] + factor[120 + k] + factor[270 + i * 150 + k])
        for i, k in rows.tolist()
    ]
    np.testing.assert_allclose(table.deviation(rows.astype(dtype), "accuracy"), expected)


# ---- intervals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_an_interval_is_normal_where_the_scale_is_straight(confidence: float) -> None:
    table = table_of()
    rows = table.space.all_networks()
    low, high = table.interval(rows, "accuracy", confidence)
    value, deviation = table.predict(rows, "accuracy"), table.deviation(rows, "accuracy")
    normal = NormalDist()
    np.testing.assert_allclose(
        normal.cdf(float((high - value)[3] / deviation[3])), 0.5 + confidence / 2
    )
    np.testing.assert_allclose(high - value, value - low, rtol=1e-9)
    np.testing.assert_allclose(
        (high - value) / deviation, normal.inv_cdf(0.5 + confidence / 2), rtol=1e-9
    )


def test_an_interval_is_carried_through_the_scale() -> None:
    table = table_of(CURVED, base=0.3, size=0.05)
    rows = table.space.all_networks()
    posterior = table.column("accuracy").posterior
    assert posterior is not None
    low, high = table.interval(rows, "accuracy", 0.9)
    value = table.predict(rows, "accuracy")
    of_effects = posterior.deviations(table.space, rows.astype(np.intp), PAIRS)
    half = NormalDist().inv_cdf(0.95) * np.hypot(of_effects, posterior.noise)
    np.testing.assert_allclose(low, CURVED.inverse(CURVED.forward(value) - half), rtol=1e-9)
    np.testing.assert_allclose(high, CURVED.inverse(CURVED.forward(value) + half), rtol=1e-9)
    assert ((low < value) & (value < high)).all()
    # values crowd below the ceiling: there is more room below
    inside = (low > CURVED.low) & (high < CURVED.high)
    assert inside.any()
    assert (value - low > high - value)[inside].all()
    one_low, one_high = table.interval(rows, "accuracy", 2 * NormalDist().cdf(1.0) - 1)
    np.testing.assert_allclose(
        table.deviation(rows, "accuracy"), (one_high - one_low) / 2, rtol=1e-9
    )


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
def test_intervals_are_finite_ordered_and_nested(size: float) -> None:
    table = table_of(CURVED, base=0.3, size=size)
    rows = table.space.all_networks()
    narrow, wide = (table.interval(rows, "accuracy", c) for c in (0.5, 1 - 1e-12))
    assert np.isfinite([narrow, wide]).all()
    assert (wide[0] < narrow[0]).all()
    assert (narrow[0] < narrow[1]).all()
    assert (narrow[1] < wide[1]).all()


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.1, 90.0, math.nan, math.inf])
def test_a_confidence_is_between_0_and_1(confidence: float) -> None:
    with pytest.raises(InvalidInputError, match="confidence is between 0 and 1"):
        table_of().interval([(0, 0, 0)], "accuracy", confidence)


def test_a_confidence_next_to_1_gives_a_finite_interval() -> None:
    low, high = table_of().interval([(0, 0, 0)], "accuracy", math.nextafter(1.0, 0.0))
    assert np.isfinite([low, high]).all()


def test_a_table_without_a_posterior_has_no_deviations() -> None:
    table = table_of()
    for ask in (table.deviation, table.interval):
        with pytest.raises(InvalidInputError, match="latency_ms were fitted without uncertainty"):
            ask([(0, 0, 0)], "latency_ms")
        with pytest.raises(InvalidInputError, match="no metric 'bleu'"):
            ask([(0, 0, 0)], "bleu")
        with pytest.raises(InvalidInputError):
            ask([(0, 0, 4)], "accuracy")


# ---- one prediction ------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [IDENTITY, CURVED], ids=str)
def test_a_prediction_has_the_posterior_s_deviation(scale: ResponseScale) -> None:
    size, base = (1.0, 70.0) if scale is IDENTITY else (0.05, 0.3)
    table = table_of(scale, base=base, size=size)
    found = table.prediction((2, 1, 3), "accuracy")
    assert found.value == table.exact((2, 1, 3), "accuracy")
    assert found.spread == table.deviation([(2, 1, 3)], "accuracy")[0]
    assert str(found) == f"{found.value:.2f} % (+- {found.spread:.2g})"
    assert found.to_dict() == {"value": found.value, "spread": found.spread, "unit": "%"}
    assert "block spread" not in str(found)


def test_a_prediction_shows_where_its_spread_is_from() -> None:
    metric = metric_named("latency_ms")
    assert str(Prediction(metric, 12.5, 0.25, measured=True)) == "12.5 ms (+- 0.25)"
    assert str(Prediction(metric, 12.5, 0.25)) == "12.5 ms (block spread 0.25)"
    assert str(Prediction(metric, 12.5, None)) == "12.5 ms"
    assert str(Prediction(metric, 12.5, 0.0, measured=True)) == "12.5 ms"


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_saved_table_predicts_the_same(noise: float, tmp_path: Path) -> None:
    table = table_of(CURVED, base=0.3, size=0.05, noise=noise)
    table.save(tmp_path / "table.json")
    again = BlockTable.load(tmp_path / "table.json")
    rows = table.space.all_networks()
    np.testing.assert_array_equal(again.predict(rows, "accuracy"), table.predict(rows, "accuracy"))
    np.testing.assert_allclose(
        again.deviation(rows, "accuracy"), table.deviation(rows, "accuracy"), rtol=1e-5
    )
    (low, high), (new_low, new_high) = (t.interval(rows, "accuracy") for t in (table, again))
    assert np.max(np.abs(new_low - low) / (high - low)) < 1e-5
    assert np.max(np.abs(new_high - high) / (high - low)) < 1e-5
    assert again.column("latency_ms").posterior is None
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "table.json").read_bytes()


def additive_table(sizes: tuple[int, ...], count: int, noise: float, alike: bool) -> BlockTable:
    """A fit of additive measurements; effects may be the same in all nodes."""
    space, rng = space_of(sizes), np.random.default_rng(4)
    networks = np.array(space.sample(count), dtype=np.intp)
    effects = rng.normal(size=space.num_blocks)
    if alike:
        effects = np.concatenate([effects[:size] for size in sizes])
    values = 50 + effects[networks + space.offsets[:-1]].sum(axis=1)
    values = values + noise * rng.normal(size=count)
    metric = metric_named("latency_ms")
    nothing = np.full(count, np.nan)
    data = Measurements(metric, {}, networks, values, nothing, np.ones(count))
    found = regress(space, data, (0,) * space.num_nodes, pairs=False)
    column = BlockEffects(
        metric,
        found.base,
        found.effects,
        found.spread,
        np.ones(space.num_blocks),
        pairs=found.pairs,
        posterior=found.posterior,
    )
    return BlockTable(space, (0,) * space.num_nodes, {"latency_ms": column})


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("sizes", [(4, 3, 4, 3), (5,) * 12, (9,) * 20])
def test_a_saved_regression_deviates_the_same(
    sizes: tuple[int, ...], noise: float, alike: bool
) -> None:
    """Where little noise is left, sums of the factor's rows cancel: digits must be enough."""
    table = additive_table(sizes, 140, noise, alike)
    again = BlockTable.from_dict(json.loads(json.dumps(table.to_dict())))
    rows = np.array(table.space.sample(100, seed=5))
    np.testing.assert_allclose(
        again.deviation(rows, "latency_ms"), table.deviation(rows, "latency_ms"), rtol=1e-5
    )


Damage = Callable[[dict[str, Any]], object]

DAMAGES: dict[str, Damage] = {
    "no factor": lambda r: r.pop("factor"),
    "no centre": lambda r: r.pop("centre"),
    "no constant": lambda r: r.pop("constant"),
    "no noise": lambda r: r.pop("noise"),
    "a row too few": lambda r: r["factor"].pop(),
    "a row too many": lambda r: r["factor"].append(r["factor"][0]),
    "a short row": lambda r: r["factor"][3].pop(),
    "a short centre": lambda r: r["centre"].pop(),
    "a flat factor": lambda r: r.update(factor=r["factor"][0]),
    "a deep factor": lambda r: r.update(factor=[r["factor"]]),
    "an empty factor": lambda r: r.update(factor=[]),
    "an empty factor and centre": lambda r: r.update(factor=[], centre=[]),
    "NaN in the factor": lambda r: r["factor"][2].__setitem__(1, math.nan),
    "null in the factor": lambda r: r["factor"][2].__setitem__(1, None),
    "infinity in the factor": lambda r: r["factor"][2].__setitem__(1, math.inf),
    "a huge integer in the factor": lambda r: r["factor"][2].__setitem__(1, 10**400),
    "a word in the factor": lambda r: r["factor"][2].__setitem__(1, "much"),
    "a list in the factor": lambda r: r["factor"][2].__setitem__(1, [1.0]),
    "an object as factor": lambda r: r.update(factor={"rows": 3}),
    "NaN in the centre": lambda r: r["centre"].__setitem__(0, math.nan),
    "a deep centre": lambda r: r.update(centre=[r["centre"]]),
    "a number as centre": lambda r: r.update(centre=1.0),
    "a negative constant": lambda r: r.update(constant=-1e-9),
    "NaN as constant": lambda r: r.update(constant=math.nan),
    "an infinite constant": lambda r: r.update(constant=math.inf),
    "negative noise": lambda r: r.update(noise=-0.1),
    "NaN as noise": lambda r: r.update(noise=math.nan),
    "infinite noise": lambda r: r.update(noise=math.inf),
    "true as noise": lambda r: r.update(noise=True),
    "a word as noise": lambda r: r.update(noise="0.5"),
    "a huge integer as noise": lambda r: r.update(noise=10**400),
    "negative noise and rank 0": lambda r: r.update(
        factor=[[] for _ in r["factor"]], centre=[], noise=-1.0
    ),
}


def damaged(damage: Damage) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(json.dumps(table_of().to_dict()))
    damage(next(m for m in record["metrics"] if m["name"] == "accuracy")["posterior"])
    return record


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_posterior_is_refused(damage: Damage, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(damaged(damage)))
    with pytest.raises((FileFormatError, InvalidInputError)):
        BlockTable.load(path)


@pytest.mark.parametrize("value", [3, "wide", [1, 2], True])
def test_a_posterior_is_an_object(value: object) -> None:
    record = json.loads(json.dumps(table_of().to_dict()))
    next(m for m in record["metrics"] if m["name"] == "accuracy")["posterior"] = value
    with pytest.raises(FileFormatError, match="posterior"):
        BlockTable.from_dict(record)


def test_numbers_as_words_are_refused() -> None:
    with pytest.raises((FileFormatError, InvalidInputError)):
        BlockTable.from_dict(damaged(lambda r: r["factor"][2].__setitem__(1, "1.5")))


def test_a_posterior_of_rank_0_knows_everything() -> None:
    space = space_of((2, 2))
    posterior = Posterior(np.zeros((4, 0)), np.zeros(0), 0.0, 0.25)
    column = replace(column_of("accuracy", [0, 1, 0, 2]), posterior=posterior)
    table = BlockTable(space, (0, 0), {"accuracy": column})
    again = BlockTable.from_dict(json.loads(json.dumps(table.to_dict())))
    for each in (table, again):
        assert each.deviation(space.all_networks(), "accuracy").tolist() == [0.25] * 4


def test_a_posterior_of_other_pairs_is_refused() -> None:
    table = table_of()
    column = table.column("accuracy")
    for other in (replace(column, pairs=()), replace(column, pairs=column.pairs[:1])):
        with pytest.raises(InvalidInputError, match="posterior of accuracy is about its"):
            BlockTable(table.space, (0, 0, 0), {"accuracy": other})
