"""Every picture is drawn as it is, once: elsewhere in these tests they are written without drawing."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from quick_pictures import shown_by

from cellvision.io import labelmaps
from cellvision.plots import base, cells, points, results

NAME = r"a_$x^2$ \frac{"  # a folder's name, not a formula
VALUES = np.random.default_rng(0).random((20, 2)).astype(np.float32)
ITEMS = pd.DataFrame({"truth": [NAME, "b"] * 4, "predicted": [NAME] * 7 + [""], "unit": list("aabbccdd")})
COUNTS = pd.DataFrame({"qc_total": VALUES[:, 0], "qc_genes": VALUES[:, 1]})
MARKERS = pd.DataFrame({"cluster": [0, 0, 1, 1], "gene": [NAME, "b"] * 2, "share": 0.5, "level": [0, 1, 1, 0]})
LEARNING = pd.DataFrame({"step": range(4), "loss": 1.0, "chance": 2.0, "knn": [np.nan, 0.5, np.nan, 0.6]})
BY_VALUE = pd.DataFrame(
    {"arm": [NAME, NAME, "baseline: forest"], "noise": ["0", "1", "0"], "balanced_accuracy": 0.5,
     "balanced_accuracy_low": 0.4, "balanced_accuracy_high": 0.6, "balanced_accuracy_units": 8}
)  # fmt: skip


def draw_preview(path: Path) -> None:
    labelmaps.write(path.with_name("one.tif"), np.pad(np.ones((20, 20), np.int32), 10))
    images = {"image_id": ["one"], "path": ["a/one.png"], "group": [NAME], "status": ["ok"]}
    counts = {f"n_{mode}s": [1] for mode in cells.modes.MODES}
    entries = [SimpleNamespace(image_id="one")]
    pixels = np.full((40, 40, 1), 100, np.uint8)
    cells.preview(entries, pd.DataFrame(images | counts), path.parent, path, lambda entry: pixels)


PICTURES: dict[str, Callable[[Path], Any]] = {
    "preview": draw_preview,
    "projection": lambda path: points.projection(VALUES[:8], {NAME: ITEMS["truth"].to_numpy()}, "PCA", path),
    "histograms": lambda path: points.histograms(COUNTS, path),
    "dots": lambda path: points.dots(MARKERS, path),
    "curves": lambda path: base.save(results.curves(LEARNING), path),
    "traces": lambda path: results.traces(VALUES.T, [NAME, "b"], path),
    "confusion_matrix": lambda path: base.save(results.confusion_matrix(ITEMS, "item"), path),
    "forest_plot": lambda path: results.forest_plot([(NAME, 0.5, 0.4, 0.6)], path, "balanced accuracy", 0.5),
    "by_value": lambda path: results.by_value(BY_VALUE, "noise", ["0", "1"], path),
}


def test_all_pictures_are_here() -> None:
    functions = {
        name
        for module in (cells, points, results)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and "figure(" in inspect.getsource(function)
    }
    assert functions == set(PICTURES)


@pytest.mark.usefixtures("true_pictures")
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_drawn_whatever_things_are_called(name: str, tmp_path: Path) -> None:
    PICTURES[name](tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 100
    assert (pixels < 128).sum() > 100, "something is drawn, in the dark"


def test_a_picture_that_is_not_drawn_says_what_it_would_show() -> None:
    def written(score: float, title: str) -> bytes:
        drawing, axis = base.figure(2, 2)
        axis.plot([0, score])
        axis.set_title(title)
        file = io.BytesIO()
        base.save(drawing, file)
        assert list(shown_by(drawing))
        return file.getvalue()

    assert written(0.5, "a") == written(0.5, "a")
    assert len({written(0.5, "a"), written(0.6, "a"), written(0.5, "b")}) == 3
