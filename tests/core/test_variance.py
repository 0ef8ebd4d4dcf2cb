"""Shares of the variance: against brute force, where the split is known, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from core_cases import (
    column_of,
    effect_arrays,
    networks_of,
    sizes_lists,
    space_of,
    spaces,
    table_of,
    usual,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mathnas as mn
from mathnas.space import Floats

SPACE = space_of((2, 3, 2), macs=range(1, 8))


def values_of(space: mn.SearchSpace, function: Callable[[tuple[int, ...]], float]) -> list[float]:
    return [function(network) for network in networks_of(space)]


def brute_shares(space: mn.SearchSpace, values: Sequence[float]) -> dict[tuple[int, ...], float]:
    """The variance of each part, by the definition: conditional means less the parts inside."""
    networks = networks_of(space)
    parts: dict[tuple[int, ...], list[float]] = {
        (): [math.fsum(values) / len(values)] * len(values)
    }
    for order in range(1, space.num_nodes + 1):
        for nodes in itertools.combinations(range(space.num_nodes), order):
            part = []
            for network in networks:
                same = [
                    value
                    for other, value in zip(networks, values, strict=True)
                    if all(other[node] == network[node] for node in nodes)
                ]
                row = networks.index(network)
                inside = [
                    parts[own][row]
                    for size in range(order)
                    for own in itertools.combinations(nodes, size)
                ]
                part.append(math.fsum(same) / len(same) - math.fsum(inside))
            parts[nodes] = part
    return {
        nodes: math.fsum(value**2 for value in part) / len(part)
        for nodes, part in parts.items()
        if nodes
    }


def total(shares: mn.VarianceShares) -> float:
    return float(shares.main.sum() + shares.pairs.sum() + shares.higher)


# ---- values of all networks ----------------------------------------------------------------------


@st.composite
def tabulated(draw: st.DrawFn) -> tuple[mn.SearchSpace, Floats]:
    space = draw(spaces(most_networks=60, with_rules=False))
    whole = arrays(np.int64, space.num_networks, elements=st.integers(-50, 50))
    size = draw(st.sampled_from([1.0, 1e-150, 1e150]))
    return space, draw(whole) * size


@given(tabulated())
@usual
def test_shares_are_those_of_the_definition(case: tuple[mn.SearchSpace, Floats]) -> None:
    space, values = case
    found = mn.variance_shares(space, values)
    if np.ptp(values) == 0:
        assert found.variance == total(found) == 0
        return
    assert total(found) == pytest.approx(1)
    unit = float(np.abs(values).max())
    parts = brute_shares(space, (values / unit).tolist())
    whole = math.fsum(parts.values())
    assert found.variance / unit**2 == pytest.approx(whole)
    for node in range(space.num_nodes):
        assert found.main[node] == pytest.approx(parts[node,] / whole, abs=1e-12)
    for i, k in itertools.product(range(space.num_nodes), repeat=2):
        wanted = parts[i, k] / whole if i < k else 0.0
        assert found.pairs[i, k] == pytest.approx(wanted, abs=1e-12)
    higher = math.fsum(part for nodes, part in parts.items() if len(nodes) > 2)
    assert found.higher == pytest.approx(higher / whole, abs=1e-12)


@given(st.data())
@usual
def test_a_sum_over_nodes_has_no_interaction(data: st.DataObject) -> None:
    space = space_of(data.draw(sizes_lists()))
    effects = data.draw(effect_arrays(space.sizes))
    table = table_of(space, {"accuracy": effects}, base=70.0)
    found = mn.variance_shares(space, table.predict_all("accuracy"))
    assert found.interaction == pytest.approx(0, abs=1e-9)
    assert found.higher == pytest.approx(0, abs=1e-9)
    if found.variance > 0:
        assert found.additive == pytest.approx(1)


def test_the_split_of_a_product_is_known() -> None:
    """A product of independent factors with means mu and variances v: its parts' variances are
    products of v over the part's nodes and of mu^2 over the others."""
    factors = ([1.0, 2.0], [0.5, 1.0, 3.0], [-1.0, 4.0])
    found = mn.variance_shares(
        SPACE, values_of(SPACE, lambda n: math.prod(f[j] for f, j in zip(factors, n, strict=True)))
    )
    mean = [np.mean(f) ** 2 for f in factors]
    own = [np.var(f) for f in factors]
    whole = math.prod(m + v for m, v in zip(mean, own, strict=True)) - math.prod(mean)
    assert found.variance == pytest.approx(whole)
    assert found.main.tolist() == pytest.approx(
        [
            own[0] * mean[1] * mean[2] / whole,
            mean[0] * own[1] * mean[2] / whole,
            mean[0] * mean[1] * own[2] / whole,
        ]
    )
    assert found.pairs[0, 2] == pytest.approx(own[0] * mean[1] * own[2] / whole)
    assert found.higher == pytest.approx(math.prod(own) / whole)


def test_parity_is_of_the_highest_order_alone() -> None:
    space = space_of((2, 2, 2, 2))
    found = mn.variance_shares(space, values_of(space, lambda n: (-1.0) ** sum(n)))
    assert (found.variance, found.additive, found.interaction) == pytest.approx((1, 0, 0))
    assert found.higher == pytest.approx(1)


def test_the_share_of_all_nodes_is_what_full_sampling_explains() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=SPACE.num_networks)
    networks = SPACE.all_networks()
    design = np.zeros((len(networks), SPACE.num_blocks))
    np.put_along_axis(design, networks + SPACE.offsets[:-1], 1.0, axis=1)
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    explained = 1 - np.var(values - fitted) / np.var(values)
    assert mn.variance_shares(SPACE, values).additive == pytest.approx(explained)


# ---- columns of tables ---------------------------------------------------------------------------


@st.composite
def paired_tables(draw: st.DrawFn) -> mn.BlockTable:
    """Effects, and matrices of some pairs that are not centred and have effects of nodes inside."""
    space = space_of(draw(sizes_lists(200)))
    size = draw(st.sampled_from([1.0, 1e-150, 1e150]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pairs = tuple(
        mn.PairEffects(i, k, size * rng.normal(1, 1, (space.sizes[i], space.sizes[k])))
        for i, k in itertools.combinations(range(space.num_nodes), 2)
        if draw(st.booleans())
    )
    column = column_of("accuracy", size * draw(effect_arrays(space.sizes)))
    first = (0,) * space.num_nodes
    return mn.BlockTable(space, first, {"accuracy": replace(column, pairs=pairs)})


@given(paired_tables())
@usual
def test_a_column_splits_as_all_its_predictions_do(table: mn.BlockTable) -> None:
    own = mn.table_shares(table, "accuracy")
    whole = mn.variance_shares(table.space, table.predict_all("accuracy"))
    assert own.nodes == whole.nodes
    assert own.higher == 0
    assert own.variance == pytest.approx(whole.variance, rel=1e-9)
    # of columns that do not vary, predictions do by rounding
    if own.variance > 0:
        assert total(own) == pytest.approx(1)
        assert own.main == pytest.approx(whole.main, abs=1e-9)
        assert own.pairs == pytest.approx(whole.pairs, abs=1e-9)
        assert whole.higher == pytest.approx(0, abs=1e-9)


def test_a_column_is_split_on_its_response_scale() -> None:
    plain = table_of(SPACE, {"accuracy": [0.0, 3.0, 0.0, 1.0, 2.0, 0.0, 4.0]}, base=60.0)
    column = plain.column("accuracy")
    scale = mn.PowerScale(100, 2, 50, 80)
    curved = replace(column, metric=replace(column.metric, scale=scale))
    table = mn.BlockTable(SPACE, plain.reference, {"accuracy": curved})
    found = mn.table_shares(table, "accuracy")
    assert found.additive == pytest.approx(1)
    assert found.main == pytest.approx(mn.table_shares(plain, "accuracy").main)


def test_a_space_too_large_to_list_is_split_too() -> None:
    space = space_of((5,) * 40)
    table = table_of(space, {"accuracy": np.tile([0.0, 1, 2, 3, 4], 40)})
    found = mn.table_shares(table, "accuracy")
    assert found.variance == pytest.approx(40 * 2)
    assert found.main == pytest.approx(np.full(40, 1 / 40))


# ---- refused -------------------------------------------------------------------------------------

RULED = space_of((2, 2), rules=[mn.DepthRule((0, 1), (0, 0))])


@pytest.mark.parametrize(
    ("space", "values", "message"),
    [
        (SPACE, [1.0] * 11, r"one value for each of the 12 networks .* shape \(11,\)"),
        (SPACE, [[1.0] * 12], r"one value for each .* shape \(1, 12\)"),
        (SPACE, [1.0] * 4 + [math.nan] + [1.0] * 7, "finite values, but that of network number 4"),
        (SPACE, [math.inf] + [1.0] * 11, "network number 0 is inf"),
        (RULED, [1.0, 2.0, 3.0], "chosen independently of one another, .* has 1 depth rules"),
    ],
)
def test_what_has_no_split_is_refused(
    space: mn.SearchSpace, values: Sequence[float], message: str
) -> None:
    with pytest.raises(mn.InvalidInputError, match=message):
        mn.variance_shares(space, values)


def test_a_column_that_does_not_add_up_is_refused() -> None:
    first = (0, 0, 0)
    column = column_of("accuracy", np.arange(7.0), form=mn.Form.SPACE_MEAN)
    table = mn.BlockTable(SPACE, first, {"accuracy": column})
    with pytest.raises(mn.InvalidInputError, match="inverse-macs-space-mean: fit it"):
        mn.table_shares(table, "accuracy")
    with pytest.raises(mn.InvalidInputError, match="no metric 'speed'"):
        mn.table_shares(table, "speed")
    ruled = mn.BlockTable(RULED, (0, 0), {"accuracy": column_of("accuracy", np.arange(4.0))})
    with pytest.raises(mn.InvalidInputError, match="depth rules"):
        mn.table_shares(ruled, "accuracy")


# ---- shown ---------------------------------------------------------------------------------------


def test_shares_are_shown_ranked() -> None:
    found = mn.variance_shares(SPACE, values_of(SPACE, lambda n: n[0] + 4 * n[2] + n[0] * n[1]))
    assert [name for name, _ in found.ranked_nodes()] == ["n2", "n0", "n1"]
    assert found.ranked_pairs()[0][:2] == ("n0", "n1")
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == [
        *("variance", "nodes", "n2", "n0", "n1", "pairs", "n0", "three")
    ]
    record = json.loads(json.dumps(found.to_dict()))
    assert record["nodes"]["n2"] == found.main[2]
    assert record["pairs"][0] == {"first": "n0", "second": "n1", "share": found.pairs[0, 1]}
    assert len(record["pairs"]) == 3


def test_only_the_largest_pairs_are_shown() -> None:
    space = space_of((2,) * 6)
    rng = np.random.default_rng(1)
    text = str(mn.variance_shares(space, rng.normal(size=64)))
    assert text.count(" with ") == 10
    assert any(line.split()[1:2] == ["more"] for line in text.splitlines())
