"""Items tables in memory."""

from __future__ import annotations

from typing import Any

import pandas as pd

from cellvision.branches import items
from cellvision.branches.items import Items


def rows_of(units: dict[str, int], each: int = 2, **columns: Any) -> Items:
    """Sources a0, a1 …, b0 … with `each` items, each source its own unit."""
    sources = [(f"{group}{number}", group) for group, count in units.items() for number in range(count)]
    rows = [(f"{name}-{n}", name, f"hash {name}", name, group) for name, group in sources for n in range(each)]
    return Items(pd.DataFrame(rows, columns=[*items.COLUMNS]).assign(**columns), "content", items.no_missed())
