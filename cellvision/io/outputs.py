"""What other programs leave beside images: masks, outlines, flows, overlays, thumbnails. They are no images to segment.

A name is enough where only one program writes it (`_cp_masks`); a word that anybody may use (`_mask`, `_overlay`)
counts only beside the image it was made of, and so does a picture that holds labels.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

FOLDERS = {  # below a group's folder; a group itself may be called so
    "mask", "masks", "label", "labels", "outlines", "flows", "overlays", "segmentation", "segmentations", "thumbnails",
    "thumbs", "cellpose", "cp_output",
}  # fmt: skip
OF_CELLPOSE = re.compile(r"_cp_(?:masks|output|outlines)|_seg\.npy$|_rois\.zip$")
WORDS = re.compile(
    r"[ _.-](?:(?:cp[ _-]?)?masks?|labels?|outlines?|flows?|dP|cellprob|probabilit(?:y|ies)|segmentation|overlay|thumb"
    r"|thumbnail|rois?)$",
    re.IGNORECASE,
)
CUT = re.compile(r"[ _.-]")
FLAT = 0.8  # share of neighbours of the same value in a picture of labels
MAX_LABELS = 1 << 20


def by_name(name: str) -> str:
    """Why a file is no image although it may look like one, by a name that only one program writes; empty else."""
    return "left by Cellpose, no image" if OF_CELLPOSE.search(name) else ""


def beside(paths: Iterable[str]) -> dict[str, str]:
    """Paths below the root -> the file that each may have been made of: of the same folder and the beginning of its
    name, or of another folder and the same name."""
    paths = sorted(paths)
    in_folder: dict[tuple[str, str], str] = {}
    anywhere: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        folder, _, name = path.rpartition("/")
        stem = PurePosixPath(name).stem
        in_folder.setdefault((folder, stem), path)
        anywhere[stem].append(path)
    origin = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        stem = PurePosixPath(name).stem
        begins = [stem[: cut.start()] for cut in reversed(list(CUT.finditer(stem)))]
        origins = [in_folder[folder, begin] for begin in begins if (folder, begin) in in_folder]
        origins += [other for other in anywhere[stem] if other.rpartition("/")[0] != folder]
        if origins:
            origin[path] = origins[0]
    return origin


def by_word(path: str, origin: str) -> str:
    """Why a file is no image: its name is that of another and a word such as mask; empty else."""
    stem = PurePosixPath(path).stem
    word = WORDS.search(stem)
    named_after = word is not None and stem[: word.start()] == PurePosixPath(origin).stem
    return f"{stem[word.start() :].strip(' _.-')} of {origin}, no image" if word and named_after else ""


def is_label_map(pixels: NDArray) -> bool:
    """(H, W, C): whole numbers 0 to n, or 0 and one more, in flat regions."""
    if pixels.dtype.kind not in "iu" or pixels.shape[2] != 1 or min(pixels.shape[:2]) < 2:
        return False
    labels = pixels[..., 0]
    if labels.min() != 0 or labels.max() == 0 or labels.max() > MAX_LABELS:
        return False
    values = np.flatnonzero(np.bincount(labels.ravel().astype(np.int64)))
    in_order = len(values) == 2 or len(values) > 0.5 * values[-1]
    flat = (labels[:, 1:] == labels[:, :-1]).mean()
    return bool(in_order and flat >= FLAT)
