"""Runs in Python: what a person types to run a stage and to look at what it left."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import cellvision
from cellvision import embed, finetune, plan, report, segment
from cellvision.__main__ import COMMANDS
from cellvision.cells.cropstore import SHARD_ROWS, Crops
from cellvision.core import files
from cellvision.core.errors import ConfigError
from cellvision.io import labelmaps
from cellvision.runs.opened import Run

LEAVE_NO_RUN = {"report", "export", "fetch", "doctor", "completion"}
QUICK = {"encoder": "test_resnet", "branch": {"name": "image", "size": 32}, "workers": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def opened(cells: Path) -> Run:
    return cellvision.open(str(cells))


@pytest.fixture(scope="module")
def tested(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = {**QUICK, "items": str(cells), "loop": {"steps": 2, "batch": 16}, "baselines": False}
    return finetune.run(options, str(tmp_path_factory.mktemp("tested") / "run"))


# -- running ------------------------------------------------------------------------------------------------------


def test_a_stage_takes_text_and_mappings_and_returns_its_run(cells: Path, tmp_path: Path) -> None:
    typed = plan.run(plan.Config(items=cells), tmp_path / "typed")
    plain = plan.run({"items": str(cells)}, str(tmp_path / "plain"))
    assert (plain.stage, plain.status, plain.path) == ("plan", "done", tmp_path / "plain")
    assert plain.record["fingerprint"] == typed.record["fingerprint"]
    pd.testing.assert_frame_equal(plain.table, typed.table)


def test_the_config_of_a_run_repeats_it(opened: Run, cells: Path, tmp_path: Path) -> None:
    again = plan.run(plan.run({"items": cells}, tmp_path / "a").config, tmp_path / "b")
    assert again.record["fingerprint"] == cellvision.open(tmp_path / "a").record["fingerprint"]


def test_a_command_without_a_run_returns_what_it_wrote(opened: Run, tmp_path: Path) -> None:
    assert report.run({"run": str(opened.path)}, str(tmp_path)) == tmp_path / "report.html"
    assert (tmp_path / "report.html").is_file()


def test_bad_options_are_one_line_in_python_too(cells: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^unknown key 'rwa'; did you mean 'raw'\?$"):
        segment.Config(rwa="x")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="unknown key 'itmes'; did you mean 'items'"):
        plan.run({"itmes": str(cells)}, tmp_path)
    with pytest.raises(ConfigError, match=r"loop\.steps.*got 0"):
        finetune.Config(items=cells, loop={"steps": 0})
    with pytest.raises(ConfigError, match=r"plan\.run wants plan\.Config or a mapping of its options, not Config"):
        plan.run(embed.Config(items=cells), tmp_path)  # type: ignore[arg-type]


# -- looking ------------------------------------------------------------------------------------------------------


def test_crops_come_in_the_order_of_the_table(opened: Run) -> None:
    table, stored = opened.table, Crops(opened.path / "crops")
    row = len(table) - 1
    position = table["crop_shard"][row] * SHARD_ROWS + table["crop_row"][row]
    assert opened.crops.shape == (len(table), *stored.shape)
    assert np.array_equal(opened.crops[row], stored.take(np.array([position]))[0])
    assert np.array_equal(opened.crops[-1], opened.crops[row])
    assert np.array_equal(opened.crops[2:5], np.stack([opened.crops[number] for number in (2, 3, 4)]))
    chosen = table["group"] == "rbc"
    assert len(opened.crops[chosen]) == chosen.sum() > 0
    assert opened.crops[1].dtype == np.uint8


def test_a_mask_has_the_labels_of_its_cells(opened: Run) -> None:
    image, cells_of_it = next(iter(opened.table.groupby("source_id")))
    mask = opened.mask(str(image))
    assert mask.dtype == np.int32
    assert np.array_equal(mask, labelmaps.read(opened.path / "masks" / f"{image}.tif"))
    assert set(cells_of_it["mask_label"]) <= set(np.unique(mask))
    with pytest.raises(ConfigError, match=r"no mask of image 'nowhere' among 16; one is '[-\w]+'"):
        opened.mask("nowhere")


def test_measurements_become_anndata_and_places_do_not(opened: Run) -> None:
    items = opened.anndata()
    assert list(items.obs_names) == list(opened.table["item_id"])
    assert {"area_px", "solidity"} <= set(items.var_names)
    assert not {"x", "y", "crop_row", "mask_label"} & set(items.var_names)
    assert np.array_equal(items.obsm["spatial"], opened.table[["x", "y"]])
    assert np.array_equal(items[:, "area_px"].X[:, 0], opened.table["area_px"])


def test_an_embedding_is_its_features(cells: Path, tmp_path: Path) -> None:
    embedded = embed.run({**QUICK, "items": cells}, tmp_path / "embedded")
    assert embedded.anndata().shape == (embedded.metrics["items"], embedded.metrics["features"])
    assert list(embedded.table["item_id"]) == list(embedded.anndata().obs_names)


def test_metrics_and_children(opened: Run, studied: Path) -> None:
    assert opened.metrics == files.read_json(opened.path / "metrics.json")
    children = cellvision.open(studied).children
    assert children["segment"].stage == "segment"
    assert len(children["segment"].crops) == len(children["segment"].table)


def test_plots_are_figures_without_files(opened: Run, tested: Run, studied: Path) -> None:
    before = set(tested.path.rglob("*"))
    pretrained = next(run for run in cellvision.open(studied).children.values() if run.stage == "pretrain")
    for figure in (
        opened.plot_preview(), opened.plot_crops(), opened.plot_crops(3),
        pretrained.plot_curves(), tested.plot_confusion(),
    ):  # fmt: skip
        assert isinstance(figure, Figure)
        assert figure.axes
    assert set(tested.path.rglob("*")) == before


def test_a_run_says_what_it_is(opened: Run, tested: Run) -> None:
    assert repr(opened) == f"<{opened.path}: segment run, done; table, crops, masks, preview>"
    assert repr(tested) == f"<{tested.path}: finetune run, done; table, confusion>"
    assert repr(opened.crops) == f"<crops {opened.crops.shape} uint8, the mask last>"


def test_what_is_not_there_is_one_line(opened: Run, studied: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run at .*nowhere; give the --out of a stage"):
        cellvision.open(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"no run at .*; runs in it: .*segment"):
        cellvision.open(studied / "runs")
    planned = plan.run({"items": opened.path}, tmp_path / "planned")
    with pytest.raises(ConfigError, match=r"^a plan run has no crops; runs with crops: segment$"):
        _ = planned.crops
    with pytest.raises(ConfigError, match=r"a study run has no crops; .*; its children segment do"):
        _ = cellvision.open(studied).crops
    with pytest.raises(ConfigError, match="the table of a plan run has no items"):
        planned.anndata()
    with pytest.raises(ConfigError, match="a segment run has no confusion; runs with confusion: finetune"):
        opened.plot_confusion()


def test_an_unfinished_run_says_so(opened: Run, tmp_path: Path) -> None:
    record = {**opened.record, "status": "running"}
    files.write_json(tmp_path / "run.json", record)
    unfinished = cellvision.open(tmp_path)
    assert unfinished.metrics == {}
    with pytest.raises(ConfigError, match=r"has no table .*: it is running; repeat its command"):
        _ = unfinished.table


def test_opening_is_there_at_once() -> None:
    code = "import cellvision; cellvision.open; import sys; print('numpy' in sys.modules, 'pandas' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_stage_returns_its_run(name: str) -> None:
    module = importlib.import_module(f"cellvision.{name}")
    decorator = "command" if name in LEAVE_NO_RUN else "stage"
    assert module.run.__code__.co_qualname == f"{decorator}.<locals>.called"
