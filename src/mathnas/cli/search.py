"""``mathnas search``."""

from __future__ import annotations

from typing import Annotated

import typer

from mathnas.cli._costs import recorded_search
from mathnas.cli._options import (
    AsJson,
    DeviceName,
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
    at_least_one,
    print_json,
    read_rules,
    read_table,
)
from mathnas.errors import InvalidInputError
from mathnas.search import Answer, Explanation, Infeasible, Ranking, explain, k_best
from mathnas.search import search as find


def register(app: typer.Typer) -> None:
    app.command(
        "search",
        help="The best predicted network under limits, with proof.",
        epilog="Example: mathnas search phone.table.json --limit latency_ms=20ms --limit macs=-30% "
        "--explain",
    )(search)


def search(
    path: TablePath,
    limit: LimitTexts = None,
    maximize: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="By default the metric of which more is better."),
    ] = None,
    minimize: Annotated[
        str | None, typer.Option(metavar="METRIC", help="Instead of --maximize.")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Each limit holds with this probability for one measurement (0.5 to below 1).",
        ),
    ] = None,
    top: Annotated[int, typer.Option(metavar="K", help="How many of the best networks.")] = 1,
    diverse: Annotated[
        int | None,
        typer.Option(
            metavar="NODES", help="With --top: each differs from the others in so many nodes."
        ),
    ] = None,
    explained: Annotated[
        bool,
        typer.Option("--explain", help="What more of a limit buys, and what other blocks cost."),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Solve a second time with another solver.")
    ] = False,
    solver: SolverName = "auto",
    time_limit: TimeLimit = None,
    fixed: FixTexts = None,
    excluded: ExcludeTexts = None,
    forbidden: ForbidTexts = None,
    required: RequireTexts = None,
    max_changes: MaxChanges = None,
    start: FromNetwork = None,
    device: DeviceName = None,
    form: Forms = None,
    meter: MeterName = None,
    grid_intensity: GridIntensity = None,
    as_json: AsJson = False,
) -> None:
    _check_options(top, diverse, explained, verify, time_limit)
    if explained and confidence is not None:
        raise InvalidInputError(
            "--explain is about limits on predictions, so it takes no --confidence: leave out one "
            "of them."
        )
    with recorded_search(path, meter, grid_intensity):
        table = read_table(path, form, device)
        limits = limit or []
        rules = read_rules(
            table.space,
            fixed=fixed,
            excluded=excluded,
            forbidden=forbidden,
            required=required,
            max_changes=max_changes,
            start=start,
        )
        answer: Answer | Explanation | Infeasible | Ranking
        if top > 1:
            answer = k_best(
                table,
                top,
                maximize=maximize,
                minimize=minimize,
                limits=limits,
                confidence=confidence,
                rules=rules,
                diverse=diverse or 0,
                solver=solver,
                time_limit=time_limit,
            )
        elif explained:
            answer = explain(
                table,
                maximize=maximize,
                minimize=minimize,
                limits=limits,
                rules=rules,
                solver=solver,
            )
        else:
            answer = find(
                table,
                maximize=maximize,
                minimize=minimize,
                limits=limits,
                confidence=confidence,
                rules=rules,
                solver=solver,
                time_limit=time_limit,
                verify=verify,
            )
            if verify and answer.verified_by is None:
                typer.echo("warning: not verified: the time limit came first.", err=True)
    if as_json:
        print_json(answer.to_dict())
    else:
        typer.echo(str(answer))
    if isinstance(answer, Infeasible):
        raise typer.Exit(1)


def _check_options(
    top: int, diverse: int | None, explained: bool, verify: bool, time_limit: float | None
) -> None:
    at_least_one("--top", top)
    given = {"--explain": explained, "--verify": verify, "--top": top > 1}
    several = [option for option, is_given in given.items() if is_given]
    if len(several) > 1:
        raise InvalidInputError(
            f"{' and '.join(several)} do not go together: run a search for each."
        )
    if diverse is not None and top == 1:
        raise InvalidInputError("--diverse needs --top K with K above 1: how many networks.")
    if explained and time_limit is not None:
        raise InvalidInputError(
            "--explain proves every number, so it takes no --time-limit: leave out one of them."
        )
