"""Self-supervision: what every method promises, on a sample of its branch; found by the registry line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cellvision import pretrain
from cellvision.branches import BRANCHES
from cellvision.core import files
from cellvision.core.config import build
from cellvision.models import encoders
from cellvision.selfsup import METHODS
from cellvision.selfsup.simclr import SimCLR
from cellvision.training import loop

WIDTH = 256  # of made-up features, many enough that random ones are nearly orthogonal
NAMES = METHODS.names()
WITH_CHANCE = [name for name in NAMES if math.isfinite(METHODS.build(name).chance(8))]
STEPS, STOP = 6, 3  # of a training that is interrupted


def features(count: int, seed: int = 0, width: int = WIDTH) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


class Same(nn.Module):
    """An encoder that adds nothing of its own but a weight that can learn."""

    num_features = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, items: Tensor) -> Tensor:
        return items * self.weight


@pytest.mark.parametrize("name", WITH_CHANCE)
def test_method_is_at_chance_where_views_have_nothing_in_common(name: str) -> None:
    method, batch = METHODS.build(name), 64
    torch.manual_seed(0)
    learner = method.learner(Same()).train()
    loss = method.step(learner, [features(batch, view) for view in range(method.views)])
    assert loss.ndim == 0
    assert float(loss.detach()) == pytest.approx(method.chance(batch), rel=0.15)


@pytest.mark.parametrize("name", WITH_CHANCE)
def test_method_gets_below_chance_where_views_agree(name: str) -> None:
    method, batch = METHODS.build(name), 64
    torch.manual_seed(0)
    learner = method.learner(Same()).train()
    optimiser = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=0.003)
    losses = []
    for step in range(20):
        loss = method.step(learner, [features(batch, step)] * method.views)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        method.after_step(learner, step, 20)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * method.chance(batch)


# -- on the items of its branch --


class Lesson:
    """A method on the sample of its branch: learner and batches."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.method = name, METHODS.build(name)
        branch_name, encoder = self.method.tried_on
        folder.mkdir()
        self.sample = BRANCHES.load(branch_name).sample(folder)
        self.branch = BRANCHES.build({"name": branch_name, **self.sample.options}, path=self.sample.items)
        self.encoder = encoder or self.sample.encoder
        self.rows = np.arange(len(self.branch.items.table))

    def start(self) -> nn.Module:
        trained = encoders.resolve(self.encoder, self.branch, self.rows, seed=0)
        self.state = trained.state
        return pretrain.build_learner(trained, self.method, seed=0)

    def train(self, learner: nn.Module, folder: Path, stop: int | None = None) -> list[dict[str, float]]:
        """The loss of each step; with `stop` a crash there, behind a checkpoint."""
        draw = pretrain.SourceBalanced(
            self.branch, self.state, self.rows, self.method.views, 16, 0, self.method.augment
        )

        def make(step: int) -> dict[str, Tensor]:
            if step == stop:
                raise InterruptedError
            return draw(step)

        cfg = loop.LoopConfig(steps=STEPS, batch=16, lr=0.003, precision="fp32", checkpoint_s=0, ema=0.5)
        return loop.train(
            learner, lambda module, views: self.method.step(module, pretrain.in_order(views)), make, cfg,
            seed=0, folder=folder, what="test", frozen_statistics=False,
            after_step=lambda step: self.method.after_step(learner, step, STEPS),
        )  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def lesson(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    return Lesson(request.param, tmp_path_factory.mktemp(request.param) / "sample")


def test_every_module_resumes_with_the_same_bits(lesson: Lesson, tmp_path: Path) -> None:
    whole = lesson.start()
    history = lesson.train(whole, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        lesson.train(lesson.start(), tmp_path / "cut", stop=STOP)
    resumed = lesson.start()
    assert lesson.train(resumed, tmp_path / "cut") == history
    state = resumed.state_dict()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_every_module_that_learns_or_follows_moves(lesson: Lesson, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in lesson.start().state_dict().items()}
    learner = lesson.start()
    lesson.train(learner, tmp_path / "run")
    modules = {name for name, _ in learner.named_children()}
    moved = {key.split(".")[0] for key, value in learner.state_dict().items() if not torch.equal(before[key], value)}
    assert moved == modules


def test_encoder_is_the_learners_own_and_takes_a_batch(lesson: Lesson) -> None:
    encoder: Any = lesson.start().encoder
    embedded = encoders.embed(encoder, lesson.branch, lesson.state, lesson.rows[:8])
    assert embedded.shape == (8, encoder.num_features)


def test_validate_is_a_table_of_numbers(lesson: Lesson) -> None:
    encoder: Any = lesson.start().encoder
    measured = lesson.method.validate(encoder, lesson.branch, lesson.state, lesson.rows[:60], lesson.rows[60:])
    assert all(math.isfinite(value) for value in measured.values())


def test_pretraining_teaches_and_does_not_collapse(lesson: Lesson, tmp_path: Path) -> None:
    loop_options = {"steps": 20, "batch": 48, "lr": 0.003, "precision": "fp32"}
    options = {"items": lesson.sample.items, "branch": lesson.branch.cfg, "unit": lesson.sample.unit}
    quiet = {"workers": 0, "threads": 1, "device": "cpu", "probes": 2}
    pretrain.run(
        build(
            pretrain.Config,
            {
                **options,
                **quiet,
                "method": METHODS.config(lesson.name),
                "encoder": lesson.encoder,
                "loop": loop_options,
            },
        ),
        tmp_path / "run",
    )
    found = files.read_json(tmp_path / "run" / "metrics.json")
    curves = files.read_parquet(tmp_path / "run" / "curves.parquet")
    assert found["rank"] > 1.5
    assert curves["loss"].tail(5).mean() < curves["loss"].head(5).mean()
    if "knn" in found:  # the sample has groups
        assert found["knn"] > found["knn_random"] + 0.1


def test_a_method_without_a_closed_form_of_chance_has_none_in_its_metrics(tmp_path: Path) -> None:
    history = [{"step": step, "loss": 1.0 - step / 10, "rank": 2.0} for step in range(4)]
    measured = pretrain.write_curves(history, math.nan, tmp_path)
    assert "chance" not in measured
    assert measured["loss"] == pytest.approx(0.85)
    assert (tmp_path / "curves.png").exists()


# -- SimCLR --


def slow_nt_xent(first: Tensor, second: Tensor, temperature: float) -> float:
    """Equation 1 of the SimCLR paper, item by item."""
    views = [vector / vector.norm() for vector in torch.cat([first, second])]
    count, total = len(first), 0.0
    for anchor in range(2 * count):
        partner = (anchor + count) % (2 * count)
        similar = [float(views[anchor] @ other) / temperature for other in views]
        others = sum(math.exp(value) for number, value in enumerate(similar) if number != anchor)
        total -= math.log(math.exp(similar[partner]) / others)
    return total / (2 * count)


def test_simclr_equals_the_slow_nt_xent() -> None:
    first, second = features(6, 0, 12), features(6, 1, 12)
    learner = nn.ModuleDict({"encoder": nn.Identity(), "head": nn.Identity()})
    loss = SimCLR(SimCLR.Config(temperature=0.3)).step(learner, [first, second])
    assert float(loss) == pytest.approx(slow_nt_xent(first, second, 0.3), rel=1e-5)
