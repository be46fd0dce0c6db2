"""Cellpose on a short leash: repeatable, no global side effects, loaded once."""

from __future__ import annotations

import hashlib
import random
import sys

import numpy as np
import pytest
import torch
from small_cellpose import discs, everything_global, make, noise

from cellvision.core.config import result_keys
from cellvision.segmenters.cellpose import isolated


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
