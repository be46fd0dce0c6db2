"""Frozen features: what is taken from the shared folder is what would have been computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellvision.branches import BRANCHES
from cellvision.models import encoders
from cellvision.models.fit import frozen_features

ENCODERS = {"tabular": "mlp-16-8", "trace": "cnn-8-8"}


@pytest.mark.parametrize("name", ENCODERS)
def test_features_fitted_on_other_units_are_never_taken(name: str, table: Path, traces: Path, tmp_path: Path) -> None:
    """The preprocessing of each fold is fitted on its own training rows; the random network is the same."""
    branch = BRANCHES.build(name, path={"tabular": table, "trace": traces}[name])
    every = np.arange(len(branch.items.table))
    for train in (every[: len(every) // 3], every[: len(every) // 2]):
        trained = encoders.resolve(ENCODERS[name], branch, train, seed=0)
        alone = frozen_features(branch, trained, every, None)
        assert np.array_equal(frozen_features(branch, trained, every, tmp_path), alone)
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_features_of_items_aligned_to_another_schema_are_never_taken(table: Path, tmp_path: Path) -> None:
    branch = BRANCHES.build("tabular", path=table)
    every = np.arange(len(branch.items.table))
    trained = encoders.resolve("mlp-16-8", branch, every, seed=0)
    before = frozen_features(branch, trained, every, tmp_path)
    schema = branch.schema()
    branch.align(schema | {"features": schema["features"][::-1]})
    after = frozen_features(branch, trained, every, tmp_path)
    assert np.array_equal(after, frozen_features(branch, trained, every, None))
    assert not np.array_equal(before, after)


def test_the_same_weights_and_state_are_computed_once(table: Path, tmp_path: Path) -> None:
    rows = np.arange(12)
    for _ in range(2):
        branch = BRANCHES.build("tabular", path=table)
        frozen_features(branch, encoders.resolve("mlp-16-8", branch, rows, seed=0), rows, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 1
