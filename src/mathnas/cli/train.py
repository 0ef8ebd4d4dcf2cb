"""``mathnas train``."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from mathnas._threads import set_torch_threads
from mathnas.cli._costs import read_meter
from mathnas.cli._options import AsJson, GridIntensity, MeterName, print_json, progress_of
from mathnas.costs import Account
from mathnas.errors import InvalidInputError


class RecipeName(str, Enum):
    """How a supernet is trained."""

    SANDWICH = "sandwich"
    SHRINKING = "shrinking"
    UNIFORM = "uniform"


def register(app: typer.Typer) -> None:
    app.command(
        "train",
        help="Train a supernet. The same command goes on where it was stopped; several processes "
        "train together under torchrun.",
        epilog="Examples:\n\n"
        "mathnas train out --space digits --data digits --recipe sandwich --epochs 20\n\n"
        "mathnas train out --space mobilenetv3:width=0.35,resolution=32,classes=10,stem_stride=1 "
        "--data cifar10 --epochs 30 --set learning_rate=0.1 --set ema=0.999\n\n"
        "mathnas train out --space supertransformer:vocabulary=8000 --data multi30k:en-de "
        "--recipe uniform --set batch_size=4096\n\n"
        "mathnas train out --space digits --data digits --config training.json\n\n"
        "torchrun --nproc-per-node 2 -m mathnas train out --space digits --data digits",
    )(train)


def train(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Folder for checkpoint, log and at the end supernet.safetensors."
        ),
    ],
    space: Annotated[
        str, typer.Option("--space", metavar="SPACE", help="A space that has a supernet.")
    ],
    data: Annotated[str, typer.Option("--data", metavar="DATA", help="What to train on.")],
    recipe: Annotated[
        RecipeName | None,
        typer.Option(
            "--recipe",
            help="sandwich: largest, smallest and random networks, the largest as teacher. "
            "shrinking: in phases, with a frozen teacher. uniform: one random network a step.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs in all.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE.json", help="A configuration (--write-config)."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A field of the configuration, its value as in JSON. May be repeated.",
        ),
    ] = None,
    write_config: Annotated[
        Path | None,
        typer.Option(
            "--write-config",
            metavar="FILE.json",
            help="Write the configuration with every field, to be edited, and stop.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="cpu, cuda, ...; by default an accelerator if there is one."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            help="Of torch, in each process; by default all cores. One is fastest for small nets.",
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write events for TensorBoard into OUT.")
    ] = False,
    meter: MeterName = None,
    grid_intensity: GridIntensity = None,
    as_json: AsJson = False,
) -> None:
    from mathnas.nets.families import space_named, supernet_for
    from mathnas.training.config import TrainingConfig
    from mathnas.training.data import training_data
    from mathnas.training.processes import Processes
    from mathnas.training.trainer import train as run

    fields = {} if config is None else TrainingConfig.load(config).to_fields()
    fields |= _settings(settings or [])
    if recipe is not None:
        fields["recipe"] = recipe.value
    if epochs is not None:
        fields["epochs"] = epochs
    chosen = TrainingConfig.from_fields(fields, "the configuration")
    if write_config is not None:
        chosen.save(write_config)
        typer.echo(f"written: {write_config}", err=as_json)
        return
    supernet = supernet_for(space_named(space), seed=chosen.seed)
    _check_inputs(data, space, supernet.vocabulary_size is not None)
    processes = Processes.join(device)
    if threads is not None:
        set_torch_threads(threads)
    source = training_data(
        data,
        chosen,
        processes,
        resolution=supernet.resolution,
        vocabulary_size=supernet.vocabulary_size,
        folder=out,
        show=progress_of(as_json),
    )
    try:
        report = run(
            supernet,
            source,
            chosen,
            out,
            processes=processes,
            progress=progress_of(as_json),
            tensorboard=tensorboard,
            meter=read_meter(meter) if processes.first else None,
            grid_intensity=grid_intensity,
        )
    except KeyboardInterrupt:
        if processes.first:
            typer.echo(f"A checkpoint is in {out}. The same command goes on from there.", err=True)
        raise
    if not processes.first:
        return
    if as_json:
        print_json(report.to_dict())
        return
    held_out = ""
    if report.metric is not None:
        scores = (f"{name} {report.metric.format(own)}" for name, own in report.scores.items())
        held_out = f"; {report.metric.name}: {', '.join(scores)}"
    typer.echo(
        f"{report.steps} steps" + f" (from {report.resumed})" * (report.resumed > 0) + ", "
        f"{report.seconds:.0f} s{held_out}"
    )
    typer.echo(str(Account(report.costs)))
    typer.echo(f"written: {report.file}")


def _check_inputs(data: str, space: str, translates: bool) -> None:
    from mathnas.text.corpus import is_parallel

    if is_parallel(data) != translates:
        wanted, given = ("sentence pairs", "images")[:: 1 if translates else -1]
        raise InvalidInputError(
            f"a supernet is trained on what it takes, for {space} {wanted}, but {data} is of "
            f"{given}: name other data, or another space."
        )


def _settings(texts: list[str]) -> dict[str, Any]:
    """``["ema=0.999"]`` as fields; a value that is not JSON is a text.

    Raises:
        InvalidInputError: an entry is not NAME=VALUE.
    """
    fields: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InvalidInputError(f"--set is written NAME=VALUE, but got {text!r}.")
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    return fields
