"""``mathnas spaces``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mathnas import spaces as known_spaces
from mathnas.cli._options import AsJson, print_json
from mathnas.space import SearchSpace


def register(app: typer.Typer) -> None:
    app.command(
        "spaces",
        help="List the search spaces that mathnas knows, or show one.",
        epilog="Example: mathnas spaces mobilenetv3:width=1.2 --save space.json",
    )(spaces)


def spaces(
    name: Annotated[
        str | None,
        typer.Argument(help="A space: NAME, NAME:ARGUMENTS, or a JSON file.", metavar="[SPACE]"),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Write its declaration as JSON.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    if name is None:
        _list(as_json)
        return
    space = known_spaces.named(name)
    if save is not None:
        space.save(save)
    if as_json:
        print_json({**_summary(space), "declaration": space.to_dict()})
    else:
        _show(space)
        if save is not None:
            typer.echo(f"written: {save}")


def _summary(space: SearchSpace) -> dict[str, object]:
    return {
        "nodes": space.num_nodes,
        "blocks": space.num_blocks,
        "networks": space.num_networks,
        "macs_known": space.block_macs is not None,
    }


def _list(as_json: bool) -> None:
    families = known_spaces.catalogue()
    if as_json:
        print_json(
            [
                {
                    "name": family.name,
                    "description": family.description,
                    "arguments": family.arguments,
                    **_summary(family.default()),
                }
                for family in families
            ]
        )
        return
    for family in families:
        space = family.default()
        count = space.num_networks
        networks = f"{count:,}" if count < 10**9 else f"{float(count):.3g}"
        typer.echo(
            f"{family.name}: {space.num_nodes} nodes, {space.num_blocks} blocks, "
            f"{networks} networks\n    {family.description}"
        )
        if family.arguments:
            typer.echo(f"    {family.name}:{family.arguments}")


def _show(space: SearchSpace) -> None:
    typer.echo(repr(space))
    typer.echo(f"reference: {', '.join(space.block_names(space.reference))}")
    table = Table("node", "block", "MACs", "parameters")
    for node in space.nodes:
        for j, block in enumerate(node.blocks):
            costs = ["" if cost is None else f"{cost:,.0f}" for cost in (block.macs, block.params)]
            table.add_row("" if j else node.name, block.name, *costs)
    Console().print(table)
    if space.pair_costs:
        names = [
            f"{space.nodes[pair.first].name} with {space.nodes[pair.second].name}"
            for pair in space.pair_costs
        ]
        typer.echo(f"costs of pairs of nodes besides: {', '.join(names)}")
