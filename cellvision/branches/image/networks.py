"""timm networks on uint8 crops, behind a fixed normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellvision.branches.image import small_maps
from cellvision.core.errors import ConfigError

if TYPE_CHECKING:
    pass


class Normalised(nn.Module):
    """A timm network on uint8 crops: (n, S, S, C) in 0..255 -> (n, num_features)."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: NDArray, std: NDArray) -> None:
        super().__init__()
        self.backbone = small_maps.use(backbone).to(memory_format=torch.channels_last)
        self.num_features = int(backbone.num_features)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, crops: Tensor) -> Tensor:
        """(n, S, S, C) uint8 -> (n, num_features)."""
        pixels = crops.permute(0, 3, 1, 2)
        pixels = pixels.contiguous(memory_format=torch.channels_last)  # a view: the bytes lie so already
        return self.backbone((pixels.float() - self.mean) / self.std)


def timm_network(name: str, channels: int, size: int, pretrained: bool = False) -> nn.Module:
    """A timm network without its classifier. ConfigError for a name timm does not know, or a download that fails."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture) or (tag and name not in timm.list_models(f"{architecture}.*", pretrained=True)):
        import difflib

        close = difflib.get_close_matches(architecture, timm.list_models(), n=1)
        raise ConfigError(f"timm has no model {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    settings: dict[str, Any] = {"num_classes": 0, "in_chans": channels, "pretrained": pretrained}
    pretrained_cfg = timm.get_pretrained_cfg(architecture)
    if pretrained_cfg is not None and pretrained_cfg.fixed_input_size:
        settings["img_size"] = size
    if not pretrained:
        return timm.create_model(name, **settings)
    try:
        return timm.create_model(name, **settings)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the weights of {name} could not be fetched ({type(error).__name__}); without a network give a random "
            f"{architecture}, an embedded encoder or {architecture}@FILE.safetensors"
        ) from None
