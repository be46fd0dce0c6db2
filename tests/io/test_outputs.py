"""Files that other programs leave beside images are no images; images that are only called so stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellvision.io import outputs, rawfolder

LEFT = [
    "f_cp_masks.png", "f_cp_masks.tif", "f_flows_cp_masks.tif", "f_outlines_cp_masks.png", "f_seg.npy", "f_rois.zip",
    "f_cp_outlines.txt", "f_cp_output.png", "f_masks.png", "f-mask.tif", "f label.tif", "f_labels.tif", "f_flows.tif",
    "f_outlines.png", "f_overlay.png", "f_thumb.jpg", "f_Probabilities.tif", ".thumbs/f.jpg", "masks/f.png",
    "Labels/other.png", "thumbnails/f.png",
]  # fmt: skip
IMAGES = [
    "f.tif",
    "f_2.tif",
    "mask.png",
    "other_mask.png",
    "unmasked.png",
    "f_masked.png",
    "labelled/f.png",
    "_seg.png",
]


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"content")
    return root


def test_what_others_leave_is_ignored_with_a_reason(tmp_path: Path) -> None:
    entries = rawfolder.scan(touch(tmp_path, *(f"g/{name}" for name in [*LEFT, *IMAGES])))
    images = {entry.relative for entry in entries if entry.status == "ok"}
    assert images == {f"g/{name}" for name in IMAGES}
    assert all(entry.note for entry in entries if entry.status == "ignored")


def test_a_group_may_be_called_masks(tmp_path: Path) -> None:
    entries = rawfolder.scan(touch(tmp_path, "masks/a.png", "cells/b.png"))
    assert [entry.status for entry in entries] == ["ok", "ok"]


def test_the_image_a_file_may_be_made_of_is_found_by_name() -> None:
    paths = ["a/f.tif", "a/g.png", "a/f_2.tif", "b/f.png", "a/g.tif", "c/ff.tif"]
    assert outputs.beside(paths) == {"a/f.tif": "b/f.png", "b/f.png": "a/f.tif", "a/f_2.tif": "a/f.tif"}


def labels(count: int) -> Any:
    blocks = np.arange(16).reshape(4, 4) % (count + 1)
    return np.kron(blocks, np.ones((20, 20), int))[..., None]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int32", "int64"])
@pytest.mark.parametrize("count", [1, 3, 15])
def test_a_label_map_is_known_by_its_content(kind: str, count: int) -> None:
    assert outputs.is_label_map(labels(count).astype(kind))


def test_images_are_no_label_maps() -> None:
    rng = np.random.default_rng(0)
    noisy = np.clip(rng.normal(40, 3, (80, 80, 1)), 0, 255).astype(np.uint8)
    pictures = [noisy, labels(3) * 60, labels(3) / 1, np.zeros((9, 9, 1), int), np.repeat(labels(2), 3, axis=2)]
    assert not any(map(outputs.is_label_map, pictures))
