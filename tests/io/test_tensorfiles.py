"""Weight files: sound ones come back, others are refused and never run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from trap import Trap

from cellvision.core.errors import ConfigError
from cellvision.io import tensorfiles


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    tensorfiles.write(path, {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.int64)}, {"k": "v"})
    return path


def test_tensors_come_back(weights: Path) -> None:
    tensors, metadata = tensorfiles.read(weights)
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert tensors["b"].dtype == torch.int64
    assert metadata == {"k": "v"}


@pytest.mark.parametrize("keep", [0, 5, 8, 40, -1, -20])
def test_truncated_weights_are_refused(weights: Path, keep: int) -> None:
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"w\.safetensors"):
        tensorfiles.read(weights)


@pytest.mark.parametrize("extra", [b"\0", b"PK\x03\x04" + b"x" * 100])
def test_weights_with_bytes_behind_them_are_refused(weights: Path, extra: bytes) -> None:
    weights.write_bytes(weights.read_bytes() + extra)
    with pytest.raises(ConfigError, match=f"{len(extra)} bytes more than its header says"):
        tensorfiles.read(weights)


@pytest.mark.parametrize("header", [b'{"a": {"data_offsets": ["0", "x"]}}', b"[]", b'{"a": 1}', b"\xff\xfe", b'{"a":'])
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ConfigError, match=r"w\.safetensors"):
        tensorfiles.read(path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no weights at"):
        tensorfiles.read(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("weight", "words"),
    [(torch.ones(2, 2), "of another shape"), (torch.full((2, 3), torch.nan), "not finite in tensor 'weight'")],
)
def test_weights_that_do_not_fit_are_refused(weight: torch.Tensor, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tensorfiles.load_into(nn.Linear(3, 2), {"weight": weight, "bias": torch.zeros(2)}, "w")
    with pytest.raises(ConfigError, match="tensor 'bias' is missing"):
        tensorfiles.load_into(nn.Linear(3, 2), {"weight": torch.ones(2, 3)}, "w")


def test_a_pickle_named_safetensors_is_refused_and_never_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "w.safetensors"
    torch.save({"weight": Trap(marker)}, path)
    with pytest.raises(ConfigError, match="no sound safetensors file"):
        tensorfiles.read(path)
    assert not marker.exists()
