"""``mathnas validate``."""

from __future__ import annotations

from typing import Annotated

import typer

from mathnas import runner, validation
from mathnas.cli._costs import read_meter
from mathnas.cli._evaluators import evaluator_named
from mathnas.cli._options import (
    AsJson,
    EvaluatorSpec,
    Forms,
    GridIntensity,
    MeterName,
    Repeats,
    StudyPath,
    Workers,
    kept_when_stopped,
    print_json,
    progress_of,
    read_forms,
    report_dict,
    restored_space,
)
from mathnas.cli.fit import Method
from mathnas.errors import InvalidInputError
from mathnas.study import Study


def register(app: typer.Typer) -> None:
    app.command(
        "validate",
        help="Evaluate random networks and compare them with predictions of a fit that does not "
        "use them. They are kept in the study, and the same command resumes.",
        epilog="Example: mathnas validate macro.study --evaluator data:nasbench_macro "
        "--networks 30",
    )(validate)


def validate(
    study_path: StudyPath,
    evaluator: EvaluatorSpec,
    count: Annotated[
        int, typer.Option("--networks", help="How many; more add to those of fewer.")
    ] = 30,
    method: Annotated[
        Method, typer.Option(help="How effects are estimated, as in `mathnas fit`.")
    ] = (Method.PAIRED),
    form: Forms = None,
    confidence: Annotated[
        float, typer.Option(help="Of the intervals that a regression gives, between 0 and 1.")
    ] = 0.9,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Only these metrics.")
    ] = None,
    repeats: Repeats = 1,
    workers: Workers = 1,
    seed: Annotated[int, typer.Option(help="Of the networks and the evaluations.")] = 0,
    meter: MeterName = None,
    grid_intensity: GridIntensity = None,
    as_json: AsJson = False,
) -> None:
    if not 0 < confidence < 1:
        raise InvalidInputError(f"--confidence is between 0 and 1, but got {confidence}.")
    energy = read_meter(meter)
    space = restored_space(study_path)
    measure = evaluator_named(evaluator, space, metric or [])
    with Study(study_path, space) as study:
        networks = validation.validation_sampling(
            space, count, seed=seed, reference=study.reference
        )
        known = [item.name for item in measure.metrics]
        names = [
            name
            for name in known
            if study.counts([name], measure.conditions).keys() - set(networks)
        ]
        if not names:
            raise InvalidInputError(
                f"{study_path} holds no measurements of {', '.join(known)} to fit, apart from "
                "these validation networks and under the conditions of this evaluator: evaluate a "
                "sample first (mathnas evaluate)."
            )
        # before the evaluations, which are in vain where there is no fit
        table = validation.fit_without(
            study,
            networks,
            names,
            method=method.value,
            form=read_forms(form),
            conditions=dict.fromkeys(names, measure.conditions),
        )
        with (
            kept_when_stopped(study, study_path),
            study.recording("validation", meter=energy, grid_intensity=grid_intensity),
        ):
            report = runner.evaluate(
                study,
                networks,
                measure,
                repeats=repeats,
                seed=seed,
                workers=workers,
                progress=progress_of(as_json),
            )
        if report.failures:
            typer.echo(str(report), err=True)
        found = validation.validate(table, study, networks, metrics=names, confidence=confidence)
    if as_json:
        print_json(
            {
                "study": str(study_path),
                "method": table.provenance["method"],
                "fitted_networks": table.provenance["networks"],
                **report_dict(report),
                **found.to_dict(),
            }
        )
    else:
        if not report.failures:
            typer.echo(str(report))
        typer.echo(
            f"Fitted on {table.provenance['networks']} other networks "
            f"({table.provenance['method']}).\n\n{found}"
        )
    if report.failures:
        raise typer.Exit(1)
