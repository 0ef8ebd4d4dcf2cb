"""``mathnas evaluate``."""

from __future__ import annotations

from typing import Annotated

import typer

from mathnas import runner
from mathnas.cli._costs import read_meter
from mathnas.cli._evaluators import evaluator_named, known_space, space_of
from mathnas.cli._options import (
    AsJson,
    EvaluatorSpec,
    GridIntensity,
    MeterName,
    Repeats,
    SpaceSpec,
    StudyPath,
    Workers,
    kept_when_stopped,
    print_json,
    progress_of,
    report_dict,
)
from mathnas.cli._samples import (
    Context,
    Count,
    Design,
    DesignName,
    Named,
    RepeatReference,
    Share,
    Unpaired,
    networks_asked_for,
)
from mathnas.study import Study


def register(app: typer.Typer) -> None:
    app.command(
        "evaluate",
        help="Evaluate a sample of networks into a study. What the study has already is not "
        "repeated, so the same command resumes.",
        epilog="Examples:\n\n"
        "mathnas evaluate macro.study --evaluator data:nasbench_macro --sampling balanced "
        "--count 60\n\n"
        "mathnas evaluate my.study --evaluator supernet:supernet.safetensors,data=cifar10,"
        "count=2000 --workers 2\n\n"
        "mathnas evaluate my.study --evaluator latency,batch=1,threads=1",
    )(evaluate)


def evaluate(
    study_path: StudyPath,
    evaluator: EvaluatorSpec,
    space: SpaceSpec = None,
    design: DesignName = Design.SINGLE,
    share: Share = 0.05,
    unpaired: Unpaired = False,
    count: Count = 100,
    context: Context = None,
    network: Named = None,
    repeat_reference: RepeatReference = False,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Keep only these metrics.")
    ] = None,
    repeats: Repeats = 1,
    workers: Workers = 1,
    seed: Annotated[int, typer.Option(help="Of the sample and the evaluations.")] = 0,
    meter: MeterName = None,
    grid_intensity: GridIntensity = None,
    as_json: AsJson = False,
) -> None:
    energy = read_meter(meter)
    known = known_space(study_path, space)
    measure = evaluator_named(evaluator, known, metric or [])
    with Study(study_path, known or space_of(measure)) as study:
        networks = networks_asked_for(
            study.space,
            network,
            design,
            share=share,
            unpaired=unpaired,
            count=count,
            context=context,
            repeat_reference=repeat_reference,
            seed=seed,
        )
        with (
            kept_when_stopped(study, study_path),
            study.recording("estimation", meter=energy, grid_intensity=grid_intensity),
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
    if as_json:
        print_json(
            {
                "study": str(study_path),
                **report_dict(report),
                "seconds": report.seconds,
            }
        )
    else:
        typer.echo(str(report))
    if report.failures:
        raise typer.Exit(1)
