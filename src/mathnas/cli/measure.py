"""``mathnas measure``."""

from __future__ import annotations

from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mathnas.cli._evaluators import known_space
from mathnas.cli._measuring import (
    LOCAL,
    METRICS,
    CostEvaluators,
    CostSettings,
    There,
    default_study,
    partitioned,
    read_metrics,
    read_supernet,
)
from mathnas.cli._options import AsJson, kept_when_stopped, print_json, progress_of
from mathnas.cli.run_bundle import Python, SshOptions
from mathnas.devices import building
from mathnas.devices.building import Isolated
from mathnas.devices.engines import ENGINES
from mathnas.errors import InvalidInputError
from mathnas.study import Study


class Method(str, Enum):
    """How a table is built; see `mathnas.devices.building.measure`."""

    REGRESSION = "regression"
    DIFFERENCES = "differences"
    ISOLATION = "isolation"


def register(app: typer.Typer) -> None:
    app.command(
        "measure",
        help="Build a device's table: measure networks within a budget of minutes, fit, and judge "
        "the table by fresh random networks. What is measured is kept in the study, so that the "
        "same command goes on where it stopped.",
        epilog="Examples:\n\n"
        "mathnas measure supernet.safetensors --metrics latency_ms,memory_mb --minutes 10\n\n"
        "mathnas measure mobilenetv3:width=1.0 my.study --partition stages --threads 2\n\n"
        "mathnas measure supernet.safetensors --method isolation -o alone.table.json\n\n"
        "mathnas measure digits --minutes 1 --target 1% --json\n\n"
        "mathnas measure supernet.safetensors --device ssh://pi@raspberry.local",
    )(measure)


def measure(
    supernet: Annotated[
        str,
        typer.Argument(
            metavar="SUPERNET",
            help="A supernet's file, or a space (mobilenetv3:width=1.0): costs do not depend on "
            "weights.",
        ),
    ],
    study_path: Annotated[
        Path | None,
        typer.Argument(
            metavar="STUDY", help="The study file; by default named after the supernet."
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="DEVICE",
            help="local, or ssh://[USER@]HOST[:PORT][/PATH]: latency on a machine that has Python "
            "with numpy and onnxruntime.",
        ),
    ] = LOCAL,
    metrics: Annotated[
        str, typer.Option(metavar="METRICS", help=f"Some of {','.join(METRICS)}.")
    ] = "latency_ms",
    method: Annotated[
        Method,
        typer.Option(
            help="regression: designed samples, with uncertainty. differences: single sampling. "
            "isolation: every block alone, fast and biased."
        ),
    ] = Method.REGRESSION,
    minutes: Annotated[float, typer.Option(help="Budget, validation included.")] = 10.0,
    target: Annotated[
        str,
        typer.Option(
            metavar="SHARE",
            help="Stop when predictions are this certain, as far as block effects go: 0.5%.",
        ),
    ] = "0.5%",
    validate: Annotated[
        int, typer.Option("--validate", metavar="N", help="Fresh random networks.")
    ] = 40,
    engine: Annotated[str, typer.Option(help=f"{', '.join(ENGINES)}.")] = "onnxruntime",
    threads: Annotated[int, typer.Option(help="Of a run.")] = 1,
    batch: Annotated[int, typer.Option(help="Inputs of a run.")] = 1,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the images in pixels; by default the supernet's.")
    ] = None,
    partition: Annotated[
        str | None,
        typer.Option(
            metavar="PARTITION",
            help="layers: the supernet's own nodes; a partition that it knows (mobilenetv3: "
            "stages, with the five published candidates each); or a grouped space's JSON file. By "
            "default the study's, or layers.",
        ),
    ] = None,
    meter: Annotated[str, typer.Option(help="Of energy; see `mathnas show-env`.")] = "auto",
    accept_noise: Annotated[
        bool,
        typer.Option(
            "--accept-noise", help="Keep latencies and energies of a machine that is too busy."
        ),
    ] = False,
    python: Python = "python3",
    ssh_options: SshOptions = None,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The table file; by default STUDY.table.json."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    path = study_path or default_study(supernet, partition)
    there = None
    if device != LOCAL:
        there = There(device, path.with_suffix(".bundles"), python, tuple(ssh_options or ()))
    elif ssh_options:
        raise InvalidInputError("--ssh-option is for --device ssh://HOST.")
    settings = CostSettings(
        read_metrics(metrics), engine, threads, batch, resolution, accept_noise, meter, there
    )
    share = _share(target)
    whole = partitioned(read_supernet(supernet), partition, known_space(path, None))
    costs = CostEvaluators(whole, settings)
    with ExitStack() as open_studies:
        study = open_studies.enter_context(Study(path, whole.space))
        isolated = None
        if method is Method.ISOLATION:
            space, evaluators = costs.of_parts()
            parts = open_studies.enter_context(Study(path.with_suffix(".parts.study"), space))
            isolated = Isolated(parts, evaluators)
        with kept_when_stopped(study, path), study.recording("estimation"):
            report = building.measure(
                study,
                costs.of_networks,
                method=method.value,
                minutes=minutes,
                target=share,
                networks=validate,
                isolated=isolated,
                seed=seed,
                progress=progress_of(as_json),
            )
    table = output or path.with_suffix(".table.json")
    report.table.save(table)
    if as_json:
        print_json({"study": str(path), "table": str(table), **report.to_dict()})
    else:
        typer.echo(f"{report}\n\nstudy: {path}\ntable: {table}")


def _share(text: str) -> float:
    """``2%`` or ``0.02`` as a number.

    Raises:
        InvalidInputError: it is neither.
    """
    number, percent = (text[:-1], 0.01) if text.endswith("%") else (text, 1.0)
    try:
        return float(number) * percent
    except ValueError:
        raise InvalidInputError(
            f"--target is a share such as 2% or 0.02, but got {text!r}."
        ) from None
