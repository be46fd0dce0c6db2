"""The example on each family's page is a plugin that keeps the contract beside it."""

from __future__ import annotations

import importlib
import textwrap
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellvision.branches.items import no_missed
from cellvision.branches.names import parse
from cellvision.branches.perceptron import hidden_layers
from cellvision.core import files, rundir
from cellvision.core.config import PluginConfig, option
from cellvision.core.errors import ConfigError
from cellvision.core.rng import generator
from cellvision.simulators import canvas
from cellvision.strategies.inherit import mean_by

NAMES = {
    "np": np, "pd": pd, "nn": nn, "Tensor": Tensor, "Any": Any, "Literal": Literal, "Path": Path, "option": option,
    "PluginConfig": PluginConfig, "ConfigError": ConfigError, "files": files, "rundir": rundir, "parse": parse,
    "hidden_layers": hidden_layers, "generator": generator, "mean_by": mean_by, **vars(canvas),
    "NDArray": NDArray, "no_missed": no_missed,
}  # fmt: skip


def example_of(family: str, name: str) -> Any:
    """The class in the docstring of the family's page, which has a registry line, too."""
    page = importlib.import_module(f"cellvision.{family}")
    text = (page.__doc__ or "").splitlines()[1:]
    code = textwrap.dedent("\n".join(line for line in text if not line.strip() or line.startswith("    ")))
    names = NAMES | vars(page)
    exec(compile(code, f"{family} page", "exec", dont_inherit=True), names)
    assert f".{family}." in (page.__doc__ or "").partition(f'`"{name}": "cellvision')[2]
    return names[name.capitalize()]


def test_the_strategy_on_the_page() -> None:
    made = example_of("strategies", "focal")
    strategy, features = made(made.Config()), torch.randn(6, 4)
    head, bag, label = strategy.head(4, 2), torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 1, 0, 0])
    assert strategy.loss(head, features, bag, label) < nn.functional.cross_entropy(head(features), label)
    assert strategy.predict(head, features, bag)[1].shape == (3, 2)


def test_the_segmenter_on_the_page() -> None:
    made = example_of("segmenters", "otsu")
    pixels = np.zeros((20, 30, 1), np.uint8)
    pixels[2:6, 20:25] = pixels[10:15, 3:9] = 200
    masks = made(made.Config(), device="cpu").segment(pixels).masks
    assert (masks[3, 22], masks[12, 5], masks.max()) == (1, 2, 2)
    assert made(made.Config()).segment(0 * pixels).masks.max() == 0


def test_the_method_on_the_page() -> None:
    made = example_of("selfsup", "nearest")
    method = made(made.Config())
    encoder: Any = nn.Linear(4, 3)
    encoder.num_features = 3
    learner, view = method.learner(encoder), torch.randn(5, 4)
    assert float(method.step(learner, [view, view])) == 0
    assert float(method.step(learner, [view, -view])) > 0
    method.after_step(learner, 0, 1)
    assert np.isnan(method.chance(5))


def test_the_painter_on_the_page() -> None:
    made = example_of("simulators", "squares")
    painting = made(made.Config()).paint(np.random.default_rng(0), 120, 160, 0.0, ("squares",))
    assert painting.pixels.shape == (120, 160, 3)
    assert {cell["kind"] for cell in painting.cells} == {"squares"}


def test_the_branch_on_the_page(tmp_path: Path) -> None:
    made = example_of("branches", "vectors")
    sample = made.sample(tmp_path)
    branch = made(made.Config(), sample.items)
    rows = np.arange(40)
    state = branch.fit(rows)
    network = branch.network(sample.encoder, state).eval()
    assert network(torch.from_numpy(branch.batch(rows, state))).shape == (40, network.num_features)
    with pytest.raises(ConfigError, match="not 'mlp-x'"):
        branch.network("mlp-x", state)
