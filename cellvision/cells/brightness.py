"""Which intensities of the files become 0 and 255 in the crops: one choice for the run, which no label has entered.

An intensity counts as a share of its file's full scale, so that a picture is the same in whichever depth it was saved.
The full scale is what the metadata tell, else, for all files of a type, the smallest of 8, 10, 12, 14, 16 or 32 bits
that holds their largest value, and 1 for floats that stay below. Images of 8 bits alone are taken as they are, from 0
to full scale. All others share one range: from 0, so that twice the light is twice the value, to what the brightest
images reach; from what the darkest ones reach where more than half of the range would be empty, or below 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat, PositiveFloat

from cellvision.core.config import StageModel, build, option
from cellvision.core.errors import ConfigError
from cellvision.io.images.intensity import DEPTHS, full_scale, intensity_range, percentiles
from cellvision.io.images.reader import Image

if TYPE_CHECKING:
    import pandas as pd

Intensity = Literal["run", "image", "unit", "fixed"]
Range = tuple[FiniteFloat, FiniteFloat]  # what becomes 0, what becomes 255
Ranges = tuple[Range, ...]  # of each channel

DEFAULT: Intensity = "run"
BEFORE: Intensity = "image"  # what runs and bundles mean that do not say it
SPREAD = 0.01  # of the images may lie below or above the range of all
EMPTY_START = 0.5  # of the range: a larger start is left out
UNLIKE = 2.0  # times as bright, or as dark, is worth a word
PLAIN = "uint8"


class Scale(StageModel):
    """What the crops of a run were made with, by number of channels; all ranges in shares of full scale."""

    ranges: dict[int, Ranges] = option({})
    reached: dict[int, Ranges] = option({})  # by all but the darkest and the brightest images
    full: dict[str, PositiveFloat] = option({})  # full scale of each type of file that does not tell its own


# -- of one image -------------------------------------------------------------------------------------------------


def measured(image: Image) -> dict[str, Any]:
    """The columns of an image's row that tell its intensities, in values of the file."""
    low, high = zip(*percentiles(image.pixels), strict=True)
    return {
        "channels": image.pixels.shape[2], "dtype": str(image.dtype), "intensity_low": list(low),
        "intensity_high": list(high), "intensity_max": float(image.pixels.max()), "full_scale": image.full_scale,
    }  # fmt: skip


UNMEASURED = dict.fromkeys(("channels", "dtype", "intensity_low", "intensity_high", "intensity_max", "full_scale"))


def seen_range(image: Image, trained: Scale | None) -> Ranges:
    """What a segmenter is shown as 0 and 255: 8 bits as they are, else the image's own range, for it wants contrast.

    Where the training images of a bundle had other depths, as their segmenter saw those.
    """
    if trained is None or image.dtype in trained.full or not trained.full:
        return intensity_range(image.pixels)
    if set(trained.full) == {PLAIN}:
        return ((0.0, _full_scale_of(measured(image), {})),) * image.pixels.shape[2]
    return percentiles(image.pixels)


def _full_scale_of(row: Mapping[str, Any], full: Mapping[str, float]) -> float:
    """The full scale of a file, by its metadata, else by that of its type, else by its own values."""
    told, dtype = row["full_scale"], str(row["dtype"])
    if told is not None and told == told:
        return float(told)
    return full[dtype] if dtype in full else full_scale(_largest(row), dtype)


def _largest(row: Mapping[str, Any]) -> float:
    """Of whole numbers the largest; of floats, which may overshoot, what all but a few reach."""
    return float(row["intensity_max"] if str(row["dtype"]) in DEPTHS else max(row["intensity_high"]))


# -- of a run -----------------------------------------------------------------------------------------------------


def choose(
    images: pd.DataFrame, intensity: Intensity, given: tuple[float, ...] | None, trained: Scale | None
) -> tuple[Scale, list[Ranges]]:
    """Rows as `measured`, with unit -> the run's scale, and for each image (n,) what becomes 0 and 255, in its values.

    `given` is --range, one pair or one a channel, in values of the files; `trained` is the scale of a bundle.
    """
    rows = images.to_dict("records")
    full = _full_scales(rows) | (dict(trained.full) if trained else {})
    sizes = [_full_scale_of(row, full) for row in rows]
    spans = [_shares(row, size) for row, size in zip(rows, sizes, strict=True)]
    reached = {count: _reached(spans, rows, count) for count in sorted({int(row["channels"]) for row in rows})}
    plain = all(row["dtype"] == PLAIN for row in rows)
    if intensity in ("run", "fixed") and trained and trained.ranges:
        ranges = trained.ranges
    elif intensity == "fixed":
        ranges = {count: _given(given, count, max(sizes)) for count in reached}
    else:
        ranges = {count: _range_of(pairs, plain) for count, pairs in reached.items()}
    scale = Scale(ranges=ranges if intensity in ("run", "fixed") else {}, reached=reached, full=full)
    if intensity == "image":
        return scale, [_own_range(row) for row in rows]
    if intensity == "unit":
        shares = _by_unit(spans, rows)
    else:
        shares = [_for_channels(int(row["channels"]), ranges) for row in rows]
    return scale, [
        tuple((low * size, high * size) for low, high in pairs) for pairs, size in zip(shares, sizes, strict=True)
    ]


def _full_scales(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Type -> full scale of its files: by those that do not tell it, where there are any."""
    full: dict[str, float] = {}
    for dtype in sorted({str(row["dtype"]) for row in rows}):
        alike = [row for row in rows if row["dtype"] == dtype]
        silent = [row for row in alike if row["full_scale"] is None or row["full_scale"] != row["full_scale"]]
        full[dtype] = (
            full_scale(max(map(_largest, silent)), dtype) if silent else max(row["full_scale"] for row in alike)
        )
    return full


def _shares(row: Mapping[str, Any], size: float) -> NDArray[np.float64]:
    """(C, 2) percentiles of an image in shares of full scale."""
    return np.stack([row["intensity_low"], row["intensity_high"]], axis=1).astype(np.float64) / size


def _reached(spans: list[NDArray[np.float64]], rows: list[dict[str, Any]], channels: int) -> Ranges:
    """What the images with so many channels reach, but for SPREAD of them at each end."""
    alike = np.stack([span for span, row in zip(spans, rows, strict=True) if int(row["channels"]) == channels])
    low = np.quantile(alike[..., 0], SPREAD, axis=0, method="lower")
    high = np.quantile(alike[..., 1], 1 - SPREAD, axis=0, method="higher")
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


def _range_of(reached: Ranges, plain: bool) -> Ranges:
    """The range of each channel: full scale of 8-bit images, else as the head of this file says."""
    if plain:
        return ((0.0, 1.0),) * len(reached)
    starts = [0.0 if 0 <= low <= EMPTY_START * high else low for low, high in reached]
    return tuple((start, high if high > start else start + 1) for start, (_, high) in zip(starts, reached, strict=True))


def _by_unit(spans: list[NDArray[np.float64]], rows: list[dict[str, Any]]) -> list[Ranges]:
    """The range of each image's unit, over the images of the same number of channels."""
    keys = [(row["unit"], int(row["channels"])) for row in rows]
    ranges = {}
    for key in dict.fromkeys(keys):
        chosen = [number for number, other in enumerate(keys) if other == key]
        unit_rows = [rows[number] for number in chosen]
        plain = all(row["dtype"] == PLAIN for row in unit_rows)
        ranges[key] = _range_of(_reached([spans[number] for number in chosen], unit_rows, key[1]), plain)
    return [ranges[key] for key in keys]


def _for_channels(channels: int, ranges: Mapping[int, Ranges]) -> Ranges:
    """Ranges of an image with so many channels; of a number that no training image had, the widest for each."""
    if channels in ranges:
        return ranges[channels]
    pairs = [pair for known_pairs in ranges.values() for pair in known_pairs]
    return ((min(low for low, _ in pairs), max(high for _, high in pairs)),) * channels


def _own_range(row: Mapping[str, Any]) -> Ranges:
    """8 bits as they are, else the percentiles of the image."""
    if row["dtype"] == PLAIN:
        return ((0.0, 255.0),) * int(row["channels"])
    return tuple(
        (float(low), float(high)) for low, high in zip(row["intensity_low"], row["intensity_high"], strict=True)
    )


def _given(given: tuple[float, ...] | None, channels: int, size: float) -> Ranges:
    """--range in shares of the largest full scale, in whose values it was typed; full scale where there is none."""
    if given is None:
        return ((0.0, 1.0),) * channels
    pairs = [(low / size, high / size) for low, high in zip(given[::2], given[1::2], strict=True)]
    if len(pairs) not in (1, channels):
        raise ConfigError(f"--range has {len(pairs)} pairs for {channels} channels; give one LO,HI, or one a channel")
    return tuple(pairs * channels if len(pairs) == 1 else pairs)


# -- words --------------------------------------------------------------------------------------------------------


def told(facts: Mapping[str, Any]) -> str:
    """How the crops of a run were made, for a person; `facts` is what its geometry.json holds."""
    sizes = ", ".join(f"{dtype} {size:g}" for dtype, size in facts["full"].items())
    if facts["mode"] == "image":
        return "8-bit images as they are, any other stretched for itself: how bright an image is cannot be seen"
    if facts["mode"] == "unit":
        return f"one range for each unit, none for all: brightness is comparable inside a unit (full scale: {sizes})"
    ranges = {tuple(map(tuple, pairs)) for pairs in facts["ranges"].values()}
    if ranges and all(pair == (0, 1) for pairs in ranges for pair in pairs):
        return f"full scale for all images ({sizes})"
    listed = "; ".join(", ".join(f"{low:.3g} to {high:.3g}" for low, high in pairs) for pairs in sorted(ranges))
    return f"one range for all images, in shares of full scale {listed} ({sizes}); no label entered it"


def stamps(images: pd.DataFrame) -> list[str]:
    """What different depths of the images (columns group and dtype) may do to a score."""
    depths = {str(group): sorted(set(rows["dtype"])) for group, rows in images.groupby("group")}
    if len({tuple(names) for names in depths.values()}) > 1:
        listed = "; ".join(f"{group}: {', '.join(names)}" for group, names in depths.items())
        return [f"bit depths differ between groups ({listed}): a shortcut on which a score may rest"]
    if any(len(names) > 1 for names in depths.values()):
        listed = ", ".join(sorted({name for names in depths.values() for name in names}))
        return [f"bit depths are mixed within groups ({listed}): each is read as shares of its own full scale"]
    return []


def read_facts(facts: Mapping[str, Any] | None) -> tuple[str, Scale]:
    """Mode and scale out of geometry.json; ConfigError where they are none. A run from before says nothing."""
    facts = dict(facts or {"mode": BEFORE})
    return str(facts.pop("mode", BEFORE)), build(Scale, facts)


def unlike(now: Mapping[str, Any] | None, trained: Mapping[str, Any] | None) -> list[str]:
    """Where crops are not as bright as those a model saw, or nobody can know; facts of their geometry.json each."""
    (mode, scale), (usual_mode, usual) = read_facts(now), read_facts(trained)
    if not scale.full or (not usual.full and set(scale.full) == {PLAIN}):
        return []  # nothing is known, or 8 bits as ever
    if mode != usual_mode:
        return [f"intensity is {mode}, {usual_mode} for the training images: brightness cannot be compared"]
    notes = []
    if scale.ranges != usual.ranges:
        notes.append("these crops have another intensity range than those of training, which predict --raw gives them")
    strange = {name: size for name, size in scale.full.items() if usual.full and name not in usual.full}
    if strange:
        sizes = ", ".join(f"{name}, its full scale taken for {size:g}" for name, size in strange.items())
        notes.append(f"the training images were {', '.join(usual.full)}, here are {sizes}")
    for count, pairs in scale.reached.items():
        for channel, ((_, high), (_, before)) in enumerate(zip(pairs, usual.reached.get(count, ()), strict=False)):
            if high > UNLIKE * before or before > UNLIKE * high:
                reach = f"channel {channel} reaches {high:.3g} of full scale, in the training images {before:.3g}"
                notes.append(f"{reach}: other light, or another bit depth")
    return notes
