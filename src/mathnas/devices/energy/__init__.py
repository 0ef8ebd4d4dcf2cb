"""Energy of networks: one file a meter.

`find_meters` says which meters this machine has, `meter_named` makes one, `EnergyLog` adds joules
up over a long run, and `mathnas.devices.energy.evaluator` measures networks.
"""

from mathnas.devices.energy.finding import FoundMeters, find_meters, meter_named
from mathnas.devices.energy.log import EnergyLog
from mathnas.devices.energy.meter import Channel, Meter, MeterKind
from mathnas.devices.energy.stated import StatedPower

__all__ = [
    "Channel",
    "EnergyLog",
    "FoundMeters",
    "Meter",
    "MeterKind",
    "StatedPower",
    "find_meters",
    "meter_named",
]
