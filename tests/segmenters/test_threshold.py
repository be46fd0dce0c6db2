"""The segmenter without weights, on painted images whose masks are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cellvision.segmenters import SEGMENTERS, Segmentation
from cellvision.segmenters.threshold.segmenter import Threshold

CENTRES = [(60, 60), (60, 160), (60, 260), (150, 110), (150, 210), (230, 60), (230, 160), (230, 260)]
RADIUS = 20
SHAPE = (290, 320)


def segment(pixels: NDArray[np.uint8], **options: object) -> Segmentation:
    return Threshold(Threshold.Config.model_validate(options)).segment(pixels)


def distance(centre: tuple[float, float], shape: tuple[int, int] = SHAPE) -> NDArray[np.float64]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(y - centre[0], x - centre[1])


def discs(centres: list[tuple[int, int]], radius: float = RADIUS) -> NDArray[np.int32]:
    """Label map of discs in the order given."""
    truth = np.zeros(SHAPE, np.int32)
    for label, centre in enumerate(centres, start=1):
        truth[distance(centre) <= radius] = label
    return truth


def photograph(cells: NDArray[np.bool_], back: float = 210, front: float = 130, noise: float = 3) -> NDArray[np.uint8]:
    """Blurred, noisy (H, W, 1) picture of a foreground."""
    from scipy import ndimage

    plane = ndimage.gaussian_filter(np.where(cells, front, back).astype(float), 1.0)
    plane += np.random.default_rng(0).normal(0, noise, plane.shape)
    return np.clip(np.rint(plane), 0, 255).astype(np.uint8)[..., None]


def overlaps(found: NDArray[np.int32], truth: NDArray[np.int32]) -> list[float]:
    """For each true cell the intersection over union with the found cell that covers it best."""
    values = []
    for label in range(1, truth.max() + 1):
        here = truth == label
        other = found == np.bincount(found[here]).argmax()
        values.append(float((here & other).sum() / (here | other).sum()))
    return values


def test_painted_discs_are_found_one_by_one_with_their_outline() -> None:
    truth = discs(CENTRES)
    found = segment(photograph(truth > 0)).masks
    assert found.max() == len(CENTRES)
    assert min(overlaps(found, truth)) > 0.92


def test_masks_are_int32_numbered_in_raster_order_of_their_first_pixel() -> None:
    found = segment(photograph(discs(CENTRES[::-1]) > 0)).masks
    names, first = np.unique(found, return_index=True)
    assert found.dtype == np.int32
    assert names.tolist() == list(range(len(CENTRES) + 1))
    assert (np.diff(first[names > 0]) > 0).all()


def test_dark_on_bright_and_bright_on_dark_give_the_same_masks() -> None:
    picture = photograph(discs(CENTRES) > 0)
    dark, bright = segment(picture), segment(255 - picture)
    assert "look: dark" in dark.notes
    assert "look: bright" in bright.notes
    np.testing.assert_array_equal(dark.masks, bright.masks)


def test_three_equal_channels_give_the_masks_of_one() -> None:
    picture = photograph(discs(CENTRES) > 0)
    one, three = segment(picture).masks, segment(np.repeat(picture, 3, axis=2)).masks
    assert three.max() == one.max()
    assert (one != three).mean() < 0.002


def test_cells_of_the_background_s_brightness_are_found_by_their_colour() -> None:
    cells = discs(CENTRES) > 0
    red, blue = photograph(cells, 120, 180), photograph(cells, 180, 120)
    found = segment(np.concatenate([red, np.full_like(red, 150), blue], axis=2)).masks
    assert found.max() == len(CENTRES)


@pytest.mark.parametrize("gap", [24, 30, 36])
def test_touching_discs_are_split(gap: int) -> None:
    pair = [(150, 120), (150, 120 + gap)]
    far = [(50, 60), (50, 160), (50, 260), (240, 60), (240, 160), (240, 260)]
    truth = discs([*far, *pair])
    found = segment(photograph(truth > 0)).masks
    assert found.max() == 8
    assert found[150, 115] != found[150, 125 + gap]


def test_an_elongated_cell_stays_one() -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    ellipse = np.hypot((y - 150) / 12, (x - 160) / 34) <= 1
    found = segment(photograph((discs([c for c in CENTRES if c[0] != 150]) > 0) | ellipse)).masks
    assert found.max() == 7
    assert len(np.unique(found[ellipse & (found > 0)])) == 1


@pytest.mark.parametrize("opening_px", [0, 5])
def test_rings_are_filled_closed_or_open_at_one_point(opening_px: int) -> None:
    truth = discs(CENTRES)
    wall = np.zeros(SHAPE, bool)
    for centre in CENTRES:
        depth = distance(centre)
        ring = (depth <= RADIUS) & (depth >= RADIUS - 7)
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        ring &= ~((np.abs(y - centre[0]) * 2 < opening_px) & (x > centre[1]))
        wall |= ring
    found = segment(photograph(wall, noise=2)).masks
    assert found.max() == len(CENTRES)
    assert min(overlaps(found, truth)) > 0.85
    assert all(found[centre] > 0 for centre in CENTRES)


def test_the_gap_between_touching_cells_is_not_filled() -> None:
    four = [(100, 100), (100, 142), (142, 100), (142, 142)]
    found = segment(photograph(discs([*four, (230, 260), (50, 260), (230, 60)], 22) > 0)).masks
    assert found[121, 121] == 0
    assert found.max() == 7


def test_uneven_illumination_loses_no_cell() -> None:
    truth = discs(CENTRES)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light = 1 - 0.5 * (x / SHAPE[1]) - 0.15 * (y / SHAPE[0]) ** 2
    lit = np.clip(photograph(truth > 0)[..., 0] * light, 0, 255).astype(np.uint8)[..., None]
    found = segment(lit).masks
    assert found.max() == len(CENTRES)
    assert min(overlaps(found, truth)) > 0.85


def test_dim_cells_count_beside_bright_ones() -> None:
    picture = photograph(discs(CENTRES[:6]) > 0, 10, 220, 1).astype(int)
    picture += photograph(discs(CENTRES[6:]) > 0, 0, 30, 1).astype(int)
    assert segment(np.clip(picture, 0, 255).astype(np.uint8)).masks.max() == len(CENTRES)


def test_specks_are_dropped() -> None:
    truth = discs(CENTRES) > 0
    for centre in [(100, 60), (110, 290), (190, 160)]:
        truth |= distance(centre) <= 3
    assert segment(photograph(truth)).masks.max() == len(CENTRES)


def hexagons(bright_walls: bool) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Tissue of 30-odd cells around a jittered grid, walls 4 px."""
    rng = np.random.default_rng(1)
    seeds = np.array([(y, x + 20 * (y // 40 % 2)) for y in range(20, 260, 40) for x in range(20, 300, 40)], float)
    seeds += rng.uniform(-5, 5, seeds.shape)
    away = np.stack([distance((y, x), (260, 320)) for y, x in seeds])
    nearest = np.sort(away, axis=0)[:2]
    walls = nearest[1] - nearest[0] < 5
    plane = photograph(walls, 20, 160, 4)
    return plane if bright_walls else 255 - plane, (away.argmin(0) + 1).astype(np.int32)


@pytest.mark.parametrize("bright_walls", [True, False])
def test_walled_tissue_gives_its_lumina(bright_walls: bool) -> None:
    picture, truth = hexagons(bright_walls)
    found = segment(picture)
    assert "look: walls" in found.notes
    assert found.masks.max() == pytest.approx(truth.max(), abs=3)
    assert np.mean(np.array(overlaps(found.masks, truth)) > 0.6) > 0.9


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (7, 7), (8, 8), (9, 40), (64, 64), (200, 300)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fill", [0, 130, 255])
def test_constant_images_of_any_size_have_no_cells(height: int, width: int, channels: int, fill: int) -> None:
    found = segment(np.full((height, width, channels), fill, np.uint8))
    assert found.masks.shape == (height, width)
    assert found.masks.max() == 0
    assert all(len(score) == 0 for score in found.scores.values())


@pytest.mark.parametrize("look", ["auto", "dark", "bright", "texture", "walls"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (13, 9, 3), (40, 41, 1), (64, 200, 3)])
def test_no_small_noisy_picture_crashes_it(look: str, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    for picture in (rng.integers(0, 256, shape), rng.integers(120, 124, shape), 255 * (rng.random(shape) > 0.9)):
        found = segment(picture.astype(np.uint8), look=look)
        assert found.masks.shape == shape[:2]
        assert all(len(score) == found.masks.max() for score in found.scores.values())


def test_noise_alone_has_no_cells() -> None:
    noise = np.clip(np.random.default_rng(0).normal(128, 8, (300, 400, 1)), 0, 255).astype(np.uint8)
    assert segment(noise).masks.max() == 0


def test_scores_are_one_value_a_cell_and_the_same_image_gives_the_same_answer() -> None:
    picture = photograph(discs(CENTRES) > 0)
    first, second = segment(picture), segment(picture)
    np.testing.assert_array_equal(first.masks, second.masks)
    assert set(first.scores) == {"contrast"}
    assert all(score.shape == (8,) and score.dtype == np.float32 for score in first.scores.values())
    assert first.scores["contrast"].min() > 5


def test_a_given_diameter_decides_what_is_a_speck() -> None:
    truth = (discs(CENTRES[:4], 20) > 0) | (discs(CENTRES[4:], 8) > 0)
    assert segment(photograph(truth), diameter=40.0, smallest=0.3).masks.max() == 4
    assert segment(photograph(truth), diameter=16.0, smallest=0.3).masks.max() >= 8


def test_the_registry_builds_it_by_name() -> None:
    built = SEGMENTERS.build("threshold", device="cpu")
    assert isinstance(built, Threshold)
    assert built.identity().startswith("threshold revision ")
