"""``mathnas candidates``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from mathnas import spaces
from mathnas.cli._options import (
    AsJson,
    Budgets,
    DeviceName,
    Effort,
    Forms,
    ObjectiveName,
    TablePath,
    TimeLimit,
    print_json,
    progress_of,
    read_budgets,
    read_table,
)
from mathnas.errors import InvalidInputError
from mathnas.grouped import GroupedSpace
from mathnas.search import choose_candidates
from mathnas.space import SearchSpace


def register(app: typer.Typer) -> None:
    app.command(
        "candidates",
        help="Choose a few candidates for each group of nodes, of all its configurations: those "
        "whose networks are predicted best over a range of limits.",
        epilog="Example: mathnas candidates layers.table.json --groups 4,4,4,4,4 --count 5 "
        "--maximize accuracy --limit macs -o stages.json",
    )(candidates)


def candidates(
    path: TablePath,
    groups: Annotated[
        str,
        typer.Option(
            metavar="GROUPS",
            help="A partition that the space knows (mobilenetv3: stages), how many nodes each "
            "group has (4,4,2), or a grouped space's JSON file whose candidates are chosen from.",
        ),
    ],
    limit: Annotated[str, typer.Option(metavar="METRIC", help="What budgets limit.")],
    count: Annotated[int, typer.Option(metavar="N", help="At most so many a group.")] = 5,
    maximize: ObjectiveName = None,
    minimize: ObjectiveName = None,
    budgets: Budgets = "32",
    effort: Effort = 1.0,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    time_limit: TimeLimit = None,
    output: Annotated[
        Path | None,
        typer.Option(*("--output", "-o"), metavar="SPACE.json", help="Write the grouped space."),
    ] = None,
    device: DeviceName = None,
    form: Forms = None,
    as_json: AsJson = False,
) -> None:
    table = read_table(path, form, device)
    chosen = choose_candidates(
        table,
        read_groups(table.space, groups),
        count,
        limit=limit,
        maximize=maximize,
        minimize=minimize,
        budgets=read_budgets(budgets),
        effort=effort,
        time_limit=time_limit,
        seed=seed,
        progress=progress_of(as_json),
    )
    if output is not None:
        chosen.space.save(output)
    if as_json:
        print_json(chosen.to_dict())
    else:
        typer.echo(str(chosen))
    if output is not None:
        typer.echo(f"written: {output}", err=as_json)


def read_groups(space: SearchSpace, text: str) -> Mapping[str, Sequence[int]] | GroupedSpace:
    """The groups of a command line.

    Raises:
        InvalidInputError: the text is no partition of the space.
        FileFormatError: the file that it names cannot be read.
    """
    if text in space.partitions:
        return space.partitions[text]
    if text.endswith(".json"):
        grouped = spaces.named(text)
        if not isinstance(grouped, GroupedSpace):
            raise InvalidInputError(f"--groups takes a grouped space, but {text} is another one.")
        return grouped
    sizes = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in sizes):
        known = ", ".join(space.partitions) or "none"
        raise InvalidInputError(
            f"--groups is a partition that {space.name} knows ({known}), how many nodes each group "
            f"has (4,4,2), or a JSON file, but got {text!r}."
        )
    ends = list(itertools.accumulate(map(int, sizes), initial=0))
    if ends[-1] != space.num_nodes:
        raise InvalidInputError(
            f"--groups {text} is about {ends[-1]} nodes, but {space.name} has {space.num_nodes}."
        )
    return {
        f"group{place}": range(start, stop)
        for place, (start, stop) in enumerate(itertools.pairwise(ends), start=1)
    }
