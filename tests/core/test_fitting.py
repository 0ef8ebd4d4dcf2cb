"""Effects from measurements: the paper's differences, its forms of prediction, noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from core_cases import Floats, networks_of, space_of, spaces, usual
from hypothesis import given
from hypothesis import strategies as st

from mathnas import (
    BlockTable,
    Evaluation,
    Form,
    InvalidInputError,
    MathNASWarning,
    Measurement,
    Measurements,
    Network,
    Sample,
    SearchSpace,
    Study,
    fit,
    full_sampling,
    metric_named,
    partial_sampling,
    single_sampling,
)
from mathnas.fitting import Method, fit_column


def values_for(networks: Sequence[Network], seed: int) -> dict[Network, float]:
    """A value for each network, without any structure."""
    drawn = np.random.default_rng(seed).normal(70, 5, len(networks))
    return dict(zip(networks, drawn.tolist(), strict=True))


def measured(values: Mapping[Network, float], metric: str = "accuracy") -> Measurements:
    """Measurements without repeats."""
    return Measurements(
        metric_named(metric),
        {},
        np.array(list(values), dtype=np.intp),
        np.array(list(values.values())),
        np.full(len(values), np.nan),
        np.ones(len(values)),
    )


def table_from(
    space: SearchSpace,
    values: Mapping[Network, float],
    reference: Network,
    method: Method = "paired",
    form: Form = Form.LINEAR,
) -> BlockTable:
    column = fit_column(space, measured(values), reference, method, form)
    return BlockTable(space, reference, {"accuracy": column})


def effect(table: BlockTable, node: int, block: int) -> float:
    return float(table.column("accuracy").effects[table.space.offsets[node] + block])


def switched(network: Network, node: int, block: int) -> Network:
    return (*network[:node], block, *network[node + 1 :])


def pairs(
    values: Mapping[Network, float], reference: Network, node: int, block: int
) -> list[float]:
    """Differences between `block` and the reference's block, by looking at all pairs."""
    return [
        value - values[other]
        for network, value in values.items()
        if network[node] == block
        for other in [switched(network, node, reference[node])]
        if other in values
    ]


# ---- single sampling -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["paired", "single"])
@given(space=spaces(), seed=st.integers(0, 1000))
@usual
def test_single_sampling_reproduces_every_network_that_it_evaluated(
    method: Method, space: SearchSpace, seed: int
) -> None:
    reference = fullest(space)
    values = values_for(list(single_sampling(space, reference)), seed)
    table = table_from(space, values, reference, method)
    assert table.column("accuracy").base == values[reference]
    for network, value in values.items():
        assert table.exact(network, "accuracy") == pytest.approx(value, rel=1e-13)


def fullest(space: SearchSpace) -> Network:
    """A network in which no optional node is absent."""
    absent = {
        (node, block)
        for rule in space.depth_rules
        for node, block in zip(rule.nodes, rule.absent, strict=True)
    }
    return next(n for n in networks_of(space) if not absent & set(enumerate(n)))


def test_the_paper_s_base_minus_candidate_gives_the_same_predictions() -> None:
    """Eq. 3 writes b_ij = Acc(N with b_i1) - Acc(N with b_ij), Eq. 5 subtracts the sum of them."""
    space = space_of([3, 2, 4])
    reference = (0, 0, 0)
    values = values_for(list(single_sampling(space, reference)), seed=1)
    table = table_from(space, values, reference)
    for network in networks_of(space):
        subtracted = 0.0
        for node, block in enumerate(network):
            subtracted += values[reference] - values[switched(reference, node, block)]
        expected = values[reference] - subtracted
        assert table.exact(network, "accuracy") == pytest.approx(expected, rel=1e-13)


def test_the_paper_s_form_agrees_over_all_contexts_too() -> None:
    space = space_of([3, 2, 3])
    values = values_for(networks_of(space), seed=2)
    table = table_from(space, values, (0, 0, 0))
    base = table.column("accuracy").base
    for network in networks_of(space):
        subtracted = 0.0
        for node, block in enumerate(network):
            contexts = [n for n in values if n[node] == 0]
            lost = [values[n] - values[switched(n, node, block)] for n in contexts]
            subtracted += math.fsum(lost) / len(lost)
        assert table.exact(network, "accuracy") == pytest.approx(base - subtracted, rel=1e-12)


def test_the_single_method_ignores_other_contexts() -> None:
    space = space_of([3, 3])
    values = values_for(networks_of(space), seed=3)
    single = table_from(space, values, (1, 1), method="single")
    paired = table_from(space, values, (1, 1), method="paired")
    assert effect(single, 0, 2) == pytest.approx(values[2, 1] - values[1, 1])
    assert effect(paired, 0, 2) == pytest.approx(np.mean(pairs(values, (1, 1), 0, 2)))
    assert effect(single, 0, 2) != pytest.approx(effect(paired, 0, 2))


# ---- many contexts -------------------------------------------------------------------------------


@given(space=spaces(most_networks=150, with_rules=False), data=st.data())
@usual
def test_full_sampling_gives_the_least_squares_main_effects(
    space: SearchSpace, data: st.DataObject
) -> None:
    reference = data.draw(st.sampled_from(networks_of(space)))
    sample = full_sampling(space, reference)
    values = values_for(list(sample), data.draw(st.integers(0, 1000)))
    indicators = np.zeros((len(values), space.num_blocks))
    for row, network in enumerate(values):
        indicators[row, space.offsets[:-1] + np.array(network)] = 1
    solution = np.linalg.lstsq(indicators, np.array(list(values.values())), rcond=None)[0]
    methods: tuple[Method, ...] = ("paired", "means")
    for method in methods:
        table = table_from(space, values, reference, method)
        np.testing.assert_allclose(
            table.predict(list(values), "accuracy"), indicators @ solution, rtol=1e-9
        )


@given(space=spaces(), data=st.data())
@usual
def test_paired_effects_are_means_over_all_pairs_that_were_measured(
    space: SearchSpace, data: st.DataObject
) -> None:
    reference = data.draw(st.sampled_from(networks_of(space)))
    seed = data.draw(st.integers(0, 1000))
    sample = partial_sampling(space, 0.3, form="paired", seed=seed, reference=reference)
    values = values_for(list(sample), seed)
    table = table_from(space, values, reference)
    column = table.column("accuracy")
    for node, size in enumerate(space.sizes):
        for block in range(size):
            place = space.offsets[node] + block
            if block == reference[node]:
                assert (column.effects[place], column.spread[place]) == (0, 0)
                continue
            differences = pairs(values, reference, node, block)
            assert column.contexts[place] == len(differences) > 0
            assert column.effects[place] == pytest.approx(np.mean(differences), abs=1e-12)
            if len(differences) > 1:
                expected = np.std(differences, ddof=1)
                assert column.spread[place] == pytest.approx(expected, abs=1e-9)
            else:
                assert math.isnan(column.spread[place])


def test_predictions_over_many_contexts_are_right_on_average() -> None:
    space = space_of([3, 2, 2], [1, 2, 3, 1, 2, 1, 2], fixed_macs=1)
    values = values_for(networks_of(space), seed=4)
    for form in Form:
        table = table_from(space, values, (0, 0, 0), form=form)
        predicted = table.predict(list(values), "accuracy")
        assert predicted.mean() == pytest.approx(np.mean(list(values.values())))


def test_block_means_are_differences_of_means_over_holders() -> None:
    space = space_of([3, 2])
    values: dict[Network, float] = {(0, 0): 1.0, (1, 0): 4.0, (2, 1): 10.0, (0, 1): 3.0}
    table = table_from(space, values, (0, 0), method="means")
    # blocks of n0: means 2, 4, 10; blocks of n1: means 2.5 and 6.5
    assert table.column("accuracy").effects.tolist() == [0, 2, 8, 0, 4]
    assert table.column("accuracy").contexts.tolist() == [2, 1, 1, 2, 2]
    assert np.isnan(table.column("accuracy").spread[1])


# ---- forms, written out by hand ------------------------------------------------------------------


@pytest.fixture
def flops_space() -> SearchSpace:
    return space_of([2, 3], [1.0, 4.0, 2.0, 3.0, 9.0], fixed_macs=5.0)


def by_hand(space: SearchSpace, form: Form) -> Callable[[Network], float]:
    """The numerator of Eq. 5 for each block: meanF_ij, Fbar, or F(reference with b_ij)."""
    macs = {(0, 0): 1.0, (0, 1): 4.0, (1, 0): 2.0, (1, 1): 3.0, (1, 2): 9.0}
    fixed, mean_first, mean_second = 5.0, 2.5, 14 / 3
    reference = (0, 1)
    values = values_for(list(single_sampling(space, reference)), seed=5)

    def numerator(node: int, block: int) -> float:
        if form is Form.BLOCK_MEAN:
            return fixed + macs[node, block] + (mean_second if node == 0 else mean_first)
        if form is Form.SPACE_MEAN:
            return fixed + mean_first + mean_second
        return fixed + macs[node, block] + macs[1 - node, reference[1 - node]]

    def predicted(network: Network) -> float:
        own = fixed + macs[0, network[0]] + macs[1, network[1]]
        first = (values[network[0], 1] - values[reference]) * numerator(0, network[0])
        second = (values[0, network[1]] - values[reference]) * numerator(1, network[1])
        return values[reference] + (first + second) / own

    return predicted


@pytest.mark.parametrize("form", [Form.BLOCK_MEAN, Form.SPACE_MEAN, Form.CORRECTED])
def test_every_inverse_macs_form_is_its_formula(flops_space: SearchSpace, form: Form) -> None:
    reference = (0, 1)
    values = values_for(list(single_sampling(flops_space, reference)), seed=5)
    table = table_from(flops_space, values, reference, form=form)
    expected = by_hand(flops_space, form)
    for network in networks_of(flops_space):
        assert table.exact(network, "accuracy") == pytest.approx(expected(network), rel=1e-13)


def test_the_corrected_form_reproduces_single_switches(flops_space: SearchSpace) -> None:
    """Algorithm 1 takes the numerator as F(N_avg with b_ij), which cancels in that network."""
    values = values_for(list(single_sampling(flops_space, (0, 1))), seed=6)
    table = table_from(flops_space, values, (0, 1), form=Form.CORRECTED)
    for network, value in values.items():
        assert table.exact(network, "accuracy") == pytest.approx(value, rel=1e-13)


def test_an_inverse_macs_form_without_macs_is_refused() -> None:
    values = values_for(list(single_sampling(space_of([2, 2]), (0, 0))), seed=0)
    with pytest.raises(InvalidInputError, match=r"inverse-macs-block-mean of accuracy needs the"):
        table_from(space_of([2, 2]), values, (0, 0), form=Form.BLOCK_MEAN)
    skips = space_of([2, 2], [0, 1, 0, 1])
    with pytest.raises(InvalidInputError, match="declare fixed_macs, or use the linear form"):
        table_from(skips, values, (0, 0), form=Form.SPACE_MEAN)


# ---- from a study --------------------------------------------------------------------------------


def study_of(
    tmp_path: Path, space: SearchSpace, facts: Sequence[Evaluation], sample: Sample | None = None
) -> Study:
    study = Study(tmp_path / "fit.study", space)
    if sample is not None:
        study.add_sample(sample)
    study.add(facts)
    return study


def facts_for(
    networks: Sequence[Network], metric: str, seed: int = 0, **conditions: str
) -> list[Evaluation]:
    return [
        Evaluation(network, metric, Measurement(value), conditions=conditions)
        for network, value in values_for(networks, seed).items()
    ]


def test_a_table_has_every_metric_of_the_study_and_says_where_it_is_from(tmp_path: Path) -> None:
    space = space_of([2, 3], [1, 2, 1, 2, 3])
    sample = single_sampling(space, (0, 1))
    facts = facts_for(list(sample), "accuracy") + facts_for(list(sample), "latency_ms", seed=1)
    with study_of(tmp_path, space, facts, sample) as study:
        table = fit(study)
        assert list(table.columns) == ["macs", "accuracy", "latency_ms"]
        assert table.reference == sample.reference == (0, 1)
        assert table.provenance["method"] == "differences, paired"
        assert table.provenance["networks"] == sample.cost
        assert table.provenance["study"] == "fit.study"
        assert list(fit(study, ["latency_ms"]).columns) == ["macs", "latency_ms"]


def test_the_newest_design_names_the_reference_unless_one_is_given(tmp_path: Path) -> None:
    space = space_of([2, 2], [1, 2, 1, 2])
    facts = facts_for(networks_of(space), "accuracy")
    with study_of(tmp_path, space, facts) as study:
        assert fit(study).reference == space.reference == (0, 0)
        study.add_sample(single_sampling(space, (1, 0)))
        study.add_sample(single_sampling(space, (1, 1)))
        assert fit(study).reference == (1, 1)
        assert fit(study, reference=("b0", "b1")).reference == (0, 1)


def test_additive_metrics_stay_linear_whatever_form_is_asked_for(tmp_path: Path) -> None:
    space = space_of([2, 2], [1, 2, 1, 2])
    facts = facts_for(networks_of(space), "accuracy") + facts_for(networks_of(space), "latency_ms")
    with study_of(tmp_path, space, facts) as study:
        for form in (Form.SPACE_MEAN, "inverse-macs-space-mean", {"accuracy": Form.SPACE_MEAN}):
            table = fit(study, form=form)
            assert table.column("accuracy").form is Form.SPACE_MEAN
            assert table.column("latency_ms").form is Form.LINEAR
        assert fit(study, form={"bleu": "linear"}).column("accuracy").form is Form.LINEAR
        with pytest.raises(InvalidInputError, match="a form is one of linear, inverse-macs-block"):
            fit(study, form="cubic")


def test_measurements_under_other_conditions_are_not_mixed(tmp_path: Path) -> None:
    space = space_of([2, 2])
    networks = networks_of(space)
    facts = facts_for(networks, "latency_ms", 1, device="pi4", threads="1")
    facts += facts_for(networks, "latency_ms", 2, device="phone")
    with study_of(tmp_path, space, facts) as study:
        with pytest.raises(InvalidInputError, match="choose one of"):
            fit(study)
        for device, seed in (("pi4", 1), ("phone", 2)):
            column = fit(study, conditions={"latency_ms": {"device": device}}).column("latency_ms")
            assert column.conditions["device"] == device
            mean = np.mean(list(values_for(networks, seed).values()))
            assert column.base + column.effects.sum() / 2 == pytest.approx(mean)


@pytest.mark.parametrize(
    ("method", "left_out", "message"),
    [
        ("paired", (1, 0), r"'b1' of node 'n0' was not measured so in any context.*1 of 3 blocks"),
        ("single", (0, 2), r"'b2' of node 'n1' was not measured so in the reference network"),
        ("single", (0, 0), r"3 of 3 blocks are missing"),
        ("means", (1, 0), r"'b1' of node 'n0' is in none of the 3 measured.*evaluate more"),
    ],
)
def test_a_block_that_was_not_measured_is_named(
    method: Method, left_out: Network, message: str, tmp_path: Path
) -> None:
    space = space_of([2, 3])
    networks = [n for n in single_sampling(space, (0, 0)) if n != left_out]
    with (
        study_of(tmp_path, space, facts_for(networks, "accuracy")) as study,
        pytest.raises(InvalidInputError, match=message),
    ):
        fit(study, method=method, reference=(0, 0))


def test_an_empty_study_or_an_unknown_method_is_refused(tmp_path: Path) -> None:
    with study_of(tmp_path, space_of([2]), []) as study:
        with pytest.raises(InvalidInputError, match="holds no evaluations: evaluate a sample"):
            fit(study)
        with pytest.raises(InvalidInputError, match="has no metric 'accuracy'"):
            fit(study, ["accuracy"])
        with pytest.raises(InvalidInputError, match="one of paired, single, means, regression"):
            fit(study, method="median")  # type: ignore[arg-type]


# ---- noise ---------------------------------------------------------------------------------------


def repeated(values: Mapping[Network, Sequence[float]]) -> list[Evaluation]:
    return [
        Evaluation(network, "latency_ms", Measurement(value))
        for network, several in values.items()
        for value in several
    ]


def test_repeats_are_pooled_into_means_with_a_standard_error(tmp_path: Path) -> None:
    space = space_of([3])
    facts = repeated({(0,): [10, 11, 12, 11], (1,): [20, 24], (2,): [31]})
    with study_of(tmp_path, space, facts) as study:
        column = fit(study, reference=(0,)).column("latency_ms")
    assert column.base == 11
    assert column.effects.tolist() == [0, 11, 20]
    # variances of the means: 2/3 over 4 repeats, 8 over 2 repeats
    assert column.spread[1] == pytest.approx(math.sqrt(2 / 3 / 4 + 8 / 2))
    assert math.isnan(column.spread[2])


def test_repeats_inside_a_measurement_weigh_and_scatter_as_if_apart(tmp_path: Path) -> None:
    space = space_of([2])
    facts = [
        Evaluation((0,), "latency_ms", Measurement(10, spread=1.0, repeats=9)),
        Evaluation((0,), "latency_ms", Measurement(20, spread=2.0, repeats=1)),
        Evaluation((1,), "latency_ms", Measurement(15, spread=3.0, repeats=9)),
    ]
    with study_of(tmp_path, space, facts) as study, pytest.warns(MathNASWarning, match="noise"):
        column = fit(study, reference=(0,)).column("latency_ms")
    assert column.base == pytest.approx(11)
    # (8 * 1 + 9 * (10 - 11)^2 + 1 * (20 - 11)^2) / 9 over 10 repeats, and 9 over 9
    assert column.spread[1] == pytest.approx(math.sqrt(98 / 9 / 10 + 9 / 9))


def test_a_reference_that_disagrees_with_itself_is_reported(tmp_path: Path) -> None:
    space = space_of([2, 2, 2])
    facts = repeated({(0, 0, 0): [10, 14], (1, 0, 0): [12], (0, 1, 0): [13], (0, 0, 1): [90]})
    with (
        study_of(tmp_path, space, facts) as study,
        pytest.warns(MathNASWarning, match=r"from 10 to 14 in 2 measurements: 2 of 3 block"),
    ):
        fit(study, reference=(0, 0, 0))


def test_noise_below_most_effects_is_no_reason_to_warn(tmp_path: Path) -> None:
    space = space_of([2, 2, 2])
    facts = repeated({(0, 0, 0): [10, 10.1], (1, 0, 0): [12], (0, 1, 0): [10.06], (0, 0, 1): [90]})
    with study_of(tmp_path, space, facts) as study:  # a MathNASWarning would be an error here
        assert fit(study, reference=(0, 0, 0)).column("latency_ms").base == pytest.approx(10.05)


def test_effects_recover_additive_truth_from_noisy_measurements(tmp_path: Path) -> None:
    space = space_of([3, 3], [1, 2, 3] * 2)
    truth, rng = np.array([0, 1, 2, 0, 3, 6.0]), np.random.default_rng(0)
    networks = list(full_sampling(space)) * 20
    facts = [
        Evaluation(
            network,
            "latency_ms",
            Measurement(5 + truth[network[0]] + truth[3 + network[1]] + rng.normal(0, 0.1)),
        )
        for network in networks
    ]
    with study_of(tmp_path, space, facts) as study:
        column = fit(study, reference=(0, 0)).column("latency_ms")
    errors: Floats = np.abs(column.effects - truth)
    assert errors.max() < 0.1
    assert column.base == pytest.approx(5, abs=0.05)


# ---- another metric as the prior -----------------------------------------------------------------


def test_a_proxy_that_is_known_better_makes_a_metric_known_better(tmp_path: Path) -> None:
    """Accuracy is noisy, the loss is not; accuracy goes with it, and with something else a bit."""
    rng = np.random.default_rng(0)
    space = space_of([5] * 8)
    effects, own = rng.normal(size=space.num_blocks), 0.1 * rng.normal(size=space.num_blocks)

    def sums(of: Floats, networks: Sequence[Network]) -> Floats:
        total: Floats = of[np.array(networks) + space.offsets[:-1]].sum(axis=1)
        return total

    networks, others = space.sample(60, seed=1), space.sample(200, seed=2)
    loss = 0.5 - 0.01 * sums(effects, networks)
    accuracy = 80 + sums(effects + own, networks) + 2.0 * rng.normal(size=len(networks))
    with Study(tmp_path / "my.study", space) as study:
        study.add(
            Evaluation(network, metric, Measurement(float(value)))
            for metric, values in (("loss", loss), ("accuracy", accuracy))
            for network, value in zip(networks, values, strict=True)
        )
        tables = [
            fit(study, method="regression", reference=networks[0], proxy=proxy)
            for proxy in (None, {"accuracy": "loss"})
        ]
    truth = 80 + sums(effects + own, others)
    alone, beside = (
        float(np.abs(table.predict(others, "accuracy") - truth).mean()) for table in tables
    )
    assert beside < 0.6 * alone
    assert tables[1].provenance["proxy"] == {"accuracy": "loss"}
    assert (tables[1].predict(others, "loss") == tables[0].predict(others, "loss")).all()
