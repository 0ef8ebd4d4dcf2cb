"""``mathnas transfer``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mathnas._files import replacing
from mathnas.cli._options import AsJson, StudyPath, load_table, print_json, read_study
from mathnas.errors import InvalidInputError
from mathnas.space import Network, network_text
from mathnas.table import BlockTable
from mathnas.transfer import transfer as transferred
from mathnas.transfer import transfer_plan


def register(app: typer.Typer) -> None:
    app.command(
        "transfer",
        help="Make a new device's table from a known device's and 10 to 40 measurements; with "
        "--plan, say which networks to measure.",
        epilog="Examples:\n\n"
        "mathnas transfer phone.table.json board.study --plan 20\n\n"
        "mathnas transfer phone.table.json board.study -o board.table.json",
    )(transfer)


def transfer(
    table: Annotated[
        Path, typer.Argument(metavar="OLD_TABLE", help="A table of a known device, same space.")
    ],
    study_path: StudyPath,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The new table, by default STUDY.table.json; or the plan."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="Of the study; by default the one it measured."),
    ] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(metavar="TABLE", help="A table of one more known device. May be repeated."),
    ] = None,
    known: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC",
            help="Columns of the known tables, where they are not named as the metric. May be "
            "repeated.",
        ),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Which measurements, where there are several kinds."
        ),
    ] = None,
    plan: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Only print N networks to measure next; the study may not exist yet."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the plan.")] = 0,
    as_json: AsJson = False,
) -> None:
    tables = [load_table(path) for path in (table, *(source or []))]
    if plan is not None:
        _plan(tables[0], study_path, metric, plan, seed, output, as_json)
        return
    with read_study(study_path) as study:
        found = transferred(
            tables, study, metric, known=known, conditions=_conditions(condition or [])
        )
    target = output or study_path.with_suffix(".table.json")
    found.save(target)
    if as_json:
        print_json({"table": str(target), **found.to_dict()})
    else:
        typer.echo(str(found))
        for line in _chosen(found):
            typer.echo(line)
        typer.echo(f"\nwritten: {target}")


def _plan(
    table: BlockTable,
    study_path: Path,
    metric: str | None,
    count: int,
    seed: int,
    output: Path | None,
    as_json: bool,
) -> None:
    measured: list[Network] = []
    if study_path.exists():
        with read_study(study_path) as study:
            if study.space != table.space:
                raise InvalidInputError(
                    f"a plan is for one space, but {study_path} is about {study.space.name} and "
                    f"the table about {table.space.name}."
                )
            measured = list(dict.fromkeys(own.network for own in study.evaluations(metric)))
    networks = transfer_plan(table.space, count, measured=measured, seed=seed).networks
    lines = [network_text(network) for network in networks]
    if output is not None:
        with replacing(output) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if as_json:
        print_json({"measured": len(measured), "networks": [list(own) for own in networks]})
    else:
        for line in lines:
            typer.echo(line)


def _conditions(texts: list[str]) -> dict[str, str] | None:
    pairs = [text.partition("=") for text in texts]
    for (key, _, value), text in zip(pairs, texts, strict=True):
        if not key or not value:
            raise InvalidInputError(f"--condition is written KEY=VALUE, but got {text!r}.")
    return {key: value for key, _, value in pairs} or None


def _chosen(table: BlockTable) -> list[str]:
    """What was chosen, and the left-out errors."""
    chosen, errors = table.provenance["chosen"], table.provenance["left_out_error"]
    assert isinstance(chosen, dict)
    assert isinstance(errors, dict)
    lines = []
    for found in chosen.values():
        if "factor" in found:
            lines.append(f"\nchosen: the known table times {found['factor']:.4g}")
        else:
            parts = [f"{name} {share:.0%}" for name, share in found["parts"].items() if share]
            lines.append(f"\nchosen: {', '.join(parts)}; {found['errors']} errors")
            lines.append(
                f"weight of the transfer {found['weight']:.0%}, of fitting anew "
                f"{1 - found['weight']:.0%}; deviations times {found['deviations_times']:.3g}"
            )
    told = ", ".join(f"{name} {error:.3g}" for name, error in errors.items())
    return [*lines, f"left-out error ({table.provenance['left_out_unit']}): {told}"]
