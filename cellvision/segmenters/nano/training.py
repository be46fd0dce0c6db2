"""How `nano` is trained: packed scenes with their flows, augmented batches, Cellpose's loss. torch and numpy only.

A scene is an image at `DIAMETER` px per cell with the flows of its masks, computed once. A second store holds images as
they came, for the diameter's head, which has to see cells of every size. Both are read by memory map.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from numpy.typing import NDArray
from torch import Tensor

from cellvision.core.rng import generator
from cellvision.segmenters.nano.network import DIAMETER, normalise, typical_diameter

SIDE = 160  # px of a training crop
SIZE_SIDE = 128  # px of a crop for the diameter's head
ZOOM = (0.65, 1.55)  # of a scene
SIZES = (6.0, 150.0)  # px, diameters the head is trained on
SMALLEST = 8  # px, what is left of a cell in a scene
NATIVE = 96.0  # px, largest diameter of the images kept for the diameter's head
TRIES = 3  # places of a crop, until one has cells
SIZE_WEIGHT = 0.3  # of the diameter's loss


class Scenes:
    """Packed arrays of one kind: `index.json` lists shapes and offsets into one flat file of bytes."""

    def __init__(self, folder: Path) -> None:
        self.rows: list[dict[str, Any]] = json.loads((folder / "index.json").read_text())
        self.bytes = np.memmap(folder / "data.bin", np.uint8, "r")

    def __len__(self) -> int:
        return len(self.rows)

    def array(self, row: int) -> NDArray[np.uint8]:
        """(H, W, C) of one scene, a view of the file."""
        shape, start = self.rows[row]["shape"], self.rows[row]["start"]
        return self.bytes[start : start + math.prod(shape)].reshape(shape)


def pack(folder: Path, scenes: Any) -> None:
    """Write an iterable of (array (H, W, C) uint8, facts) as `Scenes`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, start = [], 0
    with (folder / "data.bin").open("wb") as handle:
        for array, facts in scenes:
            handle.write(np.ascontiguousarray(array).tobytes())
            rows.append({"shape": list(array.shape), "start": start, **facts})
            start += array.size
    (folder / "index.json").write_text(json.dumps(rows))


def scene_of(
    pixels: NDArray[np.uint8], masks: NDArray[np.int32], unknown: NDArray[np.bool_] | None = None, closer: float = 1.0
) -> NDArray[np.uint8]:
    """(H, W, 1 or 3), labels -> (h, w, 3 + 4) at `DIAMETER` px a cell: image, flow y and x (127 is none), cell, known.

    `unknown` marks pixels without a truth; `closer` shows objects larger than their area asks for.
    """
    import cv2

    from cellvision.segmenters.nano.dynamics import masks_to_flow

    scale = DIAMETER * closer / typical_diameter(masks)
    size = [max(16, round(side * scale)) for side in masks.shape[::-1]]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(normalise(pixels), size, interpolation=how)
    labels = cv2.resize(masks, size, interpolation=cv2.INTER_NEAREST_EXACT)
    kept = np.bincount(labels.ravel()) >= SMALLEST
    kept[0] = False
    labels = (np.cumsum(kept) * kept)[labels].astype(np.int32)
    has_truth = np.ones(labels.shape, np.uint8)
    if unknown is not None:
        has_truth -= cv2.resize(unknown.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    flow = (127 + 127 * masks_to_flow(labels)).round().astype(np.uint8)
    return np.concatenate([image, np.stack([*flow, (labels > 0).astype(np.uint8) * 255, has_truth * 255], -1)], -1)


def native_of(
    pixels: NDArray[np.uint8], masks: NDArray[np.int32], closer: float = 1.0
) -> tuple[NDArray[np.uint8], float]:
    """(H, W, 1 or 3), (H, W) labels -> (h, w, 3) uint8, and the diameter its cells have there, px.

    The image as it came, but smaller where its cells have more than `NATIVE` px.
    """
    import cv2

    diameter = typical_diameter(masks) / closer
    shrink = min(1.0, NATIVE / diameter)
    image = cv2.resize(normalise(pixels), None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return np.asarray(image, np.uint8), diameter * shrink


class Batches:
    """The batch of a step, a function of (seed, step): augmented crops of scenes, and crops for the diameter's head."""

    def __init__(self, scenes: Scenes, natives: Scenes, batch: int, seed: int) -> None:
        self.scenes, self.natives, self.batch, self.seed = scenes, natives, batch, seed
        self.chance = [_chance(store) for store in (scenes, natives)]

    def __call__(self, step: int) -> dict[str, Tensor]:
        rng = generator(self.seed, "nano batch", step)
        chosen = rng.choice(len(self.scenes), self.batch, p=self.chance[0])
        crops = torch.stack([scene_crop(self.scenes.array(row), rng) for row in chosen])
        image = torch.stack([vary_colour(crop, rng) for crop in crops[:, :3]])
        chosen = rng.choice(len(self.natives), max(2, self.batch // 2), p=self.chance[1])
        sized = [size_crop(self.natives.array(row), self.natives.rows[row]["diameter"], rng) for row in chosen]
        return {
            "image": image, "target": crops[:, 3:6], "valid": crops[:, 6:7],
            "sized": torch.stack([vary_colour(crop, rng) for crop, _ in sized]),
            "diameter": torch.tensor([math.log2(diameter / DIAMETER) for _, diameter in sized]),
        }  # fmt: skip


def _chance(store: Scenes) -> NDArray[np.float64]:
    weight = np.array([row["weight"] for row in store.rows])
    return weight / weight.sum()


def scene_crop(scene: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """(H, W, 3 + 4) -> (3 + 4, SIDE, SIDE) float: image 0..1, flow y and x, cell, valid; turned, zoomed, mirrored.

    The flows turn with the image. What lies outside the image is mirrored image that no loss is taken of.
    """
    height, width = scene.shape[:2]
    zoom = math.exp(rng.uniform(math.log(ZOOM[0]), math.log(ZOOM[1])))
    angle = rng.uniform(0, 2 * math.pi)
    reach = SIDE / zoom  # scene px that the crop spans
    for _ in range(TRIES):
        centre = [_centre(side, reach, rng) for side in (height, width)]
        corner = [max(0, int(place - reach / 2)) for place in centre]
        if scene[corner[0] : int(centre[0] + reach / 2) : 4, corner[1] : int(centre[1] + reach / 2) : 4, 5].any():
            break  # mostly crops with cells, some without
    half = math.ceil(reach * math.sqrt(0.5)) + 2
    y0, x0 = (max(0, int(c) - half) for c in centre)
    window = scene[y0 : int(centre[0]) + half, x0 : int(centre[1]) + half].copy()
    tensor = torch.from_numpy(window).permute(2, 0, 1)[None].float()
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])  # acts on (x, y)
    if rng.random() < 0.5:
        turn = turn @ np.diag([-1.0, 1.0])
    size = np.array(window.shape[1::-1])
    grid = _grid(turn / zoom, np.array([centre[1] - x0, centre[0] - y0]), size, SIDE)
    image = F.grid_sample(tensor[:, :3], grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]
    labels = F.grid_sample(tensor[:, 3:], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    inside, cell = labels[3] > 127, labels[2] > 127
    flow = (labels[:2] - 127.0 * (labels[3:4] / 255)) / 127.0  # (y, x) in scene axes; 127 is no flow
    x, y = flow[1], flow[0]
    back = torch.as_tensor(turn.T, dtype=torch.float32)  # scene -> crop
    flow_x, flow_y = back[0, 0] * x + back[0, 1] * y, back[1, 0] * x + back[1, 1] * y
    flow = torch.stack([flow_y, flow_x]) * cell
    return torch.cat([image / 255, flow, cell[None].float(), inside[None].float()])


def size_crop(image: NDArray[np.uint8], diameter: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """(H, W, 3), its diameter in px -> (3, SIZE_SIDE, SIZE_SIDE) in 0..1 at a random scale, and the diameter there."""
    wanted = math.exp(rng.uniform(math.log(SIZES[0]), math.log(min(SIZES[1], diameter * 1.5))))
    reach = SIZE_SIDE * diameter / wanted
    height, width = image.shape[:2]
    y0, x0 = (int(rng.uniform(0, max(side - reach, 0) + 1)) for side in (height, width))
    window = image[y0 : y0 + math.ceil(reach), x0 : x0 + math.ceil(reach)]
    tensor = torch.from_numpy(window.copy()).permute(2, 0, 1)[None].float() / 255
    size = [max(8, round(side * wanted / diameter)) for side in tensor.shape[2:]]
    tensor = F.interpolate(tensor, size, mode="bilinear", antialias=True, align_corners=False)
    pad = [max(0, SIZE_SIDE - side) for side in tensor.shape[2:]]
    tensor = F.pad(tensor, (0, pad[1], 0, pad[0]), mode="replicate")[0, :, :SIZE_SIDE, :SIZE_SIDE]
    tensor = torch.rot90(tensor, int(rng.integers(4)), (1, 2))
    return tensor.flip(2) if rng.random() < 0.5 else tensor, wanted


def _centre(side: int, reach: float, rng: np.random.Generator) -> float:
    if side <= reach:
        return side / 2
    return rng.uniform(reach / 2, side - reach / 2)


def _grid(turn: NDArray, centre: NDArray, size: NDArray, side: int) -> Tensor:
    """Sampling grid (1, side, side, 2) in the normalised (x, y) coordinates of grid_sample, align_corners=False."""
    steps = torch.arange(side) - (side - 1) / 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    place = torch.stack([x, y], -1).float() @ torch.as_tensor(turn.T, dtype=torch.float32)
    place = place + torch.as_tensor(centre, dtype=torch.float32)
    return ((2 * place + 1) / torch.as_tensor(size, dtype=torch.float32) - 1)[None]


def vary_colour(image: Tensor, rng: np.random.Generator) -> Tensor:
    """(3, H, W) in 0..1: brightness, gamma, colour, sharpness and noise as another microscope would give them."""
    image = image.clone()
    if rng.random() < 0.25:
        image = 1 - image
    if rng.random() < 0.3:
        image = image[torch.as_tensor(rng.permutation(3))]
    if rng.random() < 0.15:
        image = image.mean(0, keepdim=True).expand(3, -1, -1)
    image = image.clamp(0, 1) ** math.exp(rng.uniform(-0.4, 0.4))
    if rng.random() < 0.2:
        image = F.avg_pool2d(image[None], 3, 1, 1, count_include_pad=False)[0]
    gain = 1 + torch.as_tensor(rng.uniform(-0.15, 0.15, (3, 1, 1)), dtype=torch.float32)
    image = image * gain * rng.uniform(0.8, 1.2) + rng.uniform(-0.1, 0.1)
    if rng.random() < 0.3:
        seed = int(rng.integers(2**62))
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
        image = image + noise * rng.uniform(0.01, 0.08)
    return image


def loss(network: Any, batch: dict[str, Tensor]) -> Tensor:
    """Cellpose's: half the mean square of five times the flow, plus cross entropy; and the diameter's likelihood.

    image (n, 3, SIDE, SIDE), target (n, 3, SIDE, SIDE): flow y and x, cell; valid (n, 1, SIDE, SIDE);
    sized (m, 3, SIZE_SIDE, SIZE_SIDE), diameter (m,): its log2 in units of `DIAMETER` -> scalar.
    """
    prediction = network(batch["image"].contiguous(memory_format=torch.channels_last))
    flow, cell, valid = batch["target"][:, :2], batch["target"][:, 2:], batch["valid"]
    count = valid.sum().clamp(min=1)
    error = ((prediction[:, :2] - 5 * flow) ** 2 * valid).sum() / (2 * count) / 2
    entropy = (F.binary_cross_entropy_with_logits(prediction[:, 2:], cell, reduction="none") * valid).sum() / count
    guess, spread = network.diameter(batch["sized"].contiguous(memory_format=torch.channels_last))
    likelihood = 0.5 * ((guess - batch["diameter"]) ** 2 * torch.exp(-spread) + spread)
    return error + entropy + SIZE_WEIGHT * likelihood.mean()
