"""``mathnas deploy``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mathnas._threads import torch_threads
from mathnas._version import __version__
from mathnas.cli._extras import needing
from mathnas.cli._images import CALIBRATION, ChosenImages, ImageChoice, choose_images
from mathnas.cli._options import (
    AsJson,
    Budgets,
    DataName,
    DeviceName,
    Effort,
    Forms,
    ObjectiveName,
    Resolution,
    SupernetPath,
    TablePath,
    TimeLimit,
    at_least_one,
    print_json,
    progress_of,
    read_budgets,
    read_table,
)
from mathnas.cli._supernets import SupernetFile, seen_as, supernet_of_study
from mathnas.cli.candidates import read_groups
from mathnas.errors import InvalidInputError
from mathnas.metrics import convert, metric_named
from mathnas.search import Selection
from mathnas.table import BlockTable

if TYPE_CHECKING:
    from mathnas.runtime.package import Package

_MEGABYTE = 1e6


def register(app: typer.Typer) -> None:
    app.command(
        "deploy",
        help="Choose the blocks that stay resident on a device, within a memory, and write their "
        "weights, batch-norm statistics, graphs and table as one file: a dynamic network, whose "
        "networks are exchanged while it serves.",
        epilog="Examples:\n\n"
        "mathnas deploy my.study --blocks 5 --memory 200MB -o net.mathnas\n\n"
        "mathnas deploy layers.table.json --supernet supernet.safetensors --groups stages "
        "--blocks 5 --memory 20MB --limit latency_ms -o net.mathnas",
    )(deploy)


def deploy(
    path: TablePath,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="NAME.mathnas.")
    ] = None,
    supernet: SupernetPath = None,
    blocks: Annotated[
        int, typer.Option("--blocks", metavar="N", help="At most so many a node or group.")
    ] = 5,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="SIZE", help="Of the resident weights at most: 200MB, 800kB."
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            "--groups",
            metavar="GROUPS",
            help="Nodes of the dynamic network, as `mathnas candidates` takes them; by default "
            "those of the table.",
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="onnxruntime or torch.")
    ] = "onnxruntime",
    statistics: Annotated[
        str | None,
        typer.Option(
            "--statistics",
            metavar="KIND",
            help="Batch-norm statistics: pair (one set for each block and block before it), entry "
            "(so in a block's first layer alone) or block; by default pair for torch and entry for "
            "onnxruntime.",
        ),
    ] = None,
    limit: Annotated[
        str, typer.Option("--limit", metavar="METRIC", help="What budgets limit.")
    ] = "latency_ms",
    maximize: ObjectiveName = None,
    minimize: ObjectiveName = None,
    budgets: Budgets = "32",
    data: DataName = None,
    images: Annotated[
        int, typer.Option("--images", metavar="N", help="Training images for the statistics.")
    ] = CALIBRATION,
    resolution: Resolution = None,
    effort: Effort = 1.0,
    time_limit: TimeLimit = None,
    seed: Annotated[int, typer.Option(help="Of the search and of the calibration.")] = 0,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", help="Of torch, for the statistics.")
    ] = 1,
    device: DeviceName = None,
    form: Forms = None,
    as_json: AsJson = False,
) -> None:
    if output is None:
        raise InvalidInputError("--output FILE says where the package goes.")
    at_least_one("--images", images)
    at_least_one("--threads", threads)
    with needing("deploying", "train"):
        from mathnas.nets.calibrated import Sharing
        from mathnas.nets.supernet import ChainSupernet
        from mathnas.runtime.deploying import check_engine, choose_blocks, default_sharing
        from mathnas.runtime.deploying import deploy as packaged
    most = _bytes(memory)
    check_engine(engine)
    file = supernet_of_study(supernet, path)
    table = read_table(path, form, device)
    fine = seen_as(file.supernet, table.space)
    if not isinstance(fine, ChainSupernet):
        raise InvalidInputError(
            f"blocks are exchanged where they run one after another, but those of "
            f"{fine.space.name} do not: extract networks, with mathnas extract."
        )
    if fine.space != table.space:
        raise InvalidInputError(
            f"the table counts other costs than the supernet's space {fine.space.name}: fit it to "
            "measurements of this supernet, at its own resolution."
        )
    sharing = default_sharing(engine)
    if statistics is not None:
        known = [kind.value for kind in Sharing]
        if statistics not in known:
            raise InvalidInputError(
                f"--statistics is one of {', '.join(known)}, but got {statistics!r}."
            )
        sharing = Sharing(statistics)
    found = _images(data or file.data, images, resolution, file)  # before the search, which is long
    chosen = choose_blocks(
        fine,
        table,
        None if groups is None else read_groups(table.space, groups),
        blocks,
        memory=most,
        engine=engine,
        sharing=sharing,
        example=found.calibration[0],
        limit=limit,
        maximize=maximize,
        minimize=minimize,
        budgets=read_budgets(budgets),
        effort=effort,
        time_limit=time_limit,
        seed=seed,
        progress=progress_of(as_json),
    )
    with torch_threads(threads):
        package = packaged(
            seen_as(fine, chosen.space),  # type: ignore[arg-type]  # a view of a chain is one
            _resident_table(chosen, table),
            found.calibration,
            engine=engine,
            sharing=sharing,
            notes=_notes(file, found, path, chosen),
            seed=seed,
            progress=progress_of(as_json),
        )
    package.write(output)
    facts = _facts(chosen, package, output)
    if as_json:
        print_json({**chosen.to_dict(), **facts})
        return
    typer.echo(str(chosen))
    typer.echo(
        f"{package.space.num_networks:,} networks can run, of {facts['parts']} resident parts "
        f"({engine}; statistics: {sharing.value})"
    )
    ratio = f"{facts['ratio']:.2f} times those of the largest network"
    allowed = "" if most is None else f"; {_size(most)} were allowed"
    typer.echo(
        f"resident weights {_size(package.weight_bytes())}: {ratio}, "
        f"{_size(package.largest_bytes())}{allowed}"
    )
    typer.echo(f"written: {output}, {_size(output.stat().st_size)}")


def _facts(chosen: Selection, package: Package, output: Path) -> dict[str, object]:
    """For JSON."""
    return {
        "networks": package.space.num_networks,
        "parts": len(package.parts),
        "engine": package.engine,
        "statistics": package.notes["sharing"],
        "weight_bytes": package.weight_bytes(),
        "largest_network_bytes": package.largest_bytes(),
        "ratio": package.weight_bytes() / package.largest_bytes(),
        "predicted_loss": chosen.loss,
        "output": str(output),
        "file_bytes": output.stat().st_size,
    }


def _bytes(text: str | None) -> float | None:
    """``200MB`` in bytes; None where it is not given."""
    if text is None:
        return None
    metric = metric_named("memory_b")
    number = text.strip().rstrip("BbkKmMgG")
    unit = text.strip()[len(number) :]
    try:
        value = float(number)
    except ValueError as error:
        raise InvalidInputError(
            f"--memory is a size such as 200MB or 800kB, but got {text!r}."
        ) from error
    if not unit:
        raise InvalidInputError(f"--memory has a unit, B, kB, MB or GB, but got {text!r}.")
    size = convert(value, unit, metric)
    if not 0 < size < float("inf"):
        raise InvalidInputError(f"--memory is positive, but got {text!r}.")
    return size


def _size(count: float) -> str:
    return f"{count / _MEGABYTE:.3g} MB" if count < 1e9 else f"{count / 1e9:.3g} GB"


def _images(
    data: str | None, count: int, resolution: int | None, file: SupernetFile
) -> ChosenImages:
    if data is None:
        raise InvalidInputError(
            "batch norms are calibrated with training images, but the supernet's file does not say "
            "what it was trained on: add --data NAME."
        )
    choice = ImageChoice(data, count, resolution=resolution)
    return choose_images(choice, file.notes, accuracy=False)


def _resident_table(chosen: Selection, table: BlockTable) -> BlockTable:
    """Predictions of the networks of kept blocks, of every metric that is a sum over them."""
    names = [name for name, column in table.columns.items() if column.additive]
    return chosen.space.table(table, metrics=names)


def _notes(
    file: SupernetFile, images: ChosenImages, path: Path, chosen: Selection
) -> Mapping[str, object]:
    return {
        **file.inputs(images),
        "provenance": {
            "supernet": file.path.name,
            "supernet_sha256": file.sha256,
            "table": path.name,
            "objective": chosen.objective.name,
            "limit": chosen.points[0].limit.metric.name,
            "mathnas": __version__,
        },
    }
