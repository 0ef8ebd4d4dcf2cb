"""Energy of networks on the engine that will serve them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic

from mathnas.devices.common import Engine, LatencyEvaluator, ModelT, engine_conditions
from mathnas.devices.energy.meter import Meter
from mathnas.devices.energy.stated import StatedPower
from mathnas.devices.energy.windows import Energy, EnergySettings, energy_in_turns
from mathnas.devices.host import Device, this_device
from mathnas.devices.noise import NoiseRule
from mathnas.devices.repeating import measured_quietly
from mathnas.devices.state import ROOT
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Measurement, StreamingEvaluator
from mathnas.metrics import metric_named
from mathnas.space import Network


class EnergyEvaluator(StreamingEvaluator, Generic[ModelT]):
    """Measured millijoules of one batch on an engine, above the idle power (``energy_mj``).

    Networks that are evaluated together are measured in turns (see
    `mathnas.devices.energy.windows`) and share the idle windows between the rounds. What was
    disturbed is measured again, and refused where it stays so.

    Args:
        models: a network to the form that the engine reads.
        engine: what runs it.
        meter: what is read; see `mathnas.devices.energy.meter_named`.
        device: by default this machine.
        settings: how to measure.
        batch_size: networks that are measured in turns.
        noise: what is too noisy, and how often it is tried again.
        accept_noise: keep what stays noisy, with its flags; the conditions then say so.
        root: where ``proc`` and ``sys`` are found (for tests).

    Example:
        >>> import time
        >>> from mathnas.devices.energy import Channel, MeterKind
        >>> class Sleeper:
        ...     name, version, threads, precision, batch = "sleep", "1", 1, "none", 1
        ...     def prepare(self, model):
        ...         return lambda: time.sleep(0.001)
        >>> class Rising:
        ...     name, kind, covers, interval_s, resolution = "r", MeterKind.COUNTER, "it", 0.001, 1
        ...     channels, start = (Channel("c"),), time.monotonic()
        ...     def read(self):
        ...         return (5.0 * (time.monotonic() - self.start) ** 2,)
        >>> short = EnergySettings(rounds=1, window_s=0.05)
        >>> evaluator = EnergyEvaluator(lambda network: None, Sleeper(), Rising(), settings=short)
        >>> evaluator.conditions["energy"]
        'measured, idle power subtracted'
    """

    exclusive = True

    def __init__(
        self,
        models: Callable[[Network], ModelT],
        engine: Engine[ModelT],
        meter: Meter,
        *,
        device: Device | None = None,
        settings: EnergySettings | None = None,
        batch_size: int = 1,
        noise: NoiseRule | None = None,
        accept_noise: bool = False,
        root: Path = ROOT,
    ) -> None:
        if batch_size < 1:
            raise InvalidInputError(f"batch_size is at least 1, but got {batch_size}.")
        if isinstance(meter, StatedPower):
            raise InvalidInputError(
                "EnergyEvaluator measures, and a stated power is no measurement: give it to "
                "StatedEnergyEvaluator, which says so in everything that it returns."
            )
        self.models = models
        self.engine = engine
        self.meter = meter
        self.device = device or this_device()
        self.settings = settings or EnergySettings()
        self.batch_size = batch_size
        self.noise = noise or NoiseRule()
        self.accept_noise = accept_noise
        self.metrics = (metric_named("energy_mj"),)
        self.threads = engine.threads
        self.conditions = {
            "device": self.device.name,
            **engine_conditions(engine),
            "energy": "measured, idle power subtracted",
            "meter": meter.name,
            "covers": meter.covers,
            "statistic": f"median of {self.settings.rounds} windows of "
            f"{self.settings.length_s(meter):g} s",
            **({"noise": "accepted"} if accept_noise else {}),
        }
        self._root = root

    def evaluate_each(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Iterator[tuple[int, Mapping[str, Measurement | float]]]:
        """Each network's place and energy, as soon as it can be trusted.

        Raises:
            NoiseError: some stayed noisy, after all others have come.
        """
        calls = [self.engine.prepare(self.models(network)) for network in networks]

        def measure(places: Sequence[int]) -> list[Energy]:
            return energy_in_turns(
                [calls[place] for place in places],
                self.meter,
                self.settings,
                rule=self.noise,
                threads=self.engine.threads,
                root=self._root,
            )

        for place, found, attempts in measured_quietly(
            networks, measure, self.noise, metric="energy", accept_noise=self.accept_noise
        ):
            yield place, {"energy_mj": found.measurement(attempts)}


class StatedEnergyEvaluator(StreamingEvaluator, Generic[ModelT]):
    """Estimated millijoules: a stated power times the measured latency (``energy_mj_stated``).

    The metric has a name of its own, so that no table shows it as measured energy.

    Args:
        latency: what measures the latency.
        power: what is drawn while a network runs.
    """

    exclusive = True

    def __init__(self, latency: LatencyEvaluator[ModelT], power: StatedPower) -> None:
        self.latency = latency
        self.models = latency.models
        self.power = power
        self.device = latency.device
        self.batch_size = latency.batch_size
        self.threads = latency.threads
        self.metrics = (metric_named("energy_mj_stated"),)
        self.conditions = {
            **latency.conditions,
            "energy": power.label,
            "energy_source": power.source,
        }

    def evaluate_each(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Iterator[tuple[int, Mapping[str, Measurement | float]]]:
        """Each network's place and estimate, as soon as its latency is there."""
        for place, row in self.latency.evaluate_each(networks, seeds):
            yield place, {"energy_mj_stated": self._estimate(row["latency_ms"])}

    def _estimate(self, latency: Measurement | float) -> Measurement:
        """Watts times milliseconds are millijoules."""
        known = latency if isinstance(latency, Measurement) else Measurement(latency)
        return Measurement(
            self.power.watts * known.value,
            spread=None if known.spread is None else self.power.watts * known.spread,
            repeats=known.repeats,
            notes={
                **known.notes,
                "energy": f"{self.power.label}, not measured",
                "energy_source": self.power.source,
                "latency_ms": f"{known.value:.6g}",
            },
        )
