"""Intervals over units: known answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from cellvision.evidence import intervals


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(9, 10, 0.5550, 0.9975), (0, 10, 0.0, 0.3085), (5, 5, 0.4782, 1.0)]
)
def test_exact_binomial_interval(hits: int, count: int, low: float, high: float) -> None:
    found = intervals.exact_binomial(hits, count)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert (found.value, found.units) == (hits / count, count)


def toy() -> tuple[Any, Any, Any]:
    """Six units: recall 3/4 of class a, 1/2 of class b."""
    unit = np.array(["a0", "a0", "a1", "a2", "b0", "b1"])
    return unit, np.array(["a"] * 4 + ["b"] * 2), np.array([1, 1, 1, 0, 1, 0])


def test_balanced_accuracy_is_the_mean_recall_and_its_interval_covers_it() -> None:
    found = intervals.balanced_accuracy(*toy())
    assert found.value == pytest.approx((0.75 + 0.5) / 2)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.units == 5
    assert found == intervals.balanced_accuracy(*toy())


def test_many_items_of_few_units_do_not_narrow_the_interval() -> None:
    few, many = intervals.balanced_accuracy(*toy()), intervals.balanced_accuracy(*(np.tile(part, 50) for part in toy()))
    assert (few.low, few.high, few.units) == (many.low, many.high, many.units)


def test_the_difference_of_equal_arms_is_zero_but_not_sure() -> None:
    unit, truth, hit = toy()
    found = intervals.paired_difference(unit, truth, hit, hit)
    assert found.value == 0
    assert found.high == -found.low == pytest.approx(intervals.exact_binomial(0, found.units).high)
    assert intervals.paired_difference(unit, truth, np.ones(6), hit).value == pytest.approx(0.375)


def test_no_units_have_no_score() -> None:
    found = intervals.balanced_accuracy(*(np.array([]) for _ in range(3)))
    assert math.isnan(found.value)
    assert found.units == 0


def test_a_perfect_score_on_few_units_has_an_interval() -> None:
    unit = np.array([f"u{number}" for number in range(20)])
    perfect = intervals.balanced_accuracy(unit, np.array(["a", "b"] * 10), np.ones(20))
    assert (perfect.value, perfect.high) == (1, 1)
    assert 0.79 < perfect.low < 0.85  # Clopper and Pearson, 20 of 20: 0.832


def rows_of(*units: tuple[str, int, int]) -> tuple[Any, Any, Any]:
    """Units of (class, rows, hits) -> unit, truth, correct."""
    unit = np.concatenate([np.repeat(f"u{number}", rows) for number, (_, rows, _) in enumerate(units)])
    truth = np.concatenate([np.repeat(name, rows) for name, rows, _ in units])
    correct = np.concatenate([np.arange(rows) < hits for _, rows, hits in units]).astype(float)
    return unit, truth, correct


def test_a_class_of_two_units_has_a_wide_interval_however_many_the_others_are() -> None:
    score = intervals.balanced_accuracy(*rows_of(*[("a", 1, 1)] * 40, ("b", 1, 1), ("b", 1, 1)))
    assert score.value == 1
    assert score.low < 0.75
    assert score.effective == 2


def test_one_more_unit_does_not_change_an_interval_by_a_jump() -> None:
    def width(units: int) -> float:
        score = intervals.balanced_accuracy(*rows_of(*[("a", 1, 1)] * units, *[("b", 1, 1)] * units))
        return score.high - score.low

    assert width(25) > width(26) > 0.9 * width(25)


def test_a_class_with_most_rows_in_one_unit_rests_on_little_more_than_one() -> None:
    score = intervals.balanced_accuracy(*rows_of(("a", 910, 900), *[("a", 10, 9)] * 9, *[("b", 30, 20)] * 10))
    assert score.units == 20
    assert score.effective == pytest.approx(1 / (0.91**2 + 9 * 0.01**2), rel=1e-3)


def test_rows_that_agree_within_a_unit_count_once_and_independent_ones_more() -> None:
    once = intervals.balanced_accuracy(*rows_of(*[("a", 1, 1)] * 8, *[("a", 1, 0)] * 2))
    agree = intervals.balanced_accuracy(*rows_of(*[("a", 20, 20)] * 8, *[("a", 20, 0)] * 2))
    apart = intervals.balanced_accuracy(*rows_of(*[("a", 20, 16)] * 10))
    assert agree.high - agree.low == pytest.approx(once.high - once.low, rel=0.05)
    assert apart.high - apart.low < 0.6 * (agree.high - agree.low)


def test_recalls_of_classes_have_intervals_of_their_own_units() -> None:
    recalls = intervals.recalls(*rows_of(*[("a", 1, 1)] * 9, ("b", 1, 1), ("b", 1, 0)))
    assert (recalls["a"].value, recalls["a"].units) == (1, 9)
    assert (recalls["b"].value, recalls["b"].units) == (0.5, 2)
    assert recalls["b"].high - recalls["b"].low > recalls["a"].high - recalls["a"].low


def test_what_seeds_change_widens_a_difference() -> None:
    unit, truth, hits = rows_of(*[("a", 4, 3)] * 6, *[("b", 4, 2)] * 6)
    other = np.random.default_rng(0).permutation(hits)
    alone = intervals.paired_difference(unit, truth, hits, other)
    seeded = intervals.paired_difference(unit, truth, hits, other, seed_variance=0.01, seed_freedom=3)
    assert seeded.value == alone.value
    assert seeded.high - seeded.low > alone.high - alone.low


@pytest.mark.parametrize("units", [4, 10])
def test_intervals_hold_the_truth_about_as_often_as_they_say(units: int) -> None:
    """The whole grid is in experiments/coverage.py."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        right = rng.random(2 * units) < 0.8
        score = intervals.balanced_accuracy(*rows_of(*(("ab"[n % 2], 1, int(hit)) for n, hit in enumerate(right))))
        hits += score.low <= 0.8 <= score.high
    assert 0.91 <= hits / 200 <= 1.0
