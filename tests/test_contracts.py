"""Contracts: what every plugin of every registry promises; a new plugin is found here by its registry line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import fused
from pydantic import ValidationError
from torch import Tensor, nn

from cellvision.branches import BRANCHES, Augment
from cellvision.branches.items import COLUMNS
from cellvision.core.config import StageModel
from cellvision.core.errors import ConfigError
from cellvision.core.registry import Registry
from cellvision.core.rng import generator
from cellvision.models import encoders
from cellvision.segmenters import SEGMENTERS
from cellvision.selfsup import METHODS
from cellvision.simulators import PAINTERS
from cellvision.strategies import STRATEGIES, Labelled
from cellvision.strategies.mil import softmax_by

REGISTRIES = (PAINTERS, SEGMENTERS, METHODS, STRATEGIES, BRANCHES)
PLUGINS = [pytest.param(registry, name, id=name) for registry in REGISTRIES for name in registry.names()]
METHOD_NAMES = [name for name in METHODS.names() if METHODS.load(name).views > 1]  # those that compare views
STRATEGY_NAMES, BRANCH_NAMES = STRATEGIES.names(), BRANCHES.names()
WIDTH = 12  # features of made-up items
NETWORKS = {  # a small encoder of each branch
    "image": "test_resnet",
    "tabular": "mlp-16-8",
    "trace": "cnn-8-8",
    "rna": "mlp-16-8",
    "fusion": "late:image=test_resnet+table=mlp-16-8",
}


# -- every plugin --


@pytest.mark.parametrize(("registry", "name"), PLUGINS)
def test_plugin_loads_under_its_own_name(registry: Registry, name: str) -> None:
    assert registry.load(name).Config().model_dump()["name"] == name
    assert registry.config(name) == registry.config({"name": name})


@pytest.mark.parametrize(("registry", "name"), PLUGINS)
def test_plugin_config_is_frozen(registry: Registry, name: str) -> None:
    assert isinstance(registry.config(name), StageModel)
    config: Any = registry.load(name).Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.name = "other"


@pytest.mark.parametrize(("registry", "name"), PLUGINS)
def test_unknown_key_names_the_nearest_one(registry: Registry, name: str) -> None:
    known = [key for key in registry.load(name).Config.model_fields if key != "name"]
    wrong = f"{known[0]}s" if known else "nam"
    with pytest.raises(ConfigError, match=f"did you mean '{known[0] if known else 'name'}'"):
        registry.build({"name": name, wrong: 1})


@pytest.mark.parametrize(("registry", "name"), PLUGINS)
def test_unknown_name_names_the_nearest_one(registry: Registry, name: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{name}'"):
        registry.load(f"{name}x")


# -- self-supervision --


def random_features(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_method_is_at_chance_on_random_features(name: str) -> None:
    method, batch = METHODS.build(name), 64
    torch.manual_seed(0)
    wide = torch.randn(method.views * batch, 512, generator=torch.Generator().manual_seed(1))  # nearly orthogonal
    loss = method.loss(wide, method.head(512).eval()).detach()
    assert loss.ndim == 0
    assert float(loss) == pytest.approx(method.chance(batch), rel=0.15)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_method_is_better_than_chance_where_views_agree(name: str) -> None:
    method, batch = METHODS.build(name), 32
    torch.manual_seed(0)
    wide = torch.randn(batch, 512, generator=torch.Generator().manual_seed(1))
    loss = method.loss(wide.repeat(method.views, 1), method.head(512).eval()).detach()
    assert float(loss) < 0.6 * method.chance(batch)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_method_teaches_head_and_features(name: str) -> None:
    method = METHODS.build(name)
    features = random_features(method.views * 8).requires_grad_()
    head = method.head(WIDTH)
    method.loss(features, head).backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert features.grad.abs().sum() > 0
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())


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
    features = random_features(12)
    loss = METHODS.build({"name": "simclr", "temperature": 0.3}).loss(features, nn.Identity())
    first, second = features.chunk(2)
    assert float(loss) == pytest.approx(slow_nt_xent(first, second, 0.3), rel=1e-5)


# -- strategies --


def bags_of(*sizes: int, classes: int = 2) -> Labelled:
    """Bags of these sizes; bag b has the class b mod classes."""
    bag = np.repeat(np.arange(len(sizes)), sizes)
    return Labelled(bag, bag % classes)


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_probabilities_sum_to_one(name: str) -> None:
    strategy = STRATEGIES.build(name)
    bag = torch.tensor([0, 0, 1, 2, 2, 2])
    item, pooled = strategy.predict(strategy.head(WIDTH, 3).eval(), random_features(6), bag)
    assert item.shape == (6, 3)
    assert pooled.shape == (3, 3)
    for probability in (item, pooled):
        assert (probability >= 0).all()
        torch.testing.assert_close(probability.sum(1), torch.ones(len(probability)))


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_strategy_ignores_cell_order(name: str) -> None:
    strategy = STRATEGIES.build(name)
    head, features = strategy.head(WIDTH, 3).eval(), random_features(40)
    bag = torch.arange(40) % 5
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    item, pooled = strategy.predict(head, features, bag)
    shuffled_item, shuffled_pooled = strategy.predict(head, features[order], bag[order])
    torch.testing.assert_close(shuffled_item, item[order])
    torch.testing.assert_close(shuffled_pooled, pooled)
    label = bag % 3
    loss = strategy.loss(head, features, bag, label)
    torch.testing.assert_close(strategy.loss(head, features[order], bag[order], label[order]), loss)


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_a_bag_does_not_depend_on_other_bags(name: str) -> None:
    strategy = STRATEGIES.build(name)
    head, features = strategy.head(WIDTH, 2).eval(), random_features(6)
    alone = strategy.predict(head, features[:3], torch.zeros(3, dtype=torch.long))
    among = strategy.predict(head, features, torch.tensor([0, 0, 0, 1, 1, 1]))
    torch.testing.assert_close(among[0][:3], alone[0])
    torch.testing.assert_close(among[1][:1], alone[1])


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_strategy_learns_an_easy_task(name: str) -> None:
    strategy, items = STRATEGIES.build(name), bags_of(*[8] * 20)
    features = random_features(160) + 2 * torch.tensor(items.label)[:, None] - 1
    torch.manual_seed(0)
    head = strategy.head(WIDTH, 2)
    optimiser = torch.optim.AdamW(head.parameters(), lr=0.02)
    bag, label = torch.from_numpy(items.bag), torch.from_numpy(items.label)
    for step in range(40):
        chosen = strategy.draw(generator(0, step), items, 64)
        optimiser.zero_grad()
        strategy.loss(head, features[chosen], bag[chosen], label[chosen]).backward()
        optimiser.step()
    item, pooled = strategy.predict(head.eval(), features, bag)
    assert (item.argmax(1) == label).float().mean() > 0.9
    assert (pooled.argmax(1).numpy() == items.bag_labels).all()


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_one_class_is_refused(name: str) -> None:
    refusal = STRATEGIES.build(name).refusal(bags_of(*[3] * 12, classes=1), "source")
    assert refusal is not None
    assert "one class" in refusal


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_enough_bags_of_two_classes_are_accepted(name: str) -> None:
    assert STRATEGIES.build(name).refusal(bags_of(*[3] * 20), "source") is None


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_draw_is_a_function_of_the_generator_and_balanced_over_classes(name: str) -> None:
    strategy = STRATEGIES.build(name)
    items = Labelled(np.repeat(np.arange(24), 10), np.repeat([0] * 20 + [1] * 4, 10))  # 200 items against 40
    first, again, other = (strategy.draw(generator(seed), items, 4000) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:50], other[:50])
    assert len(first) >= 4000
    assert items.label[first].mean() == pytest.approx(0.5, abs=0.04)  # five standard deviations


def test_inherit_balances_the_classes_of_its_items() -> None:
    weights = STRATEGIES.build("inherit").weights(bags_of(90, 10, 30))
    label = bags_of(90, 10, 30).label
    assert weights.sum() == pytest.approx(1)
    assert weights[label == 0].sum() == pytest.approx(0.5)


def test_inherit_without_balance_draws_items_as_they_are() -> None:
    plain = STRATEGIES.build({"name": "inherit", "class_balance": 0, "bag_balance": 0})
    assert np.allclose(plain.weights(bags_of(9, 1)), 0.1)


def test_inherit_pools_by_the_mean_of_the_items() -> None:
    strategy = STRATEGIES.build("inherit")
    item, pooled = strategy.predict(strategy.head(WIDTH, 2), random_features(4), torch.tensor([0, 1, 1, 1]))
    torch.testing.assert_close(pooled, torch.stack([item[0], item[1:].mean(0)]))


def test_mil_is_refused_below_its_number_of_bags() -> None:
    refusal = STRATEGIES.build("mil").refusal(bags_of(*[3] * 19), "source")  # ten bags of one class, nine of the other
    assert refusal is not None
    assert "9 training bags" in refusal
    assert STRATEGIES.build({"name": "mil", "min_bags": 9}).refusal(bags_of(*[3] * 19), "source") is None


def test_mil_is_refused_where_labels_are_true_of_items() -> None:
    assert "true of the source" in STRATEGIES.build("mil").refusal(bags_of(*[3] * 20), "item")


def test_softmax_by_equals_the_slow_one() -> None:
    score, bag = 30 * random_features(9)[:, :1], torch.tensor([0, 2, 1, 2, 0, 2, 1, 3, 2])
    slow = torch.zeros_like(score)
    for number in range(4):
        raised = [(row, math.exp(float(score[row]))) for row in range(9) if int(bag[row]) == number]
        for row, value in raised:
            slow[row] = value / sum(other for _, other in raised)
    torch.testing.assert_close(softmax_by(score, bag), slow)


# -- branches --


@pytest.fixture
def branch(
    request: pytest.FixtureRequest, cells: Path, table: Path, traces: Path, expression: Path, tmp_path: Path
) -> Any:
    """A branch of the name given, opened on the shared data."""
    options = {
        "image": ({"name": "image", "size": 32}, cells),
        "tabular": ({"name": "tabular"}, table),
        "trace": ({"name": "trace"}, traces),
        "rna": ({"name": "rna"}, expression),
    }
    if request.param == "fusion":
        options["fusion"] = {"name": "fusion"}, fused(tmp_path, cells)
    config, path = options[request.param]
    return BRANCHES.load(request.param)(BRANCHES.config(config), path, ("y",))


every_branch = pytest.mark.parametrize("branch", BRANCH_NAMES, indirect=True)


def some_rows(branch: Any, count: int = 12) -> Any:
    return np.arange(0, len(branch.items.table), len(branch.items.table) // count)[:count]


@every_branch
def test_items_have_the_columns_every_stage_reads(branch: Any) -> None:
    table = branch.items.table
    assert {*COLUMNS} <= {*table.columns}
    assert table["item_id"].is_unique
    assert not table[["item_id", "source_id", "source_hash", "group"]].isna().any().any()


@every_branch
def test_network_turns_a_batch_into_features(branch: Any) -> None:
    rows = some_rows(branch)
    state = branch.fit(rows)
    network = branch.network(NETWORKS[branch.Config().name], state).eval()
    features = network(torch.from_numpy(branch.batch(rows, state)))
    assert features.shape == (len(rows), network.num_features)


@every_branch
def test_fit_looks_at_training_rows_only(branch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, others = some_rows(branch), np.setdiff1d(np.arange(len(branch.items.table)), some_rows(branch))
    before = branch.fit(rows)
    spoil(branch, others, monkeypatch)
    after = branch.fit(rows)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert any(not np.array_equal(before[key], branch.fit(others)[key]) for key in before)


def spoil(branch: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other data in these rows."""
    if branch.Config().name == "tabular":
        branch.values[rows] = 1e3
        return
    if branch.Config().name == "fusion":
        for part in branch.parts.values():
            spoil(part.branch, part.row[rows][part.row[rows] >= 0], monkeypatch)
        return
    if branch.Config().name == "trace":
        known = branch.traces.take

        def loud(positions: Any) -> Any:
            return np.where(np.isin(positions, rows)[:, None, None], np.float32(1e3), known(positions))

        monkeypatch.setattr(branch.traces, "take", loud)
        return
    if branch.Config().name == "rna":
        branch.data.matrix.values[rows] = 7
        return
    take, bad = branch.crops.take, branch._positions[rows]

    def spoilt(positions: Any) -> Any:
        crops = take(positions)
        crops[np.isin(positions, bad)] = 255
        return crops

    monkeypatch.setattr(branch.crops, "take", spoilt)


@every_branch
def test_batch_without_augmentation_is_the_data(branch: Any) -> None:
    rows = some_rows(branch)
    state = branch.fit(rows)
    together = branch.batch(rows, state)
    assert np.array_equal(together, np.concatenate([branch.batch(rows[n : n + 1], state) for n in range(len(rows))]))


@every_branch
@pytest.mark.parametrize("strength", ["weak", "strong"])
def test_augmentation_is_a_function_of_its_key(branch: Any, strength: Any) -> None:
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
def test_augmentation_does_not_depend_on_batch_mates(branch: Any, strength: Any) -> None:
    rows = some_rows(branch)
    state, augment = branch.fit(rows), Augment(strength, (0, 1))
    mates = rows.copy()
    mates[1:] = rows[1:][::-1]
    assert np.array_equal(branch.batch(rows, state, augment)[0], branch.batch(mates, state, augment)[0])


@pytest.mark.parametrize("branch", BRANCH_NAMES, indirect=True)
def test_augmentation_does_not_depend_on_the_length_of_the_batch(branch: Any) -> None:
    rows = some_rows(branch)
    state, augment = branch.fit(rows), Augment("strong", (0, 1))
    assert np.array_equal(branch.batch(rows, state, augment)[:3], branch.batch(rows[:3], state, augment))


@every_branch
def test_an_item_drawn_twice_is_varied_twice(branch: Any) -> None:
    rows = some_rows(branch)
    twice = branch.batch(rows[[0, 0]], branch.fit(rows), Augment("strong", (0, 1)))
    assert not np.array_equal(twice[0], twice[1])


@every_branch
def test_features_do_not_depend_on_batch_mates(branch: Any) -> None:
    rows = some_rows(branch)
    state = branch.fit(rows)
    network = branch.network(NETWORKS[branch.Config().name], state).train()
    together = encoders.embed(network, branch, state, rows)
    alone = np.concatenate([encoders.embed(network, branch, state, rows[n : n + 1]) for n in range(len(rows))])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert not network.training


@every_branch
def test_trained_encoder_comes_back_from_disk(branch: Any, tmp_path: Path) -> None:
    rows = some_rows(branch)
    made = encoders.resolve(NETWORKS[branch.Config().name], branch, rows, seed=3)
    facts = {
        "network": made.name,
        "branch": branch.Config().name,
        "schema": branch.schema(),
        "seen": ["a"],
        "origin": "",
    }
    encoders.save(tmp_path, made.module, made.state, facts)
    back = encoders.resolve(str(tmp_path), branch, rows[:2], seed=4)
    assert back.seen == {"a"}
    before, after = (encoders.embed(one.module, branch, one.state, rows) for one in (made, back))
    assert np.array_equal(before, after)


@every_branch
def test_baselines_are_finite_rows_of_features(branch: Any) -> None:
    rows = some_rows(branch)
    for name, baseline in branch.baselines().items():
        features = baseline.features(rows)
        assert features.shape[0] == len(rows), name
        assert features.ndim == 2
        assert np.isfinite(features).mean() > 0.7  # some items lack a part of fusion
