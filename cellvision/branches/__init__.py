"""Branches: a modality behind one contract. A branch is one file and one line in `BRANCHES`.

Everything downstream - plan, pretrain, embed, finetune, predict, ablate, report - knows a branch by this page alone.
Rows of a Parquet file whose columns v0, v1 … are numbers, as a branch:

    class Vectors(Branch):                                 # cellvision/branches/vectors/branch.py
        default_encoder = "mlp-16-8"

        class Config(PluginConfig):
            name: Literal["vectors"] = "vectors"

        def __init__(self, cfg: Config, path: Path, reserved: tuple[str, ...] = ()) -> None:
            table = files.read_parquet(path)
            self.cfg, self.values = cfg, table.filter(regex=r"^v\\d+$").to_numpy(np.float32)
            self.items = Items(table, rundir.content_of(path), no_missed())

        @classmethod
        def sample(cls, folder: Path, other_half: bool = False) -> Sample:
            values = np.random.default_rng(0).normal(size=(120, 4))
            group, half = np.arange(120) % 2, np.arange(120) >= 60
            values[:, 0] += 3 * group
            values[half] += 50 * other_half
            name = pd.Series([f"row{number:03d}" for number in range(120)])
            table = pd.DataFrame(values, columns=["v0", "v1", "v2", "v3"]).assign(
                item_id=name, source_id=name, unit=name.str[:5], group=group.astype(str),
                source_hash=name + np.where(half & other_half, "*", ""))
            files.write_parquet(folder / "vectors.parquet", table)
            return Sample(folder / "vectors.parquet", "group", "mlp-16-8")

        def schema(self) -> dict[str, Any]:
            return {"columns": self.values.shape[1]}

        def align(self, schema: dict[str, Any]) -> list[str]:
            if schema != self.schema():
                raise ConfigError(f"the model was trained on {schema['columns']} columns, not {self.values.shape[1]}")
            return []

        def fit(self, rows: NDArray[np.int64]) -> State:
            return {"mean": self.values[rows].mean(0), "std": self.values[rows].std(0)}

        def batch(self, rows: NDArray[np.int64], state: State, augment: Augment | None = None) -> NDArray:
            scaled = (self.values[rows] - state["mean"]) / state["std"]
            if augment is None or augment.strength == "pose":
                return scaled                              # row i is varied by draw i, whatever its batch mates are
            return scaled + 0.1 * generator(0, *augment.key).standard_normal(scaled.shape, np.float32)

        def feature_names(self, state: State) -> list[str] | None:
            return [f"v{number}" for number in range(len(state["mean"]))]

        def network(self, name: str, state: State) -> nn.Module:
            widths = parse(name).sizes()                   # of names.py; hidden_layers is of perceptron.py
            if parse(name).kind != "mlp" or not widths:
                raise ConfigError(f"the vectors branch has encoders such as mlp-16-8, not {name!r}")
            network: Any = nn.Sequential(*hidden_layers(len(state["mean"]), widths, 0.1))
            network.num_features = widths[-1]
            return network

        def baselines(self) -> dict[str, Baseline]:
            return {"logistic": Baseline("logistic", lambda rows: self.values[rows])}

and the line `"vectors": "cellvision.branches.vectors.branch:Vectors"` below. tests/branches/test_branch_contract.py,
tests/stages/test_chain.py and tests/stages/test_cluster_branches.py find it and run it on its sample. A branch may be
one file that imports torch inside `network`, or a folder whose networks.py alone imports it; the items table is
described in items.py; `marked` says what a row is known by when its file was written anew, see signatures.py. CSV
files come through `io.tables.read(path, text=…)`, its notes are told by `core.progress.say`. `align` is called once,
before `fit` and `batch`, when a trained encoder is opened; it changes the branch and says what it did. Baselines are
of the kinds in evidence/baselines.ESTIMATORS.
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
BranchConfig = Annotated[SerializeAsAny[PluginConfig], BeforeValidator(BRANCHES.config), BRANCHES]
BRANCH_HELP = "what the items are; told from the file where that tells"
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
        """Learn the preprocessing from training rows, (n,) positions, only."""
        ...

    def batch(self, rows: NDArray[np.int64], state: State, augment: Augment | None = None) -> NDArray:
        """(n,) positions -> (n, ...) network input, first axis the rows, without augmentation always the same.

        A variation depends on the key, the row and its position in the batch, on no other row, nor on their number.
        """
        ...

    def feature_names(self, state: State) -> list[str] | None:
        """The name of each column of a batch; None where an item is no row of named numbers."""
        ...

    def network(self, name: str, state: State) -> nn.Module:
        """A random encoder of that name, a module with the attribute num_features: batch -> (n, num_features)."""
        ...

    def baselines(self) -> dict[str, Baseline]:
        """The plain models every result stands beside."""
        ...
