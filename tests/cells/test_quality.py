"""Quality of cells: measurements with known answers, flags that mean what they say, and drops that add up."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pandas as pd
import pytest

from cellvision.cells import crop, quality


def discs(count: int, step: int, radius: float) -> np.ndarray:
    """(count * step, count * step) labels 1..count^2 of discs on a grid."""
    y, x = np.mgrid[: count * step, : count * step]
    inside = np.hypot(y % step - step // 2, x % step - step // 2) <= radius
    return np.where(inside, y // step * count + x // step + 1, 0).astype(np.int32)


def photo(masks: np.ndarray, blur_px: float, contrast: float = 100, noise: float = 2, seed: int = 0) -> np.ndarray:
    """(H, W, 1) uint8: cells on a background of 80, their edges of Gaussian width `blur_px`."""
    light = 80 + contrast * cv2.GaussianBlur((masks > 0).astype(np.float32), (0, 0), blur_px)
    noisy = light + noise * np.random.default_rng(seed).standard_normal(masks.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)[..., None]


def focus_of(masks: np.ndarray, pixels: np.ndarray) -> float:
    return float(np.median(quality.focus(masks, quality.edge_energies(pixels[..., 0]))))


def test_labels_may_have_gaps_and_each_cell_keeps_its_own_numbers() -> None:
    masks = np.zeros((20, 30), np.int32)
    masks[2, 3], masks[5, 4:12], masks[10:15, 20:25] = 2, 5, 9
    masks[10:14, 20:24] = 0  # what is left is an L of nine pixels, with 15 in its hull
    cells, _ = quality.describe(
        masks, np.zeros((20, 30, 1), np.uint8), {"probability": np.linspace(0, 0.8, 9, dtype=np.float32)}
    )
    assert cells["mask_label"].tolist() == [2, 5, 9]
    assert cells["solidity"].tolist() == pytest.approx([1, 1, 9 / 15])
    assert cells["probability"].tolist() == pytest.approx([0.1, 0.4, 0.8])


@pytest.mark.parametrize("blur_px", [1, 2, 3])
@pytest.mark.parametrize(("radius", "contrast"), [(10, 30), (10, 120), (30, 30), (30, 120)])
def test_focus_tells_the_blur_and_neither_contrast_nor_size(blur_px: float, radius: float, contrast: float) -> None:
    masks = discs(3, 100, radius)
    expected = 1 / (1 + blur_px**2)
    assert focus_of(masks, photo(masks, blur_px, contrast)) == pytest.approx(expected, rel=0.5, abs=0.02)
    assert focus_of(masks, photo(masks, blur_px, contrast)) > focus_of(masks, photo(masks, blur_px + 1, contrast))


def test_focus_does_not_take_noise_for_detail() -> None:
    masks = discs(3, 60, 16)
    clean, noisy = (focus_of(masks, photo(masks, 2.5, noise=noise)) for noise in (0, 8))
    assert noisy == pytest.approx(clean, rel=0.3)
    empty = photo(np.zeros((120, 120), np.int32), 1, noise=5)
    assert quality.image_focus(quality.edge_energies(empty[..., 0])) < 0.5
    assert quality.image_focus(quality.edge_energies(np.full((64, 64), 7, np.uint8))) == 0


def test_the_focus_of_an_image_is_that_of_its_edges() -> None:
    masks = discs(4, 80, 20)
    sharp, soft = (quality.image_focus(quality.edge_energies(photo(masks, b)[..., 0])) for b in (1, 3))
    assert (sharp, soft) == pytest.approx((0.5, 0.1), rel=0.2)


def test_saturation_is_the_share_of_clipped_pixels() -> None:
    masks = np.zeros((10, 20), np.int32)
    masks[:, :10], masks[:, 10:] = 1, 2
    pixels = np.full((10, 20, 3), 90, np.uint8)
    pixels[:3, :10, 1] = 255  # one channel at its upper end is enough
    pixels[:5, 10:, 0] = 0  # one at its lower end is a colour
    pixels[:1, 10:] = 0
    assert quality.saturation(masks, pixels).tolist() == pytest.approx([0.3, 0.1])


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A grid of 36 cells: 1 touches the border, 8 is small, 9 large, 10 ragged, 11 blurred, 14 saturated."""
    masks = discs(6, 60, 12)
    masks[:30, 18:43][masks[:30, 18:43] == 0] = 1
    masks[masks == 8] = 0
    y, x = np.mgrid[:360, :360]
    centres = {label: (60 * ((label - 1) // 6) + 30, 60 * ((label - 1) % 6) + 30) for label in range(1, 37)}
    masks[np.hypot(y - centres[8][0], x - centres[8][1]) <= 4] = 8
    masks[np.hypot(y - centres[9][0], x - centres[9][1]) <= 28] = 9
    cross = (abs(y - centres[10][0]) <= 2) | (abs(x - centres[10][1]) <= 2)
    masks[masks == 10] = 0
    masks[cross & (np.hypot(y - centres[10][0], x - centres[10][1]) <= 24)] = 10
    sharp, soft = photo(masks, 0.8), photo(masks, 4)
    near = np.hypot(y - centres[11][0], x - centres[11][1]) <= 29
    pixels = np.where(near[..., None], soft, sharp)
    pixels[masks == 14] = 255
    return masks, pixels


def test_each_flag_marks_the_cell_it_is_about() -> None:
    masks, pixels = scene()
    scores = {"probability": np.full(36, 0.95, np.float32), "flow_error": np.full(36, 0.1, np.float32)}
    scores["probability"][19], scores["flow_error"][20] = 0.5, 0.6
    cells = quality.describe(masks, pixels, scores)[0].set_index("mask_label")
    marked = {flag: set(cells.index[cells[flag]]) for flag in quality.FLAGS}
    assert marked == {
        "border": {1}, "blurred": {11}, "saturated": {14}, "small": {8}, "large": {9}, "ragged": {10},
        "uncertain": {20, 21},
    }  # fmt: skip


def test_too_few_cells_are_compared_with_nothing() -> None:
    masks = discs(2, 60, 12)
    masks[masks == 2] = 0
    masks[30, 90] = 2
    cells, image = quality.describe(masks, photo(masks, 1), {})
    assert not cells[["small", "large", "blurred", "uncertain"]].to_numpy().any()
    assert image["median_diameter_px"] == pytest.approx(24, abs=1)
    assert image["coverage"] == pytest.approx((masks > 0).mean())


def test_a_cell_with_two_flags_is_dropped_once_and_counted_under_both() -> None:
    cells = pd.DataFrame({flag: np.zeros(5, bool) for flag in quality.FLAGS})
    cells.loc[[0, 1], "border"] = True
    cells.loc[[1, 2], "small"] = True
    cells.loc[4, "ragged"] = True
    kept, counts = quality.drop(cells, ("border", "small"))
    assert kept.index.tolist() == [3, 4]
    assert counts["n_dropped"] == 3 == len(cells) - len(kept)
    assert (counts["dropped_border"], counts["dropped_small"], counts["dropped_ragged"]) == (2, 2, 0)
    everything, none = quality.drop(cells, ())
    assert len(everything) == 5
    assert set(none.values()) == {0}


def test_an_image_without_cells_has_no_rows_and_no_diameter() -> None:
    cells, image = quality.describe(np.zeros((40, 50), np.int32), np.zeros((40, 50, 3), np.uint8), {})
    assert cells.empty
    assert set(quality.FLAGS) <= set(cells.columns)
    assert image == {"coverage": 0.0, "median_diameter_px": None, "focus": 0.0}


def test_a_thousand_cells_take_no_time() -> None:
    masks = discs(32, 32, 12)
    pixels = np.repeat(photo(masks, 1), 3, axis=2)
    quality.describe(masks[:64, :64], pixels[:64, :64], {})
    begun = time.process_time()
    cells, _ = quality.describe(masks, pixels, {})
    assert len(cells) == 1024
    assert time.process_time() - begun < 0.75  # s; 0.1 on a quiet core


def test_every_count_of_cells_is_measured_alike() -> None:
    masks = discs(12, 10, 3)
    alone = crop.measure(np.where(masks == 77, 77, 0).astype(np.int32))
    pd.testing.assert_frame_equal(alone, crop.measure(masks).query("mask_label == 77").reset_index(drop=True))
