"""Every meter, on files and answers that are made up."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from energy_cases import (
    EVENTS,
    HWMON,
    INA,
    NEW,
    PMIC,
    POWERCAP,
    RANGE_UJ,
    SUPPLY,
    FakeMachine,
    Faults,
    Firmware,
    Gpus,
    Kernel,
    microjoules,
    zone,
)
from energy_cases import board as board
from energy_cases import firmware as firmware
from energy_cases import gpus as gpus
from energy_cases import kernel as kernel
from energy_cases import laptop as laptop
from energy_cases import machine as machine
from energy_cases import orin as orin
from energy_cases import server as server
from energy_cases import xavier as xavier

from mathnas import InvalidInputError, MissingExtraError
from mathnas.devices.commands import run_command
from mathnas.devices.energy import Channel, EnergyLog, Meter, MeterKind
from mathnas.devices.energy.battery import BatteryMeter
from mathnas.devices.energy.hwmon import HwmonMeter
from mathnas.devices.energy.jetson import JetsonMeter
from mathnas.devices.energy.nvml import NvmlMeter
from mathnas.devices.energy.perf import PerfMeter, open_event
from mathnas.devices.energy.rapl import RaplMeter
from mathnas.devices.energy.raspberry_pi import RaspberryPiMeter
from mathnas.errors import MeterAbsentError, MeterError, MeterPermissionError
from mathnas.testing import MeterContract

# ---- RAPL ----------------------------------------------------------------------------------------


class TestRapl(MeterContract):
    @pytest.fixture
    def meter(self, server: FakeMachine) -> Meter:
        return RaplMeter(server.root)

    @pytest.fixture
    def faults(self, meter: Meter, server: FakeMachine) -> Faults:
        return server.faults(f"{POWERCAP}/intel-rapl:1/energy_uj")


def test_rapl_sums_packages_and_nothing_twice(server: FakeMachine) -> None:
    server.clock = lambda: 3.0
    meter = RaplMeter(server.root)
    assert meter.read() == (7 + 150, 7 + 150)
    assert meter.name == "rapl"
    assert meter.covers == "processor package"
    assert [channel.name for channel in meter.channels] == [
        "intel-rapl:0 package-0",
        "intel-rapl:1 package-1",
    ]
    assert all(channel.wraps_j == pytest.approx(262_143.32885) for channel in meter.channels)


def test_rapl_zones_that_do_not_overlap_are_summed(server: FakeMachine) -> None:
    server.clock = lambda: 1.0
    meter = RaplMeter(server.root, domains=["package", "dram"])
    assert sum(meter.read()) == 2 * (57 + 10)
    assert (meter.name, meter.covers) == ("rapl:package+dram", "processor package and memory")
    assert sum(RaplMeter(server.root, domains=["psys"]).read()) == 150


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        (["package", "core"], "core lies inside package"),
        (["psys", "package"], "package lies inside psys"),
        (["psys", "core"], "core lies inside psys"),
        (["gpu"], "domains are package, dram, core, uncore, psys, each once, but got gpu"),
        (["dram", "dram"], "each once"),
        ([], "but got none"),
    ],
)
def test_rapl_zones_that_overlap_are_refused(
    server: FakeMachine, domains: Sequence[str], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        RaplMeter(server.root, domains=domains)


def test_rapl_counters_start_again(machine: FakeMachine) -> None:
    """One package starts again after 2 s, the other after 5 s; 60 J are counted all the same."""
    now = 0.0
    machine.clock = lambda: now
    for package, left_j in ((0, 6.0), (1, 15.0)):
        start = RANGE_UJ - left_j * 1e6
        zone(machine, f"intel-rapl:{package}", f"package-{package}", microjoules(3, start))
    log = EnergyLog(RaplMeter(machine.root), clock=lambda: now)
    for _ in range(11):
        found = log.mark()
        now += 1.0
    assert found.joules == pytest.approx(60, rel=1e-6)


def test_rapl_may_be_for_root_only(server: FakeMachine) -> None:
    server.fail(f"{POWERCAP}/intel-rapl:0/energy_uj")
    path = server.root / POWERCAP / "intel-rapl:0" / "energy_uj"
    with pytest.raises(MeterPermissionError) as caught:
        RaplMeter(server.root)
    assert f"{path} may not be read" in str(caught.value)
    assert f"`sudo chmod a+r {path}` grants it" in str(caught.value)


def test_without_rapl_it_is_said_where_it_was_looked_for(machine: FakeMachine) -> None:
    zone(machine, "intel-rapl-mmio:0", "package-0", 5)
    with pytest.raises(MeterAbsentError, match=r"class/powercap/intel-rapl:\*/name, and found non"):
        RaplMeter(machine.root)
    zone(machine, "intel-rapl:0", "package-0", 5)
    with pytest.raises(MeterAbsentError, match=r"no zone 'dram'.*found package-0"):
        RaplMeter(machine.root, domains=["dram"])


def test_a_count_beyond_its_range_is_rubbish(machine: FakeMachine) -> None:
    zone(machine, "intel-rapl:0", "package-0", 2_000_001, range_uj=2_000_000)
    with pytest.raises(MeterError, match=r"counts from 0 to 2.0 J, but it says 2 J|2.0 J"):
        RaplMeter(machine.root)
    machine.write(f"{POWERCAP}/intel-rapl:0/energy_uj", -5)
    with pytest.raises(MeterError, match="counts from 0"):
        RaplMeter(machine.root)


# ---- perf ----------------------------------------------------------------------------------------


class TestPerf(MeterContract):
    @pytest.fixture
    def meter(self, kernel: Kernel) -> Meter:
        return PerfMeter(kernel.machine.root, open_event=kernel.open)

    @pytest.fixture
    def faults(self, meter: Meter, kernel: Kernel) -> Faults:
        return {"switched off": lambda: kernel.fail(errno.ENODEV)}


def test_perf_counts_on_one_processor_of_each_package(kernel: Kernel) -> None:
    meter = PerfMeter(kernel.machine.root, event="energy-ram", open_event=kernel.open)
    assert kernel.opened == [(23, 3, 0), (23, 3, 18)]
    kernel.machine.clock = lambda: 2.0
    assert meter.read() == pytest.approx((80.0, 80.0))
    assert (meter.name, meter.covers) == ("perf:energy-ram", "memory")


def test_perf_needs_a_permission(kernel: Kernel) -> None:
    kernel.fail(errno.EACCES)
    with pytest.raises(MeterPermissionError) as caught:
        PerfMeter(kernel.machine.root, open_event=kernel.open)
    message = str(caught.value)
    assert f"{kernel.machine.root}/{EVENTS}/events/energy-pkg may not be counted" in message
    assert f"{kernel.machine.root}/proc/sys/kernel/perf_event_paranoid says 2" in message
    assert "`sudo sysctl kernel.perf_event_paranoid=0` grants it" in message


def test_perf_without_the_event(kernel: Kernel) -> None:
    with pytest.raises(MeterAbsentError, match=r"events/energy-psys, and found energy-pkg, energy"):
        PerfMeter(kernel.machine.root, event="energy-psys", open_event=kernel.open)
    kernel.fail(errno.ENOENT)
    with pytest.raises(MeterAbsentError, match="does not count it on processor 0: No such file"):
        PerfMeter(kernel.machine.root, open_event=kernel.open)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("events/energy-pkg", "umask=0x02", "is written event=NUMBER, but it says 'umask=0x02'"),
        ("events/energy-pkg.unit", "Watts", "give a part of a joule, but they say 'Watts'"),
        ("events/energy-pkg.scale", "one", "'one'"),
        ("cpumask", "all", "lists processors, but it says 'all'"),
        ("type", "power", "holds a whole number, but it says 'power'"),
    ],
)
def test_what_perf_shows_may_be_rubbish(
    kernel: Kernel, path: str, content: str, message: str
) -> None:
    kernel.machine.write(f"{EVENTS}/{path}", content)
    with pytest.raises(MeterError, match=message):
        PerfMeter(kernel.machine.root, open_event=kernel.open)


@pytest.mark.skipif(sys.platform != "linux", reason="perf is Linux's")
def test_the_real_system_call_counts() -> None:
    """The clock of processor 0 in nanoseconds: an event that every kernel has."""
    software, processor_clock = 1, 0
    try:
        count = open_event(software, processor_clock, 0)
    except OSError as error:
        pytest.skip(f"this kernel does not let us count: {error}")
    first = count()
    time.sleep(0.05)
    assert 0.02e9 < count() - first < 5e9
    with pytest.raises(OSError, match=r"\[Errno"):
        open_event(software, 10_000, 0)


# ---- hwmon ---------------------------------------------------------------------------------------


class TestHwmonPower(MeterContract):
    @pytest.fixture
    def meter(self, board: FakeMachine) -> Meter:
        return HwmonMeter(board.root, chip="ina226")

    @pytest.fixture
    def faults(self, meter: Meter, board: FakeMachine) -> Faults:
        path = f"{HWMON}/hwmon1/power1_input"
        return {"below zero": lambda: board.write(path, -2_000), **board.faults(path)}


class TestHwmonVoltageAndCurrent(MeterContract):
    @pytest.fixture
    def meter(self, board: FakeMachine) -> Meter:
        return HwmonMeter(board.root, chip="ina3221", sensors=["VDD_CPU", "curr2"])

    @pytest.fixture
    def faults(self, meter: Meter, board: FakeMachine) -> Faults:
        return board.faults(f"{HWMON}/hwmon2/curr2_input")


class TestHwmonCounter(MeterContract):
    @pytest.fixture
    def meter(self, board: FakeMachine) -> Meter:
        return HwmonMeter(board.root, chip="amd_energy")

    @pytest.fixture
    def faults(self, meter: Meter, board: FakeMachine) -> Faults:
        return board.faults(f"{HWMON}/hwmon3/energy1_input")


def test_hwmon_reads_power(board: FakeMachine) -> None:
    meter = HwmonMeter(board.root, chip="ina226")
    assert meter.read() == (5.25,)
    assert (meter.name, meter.kind) == ("hwmon:ina226:power1", MeterKind.POWER)
    assert meter.interval_s == 0.02
    average = HwmonMeter(board.root, chip="power_meter")
    assert average.read() == (80.0,)
    assert average.interval_s == 1.0


def test_hwmon_multiplies_voltage_and_current(board: FakeMachine) -> None:
    meter = HwmonMeter(board.root, chip="ina3221", sensors=["curr1", "curr2"])
    assert meter.read() == pytest.approx((7.5, 3.0))
    assert meter.covers == "what ina3221 senses at VDD_CPU and curr2"


def test_of_several_sensors_the_user_chooses(board: FakeMachine) -> None:
    with pytest.raises(
        InvalidInputError, match=r"\(curr1 \(VDD_CPU\), curr2\): name those to sum, as in"
    ):
        HwmonMeter(board.root, chip="ina3221")
    with pytest.raises(MeterAbsentError, match="no sensor 'curr9'"):
        HwmonMeter(board.root, chip="ina3221", sensors=["curr9"])
    with pytest.raises(InvalidInputError, match="summed once"):
        HwmonMeter(board.root, chip="ina3221", sensors=["curr1", "VDD_CPU"])
    board.write(f"{HWMON}/hwmon3/power1_input", 1)
    with pytest.raises(InvalidInputError, match="are not summed, but got energy1, power1"):
        HwmonMeter(board.root, chip="amd_energy", sensors=["energy1", "power1"])


def test_two_chips_of_one_name_are_told_apart_by_folder(board: FakeMachine) -> None:
    board.write(f"{HWMON}/hwmon10/name", "ina226")
    board.write(f"{HWMON}/hwmon10/power1_input", 1_000_000)
    with pytest.raises(InvalidInputError, match=r"several chips.*as in hwmon:hwmon1"):
        HwmonMeter(board.root, chip="ina226")
    assert HwmonMeter(board.root, chip="hwmon10").read() == (1.0,)


def test_without_the_chip_or_a_sensor(board: FakeMachine) -> None:
    with pytest.raises(MeterAbsentError, match=r"class/hwmon/hwmon\*/name, and found coretemp"):
        HwmonMeter(board.root, chip="ina219")
    with pytest.raises(MeterAbsentError, match=r"no sensor of energy or power: .*hwmon0"):
        HwmonMeter(board.root, chip="coretemp")


def test_an_unused_rail_may_read_a_little_below_zero(board: FakeMachine) -> None:
    board.write(f"{HWMON}/hwmon2/curr2_input", -1)
    meter = HwmonMeter(board.root, chip="ina3221", sensors=["curr1", "curr2"])
    assert meter.read() == pytest.approx((7.5, -0.012))


def test_a_sensor_connected_the_other_way_round(board: FakeMachine) -> None:
    board.write(f"{HWMON}/hwmon2/curr1_input", -1_500)
    with pytest.raises(MeterError, match=r"sum is -7\.5 W.*the other way round"):
        HwmonMeter(board.root, chip="ina3221", sensors=["curr1"])


# ---- Jetson --------------------------------------------------------------------------------------


class TestJetson(MeterContract):
    @pytest.fixture
    def meter(self, orin: FakeMachine) -> Meter:
        return JetsonMeter(orin.root)

    @pytest.fixture
    def faults(self, meter: Meter, orin: FakeMachine) -> Faults:
        return orin.faults(f"{NEW}/curr1_input")


class TestOlderJetson(MeterContract):
    @pytest.fixture
    def meter(self, xavier: FakeMachine) -> Meter:
        return JetsonMeter(xavier.root)

    @pytest.fixture
    def faults(self, meter: Meter, xavier: FakeMachine) -> Faults:
        return xavier.faults(f"{INA}/ina3221x/6-0041/iio:device1/in_power0_input")


def test_jetson_reads_the_rail_that_feeds_the_board(orin: FakeMachine) -> None:
    meter = JetsonMeter(orin.root)
    assert meter.read() == pytest.approx((6.0,))
    assert meter.name == "jetson:VDD_IN"
    assert meter.covers == "rail VDD_IN (board, at its input)"


def test_older_jetsons_show_milliwatts(xavier: FakeMachine) -> None:
    assert JetsonMeter(xavier.root).read() == pytest.approx((4.2,))
    chosen = JetsonMeter(xavier.root, rails=["CPU", "GPU"])
    assert chosen.read() == pytest.approx((1.5, 0.8))
    assert (chosen.name, chosen.covers) == ("jetson:CPU+GPU", "rail CPU and rail GPU")


def test_jetson_rails_are_updated_as_the_driver_says(orin: FakeMachine) -> None:
    assert JetsonMeter(orin.root).interval_s == 0.1
    orin.write(f"{NEW}/update_interval", 35)
    assert JetsonMeter(orin.root).interval_s == 0.035


def test_without_the_rail_both_trees_are_named(orin: FakeMachine, tmp_path: Path) -> None:
    with pytest.raises(MeterAbsentError) as caught:
        JetsonMeter(tmp_path / "elsewhere")
    assert "drivers/ina3221/*/hwmon/hwmon*/in*_label" in str(caught.value)
    assert "drivers/ina3221x/*/iio:device*/rail_name_*" in str(caught.value)
    with pytest.raises(MeterAbsentError, match=r"no rail 'VDD_X'.*found VDD_IN, VDD_CPU_GPU_CV"):
        JetsonMeter(orin.root, rails=["VDD_X"])
    orin.write(f"{NEW}/in1_label", "VDD_OTHER")
    with pytest.raises(MeterAbsentError, match=r"no rail that feeds the board.*jetson:VDD_OTHER"):
        JetsonMeter(orin.root)
    with pytest.raises(InvalidInputError, match="summed once"):
        JetsonMeter(orin.root, rails=["VDD_SOC", "VDD_SOC"])


def test_jetson_may_be_forbidden(orin: FakeMachine) -> None:
    orin.fail(f"{NEW}/curr1_input")
    with pytest.raises(MeterPermissionError, match=r"sudo chmod a\+r .*hwmon3/curr1_input"):
        JetsonMeter(orin.root)


# ---- Raspberry Pi 5 ------------------------------------------------------------------------------


class TestRaspberryPi(MeterContract):
    @pytest.fixture
    def meter(self, firmware: Firmware) -> Meter:
        return RaspberryPiMeter(run=firmware.run)

    @pytest.fixture
    def faults(self, meter: Meter, firmware: Firmware) -> Faults:
        return {
            "not a number": firmware.say(PMIC.replace("2.50000000A", "n/aA")),
            "not finite": firmware.say(PMIC.replace("2.50000000A", "infA")),
            "other words": firmware.say(PMIC + "throttled=0x0\n"),
            "volts as amperes": firmware.say(PMIC.replace("2.50000000A", "2.5V")),
            "a rail less": firmware.say("".join(PMIC.splitlines(keepends=True)[1:])),
            "nothing": firmware.say(""),
            "gone": firmware.say(MeterAbsentError("there is no command vcgencmd on the PATH.")),
            "hangs": firmware.say(MeterError("`vcgencmd` took longer than 10 s.")),
        }


def test_the_rails_of_a_raspberry_pi_are_summed(firmware: Firmware) -> None:
    meter = RaspberryPiMeter(run=firmware.run)
    assert sum(meter.read()) == pytest.approx(0.1 * 3.7 + 0.2 * 1.8 + 2.5 * 0.8)
    assert [channel.name for channel in meter.channels] == ["3V7_WL_SW", "1V8_SYS", "VDD_CORE"]
    assert set(firmware.asked) == {("vcgencmd", "pmic_read_adc")}


def test_the_firmware_may_not_be_asked(firmware: Firmware, tmp_path: Path) -> None:
    firmware.answer = MeterError("`vcgencmd pmic_read_adc` ended with 255: open /dev/vcio failed")
    with pytest.raises(MeterPermissionError) as caught:
        RaspberryPiMeter(tmp_path, run=firmware.run)
    assert f"{tmp_path}/dev/vcio may not be opened" in str(caught.value)
    assert "`sudo usermod -aG video $USER` grants it" in str(caught.value)


def test_other_boards_have_no_power_chip(firmware: Firmware) -> None:
    firmware.answer = 'error=1 error_msg="Command not registered"'
    with pytest.raises(MeterAbsentError, match=r"a Raspberry Pi 5 does.*Command not registered"):
        RaspberryPiMeter(run=firmware.run)
    firmware.answer = MeterAbsentError("there is no command vcgencmd on the PATH.")
    with pytest.raises(MeterAbsentError, match=r"looked for the command `vcgencmd pmic_read_adc`"):
        RaspberryPiMeter(run=firmware.run)


def test_commands_are_run_and_their_failures_told(tmp_path: Path) -> None:
    assert run_command(["echo", "hello"]) == "hello\n"
    with pytest.raises(MeterAbsentError, match="no command surely-not-there on the PATH"):
        run_command(["surely-not-there"])
    with pytest.raises(MeterError, match=r"ended with 3: no device"):
        run_command(["sh", "-c", "echo no device >&2; exit 3"])
    script = tmp_path / "vcgencmd"
    script.write_text("echo", encoding="utf-8")
    with pytest.raises(MeterPermissionError, match=r"sudo chmod a\+x"):
        run_command([str(script)])


def test_a_command_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mathnas.devices.commands._LONGEST_S", 0.1)
    with pytest.raises(MeterError, match=r"`sleep 5` took longer than 0\.1 s"):
        run_command(["sleep", "5"])


# ---- NVML ----------------------------------------------------------------------------------------


class TestNvml(MeterContract):
    @pytest.fixture
    def meter(self, gpus: Gpus) -> Meter:
        return NvmlMeter(library=gpus)

    @pytest.fixture
    def faults(self, meter: Meter, gpus: Gpus) -> Faults:
        return gpus.faults()


class TestNvmlOfAnOlderGpu(TestNvml):
    @pytest.fixture
    def gpus(self) -> Gpus:
        return Gpus(counter=False)


def test_a_gpu_counts_or_else_shows_its_power(gpus: Gpus) -> None:
    meter = NvmlMeter(library=gpus)
    assert (meter.name, meter.kind) == ("nvml", MeterKind.COUNTER)
    assert meter.covers == "GPU 0 (Big GPU)"
    assert 200 <= meter.read()[0] < 2000
    older = NvmlMeter(library=Gpus(counter=False))
    assert older.kind is MeterKind.POWER
    assert older.read() == (200.0,)


def test_a_gpu_that_is_not_there_or_not_ours(gpus: Gpus) -> None:
    with pytest.raises(MeterAbsentError, match=r"nvml:1: the library libnvidia-ml\.so\.1 says"):
        NvmlMeter(1, library=gpus)
    gpus.error = gpus.NVML_ERROR_NO_PERMISSION
    with pytest.raises(MeterPermissionError, match=r"sudo chmod a\+rw /dev/nvidiactl"):
        NvmlMeter(library=gpus)


def test_the_package_for_gpus_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mathnas\[nvml\]'"):
        NvmlMeter()


# ---- batteries -----------------------------------------------------------------------------------


class TestBattery(MeterContract):
    @pytest.fixture
    def meter(self, laptop: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> Meter:
        monkeypatch.setattr(BatteryMeter, "interval_s", 0.01)  # the fake is not that slow
        return BatteryMeter(laptop.root)

    @pytest.fixture
    def faults(self, meter: Meter, laptop: FakeMachine) -> Faults:
        def plugged() -> None:
            laptop.write(f"{SUPPLY}/BAT0/status", "Charging")

        def unplugged() -> None:
            laptop.write(f"{SUPPLY}/BAT0/status", "Discharging")
            laptop.write(f"{SUPPLY}/BAT0/power_now", "?")

        return {"plugged in": plugged, "rubbish": unplugged} | laptop.faults(
            f"{SUPPLY}/BAT0/power_now"
        )


def test_a_battery_that_discharges(laptop: FakeMachine) -> None:
    meter = BatteryMeter(laptop.root)
    assert meter.read() == (6.5,)
    assert (meter.name, meter.interval_s) == ("battery", 1.0)
    assert meter.covers == "whole device, from its battery"


def test_current_and_voltage_with_a_sign(laptop: FakeMachine) -> None:
    laptop.remove(f"{SUPPLY}/BAT0/power_now")
    laptop.write(f"{SUPPLY}/BAT0/current_now", -500_000)
    laptop.write(f"{SUPPLY}/BAT0/voltage_now", 12_000_000)
    assert BatteryMeter(laptop.root).read() == pytest.approx((6.0,))


def test_of_two_batteries_the_one_that_discharges_counts(laptop: FakeMachine) -> None:
    laptop.write(f"{SUPPLY}/BAT1/type", "Battery")
    laptop.write(f"{SUPPLY}/BAT1/status", "Not charging")
    laptop.write(f"{SUPPLY}/BAT1/power_now", 9)
    assert BatteryMeter(laptop.root).read() == (6.5, 0.0)


@pytest.mark.parametrize("state", ["Charging", "Full", "Unknown", ""])
def test_a_battery_that_does_not_discharge_measures_nothing(
    laptop: FakeMachine, state: str
) -> None:
    laptop.write(f"{SUPPLY}/BAT0/status", state)
    path = laptop.root / SUPPLY / "BAT0" / "status"
    with pytest.raises(MeterError) as caught:
        BatteryMeter(laptop.root)
    assert f"{path} says {state!r}: unplug the charger" in str(caught.value)


def test_without_a_battery(laptop: FakeMachine) -> None:
    laptop.remove(f"{SUPPLY}/BAT0/type")
    with pytest.raises(MeterAbsentError, match=r"power_supply/BAT\*/status.*found AC, BAT0, mouse"):
        BatteryMeter(laptop.root)
    with pytest.raises(MeterAbsentError, match="BAT7/status"):
        BatteryMeter(laptop.root, battery="BAT7")


# ---- the contract itself -------------------------------------------------------------------------


class Wrong:
    """A meter that breaks one promise at a time."""

    name, covers = "wrong", "nothing"
    interval_s, resolution = 0.001, 1e-6

    def __init__(self, kind: MeterKind, *values: float) -> None:
        self.kind = kind
        self.channels = (Channel("one"),)
        self._values = values

    def read(self) -> tuple[float, ...]:
        return self._values


@pytest.mark.parametrize("values", [(), (1.0, 2.0), (float("nan"),), (-1.0,)])
def test_the_contract_finds_wrong_readings(values: tuple[float, ...]) -> None:
    with pytest.raises(AssertionError):
        MeterContract().test_a_reading_has_a_value_for_each_channel(Wrong(MeterKind.POWER, *values))


def test_the_contract_finds_a_counter_that_stands_still() -> None:
    with pytest.raises(AssertionError):
        MeterContract().test_a_counter_counts(Wrong(MeterKind.COUNTER, 5.0))
    with pytest.raises(AssertionError):
        MeterContract().test_a_log_of_it_grows(Wrong(MeterKind.COUNTER, 5.0))


def test_the_contract_finds_a_value_in_place_of_an_error() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"unplugged: it read \(5\.0,\)"):
        MeterContract().test_a_broken_sensor_is_an_error(
            Wrong(MeterKind.POWER, 5.0), {"unplugged": lambda: None}
        )
