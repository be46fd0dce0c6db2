"""Strategies: what each promises, found by its registry line; and what inherit and mil promise beside."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cellvision.core.rng import generator
from cellvision.strategies import STRATEGIES, Labelled
from cellvision.strategies.inherit import Inherit
from cellvision.strategies.mil import softmax_by

STRATEGY_NAMES = STRATEGIES.names()
WIDTH = 12  # features of made-up items


def random_features(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


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
    weights = Inherit(Inherit.Config()).weights(bags_of(90, 10, 30))
    label = bags_of(90, 10, 30).label
    assert weights.sum() == pytest.approx(1)
    assert weights[label == 0].sum() == pytest.approx(0.5)


def test_inherit_without_balance_draws_items_as_they_are() -> None:
    plain = Inherit(Inherit.Config(class_balance=0, bag_balance=0))
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
    refusal = STRATEGIES.build("mil").refusal(bags_of(*[3] * 20), "item")
    assert refusal is not None
    assert "true of the source" in refusal


def test_softmax_by_equals_the_slow_one() -> None:
    score, bag = 30 * random_features(9)[:, :1], torch.tensor([0, 2, 1, 2, 0, 2, 1, 3, 2])
    slow = torch.zeros_like(score)
    for number in range(4):
        raised = [(row, math.exp(float(score[row]))) for row in range(9) if int(bag[row]) == number]
        for row, value in raised:
            slow[row] = value / sum(other for _, other in raised)
    torch.testing.assert_close(softmax_by(score, bag), slow)
