"""A file that vanishes while a run reads it is a row, not the end of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import GRID, waves, write_waves
from corpus import pillow
from raw_images import discs, put

from cellvision import extract, segment
from cellvision.core import files


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for number in range(3):
        put(tmp_path / "raw" / "ab"[number % 2] / f"{number}.png", pillow(discs(3 + number), "PNG"))
    return tmp_path / "raw"


@pytest.mark.parametrize("when", ["find_cells", "match_annotations", "write_tables", "preview"])
@pytest.mark.parametrize("how", ["gone", "changed"])
def test_an_image_that_vanishes_between_the_passes_is_a_row(
    when: str, how: str, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, image = getattr(segment, when), raw / "b" / "1.png"

    def vanishing(*arguments: Any) -> Any:
        image.unlink(missing_ok=True) if how == "gone" else image.write_bytes(b"another")
        return real(*arguments)

    monkeypatch.setattr(segment, when, vanishing)
    out = tmp_path / "run"
    segment.run(segment.Config(raw=raw, segmenter="threshold", workers=0), out)
    images = files.read_parquet(out / "images.parquet").set_index("path")
    early = when in ("find_cells", "match_annotations")
    assert images["status"].to_dict() == {"a/0.png": "ok", "a/2.png": "ok", "b/1.png": "skipped" if early else "ok"}
    cells = files.read_parquet(out / "cells.parquet")
    assert set(cells["path"]) == set(images.index[images["status"] == "ok"])


def test_a_file_of_traces_that_vanishes_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        samples = {"1": waves(GRID, 1, 0.1, number)[0].T}
        write_waves(tmp_path / "raw" / f"x__noise_0.1_{number}.h5", GRID, samples)
    real = extract.fingerprint

    def vanishing(listing: Any) -> str:
        (tmp_path / "raw" / "x__noise_0.1_1.h5").unlink()
        return real(listing)

    monkeypatch.setattr(extract, "fingerprint", vanishing)
    extract.run(extract.Config(raw=tmp_path / "raw"), tmp_path / "run")
    rows: pd.DataFrame = files.read_parquet(tmp_path / "run" / "files.parquet").set_index("file")
    assert rows["status"].to_dict() == {"x__noise_0.1_0.h5": "ok", "x__noise_0.1_1.h5": "skipped"}
