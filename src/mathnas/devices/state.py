"""How a machine is doing: load, frequencies, heat, throttling, and what others use of it.

Everything is read from what the kernel shows (Linux: ``/proc``, ``/sys``) and from a Raspberry Pi's
``vcgencmd``; what a machine does not show is None. Trees other than ``/`` are for tests.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mathnas.devices.commands import Runner, run_command
from mathnas.errors import MeterError

ROOT = Path("/")
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_FEWEST_TICKS = 20  # in /proc/stat, for shares that mean something
_NOW = 0xF  # of vcgencmd get_throttled: what holds now; the same bits 16 higher: since the start


@dataclass(frozen=True, slots=True)
class MachineState:
    """A machine at one moment.

    Attributes:
        load: processes that run or wait to run, averaged over a minute.
        running: those that do so now.
        frequencies_mhz: of the cores that tell, lowest core first.
        capped: whether a core may not reach its highest frequency (cpufreq, Raspberry Pi).
        governor: of frequencies; several are joined by commas.
        temperature_c: of the hottest zone, in degrees Celsius.
        throttled: how often cores or packages were slowed down because of heat since the start
            (x86), or the bits of ``vcgencmd get_throttled`` that say so; only growth means
            something.
    """

    load: float | None = None
    running: int | None = None
    frequencies_mhz: tuple[float, ...] | None = None
    capped: bool | None = None
    governor: str | None = None
    temperature_c: float | None = None
    throttled: int | None = None

    @classmethod
    def read(cls, root: Path = ROOT, command: Runner | None = None) -> MachineState:
        """Of this machine, now.

        Args:
            root: where ``proc`` and ``sys`` are.
            command: runs a program and returns what it prints; by default `run_command`, and
                nothing where `root` is another tree.
        """
        average, running = _load(root)
        throttled, held_back = _throttling(root, command)
        capped = _frequency_is_capped(root)
        if held_back is not None:
            capped = bool(capped) or held_back
        governors = sorted(set(_texts(_cpus(root), "cpufreq/scaling_governor")))
        heat = _numbers(sorted((root / "sys/class/thermal").glob("thermal_zone*")), "temp")
        return cls(
            load=average,
            running=running,
            frequencies_mhz=_frequencies(root),
            capped=capped,
            governor=", ".join(governors) or None,
            temperature_c=max(heat) / 1000 if heat else None,
            throttled=throttled,
        )

    def notes(self) -> dict[str, str]:
        """What is known, as texts for the notes of a measurement."""
        found = {
            "load": None if self.load is None else f"{self.load:.2f}",
            "running": None if self.running is None else str(self.running),
            "frequency_mhz": _span(self.frequencies_mhz),
            "governor": self.governor,
            "temperature_c": None if self.temperature_c is None else f"{self.temperature_c:.0f}",
            "frequency_capped": None if self.capped is None else str(self.capped).lower(),
        }
        return {name: text for name, text in found.items() if text is not None}


def _span(values: Sequence[float] | None) -> str | None:
    if not values:
        return None
    low, high = min(values), max(values)
    return f"{low:.0f}" if high - low < 1 else f"{low:.0f} to {high:.0f}"


def _cpus(root: Path) -> list[Path]:
    folders = (root / "sys/devices/system/cpu").glob("cpu[0-9]*")
    return sorted(folders, key=lambda folder: int(folder.name[3:]))


def _texts(folders: Sequence[Path], name: str) -> Iterator[str]:
    """The contents of the files of one name that can be read."""
    for folder in folders:
        with suppress(OSError):
            yield (folder / name).read_text(encoding="utf-8", errors="replace").strip()


def _numbers(folders: Sequence[Path], name: str) -> list[float]:
    found = []
    for text in _texts(folders, name):
        with suppress(ValueError):
            found.append(float(text))
    return found


def _load(root: Path) -> tuple[float | None, int | None]:
    for text in _texts([root / "proc"], "loadavg"):
        with suppress(ValueError, IndexError):
            fields = text.split()
            return float(fields[0]), int(fields[3].partition("/")[0])
    if root == ROOT and hasattr(os, "getloadavg"):
        with suppress(OSError):
            return os.getloadavg()[0], None
    return None, None


def _frequencies(root: Path) -> tuple[float, ...] | None:
    """From cpufreq in kHz, or where x86 kernels show them, in ``/proc/cpuinfo``."""
    found = [khz / 1000 for khz in _numbers(_cpus(root), "cpufreq/scaling_cur_freq")]
    if not found:
        for text in _texts([root / "proc"], "cpuinfo"):
            for line in text.splitlines():
                name, _, value = line.partition(":")
                if name.strip() == "cpu MHz":
                    with suppress(ValueError):
                        found.append(float(value))
    return tuple(found) or None


def _frequency_is_capped(root: Path) -> bool | None:
    cpus = _cpus(root)
    allowed = _numbers(cpus, "cpufreq/scaling_max_freq")
    possible = _numbers(cpus, "cpufreq/cpuinfo_max_freq")
    if not allowed or len(allowed) != len(possible):
        return None
    return any(now < most for now, most in zip(allowed, possible, strict=True))


def _throttling(root: Path, command: Runner | None) -> tuple[int | None, bool | None]:
    """`MachineState.throttled`, and whether firmware says that the processor is held back now."""
    bits = _pi_throttled(command or (run_command if root == ROOT else None))
    if bits is None:
        return _throttle_count(root), None
    return (bits >> 16).bit_count(), bool(bits & _NOW)


def _throttle_count(root: Path) -> int | None:
    cpus = _cpus(root)
    names = ("core_throttle_count", "package_throttle_count")
    counts = [n for name in names for n in _numbers(cpus, f"thermal_throttle/{name}")]
    return int(sum(counts)) if counts else None


def _pi_throttled(command: Runner | None) -> int | None:
    """The bits of ``vcgencmd get_throttled``, which prints ``throttled=0x50000``."""
    if command is None:
        return None
    try:
        return int(command(["vcgencmd", "get_throttled"]).strip().partition("=")[2], 16)
    except (MeterError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used of the processors: counters at one moment, or the difference of two.

    Attributes:
        seconds: of the clock.
        own: processor time of this process, in seconds.
        busy, stolen: of the cores that this process may use, in seconds: in use by anybody here,
            and given to other virtual machines.
        waited: seconds in which threads of this process were ready and waited for a core.
        interrupted: how often the kernel took a core away from this process.
        throttled: as in `MachineState`.
        cores: that this process may use.
        machine_cores: that the machine has.
        machine_busy: of all of them, in seconds: in use by anybody here.
    """

    seconds: float
    own: float
    cores: int
    busy: float | None = None
    stolen: float | None = None
    waited: float | None = None
    interrupted: int | None = None
    throttled: int | None = None
    machine_cores: int = 0
    machine_busy: float | None = None

    @classmethod
    def now(cls, root: Path = ROOT, command: Runner | None = None) -> Usage:
        """The counters as they stand; arguments as those of `MachineState.read`."""
        times = _processor_times(root)
        usable = _usable(root)
        own = [times[core] for core in usable if core in times]
        throttled, _ = _throttling(root, command)
        return cls(
            seconds=time.perf_counter(),
            own=time.process_time(),
            cores=len(usable),
            busy=sum(busy for busy, _ in own) if own else None,
            stolen=sum(stolen for _, stolen in own) if own else None,
            waited=_waited(root),
            interrupted=_interrupted(),
            throttled=throttled,
            machine_cores=len(times),
            machine_busy=sum(busy for busy, _ in times.values()) if times else None,
        )

    def until_now(self, root: Path = ROOT) -> Usage:
        """What happened after this moment; where that is too short for the kernel's clock to tell
        what others used, it waits a fraction of a second."""
        left = _FEWEST_TICKS / _TICKS - (time.perf_counter() - self.seconds)
        if self.machine_busy is not None and left > 0:
            time.sleep(left)
        return Usage.now(root).since(self)

    def since(self, before: Usage) -> Usage:
        """What happened after an earlier moment."""

        def difference(name: str) -> float | None:
            first, last = getattr(before, name), getattr(self, name)
            return None if first is None or last is None else max(0, last - first)

        interrupted, throttled = difference("interrupted"), difference("throttled")
        return Usage(
            seconds=self.seconds - before.seconds,
            own=self.own - before.own,
            cores=self.cores,
            busy=difference("busy"),
            stolen=difference("stolen"),
            waited=difference("waited"),
            interrupted=None if interrupted is None else int(interrupted),
            throttled=None if throttled is None else int(throttled),
            machine_cores=self.machine_cores,
            machine_busy=difference("machine_busy"),
        )

    @property
    def others(self) -> float | None:
        """Cores that other processes used, of those that this one may use.

        None where the kernel does not tell, or the time was too short for its clock.
        """
        return self._used_by_others(self.busy, self.cores)

    @property
    def neighbours(self) -> float | None:
        """As `others`, of all cores of the machine."""
        return self._used_by_others(self.machine_busy, self.machine_cores)

    def _used_by_others(self, busy: float | None, cores: int) -> float | None:
        if busy is None or self.seconds * _TICKS < _FEWEST_TICKS:
            return None
        return min(max(0.0, (busy - self.own) / self.seconds), float(cores))

    @property
    def steal(self) -> float | None:
        """The share of the cores' time that went to other virtual machines; None as `others`."""
        if self.stolen is None or self.seconds * _TICKS < _FEWEST_TICKS:
            return None
        return self.stolen / self.seconds / self.cores

    def notes(self) -> dict[str, str]:
        """What happened in the `seconds` of a difference, as texts for notes of a measurement."""
        found = {
            "others_cores": None if self.others is None else f"{self.others:.2f}",
            "steal": None if self.steal is None else f"{self.steal:.4f}",
            "waited": None if self.waited is None else f"{self.waited / self.seconds:.4f}",
            "interrupted": None if self.interrupted is None else str(self.interrupted),
            "throttled": None if self.throttled is None else str(self.throttled),
        }
        return {name: text for name, text in found.items() if text is not None}


def _usable(root: Path) -> frozenset[int]:
    """Numbers of the cores that this process may use."""
    if root == ROOT and hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    count = len(_cpus(root)) or os.cpu_count() or 1
    return frozenset(range(count))


def _processor_times(root: Path) -> dict[int, tuple[float, float]]:
    """Seconds in which each core was busy, and was stolen: ``cpuN`` lines of ``/proc/stat``, with
    user, nice, system, idle, iowait, irq, softirq, steal (see proc(5); guests are in user)."""
    found = {}
    for text in _texts([root / "proc"], "stat"):
        for line in text.splitlines():
            name, *fields = line.split()
            if name.startswith("cpu") and name[3:].isdigit():
                with suppress(ValueError, IndexError):
                    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
                    busy = user + nice + system + irq + softirq
                    found[int(name[3:])] = (busy / _TICKS, steal / _TICKS)
    return found


def _waited(root: Path) -> float | None:
    """Seconds that the threads of this process waited in a run queue: the second number of each
    ``schedstat``, in nanoseconds."""
    waits = []
    for text in _texts(list((root / "proc/self/task").glob("*")), "schedstat"):
        with suppress(ValueError, IndexError):
            waits.append(int(text.split()[1]))
    return sum(waits) / 1e9 if waits else None


def _interrupted() -> int | None:
    try:
        import resource
    except ImportError:  # not Unix
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
