"""``mathnas evaluate``."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from mathnas import designs, runner, sampling
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
from mathnas.space import SearchSpace
from mathnas.study import Study


class Design(str, Enum):
    """Which networks are evaluated."""

    SINGLE = "single"
    PARTIAL = "partial"
    FULL = "full"
    RANDOM = "random"
    BALANCED = "balanced"
    D_OPTIMAL = "d-optimal"


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
    design: Annotated[Design, typer.Option("--sampling", help="The sample.")] = Design.SINGLE,
    share: Annotated[float, typer.Option(help="Share of partial sampling.")] = 0.05,
    unpaired: Annotated[
        bool, typer.Option("--unpaired", help="Partial sampling of networks, not of contexts.")
    ] = False,
    count: Annotated[
        int, typer.Option(help="Networks of random, balanced or d-optimal sampling.")
    ] = 100,
    context: Annotated[
        str | None,
        typer.Option(
            metavar="NETWORK",
            help="Reference network, as 3,0,2 or block names; by default the average-FLOPs one.",
        ),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option("--network", help="Evaluate these networks instead of a sample."),
    ] = None,
    repeat_reference: Annotated[
        bool, typer.Option(help="Measure the reference again with each node.")
    ] = False,
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
        networks: sampling.Sample | list[tuple[int, ...]]
        if network:
            networks = [study.space.parse(text) for text in network]
        else:
            base = None if context is None else study.space.parse(context)
            networks = _sample(
                study.space, design, base, share, unpaired, count, repeat_reference, seed
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


def _sample(
    space: SearchSpace,
    design: Design,
    base: tuple[int, ...] | None,
    share: float,
    unpaired: bool,
    count: int,
    repeat_reference: bool,
    seed: int,
) -> sampling.Sample:
    if design is Design.SINGLE:
        return sampling.single_sampling(space, base, repeat_reference=repeat_reference)
    if design is Design.PARTIAL:
        form: sampling.Form = "unpaired" if unpaired else "paired"
        return sampling.partial_sampling(space, share, form=form, seed=seed, reference=base)
    if design is Design.FULL:
        return sampling.full_sampling(space, base)
    if design is Design.RANDOM:
        return sampling.random_sampling(space, count, seed=seed)
    make = designs.balanced_sampling if design is Design.BALANCED else designs.d_optimal_sampling
    return make(space, count, seed=seed)
