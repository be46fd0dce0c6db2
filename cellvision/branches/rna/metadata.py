"""Tables about cells that lie beside the counts: cell -> cluster -> annotation term, joined by barcode and column.

The Allen atlas ships them as cell_metadata.csv (cell_label, cluster_alias), cluster.csv (cluster_alias, label) and
cluster_annotation_term.csv (label, description); a folder with these three is joined in this order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellvision.core.errors import ConfigError
from cellvision.io import tables

if TYPE_CHECKING:
    import pandas as pd

ALLEN = ("cell_metadata.csv", "cluster.csv", "cluster_annotation_term.csv")
KEYS = ("cell_label", "cell_id", "item_id", "barcode", "cell_barcode", "cell")  # columns tried first


def files_of(given: Sequence[Path]) -> list[Path]:
    """The tables to join, in order; a folder stands for the Allen atlas's three, or for a clustering's table."""
    paths: list[Path] = []
    for path in given:
        if not path.is_dir():
            paths.append(path)
        elif (path / "clusters.csv").is_file():
            paths.append(path / "clusters.csv")
        else:
            paths += [path / name for name in ALLEN if (path / name).is_file()]
            if not (path / ALLEN[0]).is_file():
                raise ConfigError(f"{path} holds no {ALLEN[0]}; name the tables themselves")
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"no table at {path}")
    return paths


def join(cells: pd.DataFrame, given: Sequence[Path]) -> tuple[pd.DataFrame, list[str]]:
    """The cells with the columns of every table, and what was not matched, in words.

    The first table is joined by cell; each further one by a column it shares with what is there.
    """
    notes: list[str] = []
    for number, path in enumerate(files_of(given)):
        if number == 0 or path.name == "clusters.csv":
            cells = by_cell(cells, path, notes)
        else:
            cells = by_column(cells, read_words(path), path, notes)
    return cells, notes


def read_words(path: Path) -> pd.DataFrame:
    """A table of text, as it was written: NA may be what a cell is called."""
    import pandas as pd

    return pd.concat(tables.text_portions(path), ignore_index=True)


def by_cell(cells: pd.DataFrame, path: Path, notes: list[str]) -> pd.DataFrame:
    """Join a table of cells; ConfigError when it knows none of them."""
    import pandas as pd

    wanted = cells.index.astype(str)
    bare = pd.Index([re.sub(r"-\d+$", "", name) for name in wanted])
    best: tuple[int, Any, str] = (0, None, "")
    parts: dict[tuple[str, bool], list[Any]] = {}
    for portion in tables.text_portions(path):
        columns = [name for name in KEYS if name in portion] or list(portion.columns)
        for column in columns:
            for cut, names in ((False, wanted), (True, bare)):
                keys = portion[column].str.replace(r"-\d+$", "", regex=True) if cut else portion[column]
                hit = keys.isin(set(names))
                if hit.any():
                    parts.setdefault((column, cut), []).append(portion[hit].assign(**{column: keys[hit]}))
    for (column, cut), portions in parts.items():
        table = pd.concat(portions).drop_duplicates(column).set_index(column)
        matches = int((bare if cut else wanted).isin(table.index).sum())
        if matches > best[0]:
            best = (matches, table.reindex(bare if cut else wanted), column)
    count, table, column = best
    if not count:
        raise ConfigError(f"{path} knows none of the {len(cells)} cells, such as {wanted[0]!r}")
    if count < len(cells):
        notes.append(f"{path.name}: {len(cells) - count} of {len(cells)} cells are not in column {column!r}")
    table.index = cells.index
    return _beside(cells, table)


def by_column(cells: pd.DataFrame, table: pd.DataFrame, path: Path, notes: list[str]) -> pd.DataFrame:
    """Join a table through the shared column that matches most cells; a value that stands twice keeps its first row."""
    shared = [name for name in table if name in cells]
    hits = {name: int(cells[name].astype(str).isin(table[name]).sum()) for name in shared}
    key = max(hits, key=lambda name: hits[name], default=None)
    if key is None or not hits[key]:
        raise ConfigError(f"{path} shares no column with the cells; they have {', '.join(map(str, cells.columns))}")
    if hits[key] < len(cells):
        notes.append(f"{path.name}: {len(cells) - hits[key]} of {len(cells)} cells have a {key!r} it does not know")
    lookup = table.drop_duplicates(key).set_index(key).reindex(cells[key].astype(str))
    lookup.index = cells.index
    return _beside(cells, lookup)


def _beside(cells: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """New columns beside the old ones; a name that is taken is kept from the newer table."""
    import pandas as pd

    return pd.concat([cells.drop(columns=[name for name in table if name in cells]), table], axis=1)
