"""Prints: one picture is known again however it was saved; different fields never are."""

from __future__ import annotations

import functools
import io
import itertools
from typing import Any

import numpy as np
import pytest

from cellvision.core.rng import generator
from cellvision.io.images.prints import joined, near, print_of
from cellvision.simulators import PAINTERS

KINDS = ("neuron", "phloem", "rbc", "xylem")
FIELDS = 25  # of a kind


def discs(seed: int, count: int, light: float = 200, noise: float = 4, side: tuple[int, int] = (128, 160)) -> Any:
    """A grey field of so many discs on an even, dark ground, with the camera's noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: side[0], : side[1]]
    picture = np.full(side, 20.0)
    for _ in range(count):
        radius = rng.uniform(7, 10)
        centre = rng.uniform(radius, np.array(side) - radius)
        picture[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2] = light * rng.uniform(0.6, 1)
    return np.clip(picture + rng.normal(0, noise, side), 0, 255).astype(np.uint8)[..., None]


@functools.cache
def painted(kind: str, number: int) -> Any:
    return PAINTERS.build(kind).paint(generator(0, kind, number), 144, 176, 0.1, KINDS).pixels


def jpeg(pixels: Any, quality: int = 60) -> Any:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "JPEG", quality=quality)
    picture = np.asarray(Image.open(stream))
    return picture.reshape(*picture.shape[:2], -1)


def resized(pixels: Any, scale: float) -> Any:
    import cv2

    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=how).reshape(
        *[round(length * scale) for length in pixels.shape[:2]], -1
    )


def grey(pixels: Any) -> Any:
    return pixels.mean(2, keepdims=True).astype(np.uint8)


KNOWN = "+fv7+/39/v0FAvH4+PT19/n7+vz6+/b3EwMG6fX8"  # how one print begins
COPIES = {
    "jpeg": jpeg, "half": lambda pixels: resized(pixels, 0.5), "larger": lambda pixels: resized(pixels, 1.7),
    "cropped": lambda pixels: pixels[1:, 1:], "mirrored": lambda pixels: pixels[:, ::-1],
    "turned": lambda pixels: np.rot90(pixels), "turned over": lambda pixels: np.rot90(pixels[::-1], 3),
    "grey": grey, "three equal channels": lambda pixels: np.repeat(grey(pixels), 3, axis=2),
    "dimmed": lambda pixels: (pixels * 0.6 + 20).astype(np.uint8),
    "all of it": lambda pixels: jpeg(np.ascontiguousarray(np.rot90(resized(pixels[1:], 1.3)))),
}  # fmt: skip


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("kind", [*KINDS, "discs"])
def test_a_picture_is_known_again_however_it_was_saved(kind: str, copied: str) -> None:
    originals = [discs(number, 8) if kind == "discs" else painted(kind, number) for number in range(4)]
    prints = [print_of(pixels) for pixels in originals]
    copies = [print_of(np.ascontiguousarray(COPIES[copied](pixels))) for pixels in originals]
    assert "" not in prints
    assert near(copies, prints).all()
    assert joined([*prints, *copies]).tolist() == [*joined(prints)] * 2
    assert len(set(joined(prints))) == len(prints)


def test_different_fields_are_never_alike() -> None:
    fields = [painted(kind, number) for kind in KINDS for number in range(FIELDS)]
    fields += [discs(seed, count) for seed, count in enumerate(np.repeat([1, 2, 3, 4, 6, 12], FIELDS))]
    fields += [discs(seed, 5, light=40) for seed in range(1000, 1000 + FIELDS)]
    fields += [discs(seed, 4, light=80, side=(256, 256)) for seed in range(2000, 2000 + FIELDS)]
    prints = [print_of(pixels) for pixels in fields]
    assert len(set(joined(prints))) == len(fields)
    assert sum(map(bool, prints)) > 0.75 * len(fields)


def test_what_all_pictures_of_a_slide_share_does_not_join_them() -> None:
    """The edge of a round well, and the shading and dust of one microscope."""
    y, x = np.mgrid[:256, :256]
    radius = np.hypot(y - 128, x - 128)
    cells = [discs(seed, 14, side=(256, 256))[..., 0] for seed in range(2 * FIELDS)]
    wells = [np.where(radius < 120, 60 + picture * 0.7, 5) for picture in cells]
    dust = (np.hypot(y - 60, x - 190) < 9) | (np.hypot(y - 200, x - 80) < 12)
    shaded = [picture * (1 - (radius / 256) ** 2) * (1 - 0.3 * dust) for picture in cells]
    for pictures in (wells, shaded):
        assert len(set(joined([print_of(picture.astype(np.uint8)[..., None]) for picture in pictures]))) == len(cells)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((64, 64, 1)), np.full((200, 90, 3), 255), discs(0, 0), discs(1, 1), np.eye(16)[..., None] * 200,
        np.where(np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 14, 180, 20)[..., None], discs(2, 3)[:31],
    ],
    ids=["black", "white", "noise", "one disc", "tiny", "one centred disc", "thin"],
)  # fmt: skip
def test_a_picture_with_nothing_to_know_it_by_has_no_print(pixels: Any) -> None:
    assert print_of(pixels.astype(np.uint8)) == ""


def test_a_print_is_the_same_text_on_every_machine() -> None:
    y, x = np.mgrid[:97, :130]
    picture = ((y * y * 3 + x * y * 5 + 7 * x) // 40 % 256).astype(np.uint8)[..., None]
    assert print_of(picture).startswith(KNOWN)


def test_pictures_without_a_print_are_like_no_other() -> None:
    prints = [print_of(painted("rbc", 0)), "", "", print_of(painted("rbc", 1))]
    assert len(set(joined(prints))) == len(prints)
    assert near(prints, ["", prints[3]]).tolist() == [False, False, False, True]
    assert joined([]).tolist() == near([], prints).tolist() == []


def test_likeness_links_in_chains() -> None:
    """a is like b, b is like c: one picture."""
    steps = [np.ascontiguousarray(painted("phloem", 0)[number:, number:]) for number in range(8)]
    prints = [print_of(pixels) for pixels in steps]
    assert not near(prints[:1], prints[-1:])[0]
    assert all(near([one], [other])[0] for one, other in itertools.pairwise(prints))
    assert len(set(joined(prints))) == 1
