"""What a CSV means: encoding, separator and decimal mark, found from its bytes."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellvision.core.errors import ConfigError, NoUsableInput

if TYPE_CHECKING:
    pass

SEPARATORS = (",", ";", "\t", "|", " ")


ONE_COLUMN = "\x1f"  # stands for a separator where the file has none


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
    """How to read a CSV; `group`: the characters that may group thousands, `skip`: lines above the header."""

    encoding: str
    separator: str
    decimal: str = "."
    group: str = SPACES
    skip: int = 0

    def pattern(self) -> str:
        """What a number looks like; whole numbers do not begin with 0, so that identifiers like 007 stay text."""
        point, group = re.escape(self.decimal), f"[{re.escape(self.group)}]"
        whole = rf"(?:0|[1-9]\d*|[1-9]\d{{0,2}}(?:{group}\d{{3}})+)"
        return rf"^[+-]?(?:{whole}{point}?{EXPONENT}|(?:{whole}|\d*){point}\d+{EXPONENT}|(?i:inf|infinity))$"

    def text(self) -> str:
        """For the person."""
        names = {"\t": "tab", " ": "space", ONE_COLUMN: "none (one column)"}
        found = f"encoding {self.encoding}, separator {names.get(self.separator, self.separator)}"
        grouped = "".join(mark for mark in ",." if mark in self.group)
        return f"{found}, decimal {self.decimal}" + (f", thousands {grouped}" if grouped else "")


def sniff(path: Path, separator: str | None = None, decimal: str | None = None) -> Dialect:
    """Encoding from the whole file, separator and decimal mark from its first rows; what is given is not guessed."""
    encoding = find_encoding(path)
    sample = _sample(path, encoding)
    above = re.match(r"(?:[ \t]*\r?\n)*(?:sep=(.)\r?\n)?", sample)  # empty lines, and Excel's own first line
    skip = above[0].count("\n") if above else 0
    if above:
        separator, sample = separator or above[1], sample[above.end() :]
    separator = separator or find_separator(sample, path)
    mark, group = (decimal, MARKS[decimal]) if decimal else find_decimal(sample, separator, path)
    return Dialect(encoding, separator, mark, SPACES + group, skip)


def find_encoding(path: Path) -> str:
    """From the byte-order mark, the zero bytes of UTF-16, or whether every byte makes sense as UTF-8; else Latin-1."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as handle:
        head = handle.read(4096)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        if zeros := head.count(0):
            sides = {"utf-16-be": head[::2].count(0), "utf-16-le": head[1::2].count(0)}
            name, most = max(sides.items(), key=lambda item: item[1])
            if most == zeros and most > len(head) // 4:
                return name
            raise ConfigError(f"{path} holds zero bytes and is no text; the tabular branch reads CSV, Parquet or h5ad")
        handle.seek(0)
        try:
            while chunk := handle.read(SAMPLE):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"


def _sample(path: Path, encoding: str) -> str:
    """The first whole lines, as text with the line ends of the file."""
    with path.open("rb") as handle:
        raw = handle.read(SAMPLE)
        more = bool(handle.read(1))
    text = codecs.getincrementaldecoder(encoding)("replace").decode(raw)
    return text[: text.rfind("\n") + 1] or text if more else text


def _some_rows(sample: str, separator: str, where: Path) -> list[tuple[int, list[str]]]:
    """(line, fields) of the first rows that are not empty, as far as they make sense with this separator."""
    found: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator)
    cells = 0
    try:
        for record in reader:
            if record:
                found.append((reader.line_num, record))
                cells += len(record)
            if len(found) >= SAMPLE_ROWS or cells > SAMPLE_CELLS:
                break
    except csv.Error as error:
        raise ConfigError(f"{where}, line {reader.line_num}: {error}") from None
    return found


def find_separator(sample: str, where: Path) -> str:
    """The one that cuts most rows into as many fields as the header, and of those the one with most fields."""
    if not sample.strip():
        raise NoUsableInput(f"{where} holds no rows")
    best, found = (0.0, 1), ONE_COLUMN
    for separator in SEPARATORS:
        if separator not in sample:
            continue
        header, *counts = [len(record) for _, record in _some_rows(sample, separator, where)]
        same = round(sum(count == header for count in counts) / len(counts), 1) if counts else 1.0
        if header > 1 and (same, header) > best and (separator != " " or same > 0.5):
            best, found = (same, header), separator
    return found


def plain_dialect(path: Path) -> Dialect:
    """How pandas is to read a CSV in UTF-8, gzipped or not, that holds a matrix too large for `read`.

    The separator is the most frequent of comma, semicolon and tab in the header. NoUsableInput for an empty file.
    """
    try:
        with open_text(path, "utf-8-sig") as handle:
            sample = handle.read(SAMPLE)
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise ConfigError(f"cannot read {path} as text: {one_line(error)}") from None
    if not sample.strip():
        raise NoUsableInput(f"{path} is empty")
    separator = max(",;\t", key=sample.partition("\n")[0].count)
    if separator == ",":
        return Dialect("utf-8-sig", separator)
    found = {reading(cell.strip()) for _, record in _some_rows(sample, separator, path) for cell in record}
    comma = found & {"comma", "unsure"} and not found & {"point", "grouped"}
    return Dialect("utf-8-sig", separator, "," if comma else ".")


def reading(cell: str) -> str | None:
    """What a cell says about decimal marks: point, comma, or commas that group; `unsure` for 1,234."""
    if "," not in cell and "." not in cell:
        return None
    return next((name for name, pattern in READINGS.items() if pattern.fullmatch(cell)), None)


def find_decimal(sample: str, separator: str, where: Path) -> tuple[str, str]:
    """-> decimal mark, and the other mark where it groups thousands. ConfigError where the numbers contradict."""
    first: dict[str, str] = {}
    for line, record in _some_rows(sample, separator, where):
        for number, cell in enumerate(record, 1):
            if (found := reading(cell.strip())) is not None:
                first.setdefault(found, f"{cell.strip()!r} (line {line}, column {number})")
    ask = "say which is meant with --set branch.decimal=, or --set branch.decimal=."
    other = first.get("point") or first.get("grouped")
    if "comma" in first and other:
        raise ConfigError(f"{where}: {first['comma']} has a decimal comma, {other} a decimal point; {ask}")
    if "comma" in first:
        return ",", "."
    if "unsure" in first and not other:
        raise ConfigError(f"{where}: in {first['unsure']} the comma may be decimal or group thousands; {ask}")
    return ".", "," if {"unsure", "grouped"} & first.keys() else ""


def one_line(error: Exception) -> str:
    """What a library says, as part of a message."""
    return " ".join(str(error).split())[:160]


def open_text(path: Path, encoding: str) -> Any:
    """A text file, gzipped or not, with the line ends it has."""
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding=encoding, newline="")
