"""A foreign file's bytes or text, unpacked on the way where it is gzipped, whatever it is called, up to a bound."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import IO, Any

from cellvision.core.errors import ConfigError, UnsafeInput

GZIP = b"\x1f\x8b"
HARMLESS = 256 << 20  # bytes a file may unpack to, whatever its size
RATIO = 250  # times its size that more than that may unpack to; a table of nothing but zeros comes near


def is_packed(path: Path) -> bool:
    """Whether the content is a gzip."""
    with path.open("rb") as handle:
        return handle.read(len(GZIP)) == GZIP


def open_bytes(path: Path) -> IO[bytes]:
    """The content, unpacked. Reading raises ConfigError for a damaged gzip, UnsafeInput for an endless one."""
    handle = path.open("rb")
    return io.BufferedReader(_Unpacking(path, handle)) if is_packed(path) else handle


def open_text(path: Path, encoding: str) -> IO[str]:
    """The content as text, with the line ends it has."""
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, newline="")


class _Unpacking(io.RawIOBase):
    """Reads a gzip and counts what comes out."""

    def __init__(self, path: Path, handle: IO[bytes]) -> None:
        self.path, self.handle, self.stream = path, handle, gzip.GzipFile(fileobj=handle)
        self.bound = max(HARMLESS, RATIO * path.stat().st_size)
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count = self.stream.readinto(buffer)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ConfigError(f"{self.path} is a damaged gzip file ({error}); copy it again") from None
        self.count += count
        if self.count > self.bound:
            raise UnsafeInput(f"{self.path} unpacks to over {self.bound} bytes; unpack it yourself if you trust it")
        return count

    def close(self) -> None:
        self.stream.close()
        self.handle.close()
        super().close()
