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
    found = intervals.balanced_accuracy(unit, np.array(["a", "b"] * 10), np.ones(20))
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(0.8316, abs=1e-3)  # Clopper and Pearson, 20 of 20
