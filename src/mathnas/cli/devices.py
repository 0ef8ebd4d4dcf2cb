"""``mathnas devices``."""

from __future__ import annotations

import typer

from mathnas.cli._options import AsJson, StudyPath, print_json, read_study


def register(app: typer.Typer) -> None:
    app.command(
        "devices",
        help="The devices of a study: what is known of them, and how much was measured on each.",
        epilog="Example: mathnas devices phones.study",
    )(devices)


def devices(study_path: StudyPath, as_json: AsJson = False) -> None:
    with read_study(study_path) as study:
        records, measured = study.devices, study.measured_on()
        free = len(study) - measured.total()
    # a device may have measurements without a record, from a table that somebody imported
    names = list(dict.fromkeys([*records, *measured]))
    if as_json:
        print_json(
            {
                "devices": [
                    {
                        "name": name,
                        "measurements": measured[name],
                        "record": records[name].to_dict() if name in records else None,
                    }
                    for name in names
                ],
                "measurements_without_device": free,
            }
        )
        return
    for name in names:
        typer.echo(f"{name}: {measured[name]} measurements")
        typer.echo(f"  {records.get(name, 'no record of it')}")
    typer.echo(f"{free} measurements name no device and serve all.")
