"""NVIDIA Jetson boards: INA3221 sensors of their supply rails, in the new and the old tree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mathnas.devices.energy._sysfs import Rail, SysfsMeter, folders, interval_of, text_or_none
from mathnas.devices.energy.meter import MeterKind
from mathnas.errors import InvalidInputError, MeterAbsentError

# rails through which a whole board is fed, by board
_TOTALS = {
    "VDD_IN": "board, at its input",
    "POM_5V_IN": "board, at its 5 V input",
    "VIN_SYS_5V0": "5 V supply of the system",
}
_INTERVAL_S = 0.1  # where the driver does not say it


class JetsonMeter(SysfsMeter):
    """Sums rails of the board's INA3221 sensors.

    Looks in ``/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*`` (voltages and currents), then in the
    older ``/sys/bus/i2c/drivers/ina3221x/*/iio:device*`` (milliwatts).

    Args:
        root: where ``sys`` is found.
        rails: their names; by default the one that feeds the board.

    Raises:
        MeterAbsentError: there is no such sensor or rail, or none that feeds the board.
        MeterPermissionError: a file may not be read.
        InvalidInputError: a rail stands twice.
    """

    def __init__(self, root: Path = Path("/"), *, rails: Sequence[str] = ()) -> None:
        drivers = root / "sys" / "bus" / "i2c" / "drivers"
        found, interval_s = _rails(drivers)
        where = f"{drivers}/ina3221/*/hwmon/hwmon*/in*_label and "
        where += f"{drivers}/ina3221x/*/iio:device*/rail_name_*"
        if not found:
            raise MeterAbsentError(f"no INA3221 sensor of a Jetson board: looked for {where}.")
        names = list(rails) or [name for name in _TOTALS if name in found][:1]
        if not names:
            raise MeterAbsentError(
                f"no rail that feeds the board ({', '.join(_TOTALS)}): looked for {where}, and "
                f"found {', '.join(found)}. Name those to sum, as in jetson:{next(iter(found))}."
            )
        if len(set(names)) < len(names):
            raise InvalidInputError(f"a rail is summed once, but got {', '.join(names)}.")
        for name in names:
            if name not in found:
                raise MeterAbsentError(
                    f"no rail {name!r}: looked for {where}, and found {', '.join(found)}."
                )
        super().__init__(
            f"jetson:{'+'.join(names)}",
            MeterKind.POWER,
            " and ".join(_covers(name) for name in names),
            [found[name] for name in names],
            interval_s,
        )


def _covers(name: str) -> str:
    return f"rail {name}" + (f" ({_TOTALS[name]})" if name in _TOTALS else "")


def _rails(drivers: Path) -> tuple[dict[str, Rail], float]:
    """Rails by name, and how often they are renewed."""
    found: dict[str, Rail] = {}
    interval_s = 0.0
    for chip in folders(drivers / "ina3221", "*/hwmon/hwmon*"):
        interval_s = max(interval_s, interval_of(chip / "update_interval", _INTERVAL_S))
        for label in sorted(chip.glob("in*_label")):
            number = label.name.removeprefix("in").removesuffix("_label")
            files = tuple(chip / f"{part}{number}_input" for part in ("in", "curr"))
            name = text_or_none(label)
            # the sum of shunt voltages has a label too, but no current
            if name and all(file.exists() for file in files):
                found.setdefault(name, Rail(name, files, 1e-6))  # mV times mA
    if not found:
        for chip in folders(drivers / "ina3221x", "*/iio:device*"):
            for label in sorted(chip.glob("rail_name_*")):
                number = label.name.removeprefix("rail_name_")
                name, file = text_or_none(label), chip / f"in_power{number}_input"
                if name and file.exists():
                    found.setdefault(name, Rail(name, (file,), 1e-3))  # mW
    return found, interval_s or _INTERVAL_S
