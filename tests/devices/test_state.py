"""How a machine is doing, from trees of our own and from this machine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mathnas.devices.state import MachineState, Usage


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


def core(number: int, **values: str) -> dict[str, str]:
    """Files of one core; two underscores stand for a slash."""
    folder = f"sys/devices/system/cpu/cpu{number}"
    return {f"{folder}/{name.replace('__', '/')}": text for name, text in values.items()}


def test_load_frequencies_heat_and_throttling_of_a_pc(tmp_path: Path) -> None:
    for number, khz in ((0, "3400000"), (1, "1200000"), (10, "2000000")):
        files = core(
            number,
            cpufreq__scaling_cur_freq=khz,
            cpufreq__scaling_governor="powersave",
            cpufreq__scaling_max_freq="3400000",
            cpufreq__cpuinfo_max_freq="3400000",
            thermal_throttle__core_throttle_count=str(number),
            thermal_throttle__package_throttle_count="5",
        )
        write(tmp_path, files)
    write(
        tmp_path,
        {
            "proc/loadavg": "1.25 0.90 0.50 3/345 1234",
            "sys/class/thermal/thermal_zone0/temp": "41000",
            "sys/class/thermal/thermal_zone1/temp": "63500",
        },
    )
    found = MachineState.read(tmp_path)
    assert found == MachineState(
        load=1.25,
        running=3,
        frequencies_mhz=(3400.0, 1200.0, 2000.0),
        capped=False,
        governor="powersave",
        temperature_c=63.5,
        throttled=0 + 1 + 10 + 3 * 5,
    )
    assert found.notes() == {
        "load": "1.25",
        "running": "3",
        "frequency_mhz": "1200 to 3400",
        "governor": "powersave",
        "temperature_c": "64",
        "frequency_capped": "false",
    }


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert MachineState.read(tmp_path) == MachineState()
    assert MachineState.read(tmp_path).notes() == {}
    broken = {"proc/loadavg": "fast", "sys/class/thermal/thermal_zone0/temp": "?"}
    assert MachineState.read(write(tmp_path, broken)) == MachineState()
    usage = Usage.now(tmp_path).since(Usage.now(tmp_path))
    assert (usage.busy, usage.stolen, usage.waited, usage.throttled) == (None,) * 4
    assert usage.others is None
    assert usage.steal is None


def test_frequencies_of_processors_without_cpufreq(tmp_path: Path) -> None:
    text = "processor : 0\ncpu MHz\t\t: 2300.5\nprocessor : 1\ncpu MHz\t\t: 2300.0"
    found = MachineState.read(write(tmp_path, {"proc/cpuinfo": text}))
    assert found.frequencies_mhz == (2300.5, 2300.0)
    assert found.notes() == {"frequency_mhz": "2300"}


def test_a_lowered_frequency_is_noticed(tmp_path: Path) -> None:
    files = core(0, cpufreq__scaling_max_freq="1000", cpufreq__cpuinfo_max_freq="2000")
    assert MachineState.read(write(tmp_path, files)).capped is True


def test_a_raspberry_pi_tells_by_a_program(tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []

    def answering(text: str) -> MachineState:
        def command(words: Sequence[str]) -> str:
            asked.append(words)
            return text

        return MachineState.read(tmp_path, command)

    calm = answering("throttled=0x0\n")
    assert (calm.capped, calm.throttled) == (False, 0)
    before = answering("throttled=0x50000\n")  # under-voltage and throttling have been
    assert (before.capped, before.throttled) == (False, 2)
    now = answering("throttled=0x50005\n")  # and are
    assert (now.capped, now.throttled) == (True, 2)
    assert answering("error").throttled is None
    assert set(map(tuple, asked)) == {("vcgencmd", "get_throttled")}


def counters(root: Path, cores: Sequence[str], waited_ms: Sequence[int], throttled: int) -> Path:
    lines = ["cpu  9 9 9 9 9 9 9 9 0 0", *cores, "ctxt 5"]
    files = {"proc/stat": "\n".join(lines)}
    for task, wait in enumerate(waited_ms):
        files[f"proc/self/task/{task}/schedstat"] = f"123456 {wait * 1_000_000} 7"
    for number in range(len(cores)):
        files |= core(number, thermal_throttle__core_throttle_count=str(throttled))
    return write(root, files)


def test_what_was_used_between_two_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ten seconds on two cores: 4 s of its own, 5 s of others, 1 s for other machines."""
    monkeypatch.setattr(time, "perf_counter", lambda: 100.0)
    monkeypatch.setattr(time, "process_time", lambda: 7.0)
    monkeypatch.setattr("mathnas.devices.state._TICKS", 100)
    # user, nice, system, idle, iowait, irq, softirq, steal
    idle = ["cpu0 100 0 0 500 0 0 0 0 0 0", "cpu1 100 0 0 500 0 0 0 10 0 0"]
    before = Usage.now(counters(tmp_path, idle, [10, 0], throttled=2))
    monkeypatch.setattr(time, "perf_counter", lambda: 110.0)
    monkeypatch.setattr(time, "process_time", lambda: 11.0)
    later = ["cpu0 500 100 50 900 7 30 20 0 0 0", "cpu1 300 0 0 900 0 0 100 110 0 0"]
    usage = Usage.now(counters(tmp_path, later, [310, 200], throttled=4)).since(before)
    assert (usage.seconds, usage.own, usage.cores) == (10.0, 4.0, 2)
    assert usage.busy == pytest.approx(9.0)
    assert usage.others == pytest.approx(0.5)
    assert (usage.machine_cores, usage.neighbours) == (2, usage.others)
    assert usage.steal == pytest.approx(1.0 / 20)
    assert usage.waited == pytest.approx(0.5)
    assert usage.throttled == 4
    assert usage.notes().items() >= {"others_cores": "0.50", "waited": "0.0500"}.items()


def test_a_time_too_short_for_the_kernel_s_clock_says_nothing_of_others() -> None:
    assert Usage(seconds=0.05, own=0.0, cores=2, busy=0.1, stolen=0.0).others is None
    assert Usage(seconds=5.0, own=1.0, cores=2, busy=6.0, stolen=0.0).others == 1.0
    # ticks are coarse: less than nothing is nothing
    assert Usage(seconds=5.0, own=1.01, cores=2, busy=1.0, stolen=0.0).others == 0.0


def test_a_short_time_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel counts at all."""
    now, slept = 100.0, list[float]()
    monkeypatch.setattr(time, "perf_counter", lambda: now + sum(slept))
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr("mathnas.devices.state._TICKS", 100)
    tree = counters(tmp_path, ["cpu0 1 0 0 5 0 0 0 0 0 0"], [1], throttled=0)
    before = Usage.now(tree)
    now = 100.15
    assert before.until_now(tree).others == 0.0
    assert slept == [pytest.approx(0.05)]
    now = 107.0
    assert before.until_now(tree).seconds == pytest.approx(7.05)
    assert len(slept) == 1
    nothing = Usage.now(tmp_path / "nothing")
    assert nothing.until_now(tmp_path / "nothing").others is None
    assert len(slept) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are chosen on Linux")
def test_cores_that_this_process_may_not_use_are_the_machine_s() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        usage = Usage.now()
    finally:
        os.sched_setaffinity(0, before)
    assert usage.cores == 1
    assert usage.machine_cores >= len(before)
    assert usage.busy is not None
    assert usage.machine_busy is not None
    assert usage.machine_busy >= usage.busy


def test_this_machine_counts_what_this_process_does() -> None:
    before = Usage.now()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    usage = Usage.now().since(before)
    assert 0.05 <= usage.own <= usage.seconds * usage.cores + 0.02
    if sys.platform == "linux":
        assert usage.busy is not None
        assert MachineState.read().load is not None
