"""Targets: what a model learns, and the level at which that label is true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.core.errors import ConfigError

if TYPE_CHECKING:
    from cellvision.core.items import Items

Level = Literal["source", "item"]


@dataclass(frozen=True)
class Target:
    """label: (n,) class number of each item, -1 without one; level: where the label is true."""

    name: str
    level: Level
    classes: tuple[str, ...]
    label: NDArray[np.int64]

    def text(self, rows: NDArray[np.int64]) -> NDArray[np.str_]:
        """Class names of labelled rows."""
        return np.array(self.classes, dtype=object)[self.label[rows]]


def read(items: Items, name: str, ignore: tuple[str, ...] = ()) -> Target:
    """The group (true of the source), the annotation (true of the item), or any column.

    Labels in `ignore` are left out. ConfigError when the column is missing or has fewer than two classes.
    """
    import pandas as pd

    if name not in items.table:
        raise ConfigError(f"no target {name!r}; the items have the columns {', '.join(items.table.columns)}")
    label = items.table[name]
    label = label.where(label.notna() & ~label.astype(str).isin(ignore))
    classes = tuple(sorted(label.dropna().astype(str).unique()))
    if len(classes) < 2:
        found = f"one class, {classes[0]!r}" if classes else "no labels"
        raise ConfigError(f"target {name!r} has {found}; at least two classes are needed")
    number = {text: index for index, text in enumerate(classes)}
    codes = np.array([number[str(value)] if pd.notna(value) else -1 for value in label], np.int64)
    return Target(name, "source" if name == "group" else "item", classes, codes)
