"""RAPL: energy counters of Intel and AMD processors, through the kernel's powercap tree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mathnas.devices.energy._sysfs import Rail, SysfsMeter, folders, read_number, read_text
from mathnas.devices.energy.meter import MeterKind
from mathnas.errors import InvalidInputError, MeterAbsentError

_COVERS = {
    "package": "processor package",
    "dram": "memory",
    "core": "processor cores",
    "uncore": "graphics in the processor",
    "psys": "platform",
}
# which are inside others, so that they are not summed
_INSIDE = {"core": "package", "uncore": "package", "package": "psys", "dram": "psys"}


class RaplMeter(SysfsMeter):
    """Sums the zones ``/sys/class/powercap/intel-rapl:*`` of one kind; AMD's have the same name.

    The tree ``intel-rapl-mmio`` shows the same counters a second time and is left out. Counters
    are renewed about every millisecond and start again at ``max_energy_range_uj``.

    Args:
        root: where ``sys`` is found.
        domains: ``package``, ``dram``, ``core``, ``uncore`` or ``psys``; several are summed where
            none lies inside another.

    Raises:
        MeterAbsentError: there is no such zone.
        MeterPermissionError: the counters are for root only, as on most systems.
        InvalidInputError: the domains are unknown or overlap.
    """

    def __init__(self, root: Path = Path("/"), *, domains: Sequence[str] = ("package",)) -> None:
        _check(domains)
        home = root / "sys" / "class" / "powercap"
        names = {zone: read_text(zone / "name") for zone in folders(home, "intel-rapl:*")}
        rails = []
        for domain in domains:
            found = [zone for zone, name in names.items() if _domain(name) == domain]
            if not found:
                raise MeterAbsentError(
                    f"RAPL has no zone {domain!r}: looked for {home}/intel-rapl:*/name, and found "
                    f"{', '.join(sorted(set(names.values()))) or 'none'}. Virtual machines show "
                    "none; on a PC, `sudo modprobe intel_rapl_msr` may load the driver."
                )
            rails += [_rail(zone, names[zone]) for zone in found]
        plain = tuple(domains) == ("package",)
        super().__init__(
            "rapl" if plain else f"rapl:{'+'.join(domains)}",
            MeterKind.COUNTER,
            " and ".join(_COVERS[domain] for domain in domains),
            rails,
            interval_s=0.001,
        )


def _domain(name: str) -> str:
    """``package-0`` and ``package-0-die-1`` are packages."""
    return name.partition("-")[0]


def _rail(zone: Path, name: str) -> Rail:
    wraps_j = read_number(zone / "max_energy_range_uj") * 1e-6
    return Rail(f"{zone.name} {name}", (zone / "energy_uj",), 1e-6, wraps_j)


def _check(domains: Sequence[str]) -> None:
    unknown = [domain for domain in domains if domain not in _COVERS]
    if unknown or not domains or len(set(domains)) < len(domains):
        raise InvalidInputError(
            f"RAPL domains are {', '.join(_COVERS)}, each once, but got "
            f"{', '.join(domains) or 'none'}."
        )
    for domain in domains:
        outer = _INSIDE.get(domain)
        while outer is not None:
            if outer in domains:
                raise InvalidInputError(
                    f"the RAPL domain {domain} lies inside {outer}, so their sum counts it twice: "
                    "name one of them."
                )
            outer = _INSIDE.get(outer)
