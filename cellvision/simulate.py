"""Stage: paint images of four groups with known truth. Writes raw/<group>/*.png and truth/ (masks, cells.parquet)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from cellvision.core import files, masks, parallel
from cellvision.core.config import StageConfig, option
from cellvision.core.progress import say, track
from cellvision.core.rng import generator
from cellvision.core.rundir import RunDir
from cellvision.painters import PAINTERS, add_shortcut

REVISION = 1


class Config(StageConfig):
    """Options of `simulate`."""

    groups: tuple[str, ...] = option(("neuron", "phloem", "rbc", "xylem"), "groups to paint")
    images: int = option(8, "images a group", ge=1)
    height: int = option(384, "px", ge=64)
    width: int = option(512, "px", ge=64)
    contamination: float = option(0.1, "expected share of cells of another kind, or debris", ge=0, le=0.9)
    shortcut: Literal["cast", "scalebar", "caption"] | None = option(
        None, "plant something beside the cells that tells the group"
    )


def run(cfg: Config, out: Path) -> None:
    """Paint every image from its own generator; images already painted are kept."""
    for group in cfg.groups:
        PAINTERS.load(group)
    with RunDir.claim(out, "simulate", cfg, revision=REVISION) as claimed:
        if not claimed.done:
            tasks = [(cfg, out, group, number) for group in cfg.groups for number in range(cfg.images)]
            workers = parallel.cores() if cfg.workers is None else cfg.workers
            painted = track(parallel.ordered_map(paint_one, tasks, min(workers, len(tasks))), "simulate", len(tasks))
            claimed.finish(write_truth(out, list(painted)))
        say(f"simulate: images in {out / 'raw'}, truth in {out / 'truth'}")


def paint_one(task: tuple[Config, Path, str, int]) -> Path:
    """One image, its mask and its cells; the table, written last, is the sign that it is done."""
    from PIL import Image

    cfg, out, group, number = task
    name = f"{group}_{number:04d}"
    table = out / "truth" / "parts" / f"{name}.json"
    if table.exists():
        return table
    rng = generator(cfg.seed, "simulate", group, number)
    painting = PAINTERS.build(group).paint(rng, cfg.height, cfg.width, cfg.contamination, cfg.groups)
    if cfg.shortcut:
        painting = add_shortcut(painting, cfg.shortcut, cfg.groups.index(group))
    with files.atomic(out / "raw" / group / f"{name}.png") as temporary:
        Image.fromarray(painting.pixels).save(temporary, format="PNG")
    masks.write(out / "truth" / "masks" / group / f"{name}.tif", painting.masks)
    rows = [{"image": f"{group}/{name}.png", "group": group, **cell} for cell in painting.cells]
    files.write_json(table, rows)
    return table


def write_truth(out: Path, tables: list[Path]) -> dict[str, Any]:
    """One truth table of all cells, and the annotations file a lab would have had: image,x,y,label."""
    import pandas as pd

    truth = pd.DataFrame([row for table in tables for row in files.read_json(table)])
    files.write_parquet(out / "truth" / "cells.parquet", truth)
    points = truth[["image", "x", "y", "kind"]].rename(columns={"kind": "label"}).round({"x": 1, "y": 1})
    files.write_csv(out / "truth" / "points.csv", points)
    for table in tables:
        table.unlink()
    tables[0].parent.rmdir()
    own = truth["kind"] == truth["group"]
    return {"images": len(tables), "cells": len(truth), "contamination": float(np.mean(~own))}


if __name__ == "__main__":
    from cellvision.core.cli import main

    raise SystemExit(main("simulate"))
