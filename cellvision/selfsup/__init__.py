"""Self-supervision: what to learn from items without labels. A method is one file and one line in `METHODS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import BeforeValidator, SerializeAsAny

from cellvision.core.config import PluginConfig
from cellvision.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

METHODS = Registry("self-supervision method", {"simclr": "cellvision.selfsup.simclr:SimCLR"})
MethodConfig = Annotated[SerializeAsAny[PluginConfig], BeforeValidator(METHODS.config)]


class Method(Protocol):
    """Made as `Method(cfg)`. The head is thrown away after pretraining; features come from the encoder."""

    Config: type[PluginConfig]
    views: int

    def head(self, num_features: int) -> nn.Module: ...

    def loss(self, features: Tensor, head: nn.Module) -> Tensor:
        """(views * n, d) features, one view after the other -> scalar."""
        ...

    def chance(self, batch: int) -> float:
        """The loss of a network that knows nothing, for n = batch."""
        ...
