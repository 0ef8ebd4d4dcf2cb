"""Memory of networks: real processes, and sizes by formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from building_cases import BOX, chain_space

from mathnas import Block, BlockNode, EvaluationError, InvalidInputError, Measurement, SearchSpace
from mathnas.devices.memory import MemoryEvaluator, weights_evaluator

MB = 10**6


@dataclass(frozen=True)
class Allocating:
    """An engine whose models are megabytes that are written to."""

    fails: bool = False

    name, version, threads, precision, batch = "allocating", "1", 1, "none", 1

    def prepare(self, model: int) -> Callable[[], object]:
        if self.fails:
            raise MemoryError("no room")
        return lambda: np.ones(model * MB // 8).sum()


def megabytes(network: tuple[int, ...]) -> int:
    return network[0]


def test_the_peak_is_that_of_the_network_alone() -> None:
    evaluator = MemoryEvaluator(megabytes, Allocating(), device=BOX)
    small, large = (evaluator.evaluate((size,))["memory_mb"] for size in (20, 120))
    assert isinstance(small, Measurement)
    assert isinstance(large, Measurement)
    assert small.value == pytest.approx(20, abs=3)
    # the large one first would not make the small one larger: each has its own process
    assert large.value == pytest.approx(120, abs=3)
    again = evaluator.evaluate((20,))["memory_mb"]
    assert isinstance(again, Measurement)
    assert again.value == pytest.approx(small.value, abs=2)


def test_memory_of_this_process_is_not_counted() -> None:
    ballast = np.ones(300 * MB // 8)
    evaluator = MemoryEvaluator(megabytes, Allocating(), device=BOX)
    found = evaluator.evaluate((20,))["memory_mb"]
    assert isinstance(found, Measurement)
    assert float(found.notes["process_mb"]) < 200
    assert found.value == pytest.approx(20, abs=3)
    assert ballast[0] == 1


def test_a_process_that_fails_says_why() -> None:
    evaluator = MemoryEvaluator(megabytes, Allocating(fails=True), device=BOX)
    with pytest.raises(EvaluationError, match="no room"):
        evaluator.evaluate((20,))


def test_an_engine_that_cannot_be_sent_is_told() -> None:
    engine = Allocating()
    object.__setattr__(engine, "extra", lambda: None)
    with pytest.raises(EvaluationError, match="sent by pickle"):
        MemoryEvaluator(megabytes, engine, device=BOX).evaluate((20,))


def test_no_runs_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least once"):
        MemoryEvaluator(megabytes, Allocating(), runs=0)


def test_weights_are_counted_by_the_space() -> None:
    # 100 fixed parameters, 10 for each block number
    assert weights_evaluator(chain_space()).evaluate((0, 1, 2, 3, 0), 0) == {
        "memory_mb_weights": pytest.approx(160 * 4 / MB)
    }
    half = weights_evaluator(chain_space(), "fp16").evaluate((0, 1, 2, 3, 0), 0)
    assert half["memory_mb_weights"] == pytest.approx(160 * 2 / MB)


def test_weights_need_parameters_and_a_known_precision() -> None:
    bare = SearchSpace([BlockNode("a", (Block("x"), Block("y")))], name="bare")
    with pytest.raises(InvalidInputError, match="does not say how many parameters"):
        weights_evaluator(bare)
    with pytest.raises(InvalidInputError, match="'fp3'"):
        weights_evaluator(chain_space(), "fp3")
