"""Hand-made features: known answers of painted cells."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cellvision.branches.image import handmade

pytestmark = pytest.mark.usefixtures("features_measured_anew")
KINDS = ("colour", "background", "shape", "handmade")
SIDE = 64


def crop(mask: NDArray[np.bool_], seed: int = 0) -> NDArray[np.uint8]:
    """(1, S, S, 4) noise of another brightness inside the mask."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (*mask.shape, 3)) + np.where(mask[..., None], [150, 60, 90], [180, 190, 185])
    return np.dstack([pixels.astype(np.uint8), mask.astype(np.uint8) * 255])[None]


def ellipse(vertical: float, horizontal: float, y: float = 31.5, x: float = 31.5) -> NDArray[np.bool_]:
    down, right = np.mgrid[:SIDE, :SIDE]
    return np.hypot((down - y) / vertical, (right - x) / horizontal) <= 1


def table(kind: str, crops: NDArray[np.uint8]) -> dict[str, float]:
    values = getattr(handmade, kind)(crops)
    return dict(zip(handmade.NAMES[kind], values[0].tolist(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_named_once_and_float32(kind: str) -> None:
    values = getattr(handmade, kind)(crop(ellipse(20, 12)))
    assert values.dtype == np.float32
    assert values.shape == (1, len(set(handmade.NAMES[kind])))


def test_a_disc_has_the_area_and_form_of_a_disc() -> None:
    found = table("shape", crop(ellipse(20, 20)))
    assert found["area_px"] == pytest.approx(np.pi * 400, rel=0.01)
    assert found["diameter_px"] == pytest.approx(40, rel=0.01)
    assert found["perimeter_px"] == pytest.approx(2 * np.pi * 20, rel=0.08)
    assert found["major_axis_px"] == pytest.approx(40, rel=0.02)
    assert found["eccentricity"] == pytest.approx(0, abs=0.05)
    assert found["solidity"] > 0.97
    assert found["extent"] == pytest.approx(np.pi / 4, rel=0.02)
    assert found["form_factor"] == pytest.approx(0.93, abs=0.07)
    assert found["hu_0"] == pytest.approx(-np.log10(1 / (2 * np.pi)), abs=0.01)  # first Hu moment of a disc


def test_an_ellipse_has_its_axes_and_eccentricity() -> None:
    found = table("shape", crop(ellipse(10, 25)))
    assert found["major_axis_px"] == pytest.approx(50, rel=0.02)
    assert found["minor_axis_px"] == pytest.approx(20, rel=0.02)
    assert found["eccentricity"] == pytest.approx(np.sqrt(1 - 0.4**2), abs=0.01)


def test_a_crescent_is_less_solid_than_a_disc() -> None:
    crescent = ellipse(20, 20) & ~ellipse(20, 20, x=45)
    assert table("shape", crop(crescent))["solidity"] < 0.85


def test_mean_colours_are_those_painted() -> None:
    mask = ellipse(20, 12)
    flat = np.dstack(
        [np.where(mask[..., None], [150, 60, 90], [200, 210, 220]).astype(np.uint8), mask.astype(np.uint8)]
    )
    found = table("colour", flat[None])
    assert [found[f"cell_{name}_mean"] for name in ("red", "green", "blue")] == [150, 60, 90]
    assert [found[f"background_{name}_p50"] for name in ("red", "green", "blue")] == [200, 210, 220]
    assert found["cell_red_std"] == 0


@pytest.mark.parametrize("kind", ["colour", "background", "shape"])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_colour_background_and_shape_do_not_change_with_quarter_turns(kind: str, turns: int) -> None:
    mask = ellipse(22, 11, y=28, x=35)
    mask[10:20, 30:34] = True
    crops = crop(mask)
    turned = np.rot90(crops, turns, axes=(1, 2))
    skip = [name.startswith("hu_") for name in handmade.NAMES[kind]]  # the sign of the seventh is a mirror's
    before, after = getattr(handmade, kind)(crops), getattr(handmade, kind)(turned)
    np.testing.assert_allclose(before[:, ~np.array(skip)], after[:, ~np.array(skip)], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(before, after, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_the_pose_takes_the_quarter_turn_out_of_the_gradients(turns: int) -> None:
    mask = ellipse(12, 22) | ellipse(16, 8, x=46)
    crops = crop(mask)
    crops[..., :3] = np.where(mask[..., None], 120, 200)
    columns = [name.startswith("hog_") for name in handmade.NAMES["handmade"]]
    before = handmade.handmade(crops)[0, columns]
    after = handmade.handmade(np.rot90(crops, turns, axes=(1, 2)))[0, columns]
    assert np.corrcoef(before, after)[0, 1] > 0.98


def test_background_does_not_see_the_pixels_of_the_cell() -> None:
    crops = crop(ellipse(20, 12))
    other = crops.copy()
    other[..., :3][other[..., 3] > 0] = 7
    np.testing.assert_array_equal(handmade.background(crops), handmade.background(other))
    assert not np.array_equal(handmade.colour(crops), handmade.colour(other))


def test_shape_does_not_see_pixels_at_all() -> None:
    mask = ellipse(20, 12)
    np.testing.assert_array_equal(handmade.shape(crop(mask, 0)), handmade.shape(crop(mask, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_ones_counts_like_one_of_255(kind: str) -> None:
    crops = crop(ellipse(20, 12))
    ones = crops.copy()
    ones[..., 3] //= 255
    np.testing.assert_array_equal(getattr(handmade, kind)(crops), getattr(handmade, kind)(ones))


@pytest.mark.parametrize("kind", KINDS)
def test_chunking_does_not_change_results(kind: str) -> None:
    crops = np.concatenate([crop(ellipse(8 + k, 20 - k), k) for k in range(6)])
    describe = getattr(handmade, kind)
    whole = describe(crops)
    np.testing.assert_array_equal(
        whole, np.concatenate([describe(crops[:1]), describe(crops[1:4]), describe(crops[4:])])
    )
    np.testing.assert_array_equal(whole[::-1], describe(crops[::-1]))


@pytest.mark.parametrize("kind", KINDS)
def test_no_crops_give_no_rows(kind: str) -> None:
    assert getattr(handmade, kind)(np.zeros((0, 32, 32, 4), np.uint8)).shape == (0, len(handmade.NAMES[kind]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cells", ["none", "all", "one pixel", "two pieces"])
def test_odd_masks_give_finite_numbers(kind: str, cells: str) -> None:
    mask = np.full((SIDE, SIDE), cells == "all")
    if cells == "one pixel":
        mask[0, 5] = True
    if cells == "two pieces":
        mask[3:9, 3:9] = mask[40:60, 30:50] = True
    assert np.isfinite(getattr(handmade, kind)(crop(mask))).all()


def test_texture_tells_a_rough_cell_from_a_smooth_one() -> None:
    mask = ellipse(20, 20)
    rough, smooth = crop(mask), crop(mask)
    smooth[..., :3] = np.where(mask[..., None], np.mgrid[:SIDE, :SIDE][1][..., None] + 90, 200)
    names = np.array(handmade.NAMES["handmade"])
    column = int(np.flatnonzero(names == "contrast_1px")[0])
    assert handmade.handmade(rough)[0, column] > 5 * handmade.handmade(smooth)[0, column]
