"""The model of the parts' times, against the same posterior written down at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from resident_cases import plain_space
from runtime_cases import networks, world

from mathnas.errors import InvalidInputError
from mathnas.runtime.observation import PartTimes
from mathnas.runtime.part_model import PartModel, Prior
from mathnas.space import Floats, Network

PRIOR = Prior(load=0.4, drift=0.1, node=0.2, block=0.1, memory_s=5.0)


def batch_posterior(
    times: PartTimes,
    prior: Prior,
    seen: list[tuple[float, Network, Floats, Floats]],
    now: float,
) -> tuple[Floats, Floats]:
    """Mean and covariance of the log deviations of all parts at `now`, by conditioning one large
    Gaussian on everything that was seen: (time, network, parts_ms, variances)."""
    space = times.space
    nodes = np.concatenate([[-1], np.repeat(np.arange(space.num_nodes), space.sizes), [-2]])
    count = len(nodes)

    def covariance(one: tuple[float, int], other: tuple[float, int]) -> float:
        (s, a), (t, b) = one, other
        load = prior.load**2 + prior.drift**2 * min(s, t)
        own = prior.node**2 * (nodes[a] == nodes[b]) + prior.block**2 * (a == b)
        return load + float(own) * math.exp(-abs(s - t) / prior.memory_s)

    data, values, noise = [], [], []
    for time, network, parts, variances in seen:
        for place, part, variance in zip(times.places(network), parts, variances, strict=True):
            if times.flat[place] > 0:
                data.append((time, place))
                values.append(math.log(part / times.flat[place]))
                noise.append(variance)
    wanted = [(now, place) for place in range(count)]
    within = np.array([[covariance(a, b) for b in data] for a in data]) + np.diag(noise)
    across = np.array([[covariance(a, b) for b in data] for a in wanted])
    own = np.array([[covariance(a, b) for b in wanted] for a in wanted])
    return (
        across @ np.linalg.solve(within, np.array(values)),
        own - across @ np.linalg.solve(within, across.T),
    )


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_posterior_of_everything_seen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    _, times = world(nodes=3, blocks=2 + seed % 2, seed=seed, skips=seed % 3 == 2)
    model, clock, seen = PartModel(times, PRIOR), 0.0, []
    for _ in range(12):
        step = float(rng.exponential(1.0))
        clock += step
        network = networks(times.space)[int(rng.integers(times.space.num_networks))]
        parts = times.parts(network) * np.exp(0.3 * rng.normal(size=5))
        variances = rng.uniform(0.001, 0.05, 5)
        model.wait(step)
        model.observe(network, parts, variances)
        seen.append((clock, network, parts, variances))
    model.wait(2.0)
    mean, covariance = batch_posterior(times, PRIOR, seen, clock + 2.0)
    takes = times.flat > 0
    np.testing.assert_allclose(
        model.flat[takes], (times.flat * np.exp(mean))[takes], rtol=1e-9, atol=0
    )
    deviations = np.sqrt(np.diag(covariance)) * takes
    np.testing.assert_allclose(model.deviations, deviations, rtol=1e-7, atol=1e-12)
    assert (model.flat[~takes] == 0).all()


def test_the_deviation_of_a_sum_counts_what_parts_have_in_common() -> None:
    """Before any run: all parts share the load, so that a sum is as uncertain as its parts are."""
    _, times = world(seed=3)
    model = PartModel(times, PRIOR)
    network = (2, 0, 1)
    mean, deviation = model.latency(network)
    parts = times.parts(network)
    expected = (PRIOR.load * parts.sum()) ** 2 + (PRIOR.node**2 + PRIOR.block**2) * (parts**2).sum()
    assert mean == pytest.approx(parts.sum())
    assert deviation == pytest.approx(math.sqrt(expected))


def test_blocks_that_did_not_run_move_with_their_node_and_the_device() -> None:
    _, times = world(seed=1)
    model = PartModel(times, Prior())
    parts = times.parts((0, 0, 0))
    slower = np.array([1.0, 1.0, 1.0, 2.0, 1.0])  # the last node
    for _ in range(20):
        model.observe((0, 0, 0), parts * slower, [1e-4] * 5)
    factors = model.flat / times.flat
    offsets = 1 + times.space.offsets
    first, last = (factors[offsets[node] : offsets[node + 1]] for node in (0, 2))
    assert last[0] == pytest.approx(2.0, rel=0.01)
    assert (last[1:] > 1.3).all(), "the same node's"
    assert (np.abs(first[1:] - 1) < 0.15).all(), "another node's"
    spread = model.deviations[offsets[2] : offsets[3]]
    assert spread[0] < 0.01 < spread[1], "what did not run is less certain"


def test_a_load_on_the_whole_device_reaches_blocks_that_did_not_run() -> None:
    _, times = world(seed=1)
    model = PartModel(times, Prior())
    for _ in range(20):
        model.observe((0, 1, 2), 3.0 * times.parts((0, 1, 2)), [1e-4] * 5)
    np.testing.assert_allclose(model.flat / times.flat, 3.0, rtol=0.05)


def test_what_is_not_seen_again_is_forgotten_and_never_less_certain_than_at_the_start() -> None:
    _, times = world()
    prior = Prior(memory_s=2.0)
    model = PartModel(times, prior)
    for _ in range(50):
        model.wait(0.1)
        model.observe((0, 0, 0), times.parts((0, 0, 0)) * [1, 1, 1.5, 1, 1], [1e-4] * 5)
    place = times.places((0, 0, 0))[2]
    before = model.flat[place] / times.flat[place]
    model.wait(2.0)
    after = model.flat[place] / times.flat[place]
    load = math.exp(model.mean[0])
    assert math.log(after / load) == pytest.approx(math.log(before / load) / math.e)
    for _ in range(100):
        model.wait(100.0)
        model.observe((0, 0, 0), times.parts((0, 0, 0)), [1e-4] * 5)
    most = math.sqrt(2 * (prior.node**2 + prior.block**2) + 1e-3)
    assert (model.deviations <= most).all()


def test_the_whole_alone_tells_the_load() -> None:
    _, times = world(seed=4)
    model = PartModel(times, Prior())
    for _ in range(50):
        model.wait(0.05)
        model.observe_whole((1, 1, 1), 2.0 * times.latency((1, 1, 1)), 1e-3)
    for network in networks(times.space):
        assert model.latency(network)[0] == pytest.approx(2.0 * times.latency(network), rel=0.1)


def test_a_single_whole_is_one_row_of_the_posterior() -> None:
    """To first order: with parts that are observed alone it is the same as their own row."""
    space = plain_space(2, 2)
    times = PartTimes(space, 1.0, [0, 0, 0, 0], 0.0)
    by_part, by_whole = PartModel(times, PRIOR), PartModel(times, PRIOR)
    by_part.observe((0, 1), [1.7, 0, 0, 0], [0.01] * 4)
    by_whole.observe_whole((0, 1), 1.7, 0.01)
    np.testing.assert_allclose(by_whole.mean, by_part.mean, rtol=1e-12)
    np.testing.assert_allclose(by_whole.covariance, by_part.covariance, rtol=1e-12, atol=1e-15)


def test_shares_move_the_division_and_not_the_whole() -> None:
    """However much longer all parts took: that is not what shares tell."""
    _, times = world(nodes=4, blocks=3, seed=2)
    network = (1, 2, 0, 1)
    load = np.array([1.0, 1.0, 1.2, 1.0, 1.0, 1.0])
    found = []
    for factor in (0.3, 1.0, 5.0):
        model = PartModel(times, Prior())
        before, _ = model.latency(network)
        for _ in range(20):
            model.observe(network, factor * load * times.parts(network), [1e-4] * 6, shares=True)
        assert model.latency(network)[0] == pytest.approx(before, rel=0.05)
        found.append(model.flat[times.places(network)] / times.parts(network))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    np.testing.assert_allclose(found[2], found[1], rtol=1e-6)
    assert found[1][2] / found[1][1] == pytest.approx(1.2, rel=0.03)


def test_it_stays_sound_over_many_updates() -> None:
    rng = np.random.default_rng(0)
    _, times = world(nodes=4, blocks=4, skips=True)
    model, every = PartModel(times, Prior()), networks(times.space)
    for k in range(4000):
        network = every[int(rng.integers(len(every)))]
        model.wait(float(rng.uniform(0, 0.1)))
        if k % 50 == 0:
            model.change()
        model.observe(network, times.parts(network) * 2.0, [2.5e-5] * 6)
    assert np.linalg.eigvalsh(model.covariance).min() > -1e-12
    takes = times.flat > 0
    np.testing.assert_allclose(model.flat[takes] / times.flat[takes], 2.0, rtol=1e-2)


def test_what_is_not_a_prior_or_a_time_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="memory_s is positive and finite, but got 0"):
        Prior(memory_s=0)
    with pytest.raises(InvalidInputError, match="every network takes some time"):
        PartModel(PartTimes(plain_space(1, 2), 0.0, [0.0, 1.0], 0.0), Prior())
