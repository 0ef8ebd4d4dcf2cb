"""Which networks the designs evaluate, and how many."""

from __future__ import annotations

import itertools
import math

import pytest
from core_cases import networks_of, space_of, spaces, usual
from hypothesis import given
from hypothesis import strategies as st

from mathnas import (
    DepthRule,
    InvalidInputError,
    Network,
    SearchSpace,
    average_flops_network,
    full_sampling,
    partial_sampling,
    random_sampling,
    single_sampling,
)
from mathnas.sampling import Form


def tiny() -> SearchSpace:
    return space_of([3, 2, 4], [1, 2, 3, 1, 5, 1, 2, 3, 10], fixed_macs=2)


def staged(size: int = 3) -> SearchSpace:
    """A node, then a stage of two optional ones."""
    return space_of(
        [2, size, size],
        [1.0, 2.0, *([0.0, *map(float, range(3, size + 2))] * 2)],
        rules=[DepthRule((1, 2), (0, 0))],
        reference=(0, 1, 2),
    )


# ---- single sampling -----------------------------------------------------------------------------


def test_single_sampling_switches_one_block_at_a_time() -> None:
    sample = single_sampling(tiny())
    reference = sample.reference
    assert reference == average_flops_network(tiny()) == (1, 0, 2)
    assert list(sample) == [
        reference,
        *((0, 0, 2), (2, 0, 2)),
        (1, 1, 2),
        *((1, 0, 0), (1, 0, 1), (1, 0, 3)),
    ]
    assert sample.kind == "single"
    assert len(sample) == sample.cost == 7


@given(space=spaces(with_rules=False))
@usual
def test_single_sampling_costs_one_more_than_the_switches(space: SearchSpace) -> None:
    sample = single_sampling(space)
    switches = sum(size - 1 for size in space.sizes)
    assert sample.cost == len(sample) == switches + 1
    repeated = single_sampling(space, repeat_reference=True)
    assert repeated.cost == switches + 1
    assert len(repeated) == switches + 1 + space.num_nodes
    assert list(repeated).count(repeated.reference) == 1 + space.num_nodes


def test_the_reference_is_repeated_once_with_every_node() -> None:
    sample = single_sampling(tiny(), repeat_reference=True)
    places = [i for i, network in enumerate(sample) if network == sample.reference]
    assert places == [0, 1, 4, 6]


def test_the_average_network_ties_to_the_lowest_index() -> None:
    space = space_of([2, 4], [1, 3, 2, 6, 2, 6])
    assert average_flops_network(space) == (0, 0)


def test_without_macs_another_context_is_asked_for_and_taken() -> None:
    space = space_of([3, 2])
    with pytest.raises(InvalidInputError, match=r"has none: give them, or name another context"):
        single_sampling(space)
    with pytest.raises(InvalidInputError, match=r"name another context"):
        average_flops_network(space)
    sample = single_sampling(space, context=("b2", 1))
    assert sample.reference == (2, 1)
    assert set(sample) == {(2, 1), (0, 1), (1, 1), (2, 0)}


def test_a_context_that_is_no_network_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="blocks 0 to 2, but got 3"):
        single_sampling(tiny(), context=(3, 0, 0))


def test_switching_a_stage_off_takes_its_later_nodes_along() -> None:
    sample = single_sampling(staged(), context=staged().reference)
    assert set(sample) == {(0, 1, 2), (1, 1, 2), (0, 0, 0), (0, 2, 2), (0, 1, 0), (0, 1, 1)}
    assert sample.cost == sum(size - 1 for size in (2, 3, 3)) + 1


def test_a_switch_that_is_not_possible_in_the_context_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"'n1' is absent in b0,b0,b0.*give a context in"):
        single_sampling(staged(), context=(0, 0, 0))
    last_one_absent = single_sampling(staged(), context=(0, 1, 0))
    assert last_one_absent.cost == 6


# ---- partial sampling ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["paired", "unpaired"])
def test_partial_samples_are_repeatable_and_depend_on_the_seed(form: Form) -> None:
    first = partial_sampling(tiny(), 0.5, form=form, seed=1)
    assert partial_sampling(tiny(), 0.5, form=form, seed=1) == first
    others = {partial_sampling(tiny(), 0.5, form=form, seed=seed).networks for seed in range(2, 8)}
    assert len(others | {first.networks}) > 3
    assert (first.kind, first.share, first.seed) == (f"partial-{form}", 0.5, 1)
    assert first.reference == tiny().reference


@given(space=spaces(), share=st.floats(0.3, 1.0))
@usual
def test_an_unpaired_sample_is_that_share_of_all_networks(space: SearchSpace, share: float) -> None:
    networks = space.sample(max(1, round(share * space.num_networks)), seed=8)
    if all(
        len({network[node] for network in networks}) == size
        for node, size in enumerate(space.sizes)
    ):
        sample = partial_sampling(space, share, form="unpaired", seed=8)
        assert list(sample) == networks
        assert sample.cost == len(networks)
    else:
        with pytest.raises(InvalidInputError, match="none holds block"):
            partial_sampling(space, share, form="unpaired", seed=8)


@given(space=spaces(with_rules=False), share=st.floats(0.01, 1.0))
@usual
def test_a_paired_sample_has_a_share_of_the_contexts_of_every_node(
    space: SearchSpace, share: float
) -> None:
    sample = set(partial_sampling(space, share, form="paired"))
    for node, size in enumerate(space.sizes):
        contexts = space.num_networks // size
        whole = [
            context
            for context in {without(network, node) for network in sample}
            if all(with_(context, node, block) in sample for block in range(size))
        ]
        assert len(whole) >= max(1, round(share * contexts))


def without(network: Network, node: int) -> Network:
    return network[:node] + network[node + 1 :]


def with_(context: Network, node: int, block: int) -> Network:
    return (*context[:node], block, *context[node:])


@given(space=spaces(), share=st.floats(0.01, 1.0), data=st.data())
@usual
def test_a_paired_sample_compares_every_block_with_the_reference_s(
    space: SearchSpace, share: float, data: st.DataObject
) -> None:
    reference = data.draw(st.sampled_from(networks_of(space)))
    sample = set(partial_sampling(space, share, form="paired", reference=reference))
    assert sample <= set(networks_of(space))
    for node, size in enumerate(space.sizes):
        own = {without(network, node) for network in sample if network[node] == reference[node]}
        for block in range(size):
            contexts = {without(network, node) for network in sample if network[node] == block}
            assert contexts & own, f"block {block} of node {node} has no pair"


@pytest.mark.parametrize("form", ["paired", "unpaired"])
@given(space=spaces())
@usual
def test_a_share_of_one_is_the_full_sample(form: Form, space: SearchSpace) -> None:
    sample = partial_sampling(space, 1.0, form=form)
    assert set(sample) == set(full_sampling(space))


def test_a_small_share_of_a_huge_space_is_sampled_without_listing_it() -> None:
    space = space_of([4] * 20, [1.0, 2.0, 3.0, 4.0] * 20)
    share = 30 / 4**19
    sample = partial_sampling(space, share)
    assert sample.cost == len(sample)
    assert 20 * 30 * 3 < len(sample) <= 20 * 30 * 4
    assert len(partial_sampling(space, 1e-9, form="unpaired")) == round(4**20 * 1e-9)


@pytest.mark.parametrize("share", [0, -0.1, 1.01, math.nan])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(InvalidInputError, match=r"lies in \(0, 1\].*0.05 means 5 %"):
        partial_sampling(tiny(), share)


def test_a_share_of_too_many_networks_is_refused() -> None:
    huge = space_of([10] * 12, [*range(120)])
    forms: tuple[Form, ...] = ("paired", "unpaired")
    for form in forms:
        with pytest.raises(InvalidInputError, match="smaller share, or single sampling"):
            partial_sampling(huge, 0.5, form=form)


def test_a_share_that_misses_a_block_names_it() -> None:
    with pytest.raises(InvalidInputError, match=r"none holds block 'b\d' of node 'n\d'.*another"):
        partial_sampling(tiny(), 0.05, form="unpaired")


def test_a_form_is_paired_or_unpaired() -> None:
    with pytest.raises(InvalidInputError, match="'paired' or 'unpaired', but got 'pairs'"):
        partial_sampling(tiny(), 0.5, form="pairs")  # type: ignore[arg-type]


# ---- full and random -----------------------------------------------------------------------------


def test_full_sampling_takes_every_network() -> None:
    sample = full_sampling(tiny(), reference=(0, 1, 0))
    assert list(sample) == list(itertools.product(range(3), range(2), range(4)))
    assert (sample.kind, sample.cost, sample.reference) == ("full", 24, (0, 1, 0))


def test_full_sampling_of_a_large_space_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at most 5000000 networks are sampled"):
        full_sampling(space_of([10] * 7, [*range(70)]))


def test_random_sampling_takes_distinct_networks() -> None:
    sample = random_sampling(tiny(), 10, seed=3)
    assert (sample.kind, sample.seed, sample.cost, len(sample)) == ("random", 3, 10, 10)
    assert random_sampling(tiny(), 10, seed=3) == sample != random_sampling(tiny(), 10, seed=4)
