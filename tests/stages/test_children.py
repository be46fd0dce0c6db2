"""ablate and study: what reaches a child, what makes another child, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import TINY_STUDY
from tiny_runs import metrics_of, run

from cellvision import ablate, pretrain, study
from cellvision.branches import BRANCHES
from cellvision.core import files
from cellvision.core.config import build
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.evidence import baselines
from cellvision.io import tensorfiles
from cellvision.models import encoders

STEPS = {"steps": 2, "batch": 16}


@pytest.fixture
def sites(table: Path, tmp_path: Path) -> Path:
    """The shared table with a site, two thirds of the rows at `a`."""
    values = pd.read_csv(table).fillna(0)
    path = tmp_path / "sites.csv"
    values.assign(site=np.where(np.arange(len(values)) % 3, "a", "b")).to_csv(path, index=False)
    return path


@pytest.fixture
def quick_plain_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which rows plain models see is asked here, not what they are."""
    for kind in baselines.ESTIMATORS:
        monkeypatch.setitem(baselines.ESTIMATORS, kind, baselines.logistic)


def compare(items: Path, out: Path, **options: Any) -> Path:
    settings: dict[str, Any] = {
        "items": items, "branch": "tabular", "unit": "donor", "target": "y", "folds": 2, "seeds": [0],
        "base": {"encoder": "linear", "loop": STEPS}, "arms": {"one": {}},
    }  # fmt: skip
    return run(ablate, out, **settings | options)


def write_weights(path: Path, items: Path, seed: int) -> None:
    branch = BRANCHES.build("tabular", path=items, reserved=("y", "donor"))
    module = encoders.resolve("mlp-16-8", branch, np.arange(60), seed).module
    tensorfiles.write(path, module.state_dict())


def named(path: Path) -> dict[str, dict[str, Any]]:
    """The places an ablation may name an encoder at."""
    spec = f"mlp-16-8@{path}"
    recipe = {"tiny": {"encoder": spec, "loop": STEPS, "probes": 1}}
    return {
        "arm": {"arms": {"one": {"encoder": spec}}},
        "base": {"base": {"encoder": spec, "loop": STEPS}},
        "factor": {"factors": {"encoder": [spec]}, "arms": {}},
        "recipe": {"arms": {"one": {"encoder": "pretrain:tiny"}}, "pretrain": recipe},
        "fold": {"arms": {"one": {"encoder": spec.replace("0.safetensors", "{fold}.safetensors")}}},
    }


@pytest.mark.usefixtures("quick_plain_models")
@pytest.mark.parametrize("place", named(Path()))
def test_other_weights_at_the_same_path_are_another_ablation(place: str, sites: Path, tmp_path: Path) -> None:
    for fold in (0, 1):
        write_weights(tmp_path / f"{fold}.safetensors", sites, seed=0)
    options = named(tmp_path / "0.safetensors")[place]
    out = compare(sites, tmp_path / "run", **options)
    compare(sites, out, **options)
    write_weights(tmp_path / "0.safetensors", sites, seed=1)
    with pytest.raises(ConfigError, match="was made by another configuration"):
        compare(sites, out, **options)


def test_a_child_of_other_weights_has_a_folder_of_its_own(sites: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    child = ablate.Child("one", {"encoder": f"mlp-16-8@{weights}"}, 0, 0)
    cfg = build(ablate.Config, {"items": sites, "branch": "tabular", "arms": {"one": child.options}})
    folders = []
    for seed in (0, 0, 1):
        write_weights(weights, sites, seed)
        folders.append(ablate.child_folder(tmp_path, "finetune", ablate.finetune_config(cfg, child, tmp_path), 0))
    assert folders[0] == folders[1] != folders[2]


@pytest.mark.usefixtures("quick_plain_models")
def test_plain_models_see_the_rows_and_labels_of_the_base(sites: Path, tmp_path: Path) -> None:
    base = {"encoder": "linear", "loop": STEPS, "only": "site=a"}
    out = compare(sites, tmp_path / "run", base=base)
    scored = pd.read_parquet(out / "scored.parquet")
    keys = {arm: set(rows["key"]) for arm, rows in scored.groupby("arm")}
    assert len(keys["one"]) == 80
    assert {"baseline: forest", "baseline: logistic", "baseline: boosting"} < set(keys)
    assert all(rows == keys["one"] for rows in keys.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arms": {"one": {"tunee": "whole"}}}, "did you mean 'tune'"),
        ({"arms": {"one": {"only": "site=c"}}}, "no item has site=c"),
        ({"base": {"target": "donor"}}, "'target' is one for all arms"),
        ({"pretrain": {"tiny": {"stepz": 1}}, "arms": {"one": {"encoder": "pretrain:tiny"}}}, "unknown key 'stepz'"),
    ],
)
def test_what_a_child_would_refuse_is_refused_before_any_work(
    options: dict[str, Any], words: str, sites: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        compare(sites, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_the_seed_of_an_ablation_reaches_its_pretraining(sites: Path, tmp_path: Path) -> None:
    cfg = build(ablate.Config, {"items": sites, "branch": "tabular", "seed": 5, "pretrain": {"tiny": {}}})
    assert ablate.pretrain_config(cfg, "tiny", 0, tmp_path).seed == 5


def test_shortcuts_are_those_that_the_branch_calls_so(ablation: Path, tested: Path) -> None:
    assert metrics_of(tested)["shortcuts"] == ["background", "size"]
    assert metrics_of(ablation)["shortcuts"] == ["baseline: background", "baseline: size"]


# -- study --


def test_a_study_of_annotations_without_any_is_refused_before_any_work(simulated: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--target annotation needs --annotations"):
        study.run(study.Config(raw=simulated / "raw", target="annotation", **TINY_STUDY), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_study_of_one_annotated_class_is_refused_before_training(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = pd.read_csv(simulated / "truth" / "points.csv")
    points[points["label"] == "rbc"].to_csv(tmp_path / "points.csv", index=False)
    monkeypatch.setattr(pretrain, "run", None)
    cfg = study.Config(
        raw=simulated / "raw",
        target="annotation",
        annotations=tmp_path / "points.csv",
        **TINY_STUDY,
    )
    with pytest.raises(NoUsableInput, match="two classes annotated in two units each are needed, there are 1"):
        study.run(cfg, tmp_path / "run")
    assert not (tmp_path / "run" / "runs" / "ablate").exists()


def test_seed_and_threads_of_a_study_reach_its_children(simulated: Path, tmp_path: Path) -> None:
    cfg = study.Config(raw=simulated / "raw", seed=7, **{**TINY_STUDY, "threads": 1})
    assert study.cut_with(cfg).seed == 7
    made = study.pretrain_config(cfg, tmp_path, 1, "0")
    assert (made.seed, made.threads) == (7, 1)


@pytest.mark.usefixtures("quick_plain_models")
def test_the_record_of_an_ablation_says_which_weights_it_used(sites: Path, tmp_path: Path) -> None:
    write_weights(tmp_path / "0.safetensors", sites, seed=0)
    out = compare(sites, tmp_path / "run", **named(tmp_path / "0.safetensors")["arm"])
    spec = f"mlp-16-8@{tmp_path / '0.safetensors'}"
    assert files.read_json(out / "run.json")["inputs"][f"encoder {spec}"] == encoders.content_hash(spec)
