"""cellvision: from folders of microscopy images to single-cell classifiers whose claims hold up."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cellvision.runs.opened import Run

__version__ = "0.1.0"


def open(path: Path | str) -> Run:
    """The run in a folder: its table, crops, masks, metrics, pictures and children. ConfigError where there is none."""
    from cellvision.runs.opened import Run

    return Run(path)
