"""Channels that are files of their own: one image with --join-channels, one unit without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from corpus import pillow
from raw_images import discs, put, segmented, some_discs
from tiny_runs import run

from cellvision import plan
from cellvision.cells import cropstore
from cellvision.core import files
from cellvision.core.errors import ConfigError
from cellvision.io import channelfiles, rawfolder

STAINS = {"w1": 1.0, "w2": 0.5, "w10": 0.25}  # light of each


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two groups of two fields in three channels."""
    for number in range(4):
        for stain, light in STAINS.items():
            name = f"plate_B0{number + 1}_s1_{stain}.png"
            picture = (some_discs(number) * light).astype(np.uint8)
            put(tmp_path / "raw" / "ab"[number % 2] / name, pillow(picture, "PNG"))
    return tmp_path / "raw"


def test_channel_files_become_one_image_in_the_order_of_their_numbers(raw: Path, tmp_path: Path) -> None:
    images = segmented(raw, tmp_path / "cells", "--join-channels")
    assert images["status"].value_counts().to_dict() == {"ignored": 8, "ok": 4}
    first = images.loc["a/plate_B01_s1_w1.png"]
    assert first["channel_names"].tolist() == ["ch1", "ch2", "ch10"]
    assert images.loc["a/plate_B01_s1_w10.png", "note"] == "channel ch10 of a/plate_B01_s1_w1.png"
    assert (images.loc[images["status"] == "ok", "n_cells"] == 8).all()
    crops = cropstore.Crops(tmp_path / "cells" / "crops").take(np.arange(4))
    assert crops.shape[-1] == 4
    light = crops[..., :3].astype(float).mean((0, 1, 2))
    assert light / light[0] == pytest.approx([1, 0.5, 0.25], abs=0.02)
    assert files.read_json(tmp_path / "cells" / "geometry.json")["channel_names"] == ["ch1", "ch2", "ch10"]


def test_two_channels_are_joined_and_one_is_segmented(raw: Path, tmp_path: Path) -> None:
    flags = ["--join-channels", "--channels", "ch1,ch10", "--segment-channels", "ch1"]
    segmented(raw, tmp_path / "cells", *flags)
    assert files.read_json(tmp_path / "cells" / "geometry.json")["channels"] == 2


def test_without_the_option_channels_share_a_unit(raw: Path, tmp_path: Path) -> None:
    segmented(raw, tmp_path / "cells")
    claims = files.read_json(run(plan, tmp_path / "plan", items=tmp_path / "cells") / "plan.json")["claims"]
    assert any("12 files are 4 fields of 3 channels" in line and "--join-channels" in line for line in claims)
    cells = pd.read_parquet(tmp_path / "cells" / "cells.parquet")
    assert cells["unit"].nunique() == 4
    assert set(cells["well"]) == {"B01", "B02", "B03", "B04"}


def test_a_field_without_one_of_its_channels_is_skipped(raw: Path, tmp_path: Path) -> None:
    (raw / "a" / "plate_B01_s1_w2.png").unlink()
    images = segmented(raw, tmp_path / "cells", "--join-channels")
    skipped = images[images["status"] == "skipped"]
    assert set(skipped.index) == {"a/plate_B01_s1_w1.png", "a/plate_B01_s1_w10.png"}
    assert set(skipped["note"]) == {"channels ch1, ch10 of its field, others have ch1, ch2, ch10"}


@pytest.mark.parametrize("fault", ["other size", "colour", "other depth"])
def test_channel_files_that_do_not_fit_are_refused(fault: str, raw: Path, tmp_path: Path) -> None:
    wrong = {
        "other size": discs(2), "colour": np.stack([some_discs(n) for n in range(3)], -1),
        "other depth": some_discs(0).astype(np.uint16) * 256,
    }[fault]  # fmt: skip
    put(raw / "a" / "plate_B01_s1_w2.png", pillow(wrong, "PNG"))
    images = segmented(raw, tmp_path / "cells", "--join-channels")
    assert images.loc["a/plate_B01_s1_w1.png", "reason"] == "E_CHANNELS"


def test_nothing_to_join_is_one_line(tmp_path: Path) -> None:
    put(tmp_path / "g" / "neuron_01.png")
    put(tmp_path / "g" / "neuron_02.png")
    with pytest.raises(ConfigError, match="no files here differ only in their channel"):
        channelfiles.joined(rawfolder.scan_folder(tmp_path))
