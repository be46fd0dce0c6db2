"""Cellpose on a short leash: no download, no unpickling, no global side effects; known cells come back.

Most tests run Cellpose's own code around a small image encoder, one runs the network in its true size, all with random
weights; where masks are known, the network's answer is replaced by flows computed from the image.
"""

import hashlib
import logging
import pickle
import random
import ssl
import sys
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from cellvision import segment
from cellvision.core.cli import main
from cellvision.core.config import build, result_keys
from cellvision.core.errors import CellvisionError, ConfigError, UnsafeInput
from cellvision.executors import local
from cellvision.segmenters import SEGMENTERS
from cellvision.segmenters.cellpose import Cellpose, isolated, read_weights


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


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A weight file for Cellpose's network around an encoder of two narrow blocks instead of 24 wide ones."""
    import cellpose.vit
    from segment_anything.modeling import ImageEncoderViT

    def encoder(checkpoint):
        return SimpleNamespace(image_encoder=ImageEncoderViT(
            img_size=1024, patch_size=16, embed_dim=32, depth=2, num_heads=2, out_chans=16, use_rel_pos=True,
            window_size=14, global_attn_indexes=(1,), norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        ))  # fmt: skip

    monkeypatch.setattr(cellpose.vit, "sam_model_registry", {"vit_l": encoder})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = cellpose.vit.CPSAM().state_dict()
    torch.save(state, tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def flows_to_bright(monkeypatch):
    """The network answers: bright is cell, and flows point up the blurred brightness. Known discs become cells."""

    def forward(net, tiles):
        answers = []
        for tile in tiles:
            light = cv2.GaussianBlur(tile[0], (0, 0), 6)
            flow = np.stack(np.gradient(light))
            flow /= np.hypot(*flow) + 1e-6
            answers.append(np.concatenate([5 * flow, 12 * (tile[:1] - 0.5)]))
        return np.stack(answers).astype(np.float32), np.zeros((len(tiles), 256), np.float32)

    monkeypatch.setattr("cellpose.core._forward", forward)


DISCS = ((30, 110, 14), (40, 40, 17), (100, 60, 12), (96, 200, 20), (150, 120, 15))  # y, x, radius; in raster order


def discs(channels=1):
    image = np.full((180, 240, channels), 20, np.uint8)
    for y, x, radius in DISCS:
        image[..., 0] = cv2.circle(image[..., 0].copy(), (x, y), radius, 220, -1)
    return image


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# --- weights that are not there


def test_missing_weights_are_one_line_that_says_where_and_what_else(no_weights):
    with pytest.raises(ConfigError) as caught:
        SEGMENTERS.build("cellpose", device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        str(no_weights / "cpsam_v2"),
        "mouseland/cellpose-sam",
        "--weights FILE",
        "--segmenter nano",
        "cellvision fetch cpsam_v2",
    ):
        assert part in message
    assert not no_weights.exists()


def test_the_default_folder_is_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("CELLPOSE_LOCAL_MODELS_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        make("cpsam")
    assert str(tmp_path / ".cellpose" / "models" / "cpsam") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"), [("cpsam_v3", "did you mean 'cpsam_v2'"), ("cyto3", "known: cpsam_v2"), ("", "known: cpsam_v2")]
)
def test_an_unknown_model_is_an_error_not_the_default_model(no_weights, name, hint):
    with pytest.raises(ConfigError, match=hint):
        make(name)


def test_a_missing_weight_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no weight file at .*mine\.pt"):
        make(tmp_path / "mine.pt")


def test_the_command_without_weights_exits_with_4_and_one_line(no_weights, tmp_path, capfd):
    path = tmp_path / "raw" / "a" / "1.png"
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), discs())
    arguments = ["--raw", str(tmp_path / "raw"), "--segmenter", "cellpose", "--out", str(tmp_path / "out")]
    assert main("segment", arguments) == 4
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("cellvision segment: no Cellpose weights at")
    assert not (tmp_path / "out").exists()


# --- weight files that are not what they should be


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("wrap", [lambda trap: trap, lambda trap: {"W2": trap}])
def test_code_in_a_weight_file_is_never_run(tmp_path, wrap):
    marker, path = tmp_path / "executed", tmp_path / "weights"
    torch.save(wrap(Trap(marker)), path)
    with pytest.raises(UnsafeInput, match="could run code") as caught:
        make(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(pickle.dumps(wrap(Trap(marker))))
    with pytest.raises(ConfigError, match="no sound weight file"):
        make(path)
    torch.save(wrap(Trap(marker)), path, _use_new_zipfile_serialization=False)
    with pytest.raises(ConfigError, match="no sound weight file"):
        make(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the trap works


def test_a_flipped_bit_is_found_by_its_checksum(small):
    data = bytearray(small.read_bytes())
    data[len(data) // 2] ^= 1
    small.write_bytes(data)
    with pytest.raises(ConfigError, match=r"damaged .*fetch it again"):
        make(small)


@pytest.mark.parametrize("content", [b"", b"not found", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_foreign_bytes_are_one_line(tmp_path, content):
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="no sound weight file") as caught:
        make(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_and_a_foreign_archive_are_one_line(tmp_path, small):
    small.write_bytes(small.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match="no sound weight file"):
        make(small)
    with zipfile.ZipFile(tmp_path / "other", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ConfigError, match="no sound weight file"):
        make(tmp_path / "other")


def test_any_damage_to_the_table_of_contents_is_an_error_a_person_can_read(tmp_path):
    """Bytes of the pickle are replaced and its checksum made right again: no other exception comes out."""
    torch.save({"W2": torch.ones(3), "out.bias": torch.zeros(2, dtype=torch.float16)}, tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    table = next(name for name in parts if name.endswith("data.pkl"))
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        bad = bytearray(parts[table])
        bad[draw.integers(len(bad))] = draw.integers(256)
        with zipfile.ZipFile(tmp_path / "bad", "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, bytes(bad) if name == table else data)
        try:
            read_weights(tmp_path / "bad")
        except CellvisionError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("content", [[torch.ones(2)], {"W2": 3}, torch.ones(2)])
def test_a_file_without_a_table_of_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights")
    with pytest.raises(ConfigError, match="no table of tensors"):
        make(tmp_path / "weights")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("W2"), "no Cellpose-SAM network .*'W2'"),
        (lambda state: state.pop("encoder.blocks.1.mlp.lin2.bias"), "no Cellpose-SAM network .*blocks.1.mlp.lin2.bias"),
        (lambda state: state.update({"out.bias": torch.zeros(3)}), "no Cellpose-SAM network .*'out.bias'"),
        (lambda state: state["out.weight"].view(-1)[7:8].fill_(float("nan")), "'out.weight' holds values .*not finite"),
    ],
)
def test_a_tensor_that_is_missing_misshapen_or_not_finite_is_named(small, change, complaint):
    """Cellpose itself would leave what is missing at its random start and say nothing."""
    state = torch.load(small, weights_only=True)
    change(state)
    torch.save(state, small)
    with pytest.raises(ConfigError, match=complaint):
        make(small)


def test_a_record_of_training_may_be_missing(small):
    state = torch.load(small, weights_only=True)
    del state["diam_mean"], state["diam_labels"]
    torch.save(state, small)
    make(small)


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


# --- no side effects


def everything_global():
    return (
        random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().numpy().tobytes(),
        torch.backends.cuda.matmul.allow_tf32, ssl._create_default_https_context, logging.getLogger("cellpose").level,
        torch.get_num_threads(), torch.get_default_dtype(),
    )  # fmt: skip


def test_masks_are_repeatable_and_global_states_are_left_alone(small, flows_to_bright, capfd, monkeypatch):
    forward = sys.modules["cellpose.core"]._forward

    def noisy(net, tiles):  # a network that draws from every global random state
        answer, style = forward(net, tiles)
        spread = random.random() + np.random.rand(1) + torch.rand(1).numpy()
        return answer + spread.astype(np.float32) * np.random.normal(0, 0.3, answer.shape).astype(np.float32), style

    monkeypatch.setattr("cellpose.core._forward", noisy)
    image = discs()
    runs = []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        before = everything_global()
        runs.append(make(small).segment(image))
        assert everything_global() == before
    one, two = runs
    assert one.masks.max() > 0
    assert np.array_equal(one.masks, two.masks)
    assert all(np.array_equal(one.scores[name], two.scores[name]) for name in one.scores)
    assert capfd.readouterr() == ("", "")


def test_importing_cellpose_turns_nothing_on(small, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "cellpose"]:
        monkeypatch.delitem(sys.modules, name)
    torch.backends.cuda.matmul.allow_tf32 = False
    before = everything_global()
    with isolated(torch.device("cpu")):
        import cellpose.models  # noqa: F401

        assert torch.backends.cuda.matmul.allow_tf32  # why it is put back
    assert everything_global() == before


def test_making_one_leaves_the_threads_alone(small, monkeypatch):
    """A worker has one thread, also for its first image: masks do not depend on the number of cores."""
    monkeypatch.setattr("cellvision.executors.local.cores", lambda: 16)
    before = everything_global()
    make(small)
    assert everything_global() == before


def test_global_states_are_left_alone_when_segmenting_fails(small, monkeypatch):
    segmenter = make(small)

    def fail(net, tiles):
        random.random(), np.random.rand(), torch.rand(1)
        raise MemoryError

    monkeypatch.setattr("cellpose.core._forward", fail)
    before = everything_global()
    with pytest.raises(MemoryError):
        segmenter.segment(discs())
    assert everything_global() == before


def test_cellpose_never_reaches_its_downloader(small, no_weights, monkeypatch):
    import cellpose.models

    monkeypatch.setattr(cellpose.models, "cache_model_path", lambda name: pytest.fail("asked for a download"))
    no_weights.mkdir()
    small.rename(no_weights / "cpsam_v2")
    assert make("cpsam_v2").segment(noise(40, 40, 1)).masks.shape == (40, 40)
    assert [path.name for path in no_weights.iterdir()] == ["cpsam_v2"]


def test_the_network_is_loaded_once_and_not_before_it_is_needed(small, monkeypatch):
    import cellpose.models

    built: list[dict] = []

    def build(**settings) -> Stub:
        built.append(settings)
        return Stub()

    monkeypatch.setattr(cellpose.models, "CellposeModel", build)
    segmenter = make(small, precision="fp32")
    assert built == []
    segmenter.segment(noise(40, 40, 1)), segmenter.segment(noise(40, 40, 1))
    assert built == [{"device": torch.device("cpu"), "pretrained_model": str(small), "use_bfloat16": False}]


class Stub:
    """A model that finds nothing."""

    def eval(self, image, **settings):
        plane = np.zeros(image.shape[:2], np.float32)
        return plane.astype(np.uint16), [None, np.stack([plane, plane]), plane], None


def test_identity_is_the_content_of_the_weights_and_not_their_place(small, tmp_path):
    content, other = small.read_bytes(), tmp_path / "other"
    other.write_bytes(content)
    one, two = make(small), make(other)
    assert one.identity() == two.identity()
    assert hashlib.sha256(content).hexdigest() in one.identity()
    assert result_keys(one.cfg) == result_keys(two.cfg)
    state = torch.load(other, weights_only=True)
    state["out.bias"] += 1
    torch.save(state, other)
    assert make(other).identity() != one.identity()
    assert make(small, precision="fp32").identity() != make(small, precision="bf16").identity()


# --- true size


def available_gb():
    memory = Path("/proc/meminfo")
    lines = memory.read_text().splitlines() if memory.exists() else []
    return next((int(line.split()[1]) / 1e6 for line in lines if line.startswith("MemAvailable:")), float("inf"))


def test_the_network_in_its_true_size_goes_through(tmp_path, capfd):
    """Slow: 305 M random parameters are written, checked, loaded and run on one tile."""
    if available_gb() < 6:
        pytest.skip(f"needs 6 GB of free memory, {available_gb():.1f} GB are there")
    from cellpose.vit import CPSAM

    path = tmp_path / "cpsam"
    try:
        with torch.device("meta"):
            network = CPSAM()
        state = {name: torch.empty(like.shape).normal_(0, 0.02) for name, like in network.state_dict().items()}
        assert sum(value.numel() for value in state.values()) == pytest.approx(305e6, rel=0.01)
        torch.save(state, path)
        del state
        before = everything_global()
        found = make(path).segment(noise(64, 64, 3))
        assert everything_global() == before
    finally:
        path.unlink(missing_ok=True)  # 1.2 GB that pytest would keep
    assert found.masks.shape == (64, 64)
    assert found.masks.dtype == np.int32
    assert capfd.readouterr() == ("", "")
