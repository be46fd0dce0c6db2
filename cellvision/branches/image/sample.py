"""Small simulated crops: the true cells of painted images, laid out as a segment run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cellvision.branches import Sample
from cellvision.branches.items import COLUMNS
from cellvision.cells import crop, cropstore
from cellvision.core import files
from cellvision.core.config import StageConfig, option
from cellvision.core.rng import generator
from cellvision.core.rundir import RunDir
from cellvision.simulators import PAINTERS

GROUPS = ("phloem", "rbc", "xylem")
IMAGES = 4  # of each group
HEIGHT, WIDTH = 96, 128  # px
GEOMETRY = crop.Geometry(size=32, scale=0.5, context=0.15)


class Cut(StageConfig):
    """What a bundle remembers of how its cells were cut."""

    segmenter: str = "threshold"
    drop: tuple[str, ...] = ()
    max_size: int = GEOMETRY.size
    read: dict[str, Any] = option({})


def write(folder: Path, other_half: bool) -> Sample:
    """cells/: crops of whole cells and their table; the group is true of every cell."""
    import pandas as pd

    tables, crops = [], []
    for number in range(IMAGES):
        for group in GROUPS:
            rng = generator(0, "sample", group, number)
            painting = PAINTERS.build(group).paint(rng, HEIGHT, WIDTH, 0.0, GROUPS)
            changed = other_half and number >= IMAGES // 2
            pixels = 255 - painting.pixels if changed else painting.pixels
            cells = crop.measure(painting.masks)
            cells = cells.assign(scale=crop.cell_scales(cells, GEOMETRY))
            crops.append(crop.cut(pixels, painting.masks, cells, GEOMETRY.size))
            name = f"{group}{number}"
            cells["item_id"] = [f"{name}-{label:05d}" for label in cells["mask_label"]]
            tables.append(cells.assign(source_id=name, source_hash=f"{name}{changed}", unit=name, group=group))
    table = pd.concat(tables, ignore_index=True)
    rows = np.arange(len(table))
    table = table.assign(crop_shard=rows // cropstore.SHARD_ROWS, crop_row=rows % cropstore.SHARD_ROWS)
    with RunDir.claim(folder / "cells", "segment", Cut(), {"other": str(other_half)}) as run:
        cropstore.pack_crops(crops, folder / "cells" / "crops", len(table), (GEOMETRY.size, GEOMETRY.size, 4))
        files.write_json(folder / "cells" / "geometry.json", {**GEOMETRY.__dict__, "channels": 3})
        files.write_parquet(folder / "cells" / "cells.parquet", table[[*COLUMNS, *table.columns.difference(COLUMNS)]])
        run.finish({"cells": len(table)})
    return Sample(folder / "cells", "group", "test_resnet", options={"size": 32})
