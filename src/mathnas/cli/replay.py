"""``mathnas replay``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mathnas.cli._options import AsJson, print_json
from mathnas.cli._policies import Conditions, make_policy

if TYPE_CHECKING:
    from mathnas.runtime.decisions import Session

_SHOWN = 10  # differences of a session


def register(app: typer.Typer) -> None:
    app.command(
        "replay",
        help="Show the policies of a log again what they observed, and where they decide otherwise "
        "now. Exit code 1 where they do.",
        epilog="Example: mathnas replay decisions.jsonl --package net.mathnas",
    )(replay_log)


def replay_log(
    log: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl", help="What `mathnas run --log` wrote.")
    ],
    package_path: Annotated[
        Path, typer.Option("--package", metavar="PACKAGE", help="The one that was served.")
    ],
    as_json: AsJson = False,
) -> None:
    # imported here, since every command imports this module as it starts
    from mathnas.runtime.decisions import read_decisions, replay
    from mathnas.runtime.goals import Goal
    from mathnas.runtime.package import Package

    package = Package.read(package_path)
    records = []
    for number, session in enumerate(read_decisions(log), start=1):
        where = f"{log}, session {number}"
        made = Conditions.from_dict(session.notes, package.space, package_path, where)
        goal = session.goal or Goal(deadline_ms=made.deadline_ms)
        policy = make_policy(made.policy, package.table, made.times, goal)
        differences = [str(difference) for difference in replay(session, policy)]
        records.append(_record(session, differences))
        if not as_json:
            typer.echo(_text(number, session, differences))
    if as_json:
        print_json(records)
    if any(record["differences"] for record in records):
        raise typer.Exit(1)


def _record(session: Session, differences: list[str]) -> dict[str, object]:
    return {
        "policy": session.policy,
        "runs": len(session.observations),
        "decisions": len(session.decisions),
        "truncated": session.truncated,
        "differences": differences,
    }


def _text(number: int, session: Session, differences: list[str]) -> str:
    cut = ", cut off at the end" if session.truncated else ""
    same = f"{len(differences)} differ" if differences else "the same again"
    lines = [
        f"session {number}, {session.policy}: {len(session.observations)} runs, "
        f"{len(session.decisions)} decisions{cut}: {same}",
        *(f"  {difference}" for difference in differences[:_SHOWN]),
    ]
    if len(differences) > _SHOWN:
        lines.append(f"  and {len(differences) - _SHOWN} more")
    return "\n".join(lines)
