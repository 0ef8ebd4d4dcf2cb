"""``mathnas costs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mathnas.cli._options import AsJson, StudyPath, print_json, read_study
from mathnas.costs import Account, read_runs


def register(app: typer.Typer) -> None:
    app.command(
        "costs",
        help="What was spent on a study: time, energy where a meter ran, and an estimate of CO2 "
        "where an intensity of the grid was stated.",
        epilog="Example: mathnas costs my.study --training out",
    )(costs)


def costs(
    study_path: StudyPath,
    training: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Of `mathnas train`: what the supernet cost, too. May be repeated.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    with read_study(study_path) as study:
        runs = study.runs
    for folder in training or []:
        runs += read_runs(folder)
    account = Account(runs)
    if as_json:
        print_json({"study": str(study_path), **account.to_dict()})
    else:
        typer.echo(str(account))
