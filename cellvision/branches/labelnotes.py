"""What is said of labels before anything is learned: which are missing, and which are words that often mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellvision.io.dialect import MISSING

if TYPE_CHECKING:
    import pandas as pd


def of(
    table: pd.DataFrame,
    names: Sequence[str],
    items: str,
    where: Callable[[str, NDArray[np.int64]], str] | None = None,
) -> Iterator[str]:
    """A line for each column with gaps, and for each word for nothing that is a label.

    `items`: what the rows are; `where`: a column and the (n,) rows that are empty -> where they stand in the file.
    """
    for name in dict.fromkeys(name for name in names if name in table):
        empty = np.flatnonzero(table[name].isna())
        if len(empty):
            place = where(name, empty) if where else f"such as {table['item_id'].iloc[empty[0]]!r}"
            yield f"{len(empty)} {items} have no {name!r} ({place})"
        for word, count in table[name][table[name].isin(MISSING)].value_counts().sort_index().items():
            yield f"{word!r} is a label of {name!r} ({count} {items}), and no gap; --ignore {word} leaves it out"
