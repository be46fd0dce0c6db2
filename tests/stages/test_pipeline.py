"""From raw images to the report, tiny: every stage, its exit codes, its leak guard, and the same bits twice."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import TINY

from cellvision import ablate, embed, finetune, plan, predict, pretrain, report, segment, simulate, study
from cellvision.__main__ import dispatch
from cellvision.cells.cropstore import Crops
from cellvision.core import files
from cellvision.core.cli import main, read_config
from cellvision.core.config import build
from cellvision.core.errors import ConfigError, LeakError, StrategyRefused
from cellvision.core.rundir import content_of
from cellvision.evidence import baselines
from cellvision.io import tensorfiles

FOLDS = 2
IMAGES, SOURCES = 4, 16  # of a group, of all
STEPS = {"steps": 3, "batch": 16}
GROUPS = ["neuron", "phloem", "rbc", "xylem"]


def run(stage: Any, out: Path, **options: Any) -> Path:
    """A tiny run of a stage that trains or uses a network."""
    tiny = TINY | {"threads": 1, "loop": STEPS}
    known = {key: value for key, value in tiny.items() if key in stage.Config.model_fields}
    stage.run(build(stage.Config, known | options), out)
    return out


def metrics_of(out: Path) -> dict[str, Any]:
    return dict(files.read_json(out / "metrics.json"))


@pytest.fixture(scope="module")
def planned(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(plan, tmp_path_factory.mktemp("plan") / "run", items=cells, folds=FOLDS)


@pytest.fixture(scope="module")
def pretrained(cells: Path, planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder pretrained with fold 0 held out."""
    return run(pretrain, tmp_path_factory.mktemp("ssl") / "run", items=cells, splits=planned, fold="0", probes=2)


@pytest.fixture(scope="module")
def tested(cells: Path, planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear probe on all folds, beside its baselines."""
    return run(finetune, tmp_path_factory.mktemp("ft") / "run", items=cells, splits=planned)


@pytest.fixture(scope="module")
def bundle(cells: Path, planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier trained on everything."""
    out = tmp_path_factory.mktemp("bundle") / "run"
    return run(finetune, out, items=cells, splits=planned, fold="none", tune="whole") / "model"


# -- every stage --


def test_simulate_writes_images_and_their_truth(simulated: Path) -> None:
    assert sorted(path.parent.name for path in (simulated / "raw").rglob("*.png")) == sorted(GROUPS * IMAGES)
    truth = pd.read_parquet(simulated / "truth" / "cells.parquet")
    assert len(list((simulated / "truth" / "masks").rglob("*.tif"))) == SOURCES
    assert len(truth) == metrics_of(simulated)["cells"] == len(pd.read_csv(simulated / "truth" / "points.csv"))
    assert not (simulated / "truth" / "parts").exists()


def test_segment_accounts_for_every_file_and_every_crop(simulated: Path, cells: Path) -> None:
    found, table, images = (
        metrics_of(cells),
        pd.read_parquet(cells / "cells.parquet"),
        pd.read_parquet(cells / "images.parquet"),
    )
    assert found["files"] == found["images_ok"] == len(images) == SOURCES
    assert len(table) == found["cells"] == images["n_cells"].sum() == len(Crops(cells / "crops"))
    assert set(table["group"]) == set(GROUPS)
    assert table["item_id"].is_monotonic_increasing
    counted = [found[f"annotations_{status}"] for status in ("matched", "outside", "shared")]
    assert sum(counted) == found["annotations"] == metrics_of(simulated)["cells"]
    assert table["annotation"].notna().sum() == found["annotations_matched"] > 0.7 * found["annotations"]
    assert not (cells / "parts").exists()


def test_a_crop_holds_the_mask_of_its_cell(cells: Path) -> None:
    table = pd.read_parquet(cells / "cells.parquet")
    whole = np.flatnonzero((table["scale"] == 1) & ~table["touches_border"])[:20]
    crops = Crops(cells / "crops").take(whole)
    assert ((crops[..., -1] > 0).sum((1, 2)) == table["area_px"].to_numpy()[whole]).all()


def test_plan_deals_units_into_folds(planned: Path) -> None:
    found, table = files.read_json(planned / "plan.json"), pd.read_csv(planned / "splits.csv")
    assert found["folds"] == table["fold"].nunique() == FOLDS
    assert all(
        group["units"] == IMAGES and group["evaluated"] and not group["mil"] for group in found["groups"].values()
    )
    assert (table.groupby("fold")["group"].nunique() == 4).all()


def test_pretrain_leaves_the_held_out_fold_alone(pretrained: Path, planned: Path, cells: Path) -> None:
    card, found = files.read_json(pretrained / "encoder" / "encoder.json"), metrics_of(pretrained)
    table = pd.read_csv(planned / "splits.csv")
    assert set(card["units"]) == set(table[table["fold"] != 0]["unit"])
    hashes = pd.read_parquet(cells / "cells.parquet").groupby("source_id")["source_hash"].first()
    assert set(card["seen"]) == set(hashes[table[table["fold"] != 0]["source_id"]])
    assert found["steps"] == card["steps_total"] == len(pd.read_parquet(pretrained / "curves.parquet")) == 3
    assert {"knn", "rank", "identity", "loss", "chance"} <= set(found)
    assert not (pretrained / "checkpoints").exists()


def test_embed_writes_one_row_an_item(cells: Path, planned: Path, pretrained: Path, tmp_path: Path) -> None:
    import anndata

    out = run(embed, tmp_path / "run", items=cells, splits=planned, encoder=str(pretrained))
    table, data = pd.read_parquet(cells / "cells.parquet"), anndata.read_h5ad(out / "embeddings.h5ad")
    assert list(data.obs_names) == list(table["item_id"])
    assert np.isfinite(data.X).all()
    found = metrics_of(out)
    assert found["folds_probed"] == 1  # the encoder has seen the other
    assert found["linear_balanced_accuracy_units"] == SOURCES // FOLDS
    assert found["linear_level"] == "source"


def test_finetune_scores_every_source_once_where_it_was_unseen(tested: Path, planned: Path, cells: Path) -> None:
    found, sources = metrics_of(tested), pd.read_parquet(tested / "sources.parquet")
    folds = pd.read_csv(planned / "splits.csv").set_index("source_id")["fold"]
    assert len(sources) == sources["source_id"].nunique() == found["scored"] == SOURCES
    assert (folds[sources["source_id"]].to_numpy() == sources["fold"]).all()
    items = pd.read_parquet(tested / "predictions.parquet")
    assert sorted(items["item_id"]) == list(pd.read_parquet(cells / "cells.parquet")["item_id"])
    np.testing.assert_allclose(items[[f"p_{name}" for name in GROUPS]].sum(axis=1), 1, rtol=1e-5)
    assert found["chance"] == 0.25
    assert found["balanced_accuracy_units"] == SOURCES
    assert found["balanced_accuracy_low"] <= found["balanced_accuracy"] <= found["balanced_accuracy_high"]
    assert found["stamps"] == []
    assert {"baseline_colour", "baseline_background", "baseline_size", "probe_item_random", "cell_accuracy"} <= set(
        found
    )
    assert not (tested / "checkpoints").exists()


@pytest.mark.parametrize("tune", ["linear", "last", "whole"])
def test_tuning_moves_what_it_says(cells: Path, planned: Path, pretrained: Path, tmp_path: Path, tune: str) -> None:
    out = run(finetune, tmp_path / "run", items=cells, splits=planned, encoder=str(pretrained), fold="0", tune=tune)
    folders = pretrained / "encoder", out / "model"
    before, after = (tensorfiles.read(folder / "weights.safetensors")[0] for folder in folders)
    moved = {key for key in before if key.startswith("network.") and not before[key].equal(after[key])}
    last = {key for key in moved if re.match(r"network\.backbone\.(layer4|norm|head)", key)}
    assert bool(moved) == (tune != "linear")
    assert (moved == last) == (tune != "whole")
    card = files.read_json(out / "model" / "encoder.json")
    assert card["steps_total"] == metrics_of(out)["steps_total"] == 6
    assert metrics_of(out)["scored"] == SOURCES // FOLDS


def test_annotations_as_target_are_scored_cell_by_cell(cells: Path, planned: Path, tmp_path: Path) -> None:
    out = run(
        finetune, tmp_path / "run", items=cells, splits=planned, target="annotation", ignore=["debris"], baselines=False
    )
    table, found = pd.read_parquet(cells / "cells.parquet"), metrics_of(out)
    labelled = table["annotation"].notna() & (table["annotation"] != "debris")
    assert found["level"] == "item"
    assert len(pd.read_parquet(out / "predictions.parquet")) == labelled.sum()
    missed = pd.read_parquet(cells / "annotations.parquet")
    missed = missed[missed["status"].isin(["outside", "shared"]) & missed["label"].isin(GROUPS)]
    assert found["missed"] == len(missed)  # a cell that was not found counts as wrong
    assert found["scored"] == labelled.sum() + len(missed)


def test_a_class_with_one_unit_in_a_fold_is_scored(cells: Path, tmp_path: Path) -> None:
    """Four units a class in four folds: each fold tests one of each, and the folds of an ablation are pooled later."""
    out = run(finetune, tmp_path / "run", items=cells, fold="0")
    assert metrics_of(out)["scored"] == len(GROUPS)


def test_a_fraction_of_the_labels_trains_on_fewer_units(cells: Path, planned: Path, tmp_path: Path) -> None:
    out = run(finetune, tmp_path / "run", items=cells, splits=planned, fold="0", label_fraction=0.5)
    assert files.read_json(out / "model" / "bundle.json")["units"] == 4  # one of the two training units of each group


def test_mil_is_refused_for_few_bags_and_runs_where_that_is_allowed(cells: Path, planned: Path, tmp_path: Path) -> None:
    with pytest.raises(StrategyRefused, match="2 training bags, 10 are needed"):
        run(finetune, tmp_path / "refused", items=cells, splits=planned, strategy="mil")
    arguments = [
        "--items",
        str(cells),
        "--encoder",
        "test_resnet",
        "--strategy",
        "mil",
        "--workers",
        "0",
        "--out",
        str(tmp_path / "cli"),
    ]
    assert main("finetune", arguments) == 4
    allowed = {"name": "mil", "min_bags": 2}
    out = run(finetune, tmp_path / "run", items=cells, splits=planned, strategy=allowed, fold="0", tune="whole")
    assert metrics_of(out)["scored"] == SOURCES // FOLDS


def test_tables_go_through_the_same_verbs(table: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "items": table, "branch": "tabular", "encoder": "mlp-16-8", "unit": "donor", "target": "y", "tune": "whole",
        "loop": {"steps": 60, "batch": 32, "lr": 0.01},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="rows of a table are not independent"):
        run(finetune, tmp_path / "no unit", **common | {"unit": None})
    found = metrics_of(run(finetune, tmp_path / "run", **common))
    assert found["balanced_accuracy"] > 0.8
    assert found["balanced_accuracy_units"] == 12
    assert found["scored"] == 120
    rows = metrics_of(run(finetune, tmp_path / "rows", **common | {"unit": "row", "loop": STEPS, "baselines": False}))
    assert rows["stamps"] == ["rows assumed independent"]
    model = run(finetune, tmp_path / "all", **common | {"fold": "none"}) / "model"
    again = run(predict, tmp_path / "predict", model=model, items=table)
    guess = pd.read_parquet(again / "predictions.parquet")["predicted"]
    assert (guess.to_numpy() == pd.read_csv(table)["y"].to_numpy()).mean() > 0.8


# -- predict --


def test_predict_cuts_and_classifies_new_images(bundle: Path, cells: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    simulate.run(simulate.Config(seed=1, images=1, height=128, width=160, workers=0), new)
    out = run(predict, tmp_path / "run", model=bundle, raw=new / "raw")
    cut = out / "runs" / "segment"
    assert files.read_json(cut / "geometry.json") == files.read_json(cells / "geometry.json")
    items, sources = (pd.read_parquet(out / f"{name}.parquet") for name in ("predictions", "sources"))
    assert list(items["item_id"]) == list(pd.read_parquet(cut / "cells.parquet")["item_id"])
    assert len(sources) == 4
    assert set(items["predicted"]) <= set(GROUPS)
    assert "truth" not in items
    assert metrics_of(out)["sources_seen_in_training"] == 0


def test_predict_says_what_it_has_seen_before(bundle: Path, cells: Path, tmp_path: Path) -> None:
    out = run(predict, tmp_path / "run", model=bundle, items=cells)
    assert metrics_of(out)["sources_seen_in_training"] == SOURCES
    assert metrics_of(out)["items"] == len(pd.read_parquet(cells / "cells.parquet"))


def test_predict_needs_images_or_items(bundle: Path, cells: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one of the two"):
        run(predict, tmp_path / "run", model=bundle)
    with pytest.raises(ConfigError, match="no bundle in"):
        run(predict, tmp_path / "run", model=cells, items=cells)


# -- ablate, study, report --


@pytest.fixture(scope="module")
def ablation(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(
        ablate, tmp_path_factory.mktemp("ablate") / "run", items=cells, folds=2, seeds=[0, 1],
        base={"encoder": "test_resnet", "loop": STEPS}, factors={"encoder": ["test_resnet", "pretrain:tiny"]},
        arms={"bags": {"strategy": "mil"}}, pretrain={"tiny": {"encoder": "test_resnet", "loop": STEPS, "probes": 1}},
    )  # fmt: skip


def test_ablate_compares_arms_on_the_same_folds(ablation: Path) -> None:
    results, summary = pd.read_parquet(ablation / "results.parquet"), pd.read_csv(ablation / "summary.csv")
    ok = results[results["status"] == "ok"]
    assert set(ok["arm"]) == {"test_resnet", "tiny"}
    assert (ok.groupby("arm").size() == 4).all()  # two folds, two seeds
    assert set(results[results["status"] == "refused"]["arm"]) == {"bags"}
    assert summary.set_index("arm").loc["bags", "status"].startswith("refused: strategy 'mil' refused")
    steps = summary.set_index("arm")["steps_total"]
    assert (steps["test_resnet"], steps["tiny"]) == (3, 6)  # pretraining is counted
    assert {"baseline: colour", "baseline: handmade", "baseline: background", "baseline: size"} < set(summary["arm"])
    assert set(summary["units"].dropna()) == {SOURCES}
    difference = pd.read_csv(ablation / "differences.csv").set_index("arm").loc["tiny"]
    assert difference["reference"] == "test_resnet"
    assert difference["difference_low"] <= difference["difference"] <= difference["difference_high"]


def test_ablate_shares_a_pretraining_between_seeds(ablation: Path) -> None:
    names = [path.name.split("-")[0] for path in (ablation / "runs").iterdir()]
    assert names.count("pretrain") == 2  # one a fold
    assert names.count("finetune") == 2 * 2 * 2 + 4


def test_plain_models_have_as_many_labels_as_the_arms(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, fit_predict = [], baselines.fit_predict

    def noted(model: Any, train: Any, label: Any, test: Any, classes: int) -> Any:
        fitted.append(len(train))
        return fit_predict(model, train, label, test, classes)

    monkeypatch.setattr(baselines, "fit_predict", noted)
    out = run(
        ablate, tmp_path / "run", items=cells, folds=2, factors={"label_fraction": [0.3, 1.0]},
        base={"encoder": "test_resnet", "tune": "linear", "loop": STEPS},
    )  # fmt: skip
    names = {f"baseline: {name}, label fraction {share}" for name in ("colour", "handmade") for share in (0.3, 1.0)}
    assert names < set(pd.read_csv(out / "summary.csv")["arm"])
    assert max(fitted[:8]) < min(fitted[8:16])  # four plain models, two folds


def self_contained(page: Path) -> str:
    text = page.read_text("utf-8")
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:|#)[^"'>\s]+""", text)
    assert not re.findall(r"@import|url\(\s*['\"]?http", text)
    return text


def test_report_of_an_ablation_names_units_and_refusals(ablation: Path, tmp_path: Path) -> None:
    report.run(report.Config(run=ablation), tmp_path / "report.html")
    text = self_contained(tmp_path / "report.html")
    assert f"{SOURCES} units" in text
    assert "refused" in text


def test_report_of_a_classifier_names_units(tested: Path, tmp_path: Path) -> None:
    assert main("report", [str(tested), "--out", str(tmp_path / "r.html")]) == 0
    assert f"{SOURCES} units" in self_contained(tmp_path / "r.html")


def test_study_goes_from_raw_images_to_a_report(studied: Path) -> None:
    text = self_contained(studied / "report.html")
    assert "units" in text
    for name in ("segment", "plan", "ablate", "bundle"):
        assert files.read_json(studied / "runs" / name / "run.json")["status"] == "done"
    summary = pd.read_csv(studied / "runs" / "ablate" / "summary.csv").set_index("arm")["status"]
    assert summary["simclr, whole"] == "ok"
    assert summary["bags (mil), linear probe"].startswith("refused")
    assert (studied / metrics_of(studied)["bundle"] / "bundle.json").exists()


def test_a_study_cuts_as_it_is_told() -> None:
    flags = ["--raw", "raw", "--drop", "border,blurred", "--mode", "cell", "--diameter", "21", "--channels", "0,1,2"]
    _, cfg, _ = read_config("study", [*flags, "--set", "modes.neuron=object", "--out", "out"])
    cut = study.cut_with(cfg)
    assert (cut.drop, cut.mode, cut.modes) == (("border", "blurred"), "cell", {"neuron": "object"})
    assert cut.read.channels == (0, 1, 2)
    assert cut.segmenter.model_dump()["diameter"] == 21


def test_a_bundle_of_a_study_predicts(studied: Path, simulated: Path, tmp_path: Path) -> None:
    out = run(predict, tmp_path / "run", model=studied / "runs" / "bundle" / "model", raw=simulated / "raw")
    assert metrics_of(out)["sources_seen_in_training"] == SOURCES


# -- the same bits --


def test_command_line_and_python_are_one_call(cells: Path, planned: Path, tested: Path, tmp_path: Path) -> None:
    inputs = ["--items", str(cells), "--splits", str(planned), "--encoder", "test_resnet", "--size", "32"]
    options = ["--steps", "3", "--batch", "16", "--workers", "0", "--threads", "1", "--device", "cpu"]
    assert dispatch(["finetune", *inputs, *options, "--out", str(tmp_path / "a")]) == 0
    assert content_of(tmp_path / "a") == content_of(tested)
    written = str(tested / "config.yaml")  # running the written config again repeats the run
    assert main("finetune", ["--config", written, "--out", str(tmp_path / "b")]) == 0
    assert content_of(tmp_path / "b") == content_of(tested)


@pytest.mark.parametrize("workers", [1, 2])
def test_segment_gives_the_same_bits_with_any_number_of_workers(
    simulated: Path, cells: Path, tmp_path: Path, workers: int
) -> None:
    made = segment.Config(
        segmenter="threshold", raw=simulated / "raw", annotations=simulated / "truth" / "points.csv", workers=workers
    )
    segment.run(made, tmp_path / "run")
    assert content_of(tmp_path / "run") == content_of(cells)


def test_folds_give_the_same_bits_in_any_number_of_processes(
    cells: Path, planned: Path, tested: Path, tmp_path: Path
) -> None:
    out = run(finetune, tmp_path / "run", items=cells, splits=planned, workers=2)
    assert content_of(out) == content_of(tested)


def test_training_gives_the_same_bits_with_any_number_of_workers(cells: Path, planned: Path, tmp_path: Path) -> None:
    contents = {
        content_of(run(finetune, tmp_path / str(n), items=cells, splits=planned, fold="1", tune="whole", workers=n))
        for n in (0, 1, 2)
    }
    assert len(contents) == 1


def test_another_seed_gives_other_weights(cells: Path, planned: Path, tested: Path, tmp_path: Path) -> None:
    out = run(finetune, tmp_path / "run", items=cells, splits=planned, seed=1, baselines=False)
    first, other = (pd.read_parquet(path / "predictions.parquet")["p_rbc"] for path in (tested, out))
    assert not np.allclose(first, other)


def test_a_finished_run_is_reused_at_once(
    cells: Path, planned: Path, tested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tested.rglob("*") if path.is_file() and path.name != ".lock"}
    monkeypatch.setattr(finetune, "run_folds", None)
    run(finetune, tested, items=cells, splits=planned, workers=1)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(ConfigError, match="another configuration"):
        run(finetune, tested, items=cells, splits=planned, seed=2)


# -- the leak guard --


def test_an_encoder_that_saw_the_test_fold_is_refused(
    cells: Path, planned: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {
        "items": cells,
        "splits": planned,
        "encoder": str(pretrained),
        "fold": "1",
        "baselines": False,
    }
    with pytest.raises(LeakError, match="has seen 8 of the 8 test sources"):
        run(finetune, tmp_path / "refused", **options)
    arguments = [f"--{name}={options[name]}" for name in ("items", "splits", "encoder", "fold")]
    assert main("finetune", [*arguments, "--size=32", "--workers=0", f"--out={tmp_path / 'cli'}"]) == 4
    message = capsys.readouterr().err.splitlines()[-1]
    assert "pretrain it with this fold held out, or give --transductive" in message
    stamped = run(finetune, tmp_path / "run", **options, transductive=True)
    assert metrics_of(stamped)["stamps"] == [f"transductive: encoder {str(pretrained)!r} has seen 8 of 8 test sources"]


def test_a_renamed_copy_of_a_test_image_does_not_slip_through(
    simulated: Path, pretrained: Path, tmp_path: Path
) -> None:
    """The guard compares contents, so images the encoder saw are known under any name and in any folder."""
    shutil.copytree(simulated / "raw", tmp_path / "raw")
    for path in (tmp_path / "raw").rglob("*.png"):
        path.rename(path.with_name(f"new_{path.name}"))
    segment.run(segment.Config(segmenter="threshold", raw=tmp_path / "raw", workers=0), tmp_path / "cells")
    with pytest.raises(LeakError):
        run(finetune, tmp_path / "run", items=tmp_path / "cells", encoder=str(pretrained))


# -- exit codes --


@pytest.fixture
def raw(simulated: Path, tmp_path: Path) -> Path:
    """Two good images and a corrupt one."""
    for name in ("rbc/rbc_0000.png", "xylem/xylem_0000.png"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True)
        shutil.copy(simulated / "raw" / name, tmp_path / "raw" / name)
    (tmp_path / "raw" / "rbc" / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\nnot much of an image")
    return tmp_path / "raw"


def test_a_corrupt_file_is_a_row_and_under_strict_an_exit_code(raw: Path, tmp_path: Path) -> None:
    arguments = ["--raw", str(raw), "--workers", "0", "--out", str(tmp_path / "run")]
    assert main("segment", arguments) == 0
    images = pd.read_parquet(tmp_path / "run" / "images.parquet").set_index("path")
    assert images["status"].to_dict() == {
        "rbc/corrupt.png": "skipped",
        "rbc/rbc_0000.png": "ok",
        "xylem/xylem_0000.png": "ok",
    }
    assert images.loc["rbc/corrupt.png", "reason"].startswith("E_")
    assert main("segment", [*arguments, "--strict"]) == 2  # also for a run that is done


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["segment", "--raw", "EMPTY"], 3, "no images below"),
        (["segment", "--raw", "EMPTY/none"], 3, "no folder at"),
        (["segment", "--raw", "EMPTY", "--diametr", "3"], 4, "--diametr"),
        (["segment"], 4, "give --raw"),
        (["segment", "--raw", "EMPTY", "--set", "segmenter.diametre=3"], 4, "did you mean 'diameter'"),
        (["segment", "--raw", "EMPTY", "--segmenter", "treshold"], 4, "did you mean 'threshold'"),
        (["plan", "--items", "EMPTY"], 4, "no segment run"),
        (["segmnt"], 4, "did you mean 'segment'"),
    ],
)
def test_exit_codes_come_with_one_line(
    tmp_path: Path, command: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [part.replace("EMPTY", str(tmp_path / "empty")) for part in command]
    assert dispatch([*arguments, "--out", str(tmp_path / "out")]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert words in err
    assert not (tmp_path / "out").exists()
