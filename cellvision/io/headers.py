"""The header of a CSV: what stands above it, its one or two rows of names, and the rows of units or titles below."""

from __future__ import annotations

import re
from collections import Counter

NAMED_BY_IMAGE = "Image"  # CellProfiler's first row over columns that describe the picture, not an object
DESCRIBING_ROWS = 3  # below the names: TrackMate writes titles, short titles and units
FIELDS = ",;\t|"  # separators by which a line tells how many fields it has
UNIT = re.compile(
    r"(?i)[(\[].*[)\]]|%|°C?|a\.?u\.?|px|pixels?|(?:[nuµμm]?m|pixels?|px)(?:\^?[23]|[²³])?|[mnuµμ]?s|sec|min|h|hours?|frames?"
    r"|[nuµμm]?[Mgl]|counts?"
)


def above(sample: str) -> tuple[int, str | None]:
    """-> characters above the header (empty lines, Excel's sep=, comments after #), and the separator named there."""
    start = re.match(r"(?:[ \t]*\r?\n)*(?:sep=(.)\r?\n)?", sample)
    assert start is not None
    end = last = start.end()
    while comment := re.compile(r"#[^\n]*\n|[ \t]*\r?\n").match(sample, end):
        last, end = end, comment.end()
    is_header = end > start.end() and _fields(sample[last:end]) and _fields(sample[last:end]) == _fields(sample[end:])
    return last if is_header else end, start[1]


def _fields(text: str) -> tuple[str, int] | None:
    """The separator that the first line holds most often, and how often."""
    line = text.partition("\n")[0]
    mark = max(FIELDS, key=line.count)
    return (mark, line.count(mark)) if mark in line else None


def height(rows: list[list[str]], number: re.Pattern[str], missing: tuple[str, ...]) -> tuple[int, int]:
    """How many of a file's first rows name its columns, and how many are no items.

    `number`: what a number looks like; `missing`: words for none.
    """
    tail = rows[-max(1, (len(rows) - 1) // 3) :] if len(rows) > 2 else []
    width = min(map(len, rows), default=0)
    numeric = [at for at in range(width) if _is_numeric([row[at].strip() for row in tail], number, missing)]
    names = 2 if numeric and len(rows) > 2 and two_rows(rows[0], rows[1], number) else 1
    below = 0
    while below < DESCRIBING_ROWS and names + below < len(rows) - len(tail):
        if not _describes([cell.strip() for cell in rows[names + below]], numeric, number, missing):
            break
        below += 1
    return names, names + below


def _is_numeric(cells: list[str], number: re.Pattern[str], missing: tuple[str, ...]) -> bool:
    present = [cell for cell in cells if cell not in missing]
    return bool(present) and all(number.match(cell) for cell in present)


def _describes(cells: list[str], numeric: list[int], number: re.Pattern[str], missing: tuple[str, ...]) -> bool:
    """Whether a row holds units or titles where the others hold numbers."""
    texts = [cells[at] for at in numeric if cells[at]]
    if not texts or any(number.match(cell) or (cell in missing and cell) for cell in cells):
        return False
    if any(not re.search(r"[^\W\d_]|[%°)\]]", text) for text in texts):
        return False
    return all(UNIT.fullmatch(text) for text in texts) or (len(texts) > 1 and len(set(texts)) == len(texts))


def two_rows(top: list[str], names: list[str], number: re.Pattern[str]) -> bool:
    """Whether the first row names the object of several neighbouring columns and the second what was measured."""
    objects = filled(top)
    runs = [name for at, name in enumerate(objects) if at == 0 or objects[at - 1] != name]
    grouped = len(runs) < len(objects) and len(set(runs)) == len(runs) and all(objects)
    words = [name.strip() for name in names]
    plain = len(words) == len(objects) and all(words) and not any(number.match(word) for word in words)
    return grouped and plain and len(set(zip(objects, words, strict=False))) == len(objects)


def filled(top: list[str]) -> list[str]:
    """Merged cells hold their text once: each empty one takes it from its left."""
    out: list[str] = []
    for cell in top:
        out.append(cell.strip() or (out[-1] if out else ""))
    return out


def joined(top: list[str], names: list[str]) -> list[str]:
    """Cells and AreaShape_Area -> Cells_AreaShape_Area; what describes the image keeps its own name."""
    count = Counter(name.strip() for name in names)
    pairs = zip(filled(top), (name.strip() for name in names), strict=True)
    return [name if over == NAMED_BY_IMAGE and count[name] == 1 else f"{over}_{name}" for over, name in pairs]
