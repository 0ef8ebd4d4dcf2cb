"""``mathnas pareto``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mathnas._records import write_text
from mathnas.cli._costs import recorded_search
from mathnas.cli._options import (
    AsJson,
    ExcludeTexts,
    FixTexts,
    ForbidTexts,
    Forms,
    FromNetwork,
    GridIntensity,
    LimitTexts,
    MaxChanges,
    MeterName,
    RequireTexts,
    SolverName,
    TablePath,
    TimeLimit,
    print_json,
    progress_of,
    read_rules,
    read_table,
)
from mathnas.errors import InvalidInputError
from mathnas.search import DeviceFronts, Front, Infeasible, device_fronts, pareto_front
from mathnas.space import network_text
from mathnas.table import BlockTable

_MOST_LISTED = 20


def register(app: typer.Typer) -> None:
    app.command(
        "pareto",
        help="All networks that no other one beats in two metrics; every point is proven.",
        epilog="Example: mathnas pareto phone.table.json --x latency_ms --y accuracy "
        "--limit params=5M --csv front.csv",
    )(pareto)


def pareto(
    path: TablePath,
    x: Annotated[str, typer.Option("--x", metavar="METRIC", help="Usually a cost.")],
    y: Annotated[
        str, typer.Option("--y", metavar="METRIC", help="Usually a quality.")
    ] = "accuracy",
    limit: LimitTexts = None,
    max_points: Annotated[
        int | None,
        typer.Option(metavar="N", help="At most so many points, spread evenly over x."),
    ] = None,
    solver: SolverName = "auto",
    time_limit: TimeLimit = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            *("--csv", "-o"), metavar="FILE", help="Write the points as CSV; - prints nothing else."
        ),
    ] = None,
    fixed: FixTexts = None,
    excluded: ExcludeTexts = None,
    forbidden: ForbidTexts = None,
    required: RequireTexts = None,
    max_changes: MaxChanges = None,
    start: FromNetwork = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Of a study with measurements of several devices; repeated, a front of each, and "
            "how its networks do on the others.",
        ),
    ] = None,
    form: Forms = None,
    meter: MeterName = None,
    grid_intensity: GridIntensity = None,
    as_json: AsJson = False,
) -> None:
    to_stdout = csv == Path("-")
    if to_stdout and as_json:
        raise InvalidInputError("--csv - and --json both print to standard output: give one.")
    devices = device or []
    front: Front | Infeasible | DeviceFronts
    with recorded_search(path, meter, grid_intensity):
        tables = _tables(path, form, devices)
        table = next(iter(tables.values()))
        rules = read_rules(
            table.space,
            fixed=fixed,
            excluded=excluded,
            forbidden=forbidden,
            required=required,
            max_changes=max_changes,
            start=start,
        )
        settings = dict[str, Any](
            limits=limit or [],
            rules=rules,
            max_points=max_points,
            solver=solver,
            time_limit=time_limit,
            progress=progress_of(as_json),
        )
        if len(tables) > 1:
            front = device_fronts(tables, x, y, **settings)
        else:
            front = pareto_front(table, x, y, **settings)
    if isinstance(front, Infeasible) or (isinstance(front, Front) and not front.points):
        if as_json:
            print_json({"points": [], **front.to_dict()})
        else:
            typer.echo(str(front), err=to_stdout)
        raise typer.Exit(1)
    if as_json:
        print_json(front.to_dict())
    elif to_stdout:
        typer.echo(front.to_csv(), nl=False)
    elif isinstance(front, Front):
        typer.echo(f"{front}\n\n{_networks(front)}")
    else:
        typer.echo(str(front))
    # last, so that a file that cannot be written costs nobody the front
    if csv is not None and not to_stdout:
        write_text(csv, front.to_csv())
        typer.echo(f"written: {csv}", err=as_json)
    if isinstance(front, DeviceFronts) and not front:
        raise typer.Exit(1)


def _tables(path: Path, form: list[str] | None, devices: list[str]) -> dict[str, BlockTable]:
    """A table for each device, by its full name; one table, where no device is named."""
    if not devices:
        return {"": read_table(path, form)}
    found = {}
    for device in devices:
        table = read_table(path, form, device)
        name = str(table.provenance["device"])
        if name in found:
            raise InvalidInputError(
                f"--device names each device once, but {name!r} came twice: leave one out."
            )
        found[name] = table
    return found


def _networks(front: Front) -> str:
    """The points for people, or where to find them."""
    if len(front) > _MOST_LISTED:
        return "the networks: --csv FILE, --json, or fewer of them with --max-points."
    rows = [(front.x.format(p.x), front.y.format(p.y), network_text(p.network)) for p in front]
    wide, high = (max(len(row[place]) for row in rows) for place in (0, 1))
    return "\n".join(f"  {x:>{wide}}  {y:>{high}}  [{network}]" for x, y, network in rows)
