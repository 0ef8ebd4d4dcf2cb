"""Latency of networks on the engine that will serve them.

The life of a measurement: `models` gives a network in the form that the engine reads, the engine
*prepares* it (loads, optimises, allocates) into a callable that runs one batch, and
`mathnas.devices.timing` times the callable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from mathnas.devices.host import Device, this_device
from mathnas.devices.timing import TimingSettings, time_in_turns
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Evaluator, Measurement
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


class LatencyEvaluator(Evaluator, Generic[ModelT]):
    """Milliseconds that one batch takes on an engine (``latency_ms``).

    Networks that are evaluated together are timed in turns (see `mathnas.devices.timing`), so a
    larger `batch_size` makes them more comparable, and holds that many prepared networks in
    memory.

    Args:
        models: a network to the form that the engine reads.
        engine: what runs it.
        device: by default this machine.
        timing: how to time.
        batch_size: networks that are timed in turns.

    Example:
        >>> class Sleeper:
        ...     name, version, threads, precision, batch = "sleep", "1", 1, "none", 1
        ...     def prepare(self, model):
        ...         import time
        ...         return lambda: time.sleep(model / 1000)
        >>> evaluator = LatencyEvaluator(lambda network: 1.0 + network[0], Sleeper())
        >>> 2.0 < evaluator.evaluate((1,))["latency_ms"].value < 20.0
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
    ) -> None:
        if batch_size < 1:
            raise InvalidInputError(f"batch_size is at least 1, but got {batch_size}.")
        self.models = models
        self.engine = engine
        self.device = device or this_device()
        self.timing = timing or TimingSettings()
        self.batch_size = batch_size
        self.metrics = (metric_named("latency_ms"),)
        self.threads = engine.threads
        self.conditions = {
            "device": self.device.name,
            "engine": engine.name,
            "engine_version": engine.version,
            "threads": str(engine.threads),
            "precision": engine.precision,
            "batch": str(engine.batch),
            "statistic": str(self.timing),
        }

    def evaluate(self, network: Network, seed: int = 0) -> Mapping[str, Measurement | float]:
        return self.evaluate_batch([network], [seed])[0]

    def evaluate_batch(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Sequence[Mapping[str, Measurement | float]]:
        calls = [self.engine.prepare(self.models(network)) for network in networks]
        return [{"latency_ms": time} for time in time_in_turns(calls, self.timing)]
