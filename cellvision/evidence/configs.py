"""What the stages after segmentation have in common: the items, their units and folds, and what is learned of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from cellvision.branches import BRANCH_HELP, BranchConfig, recognise
from cellvision.core.config import Only, PluginConfig, StageConfig, option
from cellvision.evidence import targets


def unit_is_read(cfg: UnitsConfig) -> bool:
    """Whether `--unit` has an effect: it names the units, and a column that a table's features leave out."""
    return cfg.branch.name != "image" or cfg.units is None


class ItemsConfig(StageConfig):
    """Which items."""

    items: Path = option(..., "a segment run, or a file of a one-dimensional branch", runtime=True)
    branch: BranchConfig = option("image", BRANCH_HELP)
    guessed_from: ClassVar[tuple[str, ...]] = ("items",)

    @classmethod
    def guess(cls, data: Mapping[str, Any]) -> dict[str, str]:
        """The branch that reads the items, where it is not said."""
        given, items = data.get("branch"), data.get("items")
        is_named = isinstance(given, str | PluginConfig) or (isinstance(given, Mapping) and "name" in given)
        if is_named or not isinstance(items, str | Path):
            return {}
        name = recognise.branch_of(Path(items))
        return {"branch": name} if name else {}


class UnitsConfig(ItemsConfig):
    """Which of them are independent of each other."""

    unit: str | None = option(
        None, "column of independent units, or COLUMN~REGEX, or row; never an input of a one-dimensional branch"
    )
    units: Path | None = option(None, "CSV source_id,unit that coarsens the units", runtime=True)
    rules: ClassVar[tuple[Only, ...]] = (
        Only(("unit",), unit_is_read, "without --units, which name the units already"),
    )

    @property
    def reserved(self) -> tuple[str, ...]:
        """Columns with labels or units, which are never inputs; a target stands first."""
        return tuple(filter(None, (getattr(self, "target", None), (self.unit or "").partition("~")[0])))


class SplitsConfig(UnitsConfig):
    """Which of them are tested together."""

    splits: Path | None = option(
        None, "splits.csv of a plan run; made the same way when absent; --unit and --units may coarsen its units",
        runtime=True,
    )  # fmt: skip


class TargetConfig(SplitsConfig):
    """What is learned of them."""

    target: str = option("group", "group (weak), annotation (true), or a column")
    bins: int | None = option(None, "ranges with equally many items, into which a target that measures is cut", ge=2)
    min_examples: int = option(targets.LEAST_EXAMPLES, "items of a class, below which it takes no part", ge=1)
