"""Targets: what a model learns, and the level at which that label is true."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from cellvision.branches.items import Items

Level = Literal["source", "item"]
MANY = 20  # different numbers, from which on a label is a measurement and no class
FEW = 4  # different numbers, up to which they are classes however few the items
STRATA = 4  # equally filled ranges of such a label, over which units are dealt evenly
LEAST_EXAMPLES = 2  # items of a class, below which it takes no part unless somebody says so
RANGE = " to "


@dataclass(frozen=True)
class Target:
    """label: (n,) class number of each item, -1 without one; level: where the label is true.

    Classes that are all numbers stand in their order.
    """

    name: str
    level: Level
    classes: tuple[str, ...]
    label: NDArray[np.int64]
    left_out: tuple[str, ...] = ()  # classes with too few examples

    @property
    def ordered(self) -> bool:
        """At least three classes, all of them numbers: a near miss is better than a far one."""
        return len(self.classes) > 2 and numbers(self.classes) is not None

    def text(self, rows: NDArray[np.int64]) -> NDArray[np.str_]:
        """(n,) labelled rows -> (n,) names of their classes."""
        return np.array(self.classes, dtype=object)[self.label[rows]]


def numbers(classes: Iterable[str]) -> list[float] | None:
    """The classes as numbers, ranges as their middle; None where one of them is a word."""
    try:
        return [sum(map(float, name.split(RANGE))) / len(name.split(RANGE)) for name in classes]
    except ValueError:
        return None


def in_order(classes: Iterable[str]) -> list[str]:
    """Sorted as numbers where all are numbers, else as words."""
    classes = sorted(classes)
    value = numbers(classes)
    return classes if value is None else [name for _, name in sorted(zip(value, classes, strict=True))]


def read(
    items: Items,
    name: str,
    ignore: tuple[str, ...] = (),
    only: str | None = None,
    *,
    bins: int | None = None,
    least: int = LEAST_EXAMPLES,
) -> Target:
    """The group (true of the source), the annotation (true of the item), or any column.

    A label that never differs within a source is true of the source, whatever its name. Labels in `ignore`, of items
    that are not in `only` (COLUMN=VALUE), and of classes with fewer than `least` items are left out. With `bins`,
    numbers become so many equally filled ranges. ConfigError when the column is missing, has fewer than two classes, or
    measures something.
    """
    label = _column(items, name)
    text = label.astype(str)  # before any is left out: a hole would turn whole numbers into floats
    labelled = (label.notna() & ~text.isin(ignore)).to_numpy()
    if only is not None:
        labelled = labelled & subset(items, only)
    if bins is not None:
        text = _ranges(name, text, labelled, bins)
    elif measured(text[labelled]):
        raise ConfigError(
            f"target {name!r} measures something ({text[labelled].nunique()} different numbers) and names no classes; "
            "cut it into ranges with --bins 4"
        )
    count = text[labelled].value_counts()
    left_out = tuple(in_order(count.index[count < least]))
    labelled = labelled & ~text.isin(left_out).to_numpy()
    classes = tuple(in_order(text[labelled].unique()))
    if len(classes) < 2:
        present = f"one class, {classes[0]!r}" if classes else "no labels"
        few = f" ({', '.join(left_out)} left out: fewer than {least} items)" if left_out else ""
        raise ConfigError(f"target {name!r} has {present}{few}; at least two classes are needed")
    number = {text: index for index, text in enumerate(classes)}
    codes = np.where(labelled, text.map(number).fillna(-1), -1).astype(np.int64)
    return Target(name, level_of(items, name, codes), classes, codes, left_out)


def _column(items: Items, name: str) -> pd.Series:
    if name not in items.table:
        raise ConfigError(f"no target {name!r}; the items have the columns {', '.join(items.table.columns)}")
    return items.table[name]


def level_of(items: Items, name: str, label: NDArray[np.int64]) -> Level:
    """Where (n,) class numbers, -1 without one, are true: of the source, or of each item."""
    import pandas as pd

    if name == "group":
        return "source"
    rows = label >= 0
    by_source = pd.Series(label[rows]).groupby(items.table["source_id"].to_numpy()[rows])
    several = bool((by_source.size() > 1).any())
    return "source" if several and by_source.nunique().max() == 1 and items.missed.empty else "item"


def measured(text: pd.Series) -> bool:
    """Whether (n,) labels are numbers, too many for classes: more than MANY, or hardly one that stands twice."""
    different = text.unique()
    return len(different) > min(MANY, max(FEW, len(text) // 2)) and numbers(different) is not None


def _ranges(name: str, text: pd.Series, labelled: NDArray[np.bool_], bins: int) -> pd.Series:
    """(n,) labels as ranges of numbers with equally many items. ConfigError for words, or too few numbers."""
    value = numbers(text[labelled])
    if value is None:
        raise ConfigError(f"--bins is for numbers; target {name!r} holds words such as {min(text[labelled])!r}")
    edges = np.unique(np.quantile(value, np.linspace(0, 1, bins + 1)))
    if len(edges) < 3:
        raise ConfigError(f"target {name!r} has too few different numbers for {bins} ranges")
    which = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(edges) - 2)
    names = np.array([f"{low:.4g}{RANGE}{high:.4g}" for low, high in itertools.pairwise(edges)], dtype=object)
    out = text.copy()
    out[labelled] = names[which]
    return out


def strata(items: Items, name: str) -> pd.Series:
    """(n,) text over which units are dealt evenly: the labels, ranges of measured ones, empty without a label.

    ConfigError where there is no such column.
    """
    label = _column(items, name)
    text = label.astype(str)
    labelled = label.notna().to_numpy()
    if measured(text[labelled]):
        text = _ranges(name, text, labelled, STRATA)
    return text.where(labelled, "")


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
