"""Decoding within limits of time and memory: what exceeds them is one error, and the next picture is read."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pytest
from corpus import pillow
from raw_images import discs, put

from cellvision.io.images import process
from cellvision.io.images.reader import ImageError, Limits, Reason, read_image


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A TIFF of 3,000 pages that share one strip of 6,000 x 6,000 zeros: 0.3 MB that take minutes to decode."""
    return put(tmp_path / "slow.tif", corpus.time_bomb(side=6000, pages=3000))


def test_a_decode_that_takes_too_long_ends_in_a_row(slow: Path) -> None:
    begun = time.process_time()
    with pytest.raises(ImageError, match="stopped after 1 s") as error:
        read_image(slow, limits=Limits(max_seconds=1, max_seconds_per_mb=0))
    assert error.value.reason is Reason.E_TOO_LARGE
    assert time.process_time() - begun < 1, "the waiting costs nothing"
    put(slow)
    assert read_image(slow).pixels.shape == (64, 64, 1), "the next picture gets a new decoder"


def test_a_decode_that_waits_for_nothing_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that sleeps uses no processor time."""
    path = put(tmp_path / "1.png")
    package = tmp_path / "stuck" / "sitecustomize.py"
    put(package, b"import time, zlib\nzlib.crc32 = lambda data: time.sleep(1000)\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(process, "_running", None)
    with pytest.raises(ImageError, match="stopped after"):
        read_image(path, limits=Limits(max_seconds=0.02, max_seconds_per_mb=0))
    monkeypatch.undo()
    assert read_image(path).pixels.shape == (64, 64, 1)


@pytest.mark.parametrize("times", [1, 2])
def test_a_decoder_that_somebody_kills_is_started_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    path, asked, real = put(tmp_path / "1.png"), [], process._ask

    def ask(process: subprocess.Popen[bytes], *others: Any) -> Any:
        asked.append(process.pid)
        if len(asked) <= times:
            process.kill()
            process.wait()
        return real(process, *others)

    monkeypatch.setattr(process, "_ask", ask)
    if times == 1:
        assert (read_image(path).pixels[..., 0] == discs()).all()
    else:
        with pytest.raises(ImageError, match="ended with code -9") as error:
            read_image(path)
        assert error.value.reason is Reason.E_TOO_LARGE
    assert len(set(asked)) == 2


def test_memory_is_capped_where_a_picture_is_decoded(tmp_path: Path) -> None:
    """The mean of two planes of 49 MB is taken in 8 bytes a pixel."""
    path = put(tmp_path / "stack.tif", corpus.time_bomb(side=7000, pages=2))
    with pytest.raises(ImageError, match="more memory is needed") as error:
        read_image(path, frames="mean", limits=Limits(max_decoded_mb=50))
    assert error.value.reason is Reason.E_TOO_LARGE
    assert read_image(path, frames="mean").pixels.shape == (7000, 7000, 1)


def test_a_transparent_picture_takes_no_more_memory_than_an_opaque_one(tmp_path: Path) -> None:
    """64 MB of pixels; mixing them with the border at once would take 1.5 GB."""
    path = put(tmp_path / "clear.png", pillow(np.zeros((4000, 4000, 4), np.uint8), "PNG", compress_level=1))
    assert read_image(path, limits=Limits(max_decoded_mb=80)).pixels.shape == (4000, 4000, 3)
