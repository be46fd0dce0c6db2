"""Segmenter Cellpose-SAM: uint8 image and weight file in, one mask per cell out (Pachitariu, Rariden & Stringer 2025).

Cellpose is kept on a short leash: nothing is downloaded (its downloader ends TLS verification and checks no hash),
weights are read as tensors only and compared with the network one by one (Cellpose leaves what is missing at random),
and the global random states, TF32 switch, log and warnings are afterwards as they were.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import math
import os
import pickle
import random
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch  # at once, so that a worker process limits torch's threads before its first image
from numpy.typing import NDArray

from cellvision.core import files
from cellvision.core.config import PluginConfig, option
from cellvision.core.errors import ConfigError, UnsafeInput
from cellvision.executors import local
from cellvision.segmenters import DINOV3, Segmentation, Segmenter, in_raster_order
from cellvision.training.device import device_named

REVISION = "1"  # raised when masks change
OFFICIAL = ("cpsam_v2", "cpsam", "cpdino", "cpdino-vitb")  # the latter two need the library dinov3
SOURCE = "the Hugging Face repository mouseland/cellpose-sam"
SEED = 0  # of every draw Cellpose makes from a global random state
MIN_SIDE = 8  # px, a smaller image holds no cell
NAMES = {"sam": "Cellpose-SAM", "dino": "CPDINO"}
TILES = {"sam": 256, "dino": 384}  # px, side of what a kind of network sees at once
PADDED = 16  # px that Cellpose adds to each side of an image, which it makes a multiple of as many
OVERLAP = 0.1  # of a tile, with each neighbour
MEMORY = 4e9  # bytes, of one process
NETWORK_DIAMETER = 30.0  # px, to which `diameter` is scaled
DINO_B = 768  # features of the smaller CPDINO; the larger has 1024
UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, ValueError, TypeError,
              LookupError, AttributeError, AssertionError, ArithmeticError)  # fmt: skip  # what damaged archives raise


class Cellpose(Segmenter):
    """305 M parameters: one tile of 256 px takes 2 s (bf16) to 6 s (fp32) on two quiet CPU cores, 1024 x 1024 px are
    25 tiles; each process needs 3 to 4 GB, from its first image on.
    """

    class Config(PluginConfig):
        name: Literal["cellpose"] = "cellpose"
        weights: str = option(
            "cpsam_v2",
            "cpsam_v2, cpsam, cpdino, cpdino-vitb in Cellpose's own folder, or a weight file",
            runtime=True,
        )  # runtime: a path; the file's hash is part of the identity
        diameter: float | None = option(None, "px, typical cell diameter; not needed from 7 to 120 px", ge=5, le=1000)
        flow_threshold: float = option(0.4, "largest accepted error of a cell's flows; 0 accepts every cell", ge=0)
        cellprob_threshold: float = option(0.0, "log odds; lower finds more and larger cells", ge=-20, le=20)
        min_size: int = option(15, "px of area, drop smaller cells", ge=0)
        largest: float = option(0.4, "drop what fills more than this fraction of the image", gt=0, le=1)
        batch: int = option(4, "tiles that go through the network together", ge=1)
        precision: Literal["auto", "bf16", "fp32"] = option("auto", "auto: bf16 where the device multiplies it")

    def __init__(self, cfg: Cellpose.Config, device: str = "auto") -> None:
        self.cfg = cfg
        self.device = device_named(device)  # and the threads stay as they are
        self.precision = cfg.precision if cfg.precision != "auto" else fast_precision(self.device)
        self.path = find_weights(cfg.weights).absolute()
        self.tile = TILES[check_network(read_weights(self.path), self.path)]
        self._model: Any = None

    def segment(self, pixels: NDArray[np.uint8]) -> Segmentation:
        """(H, W, C) uint8, C in {1, 3} -> masks, with each cell's mean probability and flow error."""
        cfg, (height, width) = self.cfg, pixels.shape[:2]
        if not self.tiles(height, width):
            return Segmentation(np.zeros(pixels.shape[:2], np.int32), {}, ("no cells: the image is too small",))
        rgb = np.zeros((height, width, 3), np.uint8)  # grey is the first channel, as Cellpose itself has it
        rgb[..., : pixels.shape[2]] = pixels
        with isolated(self.device):
            masks, flows, _ = self._network().eval(
                rgb, channel_axis=-1, batch_size=cfg.batch, diameter=cfg.diameter, flow_threshold=cfg.flow_threshold,
                cellprob_threshold=cfg.cellprob_threshold, min_size=cfg.min_size, max_size_fraction=cfg.largest,
            )  # fmt: skip
            labels, _ = in_raster_order(masks.astype(np.int32))
            return Segmentation(labels, describe(labels, flows[1], flows[2], self.device))

    def identity(self) -> str:
        """What the masks depend on beside the config: method, arithmetic and the content of the weight file."""
        return f"cellpose revision {REVISION}, {self.precision}, sha256 {files.sha256_file(self.path)}"

    # -- what it will cost --

    def processes(self) -> int:
        """How many fit into the memory that is free, the GPU's too; at least one."""
        free = local.free_memory()
        if self.device.type == "cuda":
            free = min(free, torch.cuda.mem_get_info(self.device)[0])
        return max(1, int(free // MEMORY))

    def lanes(self, processes: int) -> int:
        """Each core is one; a GPU is one for all."""
        return 1 if self.device.type == "cuda" else max(1, min(processes, local.cores()))

    def tiles(self, height: int, width: int) -> int:
        """As Cellpose's own `run_net` cuts an image; 0 where it is too small to hold a cell."""
        if min(height, width) * min(1.0, self._scale()) < MIN_SIDE:
            return 0
        return math.prod(_tiles_along(int(side * self._scale()), self.tile) for side in (height, width))

    def tile_seconds(self, pixels: NDArray[np.uint8]) -> float:
        """(H, W, C) uint8 -> seconds a tile, masks included, of the image's middle: one tile, on a GPU some more."""
        wanted = int((self.tile - PADDED) * (2 if self.device.type == "cuda" else 1) / self._scale())
        top, left = (max(0, side - wanted) // 2 for side in pixels.shape[:2])
        piece = pixels[top : top + wanted, left : left + wanted]
        self.segment(piece)  # the first call loads the network
        begun = time.perf_counter()
        self.segment(piece)
        return (time.perf_counter() - begun) / self.tiles(*piece.shape[:2])

    def _scale(self) -> float:
        """What Cellpose enlarges an image by before it cuts it."""
        return NETWORK_DIAMETER / (self.cfg.diameter or NETWORK_DIAMETER)

    def _network(self) -> Any:
        if self._model is None:
            from cellpose.models import CellposeModel

            half = self.precision == "bf16"
            with undrawn():
                self._model = CellposeModel(device=self.device, pretrained_model=str(self.path), use_bfloat16=half)
        return self._model


def _tiles_along(side: int, tile: int) -> int:
    """Tiles over one side, px at the network's scale."""
    padded = math.ceil(side / PADDED) * PADDED + PADDED if side >= tile else max(tile, side + PADDED)
    return 1 if padded <= tile else math.ceil((1.0 + 2 * OVERLAP) * padded / tile)


def describe(
    labels: NDArray[np.int32], flows: NDArray[np.float32], log_odds: NDArray[np.float32], device: torch.device
) -> dict[str, NDArray[np.float32]]:
    """(H, W), (2, H, W), (H, W) -> per cell: mean `probability` and mean square `flow_error` (0 is perfect)."""
    from cellpose.dynamics import flow_error
    from scipy.special import expit

    area = np.bincount(labels.ravel())[1:]
    if not len(area):
        return {name: np.zeros(0, np.float32) for name in ("probability", "flow_error")}
    total = np.bincount(labels.ravel(), weights=expit(log_odds).ravel())[1:]
    error = flow_error(labels, flows, device)[0]
    return {"probability": (total / area).astype(np.float32), "flow_error": error.astype(np.float32)}


def fast_precision(device: torch.device) -> Literal["bf16", "fp32"]:
    """Cellpose's own choice, bf16, but for processors that would only imitate it."""
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bf16" if device.type == "cuda" or native() else "fp32"


@contextlib.contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Fixed global random states, no log and no warnings inside; everything as before afterwards."""
    python, legacy, tf32 = random.getstate(), np.random.get_state(), torch.backends.cuda.matmul.allow_tf32
    log = logging.getLogger("cellpose")
    level, on_gpu = log.level, device.type == "cuda"
    with torch.random.fork_rng([torch.cuda.current_device()] if on_gpu else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL + 1)
        random.seed(SEED)
        np.random.seed(SEED)
        torch.default_generator.manual_seed(SEED)
        if on_gpu:
            torch.cuda.manual_seed(SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
            torch.backends.cuda.matmul.allow_tf32 = tf32  # importing Cellpose turns it on
            log.setLevel(level)


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Networks made inside have no first weights: drawing 305 M takes seconds, and `check_network` has found others."""
    from torch.nn import init

    drawing = {name: function for name, function in vars(init).items() if name.endswith("_") and callable(function)}
    try:
        for name in drawing:
            setattr(init, name, lambda tensor, *settings, **more: tensor)
        yield
    finally:
        for name, function in drawing.items():
            setattr(init, name, function)


# --- weights: found, read without unpickling, and compared with the network


def find_weights(text: str) -> Path:
    """An official name or a path -> the file. ConfigError when there is none: nothing is downloaded."""
    if text in OFFICIAL:
        path = Path(os.environ.get("CELLPOSE_LOCAL_MODELS_PATH") or "~/.cellpose/models").expanduser() / text
        if path.is_file():
            return path
        raise ConfigError(
            f"no Cellpose weights at {path}, and nothing is downloaded unasked: run cellvision fetch {text}, "
            f"or put the file {text} of {SOURCE} there, or give it with --weights FILE; --segmenter nano brings its own"
        )
    path = Path(text).expanduser()
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise ConfigError(f"no weight file at {path}; {_wanted()}")
    close = difflib.get_close_matches(text, OFFICIAL, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(OFFICIAL)}, or the path of a weight file"
    raise ConfigError(f"no Cellpose model or file named {text!r}; {hint}")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors, mapped from disk. UnsafeInput when a file asks for more than tensors, ConfigError when damaged."""
    try:
        with zipfile.ZipFile(path) as archive, isolated(torch.device("cpu")):
            broken = archive.testzip()
            state = None if broken else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise UnsafeInput(f"{path} could run code (it holds more than tensors), not loaded; {_wanted()}") from None
    except UNREADABLE as error:
        raise ConfigError(f"{path} is no sound weight file ({type(error).__name__}); {_wanted()}") from None
    if broken:
        raise ConfigError(f"{path} is damaged (wrong checksum in {broken}); fetch it again: {_wanted()}")
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError(f"{path} holds no table of tensors; {_wanted()}")
    return state


def check_network(state: dict[str, torch.Tensor], path: Path) -> Literal["sam", "dino"]:
    """Tensors of any shape, (...,), by name -> which kind of network they are of.

    ConfigError names the first tensor that is missing, misshapen or not finite, or what to do where its network cannot
    be made here.
    """
    kind: Literal["sam", "dino"] = "dino" if "encoder.cls_token" in state else "sam"  # as Cellpose tells them apart
    with isolated(torch.device("cpu")), torch.device("meta"):
        from cellpose import vit

        if kind == "sam":
            expected = vit.CPSAM().state_dict()
        elif not hasattr(vit, "CPDINO"):
            raise ConfigError(f"{path} is a CPDINO network, which this cellpose does not know: pip install -U cellpose")
        elif not hasattr(vit, "dinov3_vitl16"):
            raise ConfigError(f"{path} is a CPDINO network; take {OFFICIAL[0]}, or install what it needs: {DINOV3}")
        else:
            width = len(state["encoder.cls_token"].flatten())
            expected = vit.CPDINO("vitb" if width == DINO_B else "vitl").state_dict()
    for key, like in expected.items():
        if key.startswith("diam_"):  # a record of the training, not used
            continue
        if key not in state or state[key].shape != like.shape:
            raise ConfigError(f"{path} is no {NAMES[kind]} network (see its tensor {key!r}); {_wanted()}")
        if not torch.isfinite(state[key].sum(dtype=torch.float32)):
            raise ConfigError(f"{path} is spoilt: tensor {key!r} holds values that are not finite; {_wanted()}")
    return kind


def _wanted() -> str:
    return f"give a file trained with Cellpose 4, or {OFFICIAL[0]} of {SOURCE}"
