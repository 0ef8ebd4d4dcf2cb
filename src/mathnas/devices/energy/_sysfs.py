"""Sensors that the kernel shows as files."""

from __future__ import annotations

import errno
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mathnas.devices.energy.meter import Channel, MeterKind
from mathnas.errors import MeterAbsentError, MeterError, MeterPermissionError

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO)


def read_text(path: Path) -> str:
    """A sensor file's content, without space around it.

    Raises:
        MeterAbsentError: the file is not there.
        MeterPermissionError: it may not be read.
        MeterError: reading fails otherwise.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except PermissionError as error:
        raise MeterPermissionError(
            f"{path} may not be read by this user: `sudo chmod a+r {path}` grants it until the "
            "next start of the machine."
        ) from error
    except OSError as error:
        if error.errno in _GONE:
            raise MeterAbsentError(
                f"{path} is not there (any more): the sensor was taken away, or its driver "
                "unloaded."
            ) from error
        raise MeterError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_number(path: Path) -> int:
    """The whole number in a sensor file.

    Raises:
        MeterError: as `read_text`, or there is something else in it.
    """
    text = read_text(path)
    try:
        return int(text)
    except ValueError:
        raise MeterError(f"{path} holds a whole number, but it says {text[:80]!r}.") from None


def text_or_none(path: Path) -> str | None:
    """What an optional file says."""
    try:
        return read_text(path)
    except MeterError:
        return None


def interval_of(path: Path, otherwise_s: float) -> float:
    """Seconds between a chip's updates, from a file in milliseconds where the driver shows one."""
    text = text_or_none(path)
    return int(text) / 1000 if text is not None and text.isdecimal() and int(text) else otherwise_s


def folders(parent: Path, pattern: str) -> list[Path]:
    """Folders by pattern, those with numbers in their numbers' order."""
    found = (path for path in parent.glob(pattern) if path.is_dir())
    return sorted(found, key=lambda path: (len(path.name), path.name, str(path)))


@dataclass(frozen=True, slots=True)
class Rail:
    """A sensor: the product of some files.

    Attributes:
        name: of the rail or zone.
        files: one, or a voltage and a current.
        unit: joules or watts that 1 is worth.
        wraps_j: as in `Channel`.
    """

    name: str
    files: tuple[Path, ...]
    unit: float
    wraps_j: float | None = None

    def read(self) -> float:
        return math.prod(read_number(path) for path in self.files) * self.unit


class SysfsMeter:
    """A meter that sums rails; the public ones say which and what they cover."""

    def __init__(
        self,
        name: str,
        kind: MeterKind,
        covers: str,
        rails: Sequence[Rail],
        interval_s: float,
    ) -> None:
        self.name = name
        self.kind = kind
        self.covers = covers
        self.interval_s = interval_s
        self.resolution = max(rail.unit for rail in rails)
        self.channels = tuple(Channel(rail.name, rail.wraps_j) for rail in rails)
        self._rails = tuple(rails)
        self.read()

    def read(self) -> tuple[float, ...]:
        values = tuple(rail.read() for rail in self._rails)
        if self.kind is MeterKind.COUNTER:
            for rail, value in zip(self._rails, values, strict=True):
                if not 0 <= value <= (math.inf if rail.wraps_j is None else rail.wraps_j):
                    raise MeterError(
                        f"{rail.files[0]} counts from 0 to {rail.wraps_j} J, but it says "
                        f"{value:.6g} J."
                    )
        elif sum(values) < 0:
            # one rail may read a little below 0 when nothing flows
            raise MeterError(
                f"{self.name}: what draws power does not read below 0, but the sum is "
                f"{sum(values):.4g} W ({', '.join(map(str, self._rails[0].files))}): is the "
                "sensor connected the other way round?"
            )
        return values
