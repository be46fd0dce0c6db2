"""What counts as one independent image, through the commands: films saved as files, copies of a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from corpus import pillow
from raw_images import put, segmented, some_discs
from tiny_runs import metrics_of, run

from cellvision import embed, plan
from cellvision.core import files

FIELDS, FRAMES = 4, 6


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups that do not differ: fields with a light of their own, filmed frame by frame; cells move a pixel."""
    folder = tmp_path_factory.mktemp("filmed")
    for group in "ab":
        for field in range(FIELDS):
            rng = np.random.default_rng([ord(group), field])
            film = some_discs(8 * ord(group) + field) * rng.uniform(0.5, 1)
            for frame in range(FRAMES):
                picture = np.roll(film, frame, 1) + rng.normal(0, 3, film.shape)
                name = f"field{field}_t{frame:02d}.png"
                put(folder / "raw" / group / name, pillow(np.clip(picture, 0, 255).astype(np.uint8), "PNG"))
    segmented(folder / "raw", folder / "cells")
    return folder / "cells"


def test_frames_are_no_evidence_of_their_own(filmed: Path, tmp_path: Path) -> None:
    metrics = metrics_of(run(embed, tmp_path / "embed", items=filmed, encoder="test_resnet"))
    assert metrics["linear_balanced_accuracy_units"] <= 2 * FIELDS
    assert metrics["linear_balanced_accuracy_low"] < 0.5
    assert metrics["linear_balanced_accuracy"] < 0.9


def test_segment_and_plan_say_what_the_unit_is(
    filmed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "48 files are 8 fields of 6 frames (t 00 to 05); the unit is the field"
    assert metrics_of(filmed)["notes"] == [line]
    assert line in files.read_json(run(plan, tmp_path / "plan", items=filmed) / "plan.json")["claims"]
    assert line in capsys.readouterr().err
    cells = pd.read_parquet(filmed / "cells.parquet")
    assert set(cells["unit"]) == {f"{group}/field{field}" for group in "ab" for field in range(FIELDS)}
    assert set(cells["t"]) == {f"{frame:02d}" for frame in range(FRAMES)}


def test_a_picture_in_two_groups_is_headline_news(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        picture = some_discs(number)
        put(tmp_path / "raw" / "ab"[number % 2] / f"{number}.png", pillow(picture, "PNG"))
        if number == 0:
            put(tmp_path / "raw" / "b" / "again.jpg", pillow(np.rot90(picture[1:]), "JPEG"))
    segmented(tmp_path / "raw", tmp_path / "cells")
    out = run(plan, tmp_path / "plan", items=tmp_path / "cells")
    told = capsys.readouterr().err
    for stage in ("segment", "plan"):
        assert f"{stage}: label conflict: 1 sets of identical or nearly identical sources" in told
    assert "b_again" in told
    assert files.read_json(out / "plan.json")["units"] == 4


def test_masks_and_thumbnails_in_the_raw_folder_bring_no_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        picture = some_discs(number)
        stem = tmp_path / "raw" / "g" / f"f{number}"
        put(stem.with_suffix(".png"), pillow(picture, "PNG"))
        put(stem.with_name(f"f{number}_cp_masks.tif"), pillow(picture, "TIFF"))
        small = picture.reshape(64, 2, 64, 2).mean((1, 3)).astype(np.uint8)
        put(stem.with_name(f"small{number}.png"), pillow(small, "PNG"))
        put(tmp_path / "raw" / "masks" / f"f{number}.png", pillow((picture < 130).astype(np.uint8), "PNG"))
    put(tmp_path / "raw" / "masks" / "photo.png", pillow(some_discs(2), "PNG"))
    images = segmented(tmp_path / "raw", tmp_path / "cells")
    assert images.loc[images["status"] == "ok"].index.tolist() == ["g/f0.png", "g/f1.png", "masks/photo.png"]
    notes = images["note"]
    assert notes["g/f0_cp_masks.tif"] == "left by Cellpose, no image"
    assert notes["g/small0.png"] == "a thumbnail of g/f0.png"
    assert notes["masks/f0.png"] == "a label map, beside g/f0.png, no image"
    assert metrics_of(tmp_path / "cells")["cells"] == images["n_cells"].sum() == 24
    assert "the group 'masks' is called like outputs" in capsys.readouterr().err


def test_groups_in_several_spellings_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, group in enumerate(["Café", "Cafe\u0301", "D01", "d01 ", "other"]):
        put(tmp_path / "raw" / group / "1.png", pillow(some_discs(number), "PNG"))
    images = segmented(tmp_path / "raw", tmp_path / "cells")
    assert images["group"].nunique() == 3
    assert "groups: 2 are spelled in several ways and taken as one" in capsys.readouterr().err
