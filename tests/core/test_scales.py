"""Response scales: increasing, finite, invertible everywhere, kept in files, right in searches."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from core_cases import BruteForce, column_of, networks_of, space_of, spaces, thorough, usual
from hypothesis import given
from hypothesis import strategies as st

from mathnas import (
    Answer,
    BlockTable,
    ExponentialScale,
    IdentityScale,
    Infeasible,
    InvalidInputError,
    LogitScale,
    LogScale,
    PowerScale,
    ResponseScale,
    SearchSpace,
    explain,
    pareto_front,
    scales_for,
    search,
)
from mathnas.metrics import IDENTITY, Floats
from mathnas.scales import EXPONENTS, scale_from_dict
from mathnas.search import Limit, kernel_is_available

SOLVERS = ["enumeration", "numpy", *(["kernel"] if kernel_is_available() else [])]
FAR = 1e12

EXAMPLES: dict[str, ResponseScale] = {
    "y": IDENTITY,
    "log y": LogScale(0.5, 20),
    "log(y / (100 - y))": LogitScale(0, 100, 5, 97),
    "log((y + 2.5) / (3 - y))": LogitScale(-2.5, 3, -2, 2.75),
    "(105 - y)^-2": PowerScale(105, 2, 60, 80),
    "(100 - y)^-0.5": PowerScale(100, 0.5, 10, 99),
    "-(y - 0.3)^-6": PowerScale(0.3, 6, 0.5, 2, above=True),
    "-y^-1": PowerScale(0, 1, 0.5, 2, above=True),
    "-(y + 4)^-3": PowerScale(-4, 3, -2, 2, above=True),
    "exp(y / 12)": ExponentialScale(12, 40, 95),
    "-exp(-y / 0.25)": ExponentialScale(0.25, 0.5, 2.5, above=True),
}


def interval_of(scale: ResponseScale) -> tuple[float, float]:
    return (getattr(scale, "low", 0.0), getattr(scale, "high", 1.0))


@st.composite
def curved(draw: st.DrawFn) -> ResponseScale:
    """Any scale over any interval, curved up to where slopes differ by 1e9."""
    width = draw(st.sampled_from([1e-3, 0.7, 30.0, 1e5]))
    low = draw(st.floats(-3, 3)) * width
    high = low + width
    kind = draw(st.sampled_from(["log", "logit", "power", "exponential"]))
    above = draw(st.booleans())
    far = draw(st.floats(0.04, 5)) * width
    if kind == "log":
        return LogScale(far, far + width)
    if kind == "logit":
        return LogitScale(low - far, high + draw(st.floats(0.01, 5)) * width, low, high)
    if kind == "power":
        exponent = draw(st.floats(0.5, 6))
        return PowerScale(low - far if above else high + far, exponent, low, high, above)
    return ExponentialScale(draw(st.floats(0.07, 10)) * width, low, high, above)


scales = st.one_of(st.sampled_from(list(EXAMPLES.values())), curved())


@st.composite
def values_for(draw: st.DrawFn, scale: ResponseScale) -> Floats:
    """Values inside the interval, near it, at its joints, at poles of formulas and far away."""
    low, high = interval_of(scale)
    width = high - low
    fixed = [low, high, 0.0, 100.0, -1.0, FAR, -FAR]
    fixed += [getattr(scale, name, 0.0) for name in ("limit", "floor", "ceiling")]
    near = st.floats(-2, 3).map(lambda share: low + share * width)
    any_size = st.floats(-FAR, FAR)
    chosen = st.one_of(st.sampled_from(fixed), near, near, any_size)
    return np.array(draw(st.lists(chosen, min_size=2, max_size=20)))


def rounding(scale: ResponseScale, values: Floats) -> Floats:
    """What the rounding of a response, and of `values`, is worth in values.

    A mirrored map rounds to the digits of 1 at its flat end, and tangents multiply what is lost.
    """
    low, high = interval_of(scale)
    responses = np.abs(scale.forward(values)) + 1
    slope = np.minimum(scale.derivative(values), scale.derivative(np.array([low, high])).min())
    return np.asarray(1e-15 * (responses / slope + np.abs(values) + abs(low) + abs(high)))


# ---- the map -------------------------------------------------------------------------------------


@thorough
@given(st.data())
def test_scales_increase_and_are_finite_everywhere(data: st.DataObject) -> None:
    scale = data.draw(scales)
    values = np.sort(data.draw(values_for(scale)))
    responses = scale.forward(values)
    assert np.isfinite(responses).all()
    assert np.isfinite(scale.derivative(values)).all()
    assert (scale.derivative(values) > 0).all()
    steps, rounded = np.diff(responses), 1e-15 * (1 + np.abs(responses[1:]))
    assert (steps >= -rounded).all()
    apart = np.diff(values) * np.minimum(*_slopes(scale, values)) > 1e3 * rounded
    assert (steps[apart] > 0).all()


def _slopes(scale: ResponseScale, values: Floats) -> tuple[Floats, Floats]:
    slopes = scale.derivative(values)
    return slopes[:-1], slopes[1:]


@thorough
@given(st.data())
def test_forward_and_inverse_undo_each_other_everywhere(data: st.DataObject) -> None:
    scale = data.draw(scales)
    values = data.draw(values_for(scale))
    there_and_back = scale.inverse(scale.forward(values))
    assert (np.abs(there_and_back - values) <= 8 * rounding(scale, values)).all()


@thorough
@given(st.data())
def test_any_response_has_a_value(data: st.DataObject) -> None:
    """Fitted responses may lie anywhere: below 0, above 1, where the formula has no value."""
    scale = data.draw(scales)
    some = st.one_of(st.floats(-2, 3), st.sampled_from([0.0, 1.0]), st.floats(-FAR, FAR))
    responses = np.sort(np.array(data.draw(st.lists(some, min_size=2, max_size=20))))
    values = scale.inverse(responses)
    assert np.isfinite(values).all()
    assert (np.diff(values) >= -rounding(scale, values)[1:]).all()
    slope = scale.derivative(values)
    # what rounding a value is worth in responses
    near = 1e-14 * (1 + np.abs(responses)) + 4 * slope * np.spacing(np.abs(values))
    low, high = interval_of(scale)
    near += 4 * slope * np.spacing(max(abs(low), abs(high)))
    assert (np.abs(scale.forward(values) - responses) <= 8 * near).all()


@thorough
@given(scales, st.floats(-0.5, 1.5))
def test_derivatives_are_those_of_differences(scale: ResponseScale, share: float) -> None:
    low, high = interval_of(scale)
    value, step = low + share * (high - low), 1e-6 * (high - low)
    responses = scale.forward(np.array([value - step, value + step]))
    slopes = scale.derivative(np.array([value - step, value, value + step]))
    slope = float(responses[1] - responses[0]) / (2 * step)
    rounded = 1e-15 * (1 + abs(low) / (high - low)) / step * max(1.0, float(slopes[1]) * step)
    rounded += 8 * float(slopes[1]) * math.ulp(max(abs(low), abs(high))) / step
    assert slopes.min() - rounded <= slope * (1 + 1e-6)
    assert slope * (1 - 1e-6) <= slopes.max() + rounded


@usual
@given(curved())
def test_tangents_continue_the_formula_without_a_kink(scale: ResponseScale) -> None:
    low, high = interval_of(scale)
    nothing = 1e-9 * (high - low)
    ends = np.array([low, high])
    np.testing.assert_allclose(scale.forward(ends), [0, 1], atol=1e-15)
    np.testing.assert_allclose(scale.inverse(np.array([0.0, 1.0])), ends, rtol=1e-14, atol=nothing)
    for end in ends:
        before, at, after = scale.derivative(np.array([end - nothing, end, end + nothing]))
        assert before == pytest.approx(at, rel=1e-5)
        assert after == pytest.approx(at, rel=1e-5)
    outside = np.array([low - 5 * (high - low), high + 5 * (high - low)])
    np.testing.assert_array_equal(scale.derivative(outside), scale.derivative(ends))


@pytest.mark.parametrize(
    ("scale", "formula"),
    [
        (LogScale(0.5, 20), np.log),
        (LogitScale(0, 100, 5, 97), lambda y: np.log(y / (100 - y))),
        (PowerScale(105, 2, 60, 80), lambda y: (105 - y) ** -2.0),
        (PowerScale(0.3, 0.5, 0.5, 2, above=True), lambda y: -((y - 0.3) ** -0.5)),
        (ExponentialScale(12, 40, 95), lambda y: np.exp(y / 12)),
        (ExponentialScale(0.25, 0.5, 2.5, above=True), lambda y: -np.exp(-y / 0.25)),
    ],
    ids=["log", "logit", "power", "mirrored power", "exponential", "mirrored exponential"],
)
def test_inside_the_interval_the_formula_holds_up_to_shift_and_unit(scale, formula) -> None:  # type: ignore[no-untyped-def]
    values = np.linspace(scale.low, scale.high, 101)
    raw = formula(values)
    expected = (raw - raw[0]) / (raw[-1] - raw[0])
    np.testing.assert_allclose(scale.forward(values), expected, rtol=1e-12, atol=1e-13)


def test_a_mirrored_scale_is_the_mirror_image() -> None:
    values = np.linspace(-3, 3, 50)
    for one, other in (
        (PowerScale(3, 2, -1, 2), PowerScale(-3, 2, -2, 1, above=True)),
        (ExponentialScale(0.5, -1, 2), ExponentialScale(0.5, -2, 1, above=True)),
    ):
        np.testing.assert_allclose(other.forward(-values), 1 - one.forward(values), atol=1e-14)


def test_powers_tend_to_the_exponential() -> None:
    # both are as curved in the middle: (q + 1) / distance and 1 / width
    values = np.linspace(-1, 1, 20)
    power, exponential = PowerScale(600, 6, -1, 1), ExponentialScale(600 / 7, -1, 1)
    np.testing.assert_allclose(power.forward(values), exponential.forward(values), atol=1e-5)


def test_arrays_keep_their_shape_and_the_identity_its_values() -> None:
    values = np.arange(6.0).reshape(2, 3)
    for scale in EXAMPLES.values():
        assert scale.forward(values).shape == (2, 3)
        assert scale.inverse(values).shape == (2, 3)
        assert scale.derivative(values).shape == (2, 3)
    assert IDENTITY.forward(values) is values
    assert (IDENTITY.derivative(values) == 1).all()


def test_scales_are_values() -> None:
    for text, scale in EXAMPLES.items():
        assert str(scale) == text
        assert len({scale, scale_from_dict(scale.to_dict())}) == 1
        assert not hasattr(scale, "__dict__")
    with pytest.raises(FrozenInstanceError):
        EXAMPLES["log y"].low = 1  # type: ignore[attr-defined]
    assert LogScale(1, 2) == LogScale(np.float64(1.0), 2.0)
    assert IdentityScale() == IDENTITY


# ---- checks and files ----------------------------------------------------------------------------


@usual
@given(scales)
def test_a_record_brings_back_the_scale(scale: ResponseScale) -> None:
    text = json.dumps(scale.to_dict(), allow_nan=False)
    again = scale_from_dict(json.loads(text))
    assert again == scale
    assert type(again) is type(scale)
    values = np.linspace(-3, 120, 77)
    np.testing.assert_array_equal(again.inverse(values), scale.inverse(values))


def test_the_identity_is_a_text_in_files() -> None:
    assert IDENTITY.to_dict() == "identity"
    assert scale_from_dict("identity") is IDENTITY
    assert scale_from_dict({"kind": "identity"}) is IDENTITY


POWER = PowerScale(105, 2, 60, 80).to_dict()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("log", "whose kind is one of log, logit, power, exponential, but got 'log'"),
        (None, "but got None"),
        ([1], r"but got \[1\]"),
        ({}, "whose kind is one of"),
        ({"kind": "cubic"}, "but got {'kind': 'cubic'}"),
        ({"kind": ["power"]}, "whose kind is one of"),
        ({"kind": "identity", "low": 1}, "has the fields kind alone, but 'low' is unknown"),
        ({"kind": "log", "low": 1}, "has the fields low, high, but 'high' is missing"),
        ({**POWER, "center": 3}, "'center' is unknown"),
        ({**POWER, "limit": "105"}, "power.limit of a response scale is a finite number, but"),
        ({**POWER, "limit": True}, "is a finite number, but got True"),
        ({**POWER, "limit": math.nan}, "is a finite number, but got nan"),
        ({**POWER, "low": -math.inf}, "power.low of a response scale is a finite number"),
        ({**POWER, "high": 10**400}, "power.high of a response scale is a finite number"),
        ({**POWER, "above": 1}, "power.above of a response scale is true or false, but got 1"),
        ({**POWER, "exponent": 0.4}, r"lies in \[0.5, 6\], but got 0.4: take a log scale"),
        ({**POWER, "exponent": 7}, r"lies in \[0.5, 6\], but got 7"),
        ({**POWER, "low": 80}, "has low < high, but got low=80, high=80"),
        ({**POWER, "limit": 80}, "lies above its interval from 60 to 80, but got 80: move it"),
        ({**POWER, "above": True}, "lies below its interval from 60 to 80, but got 105"),
        ({**POWER, "limit": 80 + 1e-6}, "differ by a factor of less than 1e.12"),
        ({"kind": "log", "low": 0, "high": 1}, "is for positive values, but its interval starts"),
        (
            {"kind": "logit", "floor": 0, "ceiling": 1, "low": 0, "high": 0.5},
            "has floor < low < high < ceiling, but got 0, 0, 0.5, 1: widen the bounds",
        ),
        ({"kind": "exponential", "width": 0, "low": 0, "high": 1}, "is positive, but got 0"),
        ({"kind": "exponential", "width": 0.001, "low": 0, "high": 1}, "narrow the interval"),
        ({"kind": "exponential", "width": 1, "low": -1e308, "high": 1e308}, "slopes of a scale"),
        ({"kind": "log", "low": 1e-310, "high": 2e-310}, "slopes of a scale are finite"),
    ],
)
def test_what_makes_no_scale_is_refused(record: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        scale_from_dict(record)


# ---- candidates ----------------------------------------------------------------------------------


def test_candidates_come_from_the_data_alone() -> None:
    percent = scales_for([55.0, 61.0, 70.0, 73.0])
    assert percent[0] is IDENTITY
    assert [str(s) for s in percent[1:4]] == [
        "log y",
        "log((y - 52.3) / (75.7 - y))",
        "log(y / (100 - y))",
    ]
    powers = [s for s in percent if isinstance(s, PowerScale)]
    assert {s.exponent for s in powers} == set(EXPONENTS)
    limits = sorted({round(s.limit, 6) for s in powers})
    assert limits == [73.9, 75.7, 80.2, 91, 100, 127]
    assert not any(s.above for s in powers)
    widths = [s.width for s in percent if isinstance(s, ExponentialScale)]
    assert widths == pytest.approx([1.8, 3.6, 9, 18])


def test_values_that_crowd_above_a_floor_get_the_mirror_images() -> None:
    losses = [0.5, 0.55, 0.7, 1.5]
    above = scales_for(losses, crowds="above")
    powers = [s for s in above if isinstance(s, PowerScale)]
    limits = sorted({round(s.limit, 6) for s in powers})
    assert limits == [-2.5, -0.5, 0, 0.1, 0.35, 0.45]
    assert all(s.above for s in above if isinstance(s, (PowerScale, ExponentialScale)))
    assert set(scales_for(losses, crowds="both")) == {*scales_for(losses), *above}


def test_the_logarithm_needs_positive_values_that_differ() -> None:
    def has_log(values: list[float]) -> bool:
        return any(isinstance(scale, LogScale) for scale in scales_for(values))

    assert has_log([1.0, 1.3])
    assert not has_log([1.0, 1.1])
    assert not has_log([0.0, 1.3])
    assert not has_log([-1.0, 1.3])


@pytest.mark.parametrize(
    "values", [[3.0], [0.0, 0.0], [70.0, 70.0, 70.0], [1e9, 1e9 + 1e-3], [-1e308, 1e308]]
)
def test_values_that_hardly_differ_have_the_identity_alone(values: list[float]) -> None:
    assert scales_for(values, crowds="both") == (IDENTITY,)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_candidates_need_finite_values(values: list[float]) -> None:
    with pytest.raises(InvalidInputError, match="one or more finite values"):
        scales_for(values)


def test_an_unknown_side_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'above', 'below' or 'both', but got 'left'"):
        scales_for([1.0, 2.0], crowds="left")  # type: ignore[arg-type]


@usual
@given(
    st.lists(
        st.one_of(st.floats(1, 99.9), st.floats(-1e6, 1e6), st.floats(allow_nan=False)),
        min_size=1,
        max_size=8,
    ).filter(lambda values: bool(np.isfinite(values).all()))
)
def test_candidates_fit_any_data(values: list[float]) -> None:
    data = np.array(values)
    found = scales_for(data, crowds="both")
    assert len(set(found)) == len(found)
    for scale in found[1:]:
        low, high = interval_of(scale)
        assert low < data.min()
        assert data.max() < high
        assert scale_from_dict(json.loads(json.dumps(scale.to_dict()))) == scale
        responses = scale.forward(data)
        assert ((responses >= 0) & (responses <= 1)).all()
        assert np.isfinite(np.log(scale.derivative(data))).all()


# ---- tables and searches -------------------------------------------------------------------------


def scaled_table(
    space: SearchSpace, seed: int, accuracy: ResponseScale, latency: ResponseScale
) -> BlockTable:
    """A table whose responses lie mostly, not wholly, in the scales' intervals."""
    rng = np.random.default_rng(seed)
    digits = int(rng.integers(1, 4))  # few digits make ties
    columns = {}
    for name, scale in (("accuracy", accuracy), ("latency_ms", latency)):
        effects = np.round(rng.normal(0, 0.3, space.num_blocks), digits)
        column = column_of(name, effects, base=0.5)
        columns[name] = replace(column, metric=replace(column.metric, scale=scale))
    return BlockTable(space, networks_of(space)[0], columns)


@st.composite
def scaled_tables(draw: st.DrawFn) -> BlockTable:
    space = draw(spaces(most_networks=120))
    seed = draw(st.integers(0, 2**32 - 1))
    own = st.sampled_from(list(EXAMPLES.values()))
    return scaled_table(space, seed, draw(own), draw(own))


@usual
@given(scaled_tables())
def test_a_saved_table_predicts_the_same_to_the_last_bit(table: BlockTable) -> None:
    again = BlockTable.from_dict(json.loads(json.dumps(table.to_dict(), allow_nan=False)))
    assert again.metrics == table.metrics
    for name in table.columns:
        np.testing.assert_array_equal(again.predict_all(name), table.predict_all(name))


def test_a_scaled_table_goes_through_a_file(tmp_path: Path) -> None:
    table = scaled_table(space_of([3, 3]), 1, EXAMPLES["(105 - y)^-2"], EXAMPLES["log y"])
    table.save(tmp_path / "table.json")
    again = BlockTable.load(tmp_path / "table.json")
    assert again.to_dict() == table.to_dict()
    assert str(again.metrics["accuracy"].scale) == "(105 - y)^-2"
    for name in table.columns:
        np.testing.assert_array_equal(again.predict_all(name), table.predict_all(name))
        one = [table.exact(network, name) for network in networks_of(table.space)]
        np.testing.assert_allclose(again.predict_all(name), one, rtol=1e-12)


def responses_of(table: BlockTable, networks: list[tuple[int, ...]], name: str) -> Floats:
    return np.array([table.response(network, name) for network in networks])


def check_search(table: BlockTable, limits: list[Limit], maximize: bool, solver: str) -> None:
    """An answer is the brute force's best on the scale of effects, and meets limits exactly."""
    brute = BruteForce(table)
    networks = [
        network for network, met in zip(brute.networks, brute.feasible(limits), strict=True) if met
    ]
    goal = {"maximize": "accuracy"} if maximize else {"minimize": "accuracy"}
    answer = search(table, limits=limits, solver=solver, **goal)  # type: ignore[arg-type]
    if not networks:
        assert isinstance(answer, Infeasible)
        return
    assert isinstance(answer, Answer), f"{answer} where {networks[0]} is feasible"
    assert answer.network in networks
    for use in answer.limits:
        assert use.limit.holds(use.used)
    everything = responses_of(table, brute.networks, "accuracy")
    responses = responses_of(table, networks, "accuracy")
    best = responses.max() if maximize else responses.min()
    found = table.response(answer.network, "accuracy")
    assert found == pytest.approx(best, rel=0, abs=1e-9 * float(np.ptp(everything)) + 1e-14)
    assert answer.value == table.exact(answer.network, "accuracy")


@pytest.mark.parametrize("solver", SOLVERS)
def test_searches_on_scales_are_those_of_a_brute_force(solver: str) -> None:
    @usual
    @given(scaled_tables(), st.booleans(), st.data())
    def check(table: BlockTable, maximize: bool, data: st.DataObject) -> None:
        brute = BruteForce(table)
        limits = []
        for name in data.draw(st.sampled_from([["latency_ms"], ["latency_ms", "accuracy"]])):
            values = np.unique(brute.values[name])
            at = float(data.draw(st.sampled_from(values.tolist())))
            beyond = st.sampled_from([at, at, math.nextafter(at, -math.inf), at + 1e-3, -1.0, FAR])
            sense = "<=" if name == "latency_ms" else ">="
            limits.append(Limit(table.metrics[name], sense, data.draw(beyond)))  # type: ignore[arg-type]
        check_search(table, limits, maximize, solver)

    check()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("text", EXAMPLES)
def test_a_limit_at_a_networks_value_is_met_by_that_network(text: str, solver: str) -> None:
    scale = EXAMPLES[text]
    table = scaled_table(space_of([3, 4, 3, 3]), len(text), EXAMPLES["(105 - y)^-2"], scale)
    metric = table.metrics["latency_ms"]
    networks = networks_of(table.space)
    values = np.array([table.exact(network, "latency_ms") for network in networks])
    for value in np.unique(values)[:: max(1, len(values) // 6)].tolist():
        check_search(table, [Limit(metric, "<=", value)], True, solver)
        check_search(table, [Limit(metric, ">=", value)], True, solver)
        # both at once leave the networks with exactly this value
        both = [Limit(metric, "<=", value), Limit(metric, ">=", value)]
        check_search(table, both, True, solver)


def test_fronts_and_prices_are_in_values() -> None:
    table = scaled_table(
        space_of([3, 3, 3]), 5, EXAMPLES["(105 - y)^-2"], EXAMPLES["-exp(-y / 0.25)"]
    )
    brute = BruteForce(table)
    accuracy, latency = brute.values["accuracy"], brute.values["latency_ms"]
    front = {
        (float(x), float(y))
        for x, y in zip(latency, accuracy, strict=True)
        if not ((latency <= x) & (accuracy >= y) & ((latency < x) | (accuracy > y))).any()
    }
    found = pareto_front(table, x="latency_ms", y="accuracy")
    assert not isinstance(found, Infeasible)
    assert {(point.x, point.y) for point in found.points} == front
    limit = float(np.median(latency))
    told = explain(table, maximize="accuracy", limits={"latency_ms": limit})
    assert not isinstance(told, Infeasible)
    assert told.answer.value == accuracy[latency <= limit].max()


@pytest.mark.parametrize("solver", SOLVERS)
def test_limits_at_values_that_differ_in_their_last_digits_are_met(solver: str) -> None:
    """Values around 70 that differ by 1e-6: rounding such a value moves its response by 1e-8."""
    narrow = scales_for(70 + 1e-6 * np.random.default_rng(0).random(20), crowds="both")
    for seed, scale in enumerate(narrow[2::9]):
        table = scaled_table(space_of([3, 4, 3]), seed, IDENTITY, scale)
        metric = table.metrics["latency_ms"]
        for network in networks_of(table.space)[::7]:
            value = table.exact(network, "latency_ms")
            both = [Limit(metric, "<=", value), Limit(metric, ">=", value)]
            check_search(table, both, True, solver)
