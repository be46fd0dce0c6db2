"""Stage: images of four groups, or calcium traces, with known truth.

Images: raw/<group>/*.png and truth/ (masks, cells.parquet). Calcium: raw/*.h5, the truth in tissue/distanceToTarget.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from cellvision.core import files
from cellvision.core.config import Only, StageConfig, StageModel, option
from cellvision.core.errors import ConfigError
from cellvision.core.progress import say, track
from cellvision.core.rng import generator
from cellvision.core.rundir import RunDir
from cellvision.executors import local
from cellvision.io import labelmaps
from cellvision.runs.calls import stage
from cellvision.simulators import PAINTERS, add_shortcut, calcium

REVISION = 1


class Calcium(StageModel):
    """Waves of calcium over a small tissue from a stimulated cell (core/calcium.py)."""

    noise: tuple[float, ...] = option((0.01, 0.02, 0.03, 0.04, 0.05), "µM, levels of noise; a file or more for each")
    files: int = option(1, "files a level of noise", ge=1)
    samples: int = option(12, "simulations a file", ge=1, le=100_000)
    side: int = option(5, "cells along an edge of the tissue", ge=2, le=500)
    stim: int | None = option(None, "number of the stimulated cell, row by row from 0; the middle when absent", ge=0)
    points: int = option(1001, "time points of a trace", ge=2, le=1_000_000)
    stim_mag: float = option(0.5, "µM/s of IP3 that the stimulated cell gets", ge=0)
    beta: float = option(0.1, "µM/s of IP3 that a cell makes itself at high calcium", ge=0)
    kcross: float = option(0.2, "1/s, exchange of IP3 between neighbours", ge=0)


class Config(StageConfig):
    """Options of `simulate`."""

    kind: Literal["images", "calcium"] = option("images", "what is simulated")
    groups: tuple[str, ...] = option(("neuron", "phloem", "rbc", "xylem"), "groups to paint")
    images: int = option(8, "images a group", ge=1, le=100_000)
    height: int = option(384, "px", ge=64, le=16_384)
    width: int = option(512, "px", ge=64, le=16_384)
    contamination: float = option(0.1, "expected share of cells of another kind, or debris", ge=0, le=0.9)
    shortcut: Literal["cast", "scalebar", "caption"] | None = option(
        None, "plant something beside the cells that tells the group"
    )
    calcium: Calcium = option(Calcium(), "options of --kind calcium", flag=False)
    short: ClassVar[dict[str, str]] = {name: f"calcium.{name}" for name in ("noise", "samples", "side", "points")}
    uses: ClassVar[tuple[str, ...]] = ("seed", "workers")
    rules: ClassVar[tuple[Only, ...]] = (
        Only(("groups", "images", "height", "width", "contamination", "shortcut"), lambda cfg: cfg.kind == "images",
             "with --kind images"),
        Only(("calcium",), lambda cfg: cfg.kind == "calcium", "with --kind calcium"),
    )  # fmt: skip


@stage
def run(cfg: Config, out: Path) -> None:
    """Every image or file from its own generator; what is there already is kept."""
    if cfg.kind == "calcium":
        return run_calcium(cfg, out)
    for group in cfg.groups:
        PAINTERS.load(group)
    with RunDir.claim(out, "simulate", cfg, revision=REVISION) as claimed:
        if not claimed.done:
            tasks = [(cfg, out, group, number) for group in cfg.groups for number in range(cfg.images)]
            workers = local.cores() if cfg.workers is None else cfg.workers
            work = local.ordered_map(paint_one, tasks, min(workers, len(tasks)))
            painted = track(work, "simulate", len(tasks), "images")
            claimed.finish(write_truth(out, list(painted)))
        say(f"simulate: images in {out / 'raw'}, truth in {out / 'truth'}")


def run_calcium(cfg: Config, out: Path) -> None:
    """One HDF5 file for each level of noise and number."""
    if cfg.calcium.stim is not None and cfg.calcium.stim >= cfg.calcium.side**2:
        raise ConfigError(f"calcium.stim is a cell from 0 to {cfg.calcium.side**2 - 1}, got {cfg.calcium.stim}")
    with RunDir.claim(out, "simulate", cfg, revision=REVISION) as claimed:
        if not claimed.done:
            tasks = [(cfg, out, noise, number) for noise in cfg.calcium.noise for number in range(cfg.calcium.files)]
            workers = local.cores() if cfg.workers is None else cfg.workers
            work = local.ordered_map(write_calcium, tasks, min(workers, len(tasks)))
            written = track(work, "simulate", len(tasks), "files")
            samples = len(list(written)) * cfg.calcium.samples
            claimed.finish({"files": len(tasks), "simulations": samples, "cells": samples * cfg.calcium.side**2})
        say(f"simulate: traces in {out / 'raw'}, each file with its truth in tissue/distanceToTarget")


def write_calcium(task: tuple[Config, Path, float, int]) -> Path:
    """One file as MATLAB writes it: matrices that read as [time, cell], parameters in the name."""
    import h5py

    cfg, out, noise, number = task
    options = cfg.calcium
    stim = options.side**2 // 2 if options.stim is None else options.stim
    tissue = calcium.Tissue(options.side, stim, options.stim_mag, options.beta, options.kcross, noise)
    name = (
        f"sim_data__stimMag_{options.stim_mag:.2f}_beta_{options.beta:.2f}_noise_{noise:.3f}_kcross_{options.kcross:.4f}"
        f"_nSamples_{options.samples}_{number + 1}.h5"
    )
    path = out / "raw" / name
    if path.exists():
        return path
    rng = generator(cfg.seed, "calcium", noise, number)
    traces = calcium.simulate(tissue, options.samples, options.points, rng)
    facts = {
        "sim_ids": np.arange(options.samples) + 1, "tissue/distanceToTarget": tissue.distance().astype(float),
        "tissue/nTissueCols": options.side, "tissue/nTissueRows": options.side, "tissue/stimCell": stim + 1,
        "stim/stimMag": options.stim_mag, "params/beta": options.beta, "params/kcross": options.kcross,
        "params/noise": noise, "params/duration_s": calcium.SECONDS,
    }  # fmt: skip
    with files.atomic(path) as temporary, h5py.File(temporary, "w") as file:
        for key, value in facts.items():
            file[key] = value
        for sample, cells in enumerate(traces, 1):
            file[f"timeTraces/{sample}"] = cells.T
            file[f"features/cMax/{sample}"] = cells.max(1)
            file[f"features/cVariance/{sample}"] = cells.var(1)
    return path


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
    labelmaps.write(out / "truth" / "masks" / group / f"{name}.tif", painting.masks)
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
    of_its_group = truth["kind"] == truth["group"]
    return {"images": len(tables), "cells": len(truth), "contamination": float(np.mean(~of_its_group))}


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("simulate"))
