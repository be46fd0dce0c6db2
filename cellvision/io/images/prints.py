"""Perceptual prints of pictures: the same picture is known again re-encoded, resized, a pixel cropped, grey, or turned.

A print holds the low frequencies of the picture: its cosine transform, weighted so that no coarse shading decides. Two
prints belong to one picture where they agree, in one of the eight turned and mirrored poses, far better than either
picture agrees with its own poses: what many pictures share (a round well, one cell in the middle) tells nothing.
Everything kept is made of whole numbers, so that a print does not depend on the processor. A picture with too little
in it - flat, noise alone, one or two cells, symmetric - has no print: the empty string.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cellvision.io.components import linked

Whole = NDArray[np.int64]
SIDE = 32  # blocks along a side that the picture is averaged over
ORDERS = 16  # cosines along a side that are kept
COARSEST = 3  # sum of the two orders from which a coefficient counts; below it is shading
REDUCED = 512  # px, a longer side is first averaged over whole pixels
CLIPPED = 0.005  # share of the pixels, at either end of the grey levels, that does not set the range
LUMINANCE = (77, 150, 29)  # of red, green and blue, in 1/256
RANGE = 1 << 16  # grey levels that the range is mapped to
COSINE_SCALE, WEIGHT_SCALE = 1 << 12, 1 << 6
DEVIATIONS = 1.4826  # standard deviations of a normal distribution in its median absolute value
MIN_SIGNAL = 3.0  # in units of the pixels' noise, as far as averaging leaves it
MIN_SPREAD = 30.0  # of SIDE x SIDE blocks that the structure is spread over; one or two cells cover fewer
MAX_SYMMETRY = 0.9  # agreement with an own pose beyond which a picture cannot be told from others of its kind
MAX_DISTANCE = 0.06  # disagreement within one picture, in units of that with its own poses
BLOCK = 1024  # prints that are compared with all others at once


def print_of(pixels: NDArray[np.uint8]) -> str:
    """(H, W, C) uint8 -> the print of the picture, empty where it has too little structure to be known again by."""
    if min(pixels.shape[:2]) < SIDE:
        return ""
    grey = _grey(pixels)
    low, high = _range(grey)
    if low >= high:
        return ""
    stretched = (np.clip(_reduced(grey, low, high), low, high) - low) * RANGE // (high - low)
    blocks = _averaged(_averaged(stretched).T).T
    waves = _cosines() @ blocks @ _cosines().T // COSINE_SCALE**2
    weighted = waves * _weights()
    noise = _noise(grey) * RANGE / (high - low) * SIDE / np.sqrt(grey.size)
    if not _is_telling(weighted, noise):
        return ""
    kept, largest = weighted[_weights() > 0], int(np.abs(weighted).max())
    levels = (2 * kept * np.iinfo(np.int8).max + largest) // (2 * largest)
    text = base64.b64encode(levels.astype(np.int8).tobytes()).decode()
    return text if _symmetry(_coefficients([text]))[0] <= MAX_SYMMETRY else ""


def joined(prints: Sequence[str]) -> NDArray[np.int64]:
    """(n,) prints -> (n,) labels, equal for pictures that are linked by likeness; without a print each its own."""
    place = {text: number for number, text in enumerate(sorted({*filter(None, prints)}))}
    component = _linked(tuple(place))
    label: dict[int, int] = {}  # in the order of the pictures
    return np.array(
        [
            label.setdefault(component[place[text]], len(label)) if text else len(place) + row
            for row, text in enumerate(prints)
        ],
        np.int64,
    )


@functools.lru_cache(maxsize=1)  # a run asks for its units, its splits and its stamps
def _linked(texts: tuple[str, ...]) -> NDArray[np.int64]:
    """(n,) different prints -> (n,) number of the picture that each is of."""
    return linked(*_alike(texts, texts), len(texts))


def near(prints: Sequence[str], others: Sequence[str]) -> NDArray[np.bool_]:
    """(n,) which of these pictures is one of the others, as far as both have prints."""
    names = list(dict.fromkeys(filter(None, prints)))
    known = {names[at] for at in _alike(names, list(dict.fromkeys(filter(None, others))))[0]}
    return np.array([text in known for text in prints], np.bool_)


# -- from pixels to coefficients ----------------------------------------------------------------------------------


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(H, W, C) uint8 -> (H, W) luminance of three channels, else their mean, 0 to 255 * 256."""
    if pixels.shape[2] == len(LUMINANCE):
        return np.asarray(sum(pixels[..., at] * np.int32(share) for at, share in enumerate(LUMINANCE)), np.int32)
    return pixels.sum(2, dtype=np.int32) * np.int32(256) // np.int32(pixels.shape[2])


def _range(grey: NDArray[np.int32]) -> tuple[int, int]:
    counts = np.cumsum(np.bincount(grey.ravel()))
    low, high = np.searchsorted(counts, [CLIPPED * grey.size, (1 - CLIPPED) * grey.size])
    return int(low), int(high)


def _reduced(grey: NDArray[np.int32], low: int, high: int) -> Whole:
    """(H, W) clipped to the range, each side at most REDUCED px, averaged over blocks of whole pixels."""
    values = np.clip(grey, low, high).astype(np.int64) if grey.size <= REDUCED**2 else np.clip(grey, low, high)
    for axis in (0, 1):
        length = values.shape[axis]
        if length > REDUCED:
            edges = np.arange(REDUCED) * length // REDUCED
            counts = np.diff([*edges, length]).reshape((-1, 1) if axis == 0 else (1, -1))
            values = np.add.reduceat(values, edges, axis=axis, dtype=np.int64) // counts
    return values.astype(np.int64)


def _averaged(values: Whole) -> Whole:
    """(n, m) -> (SIDE, m), means over n / SIDE rows, a row at an edge shared by its two blocks."""
    length = len(values)
    whole, shared = np.divmod(np.arange(SIDE + 1) * length, SIDE)
    summed = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    beyond = np.concatenate([values, np.zeros_like(values[:1])])
    return np.diff(summed[whole] * SIDE + shared[:, None] * beyond[whole], axis=0) // length


@functools.cache
def _cosines() -> Whole:
    """(ORDERS, SIDE) orthonormal cosines, in 1 / COSINE_SCALE."""
    order, place = np.arange(ORDERS)[:, None], np.arange(SIDE)[None]
    waves = np.cos(np.pi * (2 * place + 1) * order / (2 * SIDE)) * np.sqrt(np.where(order, 2, 1) / SIDE)
    return np.rint(waves * COSINE_SCALE).astype(np.int64)


@functools.cache
def _weights() -> Whole:
    """(ORDERS, ORDERS) the frequency, which evens out the spectrum of pictures; 0 where it does not count."""
    order = np.arange(ORDERS)
    down, across = order[:, None], order[None]
    counts = (down + across >= COARSEST) & (down**2 + across**2 <= ORDERS**2)
    return np.where(counts, np.rint(np.hypot(down, across) * WEIGHT_SCALE), 0).astype(np.int64)


def _noise(grey: NDArray[np.int32]) -> float:
    """Standard deviation of the pixels' noise, by the median difference of neighbours."""
    steps = [np.abs(np.diff(lines)).ravel() for lines in (grey[:: _every(grey, 0)], grey[:, :: _every(grey, 1)].T)]
    return float(np.median(np.concatenate(steps)) * DEVIATIONS / np.sqrt(2))


def _every(grey: NDArray[np.int32], axis: int) -> int:
    return max(1, grey.shape[axis] // REDUCED)


def _is_telling(weighted: Whole, noise: float) -> bool:
    """Whether there is more than noise, spread over more than a cell or two. noise: of a block's mean."""
    energy = float((weighted.astype(np.float64) ** 2).sum())
    expected = noise**2 * float((_weights().astype(np.float64) ** 2).sum())
    if energy == 0 or energy < MIN_SIGNAL**2 * expected:
        return False
    waves = _cosines() / COSINE_SCALE
    local = (waves.T @ weighted @ waves) ** 2
    return float(local.sum() ** 2 / (local**2).sum()) >= MIN_SPREAD


# -- from coefficients to likeness --------------------------------------------------------------------------------


def _coefficients(texts: Sequence[str]) -> NDArray[np.float32]:
    """(n,) prints -> (n, ORDERS, ORDERS), of length one."""
    kept = _weights() > 0
    waves = np.zeros((len(texts), ORDERS, ORDERS), np.float32)
    waves[:, kept] = [np.frombuffer(base64.b64decode(text), np.int8) for text in texts]
    return waves / np.linalg.norm(waves, axis=(1, 2), keepdims=True)


def _poses(waves: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """(n, ORDERS, ORDERS) in its eight poses: mirroring turns the sign of every second wave, turning swaps the axes."""
    sign = (-1.0) ** np.arange(ORDERS, dtype=np.float32)
    for turned in (waves, waves.transpose(0, 2, 1)):
        for down in (1, sign[:, None]):
            for across in (1, sign[None]):
                yield turned * down * across


def _symmetry(waves: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) the best agreement of each picture with another pose of itself."""
    agreement = [np.einsum("nij,nij->n", waves, pose, dtype=np.float64) for pose in _poses(waves)]
    return np.maximum(np.max(agreement[1:], axis=0), 0)


def _unposed(waves: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, m) what is the same in all poses, of length one: pictures that are near are at least as near in it."""
    down, across = np.triu_indices(ORDERS)
    off = np.where(down == across, 0.5, 1.0).astype(np.float32)
    return np.sqrt(off * (waves[:, down, across] ** 2 + waves[:, across, down] ** 2))


def _alike(texts: Sequence[str], others: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Prints and others -> the positions of the pairs that are one picture."""
    if not texts or not others:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    ours, theirs = _coefficients(texts), _coefficients(others)
    known, symmetry = _unposed(theirs), _symmetry(theirs)
    pairs = []
    for start in range(0, len(ours), BLOCK):
        block = ours[start : start + BLOCK]
        first, second = np.nonzero(_unposed(block) @ known.T >= 1 - MAX_DISTANCE)
        agreement = np.max([np.einsum("nij,nij->n", block[first], pose) for pose in _poses(theirs[second])], axis=0)
        shared = np.maximum(_symmetry(block)[first], symmetry[second])
        close = 1 - agreement <= MAX_DISTANCE * (1 - shared)
        pairs.append((first[close] + start, second[close]))
    return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])
