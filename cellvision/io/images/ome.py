"""What OME metadata say of the first image: names of channels, significant bits, and which planes lie in this file."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

PIXELS = re.compile(r"<(?:\w+:)?Pixels\b([^>]*)>(.*?)</(?:\w+:)?Pixels>", re.DOTALL)
ROOT = re.compile(r"<(?:\w+:)?OME\b([^>]*)>")
CHANNEL = re.compile(r"<(?:\w+:)?Channel\b([^>]*)>")
PLANES = re.compile(r"<(?:\w+:)?TiffData\b([^>]*?)(?:/>|>(.*?)</(?:\w+:)?TiffData>)", re.DOTALL)
UUID = re.compile(r"<(?:\w+:)?UUID\b[^>]*>\s*([^<\s]*)\s*<")
ATTRIBUTE = re.compile(r'([\w:]+)\s*=\s*"([^"]*)"')
MAX_OWN = 100_000  # planes of one file, as many as it may have pages


@dataclass(frozen=True)
class Plane:
    """A page of the file, and which channel, depth and time it shows."""

    page: int
    c: int
    z: int
    t: int


@dataclass(frozen=True)
class Facts:
    """names: of all channels of the image, empty where one has none; bits: that a camera filled; own: planes here."""

    names: tuple[str, ...]
    bits: int | None
    own: tuple[Plane, ...]


def read(description: str) -> Facts:
    """Facts out of OME-XML; what cannot be understood is left out."""
    root, pixels = ROOT.search(description), PIXELS.search(description)
    if pixels is None:
        return Facts((), None, ())
    names = [html.unescape(_attributes(given).get("Name", "")).strip() for given in CHANNEL.findall(pixels[2])]
    usable = all(names) and len({name.casefold() for name in names}) == len(names)
    attributes = _attributes(pixels[1])
    uuid = _attributes(root[1]).get("UUID", "") if root else ""
    try:
        own = tuple(_own(attributes, pixels[2], uuid))
    except (KeyError, ValueError):
        own = ()
    bits = attributes.get("SignificantBits", "")
    return Facts(tuple(names) if usable else (), int(bits) if re.fullmatch(r"\d{1,2}", bits) else None, own)


def _attributes(text: str) -> dict[str, str]:
    return dict(ATTRIBUTE.findall(text))


def _own(attributes: dict[str, str], body: str, uuid: str) -> Iterator[Plane]:
    """The planes that this file holds: those under its own UUID, or under none."""
    order = attributes.get("DimensionOrder", "XYZCT")[2:].lower()
    sizes = {axis: int(attributes.get(f"Size{axis.upper()}", "1")) for axis in "czt"}
    left = MAX_OWN
    for text, inside in PLANES.findall(body):
        named = UUID.search(inside)
        given = _attributes(text)
        place = {axis: int(given.get(f"First{axis.upper()}", "0")) for axis in "czt"}
        count = int(given.get("PlaneCount", "1" if "IFD" in given else str(sizes["c"] * sizes["z"] * sizes["t"])))
        if named and named[1] != uuid:
            continue
        for step in range(min(count, left)):
            yield Plane(int(given.get("IFD", "0")) + step, **place)
            _advance(place, sizes, order)
        left -= count


def _advance(place: dict[str, int], sizes: dict[str, int], order: str) -> None:
    """The next plane in the order in which the axes run."""
    for axis in order:
        place[axis] += 1
        if place[axis] < sizes[axis]:
            return
        place[axis] = 0
