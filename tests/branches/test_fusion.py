"""Fusion: parts joined by id, missing parts, the bytes that carry them, late encoders, and each part alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from cellvision import ablate, finetune, predict
from cellvision.branches import BRANCHES, Augment
from cellvision.branches.fusion.branch import join, lost_parts, shared_hash
from cellvision.branches.fusion.network import unpack
from cellvision.core import files
from cellvision.core.config import build
from cellvision.core.errors import ConfigError
from cellvision.evidence import independence, splits

QUICK = {"workers": 0, "threads": 1, "device": "cpu"}


def two_tables(folder: Path, rows: int = 80) -> Path:
    """Two tables of the same things; each tells half of the class of four, and lacks some things."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    number = np.arange(rows)
    kind = number // 4 % 4
    common = {"thing": [f"t{n:03d}" for n in number], "unit": number // 4, "kind": [f"kind{k}" for k in kind]}
    for name, bit, kept in (("left", kind % 2, number % 5 != 0), ("right", kind // 2, number % 5 != 1)):
        table = pd.DataFrame({**common, f"{name}1": 3 * bit + rng.normal(size=rows), f"{name}2": rng.normal(size=rows)})
        table[kept].sample(frac=1, random_state=1).to_csv(folder / f"{name}.csv", index=False)
    part = {"branch": {"name": "tabular", "exclude": ["kind"], "group": "kind"}, "key": "thing"}
    parts = {name: {"items": f"{name}.csv", **part} for name in ("left", "right")}
    (folder / "both.yaml").write_text(yaml.safe_dump({"parts": parts}))
    return folder / "both.yaml"


def branch_of(path: Path, **options: Any) -> Any:
    return BRANCHES.build({"name": "fusion", **options}, path=path, reserved=("kind",))


# -- joining --


def rows_of(ids: list[str], hashes: list[str], **columns: Any) -> pd.DataFrame:
    fixed = {"item_id": ids, "source_id": ids, "source_hash": hashes, "unit": None, "group": "all"}
    return pd.DataFrame({**fixed, **columns})


def test_every_id_is_an_item_and_the_first_part_speaks_first() -> None:
    left = rows_of(["b", "a"], ["h1", "h2"], unit=["u1", "u2"], area=[1.5, 2.5], kind=["p", "q"])
    right = rows_of(["r0", "r1"], ["h3", "h4"], cell=["a", "c"], area=[7.5, 8.5], unit=["u9", "u3"], kind=["q", "p"])
    table, row = join({"left": (left, "item_id"), "right": (right, "cell")})
    assert table["item_id"].tolist() == ["a", "b", "c"]
    assert row["left"].tolist() == [1, 0, -1]
    assert row["right"].tolist() == [0, -1, 1]
    assert table["unit"].tolist() == ["u2", "u1", "u3"]
    assert table["source_id"].tolist() == ["a", "b", "c"], "row numbers of different tables are different things"
    assert table["kind"].tolist() == ["q", "p", "p"], "a column in which the parts agree is one"
    assert "right.kind" not in table
    assert table["area"].tolist()[:2] == [2.5, 1.5]
    assert np.isnan(table["area"].iloc[2])
    assert table["right.area"].tolist()[::2] == [7.5, 8.5]


def test_things_that_share_content_in_any_part_share_a_unit() -> None:
    left = np.array(["p", "q", "q", ""])
    right = np.array(["x", "x", "y", "z"])
    there = [np.array([True, True, True, False]), np.array([True, True, True, True])]
    assert shared_hash([left, right], there) == ["p", "p", "p", "z"]


@pytest.mark.parametrize(
    ("ids", "words"), [(["a", "a"], "must be there and unique; 'a' is not"), (["a", None], "must be there and unique")]
)
def test_ids_that_cannot_join_are_named(ids: list[Any], words: str) -> None:
    table = rows_of(["1", "2"], ["h", "i"], cell=ids)
    with pytest.raises(ConfigError, match=words):
        join({"left": (table, "cell")})
    with pytest.raises(ConfigError, match="no column 'cel' to join by"):
        join({"left": (table, "cel")})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("parts: {}", "names no parts"),
        ("part: 1", "did you mean 'parts'"),
        ("parts: {a.b: {items: x, branch: image}}", "part's name"),
    ],
)
def test_a_file_without_parts_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "f.yaml").write_text(content)
    with pytest.raises(ConfigError, match=words):
        branch_of(tmp_path / "f.yaml")
    with pytest.raises(ConfigError, match="no file at"):
        branch_of(tmp_path / "none.yaml")


# -- batches --


def test_parts_travel_bit_for_bit(tmp_path: Path) -> None:
    branch = branch_of(BRANCHES.load("fusion").sample(tmp_path).items)
    rows = np.arange(12)
    state = branch.fit(rows)
    packed = branch.batch(rows, state)
    there = np.stack([part.row[rows] >= 0 for part in branch.parts.values()], axis=1)
    assert np.array_equal(packed[:, :2], there)
    image = branch.parts["image"]
    known = rows[there[:, 0]]
    own = {key.removeprefix("image."): value for key, value in state.items() if key.startswith("image.")}
    expected = image.branch.batch(image.row[known], own)
    size = expected[0].size
    assert np.array_equal(unpack(torch.from_numpy(packed[known, 2 : 2 + size]), "uint8", expected.shape[1:]), expected)
    numbers = unpack(torch.from_numpy(packed[:, 2 + size :]), "float32", (3,)).numpy()
    assert (numbers[~there[:, 1]] == 0).all()
    np.testing.assert_allclose(numbers[there[:, 1]].mean(0), 0, atol=1e-5)


def test_a_part_that_is_not_there_does_not_count(tmp_path: Path) -> None:
    branch = branch_of(two_tables(tmp_path))
    rows = np.arange(80)
    state = branch.fit(rows)
    torch.manual_seed(0)
    network = branch.network("late:left=mlp-8+right=mlp-4", state).eval()
    assert network.num_features == 8 + 4 + 2
    without = branch.parts["right"].row < 0
    assert without.sum() == 16
    with torch.no_grad():
        found = network(torch.from_numpy(branch.batch(rows, state)))
        alone = network(torch.from_numpy(branch.batch(rows[:1], state)))
    assert (found[without, 8:12] == 0).all()
    assert (found[:, -1].numpy() == ~without).all()
    torch.testing.assert_close(found[:1], alone, rtol=1e-4, atol=1e-5)


def test_one_row_of_a_part_trains(tmp_path: Path) -> None:
    branch = branch_of(two_tables(tmp_path))
    state = branch.fit(np.arange(80))
    network = branch.network("late:left=mlp-8+right=mlp-4", state).train()
    rows = np.array([0, 2])  # the first lacks the left part
    features = network(torch.from_numpy(branch.batch(rows, state)))
    assert torch.isfinite(features).all()
    features.square().sum().backward()
    assert network.missing["left"].grad is not None


def test_parts_are_hidden_at_random_but_never_the_last() -> None:
    there = np.array([[True, True], [True, False], [False, True]] * 1000)
    lost = lost_parts(there, 0.4, Augment("strong", (0, 1)))
    assert not lost[there.sum(1) == 1].any()
    both = lost[there.sum(1) == 2]
    assert both.sum(1).max() == 1
    np.testing.assert_allclose(both.mean(0), 0.2, atol=0.05)
    assert np.array_equal(lost[:30], lost_parts(there[:30], 0.4, Augment("strong", (0, 1))))


def test_fit_looks_at_training_rows_only(tmp_path: Path) -> None:
    branch = branch_of(two_tables(tmp_path))
    before = branch.fit(np.arange(40))
    for part in branch.parts.values():
        part.branch.values[part.row[40:][part.row[40:] >= 0]] *= 9
    after = branch.fit(np.arange(40))
    assert all(np.array_equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["mlp-8", "late:left", "late:middle=mlp-8", "early"])
def test_unknown_encoders_are_named(tmp_path: Path, name: str) -> None:
    branch = branch_of(two_tables(tmp_path))
    with pytest.raises(ConfigError, match="late:left=mlp-256-128"):
        branch.network(name, branch.fit(np.arange(80)))


# -- the whole way --


def test_both_parts_know_more_than_each_alone(tmp_path: Path) -> None:
    """Four kinds, two bits, one in each table: a part alone cannot pass one half, except by guessing."""
    path = two_tables(tmp_path / "data", 160)
    base = {
        "encoder": "late:left=mlp-16+right=mlp-16",
        "tune": "whole",
        "loop": {"steps": 200, "batch": 32, "lr": 0.01},
    }
    arms = {
        "both": {},
        "left": {"branch.use": ["left"], "encoder": "late:left=mlp-16"},
        "right": {"branch.use": ["right"], "encoder": "late:right=mlp-16"},
    }
    given = {"items": path, "branch": "fusion", "target": "kind", "folds": 2, "seeds": [0], "base": base, "arms": arms}
    ablate.run(build(ablate.Config, given | QUICK), tmp_path / "run")
    summary = pd.read_csv(tmp_path / "run" / "summary.csv").set_index("arm")
    score = summary["balanced_accuracy"]
    assert score["both"] > 0.65
    assert score["both"] > max(score["left"], score["right"]) + 0.15
    assert set(summary["scored"]) == {160}, "every arm is scored on the same things, those that lack a part too"
    assert {"baseline: left-forest", "baseline: right-logistic", "baseline: joined"} < set(summary.index)
    assert score["baseline: joined"] > max(score["baseline: left-forest"], score["baseline: right-forest"])


def test_a_bundle_predicts_things_that_lack_a_part(tmp_path: Path) -> None:
    path = two_tables(tmp_path / "data")
    given = {"items": path, "branch": "fusion", "target": "kind", "fold": "none", "tune": "whole",
             "encoder": "late:left=mlp-8+right=mlp-8", "loop": {"steps": 2, "batch": 16}} | QUICK  # fmt: skip
    finetune.run(build(finetune.Config, given), tmp_path / "run")
    new = two_tables(tmp_path / "new", 8)
    left = pd.read_csv(tmp_path / "new" / "left.csv")
    left.head(1).to_csv(tmp_path / "new" / "left.csv", index=False)
    config = build(predict.Config, {"model": tmp_path / "run" / "model", "items": new} | QUICK)
    predict.run(config, tmp_path / "predicted")
    notes = files.read_json(tmp_path / "predicted" / "metrics.json")["notes"]
    table = pd.read_parquet(tmp_path / "predicted" / "predictions.parquet")
    right = pd.read_csv(tmp_path / "new" / "right.csv")
    assert set(table["item_id"]) == {*right["thing"], *left.head(1)["thing"]}
    assert f"{len(table) - 1} items have no left" in notes
    text = new.read_text().replace("exclude:", "clip: 3.0\n      exclude:")
    new.write_text(text)
    with pytest.raises(ConfigError, match="part 'left' was trained with the options"):
        predict.run(config, tmp_path / "other")


def test_units_come_from_the_parts(tmp_path: Path) -> None:
    branch = branch_of(two_tables(tmp_path))
    made = splits.make(branch.items, independence.unit_column(branch.items))
    assert made.folds == 5
    assert made.table.groupby("unit")["fold"].nunique().max() == 1
    assert len(branch.items.table) == 80
