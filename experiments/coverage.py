"""How often the intervals hold: simulated scores with known truth, beside other methods. Takes about ten minutes.

    python experiments/coverage.py [--repeats 500] [--only intervals|differences|seeds|widths]

Units 4 to 60, balanced and not; one row a unit, items of unequal units (log-normal sizes, units that differ), several
classes a unit. Prints a line a cell: coverage and mean width; then the least, the mean, and the cells that fall short.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellvision.core.rng import generator
from cellvision.evidence import intervals
from cellvision.evidence.intervals import Interval, Tally

SHAPES = {
    "2+2": (2, 2), "4+4": (4, 4), "6+6": (6, 6), "10+10": (10, 10), "25+25": (25, 25), "30+30": (30, 30),
    "17+3": (17, 3), "40+10+3": (40, 10, 3), "57+3": (57, 3),
}  # fmt: skip
ACCURACIES = (0.5, 0.8, 0.95, 1.0)
KINDS = ("rows", "items", "several classes")
ALIKE = {"rows": (1.0,), "items": (0.05, 0.3), "several classes": (0.05, 0.3)}  # correlation of the rows of a unit
SIZES = (2.5, 1.0)  # mean and deviation of the logarithm of the rows a unit
FEWEST = 3  # units a class, from which on the interval has to hold


@dataclass(frozen=True)
class Cell:
    """One setting of the simulation."""

    kind: str
    shape: str
    accuracy: float
    alike: float

    @property
    def units(self) -> tuple[int, ...]:
        return SHAPES[self.shape]

    @property
    def counted(self) -> bool:
        return min(self.units) >= FEWEST


def cells(accuracies: tuple[float, ...] = ACCURACIES) -> Iterator[Cell]:
    for kind, shape, accuracy in itertools.product(KINDS, SHAPES, accuracies):
        for alike in ALIKE[kind]:
            yield Cell(kind, shape, accuracy, alike)


def counts(cell: Cell, rng: np.random.Generator) -> NDArray[np.int64]:
    """(units, classes) rows."""
    home = np.repeat(np.arange(len(cell.units)), cell.units)
    rows = np.maximum(1, np.exp(rng.normal(*SIZES, len(home))).astype(int))
    if cell.kind == "rows":
        rows = np.ones_like(rows)
    if cell.kind != "several classes":
        return np.eye(len(cell.units), dtype=np.int64)[home] * rows[:, None]
    table = np.stack([rng.multinomial(count, np.array(cell.units) / len(home)) for count in rows])
    for number, units in enumerate(cell.units):
        table[rng.permutation(len(home))[min(len(home), 2 * units) :], number] = 0
    return table[table.sum(1) > 0]


def chances(cell: Cell, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """(units, classes) chance of a hit: Beta-distributed around the accuracy, correlated between classes of a unit."""
    from scipy.stats import beta, norm

    if cell.accuracy in (0, 1) or cell.kind == "rows":
        return np.full(shape, cell.accuracy)
    common, apart = rng.normal(size=(shape[0], 1)), rng.normal(size=shape)
    level = norm.cdf((common + apart) / 2**0.5)
    strength = 1 / cell.alike - 1
    return beta.ppf(level, cell.accuracy * strength, (1 - cell.accuracy) * strength)


def scored(table: NDArray[np.int64], hits: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray]:
    """Rows of (unit, truth, correct) for tables of rows and hits."""
    unit, truth = (place.repeat(table.ravel()) for place in (axis.ravel() for axis in np.indices(table.shape)))
    correct = np.concatenate(
        [np.arange(count) < right for count, right in zip(table.ravel(), hits.ravel(), strict=True)]
    )
    return unit, truth, correct.astype(float)


# -- one score ----------------------------------------------------------------------------------------------------


def percentile(unit: NDArray, truth: NDArray, correct: NDArray, expanded: bool = False) -> Interval:
    """The bootstrap over units within classes; `expanded` for few units (Hesterberg 2015)."""
    from scipy.stats import norm, t

    tally = Tally.of(unit, truth, correct)
    home = np.where((tally.count > 0).sum(1) == 1, tally.count.argmax(1), -1)
    weights = np.zeros((1000, len(home)))
    rng = generator(0, "bootstrap", len(home))
    for stratum in np.unique(home):
        members = np.flatnonzero(home == stratum)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), len(weights))
    rows = weights @ tally.count
    recall = np.divide(weights @ tally.correct, rows, out=np.full_like(rows, np.nan), where=rows > 0)
    tail = intervals.TAIL
    if expanded:
        count = max(2.0, float(np.median(tally.units)))
        tail = float(norm.cdf(-((count / (count - 1)) ** 0.5) * t.ppf(1 - intervals.TAIL, count - 1)))
    low, high = np.quantile(np.nanmean(recall, 1), [tail, 1 - tail])
    return Interval(float(tally.recall.mean()), float(low), float(high), len(home))


def unit_betas(unit: NDArray, truth: NDArray, correct: NDArray) -> Interval:
    """Beta draws as if all rows of a unit agreed."""
    tally = Tally.of(unit, truth, correct)
    hits, rows = tally.recall * tally.effective, tally.effective
    draws = generator(0, "units").beta(hits + 0.5, rows - hits + 0.5, (2000, len(rows))).mean(1)
    low, high = np.quantile(draws, [intervals.TAIL, 1 - intervals.TAIL])
    value = float(tally.recall.mean())
    return Interval(value, float(low), 1.0 if value == 1 else float(high), len(tally.count))


METHODS: dict[str, Callable[..., Interval]] = {
    "used": intervals.balanced_accuracy,
    "percentile": percentile,
    "expanded": lambda *rows: percentile(*rows, expanded=True),
    "unit betas": unit_betas,
}


def coverage(cell: Cell, method: Callable[..., Interval], repeats: int) -> tuple[float, float]:
    """Share of intervals that hold the true accuracy, and their mean width."""
    hits, widths = [], []
    rng = np.random.default_rng(0)
    for _ in range(repeats):
        table = counts(cell, rng)
        right = rng.binomial(table, chances(cell, table.shape, rng))
        interval = method(*scored(table, right))
        hits.append(interval.low - 1e-9 <= cell.accuracy <= interval.high + 1e-9)
        widths.append(interval.high - interval.low)
    return float(np.mean(hits)), float(np.mean(widths))


def measure_intervals(repeats: int) -> None:
    shares = {}
    for cell in cells():
        share, width = coverage(cell, intervals.balanced_accuracy, repeats)
        print(f"{cell.kind:15} {cell.shape:8} accuracy {cell.accuracy:4} alike {cell.alike:4}: "
              f"covers {share:.3f}, width {width:.3f}", flush=True)  # fmt: skip
        shares |= {cell: share} if cell.counted else {}
    low = min(shares.values())
    print(f"intervals: {len(shares)} cells with {FEWEST} units a class: least {low:.3f}, "
          f"mean {np.mean(list(shares.values())):.3f}")  # fmt: skip
    for cell, share in shares.items():
        if share < 0.9:
            print(f"intervals: SHORT {cell}: {share:.3f}")


def measure_widths(repeats: int) -> None:
    """At 20 and 60 units: mean width over the cells, of this method and of every other, and whether it is valid."""
    for size in ("10+10", "17+3", "30+30", "57+3"):
        chosen = [cell for cell in cells() if cell.shape == size]
        for name, method in METHODS.items():
            pairs = [coverage(cell, method, repeats) for cell in chosen]
            least, width = min(share for share, _ in pairs), np.mean([wide for _, wide in pairs])
            print(f"widths: {size}: {name:10} mean width {width:.3f}, least coverage {least:.3f}", flush=True)


# -- differences --------------------------------------------------------------------------------------------------


def measure_differences(repeats: int) -> None:
    """Two arms that are equally good: hard items are hard for both, the rest is each arm's own."""
    called = {}
    for cell in cells((0.5, 0.8, 0.95)):
        rng = np.random.default_rng(1)
        differ = []
        for _ in range(repeats):
            table = counts(cell, rng)
            first, second = (
                rng.binomial(table, np.clip((chance + own) / 2, 0, 1))
                for chance in [chances(cell, table.shape, rng)]
                for own in (chances(cell, table.shape, rng), chances(cell, table.shape, rng))
            )
            unit, truth, a = scored(table, first)
            order = [rng.permutation(count) for count in table.ravel()]
            start = np.concatenate([[0], np.cumsum(table.ravel())[:-1]])
            shuffled = np.concatenate([begin + places for begin, places in zip(start, order, strict=True)])
            interval = intervals.paired_difference(unit, truth, a, scored(table, second)[2][shuffled.astype(int)])
            differ.append(interval.low > 0 or interval.high < 0)
        share = float(np.mean(differ))
        print(f"{cell.kind:15} {cell.shape:8} accuracy {cell.accuracy:4} alike {cell.alike:4}: "
              f"equal arms called different {share:.3f}", flush=True)  # fmt: skip
        called |= {cell: share} if sum(cell.units) >= 8 else {}
    print(f"differences: {len(called)} cells with 8 units: most {max(called.values()):.3f}, "
          f"mean {np.mean(list(called.values())):.3f}")  # fmt: skip
    for cell, share in called.items():
        if share > 0.07:
            print(f"differences: SHORT {cell}: {share:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="How often the intervals hold.")
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--only", choices=["intervals", "differences", "widths"])
    options = parser.parse_args()
    for name, measure in (
        ("intervals", measure_intervals), ("differences", measure_differences), ("widths", measure_widths)
    ):  # fmt: skip
        if options.only in (None, name):
            measure(options.repeats)


if __name__ == "__main__":
    main()
