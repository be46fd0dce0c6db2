"""Strategies: how a label that is true of a source teaches its items. One file and one line in `STRATEGIES` each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, SerializeAsAny

from cellvision.core.config import PluginConfig
from cellvision.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

STRATEGIES: Registry[Strategy] = Registry(
    "strategy",
    {
        "inherit": "cellvision.strategies.inherit:Inherit",
        "mil": "cellvision.strategies.mil:GatedAttention",
        "ordinal": "cellvision.strategies.ordinal:Ordinal",
    },
)
StrategyConfig = Annotated[SerializeAsAny[PluginConfig], BeforeValidator(STRATEGIES.config)]


@dataclass(frozen=True)
class Labelled:
    """Training items: bag (n,) numbers the sources from 0, label (n,) the classes."""

    bag: NDArray[np.int64]
    label: NDArray[np.int64]

    @property
    def bag_labels(self) -> NDArray[np.int64]:
        """(bags,) the label of each bag's first item: bags have one label where a strategy uses them."""
        return self.label[np.unique(self.bag, return_index=True)[1]]


class Strategy(Protocol):
    """Made as `Strategy(cfg)`."""

    Config: type[PluginConfig]
    ordered: bool = False  # needs classes that are three or more numbers; their order is then the classes' order

    def refusal(self, items: Labelled, level: str) -> str | None:
        """Why this strategy cannot be used on these training items; None where it can."""
        ...

    def head(self, num_features: int, classes: int) -> nn.Module: ...

    def draw(self, rng: np.random.Generator, items: Labelled, batch: int) -> NDArray[np.int64]:
        """Positions of the items of one step, classes and bags balanced."""
        ...

    def loss(self, head: nn.Module, features: Tensor, bag: Tensor, label: Tensor) -> Tensor:
        """(n, d) features, (n,) bags and labels -> scalar."""
        ...

    def predict(self, head: nn.Module, features: Tensor, bag: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d), (n,) bags from 0 -> item probabilities (n, k), bag probabilities (bags, k)."""
        ...
