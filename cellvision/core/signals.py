"""Ctrl-C and SIGTERM: at once between steps that are safe to lose, after the current step inside a training loop."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType


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


def requested() -> int:
    """The number of the signal that arrived, or 0."""
    return _State.pending
