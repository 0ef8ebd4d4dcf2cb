"""What resident parts of every engine keep."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mathnas.errors import InvalidInputError
from mathnas.runtime.dynamic import DynamicNetwork
from mathnas.runtime.resident import Images, ResidentParts
from mathnas.space import Network

Logits = npt.NDArray[np.float32]


class ResidentPartsContract:
    """Inherit and override the fixtures `parts`, `images` and `expected`.

    The space should have a block that computes nothing.

    Attributes:
        tolerance: how far outputs may be from what is expected, relative to the largest (at
            least 1).

    Example::

        class TestMyParts(ResidentPartsContract):
            @pytest.fixture
            def parts(self) -> ResidentParts:
                return MyParts(read_package())

            @pytest.fixture
            def images(self) -> Images:
                return some_images(batch=3)

            @pytest.fixture
            def expected(self) -> Callable[[Network, Images], Logits]:
                return lambda network, images: static_network(network)(images)
    """

    tolerance: float = 1e-6

    @pytest.fixture
    def parts(self) -> ResidentParts:
        """The parts under test."""
        raise NotImplementedError("override the fixture `parts` and return your parts.")

    @pytest.fixture
    def images(self) -> Images:
        """At least two images that fit."""
        raise NotImplementedError("override the fixture `images` and return some images.")

    @pytest.fixture
    def expected(self) -> Callable[[Network, Images], Logits]:
        """Logits of the static network that is extracted for good."""
        raise NotImplementedError("override the fixture `expected` and return a function.")

    @pytest.fixture
    def networks(self, parts: ResidentParts) -> list[Network]:
        """Networks to try."""
        return parts.space.sample(min(12, parts.space.num_networks), seed=3)

    def test_they_say_what_they_are(self, parts: ResidentParts) -> None:
        assert parts.engine
        assert isinstance(parts.bytes, int)
        assert parts.bytes > 0

    def test_outputs_after_random_switches_are_those_of_static_networks(
        self,
        parts: ResidentParts,
        images: Images,
        expected: Callable[[Network, Images], Logits],
        networks: list[Network],
    ) -> None:
        dynamic = DynamicNetwork(parts, networks[0])
        for network in networks:
            dynamic.switch(network)
            for batch in (images, images[:1]):
                found, wanted = dynamic.run(batch).outputs, expected(network, batch)
                assert found.dtype == np.float32
                assert found.shape == wanted.shape
                allowed = self.tolerance * max(1.0, float(np.abs(wanted).max()))
                assert np.abs(found - wanted).max() <= allowed, f"{network} differs"

    def test_blocks_that_compute_nothing_have_no_part(
        self, parts: ResidentParts, images: Images
    ) -> None:
        """And what such a block would give is its input, so it takes no time."""
        space = parts.space
        absent = [
            (node, block)
            for node, size in enumerate(space.sizes)
            for block in range(size)
            if parts.block(node, block, 0 if node else None) is None
        ]
        if not absent:
            pytest.skip("every block of this space computes something")
        node, block = absent[0]
        network = next(n for n in space.sample(space.num_networks) if n[node] == block)
        observation = DynamicNetwork(parts, network).run(images).observation
        assert observation.parts_ms[node + 1] == 0
        assert observation.parts_ms[0] > 0
        assert observation.parts_ms[-1] > 0

    def test_a_block_is_loaded_once(self, parts: ResidentParts) -> None:
        for node, size in enumerate(parts.space.sizes):
            for block in range(size):
                previous = 0 if node else None
                assert parts.block(node, block, previous) is parts.block(node, block, previous)

    def test_a_part_keeps_nothing_and_changes_no_input(
        self, parts: ResidentParts, images: Images, networks: list[Network]
    ) -> None:
        before = images.copy()
        dynamic = DynamicNetwork(parts, networks[0])
        first = dynamic.run(images).outputs
        kept = first.copy()
        dynamic.run(images[::-1].copy())
        assert np.array_equal(first, kept), "a later run wrote into an earlier one's outputs"
        assert np.array_equal(dynamic.run(images).outputs, kept)
        assert np.array_equal(images, before)

    def test_threads_run_different_networks_at_the_same_time(
        self, parts: ResidentParts, images: Images, networks: list[Network]
    ) -> None:
        """Each on images of its own; the parts are the same."""
        asked = [(n, shift) for n in networks for shift in range(len(images))] * 2

        def run(job: tuple[Network, int]) -> Any:
            network, shift = job
            own = np.roll(images, shift, axis=0)
            return DynamicNetwork(parts, network).run(own).outputs

        alone = {job: run(job) for job in dict.fromkeys(asked)}
        with ThreadPoolExecutor(4) as pool:
            for job, found in zip(asked, pool.map(run, asked), strict=True):
                assert np.array_equal(found, alone[job])

    def test_images_that_do_not_fit_are_refused(self, parts: ResidentParts, images: Images) -> None:
        wrong = [images[0], images[:, :, 1:], images[:0], images.astype(np.float64)]
        for given in wrong:
            with pytest.raises(InvalidInputError, match="images are float32"):
                parts.load(given)
