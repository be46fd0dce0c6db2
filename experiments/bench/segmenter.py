"""How fast nano is: against Cellpose-SAM's network and dynamics on one image, a folder, a large image, many images.

python experiments/bench/segmenter.py ratio     1024 x 1024 px, 800 cells, against Cellpose-SAM with random weights
python experiments/bench/segmenter.py folder    500 images of 640 x 480 px, and the cost per image at 50, 100 and 500
python experiments/bench/segmenter.py large     4096 x 4096 px: seconds and peak memory
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def crowd(side: int, cells: int, seed: int = 0) -> NDArray[np.uint8]:
    """(side, side, 1): bright blurred discs on a jittered grid, with noise."""
    import cv2

    rng = np.random.default_rng(seed)
    image = np.full((side, side), 20, np.float32)
    across = int(np.sqrt(cells))
    pitch = side / across
    for row in range(across):
        for column in range(across):
            y, x = ((place + 0.5) * pitch + rng.uniform(-2, 2) for place in (row, column))
            axes = tuple(int(half) for half in rng.uniform(0.3, 0.42, 2) * pitch)
            angle, light = rng.uniform(0, 180), rng.uniform(90, 200)
            cv2.ellipse(image, (int(x), int(y)), axes, float(angle), 0, 360, float(light), -1)
    image = cv2.GaussianBlur(image, (5, 5), 1.2) + rng.normal(0, 6, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)[..., None]


def ratio(rounds: int) -> None:
    import torch
    from cellpose.dynamics import resize_and_compute_masks
    from cellpose.vit import CPSAM

    from cellvision.executors import local
    from cellvision.segmenters import SEGMENTERS
    from cellvision.segmenters.nano import dynamics

    pixels = crowd(1024, 800)
    nano = SEGMENTERS.build({"name": "nano"}, device="cpu")
    torch.set_num_threads(local.cores())
    network = CPSAM(dtype=torch.bfloat16).to(torch.bfloat16).eval()
    tile = torch.zeros(1, 3, 256, 256, dtype=torch.bfloat16)
    tiles = 25  # of 256 px with Cellpose's overlap of a tenth, at 1024 x 1024 px
    masks = nano.segment(pixels).masks
    print(f"nano finds {masks.max()} cells of {int(np.sqrt(800)) ** 2}")
    for number in range(rounds):
        begun = time.perf_counter()
        nano.segment(pixels)
        nano_s = time.perf_counter() - begun
        begun = time.perf_counter()
        with torch.inference_mode():
            network(tile)
        network_s = (time.perf_counter() - begun) * tiles
        flow = dynamics.masks_to_flow(masks) * 5
        begun = time.perf_counter()
        resize_and_compute_masks(flow, np.where(masks > 0, 3.0, -3.0).astype(np.float32))
        dynamics_s = time.perf_counter() - begun
        cellpose_s = network_s + dynamics_s
        print(
            f"round {number}: nano {nano_s:.2f} s; Cellpose-SAM {cellpose_s:.1f} s (network {network_s:.1f}, dynamics "
            f"{dynamics_s:.1f}); ratio {cellpose_s / nano_s:.0f}"
        )


def folder(counts: list[int]) -> None:
    from PIL import Image

    from cellvision import segment

    with tempfile.TemporaryDirectory() as name:
        for count in counts:
            raw = Path(name) / f"raw{count}" / "cells"
            raw.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(crowd(640, 250, number)[:480, :, 0]).save(raw / f"{number:04d}.png")
            begun = time.perf_counter()
            segment.run(segment.Config(raw=raw.parent, segmenter="nano"), Path(name) / f"out{count}")
            spent = time.perf_counter() - begun
            print(f"{count} images of 640 x 480 px: {spent:.0f} s, {1000 * spent / count:.0f} ms each")


def large() -> None:
    from cellvision.segmenters import SEGMENTERS

    pixels = np.tile(crowd(1024, 800), (4, 4, 1))
    nano = SEGMENTERS.build({"name": "nano"}, device="cpu")
    begun = time.perf_counter()
    masks = nano.segment(pixels).masks
    spent = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"4096 x 4096 px, {masks.max()} cells: {spent:.1f} s, peak memory {peak:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ratio", "folder", "large"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--counts", type=lambda text: [int(count) for count in text.split(",")], default=[50, 500])
    options = parser.parse_args()
    if options.what == "ratio":
        ratio(options.rounds)
    elif options.what == "folder":
        folder(options.counts)
    else:
        large()


if __name__ == "__main__":
    main()
