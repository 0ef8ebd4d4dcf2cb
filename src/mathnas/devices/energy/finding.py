"""Which meters this machine has, and meters by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathnas.devices.commands import Runner, run_command
from mathnas.devices.energy import nvml
from mathnas.devices.energy.battery import BatteryMeter
from mathnas.devices.energy.hwmon import HwmonMeter, hwmon_choices
from mathnas.devices.energy.jetson import JetsonMeter
from mathnas.devices.energy.log import EnergyLog
from mathnas.devices.energy.meter import Meter, MeterKind
from mathnas.devices.energy.perf import OpenEvent, PerfMeter, open_event, perf_events
from mathnas.devices.energy.rapl import RaplMeter
from mathnas.devices.energy.raspberry_pi import RaspberryPiMeter
from mathnas.devices.energy.stated import StatedPower
from mathnas.errors import (
    InvalidInputError,
    MathNASError,
    MeterAbsentError,
    MeterError,
    MeterPermissionError,
)

_ALIVE_S = 0.5


@dataclass(frozen=True, slots=True)
class FoundMeters:
    """What a machine has.

    Attributes:
        present: meters that were read, and counters among them that were seen to count.
        absent: why an interface, or one of its sensors, gives none; by its name.
    """

    present: tuple[Meter, ...]
    absent: Mapping[str, MathNASError]


@dataclass(frozen=True, slots=True)
class _Machine:
    """Where meters look."""

    root: Path
    run: Runner
    open_event: OpenEvent
    nvml: Any


@dataclass(frozen=True, slots=True)
class _Interface:
    """A kind of meter.

    Attributes:
        make: from what stands behind the colon of its name.
        choices: what may stand there.
        automatic: it covers what runs networks on the processor, wherever it is found.
    """

    make: Callable[[_Machine, str], Meter]
    choices: Callable[[_Machine], Sequence[str]] = lambda _: ()
    automatic: bool = True


def _several(text: str) -> list[str]:
    return text.split("+") if text else []


def _hwmon(machine: _Machine, text: str) -> Meter:
    chip, _, sensors = text.partition(":")
    choices = [] if chip else hwmon_choices(machine.root)
    if choices:
        raise InvalidInputError(
            "hwmon needs a chip, and a sensor where it has several: write "
            f"{' or '.join(f'hwmon:{chip}:{sensor}' for chip, sensor in choices)}."
        )
    return HwmonMeter(machine.root, chip=chip, sensors=_several(sensors))


def _nvml(machine: _Machine, text: str) -> Meter:
    if text and not text.isdecimal():
        raise InvalidInputError(f"a GPU is named by its number, as in nvml:0, but got {text!r}.")
    return nvml.NvmlMeter(int(text or 0), library=machine.nvml)


def _gpus(machine: _Machine) -> list[str]:
    library = nvml.nvml_library() if machine.nvml is None else machine.nvml
    return [str(index) for index in range(nvml.gpu_count(library))]


def _raspberry_pi(machine: _Machine, text: str) -> Meter:
    if text:
        raise InvalidInputError(f"raspberry-pi takes nothing behind its name, but got {text!r}.")
    return RaspberryPiMeter(machine.root, run=machine.run)


_INTERFACES: Mapping[str, _Interface] = {
    "rapl": _Interface(
        lambda machine, text: RaplMeter(machine.root, domains=_several(text) or ("package",))
    ),
    "perf": _Interface(
        lambda machine, text: PerfMeter(
            machine.root, event=text or "energy-pkg", open_event=machine.open_event
        ),
        lambda machine: perf_events(machine.root),
    ),
    "jetson": _Interface(lambda machine, text: JetsonMeter(machine.root, rails=_several(text))),
    "raspberry-pi": _Interface(_raspberry_pi),
    "battery": _Interface(lambda machine, text: BatteryMeter(machine.root, battery=text)),
    "hwmon": _Interface(
        _hwmon,
        lambda machine: [f"{chip}:{sensor}" for chip, sensor in hwmon_choices(machine.root)],
        automatic=False,
    ),
    "nvml": _Interface(_nvml, _gpus, automatic=False),
}


def find_meters(
    root: Path = Path("/"),
    *,
    run: Runner = run_command,
    open_event: OpenEvent = open_event,
    nvml: Any = None,
) -> FoundMeters:
    """Look for every meter.

    Args:
        root: where ``sys``, ``proc`` and ``dev`` are found.
        run, open_event, nvml: what runs commands, counts perf events, and knows GPUs (for tests).
    """
    machine = _Machine(root, run, open_event, nvml)
    present: list[Meter] = []
    absent: dict[str, MathNASError] = {}
    for name, interface in _INTERFACES.items():
        try:
            choices = list(interface.choices(machine))
        except MathNASError as error:
            absent[name] = error
            continue
        for choice in choices or [""]:
            try:
                present.append(_counting(interface.make(machine, choice)))
            except MathNASError as error:
                absent[f"{name}:{choice}" if choice else name] = error
    return FoundMeters(tuple(present), absent)


def meter_named(
    text: str,
    root: Path = Path("/"),
    *,
    run: Runner = run_command,
    open_event: OpenEvent = open_event,
    nvml: Any = None,
) -> Meter | StatedPower:
    """The meter that a text names.

    Args:
        text: ``rapl[:DOMAIN+...]``, ``perf[:EVENT]``, ``jetson[:RAIL+...]``, ``raspberry-pi``,
            ``battery[:FOLDER]``, ``hwmon:CHIP[:SENSOR+...]``, ``nvml[:INDEX]``; ``auto`` for the
            first of these that is there and covers the processor (so neither hwmon nor nvml,
            which cover what they happen to be wired to); or ``stated:5W[:SOURCE]``, which is no
            meter but a `StatedPower`.
        root, run, open_event, nvml: as in `find_meters`.

    Raises:
        InvalidInputError: the text names none.
        MeterAbsentError: it is not on this machine; for ``auto``, with the reason of each.
        MeterPermissionError: it may not be read; the message says what grants it.
        MeterError: it says what cannot be, or is a counter that stands still.
        MissingExtraError: it needs a package that is not installed.
    """
    machine = _Machine(root, run, open_event, nvml)
    name, _, choice = text.strip().partition(":")
    if name == "stated":
        return StatedPower.parse(choice)
    if name == "auto" and not choice:
        return _automatic(machine)
    if name not in _INTERFACES:
        raise InvalidInputError(
            f"meters are auto, {', '.join(_INTERFACES)} and stated:WATTS, but got {text!r}: see "
            "`mathnas show-env` for those of this machine."
        )
    return _counting(_INTERFACES[name].make(machine, choice))


METER_NAMES = ("auto", *_INTERFACES)
"""What a meter's name starts with, up to its first colon."""


def energy_log(text: str, root: Path = Path("/")) -> EnergyLog:
    """A log, not started, of the meter that a text names: for the energy that a run costs.

    Raises:
        InvalidInputError: the text names none, or only states a power.
        MeterError, MissingExtraError: as `meter_named`.
    """
    meter = meter_named(text, root)
    if isinstance(meter, StatedPower):
        raise InvalidInputError(
            f"the energy of a run is measured, and {text!r} is no meter: name one of "
            f"{', '.join(METER_NAMES)}, or leave the energy out."
        )
    return EnergyLog(meter)


def _automatic(machine: _Machine) -> Meter:
    reasons: dict[str, MathNASError] = {}
    for name, interface in _INTERFACES.items():
        if interface.automatic:
            try:
                return _counting(interface.make(machine, ""))
            except MathNASError as error:
                reasons[name] = error
    # what may not be read is there, and one command away
    forbidden = any(isinstance(error, MeterPermissionError) for error in reasons.values())
    kind = MeterPermissionError if forbidden else MeterAbsentError
    listed = "".join(f"\n  {name}: {error}" for name, error in reasons.items())
    raise kind(
        f"no meter covers this processor:{listed}\nName a hwmon sensor or a GPU if one feeds what "
        "you measure, or state a power (stated:5W) for an estimate."
    )


def _counting(meter: Meter) -> Meter:
    """The meter; a counter was seen to count."""
    if meter.kind is MeterKind.COUNTER:
        first = tuple(meter.read())
        end = time.monotonic() + max(_ALIVE_S, 5 * meter.interval_s)
        while tuple(meter.read()) == first:
            if time.monotonic() > end:
                raise MeterError(
                    f"{meter.name} does not count: it stood at {sum(first):.6g} J for "
                    f"{_ALIVE_S:g} s. Virtual machines show such counters; measure on the machine "
                    "itself."
                )
            time.sleep(0.01)
    return meter
