"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.fitting import fit
from mathnas.study import Study
from mathnas.table import BlockTable

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file.")]
TablePath = Annotated[
    Path, typer.Argument(metavar="TABLE", help="A table file, or a study (fitted on the spot).")
]
Forms = Annotated[
    list[str] | None,
    typer.Option(
        "--form",
        metavar="METRIC=FORM",
        help="How block effects add up: linear (default), inverse-macs-block-mean, "
        "inverse-macs-space-mean, inverse-macs-corrected.",
    ),
]


def print_json(value: object) -> None:
    """Print JSON that every parser reads: numbers that are not finite become null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False, ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def progress_of(as_json: bool) -> bool | None:
    """Progress where standard error is a terminal, and in logs of people, not of scripts."""
    return None if as_json or sys.stderr.isatty() else True


def read_table(path: Path, forms: list[str] | None = None) -> BlockTable:
    """The table of a file: a saved table, or a study that is fitted now.

    Raises:
        FileFormatError: there is no such file, or it is neither.
        InvalidInputError: forms are given for a table that is fitted already.
    """
    try:
        with path.open("rb") as file:
            is_study = file.read(15) == b"SQLite format 3"
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    if is_study:
        with Study(path, read_only=True) as study:
            return fit(study, form=read_forms(forms))
    if forms:
        raise InvalidInputError(
            f"--form is for fitting, but {path} is a table that is fitted already: give the study."
        )
    return BlockTable.load(path)


def read_forms(forms: list[str] | None) -> dict[str, str]:
    """``["accuracy=linear"]`` as a mapping.

    Raises:
        InvalidInputError: an entry is not METRIC=FORM.
    """
    pairs = [entry.partition("=") for entry in forms or []]
    for (metric, _, form), entry in zip(pairs, forms or [], strict=True):
        if not metric or not form:
            raise InvalidInputError(f"--form is written METRIC=FORM, but got {entry!r}.")
    return {metric: form for metric, _, form in pairs}
