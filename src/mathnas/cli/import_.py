"""``mathnas import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mathnas import spaces
from mathnas.cli._options import AsJson, StudyPath, print_json
from mathnas.devices.bundle_import import BundleImport
from mathnas.devices.bundle_plan import MANIFEST
from mathnas.errors import InvalidInputError
from mathnas.study import Study


def register(app: typer.Typer) -> None:
    app.command(
        "import",
        help="Add what a bundle measured on another machine to a study. The bundle and its results "
        "are checked first; what was added before is not added again.",
        epilog="Examples:\n\n"
        "mathnas import my.study raspberry\n\n"
        "mathnas import my.study fetched/results.jsonl --bundle raspberry",
    )(import_)


def import_(
    study_path: StudyPath,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|RESULTS.jsonl", help="A bundle with its results, or the results alone."
        ),
    ],
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The bundle that the results are of, where it is not the folder that they are in.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    results = None if source.is_dir() else source
    folder = bundle or (source if results is None else source.parent)
    if not (folder / MANIFEST).is_file():
        raise InvalidInputError(
            f"results are checked against the bundle that made them, but {folder} is none: add "
            "--bundle FOLDER, the one that `mathnas bundle` wrote."
        )
    # before the study is made
    found = BundleImport.read(folder, results)
    with Study(study_path, spaces.restore(found.plan.space.to_dict())) as study:
        report = found.add_to(study)
    if as_json:
        print_json(
            {
                "study": str(study_path),
                "added": report.added,
                "already": report.already,
                "planned": report.planned,
                "failed": report.failed,
                "runs": [
                    {
                        "metric": run.metric,
                        "device": run.device.to_dict(),
                        "conditions": run.conditions,
                    }
                    for run in report.runs
                ],
            }
        )
    else:
        typer.echo(str(report))
