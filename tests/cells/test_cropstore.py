"""Packed crops come back."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from cellvision.cells import cropstore
from cellvision.cells.cropstore import Crops


@pytest.mark.parametrize("shard_rows", [4, 5, 100])
def test_packed_crops_come_back_across_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_rows: int) -> None:
    monkeypatch.setattr(cropstore, "SHARD_ROWS", shard_rows)
    whole = np.random.default_rng(0).integers(0, 256, (11, 6, 6, 4), dtype=np.uint8)
    cropstore.pack_crops([whole[:3], whole[3:3], whole[3:9], whole[9:]], tmp_path, len(whole), whole.shape[1:])
    assert len(list(tmp_path.iterdir())) == math.ceil(11 / shard_rows)
    crops = Crops(tmp_path)
    assert (len(crops), crops.shape) == (11, (6, 6, 4))
    order = np.array([10, 0, 4, 4, 9, 3])
    assert np.array_equal(crops.take(order), whole[order])
    assert np.array_equal(pickle.loads(pickle.dumps(crops)).take(order), whole[order])  # as worker processes get it
