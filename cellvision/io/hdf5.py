"""HDF5 of strangers: audited before any read, and read through the very handle that was audited.

HDF5 can point at other files (external links, raw storage outside, virtual datasets), at itself (cycles), and claim
terabytes in a few bytes; h5py and anndata follow all of it. Here it is refused, with the reason. Links are looked at
and never followed out of the file; opening a dataset to look at its layout reads no other file.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellvision.core.errors import NoUsableInput, UnsafeInput

if TYPE_CHECKING:
    import h5py

HARMLESS = 64 << 20  # bytes a dataset, a chunk or a piece of text may unfold to, whatever the file holds
RATIO = 1000  # times its stored size that more than that may unfold to
DEPTH = 32  # groups inside groups
OBJECTS = 1_000_000  # links and attributes of a file
TEXT_S = 3  # seconds of processor time that reading the text of a file may take,
TEXT_RATE = 1e6  # and bytes of the file for each more
ATTRIBUTE = 64 << 10  # bytes, the most HDF5 keeps in an object's header
FAULTS = (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)  # of damaged structures


def audit(path: Path) -> None:
    """Walk all of the file without reading data. UnsafeInput, or NoUsableInput when it is no sound HDF5 file."""
    with open_h5(path):
        pass


@contextmanager
def open_h5(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading, after its audit. Errors as `audit`; damage met while reading is NoUsableInput."""
    with audited(path) as file, sound(path):
        yield file


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """What damage makes h5py, and those who read with it, raise in here is NoUsableInput."""
    try:
        yield
    except FAULTS as error:
        if getattr(error, "errno", None) is not None:  # of the operating system, such as a full disk; HDF5's have none
            raise
        raise NoUsableInput(f"{path} is damaged HDF5 ({_line(error)})") from None


def audited(path: Path) -> h5py.File:
    """The file, open for as long as the caller keeps it, after its audit. Errors as `audit`."""
    file = _open(path)
    try:
        _Audit(path).file(file)
        _try_text(path)
    except BaseException as error:
        file.close()
        if isinstance(error, FAULTS):
            raise NoUsableInput(f"{path} is damaged HDF5 ({_line(error)})") from None
        raise
    return file


def strings(dataset: h5py.Dataset) -> list[str]:
    """Text of a one-dimensional dataset, of fixed or variable length, read in blocks that no trick can make large.

    Numbers become their text. UnsafeInput where the text unfolds to more than the file can hold.
    """
    size = Path(dataset.file.filename).stat().st_size
    block = max(1, min(4096, HARMLESS // max(size, 1)))
    texts: list[str] = []
    total = 0
    for start in range(0, dataset.shape[0], block):
        for value in dataset[start : start + block].tolist():
            texts.append(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value))
            total += len(texts[-1])
        if total > max(HARMLESS, size):
            raise UnsafeInput(f"{dataset.file.filename}: the text of {dataset.name!r} unfolds to over {total} bytes")
    return texts


def _try_text(path: Path) -> None:
    """Read all text once in a forked process: of damaged text HDF5 may read for ever, and nothing here could stop it.

    NoUsableInput where that process does not end by itself. Systems that cannot fork do without.
    """
    if not hasattr(os, "fork"):
        return
    child = os.fork()
    if not child:
        try:
            signal.setitimer(signal.ITIMER_PROF, TEXT_S + path.stat().st_size / TEXT_RATE)  # ends it, whatever it does
            _read_text(path)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise NoUsableInput(f"{path} is damaged HDF5 (its text cannot be read to an end); copy it again")


def _read_text(path: Path) -> None:
    """All attributes, and all text of variable length, which lies in a heap of its own."""
    import h5py

    signal.signal(signal.SIGPROF, signal.SIG_DFL)

    def look(_: str, node: Any) -> None:
        with contextlib.suppress(*FAULTS):
            for key in node.attrs:
                node.attrs[key]
            if isinstance(node, h5py.Dataset) and h5py.check_string_dtype(node.dtype) and node.dtype.kind == "O":
                node[()]

    with contextlib.suppress(*FAULTS), h5py.File(path, "r") as file:
        look("/", file)
        file.visititems(look)


def _open(path: Path) -> h5py.File:
    """NoUsableInput says why the file cannot be opened."""
    import h5py

    if not path.is_file():
        raise NoUsableInput(f"no HDF5 file at {path}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        text = str(error)
    if "signature" in text:
        raise NoUsableInput(f"{path} is no HDF5 file (its signature is missing)")
    if "truncated" in text:
        raise NoUsableInput(f"{path} is cut off: {text[text.find('truncated') :].rstrip(')')}; copy it again")
    if "lock file" in text or "already open" in text:
        raise NoUsableInput(f"{path} is being written by another program; close it there and try again")
    raise NoUsableInput(f"{path} cannot be opened as HDF5 ({_line(text)})")


def _line(error: Any) -> str:
    return f"{' '.join(str(error).split()):.160}"


class _Audit:
    """One walk over everything that hard links reach."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, path.stat().st_size
        self.objects = 0
        self.claimed = 0  # bytes all datasets unfold to
        self.seen: set[int] = set()  # addresses of groups
        self.reached: set[str] = {"/"}
        self.soft: list[tuple[str, str]] = []

    def refuse(self, where: str, why: str) -> UnsafeInput:
        return UnsafeInput(f"{self.path} is refused: {where!r} {why}")

    def file(self, file: h5py.File) -> None:
        import h5py

        root = h5py.h5g.open(file.id, b"/")
        self._group(root, "/", ())
        for where, target in self.soft:
            if target not in self.reached:
                raise self.refuse(where, f"is a soft link to {target!r}, which is no object of this file")
        if self.claimed > max(HARMLESS, RATIO * self.size):
            raise self.refuse("/", f"claims {self.claimed} bytes of data in a file of {self.size}")

    def _count(self, where: str, more: int) -> None:
        self.objects += more
        if self.objects > OBJECTS:
            raise self.refuse(where, f"brings the file above {OBJECTS} objects")

    def _group(self, group: Any, where: str, above: tuple[int, ...]) -> None:
        import h5py

        address = h5py.h5o.get_info(group).addr
        if address in above:
            raise self.refuse(where, "is a cycle: a group inside itself")
        if len(above) > DEPTH:
            raise self.refuse(where, f"lies more than {DEPTH} groups deep")
        if address in self.seen:
            raise self.refuse(where, "is a second name of a group: a way to make a small file endless")
        self.seen.add(address)
        self._attributes(group, where)
        self._count(where, group.get_num_objs())
        links: list[tuple[bytes, int]] = []
        group.links.iterate(lambda name, info: links.append((name, info.type)), info=True)
        for name, kind in links:
            inner = f"{where.rstrip('/')}/{name.decode('utf-8', 'backslashreplace')}"
            if kind == h5py.h5l.TYPE_SOFT:
                self.soft.append((inner, _resolved(where, group.links.get_val(name).decode("utf-8", "replace"))))
            elif kind == h5py.h5l.TYPE_EXTERNAL:
                raise self.refuse(inner, "is an external link: it points into another file")
            elif kind != h5py.h5l.TYPE_HARD:
                raise self.refuse(inner, f"is a link of the unknown kind {kind}")
            else:
                self.reached.add(inner)
                self._object(h5py.h5o.open(group, name), inner, (*above, address))

    def _object(self, thing: Any, where: str, above: tuple[int, ...]) -> None:
        import h5py

        if isinstance(thing, h5py.h5g.GroupID):
            self._group(thing, where, above)
        elif isinstance(thing, h5py.h5d.DatasetID):
            self._dataset(thing, where)
            self._attributes(thing, where)
        else:
            raise self.refuse(where, "is a committed data type, which no reader here needs")

    def _dataset(self, dataset: Any, where: str) -> None:
        import h5py

        plan = dataset.get_create_plist()
        layout = plan.get_layout()
        if layout == h5py.h5d.VIRTUAL:  # asked before its shape: that would already open the files it is made of
            raise self.refuse(where, "is a virtual dataset: its data lie in other files")
        if plan.get_external_count():
            raise self.refuse(where, "keeps its data in a raw file outside")
        kind = dataset.get_type()
        self._type(kind, where)
        shape, chunk = dataset.shape, None
        if layout == h5py.h5d.CHUNKED:
            chunk = plan.get_chunk()
            for number in range(plan.get_nfilters()):
                code, *_, name = plan.get_filter(number)
                if not h5py.h5z.filter_avail(code):
                    label = name.decode("utf-8", "replace") or "unnamed"
                    raise self.refuse(where, f"needs the filter {code} ({label}), which is not installed here")
        if shape is not None:  # None has no data
            self._size(where, shape, chunk, kind.get_size(), dataset.get_storage_size(), plan.get_nfilters())

    def _size(
        self,
        where: str,
        shape: tuple[int, ...],
        chunk: tuple[int, ...] | None,
        itemsize: int,
        stored: int,
        filters: int,
    ) -> None:
        """What a dataset unfolds to must be in proportion to what the file holds of it."""
        whole = (
            shape if chunk is None else tuple(-(-side // step) * step for side, step in zip(shape, chunk, strict=True))
        )
        claim = max(math.prod(whole), math.prod(chunk or (0,))) * itemsize
        self.claimed += claim
        if stored > self.size:
            raise self.refuse(where, f"claims {stored} stored bytes in a file of {self.size}")
        if claim > HARMLESS and claim > RATIO * stored:
            raise self.refuse(where, f"of shape {shape} unfolds to {claim} bytes from {stored} in the file")
        if filters and stored > 1.1 * claim + ATTRIBUTE:
            raise self.refuse(where, f"holds {stored} bytes, more than the {claim} it should unfold to")

    def _attributes(self, thing: Any, where: str) -> None:
        import h5py

        count = h5py.h5a.get_num_attrs(thing)
        self._count(where, count)
        for number in range(count):
            attribute = h5py.h5a.open(thing, index=number)
            name = attribute.name.decode("utf-8", "backslashreplace")
            kind = attribute.get_type()
            size = math.prod(attribute.shape or ()) * kind.get_size()
            if size > ATTRIBUTE:
                raise self.refuse(where, f"has an attribute {name!r} of {size} bytes")
            self._type(kind, f"{where}@{name}", attribute=True)

    def _type(self, kind: Any, where: str, attribute: bool = False) -> None:
        """Numbers, text, enumerations, references inside the file, and compounds or arrays of those."""
        import h5py

        h5t = h5py.h5t
        family = kind.get_class()
        if family == h5t.OPAQUE:
            raise self.refuse(where, "holds opaque bytes, which may be a pickle")
        if family == h5t.VLEN:  # text of variable length is of the family STRING
            plain = (h5t.REFERENCE, h5t.STRING, h5t.INTEGER)  # HDF5's own dimension scales, MATLAB's names of fields
            if not attribute or kind.get_super().get_class() not in plain:
                raise self.refuse(where, "holds objects of variable length")
        elif family == h5t.REFERENCE:
            if not (kind.equal(h5t.STD_REF_OBJ) or kind.equal(h5t.STD_REF_DSETREG)):
                raise self.refuse(where, "holds references that may name other files")
        elif family == h5t.ARRAY:
            self._type(kind.get_super(), where, attribute)
        elif family == h5t.COMPOUND:
            for number in range(kind.get_nmembers()):
                self._type(kind.get_member_type(number), where, attribute)


def _resolved(where: str, target: str) -> str:
    """The absolute name a soft link in group `where` stands for."""
    parts: list[str] = [] if target.startswith("/") else [name for name in where.split("/") if name]
    parts += [name for name in target.split("/") if name not in ("", ".")]
    return "/" + "/".join(parts)
