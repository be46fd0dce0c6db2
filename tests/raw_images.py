"""Raw folders with discs as cells, and the command that segments them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from corpus import pillow

from cellvision.cells import cropstore
from cellvision.commandline.cli import main

PLAIN = ["--segmenter", "threshold", "--workers", "0"]


def discs(count: int = 2, pitch: int = 32, radius: float = 9.0, dtype: Any = np.uint8) -> Any:
    """(count x pitch)^2 pixels of count^2 dark discs on a bright ground, with a little noise."""
    line = (np.arange(count * pitch) % pitch - pitch / 2 + 0.5) ** 2
    inside = line[:, None] + line <= radius**2
    noise = np.random.default_rng(count).integers(-6, 7, inside.shape)
    return (np.where(inside, 60, 200) + noise).astype(dtype)


def some_discs(seed: int) -> Any:
    """128 x 128 pixels with eight dark discs on a grid of sixteen places, another eight for each seed."""
    places = np.random.default_rng(seed).permutation(16).reshape(4, 4) < 8
    return np.where(np.kron(places, np.ones((32, 32), bool)), discs(4), 200).astype(np.uint8)


def put(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pillow(discs(), "PNG") if data is None else data)
    return path


def exit_code(raw: Path, out: Path, *flags: str) -> int:
    """Of the command, run in this process."""
    return main("segment", [*PLAIN, "--raw", str(raw), "--out", str(out), *flags])


def segmented(raw: Path, out: Path, *flags: str) -> pd.DataFrame:
    """Run the command; -> images.parquet by path. The tables must add up."""
    assert exit_code(raw, out, *flags) == 0
    images, cells = (pd.read_parquet(out / f"{name}.parquet") for name in ("images", "cells"))
    assert images["n_cells"].sum() == (cells["mode"] == "cell").sum() == len(cropstore.Crops(out / "crops"))
    return images.set_index("path")
