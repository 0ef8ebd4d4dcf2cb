"""Latency of networks on the engine that will serve them.

The life of a measurement: `models` gives a network in the form that the engine reads, the engine
*prepares* it (loads, optimises, allocates) into a callable that runs one batch,
`mathnas.devices.timing` times the callable, `mathnas.devices.state` watches the machine meanwhile,
and `mathnas.devices.noise` judges whether the time can be trusted: if not, it is taken again, and
at last refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from mathnas.devices.host import Device, this_device
from mathnas.devices.noise import Flag, NoiseRule, flag_notes
from mathnas.devices.repeating import measured_quietly
from mathnas.devices.state import ROOT, MachineState, Usage
from mathnas.devices.timing import Timing, TimingSettings, check_statistics, time_in_turns
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Measurement, StreamingEvaluator
from mathnas.metrics import metric_named
from mathnas.space import Network

ModelT = TypeVar("ModelT")
_ReadT = TypeVar("_ReadT", contravariant=True)


class Engine(Protocol[_ReadT]):
    """Runs networks: one file an engine in `mathnas.devices`.

    Attributes:
        name, version: of the engine.
        threads: that one run uses.
        precision: of the arithmetic, for example ``fp32``.
        batch: inputs in one run.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def threads(self) -> int: ...

    @property
    def precision(self) -> str: ...

    @property
    def batch(self) -> int: ...

    def prepare(self, model: _ReadT) -> Callable[[], object]:
        """Load a model; the result runs it once, on inputs that were allocated before.

        Raises:
            InvalidInputError: the model does not fit the engine's settings.
        """
        ...


@runtime_checkable
class HasConditions(Protocol):
    """An engine with more settings that its times depend on.

    Attributes:
        conditions: their names and values. ``accelerator`` names what computes where it is not the
            processor, which then need not be busy.
    """

    @property
    def conditions(self) -> Mapping[str, str]: ...


def engine_conditions(engine: Engine[ModelT]) -> dict[str, str]:
    """Under which conditions an engine's times hold, as texts."""
    return {
        "engine": engine.name,
        "engine_version": engine.version,
        "threads": str(engine.threads),
        "precision": engine.precision,
        "batch": str(engine.batch),
        **(engine.conditions if isinstance(engine, HasConditions) else {}),
    }


def check_threads_and_batch(threads: int, batch: int) -> None:
    """Check an engine's settings.

    Raises:
        InvalidInputError: one is less than 1.
    """
    if threads < 1 or batch < 1:
        raise InvalidInputError(f"threads and batch are at least 1, but got {threads} and {batch}.")


def made_up_input(
    name: str,
    shape: Sequence[int | str | None],
    kind: str,
    types: Mapping[str, type[np.generic]],
    batch: int,
) -> np.ndarray:
    """An input of a graph: random numbers between 0 and 1 (integers: zeros), the same each time.

    Args:
        name, shape, kind: of the input; open sizes are texts or None.
        types: those that the engine's kinds stand for.
        batch: inputs in one run.

    Raises:
        InvalidInputError: the graph has another batch size, an open dimension besides the batch,
            or an input of an unknown type.
    """
    first, *rest = shape
    if isinstance(first, int) and first != batch:
        raise InvalidInputError(
            f"this engine runs {batch} inputs at once, but the graph's input {name!r} has "
            f"the fixed batch {first}: export it with this batch or an open one."
        )
    if not all(isinstance(size, int) for size in rest):
        raise InvalidInputError(
            f"only the batch of a graph may be open, but input {name!r} has the shape "
            f"{list(shape)}: export it for fixed sizes."
        )
    if kind not in types:
        raise InvalidInputError(
            f"inputs of the types {', '.join(types)} can be made up, but {name!r} is {kind}."
        )
    sizes = (batch, *(int(size) for size in rest if size is not None))
    return np.random.default_rng(0).random(sizes).astype(types[kind])


class LatencyEvaluator(StreamingEvaluator, Generic[ModelT]):
    """Milliseconds that one batch takes on an engine (``latency_ms``).

    Networks that are evaluated together are timed in turns (see `mathnas.devices.timing`), so a
    larger `batch_size` makes them more comparable, and holds that many prepared networks in
    memory.

    Notes of each measurement say how often it was taken (``attempts``), which rules it breaks
    (``flags``), what the machine did, and the time's other statistics.

    Args:
        models: a network to the form that the engine reads.
        engine: what runs it.
        device: by default this machine.
        timing: how to time.
        batch_size: networks that are timed in turns.
        statistics: further ones of each time (`mathnas.devices.timing.STATISTICS`), as metrics
            ``latency_ms_median``, ``latency_ms_min``, ``latency_ms_trimmed``, ``latency_ms_cpu``.
        reference: a network that is timed in turns with all others, so that a machine that has
            become slower or faster is noticed.
        noise: what is too noisy, and how often it is tried again.
        accept_noise: keep what stays noisy, with its flags; the conditions then say so.
        root: where ``proc`` and ``sys`` are found (for tests).

    Example:
        >>> class Counter:
        ...     name, version, threads, precision, batch = "count", "1", 1, "none", 1
        ...     def prepare(self, model):
        ...         return lambda: sum(range(model))
        >>> evaluator = LatencyEvaluator(lambda network: 1000, Counter(), accept_noise=True)
        >>> 0.001 < evaluator.evaluate((1,))["latency_ms"].value < 10.0
        True
    """

    exclusive = True
    device: Device

    def __init__(
        self,
        models: Callable[[Network], ModelT],
        engine: Engine[ModelT],
        *,
        device: Device | None = None,
        timing: TimingSettings | None = None,
        batch_size: int = 1,
        statistics: Sequence[str] = (),
        reference: Network | None = None,
        noise: NoiseRule | None = None,
        accept_noise: bool = False,
        root: Path = ROOT,
    ) -> None:
        if batch_size < 1:
            raise InvalidInputError(f"batch_size is at least 1, but got {batch_size}.")
        check_statistics(statistics)
        self.models = models
        self.engine = engine
        self.device = device or this_device()
        self.timing = timing or TimingSettings()
        self.batch_size = batch_size
        self.statistics = tuple(statistics)
        self.noise = noise or NoiseRule()
        self.accept_noise = accept_noise
        self.metrics = tuple(
            metric_named(name)
            for name in ("latency_ms", *(f"latency_ms_{name}" for name in statistics))
        )
        self.threads = engine.threads
        self.conditions = {
            "device": self.device.name,
            **engine_conditions(engine),
            "statistic": str(self.timing),
            **({"noise": "accepted"} if accept_noise else {}),
        }
        self._root = root
        self._reference = None if reference is None else _Reference(reference)

    def evaluate_each(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Iterator[tuple[int, Mapping[str, Measurement | float]]]:
        """Each network's place and metrics, as soon as they can be trusted.

        Raises:
            NoiseError: some stayed noisy, after all others have come.
        """
        calls = [self.engine.prepare(self.models(network)) for network in networks]
        for place, found, attempts in measured_quietly(
            networks,
            lambda places: self._attempt([calls[place] for place in places]),
            self.noise,
            metric="latency",
            accept_noise=self.accept_noise,
        ):
            yield place, self._metrics(found, attempts)

    def _attempt(self, calls: Sequence[Callable[[], object]]) -> list[_Attempt]:
        """Time calls in turns, with the reference, and judge what comes out."""
        reference = self._reference
        further = [] if reference is None else [self._call_of(reference)]
        before = Usage.now(self._root)
        timings = time_in_turns([*calls, *further], self.timing)
        usage = before.until_now(self._root)
        flags = self.noise.machine_flags(usage, self.engine.threads)
        notes = {**MachineState.read(self._root).notes(), **usage.notes()}
        # where the kernel does not tell who waited, arithmetic on one thread tells it by itself
        on_processor = "accelerator" not in self.conditions
        busy = usage.waited is None and self.engine.threads == 1 and on_processor
        if reference is not None:
            last = timings.pop()
            flags += self.noise.reference_flags(last, reference.first_ms)
            if reference.first_ms is None and not flags:
                reference.first_ms = last.value
            notes |= {"reference_ms": f"{last.value:.6g}", "reference_drift": f"{last.drift:+.4f}"}
        return [
            _Attempt(timing, [*flags, *self.noise.timing_flags(timing, must_be_busy=busy)], notes)
            for timing in timings
        ]

    def _call_of(self, reference: _Reference) -> Callable[[], object]:
        if reference.call is None:
            reference.call = self.engine.prepare(self.models(reference.network))
        return reference.call

    def _metrics(self, found: _Attempt, attempts: int) -> dict[str, Measurement | float]:
        notes = {"attempts": str(attempts), **found.all_notes()}
        further = {
            f"latency_ms_{name}": found.timing.measurement(name, notes) for name in self.statistics
        }
        return {"latency_ms": found.timing.measurement(notes=notes), **further}


@dataclass
class _Reference:
    """The reference network of an evaluator, as far as it was needed.

    Attributes:
        first_ms: its time when it was first measured without flags.
    """

    network: Network
    call: Callable[[], object] | None = None
    first_ms: float | None = None


@dataclass(frozen=True)
class _Attempt:
    """A time, the rules that it breaks, and what the machine did."""

    timing: Timing
    flags: Sequence[Flag]
    machine: Mapping[str, str]

    @property
    def disorder(self) -> float:
        """Of several attempts the one that was least off the processor is best."""
        return self.timing.idle

    def all_notes(self) -> dict[str, str]:
        timing = self.timing
        return {
            **self.machine,
            "median_ms": f"{timing.median:.6g}",
            "minimum_ms": f"{timing.minimum:.6g}",
            "cpu_ms": f"{timing.cpu_ms:.6g}",
            "drift": f"{timing.drift:+.4f}",
            **flag_notes(self.flags),
        }
