"""Ctrl-C at moments that lose nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

# one Ctrl-C may come twice: from the terminal, and passed on by a program that started this one
_ONE_PRESS = 1.0


class Interrupts:
    """Takes Ctrl-C at once inside `allowed`, elsewhere when that is next entered or at the end.

    So a result that has come back is stored before the program stops. Another Ctrl-C, a second or
    more later, is taken at once wherever it comes. Where the program handles Ctrl-C in its own way,
    and outside of the main thread, everything stays as it is.
    """

    def __init__(self) -> None:
        self._open = False
        self._asked = False
        self._since = 0.0
        self._installed = False

    def __enter__(self) -> Interrupts:
        ours = threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._asked and kind is None:
            raise KeyboardInterrupt

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Here Ctrl-C raises KeyboardInterrupt at once."""
        self._open = True
        try:
            if self._asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._open = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._asked:
            self._asked, self._since = True, now
            if self._open:
                raise KeyboardInterrupt
        elif now > self._since + _ONE_PRESS:
            raise KeyboardInterrupt


@contextmanager
def hidden_from_children() -> Iterator[None]:
    """Processes that are started inside do not notice Ctrl-C; this one does, at the end."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
