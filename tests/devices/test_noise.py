"""The rule of noise: each threshold, and real processes that disturb."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mathnas as mn
from mathnas import InvalidInputError, Measurement
from mathnas.devices.common import LatencyEvaluator
from mathnas.devices.noise import NoiseError, NoiseRule
from mathnas.devices.relative import RelativeLatencyEvaluator
from mathnas.devices.state import Usage
from mathnas.devices.timing import Timing, TimingSettings, time_in_turns

CALM = Usage(seconds=2.0, own=2.0, cores=2, busy=2.0, stolen=0.0, waited=0.0, throttled=0)


def broken(usage: Usage, threads: int = 1) -> list[str]:
    return [flag.rule for flag in NoiseRule().machine_flags(usage, threads)]


def test_a_calm_machine_breaks_no_rule() -> None:
    assert broken(CALM) == []
    assert broken(Usage(seconds=2.0, own=1.0, cores=2)) == [], "what cannot be read breaks none"


def test_waiting_for_a_core() -> None:
    assert broken(replace(CALM, waited=0.09)) == []
    (flag,) = NoiseRule().machine_flags(replace(CALM, waited=0.5), 1)
    assert str(flag) == "waiting: share of time waited for a core 25.0% (at most 5%)"


def test_a_core_that_others_use_crowds_who_needs_it() -> None:
    beside = replace(CALM, busy=4.0)  # one core of two, all the time
    assert beside.others == 1.0
    assert broken(beside, threads=1) == []
    assert broken(beside, threads=2) == ["crowding"]
    assert broken(replace(CALM, own=1.0, busy=4.0), threads=1) == ["crowding"]


def test_neighbours_on_other_cores() -> None:
    """Also on those that this process may not use: it stays on one core of eight."""
    alone = replace(CALM, cores=1, machine_cores=8, machine_busy=2.0)
    assert broken(alone) == []
    assert broken(replace(alone, machine_busy=2.0 + 2 * 1.7)) == []  # 1.7 cores of 7
    (flag,) = NoiseRule().machine_flags(replace(alone, machine_busy=2.0 + 2 * 3.5), 1)
    assert str(flag) == ("neighbours: share of the other cores used by others 50.0% (at most 25%)")
    all_cores = replace(alone, cores=8, machine_busy=16.0)
    assert broken(all_cores, threads=8) == [], "no core is left for others"


def test_steal_and_heat() -> None:
    assert broken(replace(CALM, stolen=0.5)) == ["steal"]
    (flag,) = NoiseRule().machine_flags(replace(CALM, throttled=2), 1)
    assert str(flag) == "throttling: the processor was slowed down 2 times"


def timing(slices: list[float], cpu: float = 1.0) -> Timing:
    """Of runs that are on a processor for a share of their time."""
    found = np.array(slices)
    return Timing(found, found, cpu * found, float(found.min()), 5, 0.1)


def test_times_that_scatter_drift_or_are_off_the_processor() -> None:
    rule = NoiseRule()

    def rules(found: Timing, must_be_busy: bool = True) -> list[str]:
        return [flag.rule for flag in rule.timing_flags(found, must_be_busy=must_be_busy)]

    assert rules(timing([1.0, 1.01, 1.02, 1.0, 1.01, 1.02])) == []
    assert rules(timing([1.0, 1.5, 1.0, 1.5])) == ["spread"]
    assert rules(timing([1.0, 1.0, 1.0, 1.12, 1.12, 1.12])) == ["drift"]
    assert rules(timing([1.0, 1.0], cpu=0.7)) == ["waiting"]
    assert rules(timing([1.0, 1.0], cpu=0.0), must_be_busy=False) == []


def test_a_reference_that_changed() -> None:
    rule, now = NoiseRule(), timing([1.06])
    assert rule.reference_flags(now, None) == []
    assert rule.reference_flags(now, 1.02) == []
    (flag,) = rule.reference_flags(now, 1.0)
    assert "changed by 6.0% (at most 5%)" in str(flag)


def test_impossible_rules_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="thresholds of noise are positive"):
        NoiseRule(spread=0.0)
    with pytest.raises(InvalidInputError, match="made at least once"):
        NoiseRule(attempts=0)


class SharedCore:
    """A core that others take now and then, for 4 ms at a time, and some share of the time.

    Stands in for the clock and the processor time of a call that needs `needs_ms`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, needs_ms: float, share: float) -> None:
        self.needs_ns = round(needs_ms * 1e6)
        self.now_ns = self.busy_ns = 0
        self.rng = np.random.default_rng(1)
        self.gap_ns = 4e6 * (1 - share) / share  # of work between two interruptions, on average
        self.left_ns = self.rng.exponential(self.gap_ns)
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now_ns)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_ns / 1e9)
        monkeypatch.setattr(time, "process_time_ns", lambda: self.busy_ns)

    def __call__(self) -> None:
        self.now_ns += self.needs_ns
        self.busy_ns += self.needs_ns
        self.left_ns -= self.needs_ns
        while self.left_ns < 0:
            self.now_ns += 4_000_000
            self.left_ns += self.rng.exponential(self.gap_ns)


@pytest.mark.parametrize("needs_ms", [0.05, 0.5, 3.0, 20.0, 200.0])
def test_what_the_rule_lets_pass_is_at_most_5_percent_off(
    monkeypatch: pytest.MonkeyPatch, needs_ms: float
) -> None:
    """However short or long a run is; a core that is taken for longer is noticed."""
    rule = NoiseRule()
    for share in (0.02, 0.045, 0.1, 0.3, 0.6):
        core = SharedCore(monkeypatch, needs_ms, share)
        (found,) = time_in_turns([core], TimingSettings())
        flags = [flag.rule for flag in rule.timing_flags(found, must_be_busy=True)]
        assert found.cpu_ms == pytest.approx(needs_ms)
        if "waiting" not in flags:
            assert needs_ms <= found.value * (1 + 1e-9) <= 1.05 * needs_ms
        if share >= 0.3:
            assert "waiting" in flags


# ---- real processes ------------------------------------------------------------------------------


class Counting:
    """An engine whose models are numbers of additions."""

    name, version, threads, precision, batch = "loops", "1", 1, "int", 1

    def prepare(self, model: int) -> Callable[[], object]:
        return lambda: sum(range(model))


SPACE = mn.SearchSpace(
    [mn.BlockNode(f"n{i}", tuple(mn.Block(f"b{j}", j + 1) for j in range(2))) for i in range(2)]
)


def additions(network: mn.Network) -> int:
    return 5_000 * (2 + 2 * network[0] + network[1])


def evaluator(*, accept_noise: bool = False) -> LatencyEvaluator[int]:
    return LatencyEvaluator(
        additions,
        Counting(),
        timing=TimingSettings(rounds=12),
        batch_size=8,
        noise=NoiseRule(attempts=2, pause_s=0.2),
        accept_noise=accept_noise,
    )


@contextmanager
def stress(processes: int, duty: float = 1.0, core: int | None = None) -> Iterator[None]:
    """Processes that do nothing but compute, for a share of every 50 ms, and on this core."""
    place = "" if core is None else f"import os; os.sched_setaffinity(0, {{{core}}})\n"
    code = place + (
        "import time; print(flush=True)\n"
        "while True:\n"
        f"    end = time.perf_counter() + {0.05 * duty}\n"
        "    while time.perf_counter() < end: pass\n"
        f"    time.sleep({0.05 * (1 - duty)})"
    )
    busy = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    try:
        for process in busy:
            assert process.stdout is not None
            process.stdout.readline()  # it has begun
        yield
    finally:
        for process in busy:
            process.kill()
            process.communicate()


NETWORKS = list(SPACE.enumerate())
CORES = os.cpu_count() or 1
ONLY_LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells who waited for a core"
)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nobody else's measurements: they are stress as well."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@ONLY_LINUX
def test_under_stress_every_measurement_is_flagged() -> None:
    with stress(CORES + 2):
        found = evaluator(accept_noise=True).evaluate_batch([(0, 0), (1, 1)])
    for metrics in found:
        value = metrics["latency_ms"]
        assert isinstance(value, Measurement)
        assert "waiting: " in value.notes["flags"]


@ONLY_LINUX
@pytest.mark.usefixtures("alone")
def test_there_is_no_table_of_what_was_measured_under_stress(tmp_path: Path) -> None:
    with mn.Study(tmp_path / "my.study", SPACE) as study:
        with stress(CORES + 2):
            report = mn.evaluate(study, NETWORKS, evaluator())
        assert [failure.network for failure in report.failures] == NETWORKS
        assert all("stayed noisy in 2 attempts" in failure.error for failure in report.failures)
        with pytest.raises(InvalidInputError):
            mn.fit(study)


@ONLY_LINUX
@pytest.mark.usefixtures("alone")
def test_a_table_made_under_some_stress_is_the_quiet_one(tmp_path: Path) -> None:
    """As `mathnas measure` goes on with a study: beside a reference, whose own latency is known.

    Other programs slow both by filling caches. What is refused is measured when the stress is over.
    """

    def beside_a_reference() -> RelativeLatencyEvaluator[int]:
        return RelativeLatencyEvaluator(additions, Counting(), SPACE.reference)

    with mn.Study(tmp_path / "quiet.study", SPACE) as study:
        try:
            failures = mn.evaluate(study, NETWORKS, beside_a_reference()).failures
        except NoiseError:
            pytest.skip("this machine is busy with other things")
        if failures:
            pytest.skip("this machine is busy with other things")
        quiet = mn.fit(study).predict(NETWORKS, "latency_ms")
        evaluator = beside_a_reference()
        evaluator.settle(study)
    with mn.Study(tmp_path / "stressed.study", SPACE) as study:
        with stress(CORES, duty=0.05):
            mn.evaluate(study, NETWORKS, evaluator)
        if mn.evaluate(study, NETWORKS, evaluator).failures:
            pytest.skip("this machine is busy with other things")
        stressed = mn.fit(study).predict(NETWORKS, "latency_ms")
    assert stressed == pytest.approx(quiet, rel=0.05)


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """This process stays on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@ONLY_LINUX
@pytest.mark.skipif(CORES < 2, reason="a neighbour needs another core")
@pytest.mark.usefixtures("alone")
def test_what_is_measured_beside_a_neighbour_is_flagged_and_a_level_refused() -> None:
    """It runs on a core of its own, so that nothing waits for it."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    strict = RelativeLatencyEvaluator(
        additions, Counting(), SPACE.reference, noise=NoiseRule(attempts=2, pause_s=0.1)
    )
    accepting = RelativeLatencyEvaluator(
        additions,
        Counting(),
        SPACE.reference,
        noise=NoiseRule(attempts=1),
        noise_limit=10.0,
        accept_noise=True,
    )
    with stress(1, core=second), pinned(first):
        absolute = evaluator(accept_noise=True).evaluate((1, 1))
        with pytest.raises(NoiseError, match=r"stayed noisy in 2 attempts.*neighbours: share"):
            strict.evaluate((1, 1))
        relative = accepting.evaluate((1, 1))
    for found in (absolute["latency_ms"], relative["latency_ms"]):
        assert isinstance(found, Measurement)
        assert "neighbours: share of the other cores used by others" in found.notes["flags"]
    assert accepting.conditions["noise"] == "accepted"
