"""Energy of networks: one file a meter.

`find_meters` says which meters this machine has, and `meter_named` makes one. An `EnergyLog` adds
joules up over a long run (`energy_log` makes one by name), and `mathnas.devices.energy.evaluator`
measures networks.
"""

from mathnas.devices.energy.finding import (
    METER_NAMES,
    FoundMeters,
    energy_log,
    find_meters,
    meter_named,
)
from mathnas.devices.energy.log import EnergyLog
from mathnas.devices.energy.meter import Channel, Meter, MeterKind
from mathnas.devices.energy.stated import StatedPower

__all__ = [
    "METER_NAMES",
    "Channel",
    "EnergyLog",
    "FoundMeters",
    "Meter",
    "MeterKind",
    "StatedPower",
    "energy_log",
    "find_meters",
    "meter_named",
]
