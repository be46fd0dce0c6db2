"""Bytes of a known kind -> finite pixels and the channels asked for, or an ImageError: the decode boundary."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from cellvision.io.images import raster, tiff
from cellvision.io.images.pixels import Channels, Decoded, Frames, ImageError, Limits, Reason, fill_nonfinite, picked


def decode_bytes(
    data: bytes, kind: str, frames: Frames, channels: Channels | None, limits: Limits, labels: bool = False
) -> Decoded:
    """What `process` runs in its own process: bytes of a `kind` -> pixels, finite, and the channels asked for."""
    with boundary(Reason.E_CORRUPT):
        if kind == "TIFF":
            decoded = tiff.decode(data, frames, limits, labels)
        else:
            decoded = raster.decode(data, kind, frames, limits, labels)
    with boundary(Reason.E_INTERNAL):
        return _finish(decoded, channels, limits)


@contextmanager
def boundary(reason: Reason) -> Iterator[None]:
    """Whatever foreign data makes a library do ends here as an ImageError; its warnings and log lines stay silent."""
    logger = logging.getLogger("tifffile")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # the decode boundary
        text = f"{type(error).__name__}: {error}"[:200]
        if isinstance(error, EOFError) or "truncated" in text.lower():
            reason = Reason.E_TRUNCATED if reason is Reason.E_CORRUPT else reason
        advice = {
            Reason.E_IO: "check that it exists and may be read",
            Reason.E_INTERNAL: "please report this file",
        }.get(reason, "open it in ImageJ and export it again")
        raise ImageError(reason, f"cannot be read ({text}); {advice}") from error
    finally:
        logger.disabled = disabled


def _finish(decoded: Decoded, channels: Channels | None, limits: Limits) -> Decoded:
    """Pick channels, fill what is not finite."""
    pixels, names = decoded.pixels, decoded.channel_names
    if channels is not None:
        pixels, names = picked(pixels, channels, names)
    if pixels.dtype.kind == "f":
        pixels = fill_nonfinite(pixels, limits, decoded.notes)
    if pixels.dtype.name not in ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64"):
        raise ImageError(
            Reason.E_DTYPE,
            f"samples are {pixels.dtype}, expected 8- to 32-bit integers or floats; convert before export",
        )
    return replace(decoded, pixels=np.ascontiguousarray(pixels), channel_names=names)
