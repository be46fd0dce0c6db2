"""Strategies: how a label that is true of a source teaches its items. One file and one line in `STRATEGIES` each.

    class Focal(Strategy):                                 # cellvision/strategies/focal.py
        class Config(PluginConfig):
            name: Literal["focal"] = "focal"
            focus: float = option(2.0, "0 is cross-entropy; more looks at what is still wrong", ge=0)

        def __init__(self, cfg: Config) -> None:
            self.cfg = cfg

        def refusal(self, items: Labelled, level: str) -> str | None:
            return None if len(np.unique(items.label)) > 1 else "only one class in the training items"

        def head(self, num_features: int, classes: int) -> nn.Module:
            return nn.Linear(num_features, classes)

        def draw(self, rng: np.random.Generator, items: Labelled, batch: int) -> NDArray[np.int64]:
            share = 1 / np.bincount(items.label)[items.label]
            return rng.choice(len(share), batch, p=share / share.sum())

        def loss(self, head: nn.Module, features: Tensor, bag: Tensor, label: Tensor) -> Tensor:
            each = nn.functional.cross_entropy(head(features), label, reduction="none")
            return ((1 - (-each).exp()) ** self.cfg.focus * each).mean()

        def predict(self, head: nn.Module, features: Tensor, bag: Tensor) -> tuple[Tensor, Tensor]:
            item = head(features).softmax(1)
            return item, mean_by(item, bag)                # of cellvision/strategies/inherit.py

and the line `"focal": "cellvision.strategies.focal:Focal"` below. tests/strategies/test_strategy_contract.py finds it:
probabilities that sum to one, an easy task learned, no bag that depends on another, one class refused, classes drawn
evenly as a function of the generator alone.
"""

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
StrategyConfig = Annotated[SerializeAsAny[PluginConfig], BeforeValidator(STRATEGIES.config), STRATEGIES]


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
    """Made as `Strategy(cfg)`. Features come standardised; `head` is what `head()` made, trained with the loss."""

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
