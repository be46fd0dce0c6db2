"""Fine-tuning nano: better on held-out images of an unseen look, resumable, honest about what was held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_segmenter import config, crosses

from cellvision import segment, train_segmenter
from cellvision.branches import BRANCHES
from cellvision.core import files, signals
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.evidence import maskhistory
from cellvision.io import tensorfiles
from cellvision.segmenters.nano import training as nano_training
from cellvision.segmenters.nano.network import DIAMETER, NanoNetwork


def test_it_learns_a_new_kind_of_cell_and_scores_it_on_unseen_images(trained_segmenter: Path) -> None:
    out = trained_segmenter / "out"
    found = files.read_json(out / "metrics.json")
    assert found["trained_on"] == 4
    assert found["images_after"] == found["images_before"] == 2
    assert found["ap_50_after"] >= found["ap_50_before"]
    table = pd.read_parquet(out / "scores.parquet")
    assert table["held_out"].sum() == 2
    assert table.loc[table["held_out"], "ap_50_after"].notna().all()
    assert table.loc[~table["held_out"], "ap_50_after"].isna().all()
    assert not (out / "checkpoints").exists()
    cfg = config(trained_segmenter / "raw", trained_segmenter / "truth", held_out=0.34)
    held = train_segmenter.pairs_of(cfg)[table["held_out"]]
    again = train_segmenter.score(cfg, held, out / "weights.safetensors")
    assert np.mean([row["ap_50"] for row in again]) == pytest.approx(found["ap_50_after"])


def test_masks_and_scores_say_what_the_segmenter_was_trained_on(trained_segmenter: Path, tmp_path: Path) -> None:
    """Of the six images two were held out; the crops of the run carry it on."""
    weights, folder = trained_segmenter / "out" / "weights.safetensors", tmp_path
    raw, truth = trained_segmenter / "raw", trained_segmenter / "truth"
    nano = {"name": "nano", "weights": str(weights)}
    segment.run(segment.Config(raw=raw, segmenter=nano, truth=truth, workers=0), folder / "cells")
    told = "masks: the segmenter was trained on 4 of these 6 images"
    assert told in files.read_json(folder / "cells" / "metrics.json")["stamps"]
    assert told in files.read_json(folder / "cells" / "truth.json")["stamps"]
    assert told in BRANCHES.build({"name": "image"}, path=folder / "cells").items.stamps
    tensors = tensorfiles.read(weights)[0]
    bare = {key: value for key, value in tensors.items() if not key.startswith(tensorfiles.HISTORY)}
    tensorfiles.write(folder / "bare.safetensors", bare)
    unknown = "the segmenter's weights in bare.safetensors do not say what they have seen"
    assert maskhistory.in_file(folder / "bare.safetensors").unknown == (unknown,)


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, truth = crosses(tmp_path, 2)
    cfg = config(raw, truth, held_out=0, loop={"steps": 3, "batch": 2})
    train_segmenter.run(cfg, tmp_path / "whole")
    calls = []

    def stop() -> int:
        calls.append(1)
        return 15 if len(calls) >= 2 else 0

    with monkeypatch.context() as patch:
        patch.setattr(signals, "requested", stop)
        with pytest.raises(signals.Interrupted):
            train_segmenter.run(cfg, tmp_path / "cut")
    train_segmenter.run(cfg, tmp_path / "cut")
    whole, cut = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


def test_images_and_masks_that_do_not_meet_are_one_line(tmp_path: Path) -> None:
    raw, truth = crosses(tmp_path, 2)
    for path in (truth / "odd").iterdir():
        path.rename(path.with_name(f"other{path.name}"))
    with pytest.raises(NoUsableInput, match="label map"):
        train_segmenter.run(config(raw, truth), tmp_path / "out")


def test_units_are_held_out_whole(tmp_path: Path) -> None:
    units = pd.Series(["a", "a", "b", "b", "b", "c"])
    held = train_segmenter.hold_out(units, 0.3, seed=1)
    assert 0 < held.sum() < 6
    assert all(len(set(held[units == name])) == 1 for name in "abc")
    with pytest.raises(ConfigError, match="one unit"):
        train_segmenter.hold_out(pd.Series(["a", "a"]), 0.3, 0)
    assert train_segmenter.unit_of("g/slide3_7.png", r"(slide\d+)") == "slide3"
    with pytest.raises(ConfigError, match="no group"):
        train_segmenter.unit_of("g/1.png", r"slide\d+")


def test_a_scene_is_at_the_networks_scale_and_its_flows_turn_with_it() -> None:
    y, x = np.mgrid[:200, :200]
    labels = (np.hypot(y - 100, x - 100) < 40).astype(np.int32)
    scene = nano_training.scene_of(np.where(labels, 200, 30).astype(np.uint8)[..., None], labels)
    assert abs(np.sqrt((scene[..., 5] > 127).sum() * 4 / np.pi) - DIAMETER) < 1.5
    for seed in range(5):
        crop = nano_training.scene_crop(scene, np.random.default_rng(seed))
        rows, columns = np.nonzero(crop[5].numpy() > 0)
        centre = np.array([rows.mean(), columns.mean()])
        towards = centre[:, None] - np.stack([rows, columns])
        far = np.hypot(*towards) > 3
        flow = crop[3:5, rows, columns].numpy()
        cosine = (flow * towards).sum(0) / np.maximum(np.hypot(*towards) * np.hypot(*flow), 1e-6)
        assert np.mean(cosine[far] > 0.9) > 0.95


def test_the_loss_counts_known_pixels_only() -> None:
    torch.manual_seed(0)
    network = NanoNetwork().eval()
    batch = {
        "image": torch.rand(2, 3, 64, 64), "target": torch.zeros(2, 3, 64, 64), "valid": torch.ones(2, 1, 64, 64),
        "sized": torch.rand(2, 3, 64, 64), "diameter": torch.zeros(2),
    }  # fmt: skip
    batch["valid"][:, :, :, 32:] = 0
    with torch.no_grad():
        before = float(nano_training.loss(network, batch))
        batch["target"][:, :, :, 32:] = 1
        assert float(nano_training.loss(network, batch)) == pytest.approx(before)
        batch["target"][:, :, :, :32] = 1
        assert float(nano_training.loss(network, batch)) != pytest.approx(before)
