"""Answers of searches, read again from what ``mathnas search --json`` printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mathnas._records import parsed_json
from mathnas.errors import FileFormatError, InvalidInputError

_LARGEST = 2**26  # bytes


@dataclass(frozen=True)
class SavedAnswer:
    """What a file says that a search found.

    Attributes:
        network: as it stands there, not checked against a space.
        limits: that it was searched under.
        predictions: records of ``value`` and ``unit``, by metric.
        guarantee: what the search proved, in words; empty where nothing is said.
    """

    network: Sequence[int | str]
    limits: Sequence[Mapping[str, object]]
    predictions: Mapping[str, object]
    guarantee: str

    @classmethod
    def read(cls, path: Path) -> SavedAnswer:
        """The answer in a file; of several, the best.

        Raises:
            FileFormatError: the file is none.
            InvalidInputError: the search found no network.
        """
        value = parsed_json(path, "an answer", _LARGEST)
        if isinstance(value, dict) and value.get("answers"):
            value = value["answers"][0] if isinstance(value["answers"], list) else value
        if isinstance(value, dict) and value.get("status") == "infeasible":
            raise InvalidInputError(
                f"{path} says that no network meets the limits: there is nothing to extract."
            )
        if not isinstance(value, dict) or not isinstance(value.get("network"), list):
            raise FileFormatError(
                f"{path} is not an answer: it has no network. Write `mathnas search --json` to a "
                "file."
            )
        limits = value.get("limits") or []
        if not isinstance(limits, list) or not all(isinstance(limit, dict) for limit in limits):
            raise FileFormatError(f"{path}: expected limits as a list of objects.")
        predictions = value.get("predictions")
        return cls(
            value["network"],
            limits,
            predictions if isinstance(predictions, dict) else {},
            str(value.get("guarantee") or ""),
        )
