"""Targets: what a model learns, and the level at which that label is true."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.core.errors import ConfigError

if TYPE_CHECKING:
    from cellvision.branches.items import Items

Level = Literal["source", "item"]


@dataclass(frozen=True)
class Target:
    """label: (n,) class number of each item, -1 without one; level: where the label is true.

    Classes that are all numbers stand in their order.
    """

    name: str
    level: Level
    classes: tuple[str, ...]
    label: NDArray[np.int64]

    @property
    def ordered(self) -> bool:
        """At least three classes, all of them numbers: a near miss is better than a far one."""
        return len(self.classes) > 2 and numbers(self.classes) is not None

    def text(self, rows: NDArray[np.int64]) -> NDArray[np.str_]:
        """(n,) labelled rows -> (n,) names of their classes."""
        return np.array(self.classes, dtype=object)[self.label[rows]]


def numbers(classes: Iterable[str]) -> list[float] | None:
    """The classes as numbers; None where one of them is a word."""
    try:
        return [float(name) for name in classes]
    except ValueError:
        return None


def in_order(classes: Iterable[str]) -> list[str]:
    """Sorted as numbers where all are numbers, else as words."""
    classes = sorted(classes)
    return classes if numbers(classes) is None else sorted(classes, key=float)


def read(items: Items, name: str, ignore: tuple[str, ...] = (), only: str | None = None) -> Target:
    """The group (true of the source), the annotation (true of the item), or any column.

    Labels in `ignore`, and of items that are not in `only` (COLUMN=VALUE), are left out. ConfigError when the column is
    missing or has fewer than two classes.
    """
    if name not in items.table:
        raise ConfigError(f"no target {name!r}; the items have the columns {', '.join(items.table.columns)}")
    label = items.table[name]
    text = label.astype(str)  # before any is left out: a hole would turn whole numbers into floats
    labelled = (label.notna() & ~text.isin(ignore)).to_numpy()
    if only is not None:
        labelled = labelled & subset(items, only)
    classes = tuple(in_order(text[labelled].unique()))
    if len(classes) < 2:
        present = f"one class, {classes[0]!r}" if classes else "no labels"
        raise ConfigError(f"target {name!r} has {present}; at least two classes are needed")
    number = {text: index for index, text in enumerate(classes)}
    codes = np.where(labelled, text.map(number).fillna(-1), -1).astype(np.int64)
    return Target(name, "source" if name == "group" else "item", classes, codes)


def subset(items: Items, only: str) -> NDArray[np.bool_]:
    """(n,) items where COLUMN=VALUE holds; numbers are compared as numbers. ConfigError when that is none."""
    column, equals, value = only.partition("=")
    if not equals or column not in items.table:
        raise ConfigError(f"only wants COLUMN=VALUE, got {only!r}; columns: {', '.join(map(str, items.table.columns))}")
    text = items.table[column].astype(str)
    wanted = numbers([value])
    as_numbers = numbers(text) if wanted else None
    here = np.asarray(as_numbers) == wanted[0] if wanted and as_numbers else (text == value).to_numpy()
    if not here.any():
        raise ConfigError(f"no item has {only}; values: {', '.join(in_order(text.unique())[:8])}")
    return here
