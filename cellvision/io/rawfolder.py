"""The raw folder: raw/<group>/** -> one entry for every file in it, opened by nobody yet.

The group is the first folder below the root; folders inside it belong to it. Files beside the group folders are
ignored, unless no group folder holds a candidate: then they are one group, named after the root. A candidate ("ok") is
any regular file that is not known to be something else; its content, not its name, decides later. Known other files
are "ignored"; links and special files that must not be opened are "skipped". A folder not entered has one entry.
"""

import hashlib
import os
import re
import stat
import unicodedata
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cellvision.core import files
from cellvision.core.config import fingerprint
from cellvision.core.errors import NoUsableInput
from cellvision.io import outputs
from cellvision.io.images.pixels import Reason
from cellvision.io.images.reader import SUFFIXES
from cellvision.io.spelling import first_spelling

Status = Literal["ok", "skipped", "ignored"]

JUNK_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "system volume information"}
JUNK_NAMES = {"icon\r", "readme", "license", "copying", "makefile", "checksums", "md5sums", "sha256sums"}
JUNK_SUFFIX = re.compile(
    r"\.(?:7z|avi|bak|bib|bz2|cfg|ckpt|csv|db|docx?|eps|exe|fcs|gz|h5|h5ad|hdf5|html?|ijm|ini|ipynb|joblib|json|lnk|log|m|mat"
    r"|md|mkv|mov|mp4|np[yz]|od[ts]|parquet|pdf|pickle|pkl|pptx|ps|pth?|pyc?|r|rar|rds|roi|rst|rtf|safetensors|sh|svg|swp"
    r"|tar|tgz|tmp|toml|tsv|txt|url|xlsx?|xml|xz|ya?ml|zip)"
)
ALL_SUFFIXES = frozenset(suffix for group in SUFFIXES.values() for suffix in group)
SLUG_LENGTH = 80  # characters of the readable part of an image_id


@dataclass(frozen=True)
class Part:
    """The file of one channel of an image."""

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class Entry:
    """One file, or one folder that is not entered; `relative` is printable UTF-8, `path` is what the system knows."""

    path: Path  # absolute
    relative: str  # below the root, "/" between the parts, undecodable bytes escaped
    group: str
    image_id: str
    status: Status
    reason: Reason
    note: str = ""
    sha256: str = ""  # of the content, once somebody has read it
    maps: tuple[Path, ...] = ()  # label maps that may be of its cells, one where all is well
    parts: tuple[Part, ...] = ()  # of an image whose channels are files of their own; the first is this file
    origin: str = ""  # another file, which this one may have been made of, such as a mask of it


@dataclass
class _Scan:
    root: str
    follow_symlinks: bool
    entries: list[Entry] = field(default_factory=list)
    folders: deque[str] = field(default_factory=deque)  # relative, still to be listed
    links: list[str] = field(default_factory=list)  # relative, links to folders
    seen: set[tuple[int, int]] = field(default_factory=set)  # device and inode of the folders listed

    def add(self, relative: str, status: Status, reason: Reason, note: str = "", *, folder: bool = False) -> None:
        group = relative.split(os.sep, 1)[0] if folder or os.sep in relative else ""
        path, name = Path(self.root, relative), _printable(relative)
        self.entries.append(Entry(path, name, _printable(group), image_id(relative), status, reason, note))


def scan(raw: Path, *, follow_symlinks: bool = False) -> list[Entry]:
    """Every file below `raw`, sorted by relative path; no file is opened, links stay inside `raw` unless followed."""
    root = os.path.realpath(raw)
    if not Path(root).is_dir():
        raise NoUsableInput(f"no folder {_printable(str(raw))!r}; expected one with a folder of images per group")
    state = _Scan(root, follow_symlinks, folders=deque([""]))
    while state.folders or state.links:
        if state.folders:  # all real folders first, so that the outcome does not depend on the order of links
            _list_folder(state, state.folders.popleft())
            continue
        state.links.sort(reverse=True)
        state.folders.append(state.links.pop())
    return sorted(_unique(_without_outputs(_with_groups(state))), key=lambda entry: entry.relative)


def image_id(relative: str) -> str:
    """ASCII letters, digits, - and _ only: the readable end of the path, then 8 hex digits of a hash of all of it."""
    raw = os.fsencode(relative.replace(os.sep, "/"))
    text = unicodedata.normalize("NFKD", raw.decode("utf-8", "ignore")).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9]+", "_", text)[-SLUG_LENGTH:].strip("_")
    return f"{slug or 'image'}-{hashlib.sha256(raw).hexdigest()[:8]}"


def _printable(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def _list_folder(state: _Scan, folder: str) -> None:
    """Add an entry for every file of one folder and queue its folders; an empty folder gets an entry itself."""
    path = os.path.join(state.root, folder)  # noqa: PTH118 - a Path for each of 100,000 names is slow
    try:
        status = os.stat(path)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in state.seen:
            note = "link to a folder that is listed at its own place"
            return state.add(folder, "skipped", Reason.E_DUPLICATE, note, folder=True)
        state.seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as entries:
            items = list(entries)
    except OSError as error:
        note = f"folder cannot be listed: {error.strerror}; check its permissions"
        return state.add(folder, "skipped", Reason.E_IO, note, folder=True)
    if folder and not items:
        state.add(folder, "ignored", Reason.E_NOT_IMAGE, "empty folder", folder=True)
    for item in items:
        _classify(state, item, f"{folder}{os.sep}{item.name}" if folder else item.name)
    return None


def _classify(state: _Scan, item: os.DirEntry[str], relative: str) -> None:
    """Decide about one name without opening it."""
    try:
        if item.is_symlink():
            return _classify_link(state, item, relative)
        status = item.stat(follow_symlinks=False)
    except OSError as error:
        return state.add(relative, "skipped", Reason.E_IO, f"{error.strerror}; check that it exists and may be read")
    if not stat.S_ISDIR(status.st_mode):
        return _classify_file(state, relative, status)
    name = item.name.lower()
    if name in outputs.FOLDERS and os.sep in relative:
        note = "of another program's outputs, by its name; not entered"
        return state.add(relative, "ignored", Reason.E_NOT_IMAGE, note, folder=True)
    if name.startswith(".") or name in JUNK_FOLDERS:
        return state.add(relative, "ignored", Reason.E_NOT_IMAGE, "hidden folder, not entered", folder=True)
    if name.endswith((".zarr", ".n5")):
        note = "Zarr is not read; export it as OME-TIFF"
        return state.add(relative, "skipped", Reason.E_NOT_IMAGE, note, folder=True)
    return state.folders.append(relative)


def _classify_file(state: _Scan, relative: str, status: os.stat_result) -> None:
    name = relative.rpartition(os.sep)[2]
    if junk := _junk(name):
        return state.add(relative, "ignored", Reason.E_NOT_IMAGE, junk)
    if not stat.S_ISREG(status.st_mode):
        return state.add(relative, "skipped", Reason.E_UNSAFE, "a pipe, socket or device, not a file; remove it")
    if status.st_size == 0:  # an image that lost its content is worth a word, any other empty file is not
        lost = Path(name).suffix.lower() in ALL_SUFFIXES
        return state.add(relative, "skipped" if lost else "ignored", Reason.E_NOT_IMAGE, "empty file")
    return state.add(relative, "ok", Reason.OK)


def _classify_link(state: _Scan, item: os.DirEntry[str], relative: str) -> None:
    target = os.path.realpath(item.path)
    inside = target == state.root or target.startswith(state.root.rstrip(os.sep) + os.sep)
    try:
        status = os.stat(item.path)  # noqa: PTH116 - follows the link
    except OSError as error:
        return state.add(relative, "skipped", Reason.E_IO, f"broken link: {error.strerror}; remove or mend it")
    if not inside and not state.follow_symlinks:
        note = "link to outside of the raw folder; copy the file here or use --follow-symlinks"
        return state.add(relative, "skipped", Reason.E_UNSAFE, note)
    if not stat.S_ISDIR(status.st_mode):
        return _classify_file(state, relative, status)
    if not state.follow_symlinks:
        note = "link to a folder inside the raw folder: its files are listed at their own place"
        return state.add(relative, "skipped", Reason.E_DUPLICATE, note, folder=True)
    return state.links.append(relative)


def _junk(name: str) -> str:
    """Why a file name is not an image, empty when it may be one."""
    if name.startswith("."):
        return "hidden"
    if left_behind := outputs.by_name(name):
        return left_behind
    suffix = Path(name).suffix.lower()
    is_junk = name.lower() in JUNK_NAMES or name.endswith("~") or JUNK_SUFFIX.fullmatch(suffix)
    return "not an image by its name" if is_junk else ""


def _with_groups(state: _Scan) -> Iterator[Entry]:
    """Settle the files that lie directly in the root, and take groups as one that are only spelled in two ways."""
    grouped = any(entry.status == "ok" and "/" in entry.relative for entry in state.entries)
    root_name = _printable(Path(state.root).name) or "root"
    first = first_spelling(entry.group for entry in state.entries if entry.status == "ok" and entry.group)
    for entry in state.entries:
        if entry.status == "ok" and first.get(entry.group, entry.group) != entry.group:
            note = f"group {entry.group!r} is taken as {first[entry.group]!r}, which differs only in case or spaces"
            yield replace(entry, group=first[entry.group], reason=Reason.OK_NOTE, note=note)
        elif entry.group:
            yield entry
        elif grouped and entry.status == "ok":
            note = "lies beside the group folders; move it into one to use it"
            yield replace(entry, status="ignored", reason=Reason.OK_NOTE, note=note)
        else:
            yield replace(entry, group="" if grouped else root_name)


def _without_outputs(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Masks, overlays and thumbnails that are named after the image beside them are ignored."""
    listed = list(entries)
    origins = outputs.beside(entry.relative for entry in listed if entry.status == "ok")
    for entry in listed:
        origin = origins.get(entry.relative, "")
        if entry.status == "ok" and origin and (note := outputs.by_word(entry.relative, origin)):
            yield replace(entry, status="ignored", reason=Reason.E_NOT_IMAGE, note=note)
        else:
            yield replace(entry, origin=origin) if entry.status == "ok" else entry


def _unique(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Two paths whose ids collide must not share a mask file: the second is skipped, aloud."""
    seen: set[str] = set()
    for entry in sorted(entries, key=lambda entry: entry.relative):
        if entry.image_id in seen:
            yield replace(entry, status="skipped", reason=Reason.E_INTERNAL, note="its id is taken; rename the file")
        else:
            seen.add(entry.image_id)
            yield entry


def scan_folder(raw: Path, *, follow_symlinks: bool = False) -> list[Entry]:
    """`scan` with the hash of every candidate's content. NoUsableInput where there is no folder or no candidate."""
    if not raw.is_dir():
        raise NoUsableInput(f"no folder at {raw}; --raw names a folder with a sub-folder of images for each group")
    entries = [_hashed(entry) for entry in scan(raw, follow_symlinks=follow_symlinks)]
    if not any(entry.status == "ok" for entry in entries):
        raise NoUsableInput(f"no images below {raw}; put them into {raw}/<group>/")
    return entries


def _hashed(entry: Entry) -> Entry:
    """With the hash of its content, so that a file that changes before it is read is noticed."""
    return entry if entry.status != "ok" else replace(entry, sha256=files.hash_or_reason(entry.path))


def fingerprint_of(entries: list[Entry]) -> str:
    """One hash over names, contents, and what becomes of the files that are no images."""
    return fingerprint([(entry.relative, entry.sha256 or str(entry.reason)) for entry in entries])
