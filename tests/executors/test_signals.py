"""A signal that reaches workers before the process that asked them is that signal, and no worker that died."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from cellvision.core import signals
from cellvision.core.errors import CellvisionError
from cellvision.executors import local

pytestmark = pytest.mark.usefixtures("handlers")


def _ended_by_the_signal(_: int) -> None:
    os._exit(128 + signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_is_an_interruption(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "SIGNAL_S", 20.0)
    real = signals.await_request

    def awaited(seconds: float) -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        real(seconds)

    monkeypatch.setattr(signals, "await_request", awaited)
    with pytest.raises(signals.Interrupted) as stop:
        list(local.ordered_map(_ended_by_the_signal, range(4), workers=2))
    assert stop.value.exit_code == 128 + number


def test_a_worker_that_died_by_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "SIGNAL_S", 0.05)
    with pytest.raises(CellvisionError, match="a worker process died"):
        list(local.ordered_map(_ended_by_the_signal, range(4), workers=2))


def test_a_worker_finishes_its_step_though_it_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    signals.install(interactive=False)
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("left at once"))
    with signals.deferred():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.requested() == signal.SIGTERM
