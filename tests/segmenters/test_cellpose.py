"""Cellpose finds known cells, and says what it will cost.

Most tests run Cellpose's own code around a small image encoder, one runs the network in its true size, all with random
weights; where masks are known, the network's answer is replaced by flows computed from the image.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_cellpose import DISCS, discs, everything_global, make, noise

from cellvision import segment
from cellvision.commandline.cli import main
from cellvision.core.errors import ConfigError
from cellvision.executors import local
from cellvision.segmenters.cellpose import Cellpose, isolated

# --- CPDINO, made of a library that is not installed


@pytest.fixture
def dino(tmp_path, monkeypatch):
    """A weight file of a CPDINO network, and the part of dinov3 that gives it its shape."""
    import cellpose.vit

    class Encoder(torch.nn.Module):
        def __init__(self, pretrained):
            super().__init__()
            self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, 768))
            self.patch_embed = torch.nn.Module()
            self.patch_embed.proj = torch.nn.Conv2d(3, 768, 16, 16)

    for name in ("dinov3_vitl16", "dinov3_vitb16"):
        monkeypatch.setattr(cellpose.vit, name, Encoder, raising=False)
    torch.save(cellpose.vit.CPDINO("vitb").state_dict(), tmp_path / "dino")
    return tmp_path / "dino"


def test_a_cpdino_network_sees_larger_tiles(dino, seen):
    for shape in ((300, 368), (368, 369), (384, 500)):
        seen.clear()
        segmenter = make(dino)
        segmenter.segment(np.zeros((*shape, 1), np.uint8))
        assert segmenter.tiles(*shape) == sum(seen)


@pytest.mark.parametrize(("gone", "advice"), [("CPDINO", "pip install -U cellpose"), ("dinov3_vitl16", "dinov3$")])
def test_a_cpdino_network_that_cannot_be_made_is_one_line(dino, monkeypatch, gone, advice):
    import cellpose.vit

    monkeypatch.delattr(cellpose.vit, gone)
    with pytest.raises(ConfigError, match=advice) as caught:
        make(dino)
    assert "\n" not in str(caught.value)


# --- masks


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("diameter", [None, 20, 45])
def test_known_discs_come_back_in_raster_order_with_their_scores(small, flows_to_bright, channels, diameter):
    found = make(small, diameter=diameter).segment(discs(channels))
    assert found.masks.dtype == np.int32
    assert found.masks.shape == (180, 240)
    first = [np.flatnonzero(found.masks == label)[0] for label in range(1, len(DISCS) + 1)]
    assert first == sorted(first)
    assert found.masks.max() == len(DISCS)
    for y, x, radius in DISCS:
        label = found.masks[y, x]
        assert label > 0
        assert (found.masks == label).sum() == pytest.approx(np.pi * radius**2, rel=0.15)
        assert found.scores["probability"][label - 1] > 0.9
        assert 0 <= found.scores["flow_error"][label - 1] < 0.4
    assert {score.shape for score in found.scores.values()} == {(len(DISCS),)}
    assert {score.dtype for score in found.scores.values()} == {np.dtype(np.float32)}


def test_each_threshold_does_what_its_help_says(small, flows_to_bright):
    assert make(small, min_size=550).segment(discs()).masks.max() == 4  # the disc of radius 12 has 452 px
    assert make(small, largest=0.025).segment(discs()).masks.max() == 4  # the disc of radius 20 fills 0.029
    assert make(small, flow_threshold=1e-6).segment(discs()).masks.max() == 0


@pytest.mark.parametrize("image", [np.full((64, 64, 3), 7, np.uint8), np.zeros((90, 300, 1), np.uint8)])
def test_an_image_without_contrast_has_no_cells(small, flows_to_bright, image):
    found = make(small).segment(image)
    assert found.masks.shape == image.shape[:2]
    assert found.masks.max() == 0
    assert all(len(score) == 0 for score in found.scores.values())


@pytest.mark.parametrize(("shape", "diameter"), [((7, 300, 1), None), ((1, 1, 3), None), ((40, 40, 1), 1000)])
def test_an_image_smaller_than_a_cell_says_so(small, shape, diameter):
    found = make(small, diameter=diameter).segment(noise(*shape))
    assert found.masks.shape == shape[:2]
    assert found.masks.max() == 0
    assert found.notes == ("no cells: the image is too small",)


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 700, 3), (300, 257, 1)])
def test_odd_shapes_go_through(small, shape):
    assert make(small).segment(noise(*shape)).masks.shape == shape[:2]


@pytest.mark.parametrize("diameter", [None, 13, 30, 77.7])
@pytest.mark.parametrize("shape", [(7, 90), (8, 8), (240, 241), (255, 256), (257, 700)])
def test_tiles_are_those_that_go_through_the_network(small, seen, shape, diameter):
    segmenter = make(small, diameter=diameter)
    segmenter.segment(np.zeros((*shape, 1), np.uint8))
    assert segmenter.tiles(*shape) == sum(seen)


@pytest.mark.parametrize(("diameter", "tiles"), [(None, 1), (15, 1), (60, 1)])
def test_one_tile_is_timed_once_the_network_is_there(small, seen, monkeypatch, diameter, tiles):
    clock = iter([10.0, 13.5])
    monkeypatch.setattr("cellvision.segmenters.cellpose.time.perf_counter", lambda: next(clock))
    assert make(small, diameter=diameter).tile_seconds(noise(600, 700, 3)) == 3.5 / tiles
    assert seen == [tiles, tiles]


def test_processes_fit_into_the_memory(small, monkeypatch):
    segmenter = make(small)
    for free, processes in ((1e9, 1), (9e9, 2), (100e9, 25)):
        monkeypatch.setattr("cellvision.executors.local.free_memory", lambda free=free: free)
        assert segmenter.processes() == processes
    assert local.free_memory() > 1e8


def write_noise(folder, *shapes):
    folder.mkdir(parents=True)
    for number, shape in enumerate(shapes):
        cv2.imwrite(str(folder / f"{number}.png"), noise(*shape))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(4, "16 tiles in 3 images, 4 s a tile, 1 at once: 1 min 04 s"),
     (90, "16 tiles in 3 images, 90 s a tile, 1 at once: 24 min 00 s; --segmenter nano is the quick way")],
)  # fmt: skip
def test_segment_says_how_long_it_will_take_before_it_starts(tmp_path, small, seen, capfd, monkeypatch, seconds, words):
    write_noise(tmp_path / "raw" / "a", (240, 240), (500, 500), (257, 500))  # 1, 9 and 6 tiles
    monkeypatch.setattr(Cellpose, "tile_seconds", lambda self, pixels: float(seconds))
    out = tmp_path / "out"
    arguments = ["--raw", str(tmp_path / "raw"), "--segmenter", "cellpose", "--weights", str(small), "--workers", "1"]
    main("segment", [*arguments, "--out", str(out), "--set", "segmenter.flow_threshold=0"])
    assert f"segment: {words}\n" in capfd.readouterr().err
    assert sum(seen) == 16
    assert main("segment", [*arguments, "--out", str(out), "--set", "segmenter.flow_threshold=0"]) == 0
    assert "at once" not in capfd.readouterr().err


def test_no_more_processes_than_fit_unless_workers_says_so(tmp_path, small, seen, monkeypatch):
    write_noise(tmp_path / "raw" / "a", *[(64, 64)] * 40)
    monkeypatch.setattr("cellvision.executors.local.cores", lambda: 16)
    monkeypatch.setattr("cellvision.executors.local.free_memory", lambda: 13e9)
    for workers, processes in ((None, 3), (5, 5), (0, 0), (50, 40)):
        settings = {"segmenter": {"name": "cellpose", "weights": str(small)}, "raw": tmp_path / "raw"}
        cfg = segment.Config(**settings, workers=workers, device="cpu")
        todo = [(cfg, entry, tmp_path) for entry in segment.scan_images(cfg)]
        assert segment.processes(cfg, todo) == processes
        assert segment.processes(cfg, []) == 0


# --- true size


def available_gb():
    memory = Path("/proc/meminfo")
    lines = memory.read_text().splitlines() if memory.exists() else []
    return next((int(line.split()[1]) / 1e6 for line in lines if line.startswith("MemAvailable:")), float("inf"))


def test_the_network_in_its_true_size_goes_through(tmp_path, capfd):
    """305 M parameters, views of as few random numbers as will do, are checked and loaded, and some run on a tile.

    All 24 blocks of the encoder are alike; four of them take a sixth of the time.
    """
    if available_gb() < 6:
        pytest.skip(f"needs 6 GB of free memory, {available_gb():.1f} GB are there")
    from cellpose.vit import CPSAM

    with torch.device("meta"):
        network = CPSAM()
    shapes = {name: like.shape for name, like in network.state_dict().items()}
    numbers = torch.empty(max(shape.numel() for shape in shapes.values())).normal_(0, 0.02)
    state = {name: numbers[: shape.numel()].reshape(shape) for name, shape in shapes.items()}
    assert sum(value.numel() for value in state.values()) == pytest.approx(305e6, rel=0.01)
    torch.save(state, tmp_path / "cpsam")
    before = everything_global()
    segmenter = make(tmp_path / "cpsam")
    with isolated(torch.device("cpu")):
        encoder = segmenter._network().net.encoder
    for parameter in encoder.parameters():
        assert float(parameter.detach().abs().sum()) > 0, "loaded"
    assert len(encoder.blocks) == 24
    encoder.blocks = encoder.blocks[:4]
    found = segmenter.segment(noise(64, 64, 3))
    assert everything_global() == before
    assert found.masks.shape == (64, 64)
    assert found.masks.dtype == np.int32
    assert capfd.readouterr() == ("", "")
