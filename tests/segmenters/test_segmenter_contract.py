"""Segmenters: what each promises, found by its registry line.

One whose weights are not in the package gets small ones in `config`.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_cellpose import discs, forward_to_bright, noise, small_encoder

from cellvision.core.config import field_traits
from cellvision.executors.local import ordered_map
from cellvision.io import tensorfiles
from cellvision.segmenters import SEGMENTERS, Segmenter
from cellvision.segmenters.nano.segmenter import WEIGHTS

NAMES = SEGMENTERS.names()
WITH_WEIGHTS = [name for name in NAMES if "weights" in SEGMENTERS.load(name).Config.model_fields]


@pytest.fixture
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What builds the segmenter here, without a download."""
    if request.param != "cellpose":
        return {"name": request.param}
    request.getfixturevalue("flows_to_bright")
    return {"name": request.param, "weights": str(request.getfixturevalue("small"))}


every_segmenter = pytest.mark.parametrize("config", NAMES, indirect=True)


def built(config: dict[str, Any]) -> Segmenter:
    segmenter = SEGMENTERS.build(config, device="cpu")
    torch.set_num_threads(1)
    return segmenter


def images() -> list[np.ndarray]:
    """Grey and coloured discs, and noise of odd sides."""
    return [discs(), np.repeat(discs(), 3, axis=2), noise(61, 47, 1), noise(33, 90, 3)]


@every_segmenter
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_an_empty_image_has_no_cells(config: dict[str, Any], grey: int, channels: int) -> None:
    segmentation = built(config).segment(np.full((64, 80, channels), grey, np.uint8))
    assert segmentation.masks.shape == (64, 80)
    assert segmentation.masks.dtype == np.int32
    assert segmentation.masks.max() == 0


@every_segmenter
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (3, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_a_few_pixels_is_segmented(config: dict[str, Any], shape: tuple[int, int], channels: int) -> None:
    masks = built(config).segment(noise(*shape, channels)).masks
    assert masks.shape == shape
    assert masks.dtype == np.int32
    assert len(np.unique(masks[masks > 0])) == masks.max()
    assert masks.max() == 0 or shape != (1, 1)


@every_segmenter
def test_labels_are_numbered_in_raster_order_without_gaps(config: dict[str, Any]) -> None:
    segmenter = built(config)
    counts = []
    for pixels in images():
        segmentation = segmenter.segment(pixels)
        labels, first = np.unique(segmentation.masks, return_index=True)
        assert segmentation.masks.shape == pixels.shape[:2]
        assert segmentation.masks.dtype == np.int32
        cells = labels[labels > 0]
        assert cells.tolist() == list(range(1, len(cells) + 1))
        assert (np.diff(first[labels > 0]) > 0).all()
        assert all(score.shape == (len(cells),) for score in segmentation.scores.values() if len(cells))
        counts.append(len(cells))
    assert min(counts[:2]) >= 3  # of five discs


@every_segmenter
def test_the_image_is_left_alone_and_seen_the_same_again(config: dict[str, Any]) -> None:
    segmenter, pixels = built(config), discs(3)
    before = pixels.copy()
    first, again = segmenter.segment(pixels), segmenter.segment(pixels)
    assert np.array_equal(pixels, before)
    assert np.array_equal(first.masks, again.masks)
    assert first.notes == again.notes
    assert all(np.array_equal(first.scores[name], again.scores[name]) for name in first.scores)


def segmented(task: tuple[dict[str, Any], np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """In a worker process, which has none of the fixtures."""
    config, pixels = task
    if config["name"] == "cellpose" and multiprocessing.parent_process() is not None:
        import cellpose.core
        import cellpose.vit

        cellpose.vit.sam_model_registry = {"vit_l": small_encoder}
        cellpose.core._forward = forward_to_bright
    segmentation = built(config).segment(pixels)
    return segmentation.masks, segmentation.scores


@every_segmenter
def test_same_bits_with_any_number_of_workers(config: dict[str, Any]) -> None:
    tasks = [(config, pixels) for pixels in images()]
    here, elsewhere = (list(ordered_map(segmented, tasks, workers)) for workers in (1, 2))
    for (masks, scores), (other_masks, other_scores) in zip(here, elsewhere, strict=True):
        assert np.array_equal(masks, other_masks)
        assert scores.keys() == other_scores.keys()
        assert all(np.array_equal(scores[name], other_scores[name]) for name in scores)


@every_segmenter
def test_identity_is_a_line_that_stays(config: dict[str, Any]) -> None:
    identity = built(config).identity()
    assert isinstance(identity, str)
    assert config["name"] in identity
    assert built(config).identity() == identity


@pytest.mark.parametrize("name", NAMES)
def test_every_option_but_the_path_of_weights_is_in_the_fingerprint(name: str) -> None:
    options = SEGMENTERS.load(name).Config
    assert {key for key in options.model_fields if field_traits(options, key).get("runtime")} <= {"weights"}


def other_weights(config: dict[str, Any], path: Path) -> Path:
    """The same network with one number changed, under the same name elsewhere."""
    path.mkdir()
    if config["name"] == "cellpose":
        given = Path(config["weights"])
        state = torch.load(given, weights_only=True)
        next(iter(state.values())).view(-1)[0] += 1
        torch.save(state, path / given.name)
        return path / given.name
    tensors, facts = tensorfiles.read(WEIGHTS)
    next(value for value in tensors.values() if value.is_floating_point()).view(-1)[0] += 1
    tensorfiles.write(path / WEIGHTS.name, tensors, facts)
    return path / WEIGHTS.name


@pytest.mark.parametrize("config", WITH_WEIGHTS, indirect=True)
def test_identity_changes_with_the_weights(config: dict[str, Any], tmp_path: Path) -> None:
    changed = config | {"weights": str(other_weights(config, tmp_path / "other"))}
    assert built(changed).identity() != built(config).identity()
