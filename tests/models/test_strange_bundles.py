"""Encoders and bundles of strangers: they name networks, not hubs and paths, and are measured before they are built."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from cellvision import predict
from cellvision.branches import BRANCHES
from cellvision.branches.image import networks
from cellvision.core import files
from cellvision.core.errors import CellvisionError, ConfigError, UnsafeInput
from cellvision.evidence.seen import Seen
from cellvision.executors import local
from cellvision.models import classifier, encoders

FACTS: dict[str, Any] = {
    "network": "mlp-8", "branch": "tabular", "schema": {"geometry": {"size": 32, "scale": 1.0, "context": 0.1}},
    "origin": "random weights", "licence": "none",
}  # fmt: skip
BUNDLE: dict[str, Any] = {
    "classes": ["a", "b"], "target": "group", "level": "source", "strategy": {"name": "inherit"},
    "branch": {"name": "image"}, "segment": {"segmenter": {"name": "threshold"}}, "segmenter": "t",
}  # fmt: skip


def saved(folder: Path, bundle: dict[str, Any] | None = None, **facts: Any) -> Path:
    encoders.save(folder, nn.Linear(4, 8), {}, FACTS | facts, Seen())
    files.write_json(folder / "bundle.json", BUNDLE | (bundle or {}))
    return folder


def branch_of(build: Any) -> Any:
    return SimpleNamespace(cfg=SimpleNamespace(name="tabular"), align=lambda schema: [], network=build)


@pytest.mark.parametrize(
    "name",
    ["resnet18@imagenet", "resnet18@/etc/passwd", "hf-hub:a/b", "local-dir:/tmp", "../x", "/x", "", "a\n", "mlp\x1b"],
)
def test_a_network_is_a_name_and_no_place(name: str, tmp_path: Path) -> None:
    def build(name: str, state: Any) -> nn.Module:
        raise AssertionError("asked for")

    with pytest.raises(UnsafeInput, match="no name"):
        encoders.load(saved(tmp_path, network=name), branch_of(build))


@pytest.mark.parametrize("name", ["hf-hub:a", "hf_hub:a", "timm:a", "local-dir:a"])
def test_no_hub_is_behind_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match="timm has no model"):
        networks.timm_network(name, 3, 32)


def test_a_network_that_does_not_fit_takes_no_memory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not fit the network"):
        encoders.load(saved(tmp_path), branch_of(lambda name, state: nn.Linear(10**6, 10**7)))


@pytest.mark.parametrize("name", ["mlp-100000000", "mlp-8-99999999999999999999", "mlp-0", "mlp-", "mlp-x"])
def test_a_width_that_nobody_could_build_is_no_width(name: str) -> None:
    from cellvision.branches.tabular import networks as feature_networks

    with pytest.raises(ConfigError, match=name):
        feature_networks.build(name, 4, 0, (), 0.0)


@pytest.mark.parametrize(
    "facts",
    [
        {"schema": []},
        {"network": 3},
        {"branch": None},
        {"branch": "image"},
        {"origin": {}},
        {"schema_version": 1},
    ],
)
def test_facts_that_no_run_wrote_are_one_line(facts: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        encoders.load(saved(tmp_path, **facts), branch_of(lambda name, state: nn.Linear(4, 8)))


def test_a_schema_that_lacks_what_a_branch_needs_is_one_line(table: Path, tmp_path: Path) -> None:
    branch = BRANCHES.build("tabular", path=table)
    with pytest.raises(ConfigError, match="no encoder of this branch"):
        encoders.load(saved(tmp_path, schema={}), branch)


def test_what_is_said_of_an_encoder_is_part_of_its_content(tmp_path: Path) -> None:
    before = encoders.content_hash(str(saved(tmp_path)))
    files.write_json(tmp_path / "encoder.json", {"schema_version": 2, **FACTS, "origin": "another"})
    assert encoders.content_hash(str(tmp_path)) != before


@pytest.mark.parametrize(
    "bundle",
    [{"classes": 3}, {"classes": []}, {"classes": [1]}, {"classes": ["x" * 5000]}, {"classes": ["a"] * 20_000},
     {"strategy": "mil"}, {"branch": []}, {"segment": "all"}, {"target": None}],
)  # fmt: skip
def test_a_bundle_that_no_run_wrote_is_one_line(bundle: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bundle\.json is damaged"):
        classifier.read_bundle(saved(tmp_path, bundle))


def test_a_bundle_with_links_is_unsafe(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "more").symlink_to("/etc")
    with pytest.raises(UnsafeInput, match="link"):
        classifier.read_bundle(tmp_path)


CUTS: list[tuple[dict[str, Any], type[CellvisionError], str]] = [
    ({"raw": "/etc"}, UnsafeInput, "raw"),
    ({"annotations": "/etc/passwd"}, UnsafeInput, "annotations"),
    ({"crops": "/etc", "metadata": "/etc/passwd"}, UnsafeInput, "crops, metadata"),
    ({"out": "/etc"}, UnsafeInput, "out"),
    ({"segmenter": {"name": "nano", "weights": "/etc/passwd"}}, ConfigError, "give them with --weights"),
    ({"segmenter": {"name": "nano", "weights": ["x"]}}, ConfigError, "give them with --weights"),
    ({"segmenter": {"name": "evil.module:Class"}}, ConfigError, "evil"),
    ({"segmenter": {"name": "threshold", "raw": "x"}}, ConfigError, "raw"),
    ({"mode": "all"}, ConfigError, "mode"),
    ({"read": {"frames": 3}}, ConfigError, "frames"),
]


@pytest.mark.parametrize(("given", "error", "words"), CUTS)
def test_a_bundle_sets_what_cuts_cells_and_nothing_else(
    given: dict[str, Any], error: type[CellvisionError], words: str, tmp_path: Path
) -> None:
    model = saved(tmp_path, {"segment": BUNDLE["segment"] | given})
    with pytest.raises(error, match=words):
        predict.cut_like_training(predict.Config(model=model, raw=tmp_path), classifier.read_bundle(model))


def test_limits_and_links_are_for_who_predicts(tmp_path: Path) -> None:
    read = {"follow_symlinks": True, "max_megapixels": 9999, "channels": [0]}
    segment = {"segmenter": {"name": "nano", "weights": "/theirs"}, "read": read}
    model = saved(tmp_path, {"segment": segment})
    cfg = predict.Config(model=model, raw=tmp_path, weights=tmp_path / "mine", max_megapixels=20)
    how = predict.cut_like_training(cfg, classifier.read_bundle(model))
    assert (how.read.follow_symlinks, how.read.max_megapixels, how.read.channels) == (False, 20, (0,))
    assert how.segmenter.model_dump()["weights"] == str(tmp_path / "mine")


@pytest.mark.parametrize("size", [10**8, -1, "x", float("nan"), None])
def test_a_size_of_crops_is_checked(size: Any, tmp_path: Path) -> None:
    model = saved(tmp_path, schema={"geometry": {"size": size, "scale": 1.0, "context": 0.1}})
    with pytest.raises(ConfigError):
        predict.cut_like_training(predict.Config(model=model, raw=tmp_path), classifier.read_bundle(model))


def test_a_head_is_measured_before_it_is_built(tmp_path: Path) -> None:
    from cellvision.strategies import STRATEGIES

    saved(tmp_path)
    with pytest.raises(ConfigError, match="does not fit"):
        classifier.load_head(tmp_path, STRATEGIES.build("inherit"), 10**6, 10**7)


def test_rows_of_tables_joined_to_cells_are_named_by_who_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}
    monkeypatch.setattr(predict.BRANCHES, "build", lambda options, **_: asked.update(options))
    bundle = BUNDLE | {"branch": {"name": "rna", "metadata": ["/etc/passwd"]}}
    predict.open_branch(predict.Config(model=Path("m"), items=Path("i"), metadata=(Path("mine"),)), bundle, Path("i"))
    assert asked["metadata"] == (Path("mine"),)
    predict.open_branch(predict.Config(model=Path("m"), items=Path("i")), bundle, Path("i"))
    assert asked["metadata"] == ()


def test_a_network_larger_than_the_memory_is_refused_before_it_is_built(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch = BRANCHES.build("tabular", path=table)
    rows = np.arange(len(branch.items.table))
    monkeypatch.setattr(local, "free_memory", lambda: 1e9)
    with pytest.raises(ConfigError, match=r"takes about 1\d\.\d GB of memory, and 1\.0 GB are free"):
        encoders.resolve("mlp-16384-16384-16384-16384", branch, rows, 0)
    assert encoders.resolve("mlp-16-8", branch, rows, 0).width == 8
