"""Files: atomic writes, hashes, and names that are safe anywhere."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cellvision.core.errors import ConfigError, DiskFull, UnsafeInput

FULL = (errno.ENOSPC, errno.EDQUOT)
PROBE = 1 << 20  # bytes written to learn whether a disk is full
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run, or split a row at
PICKLED = {  # suffixes of files that may hold code and are never loaded
    ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz", ".mat", ".pt", ".pth", ".ckpt", ".bin", ".rds", ".rda",
    ".rdata",
}  # fmt: skip
PICKLE_HEAD = re.compile(rb"\x80[\x02-\x05]")


@contextlib.contextmanager
def atomic(path: Path, size: int = 0) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and takes the name, on failure it goes.

    `size` is how many bytes will be needed, where that is known. DiskFull, also where a library hides it; ConfigError
    for a device or a pipe.
    """
    refuse_special(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except DiskFull:  # of another file, written meanwhile
        raise
    except (OSError, RuntimeError, ValueError) as error:
        number = getattr(error, "errno", None)
        if number not in FULL and (number is not None or not _is_full(path.parent)):
            raise
        written = temporary.stat().st_size if temporary.exists() else 0
        needed = f"{size} bytes" if size else f"more than {written} bytes"
        text = f"{os.strerror(errno.ENOSPC)}: {path.name} needs {needed}"
        raise DiskFull(errno.ENOSPC, text, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _is_full(folder: Path) -> bool:
    """Whether nothing more can be written there, asked by writing: some libraries only say that they failed."""
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        probe.write_bytes(bytes(PROBE))
    except OSError as error:
        return error.errno in FULL
    finally:
        probe.unlink(missing_ok=True)
    return False


def refuse_special(path: Path) -> None:
    """ConfigError for a device, pipe or socket: it would be replaced by a file."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ConfigError(f"{path} is a device, pipe or socket and cannot be written to; give a file or folder")


def disk_of(path: Path) -> tuple[Path, int]:
    """Where the disk is mounted on which a path lies, or would lie, and how many bytes are free there."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    free, device = shutil.disk_usage(place).free, place.stat().st_dev
    while place != place.parent and place.parent.stat().st_dev == device:
        place = place.parent
    return place, free


def is_temporary(name: str) -> bool:
    """A file that `atomic` was writing when its process was killed."""
    return name.startswith(".") and name.endswith(".tmp")


def write_bytes(path: Path, data: bytes) -> None:
    with atomic(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, payload: Any) -> None:
    """JSON with sorted keys; a NaN becomes null, since JSON knows none."""
    write_text(path, json.dumps(plain(payload), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """ConfigError for what is no JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({f'{error}':.80}); make it again") from None


def plain(value: Any) -> Any:
    """Numpy and pathlib values as JSON's own types, not-a-number and infinities as None."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    return str(value)


def write_parquet(path: Path, table: Any) -> None:
    """A pandas table as Parquet, without the index."""
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_parquet(path: Path) -> Any:
    """A Parquet file as a pandas table.

    Arrow opens the file itself. pandas would hand it a Python handle, whose last reference a thread of Arrow's may
    drop while the interpreter shuts down: the process then ends with SIGABRT after all its work was done.
    """
    import pandas as pd
    import pyarrow as pa
    from pyarrow.fs import LocalFileSystem

    try:
        return pd.read_parquet(path, filesystem=LocalFileSystem())  # noqa: TID251 - its one place
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"{path} is a damaged Parquet file ({one_line(error)}); make it again") from None


def write_csv(path: Path, table: Any) -> None:
    """A pandas table as CSV; text a spreadsheet would run as a formula is prefixed with an apostrophe."""
    safe = table.copy()
    for name in safe.columns:
        if safe[name].dtype.kind not in "biuf":
            safe[name] = [inert(value) for value in safe[name]]
    safe.columns = [inert(str(name)) for name in safe.columns]
    with atomic(path) as temporary:
        safe.to_csv(temporary, index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # so that \r ends no row


def inert(value: Any) -> Any:
    """Text that starts like a formula gets an apostrophe in front; everything else is left alone."""
    return f"'{value}" if isinstance(value, str) and value.lstrip("'").startswith(FORMULA) else value


def alive(value: Any) -> Any:
    """What `inert` was given."""
    return value[1:] if isinstance(value, str) and value[:1] == "'" and inert(value) != value else value


def read_csv(path: Path, text: tuple[str, ...] | None = None) -> Any:
    """A pandas table that `write_csv` wrote. Columns of `text` come as they were given, an empty cell as empty text."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(text or (), str), keep_default_na=text is None)
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({one_line(error)}); make it again") from None
    if missing := [name for name in text or () if name not in table]:
        raise ConfigError(f"{path} lacks the columns {', '.join(missing)}; make it again")
    return table.assign(**{name: [alive(value) for value in table[name]] for name in text or ()})


def refuse_pickled(path: Path, instead: str) -> None:
    """UnsafeInput for a file that may hold code, by name or content; `instead` is the safe way for the person."""
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    refused = suffix.lower() in PICKLED
    if not refused and path.is_file():
        with path.open("rb") as handle:
            refused = PICKLE_HEAD.match(handle.read(2)) is not None
    if refused:
        raise UnsafeInput(f"{path} may hold code (a pickle) and is never loaded; {instead}")


def sha256_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_or_reason(path: Path) -> str:
    """The hash of a file's content, or why it cannot be read: it then ends in a row."""
    try:
        return sha256_file(path)
    except OSError as error:
        return f"unreadable, {error.strerror}"


def hash_tree(folder: Path, skip: frozenset[str] = frozenset()) -> str:
    """One hash over the relative names and contents of all files below `folder`, except names in `skip`."""
    return hash_of(hashes_below(folder, skip))


def hashes_below(folder: Path, skip: frozenset[str] = frozenset()) -> dict[str, str]:
    """Relative name -> hash of the content of every file below `folder`, except hidden ones and names in `skip`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    names = ((path.relative_to(folder).as_posix(), path) for path in paths)
    return {name: known_hash(path) for name, path in names if not ({name, name.partition("/")[0]} & skip)}


def hash_of(hashes: Mapping[str, str]) -> str:
    """One hash over names and the hashes of their contents, in the order given."""
    total = hashlib.sha256()
    for name, sha256 in hashes.items():
        total.update(f"{name}\0{sha256}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()[:32]


def known_hash(path: Path) -> str:
    """`sha256_file`, kept for as long as size, time and place of the file stay what they were."""
    status = path.stat()
    sign = (status.st_mtime_ns, status.st_size, status.st_ino)
    if _HASHED.get(path, ((), ""))[0] != sign:
        _HASHED[path] = (sign, sha256_file(path))
    return _HASHED[path][1]


_HASHED: dict[Path, tuple[tuple[int, ...], str]] = {}


def one_line(error: Any) -> str:
    """What a library says, as part of a message."""
    return f"{' '.join(str(error).split()):.160}"
