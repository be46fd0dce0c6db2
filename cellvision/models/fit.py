"""Fitting a classifier to labelled training rows: the head on frozen features, or the encoder with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import Augment, Branch
from cellvision.core import files
from cellvision.core.config import fingerprint
from cellvision.core.rng import generator
from cellvision.strategies import Labelled, Strategy
from cellvision.training.schedule import LoopConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cellvision.models.classifier import Classifier, Head
    from cellvision.models.encoders import Trained


@dataclass(frozen=True)
class Recipe:
    """What is fitted to what, and how: the training rows of a branch with their bags and labels."""

    branch: Branch
    strategy: Strategy
    rows: NDArray[np.int64]  # (n,) positions in the items table
    labelled: Labelled  # of those rows
    classes: int
    loop: LoopConfig
    seed: int
    device: torch.device
    workers: int  # processes that prepare batches
    checkpoints: Path
    cache: Path | None = None  # folder of features shared between runs
    shown: str = "finetune"  # what progress calls it


def new_head(recipe: Recipe, trained: Trained) -> Head:
    """An untrained head of the strategy for the encoder's features."""
    import torch

    from cellvision.models.classifier import Head

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        head = Head(recipe.strategy.head(trained.width, recipe.classes), trained.width)
    return head.to(recipe.device)


def frozen_features(
    branch: Branch, trained: Trained, rows: NDArray[np.int64], cache: Path | None
) -> NDArray[np.float32]:
    """(n,) rows -> (n, num_features), taken from the folder `cache` where another run has computed them.

    Features depend on the items, how the branch shows them (options, and the schema it was aligned to), the weights,
    what was fitted on training rows, and the kind of device.
    """
    from cellvision.models import encoders
    from cellvision.training.device import device_of

    if cache is None:
        return encoders.embed(trained.module, branch, trained.state, rows)
    view = [branch.cfg.model_dump(mode="json"), branch.schema()]
    key = [branch.items.content, view, trained.checksum(), device_of(trained.module).type]
    path = cache / f"{fingerprint(key)}.npy"
    if not path.exists():
        features = encoders.embed(trained.module, branch, trained.state, np.arange(len(branch.items.table)))
        with files.atomic(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, features, allow_pickle=False)
    return np.load(path, allow_pickle=False)[rows]


def fit_linear(recipe: Recipe, trained: Trained) -> Classifier:
    """The head alone, on features computed once."""
    import torch

    from cellvision.models.classifier import Classifier
    from cellvision.training import loop

    head = new_head(recipe, trained)
    features = frozen_features(recipe.branch, trained, recipe.rows, recipe.cache)
    head.standardise(features)
    labelled, strategy = recipe.labelled, recipe.strategy
    arrays: dict[str, NDArray] = {"features": features, "bag": labelled.bag, "label": labelled.label}

    def make(step: int) -> loop.Batch:
        chosen = strategy.draw(generator(recipe.seed, "batch", step), labelled, recipe.loop.batch)
        return {name: torch.from_numpy(array[chosen]) for name, array in arrays.items()}

    def loss(module: Any, batch: loop.Batch) -> Tensor:
        return strategy.loss(module.inner, module(batch["features"]), batch["bag"], batch["label"])

    loop.train(
        head,
        loss,
        make,
        recipe.loop,
        seed=recipe.seed,
        folder=recipe.checkpoints,
        what="finetune",
        shown=recipe.shown,
    )
    return Classifier(trained.module, head)


class AugmentedBatches:
    """The batch of a step: items drawn by the strategy, varied, with their bags and labels."""

    def __init__(self, recipe: Recipe, trained: Trained) -> None:
        self.recipe, self.state = recipe, trained.state

    def __call__(self, step: int) -> dict[str, Tensor]:
        import torch

        recipe, labelled = self.recipe, self.recipe.labelled
        chosen = recipe.strategy.draw(generator(recipe.seed, "batch", step), labelled, recipe.loop.batch)
        items = recipe.branch.batch(recipe.rows[chosen], self.state, Augment("weak", (recipe.seed, step)))
        arrays = {"items": items, "bag": labelled.bag[chosen], "label": labelled.label[chosen]}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def fit_deep(recipe: Recipe, trained: Trained, *, last_block: bool) -> Classifier:
    """Encoder and head together; with `last_block`, only the last block of the encoder moves."""
    from cellvision.models import encoders
    from cellvision.models.classifier import Classifier
    from cellvision.training import loop

    model = Classifier(trained.module, new_head(recipe, trained))
    if last_block:
        last = encoders.last_layer(trained.module)
        for name, parameter in trained.module.named_parameters():
            parameter.requires_grad_(name in last)

    def loss(module: Any, batch: loop.Batch) -> Tensor:
        features = module.head(module.encoder(batch["items"]))
        return recipe.strategy.loss(module.head.inner, features, batch["bag"], batch["label"])

    loop.train(
        model,
        loss,
        AugmentedBatches(recipe, trained),
        recipe.loop,
        seed=recipe.seed,
        folder=recipe.checkpoints,
        what="finetune",
        shown=recipe.shown,
        workers=recipe.workers,
    )
    return model
