"""Cellpose's own code around a small network, or around flows computed from the image."""

from __future__ import annotations

import logging
import pickle
import random
import ssl
import sys
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from cellvision.core.config import build
from cellvision.segmenters.cellpose import Cellpose


def make(weights, **settings):
    return Cellpose(build(Cellpose.Config, {"weights": str(weights), **settings}), device="cpu")


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """Cellpose's own folder, empty, and a network that must not be asked."""

    def refuse(*args, **kwargs):
        raise AssertionError("tried to open a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path / "models"))
    return tmp_path / "models"


def small_encoder(checkpoint):
    """Two narrow blocks instead of 24 wide ones."""
    from segment_anything.modeling import ImageEncoderViT

    return SimpleNamespace(image_encoder=ImageEncoderViT(
        img_size=1024, patch_size=16, embed_dim=32, depth=2, num_heads=2, out_chans=16, use_rel_pos=True,
        window_size=14, global_attn_indexes=(1,), norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    ))  # fmt: skip


def forward_to_bright(net, tiles):
    """The network's answer: bright is cell, and flows point up the blurred brightness."""
    answers = []
    for tile in tiles:
        light = cv2.GaussianBlur(tile[0], (0, 0), 6)
        flow = np.stack(np.gradient(light))
        flow /= np.hypot(*flow) + 1e-6
        answers.append(np.concatenate([5 * flow, 12 * (tile[:1] - 0.5)]))
    return np.stack(answers).astype(np.float32), np.zeros((len(tiles), 256), np.float32)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A weight file for Cellpose's network around a small encoder."""
    import cellpose.vit

    monkeypatch.setattr(cellpose.vit, "sam_model_registry", {"vit_l": small_encoder})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = cellpose.vit.CPSAM().state_dict()
    torch.save(state, tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def flows_to_bright(monkeypatch):
    """Known discs become cells."""
    monkeypatch.setattr("cellpose.core._forward", forward_to_bright)


DISCS = ((30, 110, 14), (40, 40, 17), (100, 60, 12), (96, 200, 20), (150, 120, 15))  # y, x, radius; in raster order


def discs(channels=1):
    image = np.full((180, 240, channels), 20, np.uint8)
    for y, x, radius in DISCS:
        image[..., 0] = cv2.circle(image[..., 0].copy(), (x, y), radius, 220, -1)
    return image


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# --- what it will cost


@pytest.fixture
def seen(flows_to_bright, monkeypatch):
    """Tiles that went through the network, one number a call."""
    forward, counts = sys.modules["cellpose.core"]._forward, []

    def counting(net, tiles):
        counts.append(len(tiles))
        return forward(net, tiles)

    monkeypatch.setattr("cellpose.core._forward", counting)
    return counts


# --- no side effects


def everything_global():
    return (
        random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().numpy().tobytes(),
        torch.backends.cuda.matmul.allow_tf32, ssl._create_default_https_context, logging.getLogger("cellpose").level,
        torch.get_num_threads(), torch.get_default_dtype(),
    )  # fmt: skip
