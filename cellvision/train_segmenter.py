"""Stage: corrected masks of one's own microscope -> a fine-tuned `nano`. Writes weights.safetensors, scores.parquet.

A share of the images (whole units) is held out; average precision on them is measured before and after.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cellvision.cells.pixels import ReadConfig, load_pixels
from cellvision.core import files
from cellvision.core.config import StageConfig, fingerprint, option
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.core.progress import say, track
from cellvision.core.rng import derive, torch_seed
from cellvision.core.rundir import RunDir
from cellvision.evidence import scoring, seen
from cellvision.evidence.seen import Seen
from cellvision.executors import local
from cellvision.io import rawfolder
from cellvision.io.images.reader import ImageError
from cellvision.runs.calls import stage
from cellvision.training.schedule import LoopConfig

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

REVISION = 4


class Config(StageConfig):
    """Options of `train_segmenter`."""

    raw: Path = option(..., "folder of images, with or without sub-folders", runtime=True)
    truth: Path = option(..., "folder of their label maps (TIFF, PNG or GeoJSON), named like the images", runtime=True)
    weights: Path | None = option(None, "network to start from; the embedded one when absent", runtime=True)
    unit: str | None = option(
        None, "regular expression on the image's path, its first group names what belongs together"
    )
    held_out: float = option(0.25, "share of the units that are only scored; 0 trains on everything", ge=0, lt=1)
    read: ReadConfig = option(ReadConfig(), "how files become pixels, as in segment", flag=False)
    loop: LoopConfig = option(
        LoopConfig(steps=200, batch=8, lr=3e-4, weight_decay=0.02, ema=0.98), "length and rate", flag=False
    )
    short: ClassVar[dict[str, str]] = {
        **{name: f"loop.{name}" for name in ("steps", "batch", "lr")},
        **{name: f"read.{name}" for name in ("channels", "frames", "max_megapixels", "follow_symlinks")},
    }
    uses: ClassVar[tuple[str, ...]] = ("seed", "workers", "threads", "device")


@stage
def run(cfg: Config, out: Path) -> None:
    """Fine-tune on the training units, score the held-out ones before and after."""
    import pandas as pd

    from cellvision.plots.base import save
    from cellvision.plots.results import curves
    from cellvision.segmenters.nano import network as nano_network
    from cellvision.segmenters.nano import segmenter as nano
    from cellvision.segmenters.nano import training as nano_training
    from cellvision.training import loop
    from cellvision.training.device import pick_device

    table = pairs_of(cfg)
    start = cfg.weights or nano.WEIGHTS
    inputs = {"images": fingerprint(table[["path", "sha256", "truth_sha256"]].to_numpy().tolist()),
              "weights": files.sha256_file(start)}  # fmt: skip
    with RunDir.claim(out, "train_segmenter", cfg, inputs, REVISION) as claimed:
        if not claimed.done:
            table["held_out"] = hold_out(table["unit"], cfg.held_out, cfg.seed)
            device = pick_device(cfg.device, cfg.threads)
            before = score(cfg, table[table["held_out"]], start)
            scenes, natives = pack(cfg, table[~table["held_out"]], out / "pack")
            network = nano_network.load(start).to(device)
            history = loop.train(
                network,
                nano_training.loss,
                nano_training.Batches(scenes, natives, cfg.loop.batch, torch_seed(cfg.seed, "train_segmenter")),
                cfg.loop,
                seed=cfg.seed,
                folder=out / "checkpoints",
                what="train_segmenter",
                workers=max(0, local.cores() - 1) if cfg.workers is None else cfg.workers,
            )
            weights = out / "weights.safetensors"
            nano_network.save(weights, network, {"origin": f"{cfg.loop.steps} steps from {files.sha256_file(start)}"},
                              history_of(cfg, table[~table["held_out"]]))  # fmt: skip
            after = score(cfg, table[table["held_out"]], weights)
            save(curves(pd.DataFrame(history)), out / "curves.png")
            loop.forget(out / "checkpoints")
            loop.forget(out / "pack")
            stamps = stamps_of(cfg, table[table["held_out"]])
            claimed.finish(write_scores(table, before, after, out) | {"loss": history[-1]["loss"], "stamps": stamps})
        report_to_person(out)


def pairs_of(cfg: Config) -> pd.DataFrame:
    """One row an image that has a label map: path, file, truth, hashes, unit."""
    import pandas as pd

    from cellvision.evidence import labelscores

    if not cfg.raw.is_dir():
        raise NoUsableInput(f"no folder at {cfg.raw}")
    truth = labelscores.find(cfg.truth)
    listed = rawfolder.scan(cfg.raw, follow_symlinks=cfg.read.follow_symlinks)
    entries = [entry for entry in listed if entry.status == "ok"]
    images = pd.DataFrame({"path": [entry.relative for entry in entries], "image_id": [e.image_id for e in entries]})
    rows = []
    for entry, maps in zip(entries, labelscores.assign(images, truth.maps) if len(images) else [], strict=True):
        if len(maps) == 1:
            hashed = replace(entry, sha256=files.sha256_file(entry.path))
            rows.append({
                "path": entry.relative, "entry": hashed, "truth": maps[0], "unit": unit_of(entry.relative, cfg.unit),
                "sha256": hashed.sha256, "truth_sha256": files.sha256_file(maps[0]),
            })  # fmt: skip
    if not rows:
        raise NoUsableInput(
            f"none of the {len(entries)} images in {cfg.raw} has a label map of its name in {cfg.truth}"
        )
    table = pd.DataFrame(rows).sort_values("path", ignore_index=True)
    table["unit"] = table.groupby("sha256")["unit"].transform("min")  # copies of an image stay together
    return table


def unit_of(path: str, pattern: str | None) -> str:
    if pattern is None:
        return path
    try:
        match = re.search(pattern, path)
    except re.error as error:
        raise ConfigError(f"--unit: {pattern!r} is no regular expression ({error})") from None
    if match is None or not match.groups():
        raise ConfigError(f"--unit: {pattern!r} finds no group in {path!r}")
    return match.group(1)


def hold_out(units: pd.Series, share: float, seed: int) -> NDArray[np.bool_]:
    """(n,) which images are only scored: at least one unit, and at least one is left to train on."""
    names = sorted(set(units), key=lambda name: derive(seed, "held out", name))
    if not share:
        return np.zeros(len(units), bool)
    if len(names) < 2:
        raise ConfigError("one unit cannot be trained on and held out; add images, or give --held-out 0 (no score)")
    count = min(len(names) - 1, max(1, round(share * len(names))))
    return np.isin(units, names[:count])


def read(cfg: Config, row: Any) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """An image, (H, W, 1 or 3) uint8 as `segment` sees it, and its labels 1..n without gaps."""
    from cellvision.io import geojson

    try:
        pixels = load_pixels(row.entry, cfg.read).seen
    except ImageError as error:
        raise ImageError(error.reason, f"{row.path!r} cannot be trained on: {error}") from None
    labels = geojson.read_labels(row.truth, pixels.shape[:2]).labels
    return pixels, np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def pack(cfg: Config, table: pd.DataFrame, folder: Path) -> tuple[Any, Any]:
    """The training images as scenes and native images, each image with the same weight."""
    from cellvision.segmenters.nano import training as nano_training

    arrays = [read(cfg, row) for row in table.itertuples()]
    arrays = [(pixels, labels) for pixels, labels in arrays if labels.any()]
    if not arrays:
        raise NoUsableInput("no label map of the training images holds a cell")
    scenes = ((nano_training.scene_of(*pair), {"weight": 1.0}) for pair in arrays)
    nano_training.pack(folder / "scenes", scenes)
    natives = (
        (image, {"weight": 1.0, "diameter": size}) for image, size in (nano_training.native_of(*p) for p in arrays)
    )
    nano_training.pack(folder / "natives", natives)
    return nano_training.Scenes(folder / "scenes"), nano_training.Scenes(folder / "natives")


def images_of(cfg: Config, table: pd.DataFrame) -> pd.DataFrame:
    """What the images of these rows are known by, as in images.parquet."""
    import pandas as pd

    from cellvision.cells import account

    rows = []
    for row in table.itertuples():
        image = load_pixels(row.entry, cfg.read).image
        rows.append(account.image_row(row.entry, "ok", "", "", image))
    return pd.DataFrame(rows)


def start_history(cfg: Config) -> Seen:
    """What the network it starts from has seen."""
    from cellvision.evidence import maskhistory

    return maskhistory.in_file(cfg.weights) if cfg.weights else Seen()


def history_of(cfg: Config, table: pd.DataFrame) -> dict[str, Tensor]:
    """What the weights have seen after training on these rows, as tensors beside them."""
    from cellvision.evidence import maskhistory
    from cellvision.io import tensorfiles

    items = maskhistory.as_items(images_of(cfg, table))
    trained = seen.of(items, items.table["unit"].to_numpy(str), np.arange(len(items.table)))
    return tensorfiles.history_tensors(seen.packed(start_history(cfg) | trained))


def stamps_of(cfg: Config, held_out: pd.DataFrame) -> list[str]:
    """What the scores of the held-out rows have to say of the weights it started from."""
    from cellvision.evidence import maskhistory

    return maskhistory.truth_stamps(start_history(cfg), images_of(cfg, held_out)) if len(held_out) else []


def score(cfg: Config, table: pd.DataFrame, weights: Path) -> list[dict[str, float]]:
    """`overlap.score` of each image with these weights."""
    from cellvision.evidence import overlap
    from cellvision.segmenters import SEGMENTERS

    segmenter = SEGMENTERS.build({"name": "nano", "weights": str(weights)}, device=cfg.device)
    scores = []
    for row in track(table.itertuples(), "train_segmenter: score", len(table), "images"):
        pixels, labels = read(cfg, row)
        scores.append(overlap.score(labels, segmenter.segment(pixels).masks))
    return scores


def write_scores(
    table: pd.DataFrame, before: list[dict[str, float]], after: list[dict[str, float]], out: Path
) -> dict[str, Any]:
    """scores.parquet, one row an image; -> the means over held-out images."""
    import pandas as pd

    from cellvision.evidence import labelscores

    held_out = table[table["held_out"]]
    scores = [pd.DataFrame(rows, index=held_out.index).add_suffix(f"_{when}") for rows, when in
              ((before, "before"), (after, "after"))]  # fmt: skip
    shown = table[["path", "unit", "held_out"]].join(scores)
    files.write_parquet(out / "scores.parquet", shown)
    metrics: dict[str, Any] = {"trained_on": int((~table["held_out"]).sum()), "units": int(table["unit"].nunique())}
    for when, rows in (("before", before), ("after", after)):
        if rows:
            scored = pd.DataFrame(rows).assign(unit=held_out["unit"].to_numpy())
            for name, value in labelscores.summary(scored).items():
                metrics[re.sub(r"(_low|_high)?$", rf"_{when}\1", name, count=1)] = value
    return metrics


def report_to_person(out: Path) -> None:
    metrics = files.read_json(out / "metrics.json")
    say(f"train_segmenter: trained on {metrics['trained_on']} images -> {out / 'weights.safetensors'}")
    if "ap_50_after" not in metrics:
        say("train_segmenter: nothing was held out, so there is no score")
        return
    before, after = metrics["ap_50_before"], metrics["ap_50_after"]
    say(
        f"train_segmenter: AP at IoU 0.5 on {metrics['images_after']} held-out images {before:.3f} before, "
        f"{scoring.told(metrics, 'ap_50_after')} after, {metrics['units_after']} units"
    )
    if after < before:
        say("train_segmenter: it has become worse; keep the old weights, or correct more masks")


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("train_segmenter"))
