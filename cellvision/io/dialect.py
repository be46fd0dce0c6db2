"""What a CSV means: encoding, separator and decimal mark, found from its bytes."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.io import headers
from cellvision.io.packed import open_bytes

MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip

SEPARATORS = (",", ";", "\t", "|", " ")
ONE_COLUMN = "\x1f"  # stands for a separator where the file has none
ONE_SHORT = 0.6  # how well a separator fits by which every row has one field more than the header, as R writes it
SAMPLE = 1 << 22  # bytes the dialect is found from
SAMPLE_ROWS, SAMPLE_CELLS = 200, 200_000
SPACES = " \u00a0\u202f'"  # what groups the thousands besides point and comma
MARKS = {",": ".", ".": ","}  # decimal mark -> the mark that may group thousands beside it
EXPONENT = r"(?:[eE][+-]?\d+)?"
READINGS = {
    "unsure": re.compile(r"[+-]?[1-9]\d{0,2},\d{3}"),
    "grouped": re.compile(r"[+-]?[1-9]\d{0,2}(?:(?:,\d{3})+\.\d*|(?:,\d{3}){2,})"),
    "comma": re.compile(
        rf"[+-]?(?:(?:\d*|[1-9]\d{{0,2}}(?:\.\d{{3}})+),\d+{EXPONENT}|[1-9]\d{{0,2}}(?:\.\d{{3}}){{2,}})"
    ),
    "neither": re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}"),
    "point": re.compile(rf"[+-]?\d*\.\d+{EXPONENT}"),
}


@dataclass(frozen=True)
class Dialect:
    """How to read a CSV.

    `group`: the characters that may group thousands; `skip`: lines above the header; `head`: rows of the header, and
    `names`: how many of those name the columns.
    """

    encoding: str
    separator: str
    decimal: str = "."
    group: str = SPACES
    skip: int = 0
    head: int = 1
    names: int = 1

    def pattern(self) -> str:
        """What a number looks like; whole numbers do not begin with 0, so that identifiers like 007 stay text."""
        point, group = re.escape(self.decimal), f"[{re.escape(self.group)}]"
        whole = rf"(?:0|[1-9]\d*|[1-9]\d{{0,2}}(?:{group}\d{{3}})+)"
        return rf"^[+-]?(?:{whole}{point}?{EXPONENT}|(?:{whole}|\d*){point}\d+{EXPONENT}|(?i:inf|infinity))$"

    def text(self) -> str:
        """For the person."""
        names = {"\t": "tab", " ": "space", ONE_COLUMN: "none (one column)"}
        description = f"encoding {self.encoding}, separator {names.get(self.separator, self.separator)}"
        grouped = "".join(mark for mark in ",." if mark in self.group)
        return f"{description}, decimal {self.decimal}" + (f", thousands {grouped}" if grouped else "")


def sniff(
    path: Path,
    separator: str | None = None,
    decimal: str | None = None,
    text: Collection[str] = (),
    unsure: str | None = None,
) -> Dialect:
    """Encoding from the whole file, separator and decimal mark from its first rows; what is given is not guessed.

    Columns named in `text` say nothing of decimal marks; `unsure` is the mark where 1,234 alone leaves it open.
    """
    encoding = find_encoding(path)
    sample = _sample(path, encoding)
    start, named = headers.above(sample)
    skip, sample = sample[:start].count("\n"), sample[start:]
    separator = separator or named or find_separator(sample, path)
    mark, group = (decimal, MARKS[decimal]) if decimal else find_decimal(sample, separator, path, text, unsure)
    dialect = Dialect(encoding, separator, mark, SPACES + group, skip)
    rows = [record for _, record in _some_rows(sample, separator, path)]
    names, head = headers.height(rows, re.compile(dialect.pattern()), MISSING)
    return replace(dialect, head=head, names=names)


def find_encoding(path: Path) -> str:
    """UTF-8 or UTF-16 where every byte makes sense as that, else Latin-1. ConfigError for what is no text."""
    with open_bytes(path) as handle:
        name = _likely_encoding(handle.read(4096), path)
    if _makes_sense(path, name):
        return name
    if name.startswith("utf-16"):
        raise ConfigError(f"{path} is UTF-16 that is cut off or damaged; copy it again, or save it as UTF-8")
    return "latin-1"


def _likely_encoding(head: bytes, path: Path) -> str:
    """From the byte-order mark, or the zero bytes of UTF-16."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if zeros := head.count(0):
        sides = {"utf-16-be": head[::2].count(0), "utf-16-le": head[1::2].count(0)}
        name, most = max(sides.items(), key=lambda item: item[1])
        if most == zeros and most > len(head) // 4:
            return name
        raise ConfigError(f"{path} holds zero bytes and is no text; expected CSV, Parquet or h5ad")
    return "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"


def _makes_sense(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with open_bytes(path) as handle:
            while chunk := handle.read(SAMPLE):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _sample(path: Path, encoding: str) -> str:
    """The first whole lines, as text with the line ends of the file."""
    with open_bytes(path) as handle:
        raw = handle.read(SAMPLE)
        more = bool(handle.read(1))
    text = codecs.getincrementaldecoder(encoding)("replace").decode(raw)
    return text[: text.rfind("\n") + 1] or text if more else text


def _some_rows(sample: str, separator: str, where: Path) -> list[tuple[int, list[str]]]:
    """(line, fields) of the first rows that are not empty, as far as they make sense with this separator."""
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator)
    cells = 0
    try:
        for record in reader:
            if record:
                rows.append((reader.line_num, record))
                cells += len(record)
            if len(rows) >= SAMPLE_ROWS or cells > SAMPLE_CELLS:
                break
    except csv.Error as error:
        raise ConfigError(f"{where}, line {reader.line_num}: {error}") from None
    return rows


def find_separator(sample: str, where: Path) -> str:
    """The one that cuts most rows into as many fields as the header, and of those the one with most fields."""
    if not sample.strip():
        raise NoUsableInput(f"{where} holds no rows")
    best, chosen = (0.0, 1), ONE_COLUMN
    for separator in SEPARATORS:
        if separator not in sample:
            continue
        header, *counts = [len(record) for _, record in _some_rows(sample, separator, where)]
        same = round(sum(count == header for count in counts) / len(counts), 1) if counts else 1.0
        if counts and all(count == header + 1 for count in counts):
            same = ONE_SHORT
        if header > 1 and (same, header) > best and (separator != " " or same > 0.5):
            best, chosen = (same, header), separator
    return chosen


def reading(cell: str) -> str | None:
    """What a cell says about decimal marks: point, comma, or commas that group; `unsure` for 1,234."""
    if "," not in cell and "." not in cell:
        return None
    return next((name for name, pattern in READINGS.items() if pattern.fullmatch(cell)), None)


def find_decimal(
    sample: str, separator: str, where: Path, text: Collection[str] = (), unsure: str | None = None
) -> tuple[str, str]:
    """-> decimal mark, and the other mark where it groups thousands. ConfigError where the numbers contradict."""
    rows = _some_rows(sample, separator, where)
    cells = "\n".join("\n".join(record) for _, record in rows)
    if "," not in cells and not re.search(r"\.\d{3}\.\d{3}", cells):  # nothing that only a closer look could tell
        return ".", ""
    passed = {number for number, name in enumerate(rows[0][1]) if name.strip() in text}
    first: dict[str, str] = {}
    for line, record in rows:
        for number, cell in enumerate(record):
            if number not in passed and (says := reading(cell.strip())) is not None:
                first.setdefault(says, f"{cell.strip()!r} (line {line}, column {number + 1})")
    ask = "write all with a point, or say which is meant, in the tabular branch with --set branch.decimal=, or ."
    other = first.get("point") or first.get("grouped")
    if "comma" in first and other:
        raise ConfigError(f"{where}: {first['comma']} has a decimal comma, {other} a decimal point; {ask}")
    if "comma" in first:
        return ",", "."
    if "unsure" in first and not other:
        if unsure and separator != ",":
            return unsure, MARKS[unsure]
        raise ConfigError(f"{where}: in {first['unsure']} the comma may be decimal or group thousands; {ask}")
    return ".", "," if {"unsure", "grouped"} & first.keys() else ""


def one_line(error: Exception) -> str:
    """What a library says, as part of a message."""
    return " ".join(str(error).split())[:160]
