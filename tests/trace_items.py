"""Traces opened as items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import GRID

from cellvision.branches import BRANCHES

CELLS = len(GRID)


def opened(path: Path, **options: Any) -> Any:
    return BRANCHES.build({"name": "trace", **options}, path=path)


def table_of(tmp_path: Path, text: str, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def wide_text(rows: list[str]) -> str:
    names = [f"{channel}_{time}" for channel in ("ERK", "AKT") for time in range(8)]
    return "\n".join([",".join(["ID", "class", *names]), *rows]) + "\n"
