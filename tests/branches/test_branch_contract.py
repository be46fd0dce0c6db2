"""Branches: what each promises, on the sample that it brings; a new one is found by its registry line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from cellvision.branches import BRANCHES, Augment, Branch, Sample
from cellvision.branches.items import COLUMNS
from cellvision.evidence import seen
from cellvision.models import encoders

SAMPLES: dict[str, Sample] = {}  # those written already


def opened(name: str, folder: Path, other_half: bool = False) -> Branch:
    """The branch on its own sample."""
    sample = SAMPLES[name] = BRANCHES.load(name).sample(folder, other_half)
    return BRANCHES.build(
        {"name": name, **sample.options}, path=sample.items, reserved=(sample.target, sample.unit or "")
    )


def encoder_of(branch: Branch) -> str:
    return SAMPLES[branch.cfg.name].encoder


@pytest.fixture(scope="module")
def branch(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Branch:
    return opened(request.param, tmp_path_factory.mktemp(request.param))


every_branch = pytest.mark.parametrize("branch", BRANCHES.names(), indirect=True)


def some_rows(branch: Branch, count: int = 12) -> Any:
    return np.arange(0, len(branch.items.table), len(branch.items.table) // count)[:count]


@every_branch
def test_items_have_the_columns_every_stage_reads(branch: Branch) -> None:
    table = branch.items.table
    assert {*COLUMNS} <= {*table.columns}
    assert table["item_id"].is_unique
    assert not table[["item_id", "source_id", "source_hash", "group"]].isna().any().any()


@every_branch
def test_network_turns_a_batch_into_features(branch: Branch) -> None:
    rows = some_rows(branch)
    state = branch.fit(rows)
    network = branch.network(encoder_of(branch), state).eval()
    features = network(torch.from_numpy(branch.batch(rows, state)))
    assert features.shape == (len(rows), network.num_features)


@every_branch
def test_fit_looks_at_training_rows_only(branch: Branch, tmp_path: Path) -> None:
    changed = opened(branch.cfg.name, tmp_path, other_half=True)
    hashes, others = (one.items.table["source_hash"].to_numpy(str) for one in (branch, changed))
    rows = np.flatnonzero(hashes == others)
    assert 0.3 < len(rows) / len(hashes) < 0.7
    before, after = branch.fit(rows), changed.fit(rows)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)
    rest = np.flatnonzero(hashes != others)
    wrong = changed.fit(rest)
    assert any(not np.array_equal(value, wrong[key]) for key, value in branch.fit(rest).items())


@every_branch
def test_batch_without_augmentation_is_the_data(branch: Branch) -> None:
    rows = some_rows(branch)
    state = branch.fit(rows)
    together = branch.batch(rows, state)
    assert np.array_equal(together, np.concatenate([branch.batch(rows[n : n + 1], state) for n in range(len(rows))]))


@every_branch
@pytest.mark.parametrize("strength", ["weak", "strong"])
def test_augmentation_is_a_function_of_its_key(branch: Branch, strength: Literal["weak", "strong"]) -> None:
    rows = some_rows(branch)
    state = branch.fit(rows)
    first = branch.batch(rows, state, Augment(strength, (0, 1, "a")))
    np.random.seed(7)
    assert np.array_equal(first, branch.batch(rows, state, Augment(strength, (0, 1, "a"))))
    other = branch.batch(rows, state, Augment(strength, (0, 1, "b")))
    assert first.shape == other.shape
    assert all(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert not np.array_equal(first, branch.batch(rows, state))


@every_branch
@pytest.mark.parametrize("strength", ["weak", "strong"])
def test_augmentation_does_not_depend_on_batch_mates(branch: Branch, strength: Literal["weak", "strong"]) -> None:
    rows = some_rows(branch)
    state, augment = branch.fit(rows), Augment(strength, (0, 1))
    mates = rows.copy()
    mates[1:] = rows[1:][::-1]
    assert np.array_equal(branch.batch(rows, state, augment)[0], branch.batch(mates, state, augment)[0])


@every_branch
def test_augmentation_does_not_depend_on_the_length_of_the_batch(branch: Branch) -> None:
    rows = some_rows(branch)
    state, augment = branch.fit(rows), Augment("strong", (0, 1))
    assert np.array_equal(branch.batch(rows, state, augment)[:3], branch.batch(rows[:3], state, augment))


@every_branch
def test_an_item_drawn_twice_is_varied_twice(branch: Branch) -> None:
    rows = some_rows(branch)
    twice = branch.batch(rows[[0, 0]], branch.fit(rows), Augment("strong", (0, 1)))
    assert not np.array_equal(twice[0], twice[1])


@every_branch
def test_features_do_not_depend_on_batch_mates(branch: Branch) -> None:
    rows = some_rows(branch)
    state = branch.fit(rows)
    network = branch.network(encoder_of(branch), state).train()
    together = encoders.embed(network, branch, state, rows)
    alone = np.concatenate([encoders.embed(network, branch, state, rows[n : n + 1]) for n in range(len(rows))])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert not network.training


@every_branch
def test_trained_encoder_comes_back_from_disk(branch: Branch, tmp_path: Path) -> None:
    rows = some_rows(branch)
    made = encoders.resolve(encoder_of(branch), branch, rows, seed=3)
    facts = {
        "network": made.name,
        "branch": branch.cfg.name,
        "schema": branch.schema(),
        "origin": "",
    }
    unit = branch.items.table["source_id"].to_numpy(str)
    encoders.save(tmp_path, made.module, made.state, facts, seen.of(branch.items, unit, rows))
    back = encoders.resolve(str(tmp_path), branch, rows[:2], seed=4)
    trained_on = set(branch.items.table["source_id"].iloc[rows])
    assert seen.overlap(back.seen, branch.items, unit, np.arange(len(unit))).count == len(trained_on)
    before, after = (encoders.embed(one.module, branch, one.state, rows) for one in (made, back))
    assert np.array_equal(before, after)


@every_branch
def test_baselines_are_finite_rows_of_features(branch: Branch) -> None:
    rows = some_rows(branch)
    for name, baseline in branch.baselines().items():
        features = baseline.features(rows)
        assert features.shape[0] == len(rows), name
        assert features.ndim == 2
        assert np.isfinite(features).mean() > 0.7  # some items lack a part of fusion
