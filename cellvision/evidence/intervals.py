"""Intervals and differences over independent units. Nothing here counts items as independent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellvision.core.rng import generator

DRAWS = 2000
LEVEL = 0.95
FEW = 50  # units, up to which the exact binomial interval is the least width


@dataclass(frozen=True)
class Interval:
    """A number, its interval at LEVEL, and the count of independent units behind it."""

    value: float
    low: float
    high: float
    units: int

    def flat(self, name: str) -> dict[str, float | int]:
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high, f"{name}_units": self.units}


def exact_binomial(hits: int, count: int) -> Interval:
    """Clopper and Pearson (1934): a share of independent units."""
    from scipy.stats import beta

    tail = (1 - LEVEL) / 2
    low = float(beta.ppf(tail, hits, count - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, count - hits)) if hits < count else 1.0
    return Interval(hits / count if count else float("nan"), low, high, count)


@dataclass(frozen=True)
class Tally:
    """Correct and all rows of each unit and class, (units, classes): all a balanced accuracy depends on."""

    correct: NDArray[np.float64]
    count: NDArray[np.float64]

    @classmethod
    def of(cls, unit: NDArray, truth: NDArray, correct: NDArray) -> Tally:
        """unit, truth: (n,); correct: (n,) hits in 0..1, fractions where a row was scored several times."""
        units, rows = np.unique(unit, return_inverse=True)
        classes, columns = np.unique(truth, return_inverse=True)
        shape = (len(units), len(classes))
        hit, all_rows = np.zeros(shape), np.zeros(shape)
        np.add.at(hit, (rows, columns), correct)
        np.add.at(all_rows, (rows, columns), 1)
        return cls(hit, all_rows)

    def balanced(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(draws, units) how often each unit counts -> (draws,) mean recall over the classes that were drawn."""
        count = weights @ self.count
        recall = np.divide(weights @ self.correct, count, out=np.full_like(count, np.nan), where=count > 0)
        return np.nanmean(recall, axis=1)

    def strata(self) -> NDArray[np.int64]:
        """(units,) the class of a unit that has one; units with several classes form one stratum together."""
        return np.where((self.count > 0).sum(1) == 1, self.count.argmax(1), -1)


def draw_units(strata: NDArray[np.int64], draws: int = DRAWS) -> NDArray[np.float64]:
    """(units,) -> (draws, units): how often each unit is drawn when units are drawn again within their stratum."""
    rng = generator(0, "bootstrap", len(strata))
    weights = np.zeros((draws, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), draws)
    return weights


def balanced_accuracy(unit: NDArray, truth: NDArray, correct: NDArray) -> Interval:
    """Mean recall over classes, with the percentile interval of the bootstrap over units.

    Where units are few the bootstrap is too sure (a perfect score would have no width), so the interval is at least as
    wide as the exact binomial one of that share of the units. unit, truth: (n,); correct: (n,) hits in 0..1.
    """
    tally = Tally.of(unit, truth, correct)
    bootstrap = _interval(tally.balanced, tally)
    if not 0 < bootstrap.units <= FEW:
        return bootstrap
    exact = exact_binomial(round(bootstrap.value * bootstrap.units), bootstrap.units)
    return Interval(bootstrap.value, min(bootstrap.low, exact.low), max(bootstrap.high, exact.high), bootstrap.units)


def paired_difference(unit: NDArray, truth: NDArray, a: NDArray, b: NDArray) -> Interval:
    """Balanced accuracy of a minus that of b on the same rows, units drawn together for both.

    Where no unit tells them apart, the interval reaches as far as the share of units that could still do so: the exact
    binomial bound of 0 in that many units. unit, truth: (n,); a, b: (n,) hits in 0..1.
    """
    first, second = Tally.of(unit, truth, a), Tally.of(unit, truth, b)
    difference = _interval(lambda weights: first.balanced(weights) - second.balanced(weights), first)
    if difference.units and difference.low == difference.high:
        reach = exact_binomial(0, difference.units).high
        return Interval(
            difference.value, max(-1.0, difference.value - reach), min(1.0, difference.value + reach), difference.units
        )
    return difference


def mean(unit: NDArray, value: NDArray) -> Interval:
    """(n,) units, (n,) values -> mean over rows, with the percentile interval of the bootstrap over units."""
    tally = Tally.of(unit, np.zeros(len(unit)), value)
    return _interval(tally.balanced, tally)


def _interval(score: Callable[[NDArray[np.float64]], NDArray[np.float64]], tally: Tally) -> Interval:
    units = len(tally.count)
    if not units:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    value = float(score(np.ones((1, units)))[0])
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(score(draw_units(tally.strata())), [tail, 100 - tail])
    return Interval(value, float(low), float(high), units)
