"""Weights into a network: complete or refused, but for counters that no network reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cellvision.core.errors import ConfigError
from cellvision.io import tensorfiles


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {key: torch.rand_like(value) if value.ndim else value for key, value in network().state_dict().items()}


def test_weights_without_counters_fit() -> None:
    module, given = network(), weights()
    del given["1.num_batches_tracked"]
    tensorfiles.load_into(module, given, "old file")
    assert all(torch.equal(module.state_dict()[key], value) for key, value in given.items())


@pytest.mark.parametrize("key", ["0.weight", "1.running_var"])
def test_weights_without_any_other_tensor_are_refused(key: str) -> None:
    given = weights()
    del given[key]
    with pytest.raises(ConfigError, match=f"old file does not fit the network: tensor '{key}'"):
        tensorfiles.load_into(network(), given, "old file")


def test_a_counter_of_no_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tensor '5\.num_batches_tracked'"):
        tensorfiles.load_into(network(), weights() | {"5.num_batches_tracked": torch.tensor(0)}, "old file")
