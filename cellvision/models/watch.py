"""What an encoder has learned while it is trained: rank, kNN and identity of the source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import Branch, State
from cellvision.core.rng import generator
from cellvision.evidence import intervals, metrics

if TYPE_CHECKING:
    from torch import nn


PROBE_ITEMS = 2000  # items that kNN, rank and identity are measured on


class Probe:
    """What an encoder has learned, measured in evaluation mode on fixed items: rank, kNN and identity of the source."""

    def __init__(self, branch: Branch, state: State, train: NDArray[np.int64], test: NDArray[np.int64]) -> None:
        self.branch, self.state = branch, state
        rng = generator(0, "probe")
        self.train, self.test = (np.sort(rng.permutation(rows)[:PROBE_ITEMS]) for rows in (train, test))
        table = branch.items.table
        self.group = table["group"].to_numpy(str)
        self.source = table["source_id"].to_numpy(str)
        self.unit = table["unit"].fillna(table["source_id"]).to_numpy(str)

    def __call__(self, encoder: nn.Module) -> dict[str, float]:
        from cellvision.models import encoders

        training = encoder.training
        features = encoders.embed(encoder, self.branch, self.state, self.train)
        measures = {"rank": metrics.effective_rank(features), "std": float(features.std(0).mean())}
        if len(self.test) and len(np.unique(self.group)) > 1:
            others = encoders.embed(encoder, self.branch, self.state, self.test)
            guess = metrics.knn_predict(features, self.group[self.train], others)
            truth = self.group[self.test]
            measures |= intervals.balanced_accuracy(self.unit[self.test], truth, guess == truth).flat("knn")
        half = np.arange(len(self.train)) % 2 == 0
        source = self.source[self.train]
        if len(np.unique(source[half])) > 1 and half.sum() < len(half):
            guess = metrics.knn_predict(features[half], source[half], features[~half])
            measures["identity"] = float(np.mean(guess == source[~half]))
            measures["identity_chance"] = float(np.unique(source, return_counts=True)[1].max() / len(source))
        encoder.train(training)
        return measures
