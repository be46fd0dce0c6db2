"""Branch: rows of a table (CSV or Parquet). Items are rows; the network input is (n, features) float32."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import Augment, Baseline, State
from cellvision.core import rundir
from cellvision.core.config import PluginConfig, option
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.core.items import Items, no_missed
from cellvision.core.rng import generator

METADATA = "Metadata_"  # CellProfiler's prefix of columns that describe a row instead of measuring it
MIN_OVERLAP = 0.8  # share of a model's features new data must have


class TabularBranch:
    """Numeric columns are features, except metadata, labels and units."""

    default_encoder = "mlp-256-128"

    class Config(PluginConfig):
        """Options of the tabular branch."""

        name: Literal["tabular"] = "tabular"
        exclude: tuple[str, ...] = option((), "columns that are no features")
        group: str | None = option(None, "column that is the weak label; one group when absent")

    def __init__(self, cfg: Config, path: Path, reserved: tuple[str, ...] = ()) -> None:
        import pandas as pd

        self.cfg = cfg
        table = read_table(path)
        hidden = {*cfg.exclude, *reserved, cfg.group, "item_id", "unit", "group", "annotation"}
        numeric = table.select_dtypes("number").columns
        self.features = [name for name in numeric if name not in hidden and not str(name).startswith(METADATA)]
        if not self.features:
            raise NoUsableInput(f"{path} has no numeric column left to learn from")
        self.values = table[self.features].to_numpy(np.float32)
        rest = table.drop(columns=self.features)
        index = [f"row{number:06d}" for number in range(len(table))]
        rest["item_id"] = rest["item_id"].astype(str) if "item_id" in rest else index
        rest["source_id"] = rest["item_id"]
        rest["source_hash"] = [str(value) for value in pd.util.hash_pandas_object(table, index=False)]
        rest["unit"] = None  # rows are not independent by themselves: somebody has to say what is
        rest["group"] = rest[self._column(rest, cfg.group)].astype(str) if cfg.group else "all"
        self.items = Items(rest, rundir.content_of(path), no_missed())

    def _column(self, table: Any, name: str) -> str:
        if name not in table:
            raise ConfigError(f"no column {name!r}; columns: {', '.join(map(str, table.columns))}")
        return name

    def schema(self) -> dict[str, Any]:
        return {"features": self.features}

    def check(self, schema: dict[str, Any]) -> list[str]:
        """Take the model's features by name, in its order; missing ones become missing values."""
        wanted = schema["features"]
        missing = [name for name in wanted if name not in self.features]
        if len(missing) > (1 - MIN_OVERLAP) * len(wanted):
            raise ConfigError(
                f"{len(missing)} of the model's {len(wanted)} features are missing, such as {missing[0]!r}"
            )
        position = {name: number for number, name in enumerate(self.features)}
        values = np.full((len(self.values), len(wanted)), np.nan, np.float32)
        for number, name in enumerate(wanted):
            if name in position:
                values[:, number] = self.values[:, position[name]]
        self.values, self.features = values, list(wanted)
        return [f"missing features, taken as unknown: {', '.join(missing)}"] if missing else []

    def fit(self, rows: NDArray[np.int64]) -> State:
        """Median, mean and standard deviation of each feature over the training rows."""
        values = np.where(np.isfinite(self.values[rows]), self.values[rows], np.nan)
        known = np.isfinite(values).any(0)
        median = np.zeros(values.shape[1], np.float32)
        median[known] = np.nanmedian(values[:, known], axis=0)
        filled = np.where(np.isfinite(values), values, median)
        std = filled.std(0)
        return {"median": median, "mean": filled.mean(0), "std": np.where(std > 1e-6, std, 1).astype(np.float32)}

    def batch(self, rows: NDArray[np.int64], state: State, augment: Augment | None = None) -> NDArray[np.float32]:
        """(n, features), standardised; augmented rows have features dropped to the mean and a little noise."""
        values = self.values[rows]
        scaled = (np.where(np.isfinite(values), values, state["median"]) - state["mean"]) / state["std"]
        if augment is not None and augment.strength != "pose":
            drop, noise = {"weak": (0.05, 0.05), "strong": (0.3, 0.2)}[augment.strength]
            scaled = scaled + generator(0, *augment.key, "noise").normal(0, noise, scaled.shape)
            scaled = np.where(generator(0, *augment.key, "drop").random(scaled.shape) < drop, 0, scaled)
        return np.clip(scaled, -10, 10).astype(np.float32)

    def network(self, name: str, state: State) -> Any:
        """`mlp-256-128`: hidden widths of a perceptron with batch norm and dropout."""
        from torch import nn

        kind, *widths = name.split("-")
        if kind != "mlp" or not widths or not all(width.isdigit() for width in widths):
            raise ConfigError(f"the tabular branch has encoders such as mlp-256-128, not {name!r}")
        sizes = [len(state["mean"]), *map(int, widths)]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(0.2)]
        network = nn.Sequential(*layers)
        network.num_features = sizes[-1]  # type: ignore[assignment]
        return network

    def baselines(self) -> dict[str, Baseline]:
        def values(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            return self.values[rows]

        return {"logistic": Baseline("logistic", values), "forest": Baseline("forest", values)}


def read_table(path: Path) -> Any:
    """CSV with any separator, or Parquet. ConfigError names the line that does not fit."""
    import pandas as pd

    if not path.is_file():
        raise ConfigError(f"no table at {path}; the tabular branch reads one CSV or Parquet file")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, sep=None, engine="python", encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise ConfigError(f"cannot read {path}: {' '.join(str(error).split())}") from None
