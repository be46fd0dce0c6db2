"""Cellpose's weights: missing, damaged, of another network, unsafe: one line each, no download, no unpickling."""

from __future__ import annotations

import pickle
import zipfile

import cv2
import numpy as np
import pytest
import torch
from small_cellpose import discs, make
from trap import Trap

from cellvision.commandline.cli import main
from cellvision.core.errors import CellvisionError, ConfigError, UnsafeInput
from cellvision.segmenters import SEGMENTERS
from cellvision.segmenters.cellpose import read_weights


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
