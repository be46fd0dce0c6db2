"""Pictures that nobody looks at: drawing them was a seventh of a study."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pytest

from cellvision.plots import base

if TYPE_CHECKING:
    from matplotlib.figure import Figure

draw_truly = base.write_png


def shown_by(drawing: Figure) -> Iterator[bytes]:
    """The same for the same picture, another for another."""
    yield drawing.get_size_inches().tobytes()
    for axis in drawing.axes:
        texts = [axis.get_title(), axis.get_xlabel(), axis.get_ylabel(), *(text.get_text() for text in axis.texts)]
        yield repr((texts, axis.patches)).encode()
        yield from (np.asarray(line.get_xydata()).tobytes() for line in axis.lines)
        yield from (np.asarray(image.get_array()).tobytes() for image in axis.images)
        yield from (np.asarray(dots.get_offsets()).tobytes() for dots in axis.collections)


def write_one_pixel(drawing: Figure, target: Path | BinaryIO) -> None:
    """A PNG of one pixel that carries the hash of what the picture would show."""
    from PIL import Image, PngImagePlugin

    facts = PngImagePlugin.PngInfo()
    facts.add_text("shown", hashlib.sha256(b"".join(shown_by(drawing))).hexdigest())
    Image.new("L", (1, 1)).save(target, format="PNG", pnginfo=facts)


@pytest.fixture(autouse=True, scope="session")
def quick_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "write_png", write_one_pixel)
        yield


@pytest.fixture
def true_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that looks at pictures."""
    monkeypatch.setattr(base, "write_png", draw_truly)
