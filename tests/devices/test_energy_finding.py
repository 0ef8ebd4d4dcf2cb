"""Which meters a machine has, and meters by name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from energy_cases import POWERCAP, FakeMachine, Firmware, Gpus, Kernel, microjoules
from energy_cases import board as board
from energy_cases import kernel as kernel
from energy_cases import laptop as laptop
from energy_cases import machine as machine
from energy_cases import orin as orin
from energy_cases import server as server

from mathnas import InvalidInputError
from mathnas.devices.energy import (
    METER_NAMES,
    FoundMeters,
    Meter,
    StatedPower,
    energy_log,
    find_meters,
    meter_named,
)
from mathnas.errors import MeterAbsentError, MeterError, MeterPermissionError

NO_COMMAND = MeterAbsentError("there is no command vcgencmd on the PATH.")


def bare() -> dict[str, Any]:
    """A machine without commands, events and GPUs, whatever this one has."""
    firmware, gpus = Firmware(), Gpus()
    firmware.answer = NO_COMMAND
    gpus.error = 9
    return {"run": firmware.run, "open_event": no_event, "nvml": gpus}


def no_event(kind: int, config: int, processor: int) -> Any:
    raise OSError(38, "Function not implemented")


def found(root: Path, **options: Any) -> FoundMeters:
    return find_meters(root, **{**bare(), **options})


def named(text: str, root: Path, **options: Any) -> Meter | StatedPower:
    return meter_named(text, root, **{**bare(), **options})


def test_a_bare_virtual_machine_has_none_and_says_where_it_looked(tmp_path: Path) -> None:
    meters = found(tmp_path)
    assert meters.present == ()
    assert set(meters.absent) == {
        *("rapl", "perf", "jetson", "raspberry-pi", "battery", "hwmon", "nvml")
    }
    for name in ("rapl", "perf", "jetson", "battery", "hwmon"):
        assert isinstance(meters.absent[name], MeterAbsentError)
        assert f"{tmp_path}/sys/" in str(meters.absent[name])


def test_every_meter_that_is_there_is_listed(
    server: FakeMachine, board: FakeMachine, orin: FakeMachine, laptop: FakeMachine, kernel: Kernel
) -> None:
    """Fixtures share one tree: a machine that has everything."""
    root = server.root
    meters = found(root, run=Firmware().run, open_event=kernel.open, nvml=Gpus())
    names = [meter.name for meter in meters.present]
    assert names == [
        *("rapl", "perf", "perf:energy-ram", "jetson:VDD_IN", "raspberry-pi", "battery"),
        *("hwmon:ina226:power1", "hwmon:ina3221:curr1", "hwmon:ina3221:curr2"),
        *("hwmon:amd_energy:energy1", "hwmon:power_meter:power1", "nvml"),
    ]
    assert meters.absent == {}
    for name in names:
        meter = named(name, root, run=Firmware().run, open_event=kernel.open, nvml=Gpus())
        assert not isinstance(meter, StatedPower)
        assert meter.name == name, "a meter is made again by its name"


def test_what_may_not_be_read_is_listed_with_what_grants_it(server: FakeMachine) -> None:
    server.fail(f"{POWERCAP}/intel-rapl:0/energy_uj")
    reason = found(server.root).absent["rapl"]
    assert isinstance(reason, MeterPermissionError)
    assert "sudo chmod a+r" in str(reason)


def test_a_counter_that_stands_still_is_none(
    server: FakeMachine, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a virtual machine that shows the event and counts nothing."""
    monkeypatch.setattr("mathnas.devices.energy.finding._ALIVE_S", 0.05)
    kernel.watts = 0.0
    meters = found(server.root, open_event=kernel.open)
    assert [meter.name for meter in meters.present] == ["rapl"]
    assert "perf does not count: it stood at 0 J for 0.05 s" in str(
        meters.absent["perf:energy-pkg"]
    )
    with pytest.raises(MeterError, match="does not count"):
        named("perf", server.root, open_event=kernel.open)


def test_meters_by_name(server: FakeMachine, board: FakeMachine, orin: FakeMachine) -> None:
    root = server.root
    for text, name in {
        "rapl": "rapl",
        "rapl:package+dram": "rapl:package+dram",
        "hwmon:ina226": "hwmon:ina226:power1",
        "hwmon:ina3221:VDD_CPU+curr2": "hwmon:ina3221:curr1+curr2",
        "jetson:VDD_SOC+VDD_CPU_GPU_CV": "jetson:VDD_SOC+VDD_CPU_GPU_CV",
    }.items():
        meter = named(text, root)
        assert not isinstance(meter, StatedPower)
        assert meter.name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wattmeter", "meters are auto, rapl, perf, .* and stated:WATTS, but got 'wattmeter'"),
        ("auto:now", "but got 'auto:now'"),
        ("", "meters are auto"),
        ("hwmon", "write hwmon:ina226:power1 or hwmon:ina3221:curr1 or"),
        ("nvml:first", "named by its number, as in nvml:0, but got 'first'"),
        ("raspberry-pi:5", "takes nothing behind its name"),
        ("stated:", "written 5W, 800mW or 5W:SOURCE, but got ''"),
        ("rapl:package+core", "core lies inside package"),
    ],
)
def test_names_that_name_none(board: FakeMachine, text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        named(text, board.root)


# ---- auto ----------------------------------------------------------------------------------------


def test_auto_takes_the_first_that_covers_the_processor(
    server: FakeMachine, board: FakeMachine, kernel: Kernel
) -> None:
    root = server.root
    first = named("auto", root, open_event=kernel.open)
    assert not isinstance(first, StatedPower)
    assert first.name == "rapl"
    server.fail(f"{POWERCAP}/intel-rapl:0/energy_uj")
    second = named("auto", root, open_event=kernel.open)
    assert not isinstance(second, StatedPower)
    assert second.name == "perf"


def test_auto_takes_no_sensor_that_may_belong_to_something_else(board: FakeMachine) -> None:
    with pytest.raises(MeterAbsentError) as caught:
        named("auto", board.root, nvml=Gpus())
    message = str(caught.value)
    for name in ("rapl", "perf", "jetson", "raspberry-pi", "battery"):
        assert f"\n  {name}: " in message
    assert "Name a hwmon sensor or a GPU" in message


def test_auto_says_what_would_grant_it(board: FakeMachine) -> None:
    board.write(f"{POWERCAP}/intel-rapl:0/name", "package-0")
    board.write(f"{POWERCAP}/intel-rapl:0/max_energy_range_uj", 10**11)
    board.write(f"{POWERCAP}/intel-rapl:0/energy_uj", microjoules(5))
    board.fail(f"{POWERCAP}/intel-rapl:0/energy_uj")
    with pytest.raises(MeterPermissionError, match=r"rapl: .*`sudo chmod a\+r"):
        named("auto", board.root)


# ---- stated power --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "power"),
    [
        ("stated:5W", StatedPower(5.0)),
        ("stated:800mW", StatedPower(0.8)),
        ("stated:6.5 W:datasheet, typical", StatedPower(6.5, "datasheet, typical")),
    ],
)
def test_a_power_may_be_stated(tmp_path: Path, text: str, power: StatedPower) -> None:
    assert named(text, tmp_path) == power


@pytest.mark.parametrize("text", ["5", "5 kW", "W", "-1W", "0W", "nanW", "infW", "five W", "5W5"])
def test_powers_that_are_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInputError, match="stated power is"):
        named(f"stated:{text}", tmp_path)


# ---- the energy of a run -------------------------------------------------------------------------


def test_a_log_for_the_energy_of_a_run_by_name(server: FakeMachine) -> None:
    log = energy_log("rapl", server.root)
    assert log.name == "rapl (processor package)"
    log.start()
    time.sleep(0.05)
    log.stop()
    assert log.joules() > 2 * 50 * 0.05
    with pytest.raises(InvalidInputError, match=r"'stated:5W' is no meter: name one of auto, rapl"):
        energy_log("stated:5W", server.root)
    assert set(METER_NAMES) == {"auto", *find_meters(server.root / "none", **bare()).absent}
