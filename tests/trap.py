"""An object whose unpickling would run code."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)
