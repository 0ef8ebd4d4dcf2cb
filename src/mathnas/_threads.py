"""How many threads numerical libraries use, the same for any number of workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)


@contextmanager
def numerical_threads(count: int) -> Iterator[None]:
    """`count` threads for numerical libraries: of torch here, of all in processes started inside.

    The libraries read the environment when they are loaded, so it is set while workers may start.
    """
    saved = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(count)))
    try:
        with torch_threads(count):
            yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """`count` threads for torch, where it is loaded; afterwards as many as before.

    The number belongs to the whole process: two blocks must not run at the same time in one.
    """
    before = set_torch_threads(count)
    try:
        yield
    finally:
        if before is not None:
            set_torch_threads(before)


def set_torch_threads(count: int) -> int | None:
    """Set torch's threads where torch is loaded; returns how many there were."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    before: int = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    return before
