"""What was drawn over a micrograph and is no part of the specimen: captions, scale bars, leader lines, strips.

Burnt-in graphics are the purest and the sharpest things in a picture: black or white, flat, cut off within two pixels.
Only what is all of this counts, since a missed letter costs a cell and a cell taken for a letter costs one too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.io.components import measured_components

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["caption", "scale bar", "line", "strip"]
Mask = NDArray[np.bool_]  # (H, W)

DRAWN = "drawn over the image"  # words of a note
LYING = 0.1  # a cell lies on an overlay that covers more than this share of it
LOOK = 2048  # px, longer side of an image that is looked at as it is
EDGE = 2  # px, around ink: its smooth edge
MARGIN = 0.3  # around a line of text that counts as overlay too, fraction of its height

INK = 35  # grey levels: pure black ink is at most so bright in any channel, white ink so far from white
COLOURED = (50, 60, 75)  # grey levels of one colour over the others: clear of ink at most, ink, pure ink at least
COLOUR_MOSTLY = 0.02  # as MOSTLY, of a colour
AROUND = 15  # px, more than the stroke of a small character is wide
MOSTLY = 0.4  # share of an image that ink of one colour does not exceed: above it, it is the background
PURE, SOFT = 0.2, 1.9  # least share of a piece of ink that is pure; px of its stroke that may be a smooth edge
CONTRAST = 60  # grey levels between pure ink and what surrounds it at a distance of three pixels,
CLEAR = 0.85  # for this share of the surrounding pixels

GLYPH = (5, 0.12)  # height of a character: px at least, and fraction of the image's height at most
BROAD = 1.6  # widest character, in its heights
STROKE = 0.42  # widest stroke of a character, in its heights
LETTERS, WORD = 3, 1.6  # characters that make a line of text, and its least length in its heights
GAP = 0.9  # between neighbouring characters, fraction of the taller one's height
MANY = 2000  # characters; where there are more, they are a texture

BAR = (0.02, 0.7)  # length of a scale bar, fraction of the image's longer side
SLENDER, FILLED = 4.0, 0.9  # length of a scale bar over its thickness; share of its box that it fills
LONG_BAR, LONG_BAR_CLEAR = (0.08, 0.7), 0.7  # as BAR and CLEAR, for a perfect one that something touches
COLOURED_BAR, BESIDE = (0.04, 0.7), 0.5  # as BAR; its text is this near above or below, in its lengths
LEADER = (0.04, 8.0)  # length of a line: fraction of the image's longer side, and in its own mean thickness

STRIP = (0.015, 0.35)  # thickness of a strip, fraction of the image's side,
THIN_STRIP = 6  # px, and at least
PLAIN, FLAT = 0.5, 6  # share of every row of a strip that has the strip's colour, give or take so many grey levels
STEP = (0.5, 20)  # share of the columns in which a strip ends with a step of so many grey levels


@dataclass(frozen=True)
class Overlay:
    """One thing found, and its box in px; y1 and x1 are one beyond."""

    kind: Kind
    y0: int
    x0: int
    y1: int
    x1: int


def find(pixels: NDArray[np.uint8]) -> tuple[Mask, list[Overlay]]:
    """(H, W, C) -> (H, W) bool, True on an overlay, and what was found: strips, then the rest in reading order.

    Lines count only where there is text that they can belong to. An image of more than LOOK px is looked at from afar.
    """
    import cv2

    height, width = pixels.shape[:2]
    afar = -(-max(height, width) // LOOK)
    if afar == 1:
        return _find(pixels)
    small = cv2.resize(pixels, (-(-width // afar), -(-height // afar)), interpolation=cv2.INTER_AREA)
    mask, overlays = _find(np.asarray(small, np.uint8).reshape(*small.shape[:2], -1))
    whole = mask.repeat(afar, 0).repeat(afar, 1)[:height, :width]
    return whole, [
        Overlay(
            overlay.kind,
            overlay.y0 * afar,
            overlay.x0 * afar,
            min(overlay.y1 * afar, height),
            min(overlay.x1 * afar, width),
        )
        for overlay in overlays
    ]


def _find(pixels: NDArray[np.uint8]) -> tuple[Mask, list[Overlay]]:
    import cv2

    shape = pixels.shape[:2]
    strips = find_strips(pixels)
    overlays: list[Overlay] = []
    drawn = np.zeros(shape, np.uint8)
    for ink, pure, clear, coloured in inks(pixels):
        pieces, labels = pieces_of(ink, pure, clear)
        bars = [_with_text(bar, ink) for bar in coloured_bars(pure, clear)] if coloured else []
        bars = [bar for bar in bars or scale_bars(pieces, pure, clear) if not any(_meet(bar, old) for old in overlays)]
        captions = text_lines(pieces[~_within(pieces, overlays + bars)], shape[0])
        overlays += captions + bars
        if captions:
            lines = leader_lines(pieces[~_within(pieces, captions + bars)], shape)
            overlays += [_box("line", lines.loc[[label]]) for label in lines.index]
            drawn |= np.isin(labels, lines.index.to_numpy())
    mask = cv2.dilate(drawn, np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)) > 0
    for overlay in [*strips, *overlays]:
        if overlay.kind != "line":
            mask[_padded(overlay)] = True
    return mask, [*strips, *sorted(overlays, key=lambda overlay: (overlay.y0, overlay.x0))]


def clear_of(masks: NDArray[np.int32], overlay: Mask) -> tuple[NDArray[np.int32], int]:
    """(H, W) labels, (H, W) overlay -> (H, W) int32 without the cells that lie on it, and how many those were."""
    count = int(masks.max(initial=0)) + 1
    lying = np.bincount(masks[overlay], minlength=count) > LYING * np.bincount(masks.ravel(), minlength=count)
    lying[0] = False
    return np.where(lying[masks], 0, masks).astype(np.int32), int(lying.sum())


def note(overlays: list[Overlay], left_out: int) -> str:
    """`2 captions, 1 scale bar drawn over the image, 3 cells on them left out`."""
    counts = Counter(overlay.kind for overlay in overlays)
    listing = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in sorted(counts.items()))
    return f"{listing} {DRAWN}, {left_out} cells on them left out"


def _padded(overlay: Overlay) -> tuple[slice, slice]:
    """Its place, with its smooth edge and, for text, a margin."""
    pad = 0 if overlay.kind == "strip" else EDGE
    if overlay.kind == "caption":
        pad += round(MARGIN * (overlay.y1 - overlay.y0))
    return slice(max(0, overlay.y0 - pad), overlay.y1 + pad), slice(max(0, overlay.x0 - pad), overlay.x1 + pad)


def _within(pieces: pd.DataFrame, overlays: list[Overlay]) -> NDArray[np.bool_]:
    """(n,) whether the box of a piece lies in that of an overlay, give or take EDGE."""
    inside = np.zeros(len(pieces), bool)
    for overlay in overlays:
        level = (pieces["y0"] >= overlay.y0 - EDGE) & (pieces["y1"] <= overlay.y1 + EDGE)
        inside |= (level & (pieces["x0"] >= overlay.x0 - EDGE) & (pieces["x1"] <= overlay.x1 + EDGE)).to_numpy()
    return inside


def _box(kind: Kind, pieces: pd.DataFrame) -> Overlay:
    low, high = pieces[["y0", "x0"]].min(), pieces[["y1", "x1"]].max()
    return Overlay(kind, int(low["y0"]), int(low["x0"]), int(high["y1"]), int(high["x1"]))


# -- ink ----------------------------------------------------------------------------------------------------------


def inks(pixels: NDArray[np.uint8]) -> list[tuple[Mask, Mask, Mask, bool]]:
    """(H, W, C) -> of black, white and the six pure colours: ink with its smooth edges, pure ink, what is clear of it,
    each (H, W), and whether it is coloured.

    A colour that much of the image has is left out: it is the background, or a stain.
    """
    layers = []
    for plane in (pixels.max(axis=2), 255 - pixels.min(axis=2)):
        pure = plane <= INK
        if 0 < pure.mean() <= MOSTLY:
            layers.append((pure | _strokes(plane), pure, plane >= INK + CONTRAST, False))
    for colour in _purities(pixels):
        ink, pure = colour >= COLOURED[1], colour >= COLOURED[2]
        if pure.any() and ink.mean() <= COLOUR_MOSTLY:
            layers.append((ink, pure, colour <= COLOURED[0], True))
    return layers


def _purities(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.int16]]:
    """(H, W) of red, green, blue and of their opposites: how far the channels of the colour lie above the others."""
    if pixels.shape[2] == 3:
        red, green, blue = (np.ascontiguousarray(pixels[..., channel]).astype(np.int16) for channel in range(3))
        for colour, first, second in ((red, green, blue), (green, blue, red), (blue, red, green)):
            yield colour - np.maximum(first, second)
            yield np.minimum(first, second) - colour


def _strokes(plane: NDArray[np.uint8]) -> Mask:
    """Thin things less than half as bright as what lies around them: pixels that ink covers by half and more."""
    import cv2

    around = cv2.morphologyEx(plane, cv2.MORPH_CLOSE, np.ones((AROUND, AROUND), np.uint8))
    return (plane < around // 2) & (around >= INK + CONTRAST)


def pieces_of(ink: Mask, pure: Mask, clear: Mask, clearance: float = CLEAR) -> tuple[pd.DataFrame, NDArray[np.int32]]:
    """Connected pieces of ink that stand clear of what is around them, one row each, and the map of their labels.

    Columns: y0, x0, y1, x1, height, width, area_px, stroke_px, crisp (pure but for SOFT px across the stroke, as what
    is drawn is and what is photographed is not); the index is the label. A piece that runs into the border is none.
    """
    import cv2
    import pandas as pd

    labels, boxes = measured_components(ink, 8)
    count = len(boxes)
    table = pd.DataFrame(boxes, columns=["x0", "y0", "width", "height", "area_px"]).astype(np.int64)
    table = table.assign(y1=table["y0"] + table["height"], x1=table["x0"] + table["width"])
    depth = np.zeros(count)
    np.maximum.at(depth, labels[ink], cv2.distanceTransform(ink.astype(np.uint8), cv2.DIST_L2, 5)[ink].astype(float))
    purity = np.bincount(labels[pure], minlength=count) / table["area_px"]
    table["stroke_px"] = np.maximum(2 * depth - 1, 1)
    table["crisp"] = purity >= 1 - SOFT / table["stroke_px"]
    inside = (table["x0"] > 0) & (table["y0"] > 0) & (table["x1"] < ink.shape[1]) & (table["y1"] < ink.shape[0])
    good = (inside & (table["area_px"] >= 4) & (purity >= PURE)).to_numpy()
    good &= _clearance(np.where(good, np.arange(count), 0)[labels], ink, clear, count) >= clearance
    return table[good], labels


def _clearance(labels: NDArray[np.int32], ink: Mask, clear: Mask, count: int) -> NDArray[np.float64]:
    """(count,) share of the pixels two and three away from each piece that are clear of its ink."""
    import cv2

    near = cv2.dilate(ink.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    ring = cv2.dilate(labels.astype(np.float32), np.ones((7, 7), np.uint8)).astype(np.int32)
    ring[near] = 0
    total = np.bincount(ring.ravel(), minlength=count)
    return np.bincount(ring[clear], minlength=count) / np.maximum(total, 1)


# -- shapes of ink ------------------------------------------------------------------------------------------------


def text_lines(pieces: pd.DataFrame, image_height: int) -> list[Overlay]:
    """Rows of characters: alike in height, thin of stroke, on one line, close together."""
    tall = pieces["height"].between(GLYPH[0], GLYPH[1] * image_height)
    slim = (pieces["width"] <= BROAD * pieces["height"]) & (pieces["stroke_px"] <= STROKE * pieces["height"])
    glyphs = pieces[tall & slim & pieces["crisp"]]
    if not LETTERS <= len(glyphs) <= MANY:
        return []
    rows = glyphs.groupby(_row_of(glyphs))
    return [_box("caption", row) for _, row in rows if _is_text(row)]


def _row_of(some: pd.DataFrame) -> NDArray[np.int32]:
    """(n,) number of the row that a character is in: linked to a neighbour at its height."""
    from scipy.sparse.csgraph import connected_components

    y0, x0, y1, x1, height = (some[name].to_numpy() for name in ("y0", "x0", "y1", "x1", "height"))
    taller, shorter = np.maximum.outer(height, height), np.minimum.outer(height, height)
    shared = np.minimum.outer(y1, y1) - np.maximum.outer(y0, y0)
    gap = np.maximum.outer(x0, x0) - np.minimum.outer(x1, x1)
    linked = (shared >= 0.5 * shorter) & (gap <= GAP * taller) & (taller <= 2 * shorter)
    return np.asarray(connected_components(linked, directed=False)[1], np.int32)


def _is_text(row: pd.DataFrame) -> bool:
    """Enough characters, most of them standing on one line, side by side, drawn with one pen."""
    if len(row) < LETTERS:
        return False
    tall, row = float(row["height"].median()), row.sort_values("x0")
    level = (row["y1"] - row["y1"].median()).abs() <= max(1.0, 0.12 * tall)
    apart = row["x0"].to_numpy()[1:] - row["x1"].to_numpy()[:-1] > -0.15 * tall
    even = row["stroke_px"].max() <= 2.2 * row["stroke_px"].median()
    long = row["x1"].max() - row["x0"].min() >= WORD * (row["y1"].max() - row["y0"].min())
    return bool(level.mean() >= 0.6 and apart.all() and even and long)


def scale_bars(pieces: pd.DataFrame, pure: Mask, clear: Mask) -> list[Overlay]:
    """Level rectangles filled with ink; a longer one may touch something dark of the specimen."""
    side = max(pure.shape)
    touched = _level_pieces(pure, clear, LONG_BAR[0])
    free = [_box("scale bar", bar) for bar in _rectangles(pieces, BAR, SLENDER, FILLED, side)]
    long = [_box("scale bar", bar) for bar in _rectangles(touched, LONG_BAR, 2 * SLENDER, 1.0, side)]
    return free + [bar for bar in long if not any(_meet(bar, other) for other in free)]


def coloured_bars(pure: Mask, clear: Mask) -> list[Overlay]:
    """Level lines in a colour of their own, as cameras draw them, with or without ticks at their ends."""
    pieces = _level_pieces(pure, clear, COLOURED_BAR[0])
    return [_box("scale bar", bar) for bar in _rectangles(pieces, COLOURED_BAR, 2 * SLENDER, 0.95, max(pure.shape))]


def _with_text(bar: Overlay, ink: Mask) -> Overlay:
    """The box of a coloured bar and of all ink of its colour near it: its number, its ticks, its other end."""
    length = bar.x1 - bar.x0
    top, left = max(0, bar.y0 - round(BESIDE * length)), max(0, bar.x0 - length)
    y, x = np.nonzero(ink[top : bar.y1 + round(BESIDE * length), left : bar.x1 + length])
    return Overlay(bar.kind, top + int(y.min()), left + int(x.min()), top + int(y.max()) + 1, left + int(x.max()) + 1)


def _level_pieces(pure: Mask, clear: Mask, length: float) -> pd.DataFrame:
    """The pieces of what is at least so long in every row, as a fraction of the image's longer side."""
    import cv2

    row = np.ones((1, round(length * max(pure.shape)) + 1), np.uint8)
    level = cv2.morphologyEx(pure.astype(np.uint8), cv2.MORPH_OPEN, row) > 0
    return pieces_of(level, level, clear, LONG_BAR_CLEAR)[0]


def _rectangles(
    pieces: pd.DataFrame, length: tuple[float, float], slender: float, filled: float, side: int
) -> list[pd.DataFrame]:
    right = (pieces["width"] / side).between(*length) & (pieces["width"] >= slender * pieces["height"])
    full = (pieces["area_px"] >= filled * pieces["width"] * pieces["height"]) & (pieces["height"] >= 2)
    return [pieces.loc[[label]] for label in pieces.index[right & full]]


def _meet(one: Overlay, other: Overlay) -> bool:
    return one.y0 < other.y1 and other.y0 < one.y1 and one.x0 < other.x1 and other.x0 < one.x1


def leader_lines(pieces: pd.DataFrame, shape: tuple[int, ...]) -> pd.DataFrame:
    """The pieces that are lines, arrows or brackets, such as lead from a word to what it names."""
    reach = np.hypot(pieces["height"], pieces["width"])
    return pieces[pieces["crisp"] & (reach >= LEADER[0] * max(shape)) & (reach**2 >= LEADER[1] * pieces["area_px"])]


# -- strips -------------------------------------------------------------------------------------------------------


def find_strips(pixels: NDArray[np.uint8]) -> list[Overlay]:
    """(H, W, C) -> plain bars along the edges, as under an electron micrograph or around a figure in a book."""
    height, width = pixels.shape[:2]
    top, bottom = _strip(pixels), _strip(pixels[::-1])
    body = np.moveaxis(pixels[top : height - bottom], 1, 0)
    left, right = _strip(body), _strip(body[::-1])
    low = height - bottom
    boxes = ((0, 0, top, width), (low, 0, height, width), (top, 0, low, left), (top, width - right, low, width))
    return [Overlay("strip", *box) for box in boxes if box[0] < box[2] and box[1] < box[3]]


def _strip(pixels: NDArray[np.uint8]) -> int:
    """(n, m, C) -> how many of the first rows belong to a strip of one colour; 0 where there is none."""
    least, most = max(THIN_STRIP, round(STRIP[0] * len(pixels))), round(STRIP[1] * len(pixels))
    rows = pixels[: most + 2].astype(np.int16)
    plain = (np.abs(rows - np.median(rows[:least], axis=(0, 1))) <= FLAT).all(axis=2)
    end = int(np.argmin(np.append(plain.mean(axis=1) >= PLAIN, False)))
    if not least <= end <= most:
        return 0
    before, after = end - 2, min(len(rows) - 1, end + 1)
    step = plain[before] & (np.abs(rows[after] - rows[before]).max(axis=1) >= STEP[1])
    return end if step.mean() >= STEP[0] else 0
