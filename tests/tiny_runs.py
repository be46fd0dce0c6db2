"""Runs of the stages in tiny, and those that several test files read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from sharing import shared, understood

from cellvision import ablate, finetune, plan, pretrain
from cellvision.core import files
from cellvision.core.config import build

FOLDS = 2
IMAGES, SOURCES = 4, 16  # of a group, of all
STEPS = {"steps": 3, "batch": 16}
GROUPS = ["neuron", "phloem", "rbc", "xylem"]


def run(stage: Any, out: Path, **options: Any) -> Path:
    """A tiny run of a stage that trains or uses a network."""
    tiny = TINY | {"threads": 1, "loop": STEPS}
    known = {key: value for key, value in tiny.items() if key in understood(stage.Config)}
    stage.run(build(stage.Config, known | options), out)
    return out


def metrics_of(out: Path) -> dict[str, Any]:
    return dict(files.read_json(out / "metrics.json"))


@pytest.fixture(scope="session")
def planned(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared(tmp_path_factory, "planned", partial(run, plan, items=cells, folds=FOLDS))


@pytest.fixture(scope="session")
def pretrained(cells: Path, planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder pretrained with fold 0 held out."""
    make = partial(run, pretrain, items=cells, splits=planned, fold="0", probes=2)
    return shared(tmp_path_factory, "pretrained", make)


@pytest.fixture(scope="session")
def tested(cells: Path, planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear probe on all folds, beside its baselines."""
    return shared(tmp_path_factory, "tested", partial(run, finetune, items=cells, splits=planned))


@pytest.fixture(scope="session")
def bundle(cells: Path, planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier trained on everything."""
    make = partial(run, finetune, items=cells, splits=planned, fold="none", tune="whole")
    return shared(tmp_path_factory, "bundle", make) / "model"


@pytest.fixture(scope="session")
def ablation(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make = partial(
        run, ablate, items=cells, folds=2, seeds=[0, 1],
        base={"encoder": "test_resnet", "loop": STEPS}, factors={"encoder": ["test_resnet", "pretrain:tiny"]},
        arms={"bags": {"strategy": "mil"}}, pretrain={"tiny": {"encoder": "test_resnet", "loop": STEPS, "probes": 1}},
    )  # fmt: skip
    return shared(tmp_path_factory, "ablation", make)
