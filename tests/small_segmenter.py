"""Images of a kind of cell that nobody has trained on, and `nano` fine-tuned on a few of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sharing import shared

from cellvision import train_segmenter
from cellvision.io import labelmaps


def crosses(folder: Path, count: int, seed: int = 0) -> tuple[Path, Path]:
    """Images of a kind of cell that nobody has trained on: thin dark crosses on a striped background."""
    rng = np.random.default_rng(seed)
    raw, truth = folder / "raw", folder / "truth"
    (raw / "odd").mkdir(parents=True)
    (truth / "odd").mkdir(parents=True)
    for number in range(count):
        pixels = 150 + 20 * np.sin(np.arange(160) / 3)[None] + rng.normal(0, 4, (128, 160))
        labels = np.zeros((128, 160), np.int32)
        for cell, (y, x) in enumerate(((20, 30), (20, 90), (70, 50), (75, 120), (105, 20)), 1):
            y, x = y + int(rng.integers(-6, 6)), x + int(rng.integers(-6, 6))
            labels[max(y - 12, 0) : y + 12, x - 4 : x + 4] = cell
            labels[max(y - 4, 0) : y + 4, max(x - 12, 0) : x + 12] = cell
        pixels[labels > 0] -= 60
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(raw / "odd" / f"{number}.png")
        labelmaps.write(truth / "odd" / f"{number}.tif", labels)
    return raw, truth


def config(raw: Path, truth: Path, **others: object) -> train_segmenter.Config:
    settings = {"raw": raw, "truth": truth, "workers": 0, "threads": 1, "loop": {"steps": 12, "batch": 4, "lr": 5e-4}}
    return train_segmenter.Config.model_validate(settings | others)


@pytest.fixture(scope="session")
def trained_segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images in `raw`, their masks in `truth`, and the run in `out`: two images are held out."""

    def make(folder: Path) -> None:
        raw, truth = crosses(folder, 6)
        loop = {"steps": 6, "batch": 4, "lr": 1e-3}
        train_segmenter.run(config(raw, truth, held_out=0.34, loop=loop), folder / "out")

    return shared(tmp_path_factory, "trained_segmenter", make)
