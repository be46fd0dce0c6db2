"""Stage: items -> units, exact duplicates, folds, and what may be claimed. Writes plan.json and splits.csv."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from cellvision.branches import BRANCHES
from cellvision.branches.items import Items
from cellvision.core import files
from cellvision.core.config import option
from cellvision.core.progress import say
from cellvision.core.rundir import RunDir, content_of
from cellvision.evidence import independence, splits
from cellvision.evidence.configs import UnitsConfig
from cellvision.evidence.splits import Folds, Splits
from cellvision.runs.calls import stage

REVISION = 4
MIL_BAGS = 10  # bags a class that bag-level learning needs


class Config(UnitsConfig):
    """Options of `plan`."""

    target: str = option("group", "labels over which the folds are dealt evenly: group, annotation, or a column")
    folds: Folds = option(splits.FOLDS, "folds where every group has enough units, or units: leave one out")
    uses: ClassVar[tuple[str, ...]] = ("seed",)


@stage
def run(cfg: Config, out: Path) -> None:
    """Find the units and deal them into folds; groups with too few are reported, never an error."""
    branch = BRANCHES.build(cfg.branch, path=cfg.items, reserved=cfg.reserved)
    inputs = {"items": branch.items.content} | ({"units": content_of(cfg.units)} if cfg.units else {})
    with RunDir.claim(out, "plan", cfg, inputs, REVISION) as claimed:
        if claimed.done:
            return
        split = splits.resolve(branch.items, None, cfg.unit, cfg.units, cfg.target, cfg.folds)
        plan = describe(branch.items, split)
        split.write(out / "splits.csv")
        files.write_json(out / "plan.json", plan)
        for line in plan["claims"]:
            say(f"plan: {line}")
        claimed.finish(
            {"units": plan["units"], "folds": plan["folds"], "label_conflicts": len(plan["label_conflicts"])}
        )


def describe(items: Items, made: Splits) -> dict[str, Any]:
    """Units and items per group, duplicates, the strongest protocol and the claims it allows."""
    table = items.table.assign(fold=made.fold_of(items), unit=made.unit_of(items))
    groups = {
        str(group): {
            "units": int(rows["unit"].nunique()), "sources": int(rows["source_id"].nunique()), "items": len(rows),
            "annotated": int(rows["annotation"].notna().sum()) if "annotation" in rows else 0,
            "evaluated": bool((rows["fold"] >= 0).any()), "mil": bool(rows["source_id"].nunique() >= MIL_BAGS),
        }
        for group, rows in table.groupby("group")
    }  # fmt: skip
    duplicates, conflicts = independence.duplicates(table)
    units = int(table["unit"].nunique())
    stamps = splits.stamps(items, made)
    protocol = f"{made.folds} folds by unit" if made.folds >= 2 else "none: no group has two units"
    return {
        "units": units, "folds": made.folds, "protocol": protocol, "groups": groups,
        "duplicates": duplicates, "label_conflicts": conflicts, "stamps": stamps,
        "claims": claims(groups, f"{protocol}; {units} units", duplicates, items, stamps),
    }  # fmt: skip


def claims(
    groups: dict[str, dict[str, Any]],
    protocol: str,
    duplicates: list[list[str]],
    items: Items,
    stamps: list[str],
) -> list[str]:
    """Plain sentences: what these data can and cannot show."""
    lines = [f"protocol: {protocol} in {len(groups)} groups", *stamps]
    alone = [name for name, group in groups.items() if not group["evaluated"]]
    if alone:
        lines.append(f"cannot be evaluated (fewer than two units): {', '.join(alone)}")
    if len(groups) < 2:
        lines.append("one group only: the folder's name teaches nothing; annotations are needed as target")
    few = [name for name, group in groups.items() if not group["mil"]]
    if few:
        lines.append(f"too few sources ({MIL_BAGS} a group are needed) to learn from bags: {', '.join(few)}")
    if duplicates:
        lines.append(f"{len(duplicates)} sets of identical or nearly identical sources, each kept in one fold")
    lines += items.notes
    if "annotation" not in items.table or items.table["annotation"].isna().all():
        lines.append("no annotations: scores say how well the folder is recovered (agreement), not what a cell is")
    return lines


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("plan"))
