"""One name in several spellings: capitals, spaces and the forms of Unicode tell nothing apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable


def spelling(name: str) -> str:
    """What all spellings of one name have in common."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()


def first_spelling(names: Iterable[str]) -> dict[str, str]:
    """Every name -> the first, in order, of those that are spelled alike."""
    first: dict[str, str] = {}
    ordered = sorted(set(names))
    for name in ordered:
        first.setdefault(spelling(name), name)
    return {name: first[spelling(name)] for name in ordered}


def told(names: Iterable[str], what: str) -> str:
    """The line about names that are taken as one, empty where all differ."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        alike.setdefault(spelling(name), []).append(name)
    several = [spelled for spelled in alike.values() if len(spelled) > 1]
    if not several:
        return ""
    example = " and ".join(map(repr, several[0]))
    return f"{what}: {len(several)} are spelled in several ways and taken as one, such as {example}"
