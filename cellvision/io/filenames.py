"""Names of files as tables give them, matched to the files there are: full, bare, of Windows, without suffix."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from cellvision.core.errors import ConfigError

SUFFIX = re.compile(
    r"(?i)(?:\.ome)?\.(?:tiff?|png|jpe?g?|bmp|gif|webp|czi|nd2|lif|lsm|svs|ndpi|stk|pgm|ppm|jp2)(?:\.gz)?$"
)


def match(given: Sequence[str], there: Sequence[str]) -> list[int | None]:
    """(n,) names -> the position of each among the (m,) relative paths, None where none or several answer to it.

    A name is a path, or its end, or has a path at its end; only where that finds none are capitals and then suffixes
    left aside.
    """
    position: dict[str, int | None] = {}
    for spelled in (plain, _folded, _bare):
        whole, ends = _index(there, spelled)
        for name in dict.fromkeys(given):
            if name not in position:
                at = _answer(spelled(name), whole, ends)
                if at:
                    position[name] = at[0] if len(at) == 1 else None
    return [position.get(name) for name in given]


def refuse_strangers(given: Sequence[str], positions: Iterable[int | None], there: Sequence[str], where: str) -> None:
    """ConfigError, with an example of both sides, where no name is that of a file."""
    if given and all(at is None for at in positions):
        example = f"the files are called {there[0]!r}" if there else "there are no files"
        raise ConfigError(
            f"{where}: none of its {len(set(given))} names is that of a file: it says {given[0]!r}, {example}; "
            "give paths below the folder, or names that are unique there"
        )


def plain(name: str) -> str:
    """One spelling for the paths of all systems."""
    return re.sub(r"^(?:\./)+", "", unicodedata.normalize("NFC", name).strip().replace("\\", "/"))


def _folded(name: str) -> str:
    return plain(name).casefold()


def _bare(name: str) -> str:
    return SUFFIX.sub("", _folded(name))


def _ends(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[at:]) for at in range(len(parts))]


def _index(there: Sequence[str], spelled: Callable[[str], str]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Positions by whole path, and by each of a path's ends."""
    whole: dict[str, list[int]] = {}
    ends: dict[str, list[int]] = {}
    for at, path in enumerate(map(spelled, there)):
        whole.setdefault(path, []).append(at)
        for end in _ends(path):
            ends.setdefault(end, []).append(at)
    return whole, ends


def _answer(name: str, whole: dict[str, list[int]], ends: dict[str, list[int]]) -> list[int]:
    """The files that a name may mean, the surest reading first."""
    exact = whole.get(name) or ends.get(name)
    return exact or next((whole[end] for end in _ends(name)[1:] if end in whole), [])
