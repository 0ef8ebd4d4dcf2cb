"""The Gaussian process on features against dense matrices, and what `fit_features` chooses.

The reference is written out below from the model's definition: generalised least squares for the
constant, the amplitude at its most likely, and nothing solved cleverly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from core_cases import Floats, usual
from hypothesis import given, settings
from hypothesis import strategies as st

from mathnas import FeatureRegression, InvalidInputError, MathNASError, fit_features, metric_named
from mathnas import gaussian_process as module
from mathnas._records import Record
from mathnas.errors import FileFormatError
from mathnas.gaussian_process import GaussianProcess, Kernel, fit_process
from mathnas.metrics import IDENTITY
from mathnas.responses import NOISE_PRIOR, NOISES, Response, responses_of
from mathnas.scales import PowerScale

few = settings(usual, max_examples=40)

# ---- the same model, dense -----------------------------------------------------------------------


@dataclass(frozen=True)
class Dense:
    """A process by the book; `points` are standardised features."""

    points: Floats
    responses: Floats
    kernel: Kernel
    noise_share: float
    weights: Floats

    def covariance(self, one: Floats, other: Floats) -> Floats:
        found = np.empty((len(one), len(other)))
        width, kernel = one.shape[1], self.kernel
        for i, x in enumerate(one):
            for k, z in enumerate(other):
                far = sum((a - b) ** 2 for a, b in zip(x, z, strict=True))
                curved = 1 + far / (2 * kernel.mixture * kernel.length**2 * width)
                inner = sum(a * b for a, b in zip(x, z, strict=True))
                found[i, k] = curved**-kernel.mixture + kernel.linear / width * inner
        return found

    @property
    def measured(self) -> Floats:
        """Covariance of the measurements, noise included."""
        own = self.covariance(self.points, self.points)
        return np.asarray(own + np.diag(self.noise_share * self.weights**2))

    @property
    def constant(self) -> float:
        inverse = np.linalg.inv(self.measured)
        return float(inverse.sum(axis=0) @ self.responses / inverse.sum())

    @property
    def amplitude(self) -> float:
        rest = self.responses - self.constant
        return math.sqrt(rest @ np.linalg.inv(self.measured) @ rest / (len(rest) - 1))

    def mean(self, points: Floats) -> Floats:
        cross = self.covariance(points, self.points)
        rest = np.linalg.solve(self.measured, self.responses - self.constant)
        return np.asarray(self.constant + cross @ rest)

    def posterior(self, points: Floats) -> Floats:
        """Covariance of responses, without the noise of new measurements."""
        inverse = np.linalg.inv(self.measured)
        cross = self.covariance(points, self.points)
        missing = 1 - cross @ inverse.sum(axis=0)
        known = cross @ inverse @ cross.T
        open_ = np.outer(missing, missing) / inverse.sum()
        return np.asarray(self.amplitude**2 * (self.covariance(points, points) - known + open_))

    def without(self, row: int) -> Dense:
        return replace(
            self,
            points=np.delete(self.points, row, axis=0),
            responses=np.delete(self.responses, row),
            weights=np.delete(self.weights, row),
        )

    def evidence(self) -> float:
        """Log marginal likelihood with a flat prior on the constant and the amplitude at its
        maximum, without what depends on the number of networks alone."""
        own = len(self.responses) - 1
        spread = float(np.linalg.slogdet(self.measured)[1])
        flat = math.log(float(np.linalg.inv(self.measured).sum()))
        return -0.5 * (2 * own * math.log(self.amplitude) + spread + flat)


@dataclass(frozen=True)
class Case:
    process: GaussianProcess
    others: Floats

    @property
    def dense(self) -> Dense:
        own = self.process
        return Dense(
            self.standard(own.features), own.responses, own.kernel, own.noise_share, own.weights
        )

    def standard(self, features: Floats) -> Floats:
        known = self.process.features
        spread = known.std(axis=0)
        spread[spread == 0] = 1.0
        return np.asarray((features - known.mean(axis=0)) / spread)


@st.composite
def random_cases(draw: st.DrawFn) -> Case:
    """Of all kinds: few and many features, constant ones, equal networks, weights, linear parts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, width = draw(st.integers(3, 14)), draw(st.integers(1, 5))
    features = rng.normal(size=(count + 6, width)) * 10.0 ** rng.integers(-2, 3, width)
    if draw(st.booleans()):
        features[:, 0] = 7.0
    if draw(st.booleans()):
        features[1] = features[0]
    weights = rng.lognormal(size=count) if draw(st.booleans()) else np.ones(count)
    return Case(
        GaussianProcess(
            features[:count],
            50 + 3 * rng.normal(size=count),
            Kernel(
                draw(st.sampled_from([0.5, 1.4, 8.0])),
                draw(st.sampled_from([0.25, 1.0, 1000.0])),
                draw(st.sampled_from([0.0, 0.1, 10.0])),
            ),
            draw(st.sampled_from([1e-3, 0.05, 2.0])),
            weights,
        ),
        features[count - 2 :],
    )


@given(case=random_cases())
@few
def test_mean_deviation_and_noise_are_those_of_dense_matrices(case: Case) -> None:
    process, dense, points = case.process, case.dense, case.standard(case.others)
    near = 1e-7 * float(np.ptp(process.responses))
    np.testing.assert_allclose(process.predict(case.others), dense.mean(points), atol=near)
    expected = np.sqrt(np.maximum(np.diag(dense.posterior(points)), 0))
    np.testing.assert_allclose(process.deviations(case.others), expected, rtol=1e-5, atol=near)
    assert process.noise == pytest.approx(dense.amplitude * math.sqrt(process.noise_share))


@given(case=random_cases())
@few
def test_values_left_out_are_those_of_processes_without_them(case: Case) -> None:
    dense, count = case.dense, len(case.process.responses)
    expected = [dense.without(row).mean(dense.points[[row]])[0] for row in range(count)]
    near = 1e-7 * float(np.ptp(case.process.responses))
    np.testing.assert_allclose(case.process.left_out, expected, rtol=1e-6, atol=near)


@given(case=random_cases())
@few
def test_a_record_brings_the_process_back(case: Case) -> None:
    text = json.dumps(case.process.to_dict(), allow_nan=False)
    restored = GaussianProcess.from_record(Record(json.loads(text), "process"))
    assert restored.predict(case.others).tolist() == case.process.predict(case.others).tolist()
    assert (
        restored.deviations(case.others).tolist() == case.process.deviations(case.others).tolist()
    )
    assert restored.noise_at is None


def a_process(noise_at: float | None = None) -> GaussianProcess:
    rng = np.random.default_rng(5)
    return GaussianProcess(
        rng.normal(size=(12, 3)),
        rng.normal(size=12),
        Kernel(1.0, 1.0, 0.1),
        0.01,
        np.ones(12),
        noise_at,
    )


def test_joint_samples_have_the_posterior_s_mean_and_covariance() -> None:
    process = a_process()
    others = np.random.default_rng(6).normal(size=(5, 3))
    case = Case(process, others)
    draws = process.sample(others, 40_000, np.random.default_rng(0))
    assert draws.shape == (40_000, 5)
    expected = case.dense.posterior(case.standard(others))
    near = 5 * float(expected.max()) / math.sqrt(40_000)
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=2 * near)
    means = draws.mean(axis=0)
    np.testing.assert_allclose(
        means, process.predict(others), atol=5 * math.sqrt(expected.max()) / 200
    )


def test_more_networks_than_a_chunk_are_predicted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    process, others = a_process(), np.random.default_rng(2).normal(size=(50, 3))
    whole = process.predict(others), process.deviations(others)
    monkeypatch.setattr(module, "_CHUNK", 7)
    np.testing.assert_allclose(process.predict(others), whole[0], rtol=1e-12)
    np.testing.assert_allclose(process.deviations(others), whole[1], rtol=1e-10)


def test_noise_in_proportion_to_the_value() -> None:
    process = a_process(noise_at=4.0)
    np.testing.assert_allclose(
        process.noises(np.array([2.0, -8.0])), [process.noise / 2, 2 * process.noise]
    )
    restored = GaussianProcess.from_record(Record(process.to_dict(), "process"))
    assert restored.noise_at == 4.0
    assert a_process().noises(np.array([1.0, 9.0])).tolist() == [a_process().noise] * 2


# ---- evidence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "latency_ms"])
def test_evidence_is_the_dense_marginal_likelihood(metric: str) -> None:
    """Of every kernel, noise and scale, up to one constant for all of them."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(15, 2))
    values = 60 + 5 * np.sin(features).sum(axis=1) + rng.normal(size=15)
    responses = responses_of(values, metric_named(metric), None)
    assert len(responses) > 1
    differences = []
    for kernel in (Kernel(0.7, 0.5, 0.0), Kernel(2.0, 1.0, 1.0), Kernel(8.0, 1000.0, 0.1)):
        points = (features - features.mean(axis=0)) / features.std(axis=0)
        for response in responses[:8]:
            table = module._table(kernel.covariance(points, points), [response])
            for place in (3, 17, 30):
                dense = Dense(
                    points, response.values, kernel, float(NOISES[place]), response.weights
                )
                expected = dense.evidence() + response.jacobian + float(NOISE_PRIOR[place])
                differences.append(float(table[place, 0]) - expected)
    np.testing.assert_allclose(differences, differences[0], rtol=0, atol=1e-3)


def test_the_choice_has_more_evidence_than_its_neighbours() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(60, 2))
    values = 60 + 4 * np.sin(2 * features[:, 0]) + features[:, 1] + 0.3 * rng.normal(size=60)
    responses = responses_of(values, metric_named("accuracy"), None)
    found = fit_process(features, values, responses)
    assert found is not None
    kernel = found.process.kernel
    points = (features - features.mean(axis=0)) / features.std(axis=0)
    for other in (
        kernel,
        replace(kernel, length=kernel.length * 1.4),
        replace(kernel, length=kernel.length / 1.4),
        replace(kernel, linear=10.0),
    ):
        tables = [module._table(other.covariance(points, points), [own]) for own in responses]
        assert max(float(table.max()) for table in tables) <= found.evidence + 1e-6
    assert found.response in responses
    assert found.process.noise_share in NOISES


def test_many_networks_choose_the_kernel_by_some_and_are_all_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MOST_CHOOSING", 40)
    rng = np.random.default_rng(1)
    features = rng.uniform(-2, 2, size=(120, 1))
    values = 50 + 10 * np.sin(features[:, 0])
    found = fit_process(features, values, responses_of(values, metric_named("accuracy"), IDENTITY))
    assert found is not None
    assert len(found.process.responses) == 120
    points = (features - features.mean()) / features.std()
    place = int(np.flatnonzero(found.process.noise_share == NOISES)[0])
    table = module._table(found.process.kernel.covariance(points, points), [found.response])
    assert found.evidence == pytest.approx(float(table[place, 0]))


def test_features_that_are_the_same_for_all_give_no_process() -> None:
    values = np.arange(5.0) + 1
    responses = responses_of(values, metric_named("accuracy"), None)
    assert fit_process(np.ones((5, 2)), values, responses) is None


# ---- features without a space --------------------------------------------------------------------


def curve(count: int, seed: int) -> tuple[Floats, Floats]:
    features = np.random.default_rng(seed).uniform(-2, 2, size=(count, 2))
    return features, 70 + 8 * np.sin(features[:, 0]) * np.cos(features[:, 1])


def test_a_curve_is_learned_and_its_intervals_hold() -> None:
    (features, values), (others, truth) = curve(80, 0), curve(300, 1)
    noise = np.random.default_rng(2).normal(size=380) * 0.5
    found = fit_features(features, values + noise[:80], metric_named("accuracy"))
    assert np.abs(found.predict(others) - truth).mean() < 0.5
    low, high = found.interval(others, 0.9)
    measured = truth + noise[80:]
    assert 0.8 < ((low <= measured) & (measured <= high)).mean() < 0.97
    assert 0.3 < found.left_out_error < 0.8
    narrow = found.interval(others, 0.5)
    assert (narrow[0] > low).all()
    assert (narrow[1] < high).all()


def test_additive_metrics_keep_their_scale_and_choose_relative_errors() -> None:
    rng = np.random.default_rng(0)
    features = rng.uniform(0.1, 10, size=(150, 1))
    exact = 3 * features[:, 0]
    found = fit_features(
        features, exact * np.exp(0.05 * rng.normal(size=150)), metric_named("latency_ms")
    )
    assert found.metric.scale == IDENTITY
    assert found.to_dict()["errors"] == "relative"
    low, high = found.interval([[0.5], [9.0]], 0.9)
    assert (high - low)[1] > 5 * (high - low)[0]
    constant = fit_features(features, 50 + exact + rng.normal(size=150), metric_named("latency_ms"))
    assert constant.to_dict()["errors"] == "absolute"


def test_values_below_a_ceiling_get_a_curved_scale_whose_predictions_keep_the_order() -> None:
    features = np.linspace(-3, 3, 60)[:, None]
    response = 0.004 + 0.003 * (features[:, 0] + 3)
    values = 95 - response**-0.5
    found = fit_features(features, values, metric_named("accuracy"))
    assert found.metric.scale != IDENTITY
    responses = found.process.predict(features)
    predicted = found.predict(features)
    assert (np.argsort(responses) == np.argsort(predicted)).all()
    np.testing.assert_allclose(predicted, values, atol=0.05)
    low, high = found.interval(features)
    assert (low < predicted).all()
    assert (predicted < high).all()


def test_outliers_hardly_move_what_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    features, asked = rng.uniform(0, 1, (60, 2)), rng.uniform(0.1, 0.9, (200, 2))

    def truth(rows: Floats) -> Floats:
        found: Floats = 10 + 5 * rows[:, 0] + 3 * rows[:, 1]
        return found

    values = truth(features) + 0.05 * rng.normal(size=60)
    values[:6] *= 1.8  # the machine was busy
    latency = metric_named("latency_ms")
    error = float(
        np.abs(fit_features(features, values, latency).predict(asked) - truth(asked)).mean()
    )
    monkeypatch.setattr(module, "_REWEIGHTED", 0)
    normal = float(
        np.abs(fit_features(features, values, latency).predict(asked) - truth(asked)).mean()
    )
    assert error < normal / 3


def test_a_scale_may_be_given() -> None:
    features, values = curve(30, 0)
    scale = PowerScale(limit=105.0, exponent=2.0, low=40.0, high=90.0)
    assert (
        fit_features(features, values, metric_named("accuracy"), scale=scale).metric.scale == scale
    )
    found = fit_features(features, values, metric_named("accuracy"), scale=IDENTITY)
    assert found.metric.scale == IDENTITY


def test_units_of_features_do_not_matter() -> None:
    features, values = curve(40, 0)
    plain = fit_features(features, values, metric_named("accuracy"))
    other = fit_features(features * [1e6, 1e-3] + 5, values, metric_named("accuracy"))
    near = 1e-6 * float(np.ptp(values))
    moved = features[:9] * [1e6, 1e-3] + 5
    np.testing.assert_allclose(other.predict(moved), plain.predict(features[:9]), atol=near)


def test_values_that_are_all_the_same_are_predicted_so() -> None:
    found = fit_features(np.arange(6.0)[:, None], np.full(6, 12.5), metric_named("latency_ms"))
    np.testing.assert_allclose(found.predict([[2.5], [40.0]]), 12.5)
    assert found.left_out_error == pytest.approx(0.0, abs=1e-9)


def test_what_was_chosen_is_told_for_json() -> None:
    features, values = curve(30, 0)
    found = fit_features(features, values, metric_named("accuracy"))
    assert isinstance(found, FeatureRegression)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(record) == {
        *("scale", "errors", "length", "mixture", "linear", "noise", "evidence"),
        "left_out_error",
    }
    expected = np.abs(found.metric.scale.inverse(found.process.left_out) - values).mean()
    assert record["left_out_error"] == pytest.approx(expected, rel=1e-3)


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "values", "message"),
    [
        (np.ones((5, 2)), np.arange(5.0), "the same for all"),
        (np.ones((2, 1)), np.ones(2), "at least 3"),
        (np.arange(5.0), np.arange(5.0), r"of shape \(networks, features\)"),
        (np.ones((5, 0)), np.arange(5.0), r"of shape \(networks, features\)"),
        (np.arange(5.0)[:, None], np.arange(4.0), "values of shape"),
        (np.array([[1.0], [math.nan], [2.0]]), np.arange(3.0), "finite numbers"),
        (np.arange(3.0)[:, None], np.array([1.0, math.inf, 2.0]), "one finite value"),
    ],
)
def test_data_that_cannot_be_fitted_are_refused(
    features: Floats, values: Floats, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        fit_features(features, values, metric_named("latency_ms"))


def test_wrong_questions_are_refused() -> None:
    features, values = curve(20, 0)
    found = fit_features(features, values, metric_named("accuracy"))
    for wrong in ([1.0, 2.0], [[1.0]], [[1.0, 2.0, 3.0]], [[1.0, math.nan]]):
        with pytest.raises(InvalidInputError, match="features"):
            found.predict(wrong)
    for confidence in (0.0, 1.0, math.nan):
        with pytest.raises(InvalidInputError, match="between 0 and 1"):
            found.interval(features, confidence)


@pytest.mark.parametrize(
    "change",
    [
        {"features": np.ones((12, 0))},
        {"features": np.ones(12)},
        {"features": np.ones((11, 3))},
        {"features": np.full((12, 3), math.inf)},
        {"responses": np.full(12, math.nan)},
        {"responses": np.ones(2), "features": np.ones((2, 3)), "weights": np.ones(2)},
        {"weights": np.zeros(12)},
        {"weights": np.ones(3)},
        {"noise_share": 0.0},
        {"noise_share": math.nan},
        {"noise_at": -1.0},
        {"kernel": Kernel(0.0, 1.0, 0.0)},
        {"kernel": Kernel(1.0, math.inf, 0.0)},
        {"kernel": Kernel(1.0, 1.0, -0.1)},
    ],
)
def test_numbers_that_make_no_process_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        replace(a_process(), **change)


def test_a_singular_covariance_is_a_clear_error() -> None:
    features = np.zeros((4, 1))
    features[0] = 1.0
    process = GaussianProcess(features, np.arange(4.0), Kernel(1.0, 1.0, 0.0), 1e-300, np.ones(4))
    with pytest.raises(InvalidInputError, match="singular"):
        process.predict(features)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("features"),
        lambda r: r.pop("length"),
        lambda r: r.update(features=[[1.0], [1.0, 2.0]]),
        lambda r: r.update(features=7),
        lambda r: r.update(features=["x"]),
        lambda r: r.update(features=[[None, 1.0, 2.0]] * 12),
        lambda r: r.update(responses=[None] * 12),
        lambda r: r.update(weights=["1"] * 12),
        lambda r: r.update(noise_share="0.1"),
    ],
)
def test_damaged_records_are_refused(change: Callable[[dict[str, Any]], object]) -> None:
    record: dict[str, Any] = json.loads(json.dumps(a_process().to_dict()))
    change(record)
    with pytest.raises(FileFormatError, match="process"):
        GaussianProcess.from_record(Record(record, "process"))


def test_any_single_damage_is_an_error_of_mathnas_or_harmless() -> None:
    known = json.loads(json.dumps(a_process(noise_at=2.0).to_dict()))
    others = np.random.default_rng(0).normal(size=(4, 3))
    for key in known:
        values: list[object] = [None, [], {}, "text", -1, 0, 1e99, 1e-99, [[1]], [1.0], [[]], True]
        for value in values:
            try:
                process = GaussianProcess.from_record(Record({**known, key: value}, "process"))
                process.predict(others)
            except MathNASError as error:
                assert len(str(error)) > 20, (key, value)  # noqa: PT017


def test_responses_say_how_they_were_weighted() -> None:
    values = np.array([1.0, 2.0, 4.0])
    absolute, relative = responses_of(values, metric_named("latency_ms"), None)
    assert isinstance(absolute, Response)
    assert (absolute.relative, relative.relative) == (False, True)
    np.testing.assert_allclose(relative.weights, values / 2)
    assert len(responses_of(values - 1, metric_named("latency_ms"), None)) == 1
    np.testing.assert_allclose(relative.weighted(np.full(3, 3.0)).weights, values * 1.5)
