"""``mathnas fit``."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mathnas import fitting
from mathnas.cli._options import (
    AsJson,
    DeviceName,
    Forms,
    StudyPath,
    load_table,
    print_json,
    read_forms,
    read_pairs,
    read_study,
)
from mathnas.table import BlockTable
from mathnas.variance import table_shares


class Method(str, Enum):
    """How effects are estimated; see `mathnas.fit`."""

    PAIRED = "paired"
    SINGLE = "single"
    MEANS = "means"
    REGRESSION = "regression"


def register(app: typer.Typer) -> None:
    app.command(
        "fit",
        help="Estimate block effects from a study and write them as a table.",
        epilog="Example: mathnas fit macro.study -o macro.table.json",
    )(fit)


def fit(
    study_path: StudyPath,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The table file; by default STUDY.table.json, or STUDY.DEVICE.table.json.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Only these metrics.")
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            help="paired: all contexts; single: the reference's; means: unpaired; regression: from "
            "any networks, on a response scale, with uncertainty."
        ),
    ] = Method.PAIRED,
    prior: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE",
            help="A table of the same space for a regression to start from: another device's, or a "
            "proxy's. Used as far as it helps.",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=OTHER",
            help="Another metric of the study for a regression of METRIC to start from, for "
            "example accuracy=loss. May be repeated.",
        ),
    ] = None,
    device: DeviceName = None,
    form: Forms = None,
    reference: Annotated[
        str | None, typer.Option(metavar="NETWORK", help="What effects are relative to.")
    ] = None,
    variance: Annotated[
        bool,
        typer.Option(
            "--variance", help="Also say which nodes and pairs the predictions vary with, and how."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    with read_study(study_path) as study:
        table = fitting.fit(
            study,
            metric,
            method=method.value,
            form=read_forms(form),
            device=device,
            prior=None if prior is None else load_table(prior),
            proxy=read_pairs("--proxy", "METRIC=OTHER", proxy),
            reference=None if reference is None else study.space.parse(reference),
        )
    shares = {name: table_shares(table, name) for name in table.columns} if variance else {}
    target = output or _beside(study_path, table)
    table.save(target)
    if as_json:
        split = {name: found.to_dict() for name, found in shares.items()}
        extra = {"variance": split} if variance else {}
        print_json({"table": str(target), **table.to_dict(), **extra})
    else:
        typer.echo(str(table))
        for line in _chosen(table):
            typer.echo(line)
        for name, found in shares.items():
            typer.echo(f"\n{name}: {found}")
        typer.echo(f"\nwritten: {target}")


def _beside(study_path: Path, table: BlockTable) -> Path:
    """Where a table is written by default; those of several devices do not replace each other."""
    device = re.sub(r"[^\w.]+", "-", str(table.provenance.get("device", ""))).strip("-.")
    return study_path.with_suffix(f".{device}.table.json" if device else ".table.json")


def _chosen(table: BlockTable) -> list[str]:
    """What the evidence chose for each metric of a regression."""
    chosen = table.provenance.get("chosen")
    if not isinstance(chosen, dict):
        return []
    lines = ["\nchosen by evidence"]
    for name, found in chosen.items():
        whose = "" if table.column(name).process else f" of networks in the form {found['form']}"
        error = table.column(name).metric.format(found["left_out_error"])
        lines.append(
            f"  {name}: {found['model']}{whose}; scale {found['scale']}, {found['errors']} errors; "
            f"networks left out are predicted within {error} on average"
        )
    return lines
