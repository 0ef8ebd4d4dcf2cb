"""Objects of modules that a command line names as MODULE:OBJECT."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

from mathnas.errors import EvaluationError


def load_object(module: str, name: str, what: str, members: Sequence[str]) -> Any:
    """An object of a module that can be imported from this folder, or what its function makes.

    Args:
        what: it is, for messages.
        members: that it has; an object without the first is called to make one.

    Raises:
        EvaluationError: it cannot be loaded, or lacks a member.
    """
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
        if not hasattr(found, members[0]) or inspect.isclass(found):
            found = found()
    except Exception as error:
        raise EvaluationError(
            f"the {what} {module}:{name} cannot be loaded ({type(error).__name__}: {error}). It is "
            f"an object with {members[0]}(), or a function without arguments that makes one, in a "
            "module that can be imported from this folder."
        ) from error
    missing = [member for member in members if not hasattr(found, member)]
    if missing:
        raise EvaluationError(
            f"{module}:{name} gave a {type(found).__name__} without {' and '.join(missing)}, which "
            f"every {what} has."
        )
    return found
