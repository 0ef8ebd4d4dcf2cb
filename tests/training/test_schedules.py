"""Learning rates of a phase's steps."""

from __future__ import annotations

import itertools
import math

import pytest

from mathnas import InvalidInputError
from mathnas.training.config import Phase, Schedule, TrainingConfig
from mathnas.training.schedules import RateSchedule

KINDS: tuple[Schedule, ...] = ("cosine", "inverse-sqrt", "constant")


def rates(config: TrainingConfig, steps_per_epoch: int = 10, phase: int = 0) -> list[float]:
    schedule = RateSchedule.of(config.plan()[phase], config, steps_per_epoch)
    return [schedule.rate_at(step) for step in range(schedule.steps)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_up_is_told_in_epochs_or_in_steps(kind: Schedule) -> None:
    config = TrainingConfig(epochs=4, learning_rate=0.3, schedule=kind)
    in_epochs = rates(config.replace(warmup_epochs=1.5))
    assert in_epochs == rates(config.replace(warmup_steps=15))
    assert in_epochs[:15] == pytest.approx([0.3 * (step + 1) / 15 for step in range(15)])
    assert max(in_epochs) == in_epochs[14] == 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_up_rises_in_equal_parts_from_the_initial_rate(kind: Schedule) -> None:
    config = TrainingConfig(
        epochs=4, learning_rate=1e-3, schedule=kind, warmup_steps=8, initial_rate=2e-4
    )
    found = rates(config)
    assert found[:8] == pytest.approx([2e-4 + 8e-4 * (step + 1) / 8 for step in range(8)])


def test_a_cosine_falls_to_the_final_rate() -> None:
    config = TrainingConfig(epochs=4, learning_rate=0.5, warmup_steps=4, final_rate=0.1)
    found = rates(config)
    after = found[4:]
    assert len(after) == 36
    expected = [0.1 + 0.4 * (1 + math.cos(math.pi * step / 36)) / 2 for step in range(36)]
    assert after == pytest.approx(expected)
    assert all(0.1 < later < earlier for earlier, later in itertools.pairwise(after))
    # symmetric about the middle: what is lost early is what is kept late
    assert after[9] + after[27] == pytest.approx(0.6)


def test_an_inverse_root_halves_when_the_steps_are_four_times_the_warm_up() -> None:
    config = TrainingConfig(
        epochs=10, learning_rate=0.2, schedule="inverse-sqrt", warmup_steps=9, final_rate=0.07
    )
    found = rates(config)
    assert found[8] == 0.2  # the ninth step
    assert found[35] == pytest.approx(0.1)
    for step in range(9, 73):  # from there the floor holds
        assert found[step] == pytest.approx(0.2 * (9 / (step + 1)) ** 0.5)
    assert set(found[74:]) == {0.07}


def test_an_inverse_root_without_a_warm_up_begins_with_the_highest_rate() -> None:
    found = rates(TrainingConfig(epochs=1, learning_rate=0.2, schedule="inverse-sqrt"))
    assert found == pytest.approx([0.2 / (step + 1) ** 0.5 for step in range(10)])


def test_a_constant_rate_stays() -> None:
    assert set(rates(TrainingConfig(epochs=2, learning_rate=0.2, schedule="constant"))) == {0.2}


def test_every_phase_has_its_own_rates() -> None:
    phases = (
        Phase("a", 2, distill=0.0, warmup_steps=3),
        Phase("b", 1, distill=0.0, learning_rate=0.5, warmup_epochs=0.5),
    )
    config = TrainingConfig(
        recipe="shrinking", phases=phases, learning_rate=0.1, schedule="inverse-sqrt"
    )
    one, two = rates(config), rates(config, phase=1)
    assert (len(one), len(two)) == (20, 10)
    assert one[11] == pytest.approx(0.05)
    assert two[4] == 0.5
    assert two[9] == pytest.approx(0.5 / 2**0.5)


def test_a_warm_up_that_is_longer_than_its_phase_is_refused() -> None:
    config = TrainingConfig(recipe="shrinking", epochs=6, warmup_steps=21)
    message = r"phase 'largest' has 20 steps \(2 epochs of 10\) and warmup_steps=21"
    with pytest.raises(InvalidInputError, match=message):
        rates(config)
    assert max(rates(config, 11)) == config.learning_rate
