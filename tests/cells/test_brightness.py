"""How bright a crop is: one range for the run, the same in whichever depth a picture was saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from raw_images import discs, exit_code, segmented

from cellvision import predict
from cellvision.branches.image.branch import ImageBranch
from cellvision.cells import brightness
from cellvision.cells.pixels import ReadConfig, choose_ranges
from cellvision.core import files
from cellvision.core.errors import ConfigError
from cellvision.io.images.intensity import full_scale

DEPTHS = {"uint8": 1, "uint16": 257, "twelve": 16, "float32": 1 / 255}


def save(folder: Path, name: str, picture: NDArray[Any], depth: str = "uint16") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    dtype = "uint16" if depth == "twelve" else depth
    tifffile.imwrite(folder / f"{name}.tif", (picture.astype(np.float64) * DEPTHS[depth]).astype(dtype))


def bright_discs(level: float, ground: float = 40, noise: float = 1) -> NDArray[np.float64]:
    """(96, 96) nine discs of a level on a ground."""
    cells = discs(3) < 130
    return np.where(cells, level, ground) + np.random.default_rng(0).normal(0, noise, cells.shape)


def brightness_of(run: Path) -> pd.Series:
    """The mean of the cells' pixels, of each group."""
    crops, table = np.load(run / "crops" / "00000.npy"), pd.read_parquet(run / "cells.parquet")
    values = [crop[..., 0][crop[..., -1] > 0].mean() for crop in crops]
    return pd.Series(values).groupby(table["group"].to_numpy()).mean()


@pytest.fixture(scope="module")
def depths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs over the same two pictures, a dim and a bright one, saved in several depths."""
    folder = tmp_path_factory.mktemp("depths")
    for depth in DEPTHS:
        for group, level in (("dim", 90), ("bright", 190)):
            save(folder / depth / group, "one", bright_discs(level).round(), depth)
        segmented(folder / depth, folder / f"{depth}-run")
    return {depth: folder / depth for depth in DEPTHS}


def scale_of(run: Path) -> dict[str, Any]:
    return dict(files.read_json(run / "geometry.json")["intensity"])


@pytest.mark.parametrize(("light", "flags", "kept"), [
    ((629, 478), (), True), ((3000, 1500), ("--intensity", "run"), True), ((629, 478), ("--intensity", "image"), False),
    ((629, 478), ("--intensity", "fixed", "--range", "0,1023"), True),
])  # fmt: skip
def test_a_dimmer_marker_is_as_much_dimmer_in_the_crops(
    tmp_path: Path, light: tuple[float, float], flags: tuple[str, ...], kept: bool
) -> None:
    for group, level in zip(("control", "treated"), light, strict=True):
        for number in range(2):
            (tmp_path / "raw" / group).mkdir(parents=True, exist_ok=True)
            picture = bright_discs(level, ground=200, noise=4).astype(np.uint16)
            tifffile.imwrite(tmp_path / "raw" / group / f"{number}.tif", picture)
    segmented(tmp_path / "raw", tmp_path / "run", *flags)
    cells = brightness_of(tmp_path / "run")
    ratio, true = cells["treated"] / cells["control"], light[1] / light[0]
    assert (abs(ratio / true - 1) < 0.02) == kept
    assert kept or ratio > 0.95, "each image stretched for itself hides it"


@pytest.mark.parametrize("trained", ["uint8", "uint16", "float32"])
def test_a_model_gets_the_same_crops_in_whichever_depth_a_picture_was_saved(
    depths: dict[str, Path], tmp_path: Path, trained: str
) -> None:
    facts = scale_of(depths[trained].with_name(f"{trained}-run"))
    read = predict.read_like_training({"intensity": "run"}, facts)
    usual = np.load(depths[trained].with_name(f"{trained}-run") / "crops" / "00000.npy").astype(int)
    for depth in set(DEPTHS) - (
        {"twelve"} if trained == "uint16" else set()
    ):  # there nobody can tell it from less light
        file = tmp_path / f"{depth}.yaml"
        file.write_text(json.dumps({"read": read}))
        segmented(depths[depth], tmp_path / depth, "--config", str(file))
        crops = np.load(tmp_path / depth / "crops" / "00000.npy").astype(int)
        assert crops.shape == usual.shape
        assert np.abs(crops - usual).max() <= 1, depth
        assert scale_of(tmp_path / depth)["ranges"] == facts["ranges"]


def test_eight_bits_alone_stay_as_they_are(depths: dict[str, Path]) -> None:
    pictures = [tifffile.imread(depths["uint8"] / group / "one.tif") for group in ("dim", "bright")]
    crops = np.load(depths["uint8"].with_name("uint8-run") / "crops" / "00000.npy")
    assert set(np.unique(crops[..., 0])) <= set(np.unique(pictures))
    assert brightness.told(scale_of(depths["uint8"].with_name("uint8-run"))).startswith("full scale for all")


@pytest.mark.parametrize(("largest", "dtype", "size"), [
    (90, "uint8", 255), (255, "uint16", 255), (256, "uint16", 1023), (3000, "uint16", 4095), (16384, "uint16", 65535),
    (1.0, "float32", 1), (0.2, "float64", 1), (1.5, "float32", 255), (1, "uint16", 255), (70000, "int32", 2**32 - 1),
])  # fmt: skip
def test_full_scale_is_the_smallest_depth_that_holds_the_largest_value(largest: float, dtype: str, size: float) -> None:
    assert full_scale(largest, dtype) == size


def rows(*images: tuple[str, str, float, float]) -> pd.DataFrame:
    """A row for each (unit, dtype, low, high) of one channel."""
    table = pd.DataFrame(images, columns=["unit", "dtype", "low", "high"])
    return table.assign(
        image_id=table.index.astype(str), channels=1, full_scale=None, intensity_max=table["high"],
        intensity_low=[[low] for low in table["low"]], intensity_high=[[high] for high in table["high"]],
    )  # fmt: skip


def crop_ranges(images: pd.DataFrame, **read: Any) -> list[tuple[float, float]]:
    """What becomes 0 and 255 of each image, to whole values."""
    chosen, _ = choose_ranges(images, pd.Series(True, images.index), ReadConfig(**read))
    return [(round(low[0]), round(high[0])) for low, high in zip(chosen["crop_low"], chosen["crop_high"], strict=True)]


FIELD = rows(("a", "uint16", 100, 900), ("a", "uint16", 200, 2000), ("b", "uint16", 100, 500))


@pytest.mark.parametrize(("read", "ranges"), [
    ({}, [(0, 2000)] * 3),
    ({"intensity": "image"}, [(100, 900), (200, 2000), (100, 500)]),
    ({"intensity": "unit"}, [(0, 2000), (0, 2000), (0, 500)]),
    ({"intensity": "fixed"}, [(0, 4095)] * 3),
    ({"intensity": "fixed", "range": (50, 1000)}, [(50, 1000)] * 3),
])  # fmt: skip
def test_each_mode_takes_its_range_from_whom_it_says(read: dict[str, Any], ranges: list[tuple[float, float]]) -> None:
    images = FIELD.assign(intensity_max=3000.0)
    assert crop_ranges(images, **read) == ranges


@pytest.mark.parametrize(("images", "ranges"), [
    (rows(("a", "uint16", 30000, 40000), ("b", "uint16", 29000, 41000)), [(29000, 41000)] * 2),  # phase contrast
    (rows(("a", "float32", -0.5, 1.0)), [(-0.5, 1.0)]),
    (rows(("a", "uint16", 7, 7)), [(7, 7 + 255)]),
    (rows(*[("a", "uint16", 100, 1000)] * 199, ("b", "uint16", 100, 60000)), [(0, 1000)] * 200),  # one blinding image
])  # fmt: skip
def test_a_range_is_neither_mostly_empty_nor_set_by_one_image(
    images: pd.DataFrame, ranges: list[tuple[float, float]]
) -> None:
    chosen, _ = choose_ranges(images, pd.Series(True, images.index), ReadConfig())
    assert [low[0] for low in chosen["crop_low"]] == pytest.approx([low for low, _ in ranges])
    assert [high[0] for high in chosen["crop_high"]] == pytest.approx([high for _, high in ranges])


@pytest.mark.parametrize(("flags", "said"), [
    (("--range", "0,255"), "--range has an effect only with --intensity fixed"),
    (("--intensity", "fixed", "--range", "5"), "--range wants LO,HI"),
    (("--intensity", "fixed", "--range", "9,5"), "--range wants LO,HI"),
    (("--intensity", "fixed", "--range", "0,5,0,6"), "2 pairs for 1 channels"),
])  # fmt: skip
def test_a_range_without_meaning_is_one_line(
    depths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    assert exit_code(depths["uint8"], tmp_path / "run", *flags) == 4
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("groups", "said"), [
    ({"dim": ("uint8",), "bright": ("uint16",)}, "bit depths differ between groups (bright: uint16; dim: uint8)"),
    ({"dim": ("uint8", "uint16"), "bright": ("uint8", "uint16")}, "bit depths are mixed within groups (uint16, uint8)"),
    ({"dim": ("uint16",), "bright": ("uint16",)}, ""),
])  # fmt: skip
def test_unlike_depths_are_stamped_on_every_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], groups: dict[str, tuple[str, ...]], said: str
) -> None:
    for group, depths_of_group in groups.items():
        for depth in depths_of_group:
            save(tmp_path / "raw" / group, depth, bright_discs(150).round(), depth)
    segmented(tmp_path / "raw", tmp_path / "run")
    stamps = ImageBranch(ImageBranch.Config(), tmp_path / "run").items.stamps
    assert [stamp.startswith(said) for stamp in stamps] == ([True] if said else [])
    assert (f"stamp: {said}" in capsys.readouterr().err) == bool(said)
    assert len(set(brightness_of(tmp_path / "run").round())) == 1, "the same picture is as bright in both"


def facts(
    reached: float = 0.8, full: tuple[str, ...] = ("uint16",), mode: str = "run", high: float = 0.8
) -> dict[str, Any]:
    sizes = {"uint16": 65535.0, "uint8": 255.0}
    return {
        "mode": mode, "ranges": {"1": [[0, high]]}, "reached": {"1": [[0.1, reached]]},
        "full": {name: sizes[name] for name in full},
    }  # fmt: skip


@pytest.mark.parametrize(("now", "trained", "said"), [
    (facts(), facts(), None),
    (facts(0.5), facts(), None),
    (facts(0.3), facts(), "reaches 0.3 of full scale, in the training images 0.8"),
    (facts(full=("uint8",)), facts(), "the training images were uint16, here are uint8"),
    (facts(high=0.4), facts(), "another intensity range"),
    (facts(mode="image"), facts(), "intensity is image, run for the training images"),
    (facts(), None, "intensity is run, image for the training images"),
    (facts(full=("uint8",)), None, None),
    (None, None, None),
])  # fmt: skip
def test_images_unlike_those_of_training_are_told(now: Any, trained: Any, said: str | None) -> None:
    notes = brightness.unlike(now, trained)
    assert (len(notes), said or "") == (int(said is not None), said if said and said in notes[0] else "")


def test_a_bundle_from_before_reads_as_it_did() -> None:
    read = predict.read_like_training({"frames": "auto"}, None)
    assert crop_ranges(FIELD, **read) == [(100, 900), (200, 2000), (100, 500)]
    assert crop_ranges(rows(("a", "uint8", 3, 90)), **read) == [(0, 255)]


def test_a_range_that_differs_by_channel_may_be_given_for_each() -> None:
    images = FIELD.iloc[:1].assign(
        channels=2, intensity_low=[[1.0, 2.0]], intensity_high=[[50.0, 60.0]], intensity_max=60.0
    )
    chosen, _ = choose_ranges(images, pd.Series(True, images.index), ReadConfig(intensity="fixed", range=(0, 9, 1, 99)))
    assert chosen["crop_high"].item() == pytest.approx([9, 99])
    with pytest.raises(ConfigError, match="one LO,HI, or one a channel"):
        choose_ranges(images, pd.Series(True, images.index), ReadConfig(intensity="fixed", range=(0, 9) * 3))
