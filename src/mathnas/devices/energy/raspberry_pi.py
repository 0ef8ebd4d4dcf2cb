"""Raspberry Pi 5: the converter inside its power chip, which the firmware reads."""

from __future__ import annotations

import math
import re
from pathlib import Path

from mathnas.devices.commands import Runner, run_command
from mathnas.devices.energy.meter import Channel, MeterKind
from mathnas.errors import MeterAbsentError, MeterError, MeterPermissionError

_COMMAND = ("vcgencmd", "pmic_read_adc")
_LINE = re.compile(r"(\w+)_([AV])\s+(?:current|volt)\(\d+\)=(\S+?)([AV])")


class RaspberryPiMeter:
    """Sums volts times amperes over the rails of ``vcgencmd pmic_read_adc``.

    Rails without both, such as the 5 V input, do not count: what the input converter and devices
    at USB draw is left out, so the sum lies below what a plug meter shows.

    Args:
        root: where ``dev`` is found.
        run: runs commands.

    Raises:
        MeterAbsentError: there is no such command, or the board has no such chip.
        MeterPermissionError: this user may not ask the firmware.
    """

    name = "raspberry-pi"
    kind = MeterKind.POWER
    covers = "rails of the board's power chip"
    interval_s = 0.1
    resolution = 1e-3  # about: currents come in steps of 0.1 to 0.7 mA

    def __init__(self, root: Path = Path("/"), *, run: Runner = run_command) -> None:
        self._run = run
        self._device = root / "dev" / "vcio"
        values = self._rails()
        self.channels = tuple(Channel(rail) for rail in values)

    def read(self) -> tuple[float, ...]:
        values = self._rails()
        missing = [channel.name for channel in self.channels if channel.name not in values]
        if missing:
            raise MeterAbsentError(
                f"`{' '.join(_COMMAND)}` does not show the rails {', '.join(missing)} any more."
            )
        return tuple(values[channel.name] for channel in self.channels)

    def _rails(self) -> dict[str, float]:
        """Watts by rail."""
        text = self._output()
        read: dict[tuple[str, str], float] = {}
        for line in filter(None, map(str.strip, text.splitlines())):
            match = _LINE.fullmatch(line)
            value = _number(match[3]) if match and match[2] == match[4] else None
            if match is None or value is None:
                raise MeterError(
                    f"`{' '.join(_COMMAND)}` prints lines like VDD_CORE_A current(7)=1.5A, but "
                    f"got {line!r}."
                )
            read[match[1], match[2]] = value
        rails = [rail for rail, unit in read if unit == "A" and (rail, "V") in read]
        if not rails:
            raise MeterAbsentError(
                f"`{' '.join(_COMMAND)}` shows no rail with a current and a voltage: it printed "
                f"{' '.join(text.split())[:80]!r}."
            )
        return {rail: read[rail, "A"] * read[rail, "V"] for rail in rails}

    def _output(self) -> str:
        try:
            text = self._run(_COMMAND)
        except MeterAbsentError as error:
            raise MeterAbsentError(
                f"no power chip of a Raspberry Pi 5: looked for the command `{' '.join(_COMMAND)}` "
                f"({error})"
            ) from error
        except MeterError as error:
            text = str(error)
            if str(Path("dev") / "vcio") not in text and "VCHI" not in text:
                raise
            raise MeterPermissionError(
                f"{self._device} may not be opened by this user: `sudo usermod -aG video $USER` "
                f"grants it after the next login. ({error})"
            ) from error
        if "error=" in text:  # what other boards answer
            raise MeterAbsentError(
                f"the firmware does not know `{' '.join(_COMMAND)}` (a Raspberry Pi 5 does): "
                f"{' '.join(text.split())[:80]!r}."
            )
        return text


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
