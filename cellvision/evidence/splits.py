"""Splits: the independent units, the folds made of them, and the leak guard. The only splitter of the project.

`splits.csv` has one row a source: source_id, unit, group, fold. Fold -1 trains always and is never scored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cellvision.core import files
from cellvision.core.config import fingerprint
from cellvision.core.errors import ConfigError, LeakError
from cellvision.core.rng import generator
from cellvision.io import tables

if TYPE_CHECKING:
    import pandas as pd

    from cellvision.branches.items import Items

FOLDS = 5
Folds = Annotated[int, Field(ge=2)] | Literal["units"]  # `units`: every unit is a fold of its own
NEVER_TESTED = -1
SPLIT_SEED = 0  # folds do not move with a run's seed, so that seeds can be compared on the same folds


@dataclass(frozen=True)
class Splits:
    """The folds of every source."""

    table: pd.DataFrame

    @property
    def folds(self) -> int:
        return int(self.table["fold"].max()) + 1

    @property
    def content(self) -> str:
        return fingerprint(self.table[["source_id", "unit", "fold"]].to_numpy().tolist())

    def fold_of(self, items: Items) -> NDArray[np.int64]:
        """(n,) fold of each item; ConfigError when a source of the items has none."""
        return self._column(items, "fold").astype(np.int64)

    def unit_of(self, items: Items) -> NDArray[np.str_]:
        return self._column(items, "unit").astype(str)

    def _column(self, items: Items, name: str) -> NDArray:
        by_source = self.table.set_index("source_id")[name]
        missing = set(items.table["source_id"]) - set(by_source.index)
        if missing:
            raise ConfigError(
                f"{len(missing)} sources have no fold, such as {min(missing)!r}; make the splits from these items"
            )
        return by_source.loc[items.table["source_id"]].to_numpy()

    def write(self, path: Path) -> None:
        files.write_csv(path, self.table)


def read(path: Path) -> Splits:
    """splits.csv, or the plan run that holds it."""
    path = path / "splits.csv" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"no splits at {path}")
    columns = ["source_id", "unit", "group"]
    given = tables.read(path, text=columns)
    table = given.frame
    tables.need(table, [*columns, "fold"], path)
    folds = tables.numeric(given, ["fold"], path)["fold"]
    whole = folds.mod(1).eq(0).to_numpy()
    if not whole.all():
        raise ConfigError(f"{tables.place(path, int((~whole).argmax()))}, column 'fold': a fold is a whole number")
    table["fold"] = folds.astype(int)
    for name in columns:
        table[name] = table[name].fillna("").map(files.alive)
    straddling = table.groupby("unit")["fold"].nunique()
    if (straddling > 1).any():
        raise LeakError(f"unit {straddling.idxmax()!r} stands in more than one fold of {path}; a unit belongs to one")
    return Splits(table)


def resolve(items: Items, splits: Path | None, unit: str | None, units: Path | None) -> Splits:
    """The given splits, or the same ones `plan` would make."""
    return read(splits) if splits else make(items, unit_column(items, unit, units))


def unit_column(items: Items, unit: str | None = None, units: Path | None = None) -> pd.Series:
    """The unit of every item: the table's own, a units.csv, a column, or `COLUMN~REGEX` (first group of the match)."""
    table = items.table
    if units:
        given = tables.read_text(units, ("source_id", "unit"))
        item_unit = table["source_id"].map(given.drop_duplicates("source_id").set_index("source_id")["unit"])
    elif unit == "row":
        item_unit = table["source_id"]
    elif table["unit"].isna().all() and not unit:
        raise ConfigError(
            "rows of a table are not independent by themselves; name the column that is with --unit, or say --unit row"
        )
    elif unit:
        column, tilde, pattern = unit.partition("~")
        if column not in table:
            raise ConfigError(f"no column {column!r} to take units from; columns: {', '.join(table.columns)}")
        item_unit = table[column].astype(str).where(table[column].notna())
        item_unit = item_unit.str.extract(_pattern(pattern), expand=True)[0] if tilde else item_unit
    else:
        item_unit = table["unit"]
    if item_unit.isna().any():
        first = table.loc[item_unit.isna(), "source_id"].iloc[0]
        raise ConfigError(f"{int(item_unit.isna().sum())} items get no unit, such as those of source {first!r}")
    return _join_duplicates(table, item_unit.astype(str))


def _pattern(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError(f"--unit: {text!r} is no regular expression ({error})") from None
    if pattern.groups < 1:
        raise ConfigError(f"--unit: {text!r} needs a group in parentheses, the part that names the unit")
    return pattern


def _join_duplicates(table: pd.DataFrame, unit: pd.Series) -> pd.Series:
    """Sources with the same content, and sources of one unit, end in one unit (connected components)."""
    import scipy.sparse as sparse

    pairs = table.assign(unit=unit)[["source_id", "unit", "source_hash"]].drop_duplicates()
    codes = {name: pairs[name].astype("category") for name in ("unit", "source_hash", "source_id")}
    n_units, n_hashes = (len(codes[name].cat.categories) for name in ("unit", "source_hash"))
    n_sources = len(codes["source_id"].cat.categories)
    unit_node = codes["unit"].cat.codes.to_numpy(np.int64)
    hash_node = codes["source_hash"].cat.codes.to_numpy(np.int64) + n_units
    source_node = codes["source_id"].cat.codes.to_numpy(np.int64) + n_units + n_hashes
    size = n_units + n_hashes + n_sources
    rows, columns = np.concatenate([unit_node, unit_node]), np.concatenate([hash_node, source_node])
    graph = sparse.coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), (size, size))
    component = sparse.csgraph.connected_components(graph, directed=False)[1]
    first: dict[int, str] = {}
    for name, node in zip(codes["unit"].cat.categories, range(n_units), strict=True):
        first.setdefault(component[node], name)
    joined = {name: first[component[node]] for node, name in enumerate(codes["unit"].cat.categories)}
    return unit.map(joined)


def make(items: Items, unit: pd.Series, folds: Folds = FOLDS) -> Splits:
    """Deal the units of each group over K folds, or leave out one unit a fold; a lone unit is never tested."""
    table = items.table.assign(unit=unit)[["source_id", "unit", "group"]]
    sizes = table.groupby("unit").size()
    sources = table.drop_duplicates("source_id").sort_values("source_id", ignore_index=True)
    home = table.groupby("unit")["group"].agg(
        lambda group: min(group.mode())
    )  # a unit with several groups counts for one
    per_group = home.value_counts()
    testable = per_group[per_group >= 2]
    fold = dict.fromkeys(home.index, NEVER_TESTED)
    if folds == "units":
        fold |= {name: number for number, name in enumerate(sorted(home.index[home.isin(testable.index)]))}
        return Splits(sources.assign(fold=sources["unit"].map(fold)))
    count = int(min([folds, *testable])) if len(testable) else 0
    load = np.zeros(max(count, 1), np.int64)
    for group in sorted(testable.index):
        members = sorted(home.index[home == group])
        generator(SPLIT_SEED, "splits", group).shuffle(members)
        members.sort(key=lambda name: -sizes[name])  # stable: ties stay shuffled; the big ones are dealt first
        for start in range(0, len(members), count):
            dealt = members[start : start + count]
            for name, target in zip(dealt, np.argsort(load, kind="stable"), strict=False):
                fold[name] = int(target)
                load[target] += sizes[name]
    return Splits(sources.assign(fold=sources["unit"].map(fold)))


def test_folds(splits: Splits, fold: str) -> list[int]:
    """`all` -> every fold, `none` -> no fold, `k` -> fold k. ConfigError when there is none to test."""
    if fold == "none":
        return []
    if splits.folds < 2:
        raise ConfigError(
            "no group has two independent units, so nothing can be tested on unseen ones; "
            "add sources, or train without a score with --fold none"
        )
    if fold == "all":
        return list(range(splits.folds))
    if not fold.isdigit() or int(fold) >= splits.folds:
        raise ConfigError(f"--fold is all, none or 0 to {splits.folds - 1}, got {fold!r}")
    return [int(fold)]


def guard(seen: set[str], tested: set[str], what: str, transductive: bool) -> str | None:
    """Refuse what was fitted on sources it is now tested on; the stamp, when that was asked for.

    seen and tested are source hashes. LeakError counts the common ones.
    """
    common = seen & tested
    if not common:
        return None
    if not transductive:
        raise LeakError(
            f"{what} has seen {len(common)} of the {len(tested)} test sources; "
            "pretrain it with this fold held out, or give --transductive, which stamps the result"
        )
    return f"transductive: {what} has seen {len(common)} of {len(tested)} test sources"


def stamps(items: Items, splits: Splits) -> list[str]:
    """What every result of these splits has to say."""
    rows = items.table["unit"].isna().all() and (splits.table["unit"] == splits.table["source_id"]).all()
    return [*items.stamps, *(["rows assumed independent"] if rows else [])]
