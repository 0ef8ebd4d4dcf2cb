"""``mathnas data``."""

from __future__ import annotations

from typing import Annotated

import typer

from mathnas import datasets
from mathnas.cli._options import AsJson, print_json
from mathnas.errors import InvalidInputError


def register(app: typer.Typer) -> None:
    app.command(
        "data",
        help="List the public measurements that mathnas reads, where they are, and their licences.",
        epilog="Example: mathnas data nasbench_macro --fetch",
    )(data)


def data(
    name: Annotated[str | None, typer.Argument(help="One data set.", metavar="[NAME]")] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Bring its files here and check them.")
    ] = False,
    unverified: Annotated[
        bool,
        typer.Option(
            "--unverified",
            help="With --fetch: also files whose SHA-256 is not registered; what comes is pinned.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    if unverified and (not fetch or name is None):
        raise InvalidInputError(
            "--unverified trusts the addresses of one data set once: write "
            "mathnas data NAME --fetch --unverified."
        )
    chosen = datasets.catalogue()
    if name is not None:
        datasets.dataset_named(name)
        chosen = tuple(status for status in chosen if status.dataset.name == name)
    if fetch:
        for status in chosen:
            for file in status.dataset.files:
                path = datasets.fetch(status.dataset.name, file.name, unverified=unverified)
                if not as_json:
                    pin = datasets.pinned(file)
                    typer.echo(f"{file.path}: {path}" + (f" (sha256 {pin}, pinned)" * bool(pin)))
        chosen = tuple(
            status
            for status in datasets.catalogue()
            if any(status.dataset == other.dataset for other in chosen)
        )
    if as_json:
        print_json([_record(status) for status in chosen])
    elif name is None:
        _list(chosen)
    else:
        _show(chosen[0])


def _record(status: datasets.DataStatus) -> dict[str, object]:
    return {
        **status.dataset.model_dump(),
        "usable": status.usable,
        "presence": [state.value for state in status.files],
    }


def _list(chosen: tuple[datasets.DataStatus, ...]) -> None:
    for status in chosen:
        dataset = status.dataset
        states = ", ".join(sorted({state.value for state in status.files}))
        licences = "; ".join(sorted({source.licence for source in dataset.sources}))
        sizes = [file.bytes for file in dataset.files if file.bytes is not None]
        unknown = len(dataset.files) - len(sizes)
        size = f"{sum(sizes) / 1e6:.1f} MB" + (f" and {unknown} of unknown size" * bool(unknown))
        typer.echo(f"{dataset.name}: {states}, {size}, licence: {licences}")
        typer.echo(f"    {dataset.description}")
    typer.echo(
        f"Files are looked for in the folder of the environment variable {datasets.DATA_VARIABLE}, "
        "then in the download cache. `mathnas data NAME` tells sources and sums."
    )


def _show(status: datasets.DataStatus) -> None:
    dataset = status.dataset
    typer.echo(f"{dataset.name}: {dataset.description}\ncite: {dataset.citation}")
    for source in dataset.sources:
        typer.echo(f"source: {source}")
    for file, state in zip(dataset.files, status.files, strict=True):
        pin = datasets.pinned(file)
        sums = file.sha256 or (f"{pin}, pinned" if pin else "not registered")
        size = "unknown size" if file.bytes is None else f"{file.bytes} bytes"
        typer.echo(f"{file.path}  {size}  {state.value}\n  sha256 {sums}")
        if file.url is not None:
            typer.echo(f"  {file.url}")
