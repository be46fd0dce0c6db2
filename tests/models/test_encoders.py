"""Encoders from a name, a file or both."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trap import Trap

from cellvision.branches.image import networks
from cellvision.core.errors import ConfigError, UnsafeInput
from cellvision.io import tensorfiles
from cellvision.models import encoders


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    tensorfiles.write(path, {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.int64)}, {"k": "v"})
    return path


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.ckpt", "w.pkl", "w.bin"])
@pytest.mark.parametrize("spec", ["{}", "resnet18@{}"])
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, name: str, spec: str) -> None:
    marker, path = tmp_path / "executed", tmp_path / name
    torch.save({"weight": Trap(marker)}, path)
    branch: Any = SimpleNamespace(fit=lambda rows: {}, network=lambda name, state: nn.Linear(1, 1))
    with pytest.raises(UnsafeInput, match="may hold code"):
        encoders.resolve(spec.format(path), branch, np.arange(2), 0)
    assert not marker.exists()


def test_weights_alone_need_the_name_of_their_network(weights: Path) -> None:
    branch: Any = SimpleNamespace()
    with pytest.raises(ConfigError, match="NAME@"):
        encoders.resolve(str(weights), branch, np.arange(2), 0)


def test_an_unknown_network_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no model 'resnet19'; did you mean 'resnet1"):
        networks.timm_network("resnet19", 3, 32)
