"""The mask dynamics against Cellpose's own, on discs, ellipses and flows with noise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from cellpose import dynamics as reference
from numpy.typing import NDArray
from scipy import ndimage

from cellvision.evidence import overlap
from cellvision.segmenters.nano import dynamics


def crowd(seed: int, side: int = 240, cells: int = 90, largest: int = 16) -> NDArray[np.int32]:
    """Ellipses of many sizes that touch and hide each other."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((side, side), np.int32)
    for number in range(1, cells + 1):
        centre = tuple(int(place) for place in rng.integers(0, side, 2))
        axes = tuple(int(half) for half in rng.integers(5, largest, 2))
        cv2.ellipse(masks, centre, axes, float(rng.integers(180)), 0, 360, number, -1)
    for number in range(1, cells + 1):  # what is left of a hidden cell is one piece
        pieces, count = ndimage.label(masks == number)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        masks[(pieces > 0) & (pieces != (sizes.argmax() + 1 if count else 0))] = 0
    kept = np.bincount(masks.ravel(), minlength=cells + 1) >= 30
    kept[0] = False
    return (np.cumsum(kept) * kept)[masks].astype(np.int32)


def noisy(masks: NDArray[np.int32], noise: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flow (times five) and log odds as a network would give them."""
    flow, _ = reference.masks_to_flows_gpu(masks.astype(int))
    rng = np.random.default_rng(seed)
    flow = 5 * flow + rng.normal(0, noise, flow.shape) * (masks > 0)
    smooth = np.stack([cv2.GaussianBlur(part, (3, 3), 0.7) for part in flow.astype(np.float32)])
    return smooth, np.where(masks > 0, 3, -3).astype(np.float32)


@pytest.mark.parametrize(("seed", "noise"), [(0, 0.0), (1, 0.5), (2, 1.5)])
def test_masks_are_those_of_cellpose(seed: int, noise: float) -> None:
    flow, log_odds = noisy(crowd(seed), noise, seed)
    expected = reference.compute_masks(flow, log_odds, flow_threshold=0.4, max_size_fraction=1.0)
    found = dynamics.label(flow, log_odds, 0.0)
    found = dynamics.keep(found, dynamics.flow_error(found, flow) <= 0.4)
    score = overlap.score(expected.astype(np.int32), found)
    assert score["n_true"] > 40
    assert score["ap_90"] == 1.0


def test_flow_error_is_that_of_cellpose_and_finds_a_wrong_mask() -> None:
    masks = crowd(3)
    flow, _ = noisy(masks, 0.5)
    merged = masks.copy()
    merged[(masks == 5) | (masks == 6)] = 5
    merged = np.unique(merged, return_inverse=True)[1].reshape(masks.shape).astype(np.int32)
    expected, _ = reference.flow_error(merged.astype(int), flow)
    found = dynamics.flow_error(merged, flow)
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert found[4] > 3 * np.median(found), "two cells under one label do not flow to one centre"


def test_flows_of_masks_point_to_their_centres() -> None:
    masks = crowd(4)
    flow = dynamics.masks_to_flow(masks)
    expected, _ = reference.masks_to_flows_gpu(masks.astype(int))
    inside = masks > 0
    alone = ndimage.minimum_filter(masks, 3) == ndimage.maximum_filter(masks, 3)  # px that touch no other label
    assert np.mean((flow * expected).sum(0)[inside & alone] > 0.99) > 0.99
    y, x = np.nonzero(inside)
    assert (
        np.mean(
            masks[(y + 1.5 * flow[0, y, x]).round().astype(int), (x + 1.5 * flow[1, y, x]).round().astype(int)]
            == masks[y, x]
        )
        > 0.97
    )
    assert np.mean(np.abs(np.hypot(*flow)[inside] - 1) < 1e-5) > 0.98, "all but the centres, where the flow ends"
    assert not flow[:, ~inside].any()


def test_a_long_cell_keeps_its_flow_far_from_the_centre() -> None:
    masks = np.zeros((40, 700), np.int32)
    masks[18:23, 10:690] = 1
    flow = dynamics.masks_to_flow(masks)
    assert np.isfinite(flow).all()
    assert (flow[1, 20, 12:300] > 0.9).all(), "rightwards on the left half"
    assert (flow[1, 20, 400:688] < -0.9).all()


def test_pixels_that_meet_go_on_as_one() -> None:
    flow, log_odds = noisy(crowd(5), 1.0)
    rows = np.nonzero(log_odds > 0)
    expected = reference.follow_flows(flow * (log_odds > 0) / 5.0, rows, niter=200)
    found = dynamics.follow(flow * (log_odds > 0) / 5.0, rows)
    assert found.shape == expected.shape
    assert float((found - expected.int()).abs().max(0).values.le(1).float().mean()) > 0.99


def test_empty_and_single_pixels() -> None:
    blank = np.zeros((2, 20, 30), np.float32)
    assert not dynamics.label(blank, np.full((20, 30), -1, np.float32), 0.0).any()
    assert not len(dynamics.flow_error(np.zeros((20, 30), np.int32), blank))
    one = np.zeros((20, 30), np.int32)
    one[3, 4] = 1
    assert np.isfinite(dynamics.flow_error(one, blank)).all()


def test_enlarged_labels_follow_the_smooth_outline_and_do_not_mix() -> None:
    y, x = np.mgrid[:40, :60]
    masks = np.where(np.hypot(y - 20, x - 20) < 10, 1, np.where(np.hypot(y - 20, x - 38) < 8, 2, 0)).astype(np.int32)
    log_odds = np.maximum(10 - np.hypot(y - 20, x - 20), 8 - np.hypot(y - 20, x - 38)).astype(np.float32)
    large = dynamics.enlarge(masks, log_odds, 0.0, (200, 300))
    assert set(np.unique(large)) == {0, 1, 2}
    y, x = np.mgrid[:200, :300]
    disc = np.hypot(y - 102, x - 102) < 50
    assert (large[disc] == 1).mean() > 0.97
    assert dynamics.enlarge(masks, log_odds, 0.0, (40, 60)) is masks
    assert set(np.unique(dynamics.enlarge(masks, log_odds, 0.0, (20, 30)))) == {0, 1, 2}
