"""Which networks the designs evaluate, and how many."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
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
    balanced_sampling,
    d_optimal_sampling,
    full_sampling,
    partial_sampling,
    random_sampling,
    single_sampling,
)
from mathnas.sampling import Form, Sample


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


# ---- designed ------------------------------------------------------------------------------------

designs = pytest.mark.parametrize("design", [balanced_sampling, d_optimal_sampling])
Design = Callable[..., Sample]


def counts_of(space: SearchSpace, networks: Sequence[Network]) -> list[list[int]]:
    """For every node, how often each block stands."""
    return [
        [sum(network[node] == block for network in networks) for block in range(size)]
        for node, size in enumerate(space.sizes)
    ]


def pair_counts_of(space: SearchSpace, networks: Sequence[Network]) -> list[int]:
    """How often every two blocks of every two nodes stand together."""
    return [
        sum(network[i] == a and network[j] == b for network in networks)
        for i, j in itertools.combinations(range(space.num_nodes), 2)
        for a in range(space.sizes[i])
        for b in range(space.sizes[j])
    ]


def log_det(space: SearchSpace, networks: Sequence[Network], ridge: float = 1e-3) -> float:
    columns = [
        [float(network[node] == block) for network in networks]
        for node, size in enumerate(space.sizes)
        for block in range(size)
        if block != space.reference[node]
    ]
    matrix = np.array([[1.0] * len(networks), *columns])
    return float(np.linalg.slogdet(matrix @ matrix.T + ridge * np.eye(len(matrix)))[1])


@designs
@given(space=spaces(most_networks=120), data=st.data())
@usual
def test_a_design_has_distinct_networks_beside_those_included(
    design: Design, space: SearchSpace, data: st.DataObject
) -> None:
    include = data.draw(st.lists(st.sampled_from(networks_of(space)), max_size=8))
    left = space.num_networks - len(set(include))
    if not left:
        return
    count = data.draw(st.integers(1, left))
    sample = design(space, count, seed=3, include=include)
    assert len(sample) == sample.cost == count
    assert set(sample) <= set(networks_of(space)) - set(include)
    assert (sample.reference, sample.seed, sample.share) == (space.reference, 3, None)
    assert design(space, count, seed=3, include=include) == sample


@given(space=spaces(with_rules=False), data=st.data())
@usual
def test_a_balanced_sample_holds_the_blocks_of_a_node_equally_often(
    space: SearchSpace, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, min(space.num_networks, 60)))
    sample = balanced_sampling(space, count)
    for counts in counts_of(space, sample.networks):
        assert max(counts) - min(counts) <= 1


@designs
def test_designs_depend_on_the_seed(design: Design) -> None:
    space = space_of([4] * 6)
    first = design(space, 12, seed=1)
    assert first.kind == {"balanced_sampling": "balanced"}.get(design.__name__, "d-optimal")
    assert design(space, 12, seed=2).networks != first.networks


@pytest.mark.parametrize(("sizes", "count"), [([3] * 4, 9), ([2] * 7, 8), ([4] * 3, 16)])
def test_designs_find_small_orthogonal_arrays(sizes: list[int], count: int) -> None:
    space = space_of(sizes)
    for sample in (balanced_sampling(space, count), d_optimal_sampling(space, count)):
        assert set(pair_counts_of(space, sample.networks)) == {count // sizes[0] ** 2}


def test_pairs_of_a_balanced_sample_are_more_even_than_those_of_random_ones() -> None:
    space = space_of([5, 4, 3, 6, 5])

    def spread(sample: Sample) -> float:
        return float(np.square(pair_counts_of(space, sample.networks)).sum())

    assert spread(balanced_sampling(space, 40)) < min(
        spread(random_sampling(space, 40, seed=seed)) for seed in range(20)
    )


def test_what_is_included_counts_towards_the_balance() -> None:
    space = space_of([3, 3, 3], [*map(float, range(9))])
    include = [network for network in networks_of(space) if network[0] == 0][:4]
    sample = balanced_sampling(space, 5, include=include)
    assert sorted(counts_of(space, [*include, *sample])[0]) == [2, 3, 4]
    assert not any(network[0] == 0 for network in sample)
    more = balanced_sampling(space, 8, include=single_sampling(space))
    for counts in counts_of(space, [*single_sampling(space), *more]):
        assert max(counts) - min(counts) <= 1


@designs
def test_included_networks_may_be_named_by_blocks(design: Design) -> None:
    space = tiny()
    by_name = design(space, 5, include=[("b0", "b1", "b2"), ("b0", "b1", "b2")])
    assert by_name == design(space, 5, include=[(0, 1, 2)])
    assert (0, 1, 2) not in set(by_name)


@designs
def test_the_rest_of_a_space_is_a_design(design: Design) -> None:
    include = networks_of(staged())[:5]
    rest = design(staged(), staged().num_networks - 5, include=include)
    assert set(rest) == set(networks_of(staged())[5:])


@designs
def test_designs_determine_every_block_of_a_stage(design: Design) -> None:
    # with equal counts alone the nodes of a stage would be absent together, and so undetermined
    space = space_of([3, 4, 4, 4, 3], rules=[DepthRule((1, 2, 3), (0, 0, 0))])
    sample = design(space, 40, seed=2)
    assert log_det(space, sample.networks, ridge=0) > max(
        log_det(space, random_sampling(space, 40, seed=seed).networks, ridge=0)
        for seed in range(20)
    )
    assert min(map(min, counts_of(space, sample.networks))) >= 3


@pytest.mark.parametrize("count", [8, 20, 45])
@pytest.mark.parametrize(
    "space",
    [
        space_of([3] * 6),
        space_of([2, 5, 3, 7]),
        space_of([4] * 8, [*map(float, range(32))]),
        space_of([3, 4, 4, 2, 3], rules=[DepthRule((1, 2), (0, 3)), DepthRule((3, 4), (1, 0))]),
    ],
    ids=["even", "uneven", "larger", "stages"],
)
def test_a_d_optimal_sample_beats_random_ones(space: SearchSpace, count: int) -> None:
    include = random_sampling(space, 6, seed=99).networks
    rest = [network for network in random_sampling(space, count) if network not in include]
    sample = d_optimal_sampling(space, len(rest), include=include)
    assert log_det(space, [*include, *sample]) >= log_det(space, [*include, *rest])
    alone = d_optimal_sampling(space, count)
    assert log_det(space, alone.networks) >= max(
        log_det(space, random_sampling(space, count, seed=seed).networks) for seed in range(20)
    )


def test_a_d_optimal_sample_of_a_tiny_space_is_the_best_one() -> None:
    space = space_of([3, 2, 2])
    best = max(log_det(space, few) for few in itertools.combinations(networks_of(space), 6))
    assert log_det(space, d_optimal_sampling(space, 6).networks) == pytest.approx(best)


@designs
def test_a_design_of_a_large_space_takes_seconds(design: Design) -> None:
    space = space_of([10] * 30)
    start = time.perf_counter()
    sample = design(space, 150)
    assert time.perf_counter() - start < 30  # about 3 s, on a busy machine more
    assert sample.cost == 150


@designs
def test_a_design_without_networks_is_refused(design: Design) -> None:
    for count in (0, -1):
        with pytest.raises(InvalidInputError, match=rf"at least 1 network, but got {count}"):
            design(tiny(), count)


@designs
def test_a_design_of_more_networks_than_are_left_is_refused(design: Design) -> None:
    with pytest.raises(InvalidInputError, match="has 24 distinct networks, but 25 were asked for"):
        design(tiny(), 25)
    with pytest.raises(InvalidInputError, match="has 23 distinct networks beside the 1 included"):
        design(tiny(), 24, include=[(0, 0, 0)])


@designs
def test_including_what_is_no_network_is_refused(design: Design) -> None:
    with pytest.raises(InvalidInputError, match="blocks 0 to 2, but got 3"):
        design(tiny(), 2, include=[(3, 0, 0)])
    with pytest.raises(InvalidInputError, match="'n1' is absent and a later one is not"):
        design(staged(), 2, include=[(0, 0, 1)])
