"""Latency by comparison with one network, for tables that hold on a machine that does other things.

Networks are timed in turns (`mathnas.devices.timing`), and in every round the *reference* network
is one of them. The fastest run of a slice has met no interruption; what slows the machine for
longer slows the reference of the same round as much, and the ratio of the two does not see it. A
network's latency is the median ratio over the rounds, times the reference's latency, which is
measured once, when the machine is quiet (`mathnas.devices.noise`), and stands in the conditions.
Networks that were measured at different hours can so be told apart by a percent where their times
differ by ten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic

import numpy as np

from mathnas.devices.common import Engine, ModelT, engine_conditions
from mathnas.devices.host import Device, this_device
from mathnas.devices.noise import Flag, NoiseError, NoiseRule, flag_notes
from mathnas.devices.repeating import measured_quietly
from mathnas.devices.state import ROOT, MachineState, Usage
from mathnas.devices.timing import (
    TimingSettings,
    no_garbage_collection,
    quartile_spread,
    run_times,
    warm_up,
)
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Measurement, StreamingEvaluator
from mathnas.metrics import Floats, metric_named
from mathnas.space import Network, network_text
from mathnas.study import Study

_LEVEL_ROUNDS = 100
_LEVEL_QUANTILE = 0.25
_MEDIAN = math.sqrt(math.pi / 2)  # standard error of a median, relative to that of a mean
REFERENCE_MS = "reference_ms"
"""In conditions: the reference's latency that all are relative to; in notes: what it was then."""


class RelativeLatencyEvaluator(StreamingEvaluator, Generic[ModelT]):
    """Milliseconds that one batch takes on an engine (``latency_ms``), relative to a reference.

    `notes` of each measurement hold what the reference took in the same rounds (``reference_ms``),
    so that drift is seen, what the network itself took (``own_ms``), how the machine was, and which
    rules of noise it broke (``flags``). Those do not count against a ratio; they do against the
    reference's own latency, which is measured again, and at last refused.

    Args:
        models: a network to the form that the engine reads.
        engine: what runs it.
        reference: the network that is timed in every round.
        device: by default this machine.
        timing: rounds, length of slices and warm-up; `TimingSettings.quantile` is not used.
        batch_size: networks that are timed in turns, beside the reference.
        noise_limit: largest relative standard error of a ratio that counts as measured.
        attempts: how often `rounds` more are added for networks above that limit.
        noise: what is too noisy for the reference's own latency, and how often that is tried again.
        accept_noise: whether networks that stay above the limit are kept, with a note ``flags``,
            instead of failing, and the reference's latency as well.
        root: where ``proc`` and ``sys`` are found (for tests).

    Raises:
        InvalidInputError: a number is out of range.
    """

    exclusive = True
    device: Device

    def __init__(
        self,
        models: Callable[[Network], ModelT],
        engine: Engine[ModelT],
        reference: Network,
        *,
        device: Device | None = None,
        timing: TimingSettings | None = None,
        batch_size: int = 12,
        noise_limit: float = 0.02,
        attempts: int = 3,
        noise: NoiseRule | None = None,
        accept_noise: bool = False,
        root: Path = ROOT,
    ) -> None:
        if batch_size < 1 or attempts < 0 or not noise_limit > 0:
            raise InvalidInputError(
                "batch_size is at least 1, attempts at least 0 and noise_limit positive, but got "
                f"{batch_size}, {attempts} and {noise_limit}."
            )
        self.models = models
        self.engine = engine
        self.reference = reference
        self.device = device or this_device()
        self.timing = timing or TimingSettings(rounds=40)
        self.batch_size = batch_size
        self.noise_limit = noise_limit
        self.attempts = attempts
        self.noise = noise or NoiseRule()
        self.accept_noise = accept_noise
        self.metrics = (metric_named("latency_ms"),)
        self.threads = engine.threads
        self.also: dict[str, str] = {}
        """Other conditions, such as the resolution."""
        self._root = root
        self._known: float | None = None

    @property
    def conditions(self) -> Mapping[str, str]:  # type: ignore[override]
        """As of every latency; the first time that they are asked for, the reference is timed.

        Raises:
            NoiseError: its time stayed disturbed.
        """
        return {**self._fixed, REFERENCE_MS: f"{self.level_ms:.6g}"}

    @property
    def _fixed(self) -> dict[str, str]:
        timing = self.timing
        return {
            "device": self.device.name,
            **engine_conditions(self.engine),
            "statistic": f"median of {timing.rounds} ratios of the fastest of {timing.slice_ms:g} "
            "ms of runs to the reference's",
            "reference": network_text(self.reference),
            **({"noise": "accepted"} if self.accept_noise else {}),
            **self.also,
        }

    def settle(self, study: Study) -> None:
        """Take the reference's latency from a study that holds measurements of this kind already,
        so that new ones join them."""
        for found in study.conditions("latency_ms"):
            level = found.pop(REFERENCE_MS, "")
            if found == self._fixed:
                self._known = float(level)
                return

    @cached_property
    def level_ms(self) -> float:
        """The reference's latency: a low quantile of the fastest runs of many slices.

        Raises:
            NoiseError: it stayed disturbed.
        """
        if self._known is not None:
            return self._known
        ((_, level, _),) = measured_quietly(
            [self.reference],
            lambda _: [self._level()],
            self.noise,
            metric="latency",
            accept_noise=self.accept_noise,
        )
        return float(f"{level.ms:.6g}")

    def _level(self) -> _Level:
        count = self._reference_runs
        before = Usage.now(self._root)
        fastest = [_fastest(self._reference_run, count) for _ in range(_LEVEL_ROUNDS)]
        usage = before.until_now(self._root)
        return _Level(
            float(np.quantile(fastest, _LEVEL_QUANTILE)),
            self.noise.machine_flags(usage, self.engine.threads),
        )

    @cached_property
    def _reference_run(self) -> Callable[[], object]:
        return self.engine.prepare(self.models(self.reference))

    @cached_property
    def _reference_runs(self) -> int:
        """In a slice."""
        return warm_up(self._reference_run, self.timing)

    def evaluate_each(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Iterator[tuple[int, Mapping[str, Measurement | float]]]:
        """Each network's place and latency.

        Raises:
            NoiseError: some are not known well enough, after all others have come.
        """
        level = self.level_ms
        calls = [self._reference_run, *(self.engine.prepare(self.models(n)) for n in networks)]
        before = Usage.now(self._root)
        fastest = self._timed(calls)
        usage = before.until_now(self._root)
        machine = self.noise.machine_flags(usage, self.engine.threads)
        notes = {
            **MachineState.read(self._root).notes(),
            **usage.notes(),
            REFERENCE_MS: f"{float(np.median(fastest[0])):.6g}",
        }
        noisy: list[tuple[Network, float]] = []
        for place, own in enumerate(fastest[1:]):
            ratios = own / fastest[0]
            value, error = float(np.median(ratios)), _error(ratios)
            flags = [str(flag) for flag in machine]
            if error > self.noise_limit * value:
                if not self.accept_noise:
                    noisy.append((networks[place], error / value))
                    continue
                flags.append(f"known to {error / value:.1%} (at most {self.noise_limit:.1%})")
            measured = Measurement(
                level * value,
                level * error * math.sqrt(len(ratios)),
                len(ratios),
                {**notes, "own_ms": f"{float(np.median(own)):.6g}", **flag_notes(flags)},
            )
            yield place, {"latency_ms": measured}
        if noisy:
            network, error = noisy[0]
            more = f" and {len(noisy) - 1} more" if len(noisy) > 1 else ""
            raise NoiseError(
                f"a latency is known to {self.noise_limit:.1%}, but that of "
                f"{network_text(network)}{more} only to {error:.1%} after {fastest.shape[1]} "
                "rounds: stop what else runs on this machine and run this again, which repeats "
                "only what is missing, or accept the noise (accept_noise=True, --accept-noise)."
            )

    def _timed(self, calls: Sequence[Callable[[], object]]) -> Floats:
        """The fastest run of each call in each round, in milliseconds: shape (calls, rounds)."""
        for call in calls:
            warm_up(call, self.timing)
        # as many for all: the fastest of more runs is faster
        count = self._reference_runs
        rng = np.random.default_rng(0)
        rounds: list[Floats] = []
        with no_garbage_collection():
            for _ in range(1 + self.attempts):
                for _ in range(self.timing.rounds):
                    turn = np.empty(len(calls))
                    for index in rng.permutation(len(calls)).tolist():
                        turn[index] = _fastest(calls[index], count)
                    rounds.append(turn)
                times: Floats = np.array(rounds).T
                ratios = times[1:] / times[0]
                if all(_error(r) <= self.noise_limit * np.median(r) for r in ratios):
                    break
        return times


@dataclass(frozen=True)
class _Level:
    """What the reference took, and the rules of noise that were broken meanwhile."""

    ms: float
    flags: Sequence[Flag]

    @property
    def disorder(self) -> float:
        """Of several disturbed ones the shortest is nearest to the truth."""
        return self.ms


def _error(ratios: Floats) -> float:
    """The standard error of the median, from the quartiles."""
    return _MEDIAN * quartile_spread(ratios) / math.sqrt(len(ratios))


def _fastest(call: Callable[[], object], count: int) -> float:
    """The shortest of `count` runs, in milliseconds, after one that is not counted."""
    call()
    return float(run_times(call, count).min())
