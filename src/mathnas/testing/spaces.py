"""What every search space keeps."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from mathnas.errors import InvalidInputError
from mathnas.sampling import single_sampling
from mathnas.space import AS_WRITTEN, Network, SearchSpace

_LISTED = 100_000


class SpaceContract:
    """Inherit and override the fixture `space`.

    Example::

        class TestMySpace(SpaceContract):
            @pytest.fixture
            def space(self) -> SearchSpace:
                return MySpace(depth=4)
    """

    @pytest.fixture
    def space(self) -> SearchSpace:
        """The space under test."""
        raise NotImplementedError("override the fixture `space` and return your search space.")

    @pytest.fixture
    def networks(self, space: SearchSpace) -> Sequence[Network]:
        """Networks to try: a random sample and the reference."""
        count = min(200, space.num_networks)
        return [space.reference, *space.sample(count, seed=1)]

    def test_the_reference_is_a_network(self, space: SearchSpace) -> None:
        assert space.check(space.reference) == space.reference

    def test_networks_are_found_by_index_and_by_name(
        self, space: SearchSpace, networks: Sequence[Network]
    ) -> None:
        for network in networks:
            assert space.check(network) == network
            assert space.check(space.block_names(network)) == network
            assert space.parse(",".join(map(str, network))) == network

    def test_what_is_no_network_is_refused(self, space: SearchSpace) -> None:
        too_long = (*space.reference, 0)
        out_of_range = (space.sizes[0], *space.reference[1:])
        for wrong in (too_long, space.reference[1:], out_of_range):
            with pytest.raises(InvalidInputError):
                space.check(wrong)

    def test_samples_are_distinct_networks_and_repeatable(self, space: SearchSpace) -> None:
        count = min(100, space.num_networks)
        sample = space.sample(count, seed=7)
        assert len(set(sample)) == count
        assert space.check_many(sample).tolist() == [list(network) for network in sample]
        assert space.sample(count, seed=7) == sample

    def test_the_number_of_networks_is_that_of_the_enumeration(self, space: SearchSpace) -> None:
        assert space.num_networks >= 1
        if space.num_networks <= _LISTED:
            listed = list(space.enumerate())
            assert len(set(listed)) == len(listed) == space.num_networks
            assert space.check_many(listed).tolist() == [list(network) for network in listed]

    def test_canonical_forms_are_networks_and_stay_as_they_are(
        self, space: SearchSpace, networks: Sequence[Network]
    ) -> None:
        for network in networks:
            form = space.canonical(network)
            assert space.check(form) == form
            assert space.canonical(form) == form

    def test_forms_are_networks_whatever_they_are_asked_with(
        self, space: SearchSpace, networks: Sequence[Network]
    ) -> None:
        """A form of a network is a network, and does not depend on the others of its batch."""
        together = space.check_many(networks)
        given = together.copy()
        for form in space.forms:
            formed = space.formed(together, form)
            assert formed.shape == together.shape, f"the form {form!r} changes the shape"
            assert space.check_many(formed).tolist() == formed.tolist()
            alone = [space.formed(together[[row]], form)[0].tolist() for row in range(len(given))]
            assert alone == formed.tolist(), f"the form {form!r} depends on the batch"
            assert space.formed(together[:0], form).shape == (0, space.num_nodes)
        assert together.tolist() == given.tolist(), "a form changes what it is given"
        assert space.formed(together, AS_WRITTEN).tolist() == given.tolist()
        with pytest.raises(InvalidInputError):
            space.formed(together, "no such form")

    def test_features_are_finite_numbers_whatever_they_are_asked_with(
        self, space: SearchSpace, networks: Sequence[Network]
    ) -> None:
        """Features are of one width, finite, and do not depend on the others of the batch."""
        together = space.check_many(networks)
        if not space.has_features:
            with pytest.raises(InvalidInputError):
                space.features(together)
            return
        given = together.copy()
        features = space.features(together)
        assert features.dtype == np.float64
        assert features.ndim == 2
        assert features.shape[0] == len(together)
        assert features.shape[1] >= 1
        assert np.isfinite(features).all()
        for row, expected in enumerate(features):
            alone = space.features(together[[row]])
            assert alone.shape == (1, len(expected))
            assert alone[0].tolist() == expected.tolist(), "features depend on the batch"
        assert together.tolist() == given.tolist(), "features change what they are given"

    def test_single_sampling_tries_every_block(self, space: SearchSpace) -> None:
        sample = single_sampling(space, space.reference)
        assert sample.cost == sum(size - 1 for size in space.sizes) + 1
        for node, size in enumerate(space.sizes):
            assert {network[node] for network in sample} == set(range(size))

    def test_macs_add_up_where_they_are_known(
        self, space: SearchSpace, networks: Sequence[Network]
    ) -> None:
        if space.block_macs is None:
            with pytest.raises(InvalidInputError, match="MACs of every block"):
                space.macs(list(networks))
            return
        for network, macs in zip(networks, space.macs(list(networks)).tolist(), strict=True):
            blocks = [node.blocks[j].macs for node, j in zip(space.nodes, network, strict=True)]
            known = [cost for cost in blocks if cost is not None]
            assert len(known) == space.num_nodes
            known += [
                float(pair.macs[network[pair.first], network[pair.second]])
                for pair in space.pair_costs
                if pair.macs is not None
            ]
            assert macs == pytest.approx(math.fsum([space.fixed_macs or 0.0, *known]))
        if space.num_networks <= _LISTED:
            mean = space.macs(space.all_networks()).mean()
            assert space.mean_macs() == pytest.approx(mean)

    def test_a_file_brings_back_an_equal_space(self, space: SearchSpace) -> None:
        text = json.dumps(space.to_dict(), allow_nan=False)
        restored = SearchSpace.from_dict(json.loads(text))
        assert restored == space
        assert restored.reference == space.reference
        assert restored.num_networks == space.num_networks

    def test_workers_get_an_equal_space(
        self, space: SearchSpace, networks: Sequence[Network]
    ) -> None:
        received = pickle.loads(pickle.dumps(space))
        assert received == space
        assert [received.canonical(n) for n in networks] == [space.canonical(n) for n in networks]
        rows = space.check_many(networks)
        for form in space.forms:
            assert received.formed(rows, form).tolist() == space.formed(rows, form).tolist()
        if space.has_features:
            assert received.features(rows).tolist() == space.features(rows).tolist()
