"""Branches: a modality behind one contract. A branch is one file and one line in `BRANCHES`.

Everything downstream - plan, pretrain, embed, finetune, predict, ablate, report - knows a branch by this page alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, SerializeAsAny

from cellvision.branches.items import Items
from cellvision.core.config import PluginConfig
from cellvision.core.registry import Registry

if TYPE_CHECKING:
    from torch import nn

BRANCHES: Registry[Branch] = Registry(
    "branch",
    {
        "image": "cellvision.branches.image.branch:ImageBranch",
        "tabular": "cellvision.branches.tabular.branch:TabularBranch",
        "rna": "cellvision.branches.rna.branch:RnaBranch",
        "trace": "cellvision.branches.trace.branch:TraceBranch",
        "fusion": "cellvision.branches.fusion.branch:FusionBranch",
    },
)
BranchConfig = Annotated[SerializeAsAny[PluginConfig], BeforeValidator(BRANCHES.config)]
BRANCH_HELP = f"what the items are: {', '.join(BRANCHES.names())}"
State = dict[str, NDArray]  # what `fit` learned; saved beside the weights


@dataclass(frozen=True)
class Baseline:
    """A plain model on plain features: `estimator` is one of `evidence.baselines.ESTIMATORS`.

    `shortcut` says it looks where no cell is.
    """

    estimator: str
    features: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    shortcut: bool = False


@dataclass(frozen=True)
class Sample:
    """Simulated items of a branch, few, always the same, and how to learn from them; the tests live on it."""

    items: Path
    target: str  # column of the items table that can be learned
    encoder: str  # a small one
    unit: str | None = None  # column of independent units, where the items do not bring their own
    options: dict[str, Any] = field(default_factory=dict)  # of the branch's config


@dataclass(frozen=True)
class Augment:
    """How strongly to vary items, and the key (seed, names …) that the variation depends on, and on nothing else.

    `pose` is no chance: it turns every item into its pose number key[0], of those that cannot change what it is.
    """

    strength: Literal["weak", "strong", "pose"]
    key: tuple[Any, ...]


class Branch(Protocol):
    """Opens the items at `path`; `reserved` columns hold labels or units and are never inputs.

    Rows are positions in `items.table`.
    """

    Config: type[PluginConfig]
    cfg: Any
    items: Items
    default_encoder: str

    def __init__(self, cfg: Any, path: Path, reserved: tuple[str, ...] = ()) -> None: ...

    @classmethod
    def sample(cls, folder: Path, other_half: bool = False) -> Sample:
        """Write a small simulated data set into the folder: a hundred items or so of ten units, in seconds.

        With `other_half` half of the items have other content and another source_hash; the rest stay as they are.
        """
        ...

    def schema(self) -> dict[str, Any]:
        """What new data must have to go through a model trained on this: channels and scale, or feature names."""
        ...

    def align(self, schema: dict[str, Any]) -> list[str]:
        """Align these items with a trained model's schema; notes for the person, ConfigError where it cannot be."""
        ...

    def fit(self, rows: NDArray[np.int64]) -> State:
        """Learn the preprocessing from training rows only."""
        ...

    def batch(self, rows: NDArray[np.int64], state: State, augment: Augment | None = None) -> NDArray:
        """Network input, first axis the rows; each row's variation is independent of the others in the batch."""
        ...

    def feature_names(self, state: State) -> list[str] | None:
        """The name of each column of a batch; None where an item is no row of named numbers."""
        ...

    def network(self, name: str, state: State) -> nn.Module:
        """A random encoder of that name: input batch -> (n, num_features) features."""
        ...

    def baselines(self) -> dict[str, Baseline]:
        """The plain models every result stands beside."""
        ...
