"""Machines that are made up: files as the kernel shows them, some of which advance with time."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from mathnas.devices.energy import Channel, MeterKind
from mathnas.devices.noise import NoiseRule
from mathnas.errors import MeterAbsentError, MeterError


class FakeMachine:
    """Files below `root`; `clock` says how many seconds have passed."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        start = time.monotonic()
        self.clock: Callable[[], float] = lambda: time.monotonic() - start
        self._moving: dict[Path, Callable[[float], object]] = {}
        self._errors: dict[Path, int] = {}
        opened = Path.open

        def open_(path: Path, mode: str = "r", *rest: Any, **options: Any) -> IO[Any]:
            if path in self._errors:
                raise OSError(self._errors[path], "as the test says", str(path))
            if path in self._moving and mode == "r":
                path.write_text(f"{self._moving[path](self.clock())}\n", encoding="utf-8")
            return opened(path, mode, *rest, **options)

        monkeypatch.setattr(Path, "open", open_)

    def write(self, path: str, content: object) -> Path:
        """A file, with a function of time or a constant as its content."""
        whole = self.root / path
        whole.parent.mkdir(parents=True, exist_ok=True)
        self._moving.pop(whole, None)
        self._errors.pop(whole, None)
        if callable(content):
            self._moving[whole] = content
            content = content(self.clock())
        whole.write_text(f"{content}\n", encoding="utf-8")
        return whole

    def remove(self, path: str) -> None:
        self._moving.pop(self.root / path, None)
        (self.root / path).unlink()

    def fail(self, path: str, code: int = errno.EACCES) -> None:
        """Opening the file fails; root, who runs many tests, is not stopped by modes."""
        self._errors[self.root / path] = code

    def faults(self, path: str) -> dict[str, Callable[[], object]]:
        """Ways in which a sensor's file breaks."""

        def forbidden() -> None:
            self.write(path, 1)
            self.fail(path)

        def gone() -> None:
            self.write(path, 1)
            self.remove(path)

        def unplugged() -> None:
            self.write(path, 1)
            self.fail(path, errno.ENODEV)

        return {
            "rubbish": lambda: self.write(path, "lots"),
            "empty": lambda: self.write(path, ""),
            "a part of a number": lambda: self.write(path, "12.5"),
            "forbidden": forbidden,
            "unplugged": unplugged,
            "an input error": lambda: self.fail(path, errno.EIO),
            "gone": gone,
        }


def lenient(attempts: int = 1) -> NoiseRule:
    """Nothing that other tests do on this machine disturbs a measurement."""
    machine = ("waiting", "steal", "crowding", "neighbours")
    shares = dict.fromkeys((*machine, "spread", "drift", "reference"), 1e6)
    return NoiseRule(**shares, attempts=attempts, pause_s=0.01)


class Board:
    """Draws `idle` watts, and more while a call runs; its meter is read on a real clock.

    Args:
        kind: what its meter reads.
        idle: watts as a function of seconds since the board was made.
    """

    name = "board"
    covers = "a board"
    resolution = 1e-6

    def __init__(
        self,
        kind: MeterKind = MeterKind.POWER,
        idle: Callable[[float], float] = lambda _: 2.0,
        interval_s: float = 0.002,
    ) -> None:
        self.kind = kind
        self.idle = idle
        self.interval_s = interval_s
        self.channels = (Channel("rail"),)
        self.load = 0.0
        self.gone = False
        self._counted = 0.0
        self._start = self._then = time.perf_counter()

    def read(self) -> tuple[float, ...]:
        if self.gone:
            raise MeterAbsentError("the board was unplugged.")
        if self.kind is MeterKind.POWER:
            return (self._watts(),)
        self._count()
        return (self._counted,)

    def call(self, watts: float, milliseconds: float = 1.0) -> Callable[[], None]:
        """Work that draws more than idle."""

        def run() -> None:
            with self._drawing(watts):
                time.sleep(milliseconds / 1000)

        return run

    @contextmanager
    def _drawing(self, watts: float) -> Iterator[None]:
        self._count()
        self.load = watts
        yield
        self._count()
        self.load = 0.0

    def _watts(self) -> float:
        return self.idle(time.perf_counter() - self._start) + self.load

    def _count(self) -> None:
        now = time.perf_counter()
        self._counted += self._watts() * (now - self._then)
        self._then = now


# ---- machines, as fixtures: their trees may share one root --------------------------------------

Faults = Mapping[str, Callable[[], object]]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    return FakeMachine(tmp_path, monkeypatch)


POWERCAP = "sys/class/powercap"


RANGE_UJ = 262_143_328_850


def microjoules(watts: float, start_uj: float = 0, range_uj: int = RANGE_UJ) -> Any:
    return lambda seconds: int(start_uj + watts * seconds * 1e6) % range_uj


def zone(
    machine: FakeMachine, folder: str, name: str, energy: object, range_uj: int = RANGE_UJ
) -> None:
    machine.write(f"{POWERCAP}/{folder}/name", name)
    machine.write(f"{POWERCAP}/{folder}/max_energy_range_uj", range_uj)
    machine.write(f"{POWERCAP}/{folder}/energy_uj", energy)


@pytest.fixture
def server(machine: FakeMachine) -> FakeMachine:
    """Two packages with memory, and what must not be counted twice."""
    for package in (0, 1):
        zone(machine, f"intel-rapl:{package}", f"package-{package}", microjoules(50, 7e6))
        zone(machine, f"intel-rapl:{package}:0", "dram", microjoules(10))
        zone(machine, f"intel-rapl-mmio:{package}", f"package-{package}", microjoules(50))
    zone(machine, "intel-rapl:2", "psys", microjoules(150))
    return machine


EVENTS = "sys/bus/event_source/devices/power"


class Kernel:
    """Counts events; `clock` drives them."""

    def __init__(self, machine: FakeMachine, *, watts: float = 40.0) -> None:
        self.machine, self.watts = machine, watts
        self.opened: list[tuple[int, int, int]] = []
        self.error: int | None = None

    def open(self, kind: int, config: int, processor: int) -> Callable[[], int]:
        self.opened.append((kind, config, processor))
        self._check()

        def count() -> int:
            self._check()
            return int(self.watts * self.machine.clock() * 2**32)

        return count

    def _check(self) -> None:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))

    def fail(self, code: int) -> None:
        self.error = code


@pytest.fixture
def kernel(machine: FakeMachine) -> Kernel:
    machine.write(f"{EVENTS}/type", 23)
    machine.write(f"{EVENTS}/cpumask", "0,18")
    for event, number in (("energy-pkg", "0x02"), ("energy-ram", "0x03")):
        machine.write(f"{EVENTS}/events/{event}", f"event={number}")
        machine.write(f"{EVENTS}/events/{event}.unit", "Joules")
        machine.write(f"{EVENTS}/events/{event}.scale", "2.3283064365386962890625e-10")
    machine.write("proc/sys/kernel/perf_event_paranoid", 2)
    return Kernel(machine)


HWMON = "sys/class/hwmon"


@pytest.fixture
def board(machine: FakeMachine) -> FakeMachine:
    """A chip of every kind."""
    for path, content in {
        "hwmon0/name": "coretemp",
        "hwmon0/temp1_input": 45_000,
        "hwmon1/name": "ina226",
        "hwmon1/power1_input": 5_250_000,
        "hwmon1/in1_input": 5_000,
        "hwmon1/curr1_input": 1_050,
        "hwmon1/update_interval": 20,
        "hwmon2/name": "ina3221",
        "hwmon2/in1_input": 5_000,
        "hwmon2/curr1_input": 1_500,
        "hwmon2/in1_label": "VDD_CPU",
        "hwmon2/in2_input": 12_000,
        "hwmon2/curr2_input": 250,
        "hwmon2/in7_input": 3,
        "hwmon3/name": "amd_energy",
        "hwmon3/energy1_input": microjoules(4),
        "hwmon3/energy1_label": "Esocket0",
        "hwmon4/name": "power_meter",
        "hwmon4/power1_average": 80_000_000,
        "hwmon4/power1_average_interval": 1_000,
    }.items():
        machine.write(f"{HWMON}/{path}", content)
    return machine


INA = "sys/bus/i2c/drivers"


NEW = f"{INA}/ina3221/1-0040/hwmon/hwmon3"


OLD = f"{INA}/ina3221x/6-0040/iio:device0"


@pytest.fixture
def orin(machine: FakeMachine) -> FakeMachine:
    for number, (name, volts, amperes) in enumerate(
        [("VDD_IN", 5_000, 1_200), ("VDD_CPU_GPU_CV", 5_000, 400), ("VDD_SOC", 5_000, 300)], start=1
    ):
        machine.write(f"{NEW}/in{number}_label", name)
        machine.write(f"{NEW}/in{number}_input", volts)
        machine.write(f"{NEW}/curr{number}_input", amperes)
    machine.write(f"{NEW}/in7_label", "sum of shunt voltages")
    machine.write(f"{NEW}/in7_input", 12)
    return machine


@pytest.fixture
def xavier(machine: FakeMachine) -> FakeMachine:
    for number, (name, milliwatts) in enumerate(
        [("GPU", 800), ("CPU", 1_500), ("SOC", 1_100)], start=0
    ):
        machine.write(f"{OLD}/rail_name_{number}", name)
        machine.write(f"{OLD}/in_power{number}_input", milliwatts)
    machine.write(f"{INA}/ina3221x/6-0041/iio:device1/rail_name_0", "VIN_SYS_5V0")
    machine.write(f"{INA}/ina3221x/6-0041/iio:device1/in_power0_input", 4_200)
    return machine


PMIC = """\
 3V7_WL_SW_A current(0)=0.10000000A
     1V8_SYS_A current(2)=0.20000000A
  VDD_CORE_A current(7)=2.50000000A
 3V7_WL_SW_V volt(8)=3.70000000V
     1V8_SYS_V volt(10)=1.80000000V
  VDD_CORE_V volt(15)=0.80000000V
     EXT5V_V volt(24)=5.15000000V
      BATT_V volt(25)=0.00000000V
"""


class Firmware:
    """Answers `vcgencmd`."""

    def __init__(self) -> None:
        self.answer: str | MeterError = PMIC
        self.asked: list[Sequence[str]] = []

    def run(self, command: Sequence[str]) -> str:
        self.asked.append(tuple(command))
        if isinstance(self.answer, MeterError):
            raise self.answer
        return self.answer

    def say(self, answer: str | MeterError) -> Callable[[], None]:
        return lambda: setattr(self, "answer", answer)


@pytest.fixture
def firmware() -> Firmware:
    return Firmware()


class Gpus:
    """Stands for the module `pynvml`, with one GPU that draws 200 W."""

    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NO_PERMISSION = 4

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"error {value}")
            self.value = value

    def __init__(self, *, counter: bool = True) -> None:
        self.counter = counter
        self.error: int | None = None
        self.value: object = None
        self.start = time.monotonic()

    def nvmlInit(self) -> None:
        self._check()

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        if index:
            raise self.NVMLError(2)
        return SimpleNamespace(index=index)

    def nvmlDeviceGetName(self, handle: object) -> bytes:
        return b"Big GPU"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> object:
        if not self.counter:
            raise self.NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        self._check()
        return self.value or int(200_000 * (1 + time.monotonic() - self.start))

    def nvmlDeviceGetPowerUsage(self, handle: object) -> object:
        self._check()
        return self.value or 200_000

    def _check(self) -> None:
        if self.error is not None:
            raise self.NVMLError(self.error)

    def faults(self) -> Faults:
        return {
            "text": lambda: setattr(self, "value", "N/A"),
            "below zero": lambda: setattr(self, "value", -1),
            "lost": lambda: setattr(self, "error", 15),
            "forbidden": lambda: setattr(self, "error", self.NVML_ERROR_NO_PERMISSION),
        }


@pytest.fixture
def gpus() -> Gpus:
    return Gpus()


SUPPLY = "sys/class/power_supply"


@pytest.fixture
def laptop(machine: FakeMachine) -> FakeMachine:
    for path, content in {
        "AC/type": "Mains",
        "AC/online": 0,
        "BAT0/type": "Battery",
        "BAT0/status": "Discharging",
        "BAT0/power_now": 6_500_000,
        "mouse/type": "Battery",
        "mouse/scope": "Device",
        "mouse/status": "Discharging",
        "mouse/power_now": 100_000,
    }.items():
        machine.write(f"{SUPPLY}/{path}", content)
    return machine
