"""``mathnas bundle``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mathnas import validation
from mathnas.cli._evaluators import known_space, space_of
from mathnas.cli._extras import needing
from mathnas.cli._latency import latency_evaluator
from mathnas.cli._options import (
    AsJson,
    Repeats,
    Resolution,
    is_study,
    print_json,
    progress_of,
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
from mathnas.cli.run_bundle import Python, Results, SshOptions, fetched, run_there
from mathnas.errors import InvalidInputError
from mathnas.sampling import Sample


def register(app: typer.Typer) -> None:
    app.command(
        "bundle",
        help="Write a folder that measures a sample of networks on another machine, with Python, "
        "numpy and onnxruntime alone: `python run.py` there, then `mathnas import` here. "
        "With --run, ssh does all of it.",
        epilog="Examples:\n\n"
        "mathnas bundle supernet.safetensors -o raspberry --validation 40 --zip\n\n"
        "mathnas bundle --space mobilenetv3 --sampling balanced --count 100 -o raspberry "
        "--run ssh://pi@raspberry.local",
    )(bundle)


def bundle(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SUPERNET|STUDY]",
            help="A trained supernet, or a study, of whose space a new supernet is made: times do "
            "not depend on weights.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="What is written.")
    ] = None,
    space: Annotated[
        str | None,
        typer.Option("--space", help="A space (see `mathnas spaces`) or its JSON file."),
    ] = None,
    design: DesignName = Design.SINGLE,
    share: Share = 0.05,
    unpaired: Unpaired = False,
    count: Count = 100,
    context: Context = None,
    network: Named = None,
    repeat_reference: RepeatReference = False,
    validating: Annotated[
        int, typer.Option("--validation", help="Further random networks, to validate with.")
    ] = 0,
    batch: Annotated[int, typer.Option(help="Inputs in one run.")] = 1,
    threads: Annotated[int, typer.Option(help="Of the engine.")] = 1,
    resolution: Resolution = None,
    rounds: Annotated[
        int | None, typer.Option(help="Slices of time that each network is measured in.")
    ] = None,
    accept_noise: Annotated[
        bool,
        typer.Option("--accept-noise", help="Keep times that stay disturbed, with what was seen."),
    ] = False,
    together: Annotated[int, typer.Option(help="Networks that are measured in turns.")] = 8,
    repeats: Repeats = 1,
    seed: Annotated[int, typer.Option(help="Of the sample and the order of measurement.")] = 0,
    zipped: Annotated[bool, typer.Option("--zip", help="Write FOLDER.zip too.")] = False,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="ssh://[USER@]HOST[:PORT][/PATH]",
            help="Copy it there, measure, and fetch the results; `mathnas run-bundle` resumes.",
        ),
    ] = None,
    results: Results = None,
    python: Python = "python3",
    ssh_options: SshOptions = None,
    as_json: AsJson = False,
) -> None:
    if output is None:
        raise InvalidInputError("-o FOLDER says where the bundle goes.")
    if output.exists():
        raise InvalidInputError(f"{output} is there already: name another folder, or remove it.")
    if run is None and (results is not None or ssh_options):
        raise InvalidInputError("--results and --ssh-option are for --run ssh://HOST.")
    with needing("a bundle", "onnx"):
        from mathnas.devices.bundle import write_bundle, zip_bundle
    study = source if source is not None and is_study(source) else None
    known = known_space(study or Path(), space)
    options = {
        "batch": batch,
        "threads": threads,
        "resolution": resolution,
        "rounds": rounds,
        "together": together,
    }
    # what would measure here says what is to be measured there
    here = latency_evaluator(
        ",".join(
            [
                "" if source is None or study is not None else str(source),
                *(f"{name}={value}" for name, value in options.items() if value is not None),
            ]
        ),
        known,
        one_graph=True,
    )
    searched = space_of(here)
    chosen = networks_asked_for(
        searched,
        network,
        design,
        share=share,
        unpaired=unpaired,
        count=count,
        context=context,
        repeat_reference=repeat_reference,
        seed=seed,
    )
    reference = chosen.reference if isinstance(chosen, Sample) else None
    further = (
        validation.validation_sampling(searched, validating, seed=seed, reference=reference)
        if validating
        else ()
    )
    plan = write_bundle(
        output,
        searched,
        chosen,
        here.models,
        engine=here.engine,
        timing=here.timing,
        together=here.batch_size,
        repeats=repeats,
        seed=seed,
        noise=here.noise,
        accept_noise=accept_noise,
        conditions={name: here.conditions[name] for name in ("resolution", "torch")},
        also=further,
        progress=progress_of(as_json),
    )
    written = [output, *([zip_bundle(output)] if zipped else [])]
    place = None
    if run is not None:
        place = run_there(output, run, results, python, ssh_options)
    if as_json:
        print_json(
            {
                "bundle": str(output),
                "zip": str(written[1]) if zipped else None,
                "networks": len(plan.distinct),
                "measurements": len(plan.networks) * plan.repeats,
                "results": None if place is None else str(place),
            }
        )
        return
    typer.echo(
        f"{len(plan.distinct)} networks of {searched.name}, "
        f"{len(plan.networks) * plan.repeats} measurements\n"
        f"written: {', '.join(map(str, written))}"
    )
    if place is None:
        typer.echo(
            f"Next: copy it, run `python {output.name}/run.py` there, copy {output.name}/"
            f"results.jsonl back into {output}, and `mathnas import STUDY {output}`."
        )
    else:
        typer.echo(fetched(output, place))
