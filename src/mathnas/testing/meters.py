"""What every energy meter keeps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import pytest

from mathnas.devices.energy import EnergyLog, Meter, MeterKind
from mathnas.devices.energy.meter import joules_between
from mathnas.errors import MeterError


class MeterContract:
    """Inherit and override the fixture `meter`, and `faults` where the sensor can be broken.

    A meter reads joules that only rise, or watts; and when its sensor goes away, is forbidden or
    says what cannot be, it raises `MeterError`: no value is better than a wrong one.

    Example::

        class TestMyMeter(MeterContract):
            @pytest.fixture
            def meter(self) -> Meter:
                return MyMeter()
    """

    @pytest.fixture
    def meter(self) -> Meter:
        """The meter under test, with something that draws power."""
        raise NotImplementedError("override the fixture `meter` and return your meter.")

    @pytest.fixture
    def faults(self, meter: Meter) -> Mapping[str, Callable[[], object]]:
        """Ways to break the sensor of `meter`, each in place of the one before."""
        return {}

    def test_it_says_what_it_is(self, meter: Meter) -> None:
        assert meter.name
        assert meter.name == meter.name.strip()
        assert "," not in meter.name, "names are options of a command line"
        assert meter.covers
        assert isinstance(meter.kind, MeterKind)
        assert 0 < meter.interval_s < 60
        assert 0 < meter.resolution < 1

    def test_its_channels_have_names_of_their_own(self, meter: Meter) -> None:
        names = [channel.name for channel in meter.channels]
        assert names
        assert len(set(names)) == len(names)
        for channel in meter.channels:
            if channel.wraps_j is not None:
                assert meter.kind is MeterKind.COUNTER
                assert 0 < channel.wraps_j < math.inf

    def test_a_reading_has_a_value_for_each_channel(self, meter: Meter) -> None:
        for _ in range(3):
            values = meter.read()
            assert len(values) == len(meter.channels)
            assert all(math.isfinite(value) for value in values)
            assert sum(values) >= 0

    def test_a_counter_counts(self, meter: Meter) -> None:
        if meter.kind is not MeterKind.COUNTER:
            pytest.skip("it reads power")
        before, start = meter.read(), time.monotonic()
        time.sleep(2 * meter.interval_s + 0.05)
        seconds = time.monotonic() - start
        assert joules_between(meter, before, meter.read(), seconds) > 0

    def test_a_log_of_it_grows(self, meter: Meter) -> None:
        found = []
        with EnergyLog(meter) as log:
            for _ in range(3):
                time.sleep(2 * meter.interval_s)
                found.append(log.joules())
        assert found == sorted(found)
        assert 0 < found[-1] <= log.joules() < math.inf

    def test_a_broken_sensor_is_an_error(
        self, meter: Meter, faults: Mapping[str, Callable[[], object]]
    ) -> None:
        log = EnergyLog(meter)
        log.start()
        for fault, break_it in faults.items():
            break_it()
            for _ in range(2):
                with pytest.raises(MeterError) as caught:
                    pytest.fail(f"{fault}: it read {meter.read()}")
                assert str(caught.value), f"{fault}: an error says what is wrong"
        if faults:
            with pytest.raises(MeterError):
                log.joules()
        log.stop()
