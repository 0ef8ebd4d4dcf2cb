"""Latency by comparison with one network, for tables that hold on a machine that does other things.

Networks are timed in turns (`mathnas.devices.timing`), and in every round the *reference* network
is one of them. The fastest run of a slice has met no interruption; what slows the machine for
longer slows the reference of the same round as much, and the ratio of the two does not see it. A
network's latency is the median ratio over the rounds, times the reference's latency, which is
measured once and stands in the conditions. Networks that were measured at different hours can so be
told apart by a percent where their times differ by ten.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Generic

import numpy as np

from mathnas.devices.common import Engine, ModelT, engine_conditions
from mathnas.devices.host import Device, this_device
from mathnas.devices.state import MachineState
from mathnas.devices.timing import OwnClock, TimingSettings
from mathnas.errors import EvaluationError, InvalidInputError
from mathnas.evaluation import Evaluator, Measurement
from mathnas.metrics import Floats, metric_named
from mathnas.space import Network, network_text
from mathnas.study import Study

_FEWEST_RUNS = 5
_LEVEL_ROUNDS = 100
_LEVEL_QUANTILE = 0.25
_MEDIAN = math.sqrt(math.pi / 2)  # standard error of a median, relative to that of a mean
REFERENCE_MS = "reference_ms"
"""In conditions: the reference's latency that all are relative to; in notes: what it was then."""


class RelativeLatencyEvaluator(Evaluator, Generic[ModelT]):
    """Milliseconds that one batch takes on an engine (``latency_ms``), relative to a reference.

    `notes` of each measurement hold what the reference took in the same rounds (``reference_ms``),
    so that drift is seen, what the network itself took (``own_ms``), and how the machine was.

    Args:
        models: a network to the form that the engine reads.
        engine: what runs it.
        reference: the network that is timed in every round.
        device: by default this machine.
        timing: rounds, length of slices and warm-up; `TimingSettings.quantile` is not used.
        batch_size: networks that are timed in turns, beside the reference.
        noise_limit: largest relative standard error of a ratio that counts as measured.
        attempts: how often `rounds` more are added for networks above that limit.
        accept_noise: whether networks that stay above it are kept (noted ``noise=accepted``)
            instead of failing.

    Raises:
        InvalidInputError: a number is out of range.
    """

    exclusive = True

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
        accept_noise: bool = False,
    ) -> None:
        if batch_size < 1 or attempts < 0 or not noise_limit > 0:
            raise InvalidInputError(
                "batch_size is at least 1, attempts at least 0 and noise_limit positive, but got "
                f"{batch_size}, {attempts} and {noise_limit}."
            )
        self.models = models
        self.engine = engine
        self.reference = reference
        machine = device or this_device()
        self.device = machine
        self._machine = machine.name
        self.timing = timing or TimingSettings(rounds=40)
        self.batch_size = batch_size
        self.noise_limit = noise_limit
        self.attempts = attempts
        self.accept_noise = accept_noise
        self.metrics = (metric_named("latency_ms"),)
        self.threads = engine.threads
        self.also: dict[str, str] = {}
        """Other conditions, such as the resolution."""
        self._known: float | None = None

    @property
    def conditions(self) -> Mapping[str, str]:  # type: ignore[override]
        """As of every latency; the first time that they are asked for, the reference is timed."""
        return {**self._fixed, REFERENCE_MS: f"{self.level_ms:.6g}"}

    @property
    def _fixed(self) -> dict[str, str]:
        timing = self.timing
        return {
            "device": self._machine,
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
        """The reference's latency: a low quantile of the fastest runs of many slices."""
        if self._known is not None:
            return self._known
        count = self._reference_runs
        fastest = [_fastest(self._reference_run, count) for _ in range(_LEVEL_ROUNDS)]
        return float(f"{float(np.quantile(fastest, _LEVEL_QUANTILE)):.6g}")

    @cached_property
    def _reference_run(self) -> Callable[[], object]:
        return self.engine.prepare(self.models(self.reference))

    @cached_property
    def _reference_runs(self) -> int:
        """In a slice."""
        fastest = _warm_up(self._reference_run, self.timing)
        return max(_FEWEST_RUNS, math.ceil(self.timing.slice_ms / max(fastest, 1e-6)))

    def evaluate(self, network: Network, seed: int = 0) -> Mapping[str, Measurement | float]:
        return self.evaluate_batch([network], [seed])[0]

    def evaluate_batch(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Sequence[Mapping[str, Measurement | float]]:
        """Raises:
        EvaluationError: the machine is too noisy for one of the networks.
        """
        level = self.level_ms
        calls = [self._reference_run, *(self.engine.prepare(self.models(n)) for n in networks)]
        fastest = self._timed(calls)
        ratios = fastest[1:] / fastest[0]
        notes = {
            **MachineState.read().notes(),
            REFERENCE_MS: f"{float(np.median(fastest[0])):.6g}",
        }
        found: list[Mapping[str, Measurement | float]] = []
        for network, ratio, own in zip(networks, ratios, fastest[1:], strict=True):
            value, error = float(np.median(ratio)), _error(ratio)
            if error > self.noise_limit * value and not self.accept_noise:
                raise EvaluationError(
                    f"a latency is known to {self.noise_limit:.1%}, but that of "
                    f"{network_text(network)} only to {error / value:.1%} after "
                    f"{len(ratio)} rounds: stop what else runs on this machine, or accept the "
                    "noise (--accept-noise)."
                )
            noisy = {"noise": "accepted"} if error > self.noise_limit * value else {}
            measured = Measurement(
                level * value,
                level * error * math.sqrt(len(ratio)),
                len(ratio),
                {**notes, "own_ms": f"{float(np.median(own)):.6g}", **noisy},
            )
            found.append({"latency_ms": measured})
        return found

    def _timed(self, calls: Sequence[Callable[[], object]]) -> Floats:
        """The fastest run of each call in each round, in milliseconds: shape (calls, rounds)."""
        for call in calls:
            _warm_up(call, self.timing)
        # as many for all: the fastest of more runs is faster
        count = self._reference_runs
        rng = np.random.default_rng(0)
        rounds: list[Floats] = []
        collecting = gc.isenabled()
        gc.disable()
        try:
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
        finally:
            if collecting:
                gc.enable()
        return times


def _error(ratios: Floats) -> float:
    """The standard error of the median, from the quartiles."""
    low, high = np.quantile(ratios, [0.25, 0.75])
    return _MEDIAN * float(high - low) / 1.349 / math.sqrt(len(ratios))


def _warm_up(call: Callable[[], object], settings: TimingSettings) -> float:
    """Run until it becomes no faster; returns the fastest run, in milliseconds."""
    call()
    fastest, spent = math.inf, 0.0
    while spent < settings.warmup_ms:
        now = _fastest(call, _FEWEST_RUNS)
        spent += _FEWEST_RUNS * now
        if now > 0.97 * fastest:
            break
        fastest = now
    return fastest


def _fastest(call: Callable[[], object], count: int) -> float:
    """The shortest of `count` runs, in milliseconds, after one that is not counted."""
    own = call.last_ms if isinstance(call, OwnClock) else None
    clock = time.perf_counter_ns
    shortest = math.inf
    call()
    for _ in range(count):
        start = clock()
        call()
        shortest = min(shortest, (clock() - start) / 1e6 if own is None else own())
    return shortest
