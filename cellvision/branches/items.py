"""Items tables and memory-mapped crops: what every branch yields and every later stage reads.

An items table has item_id, source_id (the bag: image, file or row), source_hash (its content), unit, group, and
then the branch's own columns. Crops lie in `crops/00000.npy …`, (n, S, S, C+1) uint8, the mask as last channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cellvision.branches.signatures import Marks
from cellvision.core.errors import ConfigError, NoUsableInput

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("item_id", "source_id", "source_hash", "unit", "group")


@dataclass(frozen=True)
class Items:
    """One table of items; `missed` holds annotations (source_id, label) that no item answers to.

    `notes`: what a person should know who chooses units. `numbered`: the sources are rows that are known by their place
    in a table alone. `marked` computes what an item is known by beside its source_hash, see signatures.py.
    """

    table: pd.DataFrame
    content: str
    missed: pd.DataFrame
    stamps: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    numbered: bool = False
    marked: Callable[[], Marks] | None = None

    @cached_property
    def marks(self) -> Marks:
        """kind -> (n, k) hashes, see evidence/seen; computed when first asked for."""
        return self.marked() if self.marked else {}

    def __post_init__(self) -> None:
        missing = [name for name in COLUMNS if name not in self.table]
        if missing:
            raise ConfigError(f"the items table lacks the columns {', '.join(missing)}")
        if self.table.empty:
            raise NoUsableInput("the items table is empty; nothing to learn from")
        repeated = self.table["item_id"][self.table["item_id"].duplicated()]
        if len(repeated):
            raise ConfigError(f"item_id must be unique; {repeated.iloc[0]!r} stands more than once")


def no_missed() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({"source_id": pd.Series(dtype=str), "label": pd.Series(dtype=str)})
