"""One way from a file to pixels: training, segmenting and exporting read an image with the same options alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import regionprops

from cellvision import export, segment, train_segmenter
from cellvision.cells.pixels import grey_repeated
from cellvision.core.errors import ConfigError
from cellvision.io import labelmaps
from cellvision.io.images.reader import ImageError
from cellvision.segmenters import Segmentation

SHAPE = (40, 48)


def cell() -> NDArray[np.int32]:
    labels = np.zeros(SHAPE, np.int32)
    labels[10:25, 12:30] = 1
    labels[10:14, 12:18] = 0  # it is not convex
    return labels


def planes(count: int, dtype: Any = np.uint16) -> NDArray[Any]:
    """(count, H, W), no two planes alike."""
    rng = np.random.default_rng(count)
    return (rng.integers(0, 60, (count, *SHAPE)) + np.arange(50, 50 + 40 * count, 40)[:, None, None]).astype(dtype) * 3


def folders(root: Path, image: NDArray[Any], axes: str) -> tuple[Path, Path]:
    """raw/ with one image, truth/ with its label map."""
    raw, truth = root / "raw", root / "truth"
    (raw / "group").mkdir(parents=True)
    tifffile.imwrite(raw / "group" / "one.ome.tif", image, ome=True, metadata={"axes": axes})
    labelmaps.write(truth / "group" / "one.ome.tif", cell())
    return raw, truth


class Watching:
    """A segmenter that keeps what it was shown."""

    def __init__(self) -> None:
        self.seen: list[NDArray[np.uint8]] = []

    def segment(self, pixels: NDArray[np.uint8]) -> Segmentation:
        self.seen.append(pixels)
        return Segmentation(cell())

    def identity(self) -> str:
        return "watching"


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Watching:
    segmenter = Watching()
    monkeypatch.setattr(segment, "_segmenter", lambda cfg: segmenter)
    return segmenter


READ = {
    "16 bit": (planes(1)[0], "YX", {}),
    "two channels, both chosen": (planes(2), "CYX", {"channels": (0, 1)}),
    "five channels, one chosen": (planes(5), "CYX", {"channels": (3,)}),
    "stack": (planes(4), "ZYX", {}),
    "stack, averaged": (planes(4), "ZYX", {"frames": "mean"}),
    "stack, first": (planes(4), "ZYX", {"frames": "first"}),
}


@pytest.mark.parametrize(("image", "axes", "read"), READ.values(), ids=READ)
def test_training_sees_what_segmenting_sees(
    tmp_path: Path, watching: Watching, image: NDArray[Any], axes: str, read: dict[str, Any]
) -> None:
    raw, truth = folders(tmp_path, image, axes)
    segment.run(segment.Config(raw=raw, read=read, workers=0), tmp_path / "cells")
    cfg = train_segmenter.Config(raw=raw, truth=truth, read=read)
    pixels, labels = train_segmenter.read(cfg, next(train_segmenter.pairs_of(cfg).itertuples()))
    assert len(watching.seen) == 1
    assert pixels.shape == (*SHAPE, 1)
    np.testing.assert_array_equal(pixels, watching.seen[0])
    np.testing.assert_array_equal(labels, cell())


def test_channels_that_nobody_chose_are_refused_by_both(tmp_path: Path, watching: Watching) -> None:
    raw, truth = folders(tmp_path, planes(2), "CYX")
    Image.fromarray(planes(1, np.uint8)[0]).save(raw / "group" / "grey.png")
    segment.run(segment.Config(raw=raw, workers=0), tmp_path / "cells")
    reasons = pd.read_parquet(tmp_path / "cells" / "images.parquet").set_index("path")
    assert reasons.loc["group/one.ome.tif", "reason"] == "E_CHANNELS"
    cfg = train_segmenter.Config(raw=raw, truth=truth)
    with pytest.raises(ImageError, match=r"one\.ome\.tif.*2 channels; say which to use with --channels"):
        train_segmenter.read(cfg, next(train_segmenter.pairs_of(cfg).itertuples()))


def test_an_export_measures_the_cells_and_the_channels_of_the_run(tmp_path: Path, watching: Watching) -> None:
    image = planes(5)
    raw, _ = folders(tmp_path, image, "CYX")
    segment.run(segment.Config(raw=raw, read={"channels": (3, 1)}, workers=0), tmp_path / "cells")
    export.run(export.Config(run=tmp_path / "cells", to="cellprofiler", workers=0), tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "Cells.csv")
    cells = pd.read_parquet(tmp_path / "cells" / "cells.parquet")
    assert table["AreaShape_Solidity"].astype(np.float32).tolist() == cells["solidity"].tolist()
    assert cells["solidity"].item() == pytest.approx(regionprops(cell())[0].solidity)
    for number, channel in enumerate((3, 1)):
        mean = image[channel][cell() > 0].mean() / 65535
        assert table[f"Intensity_MeanIntensity_Ch{number}"].item() == pytest.approx(mean)


def test_a_run_whose_config_is_damaged_is_one_line(tmp_path: Path, watching: Watching) -> None:
    raw, _ = folders(tmp_path, planes(1)[0], "YX")
    segment.run(segment.Config(raw=raw, workers=0), tmp_path / "cells")
    config = tmp_path / "cells" / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("frames: auto", "frames: some"), "utf-8")
    with pytest.raises(ConfigError, match="frames"):
        export.run(export.Config(run=tmp_path / "cells", to="cellprofiler", workers=0), tmp_path / "out")


def test_ready_crops_are_read_with_the_options_given(tmp_path: Path) -> None:
    image = planes(5)
    (tmp_path / "crops").mkdir()
    tifffile.imwrite(tmp_path / "crops" / "one.ome.tif", image, ome=True, metadata={"axes": "CYX"})
    (tmp_path / "meta.csv").write_text("image,label\none.ome.tif,big\n")
    cfg = segment.Config(crops=tmp_path / "crops", metadata=tmp_path / "meta.csv", read={"channels": (2,)}, workers=0)
    segment.run(cfg, tmp_path / "cells")
    crops = np.load(tmp_path / "cells" / "crops" / "00000.npy")
    assert crops.shape[-1] == 2
    inside = crops[0, ..., 1] > 0
    assert np.corrcoef(crops[0, ..., 0][inside], image[2].ravel())[0, 1] > 0.99


def test_grey_among_colour_is_repeated_and_colour_stays() -> None:
    grey, colour = np.moveaxis(planes(1), 0, 2), np.moveaxis(planes(3), 0, 2)
    repeated = grey_repeated(grey, 3)
    assert repeated.shape == (*SHAPE, 3)
    assert (repeated == grey).all()
    assert grey_repeated(colour, 3) is colour
    assert grey_repeated(grey, 1) is grey
