"""Items tables: what they must hold."""

from __future__ import annotations

import pytest
from item_rows import rows_of

from cellvision.branches import items
from cellvision.branches.items import Items
from cellvision.core.errors import ConfigError, NoUsableInput


def test_items_need_their_columns_and_unique_names() -> None:
    table = rows_of({"a": 2}).table
    with pytest.raises(ConfigError, match="lacks the columns unit"):
        Items(table.drop(columns="unit"), "", items.no_missed())
    with pytest.raises(ConfigError, match="'a0-0' stands more than once"):
        Items(table.assign(item_id="a0-0"), "", items.no_missed())
    with pytest.raises(NoUsableInput, match="empty"):
        Items(table.iloc[:0], "", items.no_missed())
