"""Intervals and differences over independent units. Nothing here counts items as independent.

A class's recall rests on as many independent rows as its units amount to: one a unit where the rows of a unit agree,
more where they differ among themselves as much as between units (Kish 1965; Korn and Graubard 1998). Beta draws with
that many rows, averaged over the classes, give the interval of a balanced accuracy, also where a class has two units or
all are right. `experiments/coverage.py` measures how often these intervals hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellvision.core.rng import generator

DRAWS = 4000
LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
PRIOR = (1 / 3, 2 / 3)  # hits and misses added for the lower limit, the other way round for the upper one
AGREEING = 0.5  # degrees of freedom given to the belief that the rows of a unit agree, until the data say otherwise
LEAST_LEFT = 0.05  # share of a class's rows that the other units have, at the least, in a correction
CROSSED = 4.0  # units' worth of belief that the classes of a unit are independent of each other
SAME = 1.0  # degrees of freedom given to the belief that all classes vary alike between units


@dataclass(frozen=True)
class Interval:
    """A number, its interval at LEVEL, the count of independent units, and how many of equal weight they amount to.

    `effective` is that of the class with the least: a class with most of its rows in one unit rests on little more.
    """

    value: float
    low: float
    high: float
    units: int
    effective: float = float("nan")

    def flat(self, name: str) -> dict[str, float | int]:
        """Metrics under `name`, `name_low` and so on."""
        return {
            name: self.value, f"{name}_low": self.low, f"{name}_high": self.high, f"{name}_units": self.units,
            f"{name}_effective_units": self.effective,
        }  # fmt: skip


NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0)


def exact_binomial(hits: int, count: int) -> Interval:
    """Clopper and Pearson (1934): a share of independent units."""
    from scipy.stats import beta

    low = float(beta.ppf(TAIL, hits, count - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - TAIL, hits + 1, count - hits)) if hits < count else 1.0
    return Interval(hits / count if count else float("nan"), low, high, count, count)


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

    @property
    def rows(self) -> NDArray[np.float64]:
        """(classes,) rows of each class."""
        return self.count.sum(0)

    @property
    def units(self) -> NDArray[np.int64]:
        """(classes,) units that hold rows of each class."""
        return (self.count > 0).sum(0)

    @property
    def effective(self) -> NDArray[np.float64]:
        """(classes,) units of equal weight that the units of each class amount to (Kish 1965)."""
        return self.rows**2 / (self.count**2).sum(0)

    @property
    def recall(self) -> NDArray[np.float64]:
        """(classes,) share of each class's rows that are right."""
        return self.correct.sum(0) / self.rows

    @property
    def influence(self) -> NDArray[np.float64]:
        """(units, classes) what each unit adds to the error of a class's recall."""
        return (self.correct - self.recall * self.count) / self.rows

    @property
    def variance(self) -> NDArray[np.float64]:
        """(classes,) of the recalls, from what differs between units; 0 for a class with one unit.

        A unit with much of a class pulls the recall towards itself, which is made good (MacKinnon and White 1985, HC2).
        """
        return (self.influence**2 / self.left).sum(0)

    @property
    def jackknife_variance(self) -> NDArray[np.float64]:
        """(classes,) of the recalls, from leaving out one unit at a time; larger where units are unequal."""
        return ((self.influence / self.left) ** 2).sum(0)

    @property
    def left(self) -> NDArray[np.float64]:
        """(units, classes) share of a class's rows that the other units have."""
        return np.maximum(1 - self.count / self.rows, LEAST_LEFT)

    @property
    def crossed(self) -> bool:
        """Whether a unit holds rows of several classes."""
        return bool(((self.count > 0).sum(1) > 1).any())

    @property
    def freedom(self) -> NDArray[np.float64]:
        """(classes,) degrees of freedom of `variance`: units of equal weight, less one."""
        return np.maximum(self.effective - 1, 0.0)

    def draws(self, added: tuple[float, float]) -> NDArray[np.float64]:
        """(DRAWS, classes) recalls that agree with what was seen, `added` hits and misses being believed beforehand."""
        rows = independent_rows(self)
        hits = self.recall * rows
        rng = generator(0, "recalls", len(self.count))
        return rng.beta(hits + added[0], rows - hits + added[1], (DRAWS, len(rows)))


def independent_rows(tally: Tally) -> NDArray[np.float64]:
    """(classes,) how many independent rows would tell as much about each recall as its units do."""
    from scipy.stats import norm, t

    recall, effective, freedom = tally.recall, tally.effective, tally.freedom
    agreeing = recall * (1 - recall) / np.maximum(freedom, LEAST_LEFT)  # variance if units were all right or all wrong
    seen = np.divide(tally.variance, agreeing, out=np.ones_like(agreeing), where=agreeing > 0)
    ratio = (freedom * seen + AGREEING) / (freedom + AGREEING)
    rows = effective / np.maximum(ratio, 1e-6)
    unsure = (norm.ppf(1 - TAIL) / t.ppf(1 - TAIL, np.maximum(freedom, 1))) ** 2
    more = rows > effective  # what is beyond one a unit was estimated from few units, and counts less
    rows = np.where(more, effective + (rows - effective) * unsure, rows) / _shared_units(tally)
    return np.clip(rows, np.minimum(1, effective), tally.rows)


def _shared_units(tally: Tally) -> float:
    """How much larger the variance of the mean recall is because units hold several classes; 1 where none does."""
    separate, count = float((tally.influence**2).sum()), len(tally.count)
    if not tally.crossed or separate <= 0:
        return 1.0
    together = float((tally.influence.sum(1) ** 2).sum())
    return max(1.0, (together / separate * count + CROSSED) / (count + CROSSED))


def balanced_accuracy(unit: NDArray, truth: NDArray, correct: NDArray) -> Interval:
    """Mean recall over classes with its interval over units.

    unit, truth: (n,); correct: (n,) in 0..1. Rows of a unit weigh as many as they are. Without rows, NaN.
    """
    return _mean_recall(Tally.of(unit, truth, correct)) if len(unit) else NOTHING


def recalls(unit: NDArray, truth: NDArray, correct: NDArray) -> dict[str, Interval]:
    """(n,) units, truths and hits -> class -> its recall with an interval over the units that hold it."""
    return {
        str(name): _mean_recall(Tally.of(unit[truth == name], truth[truth == name], correct[truth == name]))
        for name in np.unique(truth)
    }


def _mean_recall(tally: Tally) -> Interval:
    value = float(tally.recall.mean())
    low = float(np.quantile(tally.draws(PRIOR).mean(1), TAIL)) if value > 0 else 0.0
    high = float(np.quantile(tally.draws(PRIOR[::-1]).mean(1), 1 - TAIL)) if value < 1 else 1.0
    return Interval(value, min(low, value), max(high, value), len(tally.count), float(tally.effective.min()))


def mean(unit: NDArray, value: NDArray) -> Interval:
    """Mean of (n,) numbers with its Student interval over (n,) units."""
    if not len(unit):
        return NOTHING
    tally = Tally.of(unit, np.zeros(len(unit)), value)
    return _student(float(tally.recall[0]), tally, tally.variance, 0.0, 1)


def paired_difference(
    unit: NDArray, truth: NDArray, a: NDArray, b: NDArray, seed_variance: float = 0.0, seed_freedom: int = 1
) -> Interval:
    """Balanced accuracy of a minus that of b on the same rows: Student's interval over units.

    unit, truth: (n,); a, b: (n,) in 0..1, means over seeds where there are several. `seed_variance` is what another
    draw of the seeds adds to the difference, known to `seed_freedom` degrees of freedom. Where no unit tells a from b,
    the interval reaches as far as the share of units that could still do so: the exact binomial bound of 0 in as many.
    """
    if not len(unit):
        return NOTHING
    tally = Tally.of(unit, truth, a.astype(float) - b)
    value = float(tally.recall.mean())
    if not tally.variance.any():
        reach = exact_binomial(0, len(tally.count)).high
        low, high = max(-1.0, value - reach), min(1.0, value + reach)
        return Interval(value, low, high, len(tally.count), float(tally.effective.min()))
    difference = _student(value, tally, _alike(tally) * _shared_units(tally), seed_variance, seed_freedom)
    return Interval(value, max(-1.0, difference.low), min(1.0, difference.high), difference.units, difference.effective)


def _alike(tally: Tally) -> NDArray[np.float64]:
    """(classes,) variances, each drawn a little towards what all classes have in common: few units know little."""
    freedom = tally.freedom
    spread = tally.jackknife_variance * tally.effective  # of one unit of equal weight
    common = float((spread * freedom).sum() / max(float(freedom.sum()), LEAST_LEFT))
    return (freedom * spread + SAME * common) / (freedom + SAME) / tally.effective


def _student(
    value: float, tally: Tally, variance: NDArray[np.float64], seed_variance: float, seed_freedom: int
) -> Interval:
    """variance: (classes,) of the recalls. Degrees of freedom by Welch and Satterthwaite."""
    from scipy.stats import t

    parts = variance / len(variance) ** 2
    freedom = np.maximum(tally.freedom, 1)
    total = float(parts.sum()) + seed_variance
    if total <= 0:
        return Interval(value, value, value, len(tally.count), float(tally.effective.min()))
    joint = total**2 / (float((parts**2 / freedom).sum()) + seed_variance**2 / max(seed_freedom, 1))
    if tally.crossed:  # the same units speak for every class
        joint = min(joint, float(freedom.max()))
    reach = float(t.ppf(1 - TAIL, joint)) * total**0.5
    return Interval(value, value - reach, value + reach, len(tally.count), float(tally.effective.min()))
