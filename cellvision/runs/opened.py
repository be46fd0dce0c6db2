"""A run directory, opened in Python: its table, crops, masks, metrics, pictures and children, read when asked for."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.cells.cropstore import SHARD_ROWS, Crops
from cellvision.core import files, rundir
from cellvision.core.errors import ConfigError
from cellvision.core.yamlfiles import read_yaml
from cellvision.io import labelmaps

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellvision.plots.base import Figure

LEFT = {  # what -> stage -> the file or folder it lies in
    "table": {
        "simulate": "truth/cells.parquet", "segment": "cells.parquet", "train_segmenter": "scores.parquet",
        "extract": "files.parquet", "plan": "splits.csv", "pretrain": "curves.parquet", "embed": "embeddings.h5ad",
        "finetune": "predictions.parquet", "predict": "predictions.parquet", "ablate": "summary.csv",
        "cluster": "clusters.csv", "importance": "importance.csv",
    },
    "crops": {"segment": "crops"},
    "masks": {"segment": "masks"},
    "preview": {"segment": "preview.png"},
    "curves": {"pretrain": "curves.parquet"},
    "confusion": {"finetune": "scored.parquet"},
}  # fmt: skip
TEXT = ("source_id", "unit", "group")  # columns of splits.csv that may look like numbers
PLACES = {  # numbers that say where an item lies, not what it is like
    "mask_label", "y", "x", "y0", "x0", "y1", "x1", "scale", "crop_shard", "crop_row", "fold",
}  # fmt: skip
CROPS_SHOWN = 32


class Run:
    """A run directory. `table`, `crops`, `mask`, `anndata`, `metrics` and the plots read what its stage left."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not rundir.is_run(self.path):
            inside = sorted(record.parent.name for record in self.path.glob("*/run.json"))
            hint = f"; runs in it: {', '.join(inside)}" if inside else "; give the --out of a stage"
            raise ConfigError(f"no run at {self.path}{hint}")
        rundir.verify(self.path)

    @property
    def record(self) -> dict[str, Any]:
        """run.json: status, fingerprint, inputs, versions, device, seed, times."""
        return rundir.read_record(self.path)

    @property
    def stage(self) -> str:
        return str(self.record["stage"])

    @property
    def status(self) -> str:
        """running (or interrupted), done, or broken."""
        return str(self.record["status"])

    @property
    def config(self) -> dict[str, Any]:
        """Every option with its effective value; the stage's `run` takes it as it is."""
        return read_yaml(self.path / "config.yaml")

    @property
    def metrics(self) -> dict[str, Any]:
        """The flat metrics; empty until the run is done."""
        path = self.path / "metrics.json"
        return dict(files.read_json(path)) if path.exists() else {}

    @property
    def children(self) -> dict[str, Run]:
        """The runs in runs/, by name."""
        return {record.parent.name: Run(record.parent) for record in sorted(self.path.glob("runs/*/run.json"))}

    @property
    def table(self) -> pd.DataFrame:
        """The main table: items with what is known of them, folds, predictions, scores, curves."""
        path = self.file_of("table")
        if path.suffix == ".h5ad":
            return self.anndata().obs.reset_index()
        if path.suffix == ".parquet":
            return files.read_parquet(path)
        return files.read_csv(path, TEXT if self.stage == "plan" else None)

    @property
    def crops(self) -> CropView:
        """(n, S, S, C+1) uint8 in the order of the table, the cell's mask last; index it like an array."""
        return CropView(self.file_of("crops"), self.table)

    def mask(self, image_id: str) -> NDArray[np.int32]:
        """(H, W) label map of one image, `source_id` in the table; 0 is background, else `mask_label`."""
        folder = self.file_of("masks")
        if not (folder / f"{image_id}.tif").is_file():
            names = sorted(path.stem for path in folder.glob("*.tif"))
            close = difflib.get_close_matches(str(image_id), names, n=1) or names[:1]
            raise ConfigError(f"no mask of image {image_id!r} among {len(names)}; one is {''.join(close)!r}")
        return labelmaps.read(folder / f"{image_id}.tif")

    def anndata(self) -> AnnData:
        """Items as AnnData: an embedding's features, or else the measurements of the table, float32.

        `obs` is the rest of the table, and `obsm["spatial"]` (n, 2) has x and y in px where items have a place.
        """
        import anndata

        if self.stage == "embed":
            return anndata.read_h5ad(self.file_of("table"))
        table = self.table
        if "item_id" not in table:
            raise ConfigError(f"the table of a {self.stage} run has no items; runs that have: segment, embed, finetune")
        table = table.set_index(table.pop("item_id").astype(str))
        values = table.select_dtypes("number").drop(columns=PLACES, errors="ignore").astype(np.float32)
        cells = anndata.AnnData(values, obs=table.drop(columns=values.columns))
        if {"x", "y"} <= set(table):
            cells.obsm["spatial"] = table[["x", "y"]].to_numpy(float)
        return cells

    def plot_preview(self) -> Figure:
        """Images of every group with the outlines of their items, as the run drew them."""
        from cellvision.plots.base import load_pixels, picture

        return picture(load_pixels(self.file_of("preview")))

    def plot_crops(self, rows: Any = slice(CROPS_SHOWN), columns: int = 8) -> Figure:
        """A sheet of crops with the outlines of their cells; `rows` as in `crops[rows]`."""
        from cellvision.plots.base import picture
        from cellvision.plots.cells import crop_sheet

        crops = self.crops[rows]
        return picture(crop_sheet(crops.reshape(-1, *crops.shape[-3:]), columns))

    def plot_curves(self) -> Figure:
        """The loss of a pretraining and what was measured on the way."""
        from cellvision.plots.results import curves

        return curves(files.read_parquet(self.file_of("curves")))

    def plot_confusion(self) -> Figure:
        """Counts by label and prediction, at the level where the label is true."""
        from cellvision.plots.results import confusion_matrix

        return confusion_matrix(files.read_parquet(self.file_of("confusion")), self.metrics["level"])

    def file_of(self, what: str) -> Path:
        """Where `what` lies. ConfigError names the runs that have it."""
        stage, stages = self.stage, LEFT[what]
        if stage not in stages:
            children = [name for name, child in self.children.items() if child.stage in stages]
            hint = f"; its children {', '.join(children)} do" if children else ""
            raise ConfigError(f"a {stage} run has no {what}; runs with {what}: {', '.join(stages)}{hint}")
        path = self.path / stages[stage]
        if not path.exists():
            why = "it was made without" if self.status == "done" else f"it is {self.status}; repeat its command"
            raise ConfigError(f"the {stage} run in {self.path} has no {what} ({path.name}): {why}")
        return path

    def __repr__(self) -> str:
        record = self.record
        offered = [what for what, stages in LEFT.items() if (self.path / stages.get(record["stage"], "?")).exists()]
        children = f"children: {', '.join(self.children)}" if self.children else ""
        parts = [f"{record['stage']} run, {record['status']}", ", ".join(offered), children]
        return f"<{self.path}: {'; '.join(filter(None, parts))}>"


class CropView:
    """Crops of a segment run in the order of its table, read from disk as they are indexed."""

    def __init__(self, folder: Path, table: pd.DataFrame) -> None:
        self._crops = Crops(folder)
        self._positions = (table["crop_shard"] * SHARD_ROWS + table["crop_row"]).to_numpy(np.int64)

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, S, S, C+1)."""
        return (len(self), *self._crops.shape)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """A number -> (S, S, C+1); a slice, numbers or truth values (n,) -> (m, S, S, C+1). Copies."""
        positions = self._positions[rows]
        crops = self._crops.take(np.atleast_1d(positions))
        return crops[0] if np.ndim(positions) == 0 else crops

    def __repr__(self) -> str:
        return f"<crops {self.shape} uint8, the mask last>"
