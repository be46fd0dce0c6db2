"""Self-supervision: what to learn from items without labels. A method is one file and one line in `METHODS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import BeforeValidator, SerializeAsAny

from cellvision.core.config import PluginConfig
from cellvision.core.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

METHODS = Registry(
    "self-supervision method",
    {"masked": "cellvision.selfsup.masked:Masked", "simclr": "cellvision.selfsup.simclr:SimCLR"},
)
MethodConfig = Annotated[SerializeAsAny[PluginConfig], BeforeValidator(METHODS.config)]


class Method(Protocol):
    """Made as `Method(cfg)`. The head is thrown away after pretraining; features come from the encoder."""

    Config: type[PluginConfig]
    views: int
    augment: bool  # whether the branch varies the items, or they come as they are

    def head(self, num_features: int) -> nn.Module: ...

    def step(self, encoder: nn.Module, head: nn.Module, items: Tensor) -> Tensor:
        """A batch of the branch, one view after the other -> the loss."""
        ...

    def chance(self, batch: int) -> float:
        """The loss of a network that knows nothing, for n = batch."""
        ...

    def validate(
        self, encoder: nn.Module, branch: Any, state: Any, train: NDArray[np.int64], test: NDArray[np.int64]
    ) -> dict[str, float]:
        """What the method itself measures on rows it did not train on; `chance` here replaces `chance()`."""
        ...
