"""``mathnas predict``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mathnas.cli._options import AsJson, DeviceName, Forms, TablePath, print_json, read_table
from mathnas.space import network_text


def register(app: typer.Typer) -> None:
    app.command(
        "predict",
        help="Predict networks from a table.",
        epilog="Example: mathnas predict macro.table.json --network 2,2,1,1,0,2,2,1",
    )(predict)


def predict(
    path: TablePath,
    network: Annotated[
        list[str],
        typer.Option("--network", help="A network, as 3,0,2 or block names; may be repeated."),
    ],
    device: DeviceName = None,
    form: Forms = None,
    as_json: AsJson = False,
) -> None:
    table = read_table(path, form, device)
    networks = [table.space.parse(text) for text in network]
    found = [{name: table.prediction(item, name) for name in table.columns} for item in networks]
    if as_json:
        print_json(
            [
                {
                    "network": list(item),
                    "blocks": list(table.space.block_names(item)),
                    "predictions": {name: p.to_dict() for name, p in predictions.items()},
                }
                for item, predictions in zip(networks, found, strict=True)
            ]
        )
        return
    shown = Table("network", *table.columns)
    for item, predictions in zip(networks, found, strict=True):
        shown.add_row(network_text(item), *(str(p) for p in predictions.values()))
    Console().print(shown)
