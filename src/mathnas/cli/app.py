"""The application: its commands, its exit codes, and how errors are shown."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from mathnas._version import __version__
from mathnas.cli import (
    bundle,
    candidates,
    compress,
    convert,
    costs,
    data,
    demo,
    deploy,
    devices,
    evaluate,
    extract,
    fit,
    import_,
    measure,
    pareto,
    predict,
    refine,
    replay,
    run,
    run_bundle,
    search,
    show_env,
    spaces,
    train,
    transfer,
    translate,
    validate,
)
from mathnas.errors import MathNASError

app = typer.Typer(
    name="mathnas",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Fit a network to a device: estimate blocks from few evaluations, predict any network, "
    "search to proven optimality.",
    epilog="Exit codes: 0 done, 1 wrong use or infeasible, 2 a fault of mathnas, 130 stopped.",
)
for module in (
    demo,
    spaces,
    data,
    evaluate,
    fit,
    measure,
    transfer,
    validate,
    predict,
    search,
    pareto,
    candidates,
    convert,
    compress,
    refine,
    train,
    extract,
    translate,
    deploy,
    run,
    replay,
    devices,
    costs,
    bundle,
    run_bundle,
    import_,
    show_env,
):
    module.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of errors (anywhere in the line).")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options of every command; `main` reads ``--debug`` wherever it stands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: done. 1: wrong use, or an answer that is "infeasible". 2: a fault of mathnas. 130: stopped.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    warnings.showwarning = _show_warning
    try:
        app(args=given, prog_name="mathnas")
    except SystemExit as stop:
        if stop.code == 130:  # the parser's word for Ctrl-C
            print("stopped.", file=sys.stderr)
        # the parser ends with 2 on wrong use; here 2 is kept for faults of ours
        return 1 if stop.code == 2 else int(stop.code or 0)
    except MathNASError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(
            f"internal error: {type(error).__name__}: {error}\n"
            "This is a fault of mathnas: run the command again with --debug and report what it "
            "prints, with the output of `mathnas show-env`.",
            file=sys.stderr,
        )
        return 2
    return 0


def _show_warning(
    message: Warning | str, category: type[Warning], *_: object, **__: object
) -> None:
    print(f"warning: {message}", file=sys.stderr)
