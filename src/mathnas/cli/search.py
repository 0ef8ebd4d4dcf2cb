"""``mathnas search``."""

from __future__ import annotations

from typing import Annotated

import typer

from mathnas.cli._options import AsJson, Forms, TablePath, print_json, read_table
from mathnas.search import search as find


def register(app: typer.Typer) -> None:
    app.command(
        "search",
        help="The best predicted network under limits, with proof.",
        epilog="Example: mathnas search phone.table.json --limit latency_ms=20ms --limit macs=-30%",
    )(search)


def search(
    path: TablePath,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="LIMIT",
            help="latency_ms=20, 'latency_ms<=20ms', 'accuracy>=75', macs=300M, or a change from "
            "the reference network: latency_ms=-30%. May be repeated.",
        ),
    ] = None,
    maximize: Annotated[
        str | None, typer.Option(metavar="METRIC", help="By default the one with more is better.")
    ] = None,
    minimize: Annotated[str | None, typer.Option(metavar="METRIC")] = None,
    solver: Annotated[str, typer.Option(help="auto, enumeration or numpy.")] = "auto",
    time_limit: Annotated[float | None, typer.Option(metavar="SECONDS")] = None,
    form: Forms = None,
    as_json: AsJson = False,
) -> None:
    answer = find(
        read_table(path, form),
        maximize=maximize,
        minimize=minimize,
        limits=limit or [],
        solver=solver,
        time_limit=time_limit,
    )
    if as_json:
        print_json(answer.to_dict())
    else:
        typer.echo(str(answer))
    if not answer:
        raise typer.Exit(1)
