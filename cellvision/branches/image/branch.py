"""Branch: single-cell crops of a segment run. Items are cells; the network input is (n, S, S, C) uint8."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import Augment, Baseline, Branch, Sample, State, items
from cellvision.branches.items import Items
from cellvision.branches.names import parse
from cellvision.cells import brightness, cropstore
from cellvision.cells.cropstore import Crops
from cellvision.core import files, rundir
from cellvision.core.config import PluginConfig, option
from cellvision.core.errors import ConfigError
from cellvision.core.rng import derive

FIT_SAMPLE = 512  # training crops that mean and standard deviation are taken from


class ImageBranch(Branch):
    """Crops with their masks; which part of a crop is shown is a choice made here, at training time."""

    default_encoder = "resnet18"

    class Config(PluginConfig):
        """Options of the image branch."""

        name: Literal["image"] = "image"
        view: Literal["context", "marked", "masked", "background", "shape"] = option(
            "context", "what is shown: the crop, the crop and its mask, the cell alone, all but the cell, or the mask"
        )
        size: int = option(
            64, "px, side the network sees; every crop is scaled alike from its stored size", ge=16, le=1024
        )

    def __init__(self, cfg: Config, path: Path, reserved: tuple[str, ...] = ()) -> None:

        self.cfg = cfg
        if not rundir.is_run(path, "segment"):
            raise ConfigError(f"{path} is no segment run; make one with: cellvision segment --raw IMAGES --out RUN")
        table = files.read_parquet(path / "cells.parquet")
        facts, metrics = (files.read_json(path / f"{name}.json") for name in ("geometry", "metrics"))
        stamps, notes = (tuple(metrics.get(name, ())) for name in ("stamps", "notes"))
        self.items = Items(table, rundir.content_of(path), _missed(path), stamps, facts, notes)
        self.crops = Crops(path / "crops")
        self._positions = table["crop_shard"].to_numpy(np.int64) * cropstore.SHARD_ROWS + table["crop_row"].to_numpy(
            np.int64
        )

    @classmethod
    def sample(cls, folder: Path, other_half: bool = False) -> Sample:
        from cellvision.branches.image.sample import write

        return write(folder, other_half)

    def schema(self) -> dict[str, Any]:
        return {"size": self.cfg.size, "view": self.cfg.view, "geometry": self.items.facts}

    def align(self, schema: dict[str, Any]) -> list[str]:
        geometry, trained = self.items.facts, schema["geometry"]
        if geometry["channels"] != trained["channels"] and {geometry["channels"], trained["channels"]} != {1, 3}:
            raise ConfigError(
                f"these crops have {geometry['channels']} channels, the model was trained on {trained['channels']}"
            )
        if self.cfg.view != schema["view"]:
            raise ConfigError(
                f"the model was trained on the view {schema['view']!r}, this run asks for {self.cfg.view!r}"
            )
        notes = []
        if geometry["channels"] != trained["channels"]:
            notes.append("grey and colour crops meet: grey is repeated over three channels")
        if abs(geometry["scale"] - trained["scale"]) > 1e-6:
            notes.append(
                f"these crops are stored at scale {geometry['scale']:.3g}, the model saw {trained['scale']:.3g}"
            )
        names, usual = geometry.get("channel_names"), trained.get("channel_names")
        if names and usual and names != usual:
            listed = f"these crops have the channels {', '.join(names)}, the model saw {', '.join(usual)}"
            if sorted(names) == sorted(usual):
                raise ConfigError(f"{listed}: cut them in that order, with --channels {','.join(usual)}")
            notes.append(listed)
        return notes + brightness.unlike(geometry.get("intensity"), trained.get("intensity"))

    def fit(self, rows: NDArray[np.int64]) -> State:
        """(C,) mean and standard deviation, 0..255, over an evenly spread sample of the (n,) training rows."""
        sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), FIT_SAMPLE)).astype(int)]
        pixels = self.batch(sample, {"mean": np.full(1, 127.0)})
        pixels = pixels.reshape(-1, pixels.shape[-1])
        mean, std = pixels.mean(0, dtype=np.float64), pixels.std(0, dtype=np.float64)
        return {"mean": mean.astype(np.float32), "std": np.maximum(std, 1.0).astype(np.float32)}

    def batch(self, rows: NDArray[np.int64], state: State, augment: Augment | None = None) -> NDArray[np.uint8]:
        """(n, S, S, C) uint8; grey is repeated to three channels, what the view hides is filled with the mean."""
        crops = resize(self.crops.take(self._positions[rows]), self.cfg.size)
        if augment is not None:
            crops = vary(crops, augment, rows)
        pixels, mask = crops[..., :-1], crops[..., -1:] > 127
        if pixels.shape[-1] == 1:
            pixels = np.repeat(pixels, 3, axis=-1)
        if self.cfg.view == "context":
            return np.ascontiguousarray(pixels)
        if self.cfg.view == "marked":
            return np.concatenate([pixels, mask.astype(np.uint8) * 255], axis=-1)
        if self.cfg.view == "shape":
            return np.repeat(mask.astype(np.uint8) * 255, pixels.shape[-1], axis=-1)
        shown = mask if self.cfg.view == "masked" else ~mask
        return np.where(shown, pixels, np.broadcast_to(state["mean"], pixels.shape[-1:]).round().astype(np.uint8))

    def feature_names(self, state: State) -> None:
        """A pixel has no name."""

    def network(self, name: str, state: State) -> Any:
        from cellvision.branches.image.networks import Normalised, timm_network

        parsed, mean, std = parse(name), state["mean"], state["std"]
        backbone = timm_network(parsed.name, len(mean), self.cfg.size, parsed.source == "imagenet")
        return Normalised(backbone, mean, std)

    def baselines(self) -> dict[str, Baseline]:
        """Colour of the cells, hand-made features, and two shortcuts: what surrounds the cells, and their mere size."""
        from cellvision.branches.image import handmade

        def of_crops(function: Any) -> Any:
            return lambda rows: self._chunked(function, rows)

        return {
            "colour": Baseline("logistic", of_crops(handmade.colour)),
            "handmade": Baseline("forest", of_crops(handmade.handmade)),
            "background": Baseline("logistic", of_crops(handmade.background), shortcut=True),
            "size": Baseline("logistic", self._size, shortcut=True),
        }

    def _chunked(self, function: Any, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        chunks = [self.crops.take(self._positions[rows[start : start + 512]]) for start in range(0, len(rows), 512)]
        return np.concatenate([function(_three_channels(chunk)) for chunk in chunks])

    def _size(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        table = self.items.table.iloc[rows]
        return np.log(table[["area_px", "scale"]].to_numpy(np.float32) + 1e-6)


def _three_channels(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey crops repeated, more than three channels cut to the first three: what hand-made colour features expect."""
    if crops.shape[-1] == 2:
        return crops[..., [0, 0, 0, 1]]
    return crops if crops.shape[-1] == 4 else crops[..., [0, 1, 2, -1]]


def _missed(path: Path) -> Any:
    """Annotations in a readable image that no cell answers to."""

    if not (path / "annotations.parquet").exists():
        return items.no_missed()
    table = files.read_parquet(path / "annotations.parquet")
    table = table[table["status"].isin(["outside", "shared"])]
    return table.rename(columns={"image_id": "source_id"})[["source_id", "label"]].reset_index(drop=True)


def resize(crops: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(n, S, S, C+1) -> (n, size, size, C+1); areas are averaged when shrinking."""
    import cv2

    if crops.shape[1] == size:
        return crops
    how = cv2.INTER_AREA if size < crops.shape[1] else cv2.INTER_LINEAR
    out = np.empty((len(crops), size, size, crops.shape[3]), np.uint8)
    for number, crop in enumerate(crops):
        out[number] = cv2.resize(crop, (size, size), interpolation=how).reshape(size, size, -1)
    return out


# -- views --------------------------------------------------------------------------------------------------------


def vary(crops: NDArray[np.uint8], augment: Augment, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(n, S, S, C+1) -> the same shape, each crop varied by its own generator; the mask moves along."""
    if augment.strength == "pose":
        return posed(crops, augment.key[0])
    transform = recipe(augment.strength, crops.shape[1], crops.shape[3] - 1)
    out = np.empty_like(crops)
    for position, row in enumerate(rows):
        transform.set_random_seed(derive(0, *augment.key, position, row) % 2**32)
        varied = transform(image=np.ascontiguousarray(crops[position, ..., :-1]), mask=crops[position, ..., -1])
        out[position, ..., :-1] = varied["image"].reshape(*crops.shape[1:3], -1)
        out[position, ..., -1] = varied["mask"]
    return out


def posed(crops: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """(n, S, S, C+1) -> the same shape in pose 0 to 7: a quarter turn a step, mirrored from 4 on."""
    turned = np.rot90(crops, number % 4, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if number % 8 >= 4 else turned)


@functools.lru_cache(maxsize=8)
def recipe(strength: str, size: int, channels: int) -> Any:
    """Augmentations for single cells: no direction is special, the cell stays in view, stain varies within reason.

    The weak ones, for learning classes, keep the size: for many cell types size is what tells them apart.
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A  # noqa: N812 - the library's own convention

    if strength == "weak":
        return A.Compose(
            [
                A.D4(p=1.0),
                A.Affine(rotate=(-45, 45), translate_percent=(-0.04, 0.04), border_mode=1, p=0.7),
                A.RandomBrightnessContrast(0.15, 0.15, p=0.5),
            ]
        )
    colour = [A.HueSaturationValue(10, 20, 10, p=0.5)] if channels == 3 else []
    return A.Compose(
        [
            A.D4(p=1.0),
            A.RandomResizedCrop((size, size), scale=(0.5, 1.0), ratio=(0.9, 1.1), p=1.0),
            A.RandomBrightnessContrast(0.3, 0.3, p=0.8),
            A.RandomGamma((70, 140), p=0.3),
            *colour,
            A.GaussianBlur(sigma_limit=(0.3, 1.2), blur_limit=0, p=0.3),
            A.GaussNoise(std_range=(0.01, 0.05), p=0.3),
        ]
    )
