"""predict cuts new images as the training images were cut."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny_runs import metrics_of, run

from cellvision import finetune, predict, segment
from cellvision.core import files
from cellvision.core.config import build, result_keys

CUT: dict[str, Any] = {
    "segmenter": "threshold", "mode": "object", "modes": {"rbc": "cell"}, "context": 0.4, "max_size": 48,
    "read": {"channels": [0, 1]}, "workers": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def objects(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("objects") / "run"
    segment.run(build(segment.Config, CUT | {"raw": simulated / "raw"}), out)
    return out


@pytest.fixture(scope="module")
def model(objects: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(finetune, tmp_path_factory.mktemp("model") / "run", items=objects, fold="none") / "model"


def test_the_same_images_become_the_same_items(objects: Path, model: Path, simulated: Path, tmp_path: Path) -> None:
    out = run(predict, tmp_path / "run", model=model, raw=simulated / "raw")
    first, again = (pd.read_parquet(folder / "cells.parquet") for folder in (objects, out / "runs" / "segment"))
    assert set(first["mode"]) == {"cell", "object"}
    pd.testing.assert_frame_equal(first, again)
    assert files.read_json(objects / "geometry.json") == files.read_json(out / "runs" / "segment" / "geometry.json")
    assert metrics_of(out)["notes"] == []


def test_every_option_that_changes_cells_is_kept(model: Path) -> None:
    kept = files.read_json(model / "bundle.json")["segment"]
    cfg = build(segment.Config, CUT | {"raw": "raw"})
    assert set(kept) == set(result_keys(cfg))
    assert result_keys(build(segment.Config, kept | {"raw": "raw"})) == result_keys(cfg)


def test_a_bundle_made_before_still_cuts_and_says_what_it_cannot_know(
    model: Path, simulated: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "model")
    bundle = files.read_json(model / "bundle.json")
    bundle["segment"] = {name: bundle["segment"][name] for name in ("segmenter", "drop", "max_size", "read")}
    del bundle["segmenter"]
    files.write_json(tmp_path / "model" / "bundle.json", bundle)
    out = run(predict, tmp_path / "run", model=tmp_path / "model", raw=simulated / "raw")
    assert any(note.startswith("the bundle is old and does not say the mode") for note in metrics_of(out)["notes"])


def test_ready_crops_were_not_cut(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("segmenter: {name: threshold}\n")
    record = {
        "schema": 1,
        "stage": "segment",
        "status": "running",
        "inputs": {"crops": "a"},
        "config": {"segmenter": {}},
    }
    files.write_json(tmp_path / "run.json", record)
    assert finetune.segmentation_of(tmp_path) is None
