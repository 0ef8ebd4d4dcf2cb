"""``mathnas show-env``."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib import metadata

import typer

from mathnas._version import __version__
from mathnas.cli._options import AsJson, print_json
from mathnas.datasets import DATA_VARIABLE
from mathnas.devices.energy import find_meters
from mathnas.search import kernel_is_available

_PACKAGES = (
    *("numpy", "typer", "rich", "pydantic", "pooch"),
    *(
        "torch",
        "onnx",
        "onnxscript",
        "onnxruntime",
        "scikit-learn",
        "pyarrow",
        "highspy",
        "nvidia-ml-py",
        "starlette",
        "uvicorn",
    ),
)


def register(app: typer.Typer) -> None:
    app.command(
        "show-env",
        help="What mathnas finds on this machine, for bug reports.",
        epilog="Example: mathnas show-env --json",
    )(show_env)


def show_env(as_json: AsJson = False) -> None:
    found: dict[str, str | None] = {
        "mathnas": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": str(os.cpu_count()),
        "sqlite": sqlite3.sqlite_version,
        "solver": "kernel" if kernel_is_available() else "numpy (no compiled kernel)",
        DATA_VARIABLE: os.environ.get(DATA_VARIABLE),
        **{package: _version(package) for package in _PACKAGES},
    }
    meters = find_meters()
    if as_json:
        present = [
            {"name": meter.name, "kind": meter.kind.value, "covers": meter.covers}
            for meter in meters.present
        ]
        reasons = {name: str(error) for name, error in meters.absent.items()}
        print_json({**found, "meters": present, "meters_absent": reasons})
        return
    for name, value in found.items():
        absent = "not set" if name == DATA_VARIABLE else "not installed"
        typer.echo(f"{name:14} {value or absent}")
    typer.echo("\nenergy meters")
    for meter in meters.present:
        typer.echo(f"  {meter.name}: {meter.kind.value}, {meter.covers}")
    for name, error in meters.absent.items():
        typer.echo(f"  no {name}: {error}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
