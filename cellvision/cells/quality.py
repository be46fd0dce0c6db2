"""How good is each cell, and each image: measurements, the flags made of them, and what `--drop` leaves out.

A cell is compared only with the cells of its own image, so that a row depends on nothing but its image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.cells import crop, shapes
from cellvision.cells.pixels import grey_of

if TYPE_CHECKING:
    import pandas as pd

Energies = tuple[NDArray[np.float32], NDArray[np.float32]]
Flag = Literal["border", "blurred", "saturated", "small", "large", "ragged", "uncertain"]
FLAGS: tuple[Flag, ...] = ("border", "blurred", "saturated", "small", "large", "ragged", "uncertain")

# what makes a flag; `border` needs no number
BLURRED = 0.5  # focus below this fraction of the image's median cell
SATURATED = 0.25  # more than this share of the cell's pixels is at an end of the range
SMALL, LARGE = 0.5, 2.0  # diameter as a fraction of the image's median cell
RAGGED = 0.75  # solidity below
UNCERTAIN = {"probability": (0.7, np.inf), "flow_error": (-np.inf, 0.3)}  # range of good scores, where given
COMPARABLE = 5  # cells an image needs before a cell is compared with its median

RIM = 4  # px around a cell that count for its focus: the edge is where sharpness shows
BLURS = (1.0, 2.0)  # px, widths of the two Gaussians that focus compares
NOISE_LEFT = {1.0: 0.0503, 2.0: 0.0044}  # squared gradient that white noise of variance 1 leaves after each
FINE = 256  # parts of a grey level: sums of whole numbers are the same on every processor
DECIMALS = 3  # of the scores of networks that are kept; what lies below differs between processors
FAINT = 0.05  # squared gradient after the second blur: less is no edge,
CLEAR = 10.0  # nor is what noise leaves there less than this many times


def describe(
    masks: NDArray[np.int32], pixels: NDArray[np.uint8], scores: Mapping[str, NDArray[np.float32]]
) -> tuple[pd.DataFrame, dict[str, float | None]]:
    """(H, W), (H, W, C) uint8, (n,) scores of labels 1..n -> the cells with FLAGS; measurements of the image.

    Of the image: coverage, the share inside cells; median_diameter_px, None without cells; focus.
    """
    cells, energies = crop.measure(masks), edge_energies(grey_of(pixels))
    index = cells["mask_label"].to_numpy()
    cells["diameter_px"] = np.sqrt(4 / np.pi * cells["area_px"]).astype(np.float32)
    cells["solidity"] = shapes.solidity(shapes.runs_of(masks)).astype(np.float32)
    cells["focus"] = focus(masks, energies)[index - 1]
    cells["saturation"] = saturation(masks, pixels)[index - 1]
    cell_scores = {name: np.round(score[index - 1], DECIMALS) for name, score in scores.items() if name not in cells}
    image = {
        "coverage": float((masks > 0).mean()),
        "median_diameter_px": float(cells["diameter_px"].median()) if len(cells) else None,
        "focus": image_focus(energies),
    }
    return flagged(cells.assign(**cell_scores)), image


def flagged(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of one image with a boolean column for each of FLAGS."""
    doubt = np.zeros(len(cells), bool)
    for name, (low, high) in UNCERTAIN.items():
        if name in cells:
            doubt |= ~cells[name].between(low, high).to_numpy()
    enough = len(cells) >= COMPARABLE
    size, sharp = (cells[name] / max(cells[name].median(), 1e-6) for name in ("diameter_px", "focus"))
    return cells.assign(
        border=cells["touches_border"],
        blurred=(sharp < BLURRED) & enough,
        saturated=cells["saturation"] > SATURATED,
        small=(size < SMALL) & enough,
        large=(size > LARGE) & enough,
        ragged=cells["solidity"] < RAGGED,
        uncertain=doubt,
    )


def drop(cells: pd.DataFrame, flags: Collection[Flag]) -> tuple[pd.DataFrame, dict[str, int]]:
    """The cells without any of the flags; n_dropped, and dropped_<flag>: a cell with two flags counts under both."""
    bad = cells[list(flags)].to_numpy(bool).any(axis=1)
    counts = {f"dropped_{flag}": int(cells[flag].sum()) if flag in flags else 0 for flag in FLAGS}
    return cells[~bad], {"n_dropped": int(bad.sum())} | counts


# -- measurements -------------------------------------------------------------------------------------------------


def saturation(masks: NDArray[np.int32], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n,) for labels 1..n: share of pixels at the upper end of the range in any channel or the lower end in all."""
    clipped = (pixels == 255).any(axis=2) | (pixels == 0).all(axis=2)
    count = int(masks.max(initial=0)) + 1
    hit = np.bincount(masks[clipped], minlength=count)[1:]
    return (hit / np.maximum(np.bincount(masks.ravel(), minlength=count)[1:], 1)).astype(np.float32)


def focus(masks: NDArray[np.int32], energies: Energies) -> NDArray[np.float32]:
    """(n,) for labels 1..n: sharpness of a cell and the rim around it, 0 for none, from `edge_energies`.

    The more blurred an edge is, the less of its gradient is lost when it is blurred again (Zhuo & Sim, Pattern
    Recognition 44, 1852, 2011). For an edge of Gaussian width s px the result is 1 / (1 + s^2), whatever its contrast
    and length; thin lines and fine texture give more.
    """
    import cv2

    rim = np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8)
    region = np.where(masks > 0, masks, cv2.dilate(masks.astype(np.float32), rim)).astype(np.int32).ravel()
    fine, coarse = (np.bincount(region, energy.ravel())[1:] for energy in energies)
    return _sharpness(fine, coarse).astype(np.float32)


def image_focus(energies: Energies) -> float:
    """The same for all edges of an image."""
    nowhere = np.zeros(energies[0].size, np.intp)  # one after the other, whatever the processor adds at once
    fine, coarse = (np.bincount(nowhere, energy.ravel())[0] for energy in energies)
    return float(_sharpness(fine, coarse))


def edge_energies(grey: NDArray[np.uint8]) -> Energies:
    """(H, W) -> the squared gradient after each of BLURS, less what noise gives there; 0 where there is no edge."""
    noise = noise_of(grey) ** 2
    fine, coarse = (_squared_gradient(grey, width) - np.float32(noise * NOISE_LEFT[width]) for width in BLURS)
    edge = coarse > max(FAINT, CLEAR * noise * NOISE_LEFT[BLURS[1]])
    return fine * edge, coarse * edge


def _sharpness(fine: Any, coarse: Any) -> Any:
    """Energies of an edge of width s behave as (s^2 + width^2)^-1/2; solved for 1 / (1 + s^2), 0 where all is flat."""
    low, high = BLURS
    ratio = np.maximum(fine, 0) / np.maximum(coarse, FAINT)
    return np.maximum((ratio**2 - 1) / ((high / low) ** 2 - 1), 0)


def _squared_gradient(grey: NDArray[np.uint8], width: float) -> NDArray[np.float32]:
    import cv2

    smooth = cv2.GaussianBlur(grey.astype(np.uint16) * FINE, (0, 0), width).astype(np.int64)  # in fixed point
    squared = np.zeros(grey.shape, np.int64)
    squared[1:-1] += (smooth[2:] - smooth[:-2]) ** 2
    squared[:, 1:-1] += (smooth[:, 2:] - smooth[:, :-2]) ** 2
    return (squared / (2 * FINE) ** 2).astype(np.float32)


def noise_of(grey: NDArray[np.uint8]) -> float:
    """(H, W) -> grey levels, standard deviation of the noise (Immerkaer 1996, by the median: edges do not count)."""
    plane = np.pad(grey.astype(np.int16), 1, mode="reflect")
    for _ in range(2):  # the second difference, along one axis and then the other
        plane = (plane[2:] - 2 * plane[1:-1] + plane[:-2]).T
    return float(np.median(np.abs(plane[::2, ::2]))) / 6 / 0.6745
