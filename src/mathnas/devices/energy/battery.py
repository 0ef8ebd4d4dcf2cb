"""Batteries, while they feed the device."""

from __future__ import annotations

from pathlib import Path

from mathnas.devices.energy._sysfs import Rail, folders, read_text, text_or_none
from mathnas.devices.energy.meter import Channel, MeterKind
from mathnas.errors import MeterAbsentError, MeterError


class BatteryMeter:
    """The power that leaves the batteries in ``/sys/class/power_supply``.

    It applies only while a battery is discharging: with a charger plugged in, what the device
    draws does not pass through it. Firmware renews the values about every second, so windows are
    long. Where the driver signs currents, the sign is dropped.

    Args:
        root: where ``sys`` is found.
        battery: its folder, such as ``BAT0``; by default all of the device's own.

    Raises:
        MeterAbsentError: there is no battery with a power, or a current and a voltage.
        MeterPermissionError: a file may not be read.
        MeterError: none is discharging, or one is charging.
    """

    kind = MeterKind.POWER
    covers = "whole device, from its battery"
    interval_s = 1.0

    def __init__(self, root: Path = Path("/"), *, battery: str = "") -> None:
        home = root / "sys" / "class" / "power_supply"
        supplies = folders(home, battery or "*")
        rails = [_rail(path) for path in supplies if _is_battery(path)]
        self._rails = [rail for rail in rails if rail is not None]
        if not self._rails:
            raise MeterAbsentError(
                f"no battery: looked for {home}/{battery or 'BAT*'}/status with power_now, or "
                "current_now and voltage_now, and found "
                f"{', '.join(path.name for path in folders(home, '*')) or 'no supply'}."
            )
        self.name = f"battery:{battery}" if battery else "battery"
        self.channels = tuple(Channel(rail.name) for rail in self._rails)
        self.resolution = max(rail.unit for rail in self._rails)
        self.read()

    def read(self) -> tuple[float, ...]:
        states = {rail.name: read_text(rail.files[0].parent / "status") for rail in self._rails}
        if "Discharging" not in states.values() or "Charging" in states.values():
            said = ", ".join(
                f"{rail.files[0].parent / 'status'} says {states[rail.name]!r}"
                for rail in self._rails
            )
            raise MeterError(
                f"a battery measures only while it is discharging, but {said}: unplug the charger."
            )
        return tuple(
            abs(rail.read()) if states[rail.name] == "Discharging" else 0.0 for rail in self._rails
        )


def _is_battery(path: Path) -> bool:
    """Batteries of the device itself, not of a mouse."""
    return text_or_none(path / "type") == "Battery" and text_or_none(path / "scope") in (
        None,
        "System",
    )


def _rail(path: Path) -> Rail | None:
    if (path / "power_now").exists():
        return Rail(path.name, (path / "power_now",), 1e-6)
    files = (path / "current_now", path / "voltage_now")
    return Rail(path.name, files, 1e-12) if all(file.exists() for file in files) else None
