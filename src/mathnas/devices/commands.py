"""Commands of the system that tell what sensors see."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

from mathnas.errors import MeterAbsentError, MeterError, MeterPermissionError

Runner = Callable[[Sequence[str]], str]
"""Runs a command and returns what it prints; raises as `run_command`."""

_LONGEST_S = 10.0


def run_command(command: Sequence[str]) -> str:
    """What a command prints.

    Raises:
        MeterAbsentError: there is no such command.
        MeterPermissionError: it may not be run.
        MeterError: it fails, or takes longer than ten seconds.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise MeterAbsentError(f"there is no command {command[0]} on the PATH.") from error
    except PermissionError as error:
        raise MeterPermissionError(
            f'the command {command[0]} may not be run by this user: `sudo chmod a+x "$(command -v '
            f'{command[0]})"` grants it.'
        ) from error
    except subprocess.TimeoutExpired as error:
        raise MeterError(f"`{' '.join(command)}` took longer than {_LONGEST_S:g} s.") from error
    if done.returncode != 0:
        words = " ".join((done.stderr + " " + done.stdout).split())[:200]
        raise MeterError(f"`{' '.join(command)}` ended with {done.returncode}: {words}")
    return done.stdout
