"""What microscopes write into the names of files: plate, well, site, channel, z and t, and the field that is left.

The names follow what is documented for Micro-Manager, InCell, Opera and Operetta, ImageXpress, CellVoyager, scan^R,
Incucyte, Gen5, NIS-Elements, LAS X, AxioVision and ImageJ. A name alone proves nothing (`s1` may be anybody's first
sample): an axis counts where it varies among files that are otherwise named alike, which `cells.families` decides. A
plain number is never an axis.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WITHIN_FIELD = ("channel", "z", "t")  # axes along which files show one field again
NUMBERED = (*WITHIN_FIELD, "action")  # what the name of a field does not hold; actions of a CellVoyager are channels
AXES = ("plate", "well", "site", *WITHIN_FIELD)
WORDS = {
    "t": ("t", "tp", "time", "timepoint", "fr", "frame"), "z": ("z", "zstep", "zplane", "plane"),
    "channel": ("c", "ch", "chan", "channel", "w", "wv", "wavelength"),
    "site": ("s", "f", "fld", "fov", "field", "xy", "site", "pos", "position"), "plate": ("plate", "assayplate"),
}  # fmt: skip
STAINS = (
    r"dapi|hoechst(?:\d{5})?|e?gfp|[yc]fp|m?rfp|mcherry|tdtomato|dsred|fitc|tritc|texas ?red|txred|cy[357](?:\.5)?"
    r"|alexa ?\d{3}|af\d{3}|bf|bright ?field|phase|dic"
)
AXIS_OF = {word: axis for axis, words in WORDS.items() for word in words}
PAIRED = {  # letters of names such as r01c01f01p01 and T0001F001L01A01Z01C01; an empty axis stays in the name
    "t": "t", "sk": "t", "z": "z", "p": "z", "c": "channel", "ch": "channel", "w": "channel", "d": "channel",
    "s": "site", "f": "site", "xy": "site", "r": "row", "a": "action",
    **dict.fromkeys(("fk", "fl", "l", "b", "x", "m", "rc", "nd"), ""),
}  # fmt: skip
SURE_IN_PAIRS = {"t", "z", "c", "ch", "w", "s", "xy", "sk", "fk", "fl"}  # letters of which two make a name
MAX_CHANNEL, MAX_ROW, MAX_COLUMN = 31, 32, 48  # numbers beyond are something else; plates of 1536 wells are the largest
BEGIN, END = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
LETTERS = "|".join(sorted(AXIS_OF, key=len, reverse=True))
TOKEN = re.compile(rf"{BEGIN}(?P<word>{LETTERS})(?P<gap>[ _-]?)(?P<value>\d+){END}", re.IGNORECASE)
STAIN = re.compile(rf"{BEGIN}(?P<channel>{STAINS}){END}", re.IGNORECASE)
PAIRS = re.compile(rf"{BEGIN}(?P<well>[A-P]\d\d(?=[a-z]))?(?P<pairs>(?:[A-Za-z]{{1,2}}\d+)+){END}")
PAIR = re.compile(r"([A-Za-z]{1,2})(\d+)")
WELL = re.compile(rf"{BEGIN}(?:well[ _-]?)?(?P<well>[A-P](?:-?(?:0[1-9]|1\d|2[0-4])|[1-9])){END}")
SMALL_WELL = re.compile(rf"{BEGIN}(?P<well>[a-p](?:0[1-9]|1\d|2[0-4])){END}")
GUID = re.compile(r"[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}$", re.IGNORECASE)
SUFFIXES = re.compile(r"(?:\.ome)?\.[A-Za-z][A-Za-z0-9]{1,4}$")
LAYOUTS = (  # names whose parts no word announces
    re.compile(r"(?P<prefix>)(?P<well>[A-P] - \d{1,2})\(fld (?P<site>\d+)(?: wv (?P<channel>[^()]+?))?"
               r"(?: z (?P<z>\d+))?(?: time (?P<t>\d+)[^()]*)?\)"),  # InCell
    re.compile(r"(?P<prefix>.*)img_(?P<t>\d{9})_(?P<channel>.+)_(?P<z>\d{3})"),  # Micro-Manager 1.4
    re.compile(r"(?P<prefix>.*?)-*W(?P<well>\d{5})--P(?P<site>\d{5})--Z(?P<z>\d{5})--T(?P<t>\d{5})--(?P<channel>.+)"),
    re.compile(r"(?P<prefix>.*?)_?(?P<well>[A-P]\d{1,2})_(?P<site>\d{1,3})_"
               r"(?P<t>(?:\d{4}y\d\dm\d\dd_\d\dh\d\dm)|(?:\d\dd\d\dh\d\dm))"),  # Incucyte
    re.compile(r"(?P<prefix>)(?P<well>[A-P]\d{1,2})_\d\d_\d_(?P<site>\d{1,4})_(?P<channel>[^_]+)_(?P<t>\d{3})"),  # Gen5
)  # fmt: skip


@dataclass(frozen=True)
class Name:
    """What a name says: the field (the name without channel, z and t) and the values of AXES that are named."""

    field: str
    axes: dict[str, str]


Span = tuple[int, int, str, str]  # where it stands, its axis and its value


def parse_all(paths: Sequence[str]) -> list[Name]:
    """`parse` of every path; what may be a well or a channel (C1) is a well in a folder that names other wells."""
    names = [parse(path) for path in paths]
    folders = [path.rpartition("/")[0] for path in paths]
    plates = {folder for folder, name in zip(folders, names, strict=True) if "well" in name.axes}
    return [
        parse(path, wells=True) if folder in plates and "well" not in name.axes else name
        for path, folder, name in zip(paths, folders, names, strict=True)
    ]


def parse(path: str, *, wells: bool = False) -> Name:
    """The path of a file below its group's folder, "/" between the parts -> what its parts say."""
    *folders, name = path.split("/")
    axes: dict[str, str] = {}
    parents = []
    for folder in folders:
        left, said = _without(folder, [span for span in _tokens(folder) if span[2] != "channel"])
        parents.append(left)
        axes |= said
    stem = GUID.sub("", SUFFIXES.sub("", name))
    left, said = _laid_out(stem) or _without(stem, _spans(stem, wells))
    axes |= said
    parent = "/".join(filter(None, parents))
    if "well" in axes and "plate" not in axes and (plate := _before(left, axes["well"]) or parent):
        axes["plate"] = plate
    return Name("/".join(filter(None, [parent, left])), {axis: axes[axis] for axis in AXES if axis in axes})


def _laid_out(stem: str) -> tuple[str, dict[str, str]] | None:
    """The field and the axes of a name that follows one of LAYOUTS."""
    for layout in LAYOUTS:
        if match := layout.fullmatch(stem):
            said = {axis: value for axis, value in match.groupdict().items() if value}
            prefix = said.pop("prefix", "").strip(" _.-")
            if "well" in said:
                said["well"] = said["well"].replace(" ", "")
            return "_".join(filter(None, [prefix, said.get("well"), said.get("site")])) or "img", said
    return None


def _spans(stem: str, wells: bool) -> list[Span]:
    """The parts of a name that say something, in order, none twice."""
    spans: list[Span] = []
    for span in [*_pairs(stem), *_tokens(stem), *_stains(stem)]:
        apart = all(span[1] <= begin or end <= span[0] for begin, end, *_ in spans)
        if apart and span[2] not in {axis for *_, axis, _ in spans}:
            spans.append(span)
    if "well" not in {axis for *_, axis, _ in spans}:
        spans = _with_well(stem, spans, wells)
    return sorted(spans)


def _tokens(text: str) -> Iterator[Span]:
    """Words of WORDS with a number; a single letter stands directly before it."""
    for match in TOKEN.finditer(text):
        axis = AXIS_OF[match["word"].lower()]
        sure = not match["gap"] or len(match["word"]) > 1
        if sure and (axis != "channel" or int(match["value"]) <= MAX_CHANNEL):
            yield *match.span(), axis, match["value"]


def _stains(text: str) -> Iterator[Span]:
    for match in STAIN.finditer(text):
        yield *match.span(), "channel", match["channel"]


def _pairs(text: str) -> Iterator[Span]:
    """Letters and numbers without a gap: r01c01f01p01, xy01c1t001, A03f00d0; each letter at most once."""
    for match in PAIRS.finditer(text):
        pairs = [(pair[1].lower(), pair) for pair in PAIR.finditer(text, *match.span("pairs"))]
        letters = [letter for letter, _ in pairs]
        if len(set(letters)) < len(letters) or not set(letters) <= set(PAIRED):
            continue
        in_rows = letters[:2] == ["r", "c"]
        if in_rows and not (0 < int(pairs[0][1][2]) <= MAX_ROW and 0 < int(pairs[1][1][2]) <= MAX_COLUMN):
            continue
        if not (match["well"] or in_rows or len(pairs) >= 3 or (len(pairs) == 2 and set(letters) <= SURE_IN_PAIRS)):
            continue
        if match["well"]:
            yield *match.span("well"), "well", match["well"]
        elif in_rows:
            (_, row), (_, column) = pairs[:2]
            yield row.start(), column.end(), "well", row[0] + column[0]
        for letter, pair in pairs[2 if in_rows else 0 :]:
            if PAIRED[letter] not in ("", "row"):
                yield *pair.span(), PAIRED[letter], pair[2]


def _with_well(stem: str, spans: list[Span], wells: bool) -> list[Span]:
    """With the well. C03 and F03 may be a channel and a site: they are a well where that axis stands elsewhere too."""
    axes = {axis for *_, axis, _ in spans}
    for match in sorted(WELL.finditer(stem), key=lambda match: -len(match["well"])):  # P1_B02 is a plate and a well
        begin, end = match.span("well")
        rest = [span for span in spans if span[1] <= begin or end <= span[0]]
        hidden = [span for span in [*_pairs(stem), *_tokens(stem)] if span[0] != begin and span[2] not in axes]
        again = [span for span in [*_pairs(stem), *_tokens(stem)] if span[0] != begin and span not in rest]
        padded = match["well"][1:].startswith("0")
        if len(rest) == len(spans) or wells or again or (padded and "site" in {axis for *_, axis, _ in rest}):
            return [*rest, *_first_of_each(again or hidden), (begin, end, "well", match["well"])]
    small = SMALL_WELL.search(stem)
    if (
        small
        and axes & {"site", "channel"}
        and all(small.end() <= span[0] or span[1] <= small.start() for span in spans)
    ):
        return [*spans, (*small.span("well"), "well", small["well"])]
    return spans


def _first_of_each(spans: list[Span]) -> list[Span]:
    by_axis: dict[str, Span] = {}
    for span in spans:
        by_axis.setdefault(span[2], span)
    return list(by_axis.values())


def _without(text: str, spans: list[Span]) -> tuple[str, dict[str, str]]:
    """The text without what stands for channel, z or t, and all values."""
    left, at = "", 0
    for begin, end, axis, _ in sorted(spans):
        left += text[at : begin if axis in NUMBERED else end]
        at = end
    left = re.sub(r"([ _.-])[ _.-]+", r"\1", left + text[at:]).strip(" _.-")
    return left, {axis: value for _, _, axis, value in sorted(spans)}


def _before(text: str, well: str) -> str:
    """What stands before the well, which is how a plate is named."""
    return text[: text.find(well)].strip(" _.-") if well in text else ""
