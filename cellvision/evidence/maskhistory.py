"""What a segmenter was trained on: its masks of those images are flattered by their own corrections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellvision.branches.items import Items, no_missed
from cellvision.evidence import seen
from cellvision.evidence.seen import Seen

if TYPE_CHECKING:
    import pandas as pd

    from cellvision.core.config import PluginConfig

OTHERS = {"cellpose": "Cellpose's weights were trained on many public images; nobody can tell whether on these"}


def of_segmenter(cfg: PluginConfig | None) -> Seen:
    """What a segmenter's weights have seen: nothing of a user's where they came with the package; None is none."""
    if cfg is None:
        return Seen()
    weights = getattr(cfg, "weights", None)
    if weights is None:
        return Seen(unknown=(OTHERS[cfg.name],) if cfg.name in OTHERS else ())
    return in_file(Path(weights))


def in_file(path: Path) -> Seen:
    """The history that a file of weights tells; unknown where it tells none."""
    from cellvision.io import tensorfiles

    tensors = tensorfiles.read(path)[0] if path.suffix == ".safetensors" else {}
    history = tensorfiles.history(tensors)
    nothing_told = Seen(unknown=(f"the segmenter's weights in {path.name} do not say what they have seen",))
    return seen.unpacked(history) if history else nothing_told


def as_items(images: pd.DataFrame) -> Items:
    """Rows of images.parquet that were read, each image its own source and unit."""
    columns = {"item_id": "image_id", "source_id": "image_id", "source_hash": "pixel_hash", "unit": "image_id"}
    table = images.assign(**{name: images[source] for name, source in columns.items()})
    return Items(table[[*columns, "group", "path", "source_print"]].reset_index(drop=True), "", no_missed())


def trained_on(history: Seen, images: pd.DataFrame) -> list[str]:
    """The ids of those images, rows of images.parquet, that the segmenter was trained on."""
    read = images[images["status"] == "ok"]
    if read.empty or not history:
        return []
    return list(seen.overlap(history, as_items(read), None, np.arange(len(read))).names)


def stamps(history: Seen, images: pd.DataFrame) -> list[str]:
    """What masks of these images, rows of images.parquet, have to say of the segmenter's training."""
    count = len(trained_on(history, images))
    total = int((images["status"] == "ok").sum())
    return [f"masks: the segmenter was trained on {count} of these {total} images"] if count else []


def truth_stamps(history: Seen, images: pd.DataFrame) -> list[str]:
    """The same, and what nobody knows, for scores of masks against their truth."""
    return [*stamps(history, images), *(f"history unknown: {reason}" for reason in history.unknown)]
