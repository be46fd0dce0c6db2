"""Channels that are files of their own, joined: the first file stands for the image, the others are parts of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cellvision.core.errors import ConfigError
from cellvision.io import acquisition
from cellvision.io.images.pixels import Array, Channels, Frames, ImageError, Limits, Reason, picked
from cellvision.io.images.reader import Image, read_image
from cellvision.io.rawfolder import Entry, Part

NUMBERED = "ch"


def joined(entries: Sequence[Entry]) -> list[Entry]:
    """Entries in which the channel files of a field are one image, named by their channels, in order.

    A field that lacks a channel which most have is skipped. ConfigError where no field has several channels.
    """
    fields: defaultdict[tuple[object, ...], dict[str, Entry]] = defaultdict(dict)
    listed = [entry for entry in entries if entry.status == "ok"]
    names = acquisition.parse_all([entry.relative.removeprefix(f"{entry.group}/") for entry in listed])
    for entry, name in zip(listed, names, strict=True):
        if "channel" in name.axes:
            place = (entry.group, name.field, name.axes.get("z"), name.axes.get("t"))
            fields[place].setdefault(_called(name.axes["channel"]), entry)
    several = [channels for channels in fields.values() if len(channels) > 1]
    if not several:
        raise ConfigError("--join-channels: no files here differ only in their channel (_w1 _w2, _ch00 _ch01, _DAPI …)")
    expected = Counter(tuple(sorted(channels, key=_order)) for channels in several).most_common(1)[0][0]
    changed: dict[str, Entry] = {}
    for channels in fields.values():
        if set(channels) & set(expected):
            changed |= {entry.relative: entry for entry in _one_image(channels, expected)}
    return [changed.get(entry.relative, entry) for entry in entries]


def _called(channel: str) -> str:
    """A name that no option takes for the place of a channel: ch2 for 2, as it is for DAPI."""
    return f"{NUMBERED}{channel}" if channel.isdigit() else channel


def _order(channel: str) -> tuple[int, str]:
    """Numbers by size, names by letter."""
    return (len(channel) if channel.removeprefix(NUMBERED).isdigit() else 0, channel.casefold())


def _one_image(channels: dict[str, Entry], expected: tuple[str, ...]) -> list[Entry]:
    """The files of one field: an image and its parts, or all skipped where they are not the channels of the others."""
    if set(channels) != set(expected):
        note = f"channels {', '.join(sorted(channels, key=_order))} of its field, others have {', '.join(expected)}"
        return [replace(entry, status="skipped", reason=Reason.E_CHANNELS, note=note) for entry in channels.values()]
    first = channels[expected[0]]
    parts = tuple(Part(name, channels[name].path, channels[name].sha256) for name in expected)
    rest = [
        replace(channels[name], status="ignored", reason=Reason.OK_NOTE, note=f"channel {name} of {first.relative}")
        for name in expected[1:]
    ]
    return [replace(first, parts=parts), *rest]


def read(entry: Entry, frames: Frames, channels: Channels | None, limits: Limits) -> Image:
    """The image of an entry with parts. ImageError where they changed, are not grey, or differ in size or depth."""
    images = []
    for file in entry.parts:
        image = read_image(file.path, frames=frames, limits=limits)
        if image.sha256 != file.sha256:
            raise ImageError(Reason.E_CHANGED, f"the file of channel {file.name} changed after the folder was listed")
        images.append(replace(image, pixels=_grey(image.pixels, file.name)))
    kinds = {(image.pixels.shape, image.dtype) for image in images}
    if len(kinds) > 1:
        raise ImageError(Reason.E_CHANNELS, "the files of its channels differ in size or depth; export them alike")
    pixels, names = (
        np.concatenate([image.pixels for image in images], axis=2),
        [channel.name for channel in entry.parts],
    )
    if channels is not None:
        pixels, names = picked(pixels, channels, names)
    notes = tuple(dict.fromkeys(note for image in images for note in image.notes))
    return replace(images[0], pixels=pixels, channel_names=tuple(names), notes=notes, sha256=entry.sha256)


def _grey(pixels: Array, channel: str) -> Array:
    """(H, W, C) -> (H, W, 1), where all channels are one."""
    if not (pixels == pixels[..., :1]).all():
        raise ImageError(Reason.E_CHANNELS, f"the file of channel {channel} is in colour; export it in grey")
    return pixels[..., :1]
