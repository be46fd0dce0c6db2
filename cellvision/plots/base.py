"""Pictures: previews of masks, sheets of crops, curves, confusion matrices and intervals. matplotlib lives here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120


def figure(width: float, height: float, **settings: Any) -> tuple[Figure, Any]:
    """A figure without a window system, so that nothing depends on a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(drawing)
    return drawing, drawing.subplots(**settings)


def save(drawing: Figure, target: Path | BinaryIO) -> None:
    """Write a PNG to a file, atomically, or into a buffer."""
    if isinstance(target, Path):
        with files.atomic(target) as temporary:
            write_png(drawing, temporary)
    else:
        write_png(drawing, target)


def write_png(drawing: Figure, target: Path | BinaryIO) -> None:
    """The same picture is the same bytes."""
    drawing.savefig(target, format="png", metadata={"Software": None})


def save_pixels(target: BinaryIO, pixels: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) RGB as PNG."""
    from PIL import Image

    Image.fromarray(pixels).save(target, format="PNG")


def load_pixels(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) of a picture that this project wrote."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def picture(pixels: NDArray[np.uint8]) -> Figure:
    """(H, W, 3) pixels as a figure of their size, nothing around them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = pixels.shape[:2]
    drawing = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(drawing)
    axis = drawing.add_axes((0, 0, 1, 1))
    axis.imshow(pixels)
    axis.axis("off")
    return drawing


def plain(text: Any) -> str:
    """Text that matplotlib's math mode leaves alone."""
    return str(text).replace("$", r"\$")
