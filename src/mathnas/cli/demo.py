"""``mathnas demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mathnas.cli._options import AsJson, print_json


def register(app: typer.Typer) -> None:
    app.command(
        "demo",
        help="The whole way on embedded data: train a small supernet, estimate its blocks, search "
        "under a latency limit, export and measure what was found. A minute or two, no GPU, no "
        "network access.",
        epilog="Example: mathnas demo --out my-demo --seed 1",
    )(demo)


def demo(
    tabular: Annotated[
        bool,
        typer.Option(
            "--tabular",
            help="Run on measurements that mathnas carries, in seconds and without PyTorch.",
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where to leave the files.")
    ] = Path("mathnas-demo"),
    seed: Annotated[int, typer.Option(help="Of training and of the random networks.")] = 0,
    as_json: AsJson = False,
) -> None:
    from mathnas.demo.flow import run_tabular_demo, run_trained_demo

    # with --json, what is going on is told on standard error
    console = Console(stderr=as_json)
    run = run_tabular_demo if tabular else run_trained_demo
    result = run(out, seed=seed, console=console)
    if as_json:
        print_json(result.to_dict())
