"""The embedded segmenter: right masks on painted images, scale found by itself, tiles without seams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cellvision.core.errors import ConfigError
from cellvision.core.rng import generator
from cellvision.evidence import overlap
from cellvision.segmenters import SEGMENTERS
from cellvision.segmenters.nano import network as nano_network
from cellvision.segmenters.nano import segmenter as nano
from cellvision.segmenters.nano.segmenter import Nano
from cellvision.simulators import PAINTERS, Painting

GROUPS = ("neuron", "phloem", "rbc", "xylem")


def painting(group: str, seed: int = 7, height: int = 256, width: int = 320) -> Painting:
    return PAINTERS.build(group).paint(generator(seed, "test nano", group), height, width, 0.0, GROUPS)


@pytest.fixture(scope="module")
def cut() -> Nano:
    built = Nano(Nano.Config(), device="cpu")
    torch.set_num_threads(1)
    return built


@pytest.mark.parametrize("group", ["phloem", "rbc", "xylem"])
def test_painted_cells_are_found(cut: Nano, group: str) -> None:
    image = painting(group)
    found = cut.segment(image.pixels)
    assert overlap.score(image.masks, found.masks)["ap_50"] >= 0.8
    assert found.masks.dtype == np.int32
    assert found.masks.shape == image.masks.shape
    count = found.masks.max()
    assert set(np.unique(found.masks)) == set(range(count + 1))
    assert all(score.shape == (count,) for score in found.scores.values())
    assert (found.scores["probability"] > 0.5).all()
    assert (np.diff(np.unique(found.masks, return_index=True)[1][1:]) > 0).all(), "raster order"


@pytest.mark.parametrize("zoom", [0.4, 1.0, 2.5])
def test_the_diameter_is_found_at_any_scale(cut: Nano, zoom: float) -> None:
    import cv2

    image = painting("rbc", height=400, width=500)
    pixels = np.asarray(cv2.resize(image.pixels, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA), np.uint8)
    truth = nano_network.typical_diameter(image.masks) * zoom
    guess = cut.estimate(nano_network.normalise(pixels))
    assert 1 / 1.5 < guess / truth < 1.5
    size = (pixels.shape[1], pixels.shape[0])
    masks = np.asarray(cv2.resize(image.masks, size, interpolation=cv2.INTER_NEAREST_EXACT), np.int32)
    assert overlap.score(masks, cut.segment(pixels).masks)["ap_50"] > 0.7


def test_a_given_diameter_is_used(cut: Nano) -> None:
    image = painting("rbc")
    own = SEGMENTERS.build({"name": "nano", "diameter": 34.0}, device="cpu")
    assert own.segment(image.pixels).notes == ("diameter 34 px",)
    far = SEGMENTERS.build({"name": "nano", "diameter": 300.0}, device="cpu").segment(image.pixels)
    assert far.masks.max() < image.masks.max() / 2, "at a tenth of the scale single cells cannot be seen"


def test_tiles_leave_no_seams(cut: Nano, monkeypatch: pytest.MonkeyPatch) -> None:
    image = nano_network.normalise(painting("xylem", height=320, width=400).pixels)
    whole = cut.predict(image)
    monkeypatch.setattr(nano, "WHOLE_PX", 1000)
    monkeypatch.setattr(nano, "TILE", 128)
    tiled = cut.predict(image)
    assert tiled.shape == (3, 320, 400)
    difference = np.abs(whole - tiled)
    assert difference.mean() < 0.1
    assert np.mean((whole[2] > 0) != (tiled[2] > 0)) < 0.01


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((64, 64, 1), np.uint8), np.full((70, 50, 3), 255, np.uint8), np.zeros((1, 1, 1), np.uint8),
        np.zeros((3, 900, 3), np.uint8), np.random.default_rng(0).integers(0, 255, (40, 33, 1), np.uint8),
    ],
)  # fmt: skip
def test_images_without_cells_are_no_error(cut: Nano, pixels: NDArray[np.uint8]) -> None:
    found = cut.segment(pixels)
    assert found.masks.shape == pixels.shape[:2]
    assert all(len(score) == found.masks.max() for score in found.scores.values())


def test_grey_and_colour_copies_give_the_same_masks(cut: Nano) -> None:
    grey = painting("xylem").pixels.mean(2, keepdims=True).astype(np.uint8)
    once, thrice = cut.segment(grey).masks, cut.segment(np.repeat(grey, 3, 2)).masks
    assert overlap.score(once, thrice)["ap_50"] > 0.95


def test_weights_are_small_sound_and_named_in_the_identity(cut: Nano, tmp_path: Path) -> None:
    assert nano.WEIGHTS.stat().st_size < 10_000_000
    network = nano_network.NanoNetwork()
    nano_network.save(tmp_path / "own.safetensors", network, {})
    own = SEGMENTERS.build({"name": "nano", "weights": str(tmp_path / "own.safetensors")}, device="cpu")
    assert own.identity() != cut.identity()
    with pytest.raises(ConfigError, match="no weights"):
        SEGMENTERS.build({"name": "nano", "weights": str(tmp_path / "none.safetensors")}, device="cpu")
    (tmp_path / "bad.safetensors").write_bytes(nano.WEIGHTS.read_bytes()[:-10])
    with pytest.raises(ConfigError):
        SEGMENTERS.build({"name": "nano", "weights": str(tmp_path / "bad.safetensors")}, device="cpu")


def test_half_precision_weights_change_next_to_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nano_network.NanoNetwork().eval()
    nano_network.save(tmp_path / "half.safetensors", network, {})
    again = nano_network.load(tmp_path / "half.safetensors")
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        before, after = network(pixels), again(pixels)
    assert float((before - after).abs().max()) < 0.02 * float(before.abs().max() + 1)
