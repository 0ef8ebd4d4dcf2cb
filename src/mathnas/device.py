"""The record of a device: what is known of a machine that networks were measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from mathnas._records import Record
from mathnas.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Device:
    """A machine that runs networks; None stands for what it does not tell.

    Attributes:
        name: stands in the conditions of what is measured on it.
        cpu: processor model.
        cores: logical processors that the measuring process may use.
        system: operating system and architecture.
        memory_mb: main memory in MB (1e6 bytes).
        board: the board's model, where firmware names one.
        governor: what decides the processor's frequency, for example ``performance``.
        max_mhz: the highest frequency of a processor.
    """

    name: str
    cpu: str
    cores: int
    system: str
    memory_mb: float | None = None
    board: str | None = None
    governor: str | None = None
    max_mhz: float | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InvalidInputError("a device has a name, but got an empty one: give it one.")
        numbers = {"cores": self.cores, "memory_mb": self.memory_mb, "max_mhz": self.max_mhz}
        for field, value in numbers.items():
            if value is not None and not 0 < value < float("inf"):
                raise InvalidInputError(
                    f"{field} of a device is a positive number, but {self.name!r} has {value}."
                )

    def to_dict(self) -> dict[str, object]:
        """For JSON; what is not known is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, value: Mapping[str, object], where: str = "a device record") -> Device:
        """Read what `to_dict` wrote.

        Args:
            where: the record stands, for messages.

        Raises:
            FileFormatError: a field is missing, unknown, or of another type.
            InvalidInputError: a number is not positive, or the name is empty.
        """
        record = Record(value, where)
        record.only(*(field.name for field in fields(cls)))
        return cls(
            record.get("name", str),
            record.get("cpu", str),
            record.get("cores", int),
            record.get("system", str),
            record.number("memory_mb"),
            record.get("board", str) if "board" in record else None,
            record.get("governor", str) if "governor" in record else None,
            record.number("max_mhz"),
        )

    def __str__(self) -> str:
        known = [
            None if self.board == self.cpu else self.board,
            f"{self.cpu}, {self.cores} cores",
            None if self.max_mhz is None else f"up to {self.max_mhz:g} MHz",
            None if self.governor is None else f"governor {self.governor}",
            None if self.memory_mb is None else f"{self.memory_mb / 1000:.3g} GB",
            self.system,
        ]
        return "; ".join(text for text in known if text)
