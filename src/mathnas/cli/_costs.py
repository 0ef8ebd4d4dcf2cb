"""Meters that a command line can name, and the cost of a search that only reads its study."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import typer

from mathnas.cli._objects import load_object
from mathnas.cli._options import is_study
from mathnas.costs import CostRecorder, RunMeter
from mathnas.devices.energy import METER_NAMES, energy_log
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.study import Study


def read_meter(text: str | None) -> RunMeter | None:
    """The meter that ``--meter`` names: one of this machine (``rapl``, see `mathnas show-env`), or
    ``MODULE:OBJECT``, an object or what makes one.

    Raises:
        InvalidInputError: the text is not written like that.
        EvaluationError: the module or object cannot be loaded, or is no meter.
        MeterError: the machine's meter is absent, may not be read, or does not count.
    """
    if text is None:
        return None
    module, _, name = text.partition(":")
    if module in METER_NAMES:
        return energy_log(text)
    if not name:
        raise InvalidInputError(
            f"--meter is one of {', '.join(METER_NAMES)}, or MODULE:OBJECT, but got {text!r}."
        )
    found: RunMeter = load_object(module, name, "meter", ("start", "joules", "stop", "name"))
    return found


@contextlib.contextmanager
def recorded_search(path: Path, meter: str | None, grid_intensity: float | None) -> Iterator[None]:
    """Where `path` is a study, keep in it what the search in this context costs.

    The answer is worth more than the account: where the study cannot be written, a warning says so.

    Raises:
        InvalidInputError: a meter or an intensity is wrong.
    """
    if not is_study(path):
        yield
        return
    with CostRecorder("search", meter=read_meter(meter), grid_intensity=grid_intensity) as recorder:
        yield
    try:
        with Study(path) as study:
            study.add_run(recorder.cost)
    except FileFormatError as error:
        typer.echo(f"warning: the cost of this search is not recorded: {error}", err=True)
