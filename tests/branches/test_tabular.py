"""The tabular branch: what is a feature, what is fitted on whom, encoders. Cases D03 and D08."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_tables import branch_of, learn, saved

from cellvision.branches import Augment
from cellvision.branches.tabular import networks as feature_nets
from cellvision.core.errors import ConfigError, NoUsableInput

ENCODERS = ["linear", "mlp-16-8", "ft-8-1"]


# -- what is a feature --


def test_labels_units_descriptors_and_text_are_no_features(mixed: Path) -> None:
    branch = branch_of(mixed, "y", "donor")
    assert branch.features == ["noise", "size"]
    assert {"Metadata_Plate", "ImageNumber", "donor", "stain", "y"} <= set(branch.items.table)
    assert any("text: 'stain'" in note for note in branch.items.facts["notes"])
    assert branch_of(mixed, "y", "donor", exclude=["size"], categorical=["stain"]).schema() == {
        "features": ["noise"], "categories": {"stain": ["blue", "green", "red"]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "describes"),
    [("Metadata_Well", True), ("Image_Metadata_Site", True), ("ImageNumber", True), ("ObjectNumber", True),
     ("FileName_DNA", True), ("Cells_Number_Object_Number", True), ("Image_Group_Index", True), ("TableNumber", True),
     ("Image_ImageNumber", True), ("Cells_Location_CenterMassIntensity_X_DNA", True), ("AreaShape_Center_Y", True),
     ("Cells_Parent_Nuclei", True), ("Nuclei_Children_Cells_Count", True), ("Mean_Cells_Location_Center_X", True),
     ("Cells_AreaShape_BoundingBoxMaximum_X", True), ("Cells_AreaShape_BoundingBoxArea", False),
     ("Nuclei_Neighbors_FirstClosestObjectNumber_5", True), ("Nuclei_Neighbors_FirstClosestDistance_5", False),
     ("Cells_TrackObjects_ParentObjectNumber_50", True), ("Cells_Number_Of_Spots", False),
     ("Cells_AreaShape_Area", False), ("Nuclei_Intensity_MeanIntensity_DNA", False), ("Height", False)],
)  # fmt: skip
def test_descriptors_by_the_convention_of_cellprofiler(tmp_path: Path, name: str, describes: bool) -> None:
    branch = branch_of(saved(tmp_path / "t.csv", other=[1.5, 2], **{name: [1.0, 2.5]}))
    assert (name in branch.features) != describes


def test_places_and_order_tell_nothing_unless_they_are_asked_for(tmp_path: Path) -> None:
    """The class stands in the order of the rows and in their place; no measurement knows it."""
    rng = np.random.default_rng(0)
    y = np.arange(120) // 60
    path = saved(
        tmp_path / "t.csv", ImageNumber=np.arange(120) // 6, ObjectNumber=np.arange(120),
        Cells_Location_Center_X=y * 9 + rng.normal(size=120), Cells_AreaShape_Center_Y=y + rng.random(120),
        Cells_Parent_Nuclei=np.arange(120) + 1, Nuclei_Children_Cells_Count=y,
        Cells_AreaShape_Area=rng.normal(size=120), image=np.arange(120) // 6, y=y,
    )  # fmt: skip
    options: dict[str, Any] = {"encoder": "mlp-16-8", "target": "y", "unit": "image"}
    hidden = learn(path, tmp_path / "hidden", **options)
    names = ("balanced_accuracy", "baseline_logistic", "baseline_forest", "baseline_boosting")
    assert max(hidden[name] for name in names) < 0.65
    told = learn(path, tmp_path / "told", **options, branch={"name": "tabular", "include": ["*_Center_*"]})
    assert min(told[name] for name in names) > 0.95
    branch = branch_of(path, "y", "image")
    note = next(note for note in branch.items.facts["notes"] if "places" in note)
    assert "'ImageNumber', 'ObjectNumber', 'Cells_Location_Center_X'" in note
    assert "and 1 more; see branch.include" in note
    given = branch_of(path, "y", "image", include=["*_Center_*", "No_*"])
    assert given.features == ["Cells_Location_Center_X", "Cells_AreaShape_Center_Y", "Cells_AreaShape_Area"]
    assert "no such columns: 'No_*'" in given.items.facts["notes"]


def test_a_fault_matters_only_in_a_feature(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.csv", area=["1", "2", "<3"], other=[1, 2, 3])
    with pytest.raises(ConfigError, match="line 4, column 'area': '<3' is no number"):
        branch_of(path)
    assert branch_of(path, exclude=["area"]).features == ["other"]


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(NoUsableInput, match="no numeric column left"):
        branch_of(saved(tmp_path / "t.csv", Metadata_Well=[1, 2], y=[0, 1]), "y")


def test_own_unit_and_group_columns_are_used(tmp_path: Path) -> None:
    branch = branch_of(saved(tmp_path / "t.csv", unit=[7, 7, 8], group=["a", "b", None], x=[1.5, 2, 3]))
    assert branch.items.table["unit"].tolist() == ["7", "7", "8"]
    assert branch.items.table["group"].tolist() == ["a", "b", "unknown"]


# -- what is fitted --


def test_gaps_and_categories_are_learned_from_training_rows(mixed: Path) -> None:
    branch = branch_of(mixed, "y", "donor", categorical=["stain"])
    stain = pd.read_csv(mixed)["stain"]
    train, other = np.flatnonzero(stain != "green"), np.flatnonzero(stain == "green")
    state = branch.fit(train)
    assert state["gap"].tolist() == [1]
    rows = branch.batch(train, state)
    size = pd.read_csv(mixed)["size"].to_numpy()[train]
    assert np.array_equal(rows[:, 2], np.isnan(size).astype(np.float32))
    assert np.array_equal(rows[:, 3], np.where(stain.iloc[train] == "blue", 1, 2))
    assert (branch.batch(other, state)[:, 3] == 0).all(), "a category that training rows lack is unknown"
    known = rows[~np.isnan(size), 1]
    assert rows[np.isnan(size), 1].max() == pytest.approx(np.median(known), abs=0.05)


def test_values_beyond_float32_count_as_missing(tmp_path: Path) -> None:
    branch = branch_of(saved(tmp_path / "t.csv", x=["1e300", "inf", "1", "2"], z=[1, 2, 3, 5]))
    assert np.isnan(branch.values[:, 0]).tolist() == [True, True, False, False]
    assert np.isfinite(branch.batch(np.arange(4), branch.fit(np.arange(4)))).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_take_gaps_and_categories_and_ignore_batch_mates(mixed: Path, name: str) -> None:
    branch = branch_of(mixed, "y", "donor", categorical=["stain"])
    rows = np.arange(20)
    state = branch.fit(rows)
    network = branch.network(name, state).eval()
    batch = torch.from_numpy(branch.batch(rows, state))
    together = network(batch)
    assert together.shape == (20, network.num_features)
    torch.testing.assert_close(together[3:4], network(batch[3:4]), rtol=1e-4, atol=1e-5)
    loss = network.train()(torch.from_numpy(branch.batch(rows, state, Augment("weak", (0,))))).square().sum()
    loss.backward()
    used = [parameter for parameter in network.parameters() if parameter.grad is not None]
    assert len(used) == len(list(network.parameters()))


def test_the_feature_transformer_tells_features_apart_and_sees_gaps() -> None:
    torch.manual_seed(0)
    network: Any = feature_nets.build("ft-16-1", 3, 1, (2,), 0.0).eval()
    torch.nn.init.normal_(network.gap)
    row = torch.tensor([[1.0, -1.0, 0.5, 0.0, 1.0]])
    swapped, gap, other = row[:, [1, 0, 2, 3, 4]], row.clone(), row.clone()
    gap[0, 3], other[0, 4] = 1, 2
    for changed in (swapped, gap, other):
        assert not torch.allclose(network(row), network(changed), atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "mlp-0", "ft-16", "ft-12-1", "linear-3", "resnet18", "mlp-x"])
def test_unknown_encoders_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match="mlp-256-128"):
        feature_nets.build(name, 3, 0, (), 0.0)


def test_learning_from_gaps_and_categories_beats_chance(mixed: Path, tmp_path: Path) -> None:
    branch = {"name": "tabular", "categorical": ["stain"]}
    found = learn(mixed, tmp_path / "run", branch=branch, encoder="mlp-16-8", target="y", unit="donor")
    assert found["balanced_accuracy"] > 0.8
    assert found["baseline_boosting"] > 0.8
    assert {"baseline_logistic", "baseline_forest", "above_boosting_low"} <= set(found)
    blind = learn(mixed, tmp_path / "blind", encoder="mlp-16-8", target="y", unit="donor",
                  branch={"name": "tabular", "exclude": ["size", "stain"]}, baselines=False)  # fmt: skip
    assert blind["balanced_accuracy"] < 0.7, "noise alone tells nothing"
