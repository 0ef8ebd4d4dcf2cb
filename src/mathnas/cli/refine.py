"""``mathnas refine``."""

from __future__ import annotations

import contextlib
from enum import Enum
from typing import Annotated

import typer

from mathnas.baselines import METHODS, TRAINED_METHODS
from mathnas.cli._costs import read_meter
from mathnas.cli._evaluators import evaluator_named, known_space, space_of
from mathnas.cli._options import (
    AsJson,
    EvaluatorSpec,
    ExcludeTexts,
    FixTexts,
    ForbidTexts,
    FromNetwork,
    GridIntensity,
    LimitTexts,
    MaxChanges,
    MeterName,
    RequireTexts,
    SpaceSpec,
    StudyPath,
    Workers,
    kept_when_stopped,
    print_json,
    progress_of,
    read_rules,
)
from mathnas.cli._rounds import live_rounds, shown_by
from mathnas.errors import InvalidInputError
from mathnas.study import Study

_METHODS = {**METHODS, **TRAINED_METHODS}


class Start(str, Enum):
    """What is evaluated first."""

    SINGLE = "single"
    BALANCED = "balanced"


class Choice(str, Enum):
    """Which of the promising networks."""

    PROMISING = "promising"
    MEAN = "mean"
    OPTIMISTIC = "optimistic"
    THOMPSON = "thompson"


def register(app: typer.Typer) -> None:
    app.command(
        "refine",
        help="Search, evaluate what is found, fit again: until the budget is spent or nothing "
        "better is likely. The answer was measured. The same command resumes.",
        epilog="Example: mathnas refine macro.study --evaluator data:nasbench_macro "
        "--maximize accuracy --limit macs=-20% --budget 30",
    )(refine)


def refine(
    study_path: StudyPath,
    evaluator: EvaluatorSpec,
    space: SpaceSpec = None,
    maximize: Annotated[
        str | None, typer.Option(metavar="METRIC", help="What to optimise; the evaluator's.")
    ] = None,
    minimize: Annotated[
        str | None, typer.Option(metavar="METRIC", help="Instead of --maximize.")
    ] = None,
    limit: LimitTexts = None,
    budget: Annotated[
        int, typer.Option(help="Evaluations that the study holds in the end, at most.")
    ] = 50,
    batch: Annotated[int, typer.Option(help="Networks a round.")] = 3,
    start: Annotated[
        Start, typer.Option(help="What is evaluated first, where the study holds less.")
    ] = Start.SINGLE,
    choice: Annotated[
        Choice, typer.Option(help="Which of the promising networks are evaluated.")
    ] = Choice.PROMISING,
    repeats: Annotated[
        int,
        typer.Option(help="How often a leader is measured at most, where noise may reorder them."),
    ] = 3,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"{', '.join(_METHODS)}: to compare; --batch, --start, --choice and --repeats are "
            "mathnas's.",
        ),
    ] = "mathnas",
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Keep only these metrics.")
    ] = None,
    workers: Workers = 1,
    seed: Annotated[int, typer.Option(help="Of a balanced start and the evaluations.")] = 0,
    fixed: FixTexts = None,
    excluded: ExcludeTexts = None,
    forbidden: ForbidTexts = None,
    required: RequireTexts = None,
    max_changes: MaxChanges = None,
    from_network: FromNetwork = None,
    meter: MeterName = None,
    grid_intensity: GridIntensity = None,
    as_json: AsJson = False,
) -> None:
    if method not in _METHODS:
        raise InvalidInputError(f"--method is one of {', '.join(_METHODS)}, but got {method!r}.")
    own: dict[str, object] = {}
    if method == "mathnas":
        own = {
            "batch": batch,
            "start": start.value,
            "choice": choice.value,
            "repeats": repeats,
        }
    energy = read_meter(meter)
    known = known_space(study_path, space)
    measure = evaluator_named(evaluator, known, metric or [])
    with Study(study_path, known or space_of(measure)) as study:
        rules = read_rules(
            study.space,
            fixed=fixed,
            excluded=excluded,
            forbidden=forbidden,
            required=required,
            max_changes=max_changes,
            start=from_network,
        )
        rounds = live_rounds(maximize or minimize or "value", budget, as_json)
        with (
            kept_when_stopped(study, study_path),
            study.recording("refinement", meter=energy, grid_intensity=grid_intensity),
            rounds or contextlib.nullcontext(),
        ):
            found = _METHODS[method](
                study,
                measure,
                maximize=maximize,
                minimize=minimize,
                limits=limit or [],
                rules=rules,
                budget=budget,
                seed=seed,
                workers=workers,
                progress=shown_by(rounds, progress_of(as_json)),
                on_round=None if rounds is None else rounds.add,
                **own,
            )
    if as_json:
        print_json({"study": str(study_path), **found.to_dict()})
    else:
        typer.echo(str(found))
    if not found:
        raise typer.Exit(1)
