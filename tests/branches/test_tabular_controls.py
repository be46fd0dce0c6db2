"""The tabular branch: whitening by controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_tables import branch_of, saved

from cellvision.core.errors import ConfigError


@pytest.fixture
def plates(tmp_path: Path) -> Path:
    """Six plates with offsets; two correlated features with noise along (1, 1), the treatment moves along (1, -1)."""
    rng = np.random.default_rng(1)
    plate, treated = np.arange(120) // 20, np.arange(120) % 20 >= 10
    along = rng.normal(size=120)[:, None] * [3, 3] + rng.normal(size=(120, 2)) * 0.1
    values = along + 10 * rng.normal(size=6)[plate, None] + np.where(treated, 1.0, 0)[:, None] * [0.5, -0.5]
    return saved(
        tmp_path / "plates.csv",
        Metadata_Plate=plate,
        drug=np.where(treated, "x", "none"),
        a=values[:, 0],
        b=values[:, 1],
    )


def test_whitening_by_controls_makes_the_effect_visible(plates: Path) -> None:
    options = {"controls": "drug=none", "plate": "Metadata_Plate"}
    branch = branch_of(plates, "drug", **options, sphere=0.001)
    control = (pd.read_csv(plates)["drug"] == "none").to_numpy()
    rows = np.arange(120)
    white = branch.batch(rows, branch.fit(rows))
    np.testing.assert_allclose(np.cov(white[control].T), np.eye(2), atol=0.35)
    effect = np.linalg.norm(white[~control].mean(0) - white[control].mean(0))
    plain = branch_of(plates, "drug")
    before = plain.batch(rows, plain.fit(rows))
    assert effect > 3 > 0.5 > np.linalg.norm(before[~control].mean(0) - before[control].mean(0))


def test_whitening_sees_the_controls_of_training_plates_only(plates: Path) -> None:
    branch = branch_of(plates, "drug", controls="drug=none", plate="Metadata_Plate", sphere=0.1)
    train = np.arange(60)
    before = branch.fit(train)
    branch.values[60:] *= 7
    after = branch.fit(train)
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert not np.array_equal(before["sphere"], branch.fit(np.arange(120))["sphere"])


def test_rows_of_unit_length_keep_their_direction(plates: Path) -> None:
    plain, scaled = (branch_of(plates, "drug", unit_length=on, clip=1e9) for on in (False, True))
    rows = np.arange(120)
    before, after = (branch.batch(rows, branch.fit(rows)) for branch in (plain, scaled))
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), np.sqrt(2), rtol=1e-4)
    np.testing.assert_allclose(after / np.sqrt(2), before / np.linalg.norm(before, axis=1, keepdims=True), rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sphere": 0.1}, "need branch.controls"),
        ({"controls": "drug"}, "wants COLUMN=VALUE"),
        ({"controls": "drug=water"}, "no row is a control"),
        ({"controls": "durg=none"}, "no column 'durg'"),
        ({"controls": "drug=none", "plate": "b"}, "60 plates have no control"),
    ],
)
def test_controls_that_cannot_be_used_are_named(plates: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        branch_of(plates, **options)
