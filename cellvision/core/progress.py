"""Progress with an honest time left: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
QUIET_S = 15.0  # seconds between two lines where there is no terminal
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # obeyed, not shown
_WITHIN: ContextVar[str] = ContextVar("within", default="")


@contextmanager
def within(name: str) -> Iterator[None]:
    """Every line said in here begins with this name: whose child is at work."""
    token = _WITHIN.set(f"{_WITHIN.get()}{name}: ")
    try:
        yield
    finally:
        _WITHIN.reset(token)


def say(text: str) -> None:
    """One line for the person, on stderr, so that stdout stays for results; nobody need be reading it."""
    with suppress(OSError):
        print(printable(f"{_WITHIN.get()}{text}"), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Text of strangers, such as names of files, with the characters that a terminal would obey written out."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def track(items: Iterable[Item], what: str, total: int, unit: str, start: int = 0) -> Iterator[Item]:
    """Pass items through, reporting how many (`unit` names them) are done and how long the rest will take.

    The rate is measured over this call alone, so that a resumed run does not count what was done before.
    """
    begun = shown = time.monotonic()
    terminal = sys.stderr.isatty()
    for count, item in enumerate(items, start + 1):
        yield item
        now = time.monotonic()
        if now - shown >= (0.2 if terminal else QUIET_S) and start + 2 < count < total:
            shown = now
            rate = (count - start) / (now - begun)
            left = duration((total - count) / rate)
            line = printable(f"{_WITHIN.get()}{what}: {count}/{total} {unit}, {rate:.3g}/s, {left} left")
            _show(f"\r\033[K{line}" if terminal else f"{line}\n")
    if terminal and shown > begun:
        _show("\r\033[K")


def _show(text: str) -> None:
    with suppress(OSError):
        print(text, end="", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
