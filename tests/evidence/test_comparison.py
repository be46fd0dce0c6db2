"""Arms compared over units and seeds: known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cellvision.evidence import comparison


def rows(arm: str, seed: int, correct: np.ndarray) -> pd.DataFrame:
    """One row a unit, half of them of each class."""
    truth = np.where(np.arange(len(correct)) % 2, "a", "b")
    units = [f"u{number}" for number in range(len(correct))]
    predicted = np.where(correct, truth, "c")
    return pd.DataFrame({"arm": arm, "seed": seed, "key": units, "unit": units, "truth": truth, "predicted": predicted})


def test_pooled_rows_hold_the_share_of_seeds_that_were_right() -> None:
    both = pd.concat([rows("x", 0, np.array([1, 1, 0, 0])), rows("x", 1, np.array([1, 0, 0, 0]))])
    assert comparison.pool(both).set_index("key")["correct"].to_dict() == {"u0": 1, "u1": 0.5, "u2": 0, "u3": 0}


def test_seeds_tell_their_variance_from_all_arms() -> None:
    scored = pd.concat(
        [
            rows("x", 0, np.array([1, 1, 1, 1])), rows("x", 1, np.array([1, 1, 0, 0])),
            rows("y", 0, np.array([1, 1, 0, 0])), rows("y", 1, np.array([1, 1, 0, 0])),
        ]
    )  # fmt: skip
    seeds = comparison.seeds_of(scored)
    assert (seeds.freedom, seeds.trained) == (2, {"x": 2, "y": 2})
    assert seeds.variance == pytest.approx((0.25**2 + 0.25**2) / 2)
    assert seeds.of_mean("x") == pytest.approx(seeds.variance / 2)
    assert seeds.of_mean("baseline: colour") == 0


def test_one_seed_tells_no_variance() -> None:
    seeds = comparison.seeds_of(rows("x", 0, np.array([1, 0, 1, 0])))
    assert (seeds.variance, seeds.freedom) == (0, 0)


def test_arms_that_differ_by_the_seed_alone_are_seldom_called_different() -> None:
    """Eight donors of ten cells; each seed has an accuracy of its own, and all arms the same."""
    rng = np.random.default_rng(0)
    called = []
    for _ in range(60):
        tables = []
        for arm in range(5):
            for seed in range(2):
                chance = np.clip(0.7 + rng.normal(0, 0.06) + rng.normal(0, 0.05, 8), 0, 1).repeat(10)
                table = rows(str(arm), seed, rng.random(80) < chance)
                tables.append(table.assign(unit=[f"donor{number // 10}" for number in range(80)]))
        scored = pd.concat(tables)
        seeds = comparison.seeds_of(scored)
        pooled = {str(arm): comparison.pool(table) for arm, table in scored.groupby("arm")}
        for other in "1234":
            interval = comparison.difference(pooled[other], pooled["0"], seeds, (other, "0"))
            called.append(interval.low > 0 or interval.high < 0)
    assert np.mean(called) <= 0.07


def test_labels_are_dealt_over_units_or_within_them() -> None:
    rng, unit = np.random.default_rng(0), np.repeat(np.arange(6), 4)
    whole = np.array(["a", "b"])[unit % 2]
    dealt = comparison.dealt_by_lot(whole, unit, rng)
    assert all(len(set(dealt[unit == number])) == 1 for number in range(6))
    assert sorted(dealt) == sorted(whole)
    assert any((comparison.dealt_by_lot(whole, unit, rng) != whole).any() for _ in range(5))
    inside = np.tile(np.array(["a", "b", "b", "b"]), 6)
    inside[unit == 0] = "a"
    dealt = comparison.dealt_by_lot(inside, unit, rng)
    assert all(sorted(dealt[unit == number]) == sorted(inside[unit == number]) for number in range(6))
    assert (dealt != inside).any()
