"""The core: configs, run directories, splits, statistics, crops, annotations and weight files: known answers."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cellvision.branches import items
from cellvision.branches.image import networks
from cellvision.branches.items import Items
from cellvision.cells import annotate, crop, cropstore
from cellvision.cells.cropstore import Crops
from cellvision.core import config, files, rng, rundir
from cellvision.core.config import StageConfig, StageModel, option
from cellvision.core.errors import ConfigError, LeakError, NoUsableInput, UnsafeInput
from cellvision.core.registry import Registry
from cellvision.core.rundir import RunDir
from cellvision.evidence import intervals, metrics, splits
from cellvision.io import tensorfiles
from cellvision.models import encoders

# -- config --


class Inner(StageModel):
    name: str = "plain"
    rate: float = option(0.1, "a share", gt=0)
    hidden: int = option(1, "not for the result", runtime=True)


class Example(StageConfig):
    steps: int = option(1, "steps", ge=1)
    word: str = option("a", "any word")
    inner: Inner = option(Inner(), "nested")


def test_defaults_then_file_then_flags_then_set(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("steps: 2\nword: file\ninner: {rate: 0.2}\nseed: 5\n")
    flags = {"steps": 3, "inner.rate": 0.3}
    assert config.load(Example, None, {}, []) == Example()
    assert config.load(Example, file, {}, []) == Example(steps=2, word="file", inner=Inner(rate=0.2), seed=5)
    assert config.load(Example, file, flags, []) == Example(steps=3, word="file", inner=Inner(rate=0.3), seed=5)
    assert config.load(Example, file, flags, ["steps=4"]).model_dump()["steps"] == 4


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("2E5", 2e5), (".5", 0.5), ("-1.", -1.0), ("no", "no"), ("off", "off"), ("y", "y"),
     ("true", True), ("7", 7), ("[1, 2]", [1, 2]), ("null", None), ("1.2.3", "1.2.3")],
)  # fmt: skip
def test_yaml_scalars_are_what_they_look_like(text: str, value: Any) -> None:
    read = config.parse_yaml(text)
    assert read == value
    assert type(read) is type(value)


def test_unknown_keys_name_the_nearest_at_every_depth() -> None:
    with pytest.raises(ConfigError, match="unknown key 'stepz'; did you mean 'steps'"):
        config.build(Example, {"stepz": 3})
    with pytest.raises(ConfigError, match=r"unknown key 'inner\.rats'; did you mean 'rate'"):
        config.build(Example, {"inner": {"rats": 3}})


@pytest.mark.parametrize(("data", "words"), [({"steps": 0}, "steps.*got 0"), ({"steps": "many"}, "steps.*'many'")])
def test_a_bad_value_is_named_with_what_was_given(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.build(Example, data)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "\x00"])
def test_a_bad_config_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        config.read_yaml(file)


def test_runtime_keys_do_not_change_the_result() -> None:
    plain = config.result_keys(Example())
    assert plain == config.result_keys(Example(workers=3, device="cpu", strict=True, inner=Inner(hidden=9)))
    assert "workers" not in plain
    assert "hidden" not in plain["inner"]
    assert plain != config.result_keys(Example(inner=Inner(rate=0.2)))


def test_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert config.fingerprint({"a": 1, "b": [2, None]}) == config.fingerprint({"b": [2, None], "a": 1})
    assert config.fingerprint({"a": 1}) == "015abd7f5cc57a2d"


def test_written_config_reads_back_the_same(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    made = Example(steps=4, word="no", inner=Inner(rate=1e-9))
    file.write_text(config.to_yaml(made))
    assert config.load(Example, file, {}, []) == made


def test_set_wants_key_and_value() -> None:
    with pytest.raises(ConfigError, match="key=value"):
        config.parse_set("steps")


# -- registry and randomness --


def test_registry_loads_only_what_is_asked_for() -> None:
    registry = Registry("thing", {"path": "pathlib:Path", "broken": "no.such.module:Thing"})
    assert registry.load("path") is Path
    with pytest.raises(ConfigError, match="no thing named 'pat'; did you mean 'path'"):
        registry.load("pat")
    with pytest.raises(ConfigError, match="by name or as a mapping"):
        registry.config(3)


def test_derived_seeds_are_the_same_everywhere_and_for_ever() -> None:
    assert rng.derive(0) == 8493733112532773764
    assert rng.derive(7, "segment", 3, "view") == 975232102146761632
    assert rng.derive(1, 23) != rng.derive(12, 3)
    assert rng.generator(0, "a").integers(1_000_000) == 776960
    assert 0 <= rng.torch_seed(0, "x") < 2**63


# -- files --


def test_atomic_leaves_nothing_behind_on_error(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    files.write_text(path, "old")
    with pytest.raises(OSError, match="No such file"), files.atomic(path) as temporary:
        temporary.write_bytes(Path("half", "of", "it").read_bytes())
    with pytest.raises(AttributeError), files.atomic(path) as temporary:
        temporary.write_text("half").stop()  # type: ignore[attr-defined]
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", "\ta", "\ra"])
def test_csv_text_is_inert_in_a_spreadsheet(tmp_path: Path, text: str) -> None:
    files.write_csv(tmp_path / "t.csv", pd.DataFrame({text: [text, "b-c"], "n": [-1.5, 2.0]}))
    with (tmp_path / "t.csv").open(newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows == [[f"'{text}", "n"], [f"'{text}", "-1.5"], ["b-c", "2.0"]]


def test_json_has_no_nan(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"x": float("nan"), "y": np.float32(0.5), "z": (np.inf, np.int64(3))})
    assert files.read_json(tmp_path / "a.json") == {"x": None, "y": 0.5, "z": [None, 3]}


def test_hash_of_a_folder_covers_names_and_contents(tmp_path: Path) -> None:
    def digest(**contents: str) -> str:
        folder = tmp_path / config.fingerprint(contents)
        for name, text in contents.items():
            files.write_text(folder / name, text)
        return files.hash_tree(folder, frozenset({"skipped"}))

    assert digest(a="1", skipped="x") == digest(a="1", skipped="y")
    assert len({digest(a="1"), digest(a="2"), digest(b="1"), digest(a="1", b="1")}) == 4


# -- run directories --


def finish(out: Path, cfg: StageConfig, **inputs: str) -> RunDir:
    with RunDir.claim(out, "example", cfg, inputs) as run:
        if not run.done:
            files.write_text(out / "result.txt", "42")
            run.finish({"answer": 42})
    return run


def test_a_finished_twin_is_reused(tmp_path: Path) -> None:
    finish(tmp_path / "run", Example())
    before = (tmp_path / "run" / "run.json").stat().st_mtime_ns
    assert finish(tmp_path / "run", Example(workers=2)).done
    assert (tmp_path / "run" / "run.json").stat().st_mtime_ns == before


def test_another_config_is_refused_with_the_difference(tmp_path: Path) -> None:
    finish(tmp_path / "run", Example(), items="aaa")
    with pytest.raises(ConfigError, match=r"inner\.rate: 0\.1 there, 0\.5 now"):
        RunDir.claim(tmp_path / "run", "example", Example(inner=Inner(rate=0.5)), {"items": "aaa"})
    with pytest.raises(ConfigError, match=r"inputs\.items: 'aaa' there, 'bbb' now"):
        RunDir.claim(tmp_path / "run", "example", Example(), {"items": "bbb"})
    assert finish(tmp_path / "run", Example(), items="aaa").done


def test_a_second_claim_names_the_process_that_holds_the_run(tmp_path: Path) -> None:
    with (
        RunDir.claim(tmp_path / "run", "example", Example()),
        pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"),
    ):
        RunDir.claim(tmp_path / "run", "example", Example())
    assert not RunDir.claim(tmp_path / "run", "example", Example()).done


def test_a_broken_run_says_why_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match="invalid literal"), RunDir.claim(out, "example", Example()) as run:
        run.note(device="cpu", number=int("mishap"))
    record = files.read_json(out / "run.json")
    assert record["status"] == "broken"
    assert record["error"].startswith("ValueError: invalid literal")
    with pytest.raises(ConfigError, match="is broken; repeat its command"):
        rundir.content_of(out)
    finish(out, Example())
    assert files.read_json(out / "run.json")["status"] == "done"
    assert "error" not in files.read_json(out / "run.json")


def test_a_killed_run_resumes_without_what_it_was_writing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    RunDir.claim(out, "example", Example()).__exit__(None, None, None)  # no word, no finish: as after kill -9
    assert files.read_json(out / "run.json")["status"] == "running"
    half = out / "parts" / ".a.json.123.tmp"
    files.write_text(half.with_name("a.json"), "{}")
    half.write_text("{")
    finish(out, Example())
    assert not half.exists()
    assert half.with_name("a.json").exists()


def test_a_run_killed_while_it_claims_resumes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".lock", ".run.json.123.tmp"):
        (tmp_path / "run" / name).touch()
    assert finish(tmp_path / "run", Example()).done


def test_content_depends_on_results_alone(tmp_path: Path) -> None:
    for name, workers in (("a", 0), ("b", 2)):
        finish(tmp_path / name, Example(workers=workers)).log("note", of=name)
    contents = {rundir.content_of(tmp_path / name) for name in "ab"}
    assert len(contents) == 1
    files.write_text(tmp_path / "a" / "result.txt", "43")
    assert files.hash_tree(tmp_path / "a", rundir.BOOKKEEPING) not in contents


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    (tmp_path / ".notes.tmp").touch()
    with pytest.raises(ConfigError, match="not empty and is no run directory"):
        RunDir.claim(tmp_path, "example", Example())
    assert (tmp_path / ".notes.tmp").exists()
    with pytest.raises(ConfigError, match="is no run directory"):
        rundir.content_of(tmp_path)


def test_a_damaged_record_is_one_clear_line(tmp_path: Path) -> None:
    finish(tmp_path / "run", Example())
    (tmp_path / "run" / "run.json").write_text('{"schema": 1,')
    with pytest.raises(ConfigError, match="damaged; delete the folder"):
        RunDir.claim(tmp_path / "run", "example", Example())


# -- splits --


def rows_of(units: dict[str, int], each: int = 2, **columns: Any) -> Items:
    """Sources a0, a1 …, b0 … with `each` items, each source its own unit."""
    sources = [(f"{group}{number}", group) for group, count in units.items() for number in range(count)]
    rows = [(f"{name}-{n}", name, f"hash {name}", name, group) for name, group in sources for n in range(each)]
    return Items(pd.DataFrame(rows, columns=[*items.COLUMNS]).assign(**columns), "content", items.no_missed())


def made(of: Items, **options: Any) -> splits.Splits:
    return splits.make(of, splits.unit_column(of, **options))


@pytest.mark.parametrize(
    ("units", "folds"), [({"a": 9, "b": 5}, 5), ({"a": 9, "b": 3}, 3), ({"a": 9, "b": 1}, 5), ({"a": 1, "b": 1}, 0)]
)
def test_folds_are_five_or_the_smallest_number_of_units(units: dict[str, int], folds: int) -> None:
    found = made(rows_of(units))
    assert found.folds == folds
    for number in range(folds):
        tested = set(found.table[found.table["fold"] == number]["group"])
        assert tested == {group for group, count in units.items() if count > 1}


def test_a_group_of_one_unit_is_never_tested() -> None:
    table = made(rows_of({"a": 4, "b": 1})).table
    assert set(table[table["group"] == "b"]["fold"]) == {splits.NEVER_TESTED}
    with pytest.raises(ConfigError, match="nothing can be tested"):
        splits.test_folds(made(rows_of({"a": 1, "b": 1})), "all")


def test_folds_are_of_even_size() -> None:
    items_in = made(rows_of({"a": 10, "b": 15})).table["fold"].value_counts()
    assert items_in.max() - items_in.min() <= 1


def test_the_same_splits_twice_whatever_the_order_of_rows() -> None:
    one = rows_of({"a": 6, "b": 6})
    other = Items(one.table.sample(frac=1, random_state=1).reset_index(drop=True), "content", items.no_missed())
    assert made(one).content == made(one).content == made(other).content


def test_sources_of_the_same_content_share_a_unit() -> None:
    table = rows_of({"a": 5, "b": 5}).table
    table.loc[table["source_id"].isin(["a0", "b3"]), "source_hash"] = "twin"
    found = made(Items(table, "content", items.no_missed())).table.set_index("source_id")
    assert found.loc["a0", "unit"] == found.loc["b3", "unit"]
    assert found.loc["a0", "fold"] == found.loc["b3", "fold"]
    assert found["unit"].nunique() == 9


def test_duplicates_join_whole_units() -> None:
    """a0 and a1 are of one donor; b0 is a copy of a1: all three are one unit."""
    of = rows_of({"a": 5, "b": 5})
    of.table["donor"] = of.table["source_id"].replace({"a1": "a0"})
    of.table.loc[of.table["source_id"].isin(["a1", "b0"]), "source_hash"] = "twin"
    unit = splits.unit_column(of, "donor").groupby(of.table["source_id"]).first()
    assert unit["a0"] == unit["a1"] == unit["b0"]
    assert unit.nunique() == 8


def test_unit_from_the_first_group_of_a_pattern() -> None:
    of = rows_of({"a": 4}, well=[f"plate{n // 2 % 3}_A{n}" for n in range(8)])
    assert set(splits.unit_column(of, r"well~(plate\d)_")) == {"plate0", "plate1", "plate2"}
    with pytest.raises(ConfigError, match="needs a group in parentheses"):
        splits.unit_column(of, "well~plate")
    with pytest.raises(ConfigError, match="no regular expression"):
        splits.unit_column(of, "well~(plate")
    with pytest.raises(ConfigError, match="8 items get no unit"):
        splits.unit_column(of, "well~(dish)")
    with pytest.raises(ConfigError, match="no column 'wel'"):
        splits.unit_column(of, "wel")


def test_unit_from_a_file(tmp_path: Path) -> None:
    of, path = rows_of({"a": 3}), tmp_path / "units.csv"
    path.write_text("source_id,unit\na0,x\na1,x\na2,y\n")
    assert list(splits.unit_column(of, units=path)) == ["x"] * 4 + ["y"] * 2
    path.write_text("source_id,unit\na0,x\n")
    with pytest.raises(ConfigError, match=r"4 items get no unit, such as .*source 'a1'"):
        splits.unit_column(of, units=path)


def test_rows_are_no_units_unless_somebody_says_so_and_then_every_result_does() -> None:
    of = rows_of({"a": 6, "b": 6}, each=1, unit=None)
    with pytest.raises(ConfigError, match="say --unit row"):
        made(of)
    assert splits.stamps(of, made(of, unit="row")) == ["rows assumed independent"]
    assert splits.stamps(rows_of({"a": 2}), made(rows_of({"a": 2}))) == []


def test_splits_come_back_from_disk(tmp_path: Path) -> None:
    of = rows_of({"-a": 3, "no": 3, "007": 3, "'=b": 3, "'c": 3})
    made(of).write(tmp_path / "splits.csv")
    back = splits.read(tmp_path)
    assert back.content == made(of).content
    assert list(back.fold_of(of)) == list(made(of).fold_of(of))


def test_a_unit_in_two_folds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_text("source_id,unit,group,fold\ns0,u,a,0\ns1,u,a,1\n")
    with pytest.raises(LeakError, match="unit 'u' stands in more than one fold"):
        splits.read(path)


def test_items_without_a_fold_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 sources have no fold, such as 'b0'"):
        made(rows_of({"a": 4})).fold_of(rows_of({"a": 4, "b": 2}))


@pytest.mark.parametrize(("fold", "tested"), [("all", [0, 1, 2]), ("none", []), ("1", [1])])
def test_fold_names(fold: str, tested: list[int]) -> None:
    assert splits.test_folds(made(rows_of({"a": 3})), fold) == tested


@pytest.mark.parametrize("fold", ["3", "-1", "every", ""])
def test_an_unknown_fold_is_refused(fold: str) -> None:
    with pytest.raises(ConfigError, match="all, none or 0 to 2"):
        splits.test_folds(made(rows_of({"a": 3})), fold)


def test_the_guard_refuses_what_was_seen_and_stamps_what_was_asked_for() -> None:
    assert splits.guard({"a", "b"}, {"c"}, "encoder", False) is None
    with pytest.raises(LeakError, match="encoder has seen 1 of the 2 test sources"):
        splits.guard({"a", "b"}, {"b", "c"}, "encoder", False)
    stamp = splits.guard({"a", "b"}, {"b", "c"}, "encoder", True)
    assert stamp == "transductive: encoder has seen 1 of 2 test sources"


# -- statistics and metrics --


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(9, 10, 0.5550, 0.9975), (0, 10, 0.0, 0.3085), (5, 5, 0.4782, 1.0)]
)
def test_exact_binomial_interval(hits: int, count: int, low: float, high: float) -> None:
    found = intervals.exact_binomial(hits, count)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert (found.value, found.units) == (hits / count, count)


def toy() -> tuple[Any, Any, Any]:
    """Six units: recall 3/4 of class a, 1/2 of class b."""
    unit = np.array(["a0", "a0", "a1", "a2", "b0", "b1"])
    return unit, np.array(["a"] * 4 + ["b"] * 2), np.array([1, 1, 1, 0, 1, 0])


def test_balanced_accuracy_is_the_mean_recall_and_its_interval_covers_it() -> None:
    found = intervals.balanced_accuracy(*toy())
    assert found.value == pytest.approx((0.75 + 0.5) / 2)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.units == 5
    assert found == intervals.balanced_accuracy(*toy())


def test_many_items_of_few_units_do_not_narrow_the_interval() -> None:
    few, many = intervals.balanced_accuracy(*toy()), intervals.balanced_accuracy(*(np.tile(part, 50) for part in toy()))
    assert (few.low, few.high, few.units) == (many.low, many.high, many.units)


def test_the_difference_of_equal_arms_is_zero_but_not_sure() -> None:
    unit, truth, hit = toy()
    found = intervals.paired_difference(unit, truth, hit, hit)
    assert found.value == 0
    assert found.high == -found.low == pytest.approx(intervals.exact_binomial(0, found.units).high)
    assert intervals.paired_difference(unit, truth, np.ones(6), hit).value == pytest.approx(0.375)


def test_no_units_have_no_score() -> None:
    found = intervals.balanced_accuracy(*(np.array([]) for _ in range(3)))
    assert math.isnan(found.value)
    assert found.units == 0


def test_effective_rank_counts_directions() -> None:
    assert metrics.effective_rank(np.concatenate([np.eye(8), -np.eye(8)]).astype(np.float32)) == pytest.approx(
        8, rel=1e-5
    )
    line = np.outer(np.arange(20), np.ones(8)).astype(np.float32)
    assert metrics.effective_rank(line) == pytest.approx(1, abs=1e-3)


def test_macro_f1_of_a_known_table() -> None:
    truth, guess = np.array(list("aaab")), np.array(list("aabb"))
    assert metrics.macro_f1(truth, guess) == pytest.approx((2 * 2 / 5 + 2 * 1 / 3) / 2)
    assert metrics.balanced_accuracy(truth, guess) == pytest.approx((2 / 3 + 1) / 2)


def test_confusion_has_the_truth_in_rows() -> None:
    assert metrics.confusion(np.array(list("aab")), np.array(["a", "b", ""]), ["a", "b"]).tolist() == [[1, 1], [0, 0]]


def test_auc_and_calibration_of_known_answers() -> None:
    truth = np.array(list("aabb"))
    sure = np.array([[1, 0], [1, 0], [0, 1], [0, 1.0]])
    assert metrics.auc(truth, sure, ["a", "b"]) == 1
    assert metrics.auc(truth, sure[::-1], ["a", "b"]) == 0
    assert math.isnan(metrics.auc(truth[:2], sure[:2], ["a", "b"]))
    assert metrics.calibration_error(np.array([True, False]), np.array([1.0, 1.0])) == pytest.approx(0.5)
    assert metrics.calibration_error(np.array([True, False]), np.array([0.5, 0.5])) == pytest.approx(0)


def test_knn_votes_by_similarity() -> None:
    train = np.array([[1, 0], [0.9, 0.1], [0, 1.0]])
    assert list(metrics.knn_predict(train, np.array(list("aab")), np.array([[2, 0], [0, 0.1]]), k=1)) == ["a", "b"]


# -- items and crops --


def test_items_need_their_columns_and_unique_names() -> None:
    table = rows_of({"a": 2}).table
    with pytest.raises(ConfigError, match="lacks the columns unit"):
        Items(table.drop(columns="unit"), "", items.no_missed())
    with pytest.raises(ConfigError, match="'a0-0' stands more than once"):
        Items(table.assign(item_id="a0-0"), "", items.no_missed())
    with pytest.raises(NoUsableInput, match="empty"):
        Items(table.iloc[:0], "", items.no_missed())


@pytest.mark.parametrize("shard_rows", [4, 5, 100])
def test_packed_crops_come_back_across_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_rows: int) -> None:
    monkeypatch.setattr(cropstore, "SHARD_ROWS", shard_rows)
    whole = np.random.default_rng(0).integers(0, 256, (11, 6, 6, 4), dtype=np.uint8)
    cropstore.pack_crops([whole[:3], whole[3:3], whole[3:9], whole[9:]], tmp_path, len(whole), whole.shape[1:])
    assert len(list(tmp_path.iterdir())) == math.ceil(11 / shard_rows)
    crops = Crops(tmp_path)
    assert (len(crops), crops.shape) == (11, (6, 6, 4))
    order = np.array([10, 0, 4, 4, 9, 3])
    assert np.array_equal(crops.take(order), whole[order])
    assert np.array_equal(pickle.loads(pickle.dumps(crops)).take(order), whole[order])  # as worker processes get it


def painted() -> tuple[Any, Any]:
    """An image whose pixels tell their place, with a cell in the middle and one in the corner."""
    y, x = np.mgrid[:60, :80]
    masks = np.zeros((60, 80), np.int32)
    masks[25:35, 30:44], masks[:6, :8] = 1, 2
    return np.stack([y, x, y * 0], axis=-1).astype(np.uint8), masks


def test_measured_cells_are_the_painted_ones() -> None:
    cells = crop.measure(painted()[1])
    assert cells[["mask_label", "y0", "x0", "y1", "x1", "area_px"]].to_numpy().tolist() == [
        [1, 25, 30, 35, 44, 140], [2, 0, 0, 6, 8, 48],
    ]  # fmt: skip
    assert cells["y"].tolist() == pytest.approx([29.5, 2.5])
    assert cells["touches_border"].tolist() == [False, True]


def test_a_crop_is_centred_on_its_cell_and_padded_with_the_median() -> None:
    pixels, masks = painted()
    crops = crop.cut(pixels, masks, crop.measure(masks).assign(scale=1.0), 32)
    assert crops.shape == (2, 32, 32, 4)
    middle, corner = crops
    assert np.array_equal(middle[..., :2], pixels[14:46, 21:53, :2])
    assert np.array_equal(np.unique(middle[..., 3]), [0, 255])
    y, x = np.nonzero(middle[..., 3])
    assert (y.min() + y.max() + 1, x.min() + x.max() + 1) == (32, 32)  # centre of the box = centre of the crop
    top, left = 13, 12  # px of the corner's window that lie beyond the image
    assert np.array_equal(corner[top:, left:, :2], pixels[:19, :20, :2])
    fill = np.median(pixels[..., :2], axis=(0, 1)).astype(np.uint8)
    assert np.array_equal(corner[:top, :, :2], np.broadcast_to(fill, (top, 32, 2)))
    assert corner[:top, :, 3].max() == 0 == corner[:, :left, 3].max()
    assert (corner[..., 3] > 0).sum() == 48


def test_a_cell_that_does_not_fit_gets_its_own_scale() -> None:
    pixels, masks = painted()
    cells = crop.measure(masks)
    scales = crop.cell_scales(cells, crop.Geometry(16, 1.0, 0.25))
    assert scales.tolist() == pytest.approx([16 / 21, 1.0])
    shrunk = crop.cut(pixels, masks, cells.assign(scale=scales), 16)[0]
    assert (shrunk[..., 3] > 0).sum() == pytest.approx(140 * (16 / 21) ** 2, rel=0.15)


def test_the_chosen_size_holds_the_cells_of_every_group() -> None:
    cells = pd.DataFrame({"y0": 0, "x0": 0, "y1": [20] * 50 + [60] * 50, "x1": 20, "group": ["a"] * 50 + ["b"] * 50})
    assert crop.choose_geometry(cells, 0.15, 160) == crop.Geometry(80, 1.0, 0.15)  # 60 * 1.3 = 78, in steps of 16
    assert crop.choose_geometry(cells, 0.15, 64) == crop.Geometry(64, 64 / 78, 0.15)


# -- annotations --


def labelled(**columns: list[float]) -> Any:
    return pd.DataFrame(columns).assign(label="x")


def test_points_are_outside_shared_or_matched() -> None:
    masks = painted()[1]
    points = labelled(x=[37, 3, 4, 70, 500, -1], y=[30, 2, 3, 50, 30, 5])
    found = annotate.match(points, masks, crop.measure(masks))
    assert found["status"].tolist() == ["matched", "shared", "shared", "outside", "outside", "outside"]
    assert found["mask_label"].tolist() == [1, 2, 2, 0, 0, 0]


def test_boxes_match_one_to_one_at_half_overlap() -> None:
    masks = painted()[1]
    boxes = labelled(x0=[31, 29, 0, 60], y0=[25, 20, 0, 40], x1=[44, 44, 4, 70], y1=[35, 35, 3, 50])
    found = annotate.match(boxes, masks, crop.measure(masks))
    assert found["mask_label"].tolist() == [1, 0, 0, 0]
    assert found["status"].tolist() == ["matched", "outside", "outside", "outside"]
    nothing = crop.measure(masks).iloc[:0]
    assert annotate.match(boxes, np.zeros_like(masks), nothing)["status"].tolist() == ["outside"] * 4


def test_iou_of_known_boxes() -> None:
    a, b = np.array([[0, 0, 2, 2.0]]), np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6.0]])
    assert annotate.iou(a, b)[0].tolist() == pytest.approx([1, 1 / 3, 0])


def test_annotations_find_their_image_by_path_or_unique_name(tmp_path: Path) -> None:
    images = pd.DataFrame({"path": ["a/1.png", "b/1.png", "b/2.png"], "image_id": ["i1", "i2", "i3"]})
    path = tmp_path / "points.csv"
    path.write_text("image,x,y,label\na/1.png,1,1,x\n1.png,1,1,x\n2.png,1,1,x\nc.png,1,1,x\n")
    found = annotate.read(path, images)["image_id"]
    assert [value if isinstance(value, str) else None for value in found] == ["i1", None, "i3", None]


@pytest.mark.parametrize(
    ("text", "words"),
    [("image,x,label\na,1,b\n", "needs the columns image,x,y,label"), ("image,x,y,label\na,1,2,b\na,?,2,b\n", "line 3"),
     ("", "cannot read annotations")],
)  # fmt: skip
def test_bad_annotations_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(ConfigError, match=words):
        annotate.read(tmp_path / "points.csv", pd.DataFrame({"path": ["a"], "image_id": ["i"]}))


# -- weight files --


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    tensorfiles.write(path, {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.int64)}, {"k": "v"})
    return path


def test_tensors_come_back(weights: Path) -> None:
    tensors, metadata = tensorfiles.read(weights)
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert tensors["b"].dtype == torch.int64
    assert metadata == {"k": "v"}


@pytest.mark.parametrize("keep", [0, 5, 8, 40, -1, -20])
def test_truncated_weights_are_refused(weights: Path, keep: int) -> None:
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"w\.safetensors"):
        tensorfiles.read(weights)


@pytest.mark.parametrize("extra", [b"\0", b"PK\x03\x04" + b"x" * 100])
def test_weights_with_bytes_behind_them_are_refused(weights: Path, extra: bytes) -> None:
    weights.write_bytes(weights.read_bytes() + extra)
    with pytest.raises(ConfigError, match=f"{len(extra)} bytes more than its header says"):
        tensorfiles.read(weights)


@pytest.mark.parametrize("header", [b'{"a": {"data_offsets": ["0", "x"]}}', b"[]", b'{"a": 1}', b"\xff\xfe", b'{"a":'])
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ConfigError, match=r"w\.safetensors"):
        tensorfiles.read(path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no weights at"):
        tensorfiles.read(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("weight", "words"),
    [(torch.ones(2, 2), "of another shape"), (torch.full((2, 3), torch.nan), "not finite in tensor 'weight'")],
)
def test_weights_that_do_not_fit_are_refused(weight: torch.Tensor, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tensorfiles.load_into(nn.Linear(3, 2), {"weight": weight, "bias": torch.zeros(2)}, "w")
    with pytest.raises(ConfigError, match="tensor 'bias' is missing"):
        tensorfiles.load_into(nn.Linear(3, 2), {"weight": torch.ones(2, 3)}, "w")


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.ckpt", "w.pkl", "w.bin"])
@pytest.mark.parametrize("spec", ["{}", "resnet18@{}"])
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, name: str, spec: str) -> None:
    marker, path = tmp_path / "executed", tmp_path / name
    torch.save({"weight": Trap(marker)}, path)
    branch: Any = SimpleNamespace(fit=lambda rows: {}, network=lambda name, state: nn.Linear(1, 1))
    with pytest.raises(UnsafeInput, match="may hold code"):
        encoders.resolve(spec.format(path), branch, np.arange(2), 0)
    assert not marker.exists()


def test_a_pickle_named_safetensors_is_refused_and_never_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "w.safetensors"
    torch.save({"weight": Trap(marker)}, path)
    with pytest.raises(ConfigError, match="no sound safetensors file"):
        tensorfiles.read(path)
    assert not marker.exists()


def test_weights_alone_need_the_name_of_their_network(weights: Path) -> None:
    with pytest.raises(ConfigError, match="NAME@"):
        encoders.resolve(str(weights), SimpleNamespace(), np.arange(2), 0)


def test_an_unknown_network_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no model 'resnet19'; did you mean 'resnet1"):
        networks.timm_network("resnet19", 3, 32)


def test_the_record_of_a_run_is_complete(tmp_path: Path) -> None:
    finish(tmp_path / "run", Example(seed=3))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    expected = {
        "schema",
        "stage",
        "status",
        "fingerprint",
        "inputs",
        "versions",
        "seed",
        "started",
        "finished",
        "git",
        "content",
    }
    assert expected <= set(record)
    assert record["seed"] == 3
    assert (
        record["versions"]["torch"] == torch.__version__.split("+")[0]
        or record["versions"]["torch"] == torch.__version__
    )


def test_a_perfect_score_on_few_units_has_an_interval() -> None:
    unit = np.array([f"u{number}" for number in range(20)])
    found = intervals.balanced_accuracy(unit, np.array(["a", "b"] * 10), np.ones(20))
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(0.8316, abs=1e-3)  # Clopper and Pearson, 20 of 20


def test_a_file_that_extends_another_lies_on_top_of_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("seed: 1\nloop: {steps: 5, lr: 1e-3}\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\nloop: {steps: 7}\n")
    assert config.read_yaml(tmp_path / "top.yaml") == {"seed": 1, "loop": {"steps": 7, "lr": 1e-3}}
