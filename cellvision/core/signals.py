"""Ctrl-C and SIGTERM: at once between steps that are safe to lose, after the current step inside a training loop.

And the way out of a command that has ended: with the code it ended with, whatever its libraries still do.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


class Interrupted(BaseException):
    """A signal asked the run to stop; what was done is on disk and the same command goes on from there."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class _State:
    deferring = False
    pending = 0
    interactive = True


def _handle(number: int, frame: FrameType | None) -> None:
    if _State.pending:
        if not _State.interactive:  # it went to the whole group, and again from the parent, which ends what stays
            return
        os._exit(128 + number)  # asked twice: leave at once
    _State.pending = number
    if _State.deferring:
        return
    if not _State.interactive:
        os._exit(128 + number)
    raise Interrupted(number)


def install(interactive: bool = True) -> None:
    """Route SIGINT and SIGTERM here; a worker process (not interactive) leaves Ctrl-C to its parent."""
    _State.pending, _State.interactive = 0, interactive
    signal.signal(signal.SIGTERM, _handle)
    signal.signal(signal.SIGINT, _handle if interactive else signal.SIG_IGN)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, a first signal is only noted: ask `requested()` when it is safe to stop."""
    before, _State.deferring = _State.deferring, True
    try:
        yield
    finally:
        _State.deferring = before


def await_request(seconds: float) -> None:
    """Raise Interrupted where a signal arrives within so many seconds: it may reach others first."""
    until = time.monotonic() + seconds
    while not _State.pending and time.monotonic() < until:
        time.sleep(0.01)
    if _State.pending:
        raise Interrupted(_State.pending)


def requested() -> int:
    """The number of the signal that arrived, or 0."""
    return _State.pending


def leave(code: int) -> NoReturn:
    """End this process: wait for its threads, do what was registered for the end, write what is buffered, and go.

    The interpreter's own way out takes libraries apart while threads of theirs still run. One that then asks for the
    interpreter aborts the process (Arrow's, with a file of Python's): a run that had succeeded ended with SIGABRT.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # the two calls an interpreter that ends begins with
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except BrokenPipeError:  # who read it has seen enough
            pass
        except OSError:
            code = code or 1
    os._exit(code)
