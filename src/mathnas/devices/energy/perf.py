"""Power events of the kernel's perf: the processor's energy counters, counted by the kernel.

The same counters as RAPL's, in 64 bits that do not start again, and granted by another permission.
They are opened by the system call behind ``perf stat -a -e power/energy-pkg/``; the tool itself is
not needed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import weakref
from collections.abc import Callable
from pathlib import Path

from mathnas.devices.energy._sysfs import read_number, read_text, text_or_none
from mathnas.devices.energy.meter import Channel, MeterKind
from mathnas.errors import MeterAbsentError, MeterError, MeterPermissionError

Count = Callable[[], int]
"""What an event has counted until now; raises OSError where it is not counted any more."""

OpenEvent = Callable[[int, int, int], Count]
"""From a kind of event, an event and a processor to its count."""

_COVERS = {
    "energy-pkg": "processor package",
    "energy-psys": "platform",
    "energy-cores": "processor cores",
    "energy-gpu": "graphics in the processor",
    "energy-ram": "memory",
}
_SYSTEM_CALL = {"x86_64": 298, "i386": 336, "i686": 336, "aarch64": 241}
_CLOSE_ON_EXEC = 8


class _EventFile:
    """A count that the kernel keeps behind an open file."""

    def __init__(self, file: int) -> None:
        self._file = file
        weakref.finalize(self, os.close, file)

    def __call__(self) -> int:
        content = os.read(self._file, 8)
        if len(content) != 8:
            raise OSError(errno.EIO, "its processor was switched off")
        count: int = struct.unpack("=Q", content)[0]
        return count


def open_event(kind: int, config: int, processor: int) -> Count:
    """Start counting an event on one processor, whoever runs there (``perf_event_open(2)``).

    Raises:
        OSError: the kernel does not know or does not allow it.
    """
    number = _SYSTEM_CALL.get(platform.machine()) if platform.system() == "Linux" else None
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    # struct perf_event_attr in its first size: type, size, config, then nothing sampled or excluded
    attributes = struct.pack("=IIQQQQQIIQ", kind, 64, config, *(0,) * 7)
    library = ctypes.CDLL(None, use_errno=True)
    everyone, no_group = -1, -1
    file: int = library.syscall(
        *(ctypes.c_long(number), attributes, ctypes.c_int(everyone), ctypes.c_int(processor)),
        *(ctypes.c_int(no_group), ctypes.c_ulong(_CLOSE_ON_EXEC)),
    )
    if file < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return _EventFile(file)


class PerfMeter:
    """Counts an event of ``/sys/bus/event_source/devices/power`` on every processor package.

    Args:
        root: where ``sys`` and ``proc`` are found.
        event: ``energy-pkg``, or another that the folder's ``events`` lists.
        open_event: starts counting (for tests).

    Raises:
        MeterAbsentError: there is no such event.
        MeterPermissionError: this user may not count what the whole machine does.
    """

    kind = MeterKind.COUNTER
    interval_s = 0.001

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        event: str = "energy-pkg",
        open_event: OpenEvent = open_event,
    ) -> None:
        home = root / "sys" / "bus" / "event_source" / "devices" / "power"
        known = perf_events(root)
        if event not in known:
            raise MeterAbsentError(
                f"perf has no power event {event!r}: looked for {home}/events/{event}, and found "
                f"{', '.join(known) or 'none'}."
            )
        self.name = "perf" if event == "energy-pkg" else f"perf:{event}"
        self.covers = _COVERS.get(event, event)
        self.resolution = _scale(home / "events", event)
        config = _config(home / "events" / event)
        kind = read_number(home / "type")
        processors = _processors(home / "cpumask")
        self.channels = tuple(Channel(f"{event} of processor {number}") for number in processors)
        self._counts: list[Count] = []
        paranoid = root / "proc" / "sys" / "kernel" / "perf_event_paranoid"
        for processor in processors:
            try:
                self._counts.append(open_event(kind, config, processor))
            except PermissionError as error:
                says = text_or_none(paranoid) or "nothing"
                raise MeterPermissionError(
                    f"{home}/events/{event} may not be counted by this user ({paranoid} says "
                    f"{says}): `sudo sysctl kernel.perf_event_paranoid=0` grants it "
                    "until the next start of the machine."
                ) from error
            except OSError as error:
                raise MeterAbsentError(
                    f"the kernel shows {home}/events/{event}, but does not count it on processor "
                    f"{processor}: {error.strerror or error}."
                ) from error
        self.read()

    def read(self) -> tuple[float, ...]:
        try:
            return tuple(count() * self.resolution for count in self._counts)
        except OSError as error:
            raise MeterAbsentError(
                f"{self.name}: the event is not counted any more: {error.strerror or error}."
            ) from error


def perf_events(root: Path = Path("/")) -> list[str]:
    """The energy events that the kernel shows, ``energy-pkg`` first."""
    home = root / "sys" / "bus" / "event_source" / "devices" / "power" / "events"
    names = sorted(path.name for path in home.glob("energy-*") if "." not in path.name)
    return sorted(names, key=lambda name: list(_COVERS).index(name) if name in _COVERS else 99)


def _scale(events: Path, event: str) -> float:
    """Joules of one count."""
    unit, text = (read_text(events / f"{event}.{part}") for part in ("unit", "scale"))
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if unit != "Joules" or not 0 < scale < 1:
        raise MeterError(
            f"{events}/{event}.unit and .scale give a part of a joule, but they say {unit!r} and "
            f"{text!r}."
        )
    return scale


def _config(path: Path) -> int:
    text = read_text(path)
    name, _, value = text.partition("=")
    try:
        if name == "event":
            return int(value, 0)
    except ValueError:
        pass
    raise MeterError(f"{path} is written event=NUMBER, but it says {text!r}.")


def _processors(path: Path) -> list[int]:
    """One processor of each package, from ``0,18`` or ``0-1``."""
    text = read_text(path)
    try:
        ranges = [[int(end) for end in part.split("-")] for part in text.split(",")]
        return [number for ends in ranges for number in range(ends[0], ends[-1] + 1)]
    except ValueError:
        raise MeterError(f"{path} lists processors, but it says {text!r}.") from None
