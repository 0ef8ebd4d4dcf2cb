"""Learning rates: a warm-up, and what comes after it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mathnas.errors import InvalidInputError
from mathnas.training.config import Phase, Schedule, TrainingConfig


@dataclass(frozen=True, slots=True)
class RateSchedule:
    """The rates of a phase's steps.

    Attributes:
        kind: what comes after the warm-up; see `TrainingConfig.schedule`.
        steps: of the phase.
        rising: of them, in the warm-up.
        highest: the rate at the end of the warm-up.
        initial: the rate that the warm-up rises from, one step before its first.
        final: the lowest rate after the warm-up.
    """

    kind: Schedule
    steps: int
    rising: int
    highest: float
    initial: float = 0.0
    final: float = 0.0

    @classmethod
    def of(cls, phase: Phase, config: TrainingConfig, steps_per_epoch: int) -> RateSchedule:
        """That of a phase.

        Raises:
            InvalidInputError: the warm-up has more steps than the phase.
        """
        steps = phase.epochs * steps_per_epoch
        rising = round(phase.warmup_epochs * steps_per_epoch)
        if phase.warmup_steps is not None:
            rising = phase.warmup_steps
        if rising > steps:
            raise InvalidInputError(
                f"a warm-up is no longer than its phase, but phase {phase.name!r} has {steps} "
                f"steps ({phase.epochs} epochs of {steps_per_epoch}) and warmup_steps={rising}: "
                "lower it, or train longer."
            )
        highest = config.highest_rate(phase)
        return cls(config.schedule, steps, rising, highest, config.initial_rate, config.final_rate)

    def rate_at(self, step: int) -> float:
        """The rate of a step, counted from 0 in the phase."""
        if step < self.rising:
            return self.initial + (self.highest - self.initial) * (step + 1) / self.rising
        if self.kind == "constant":
            return self.highest
        if self.kind == "inverse-sqrt":
            # continuous: the last step of a warm-up has the highest rate
            share = math.sqrt(max(1, self.rising) / (step + 1))
            return max(self.final, self.highest * share)
        share = (step - self.rising) / max(1, self.steps - self.rising)
        fallen = (self.highest - self.final) * 0.5 * (1 + math.cos(math.pi * share))
        return self.final + fallen
