"""Overlays: what is drawn over an image is found where it lies, and cells are not taken for it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from cellvision.cells import overlays
from cellvision.simulators import PAINTERS, Painting, Shortcut, add_shortcut

GROUPS = ("neuron", "phloem", "rbc", "xylem")


def painted(group: str, seed: int) -> Painting:
    return PAINTERS.build(group).paint(np.random.default_rng(seed), 384, 512, 0.1, GROUPS)


def smear(side: int = 300) -> np.ndarray:
    """(side, side, 3) uint8: round bright cells with smooth edges on grey."""
    rng = np.random.default_rng(0)
    light = np.full((side, side), 110, np.float32)
    for _ in range(25):
        y, x = (int(place) for place in rng.integers(10, side - 10, 2))
        cv2.circle(light, (x, y), 12, 170, -1)
    noisy = cv2.GaussianBlur(light, (0, 0), 1.2) + 3 * rng.standard_normal(light.shape)
    return np.repeat(np.clip(noisy, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def written(pixels: np.ndarray, text: str, place: tuple[int, int], size: int, ink: int) -> np.ndarray:
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).text(place, text, fill=(ink,) * 3, font=ImageFont.load_default(size=size))
    return np.asarray(image).copy()


@pytest.mark.parametrize("kind", ["scalebar", "caption"])
def test_painted_shortcuts_are_found_where_they_lie(kind: Shortcut) -> None:
    name = {"scalebar": "scale bar", "caption": "caption"}[kind]
    hits, tries = 0, 0
    for index, group in enumerate(GROUPS):
        for seed in range(2):
            plain = painted(group, seed)
            marked = add_shortcut(plain, kind, index).pixels
            drawn = (np.abs(marked.astype(int) - plain.pixels) > 25).any(axis=2)
            mask, found = overlays.find(marked)
            hits += [overlay.kind for overlay in found] == [name] and bool(mask[drawn].mean() > 0.95)
            tries += 1
            assert mask.mean() < 0.03, "nothing but the mark is covered"
    assert hits >= 0.8 * tries


def test_clean_images_have_no_overlays() -> None:
    for group in GROUPS:
        mask, found = overlays.find(painted(group, 7).pixels)
        assert not found
        assert not mask.any()
    assert overlays.find(smear())[1] == []


def test_bright_rings_and_cells_in_a_row_are_no_text() -> None:
    pixels = np.full((200, 300, 1), 120, np.uint8)
    for x in range(20, 290, 22):  # like lumina: round, white, one beside the other
        cv2.circle(pixels, (x, 50), 8, 255, -1)
    for radius in (8, 14, 20):  # like the halos of phase contrast
        cv2.ellipse(pixels, (150, 140), (radius, radius), 0, 20, 160, 255, 3)
        cv2.ellipse(pixels, (150, 140), (radius, radius), 0, 200, 340, 255, 3)
    assert [overlay for overlay in overlays.find(pixels)[1] if overlay.kind == "caption"] == []


@pytest.mark.parametrize("ink", [0, 255])
@pytest.mark.parametrize("size", [14, 30])
def test_text_is_covered_with_its_margin(ink: int, size: int) -> None:
    plain = smear()
    pixels = written(plain, "Xylem 25 um", (60, 200), size, ink)
    mask, found = overlays.find(pixels)
    assert {overlay.kind for overlay in found} == {"caption"}
    drawn = (np.abs(pixels.astype(int) - plain) > 40).any(axis=2)
    assert mask[drawn].mean() > 0.85
    assert mask.sum() < 4 * cv2.boundingRect(drawn.astype(np.uint8))[2] * size


def test_a_coloured_scale_bar_is_covered_with_its_number() -> None:
    plain = np.rint(0.5 * smear() + np.array([90, 60, 90])).astype(np.uint8)  # a stain
    pixels = written(plain, "50.00", (200, 250), 13, 0)
    number = (pixels != plain).any(axis=2)
    for start, end in (((190, 275), (250, 275)), ((190, 270), (190, 275)), ((250, 270), (250, 275))):
        cv2.line(pixels, start, end, (0, 160, 255), 2)
    pixels[number] = (0, 160, 255)
    mask, found = overlays.find(pixels)
    assert [overlay.kind for overlay in found] == ["scale bar"]
    assert mask[number].all()
    assert mask[270:276, 190:251].all()
    assert mask.sum() < 80 * 50


def test_a_large_image_is_looked_at_from_afar() -> None:
    small = written(smear(), "Xylem 25 um", (60, 200), 30, 0)
    large = np.tile(smear(), (8, 8, 1))  # 2400 px
    large[1200:1800, 600:1200] = cv2.resize(small, (600, 600), interpolation=cv2.INTER_CUBIC)
    (caption,), (expected,) = overlays.find(large)[1], overlays.find(small)[1]
    assert caption.kind == "caption"
    assert (caption.y0, caption.x0) == pytest.approx((1200 + 2 * expected.y0, 600 + 2 * expected.x0), abs=4)
    assert overlays.find(large)[0].shape == (2400, 2400)


def test_lines_count_only_beside_text() -> None:
    pixels = smear()
    cv2.line(pixels, (60, 40), (160, 120), (0, 0, 0), 2)
    assert overlays.find(pixels)[1] == []
    pixels = written(pixels, "Nucleus", (20, 20), 16, 0)
    mask, found = overlays.find(pixels)
    assert {overlay.kind for overlay in found} == {"caption", "line"}
    assert mask[80, 110]
    assert not mask[60, 150], "a line covers its own pixels, not its box"


def test_strips_are_found_at_every_edge() -> None:
    body = smear()
    below = np.zeros((40, 300, 3), np.uint8)
    pixels = written(np.vstack([body, below]), "SEM 15.0kV x2,000", (20, 312), 14, 255)
    mask, found = overlays.find(pixels)
    assert [overlay for overlay in found if overlay.kind == "strip"] == [overlays.Overlay("strip", 300, 0, 340, 300)]
    assert mask[300:].all()
    assert not mask[:300].any()
    framed = np.pad(body, ((20, 30), (25, 15), (0, 0)), constant_values=255)
    inner = overlays.find(framed)[0]
    assert not inner[20:-30, 25:-15].any()
    assert inner[:20].all()
    assert inner[:, :25].all()
    assert inner[:, -15:].all()


def test_a_dark_image_has_no_strips() -> None:
    light = np.zeros((200, 200), np.float32)
    cv2.circle(light, (100, 110), 40, 200, -1)
    soft = cv2.GaussianBlur(light, (0, 0), 1)[..., None].astype(np.uint8)
    assert overlays.find(soft)[1] == []


def test_cells_on_an_overlay_are_left_out_and_counted() -> None:
    masks = np.zeros((40, 60), np.int32)
    masks[5:15, 5:15], masks[5:15, 25:35], masks[25:35, 5:15] = 1, 2, 3
    drawn = np.zeros(masks.shape, bool)
    drawn[5:15, 5:7], drawn[5, 25:35] = True, True  # a fifth of cell 1, a tenth of cell 2
    left, count = overlays.clear_of(masks, drawn)
    assert count == 1
    assert set(np.unique(left)) == {0, 2, 3}
    assert (left[masks == 2] == 2).all()
