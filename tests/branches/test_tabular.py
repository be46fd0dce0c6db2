"""The tabular branch: what is a feature, what is fitted on whom, new data, encoders, controls. Cases D03 and D08."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cellvision import embed, finetune, plan, predict, pretrain
from cellvision.branches import BRANCHES, Augment
from cellvision.branches.tabular import networks as feature_nets
from cellvision.core import files
from cellvision.core.cli import main
from cellvision.core.config import build
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.evidence import baselines, metrics, splits, targets

ENCODERS = ["linear", "mlp-16-8", "ft-8-1"]
QUICK = {"workers": 0, "threads": 1, "device": "cpu"}


def saved(path: Path, **columns: Any) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def branch_of(path: Path, *reserved: str, **options: Any) -> Any:
    return BRANCHES.build({"name": "tabular", **options}, path=path, reserved=reserved)


def learn(path: Path, out: Path, **options: Any) -> dict[str, Any]:
    """A finetune run on a table; -> its metrics."""
    given = {
        "items": path,
        "branch": "tabular",
        "tune": "whole",
        "loop": {"steps": 60, "batch": 32, "lr": 0.01},
    } | QUICK
    finetune.run(build(finetune.Config, given | options), out)
    return dict(files.read_json(out / "metrics.json"))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """80 rows of 16 donors: the answer stands in `stain` (text) and in where `size` is missing, not in `noise`."""
    rng = np.random.default_rng(0)
    y = np.arange(80) // 5 % 2
    size = np.where((y == 1) & (rng.random(80) < 0.7), np.nan, rng.normal(size=80))
    return saved(
        tmp_path / "mixed.csv", Metadata_Plate=np.arange(80) % 3, ImageNumber=np.arange(80), donor=np.arange(80) // 5,
        noise=rng.normal(size=80), size=size, stain=np.where(rng.random(80) < 0.9, np.where(y, "red", "blue"), "green"),
        y=np.where(y, "sick", "well"),
    )  # fmt: skip


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


# -- controls --


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


# -- new data --


@pytest.fixture
def wide(tmp_path: Path) -> dict[str, Any]:
    """Ten features and a category, as columns."""
    rng = np.random.default_rng(0)
    return {f"f{n}": rng.normal(size=12) + n for n in range(10)} | {"stain": ["red", "blue"] * 6}


def test_features_are_aligned_by_name(wide: dict[str, Any], tmp_path: Path) -> None:
    old = branch_of(saved(tmp_path / "old.csv", **wide), categorical=["stain"])
    new = branch_of(saved(tmp_path / "new.csv", extra=range(12), **dict(reversed(wide.items()))), categorical=["stain"])
    rows, state = np.arange(12), old.fit(np.arange(12))
    assert new.check(old.schema()) == []
    assert np.array_equal(new.batch(rows, state), old.batch(rows, state))
    assert new.check(old.schema()) == []


def test_missing_features_are_listed_and_refused_below_80_percent(wide: dict[str, Any], tmp_path: Path) -> None:
    del wide["stain"]
    old = branch_of(saved(tmp_path / "old.csv", **wide))
    rows, state = np.arange(12), old.fit(np.arange(12))
    eight = branch_of(saved(tmp_path / "8.csv", **{name: wide[name] for name in list(wide)[2:]}))
    assert eight.check(old.schema()) == ["missing features, taken as unknown: 'f0', 'f1'"]
    found = eight.batch(rows, state)
    assert np.array_equal(found[:, 2:], old.batch(rows, state)[:, 2:])
    assert np.ptp(found[:, :2], axis=0).max() == 0
    seven = branch_of(saved(tmp_path / "7.csv", **{name: wide[name] for name in list(wide)[3:]}))
    with pytest.raises(ConfigError, match="3 of the model's 10 features are missing: 'f0', 'f1', 'f2'; at least 80 %"):
        seven.check(old.schema())


def test_unseen_categories_are_counted(wide: dict[str, Any], tmp_path: Path) -> None:
    old = branch_of(saved(tmp_path / "old.csv", **wide), categorical=["stain"])
    new = branch_of(saved(tmp_path / "new.csv", **wide | {"stain": ["green"] * 3 + ["red"] * 9}), categorical=["stain"])
    assert new.check(old.schema()) == ["column 'stain': 3 rows hold categories never seen ('green')"]
    codes = new.batch(np.arange(12), old.fit(np.arange(12)))[:, -1]
    assert codes.tolist() == [0, 0, 0] + [2] * 9


def test_a_number_as_category_is_the_same_beside_a_gap(tmp_path: Path) -> None:
    old = branch_of(saved(tmp_path / "old.csv", x=[1.5, 2, 3], stage=[1, 2, 2]), categorical=["stage"])
    new = branch_of(saved(tmp_path / "new.csv", x=[1.5, 2, 3], stage=[2, np.nan, 1]), categorical=["stage"])
    assert new.check(old.schema()) == []
    assert new.batch(np.arange(3), old.fit(np.arange(3)))[:, -1].tolist() == [2, 0, 1]


def test_a_model_that_has_seen_the_answer_is_refused(tmp_path: Path, table: Path) -> None:
    coded = saved(tmp_path / "t.csv", **pd.read_csv(table).assign(y=lambda t: (t["y"] == "sick").astype(int)))
    given = {"items": coded, "branch": "tabular", "unit": "donor", "encoder": "mlp-8", "loop": {"steps": 2}} | QUICK
    pretrain.run(build(pretrain.Config, given), tmp_path / "ssl")
    with pytest.raises(ConfigError, match="learned from 'y', which is a label"):
        learn(coded, tmp_path / "run", encoder=str(tmp_path / "ssl"), target="y", unit="donor", fold="0")


def test_predict_lists_what_is_missing_and_new(mixed: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"branch": {"name": "tabular", "categorical": ["stain"], "exclude": ["donor"]}}
    learn(mixed, tmp_path / "run", encoder="mlp-8", target="y", unit="donor", fold="none", **options)
    new = pd.read_csv(mixed).drop(columns=["y", "donor"]).assign(stain="violet")
    path = saved(tmp_path / "new.csv", **new)
    config = build(predict.Config, {"model": tmp_path / "run" / "model", "items": path} | QUICK)
    predict.run(config, tmp_path / "predicted")
    notes = files.read_json(tmp_path / "predicted" / "metrics.json")["notes"]
    assert notes == ["column 'stain': 80 rows hold categories never seen ('violet')"]
    assert len(pd.read_parquet(tmp_path / "predicted" / "predictions.parquet")) == 80


# -- targets and folds --


def test_targets_of_a_table(tmp_path: Path) -> None:
    table = {
        "x": range(8),
        "y": ["a", "a", "b", "b", "rare", None, "a", "b"],
        "one": "same",
        "code": [1, 2, None] + [1] * 5,
    }
    items = branch_of(saved(tmp_path / "t.csv", **table), "y", "code").items
    with pytest.raises(ConfigError, match="one class, 'same'"):
        targets.read(items, "one")
    found = targets.read(items, "y")
    assert found.label.tolist() == [0, 0, 1, 1, 2, -1, 0, 1]
    assert targets.read(items, "code").classes == ("1", "2")


def test_a_class_with_one_row_trains_and_is_not_scored(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = ["a", "b"] * 10 + ["rare"]
    path = saved(tmp_path / "t.csv", x=rng.normal(size=21), z=rng.normal(size=21), y=y, donor=np.arange(21) // 2)
    found = learn(path, tmp_path / "run", encoder="mlp-8", target="y", unit="donor", loop={"steps": 2}, baselines=False)
    assert found["not_evaluated"] == ["rare"]
    assert found["scored"] == 20


def test_rows_without_a_unit_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.csv", x=[1.5, 2, 3], donor=["d1", None, "d2"])
    with pytest.raises(ConfigError, match="1 items get no unit"):
        splits.unit_column(branch_of(path).items, "donor")


def test_one_unit_is_left_out_at_a_time(tmp_path: Path) -> None:
    drug = np.repeat(["a1", "a2", "b1", "b2", "c1"], 3)
    path = saved(tmp_path / "t.csv", x=np.arange(15) + 0.5, drug=drug, moa=[name[0] for name in drug])
    command = ["--items", str(path), "--branch", "tabular", "--set", "branch.group=moa", "--unit", "drug"]
    assert main("plan", [*command, "--folds", "units", "--out", str(tmp_path / "plan")]) == 0
    table = pd.read_csv(tmp_path / "plan" / "splits.csv")
    assert table.groupby("unit")["fold"].first().to_dict() == {"a1": 0, "a2": 1, "b1": 2, "b2": 3, "c1": -1}
    claims = files.read_json(tmp_path / "plan" / "plan.json")["claims"]
    assert "cannot be evaluated (fewer than two units): c" in claims
    assert main("plan", [*command, "--folds", "1", "--out", str(tmp_path / "bad")]) == 4


def test_numeric_units_and_formulas_pass_through_splits(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "t.csv", x=np.arange(8) + 0.5, donor=np.arange(8) // 2, group=["=1+1", "=1+1", "@x", "@x"] * 2
    )
    given = build(plan.Config, {"items": path, "branch": "tabular", "unit": "donor"})
    plan.run(given, tmp_path / "plan")
    assert "'=1+1" in (tmp_path / "plan" / "splits.csv").read_text()
    made = splits.read(tmp_path / "plan")
    assert set(made.table["group"]) == {"=1+1", "@x"}
    assert set(made.table["unit"]) == {"0", "1", "2", "3"}
    branch = branch_of(path, "donor")
    assert made.content == splits.make(branch.items, splits.unit_column(branch.items, "donor")).content


# -- known answers --


def test_breast_cancer_is_told_as_well_as_by_logistic_regression(tmp_path: Path) -> None:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer(as_frame=True)
    path = saved(tmp_path / "cancer.csv", **data.frame.rename(columns={"target": "benign"}))
    command = f"--items {path} --branch tabular --target benign --unit row --encoder mlp-32-16 --tune whole"
    given = [*command.split(), "--steps", "150", "--lr", "0.01", "--workers", "0", "--out", str(tmp_path / "run")]
    assert main("finetune", given) == 0
    found = files.read_json(tmp_path / "run" / "metrics.json")
    assert found["stamps"] == ["rows assumed independent"]
    assert found["balanced_accuracy"] > 0.94
    assert abs(found["balanced_accuracy"] - found["baseline_logistic"]) < 0.03
    assert found["scored"] == 569


@pytest.mark.parametrize("kind", ["logistic", "forest", "boosting"])
def test_baselines_learn_an_easy_table_with_gaps(kind: str) -> None:
    rng = np.random.default_rng(0)
    label = np.where(np.arange(400) % 2, 2, 0)
    features = rng.normal(size=(400, 4)).astype(np.float32)
    features[:, 0] += 2 * label
    features[rng.random((400, 4)) < 0.1] = np.nan
    found = baselines.fit_predict(baselines.estimator(kind, 0, 1), features[:200], label[:200], features[200:], 3)
    assert (found[:, 1] == 0).all(), "a class without training rows"
    assert metrics.balanced_accuracy(label[200:], found.argmax(1)) > 0.85


def test_embed_probes_an_untrained_encoder_in_every_fold(table: Path, tmp_path: Path) -> None:
    given = {"items": table, "branch": "tabular", "unit": "donor", "target": "y", "encoder": "linear"} | QUICK
    embed.run(build(embed.Config, given), tmp_path / "run")
    found = files.read_json(tmp_path / "run" / "metrics.json")
    assert found["linear_balanced_accuracy"] > 0.9
    assert found["baseline_logistic"] > 0.9
    assert found["above_logistic_low"] <= found["above_logistic"] <= found["above_logistic_high"]
    assert "baseline_forest" not in found, "the probe's own kind of model stands beside it, and no other"
