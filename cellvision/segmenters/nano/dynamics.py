"""Cellpose's mask dynamics (Stringer et al. 2021), the same masks in a fraction of the time.

Pixels follow the flow to the centre of their cell. Cellpose moves every pixel 200 times; here pixels that have met go
on as one. Its flow check spreads heat over the whole image for as long as the largest cell needs; here cells of like
size are stacked, and each stack takes the steps it needs.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from torch import Tensor

STEPS = 200
MEETINGS = (12, 24, 48, 96, STEPS)  # steps after which pixels that share a place are merged
PLACES = 8  # places a px
FAR = 96  # px; heat that has come further is too small a number for float32
STACK_PX = 2_000_000  # px diffused together


def label(flow: NDArray[np.float32], log_odds: NDArray[np.float32], threshold: float) -> NDArray[np.int32]:
    """(2, H, W) flow in y and x (times five), (H, W) -> (H, W) labels 1..n, before any check."""
    from cellpose.dynamics import get_masks_torch

    inside = log_odds > threshold
    rows = np.nonzero(inside)
    if not len(rows[0]):
        return np.zeros(log_odds.shape, np.int32)
    ends = follow(flow * inside / 5.0, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch on sparse tensors
        masks = get_masks_torch(ends, rows, np.array(log_odds.shape), max_size_fraction=1.0)
    return np.asarray(masks, np.int32)


def follow(flow: NDArray[np.float32], rows: tuple[NDArray, ...]) -> Tensor:
    """(2, H, W), indices of n pixels -> (2, n) int, where they end: Euler steps, bilinear reading, as Cellpose's."""
    height, width = flow.shape[1:]
    span = torch.tensor([max(width - 1, 1), max(height - 1, 1)], dtype=torch.float32)
    field = torch.from_numpy(np.ascontiguousarray(flow[::-1])).float()[None] * (2 / span).view(1, 2, 1, 1)
    place = torch.stack([torch.from_numpy(rows[1]), torch.from_numpy(rows[0])], 1).float() / span * 2 - 1
    member: Tensor | None = None
    done = 0
    for stop in MEETINGS:
        for _ in range(stop - done):
            move = F.grid_sample(field, place[None, None], align_corners=False)[0, :, 0].T
            place = (place + move).clamp_(-1, 1)
        done = stop
        if stop < STEPS:
            place, joined = _merge(place, span)
            member = joined if member is None else joined[member]
    ends = ((place + 1) / 2 * span).flip(1).T
    return (ends if member is None else ends[:, member]).int()


def _merge(place: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
    """One of the places that round to the same 1/8 px, and who belongs to which."""
    grid = ((place + 1) / 2 * span * PLACES).round().long()
    key = (grid[:, 1] * (int(span[0]) * PLACES + 1) + grid[:, 0]).numpy()
    _, first, joined = np.unique(key, return_index=True, return_inverse=True)
    return place[torch.from_numpy(first)], torch.from_numpy(joined)


def flow_error(masks: NDArray[np.int32], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W) labels 1..n without gaps, (2, H, W) flow (times five) -> (n,) mean square distance to the masks' flow.

    At a border between cells the gradient reads the neighbour's heat, as Cellpose's check does.
    """
    rows = np.nonzero(masks)
    error = ((_gradient(heat(masks), masks)[:, rows[0], rows[1]] - flow[:, rows[0], rows[1]] / 5.0) ** 2).sum(0)
    label = masks[rows]
    total = np.bincount(label, error, minlength=1)[1:]
    return (total / np.maximum(np.bincount(label, minlength=1)[1:], 1)).astype(np.float32)


def masks_to_flow(masks: NDArray[np.int32]) -> NDArray[np.float32]:
    """(H, W) labels 1..n without gaps -> (2, H, W) unit flow in y and x towards each cell's centre, 0 outside.

    What a network learns: other than Cellpose's, the flow at a border does not depend on the cell beyond it.
    """
    return _gradient(heat(masks), masks, alone=True).astype(np.float32)


def heat(masks: NDArray[np.int32]) -> NDArray[np.float64]:
    """(H, W): every cell is warmed at its centre, heat spreads within it and is lost at its border."""
    out = np.zeros(masks.shape, np.float64)
    boxes = find_objects(masks)
    sides = np.array([max(span.stop - span.start for span in box) for box in boxes])
    bins = np.ceil(2 * np.log2(np.maximum(sides, 4))).astype(int)  # sides of a stack differ by at most sqrt(2)
    for size in np.unique(bins):
        members = np.flatnonzero(bins == size)
        side = int(sides[members].max()) + 2
        each = max(1, STACK_PX // side**2)
        for start in range(0, len(members), each):
            stack = members[start : start + each]
            inside, extent = np.zeros((len(stack), side, side), bool), 0
            for number, member in enumerate(stack):
                height, width = (span.stop - span.start for span in boxes[member])
                inside[number, 1 : 1 + height, 1 : 1 + width] = masks[boxes[member]] == member + 1
                extent = max(extent, height + width + 2)
            warm = diffuse(torch.from_numpy(inside), 2 * extent).numpy()
            for number, member in enumerate(stack):
                height, width = (span.stop - span.start for span in boxes[member])
                out[boxes[member]] += warm[number, 1 : 1 + height, 1 : 1 + width]
    return out


def diffuse(inside: Tensor, steps: int) -> Tensor:
    """(n, S, S) bool, one mask each with a margin of a pixel -> (n, S, S) heat after so many steps."""
    count, side, _ = inside.shape
    weight = inside.float()
    axis = torch.arange(side, dtype=torch.float32)
    area = weight.sum((1, 2))
    y, x = ((weight.sum(other) * axis).sum(1) / area for other in (2, 1))
    far = (axis.view(1, -1, 1) - y.round().view(-1, 1, 1)) ** 2 + (axis.view(1, 1, -1) - x.round().view(-1, 1, 1)) ** 2
    centre = far.masked_fill(~inside, math.inf).view(count, -1).argmin(1)
    flat = torch.arange(count) * side * side + centre
    share = weight.to(torch.float64 if side > FAR else torch.float32) / 9
    warm = torch.zeros_like(share)
    for _ in range(steps):
        warm.view(-1)[flat] += 1
        rows = warm.clone()
        rows[:, 1:] += warm[:, :-1]
        rows[:, :-1] += warm[:, 1:]
        warm = rows.clone()
        warm[:, :, 1:] += rows[:, :, :-1]
        warm[:, :, :-1] += rows[:, :, 1:]
        warm *= share
    return warm


def _gradient(warm: NDArray[np.float64], masks: NDArray[np.int32], alone: bool = False) -> NDArray[np.float64]:
    """(H, W) heat -> (2, H, W) its direction of increase, unit length; `alone`: other cells count as cold."""
    around, owner = np.pad(warm, 1), np.pad(masks, 1)
    height, width = masks.shape

    def side(y: int, x: int) -> NDArray[np.float64]:
        shifted = (slice(1 + y, 1 + y + height), slice(1 + x, 1 + x + width))
        return np.where(owner[shifted] == masks, around[shifted], 0) if alone else around[shifted]

    flow = np.stack([side(1, 0) - side(-1, 0), side(0, 1) - side(0, -1)]) * (masks > 0)
    return flow / np.maximum(np.hypot(*flow), np.finfo(np.float64).tiny)


# -- masks between the network's scale and the image's -------------------------------------------------------------


def tidy(masks: NDArray[np.int32], smallest: float) -> NDArray[np.int32]:
    """(H, W) -> (H, W): holes filled, labels of less than `smallest` px area left out, numbered without gaps."""
    from cellpose.utils import fill_holes_and_remove_small_masks

    return np.asarray(fill_holes_and_remove_small_masks(masks, min_size=max(1, math.ceil(smallest))), np.int32)


def at_border(masks: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(n,) which of labels 1..n touch the image's border: their centre may lie outside."""
    touching = np.zeros(int(masks.max(initial=0)) + 1, bool)
    for edge in (masks[0], masks[-1], masks[:, 0], masks[:, -1]):
        touching[edge] = True
    return touching[1:]


def keep(masks: NDArray[np.int32], wanted: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(H, W) labels 1..n, (n,) which are wanted -> (H, W) of these alone, numbered without gaps in the same order."""
    return np.concatenate([[0], np.cumsum(wanted) * wanted]).astype(np.int32)[masks]


def enlarge(
    masks: NDArray[np.int32], log_odds: NDArray[np.float32], threshold: float, shape: tuple[int, int]
) -> NDArray[np.int32]:
    """(h, w) labels and log odds -> (H, W) labels, `shape` being (H, W).

    Where cells meet the nearest label counts, towards the background the smooth log odds.
    """
    import cv2

    size = shape[::-1]
    if masks.shape == shape:
        return masks
    if masks.shape[0] >= shape[0]:
        return np.asarray(cv2.resize(masks, size, interpolation=cv2.INTER_NEAREST_EXACT), np.int32)
    exact = masks.astype(np.float64)  # holds every label, which OpenCV's other types do not
    grown = cv2.dilate(exact, np.ones((3, 3), np.uint8)).astype(np.int32)
    grown = np.where(masks > 0, masks, grown)
    large = np.asarray(cv2.resize(grown, size, interpolation=cv2.INTER_NEAREST_EXACT), np.int32)
    return large * (cv2.resize(log_odds, size, interpolation=cv2.INTER_LINEAR) > threshold)
