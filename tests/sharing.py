"""What is made once for all the worker processes of a test run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cellvision.core.config import StageConfig


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A path that the first worker to ask for it makes; the others wait, and none may change it."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    place, mark = root / "shared" / name, root / "shared" / f"{name}.made"
    place.parent.mkdir(exist_ok=True)
    with mark.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
        if not mark.exists():
            make(place)
            mark.touch()
    return place


def understood(config: type[StageConfig]) -> set[str]:
    """The keys that have an effect in a stage."""
    return set(config.model_fields) - (set(StageConfig.model_fields) - set(config.uses))
