"""Splits: the folds made of independent units. The only splitter of the project.

`splits.csv` has one row a source: source_id, source_hash, unit, group, fold. Fold -1 trains always and is never scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cellvision.core import files
from cellvision.core.config import fingerprint
from cellvision.core.errors import ConfigError, LeakError
from cellvision.core.progress import say
from cellvision.core.rng import generator
from cellvision.evidence import independence, targets
from cellvision.io import tables

if TYPE_CHECKING:
    import pandas as pd

    from cellvision.branches.items import Items

GROUP = "group"
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
    """splits.csv, or the plan run that holds it. ConfigError names the line that is wrong."""
    path = path / "splits.csv" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"no splits at {path}")
    columns = ["source_id", "unit", "group"]
    given = tables.read(path, text=[*columns, "source_hash"])
    table = given.frame
    tables.need(table, [*columns, "fold"], path)
    folds = tables.numeric(given, ["fold"], path)["fold"]
    tables.refuse(path, folds.mod(1).ne(0) | folds.lt(NEVER_TESTED), ": a fold is a whole number from -1 on")
    table["fold"] = folds.astype(int)
    for name in columns:
        table[name] = table[name].fillna("").map(files.alive)
    for name in ("source_id", "unit"):
        tables.refuse(path, table[name].str.strip().eq(""), f": the {name} is empty")
    tables.refuse(path, table["source_id"].duplicated(), ": this source stands above, too; a source has one fold")
    gaps = set(range(table["fold"].max() + 1)) - set(table["fold"])
    if gaps:
        raise ConfigError(f"{path}: folds are numbered from 0 without gaps; there is no fold {min(gaps)}")
    straddling = table.groupby("unit")["fold"].nunique()
    if (straddling > 1).any():
        raise LeakError(f"unit {straddling.idxmax()!r} stands in more than one fold of {path}; a unit belongs to one")
    return Splits(table)


def resolve(
    items: Items,
    splits: Path | None,
    unit: str | None,
    units: Path | None,
    target: str = GROUP,
    folds: Folds = FOLDS,
) -> Splits:
    """The given splits, or the same ones `plan` would make for this target.

    Given ones have to fit: LeakError where copies, or items of one unit of `unit` or `units`, stand in several folds.
    """
    if splits is None:
        return make(items, independence.unit_column(items, unit, units), folds, targets.strata(items, target))
    given = of_these_items(read(splits), items)
    ties = independence.copies(items.table)
    if unit or units:
        ties["items of one unit"] = independence.unit_column(items, unit, units)
    return coarsened(given, items, ties)


def of_these_items(given: Splits, items: Items) -> Splits:
    """Splits by content where the sources are known by their place in a table alone, and the table was re-sorted."""
    if not items.numbered or "source_hash" not in given.table:
        return given
    now = items.table.drop_duplicates("source_id")[["source_id", "source_hash", "group"]]
    then = given.table.set_index("source_id")["source_hash"]
    if then.reindex(now["source_id"]).eq(now["source_hash"].to_numpy()).all():
        return given
    unknown = now[~now["source_hash"].isin(then)]
    if len(unknown):
        raise ConfigError(
            f"{len(unknown)} of {len(now)} rows are not those that the splits were made of, such as "
            f"{unknown['source_id'].iloc[0]!r}; make the splits again, or give the table a column item_id"
        )
    say("splits: the rows stand in another order than in the plan; their folds go by content")
    by_content = given.table.drop_duplicates("source_hash")[["source_hash", "unit", "fold"]]
    return Splits(now.merge(by_content, on="source_hash", validate="many_to_one"))


def coarsened(given: Splits, items: Items, ties: dict[str, pd.Series]) -> Splits:
    """The same folds with units as coarse as the ties, (n,) values of the items; LeakError where folds part them."""
    import pandas as pd

    fold, unit = pd.Series(given.fold_of(items)), pd.Series(given.unit_of(items))
    for what, tie in ties.items():
        folds = fold.groupby(tie.to_numpy()).nunique()
        if (folds > 1).any():
            raise LeakError(f"{what} stand in more than one fold of the splits, such as those of {folds.idxmax()!r}")
    joined = independence.joined(unit, [items.table["source_id"], *ties.values()])
    by_source = dict(zip(items.table["source_id"], joined, strict=True))
    return Splits(given.table.assign(unit=given.table["source_id"].map(by_source).fillna(given.table["unit"])))


def make(items: Items, unit: pd.Series, folds: Folds = FOLDS, label: pd.Series | None = None) -> Splits:
    """Deal the units of each class over K folds, or leave out one unit a fold; what stands alone is never tested.

    unit, label: (n,) of the items; without labels the classes are the groups. K is what the group with the fewest units
    allows. Where units hold several classes, rare ones are dealt first (Sechidis et al. 2011), so that each class with
    two units stands in two folds.
    """
    import pandas as pd

    table = items.table.assign(unit=unit)[["source_id", "source_hash", "unit", "group"]]
    label = table["group"] if label is None else label
    sources = table.drop_duplicates("source_id").sort_values("source_id", ignore_index=True)
    classes = pd.crosstab(table["unit"], label) > 0
    testable = classes.loc[:, classes.sum() >= 2]
    fold = dict.fromkeys(classes.index, NEVER_TESTED)
    tested = testable[testable.any(axis=1)]
    if folds == "units":
        fold |= {name: number for number, name in enumerate(tested.index)}
    elif len(tested):
        groups = table.groupby("group")["unit"].nunique()
        fold |= _deal(tested, table.groupby("unit").size(), int(min([folds, len(tested), *groups[groups >= 2]])))
    return Splits(sources.assign(fold=sources["unit"].map(fold)))


def _deal(classes: pd.DataFrame, sizes: pd.Series, count: int) -> dict[str, int]:
    """Units by classes, True where a unit has items of a class; items a unit -> the fold of every unit."""
    units, present = classes.index.to_numpy(), classes.to_numpy()
    rarest_first = present.sum(0) if (present.sum(1) > 1).any() else np.zeros(present.shape[1])
    dealt = np.zeros((count, present.shape[1]))  # units of each class in each fold
    load = np.zeros(count, np.int64)
    fold: dict[str, int] = {}
    for number in np.argsort(rarest_first, kind="stable"):
        members = [name for name in units[present[:, number]] if name not in fold]
        generator(SPLIT_SEED, "splits", classes.columns[number]).shuffle(members)
        for name in sorted(members, key=lambda name: -sizes[name]):  # stable: ties stay shuffled
            holds = classes.loc[name].to_numpy()
            others = (dealt[:, holds] / present[:, holds].sum(0)).sum(1)
            fold[name] = int(np.lexsort((load, others, dealt[:, number]))[0])
            load[fold[name]] += sizes[name]
            dealt[fold[name]] += holds
    filled = sorted(set(fold.values()))
    return {name: filled.index(number) for name, number in fold.items()}


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


def stamps(items: Items, splits: Splits) -> list[str]:
    """What every result of these splits has to say."""
    rows = items.table["unit"].isna().all() and splits.table["unit"].isin(splits.table["source_id"]).all()
    conflict = independence.conflict_told(independence.duplicates(items.table)[1])
    return [*items.stamps, *(["rows assumed independent"] if rows else []), *conflict]
