"""Sensors of the kernel's hardware monitoring: current shunts on boards, power supplies, GPUs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mathnas.devices.energy._sysfs import Rail, SysfsMeter, folders, interval_of, text_or_none
from mathnas.devices.energy.meter import MeterKind
from mathnas.errors import InvalidInputError, MeterAbsentError

_INTERVAL_S = 0.05  # where the driver does not say it
_MICRO = 1e-6  # files are in uJ, uW, and mV times mA


class HwmonMeter(SysfsMeter):
    """Sums sensors of one chip in ``/sys/class/hwmon``.

    A sensor is an energy counter (``energyM_input``), a power (``powerM_input`` or
    ``powerM_average``), or a voltage and a current with one number (``inM_input``,
    ``currM_input``) where there is no ``powerM``.

    Args:
        root: where ``sys`` is found.
        chip: its ``name``, or its folder (``hwmon3``) where two have one name.
        sensors: ``energy1``, ``power2`` or ``curr1``, or their labels; needed where the chip has
            several, because only their maker knows which overlap.

    Raises:
        MeterAbsentError: there is no such chip or sensor.
        MeterPermissionError: a file may not be read.
        InvalidInputError: the choice is not clear, or mixes counters with powers.
    """

    def __init__(
        self, root: Path = Path("/"), *, chip: str = "", sensors: Sequence[str] = ()
    ) -> None:
        home = root / "sys" / "class" / "hwmon"
        chips = {path: text_or_none(path / "name") or "" for path in folders(home, "hwmon*")}
        matching = [path for path, name in chips.items() if chip in (name, path.name)]
        listed = ", ".join(f"{name} ({path.name})" for path, name in chips.items()) or "none"
        if not matching:
            raise MeterAbsentError(
                f"hwmon has no chip{f' {chip!r}' * bool(chip)}: looked for {home}/hwmon*/name, and "
                f"found {listed}."
            )
        if len(matching) > 1:
            raise InvalidInputError(
                f"several chips are called {chip!r}: name a folder, as in hwmon:{matching[0].name}."
            )
        found = _sensors(matching[0])
        chosen = _chosen(found, sensors, matching[0], chip)
        if len({sensor.kind for sensor in chosen}) > 1:
            raise InvalidInputError(
                "counters of energy and sensors of power are not summed, but got "
                f"{', '.join(sensor.name for sensor in chosen)} of {chip}."
            )
        which = "+".join(sensor.name for sensor in chosen)
        super().__init__(
            f"hwmon:{chip}:{which}",
            chosen[0].kind,
            f"what {chips[matching[0]] or chip} senses at "
            + " and ".join(sensor.label or sensor.name for sensor in chosen),
            [Rail(s.label or s.name, s.files, _MICRO) for s in chosen],
            interval_s=max(sensor.interval_s for sensor in chosen),
        )


def hwmon_choices(root: Path = Path("/")) -> list[tuple[str, str]]:
    """Every chip (its name, or its folder where two have one name) with every sensor of it."""
    chips = folders(root / "sys" / "class" / "hwmon", "hwmon*")
    names = [text_or_none(path / "name") or path.name for path in chips]
    return [
        (name if names.count(name) == 1 else path.name, sensor.name)
        for path, name in zip(chips, names, strict=True)
        for sensor in _sensors(path)
    ]


@dataclass(frozen=True, slots=True)
class _Sensor:
    """One of a chip's sensors; `label` is what its maker calls it, where known."""

    name: str
    label: str | None
    kind: MeterKind
    files: tuple[Path, ...]
    interval_s: float


def _sensors(chip: Path) -> list[_Sensor]:
    interval_s = interval_of(chip / "update_interval", _INTERVAL_S)
    found = []
    for number in _numbers(chip, "energy", "input"):
        file = chip / f"energy{number}_input"
        label = text_or_none(chip / f"energy{number}_label")
        found.append(_Sensor(f"energy{number}", label, MeterKind.COUNTER, (file,), interval_s))
    now, mean = _numbers(chip, "power", "input"), _numbers(chip, "power", "average")
    for number in sorted({*now, *mean}):
        part = "input" if number in now else "average"
        file = chip / f"power{number}_{part}"
        label = text_or_none(chip / f"power{number}_label")
        every_s = interval_s
        if part == "average":
            every_s = interval_of(chip / f"power{number}_average_interval", interval_s)
        found.append(_Sensor(f"power{number}", label, MeterKind.POWER, (file,), every_s))
    for number in _numbers(chip, "curr", "input"):
        volts, amperes = (chip / f"{part}{number}_input" for part in ("in", "curr"))
        if volts.exists() and number not in {*now, *mean}:
            label = text_or_none(chip / f"in{number}_label")
            label = label or text_or_none(chip / f"curr{number}_label")
            files = (volts, amperes)
            found.append(_Sensor(f"curr{number}", label, MeterKind.POWER, files, interval_s))
    return found


def _numbers(chip: Path, kind: str, part: str) -> list[int]:
    matches = (re.fullmatch(rf"{kind}(\d+)_{part}", path.name) for path in chip.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def _chosen(
    found: Sequence[_Sensor], names: Sequence[str], folder: Path, chip: str
) -> list[_Sensor]:
    listed = ", ".join(s.name + (f" ({s.label})" if s.label else "") for s in found)
    if not found:
        raise MeterAbsentError(
            f"the chip {chip} has no sensor of energy or power: looked for {folder}/energy*_input, "
            "power*_input, power*_average, and in*_input with curr*_input."
        )
    if not names:
        if len(found) > 1:
            raise InvalidInputError(
                f"the chip {chip} has several sensors ({listed}): name those to sum, as in "
                f"hwmon:{chip}:{found[0].name}."
            )
        return list(found)
    chosen = []
    for name in names:
        matching = [sensor for sensor in found if name in (sensor.name, sensor.label)]
        if not matching:
            raise MeterAbsentError(
                f"the chip {chip} has no sensor {name!r}: {folder} shows {listed}."
            )
        chosen.append(matching[0])
    if len({sensor.name for sensor in chosen}) < len(chosen):
        raise InvalidInputError(f"a sensor is summed once, but got {', '.join(names)}.")
    return chosen
