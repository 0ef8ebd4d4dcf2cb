"""``mathnas run-bundle``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mathnas.cli._options import AsJson, print_json
from mathnas.devices.bundle_plan import RESULTS
from mathnas.devices.ssh import run_over_ssh

Python = Annotated[
    str, typer.Option("--python", metavar="COMMAND", help="The Python on the other machine.")
]
SshOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--ssh-option",
        metavar="NAME=VALUE",
        help="For ssh -o, for example IdentityFile=key. May be repeated.",
    ),
]
Results = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.jsonl", help="Where results go; by default results-HOST.jsonl in the bundle."
    ),
]


def register(app: typer.Typer) -> None:
    app.command(
        "run-bundle",
        help="Measure a bundle on a machine that ssh reaches: copy it there, run it, fetch the "
        "results. The same command resumes.",
        epilog="Examples:\n\n"
        "mathnas run-bundle raspberry ssh://pi@raspberry.local\n\n"
        "mathnas run-bundle raspberry ssh://server:2222/scratch --python venv/bin/python "
        "--ssh-option IdentityFile=key",
    )(run_bundle)


def run_bundle(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The bundle.")],
    target: Annotated[
        str, typer.Argument(metavar="ssh://[USER@]HOST[:PORT][/PATH]", help="The machine.")
    ],
    results: Results = None,
    threads: Annotated[
        int | None, typer.Option(help="Of the engine, instead of the bundle's.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the machine; by default processor and cores.")
    ] = None,
    accept_noise: Annotated[
        bool,
        typer.Option("--accept-noise", help="Keep times that stay disturbed, with what was seen."),
    ] = False,
    python: Python = "python3",
    ssh_options: SshOptions = None,
    as_json: AsJson = False,
) -> None:
    arguments = [] if threads is None else ["--threads", str(threads)]
    arguments += [] if name is None else ["--name", name]
    arguments += ["--accept-noise"] if accept_noise else []
    place = run_there(folder, target, results, python, ssh_options, arguments)
    if as_json:
        print_json({"results": str(place)})
    else:
        typer.echo(fetched(folder, place))


def run_there(
    folder: Path,
    target: str,
    results: Path | None,
    python: str,
    ssh_options: Sequence[str] | None,
    arguments: Sequence[str] = (),
) -> Path:
    """Measure a bundle over ssh, with what happens there shown; returns where the results are."""
    return run_over_ssh(
        folder,
        target,
        results,
        python=python,
        options=ssh_options or (),
        arguments=arguments,
        say=lambda line: typer.echo(line, err=True),
    )


def fetched(folder: Path, place: Path) -> str:
    """What comes next."""
    if place == folder / RESULTS:
        return f"written: {place}\nNext: mathnas import STUDY {folder}"
    beside = "" if place.parent == folder else f" --bundle {folder}"
    return f"written: {place}\nNext: mathnas import STUDY {place}{beside}"
