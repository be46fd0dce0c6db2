"""Shared by the benchmarks: a segment run full of made-up crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cellvision.cells import cropstore
from cellvision.core import files
from cellvision.core.config import StageConfig
from cellvision.core.rng import generator
from cellvision.core.rundir import RunDir


def fake_run(out: Path, count: int, size: int, sources: int = 40) -> Path:
    """A finished segment run of `count` crops of noise and blobs, size x size, RGB and mask."""
    with RunDir.claim(out, "segment", StageConfig()) as run:
        rng = generator(0, "fake", count)
        blob = np.hypot(*(np.mgrid[:size, :size] - size / 2)) < size / 3
        chunk = 2048

        def parts():
            for start in range(0, count, chunk):
                rows = min(chunk, count - start)
                crops = rng.integers(0, 255, (rows, size, size, 4), np.uint8)
                crops[..., :3] //= 2
                crops[:, blob, :3] += rng.integers(0, 120, (rows, 1, 3), np.uint8)
                crops[..., 3] = blob * np.uint8(255)
                yield crops

        cropstore.pack_crops(parts(), out / "crops", count, (size, size, 4))
        number = np.arange(count)
        source = np.char.add("s", (number % sources).astype(str))
        table = {
            "item_id": np.char.add("i", np.char.zfill(number.astype(str), 7)), "source_id": source,
            "source_hash": source, "unit": source, "group": np.where(number % sources % 2, "a", "b"),
            "area_px": int(blob.sum()), "scale": 1.0, "crop_shard": number // cropstore.SHARD_ROWS,
            "crop_row": number % cropstore.SHARD_ROWS, "annotation": None,
        }  # fmt: skip
        files.write_parquet(out / "cells.parquet", pd.DataFrame(table))
        files.write_json(out / "geometry.json", {"size": size, "scale": 1.0, "context": 0.15, "channels": 3})
        run.finish({"cells": count})
    return out
