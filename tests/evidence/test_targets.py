"""Targets: classes, measurements, and the level at which a label is true."""

from __future__ import annotations

import numpy as np
import pytest
from item_rows import rows_of

from cellvision.core.errors import ConfigError
from cellvision.evidence import targets


def test_a_label_that_is_constant_in_each_source_is_true_of_the_source() -> None:
    of = rows_of({"a": 3, "b": 3}, each=4)
    of.table["stain"] = of.table["source_id"].map(lambda name: "he" if name in ("a0", "b1", "b2") else "pas")
    of.table["phase"] = ["g1", "g2"] * 12
    assert targets.read(of, "stain").level == "source"
    assert targets.read(of, "phase").level == "item"
    assert targets.read(rows_of({"a": 3, "b": 3}, each=1, y=list("xyxyxy")), "y").level == "item"


def test_a_class_with_one_example_takes_no_part_unless_told() -> None:
    of = rows_of({"a": 4}, each=2, y=["x", "x", "y", "y", "x", "y", "x", "basophil"])
    found = targets.read(of, "y")
    assert (found.classes, found.left_out, found.label[-1]) == (("x", "y"), ("basophil",), -1)
    assert targets.read(of, "y", least=1).classes == ("basophil", "x", "y")
    with pytest.raises(ConfigError, match=r"one class, 'x' \(y left out: fewer than 5 items\)"):
        targets.read(rows_of({"a": 5}, each=2, y=["x"] * 8 + ["y"] * 2), "y", least=5)


def test_a_measurement_is_no_set_of_classes() -> None:
    age = np.random.default_rng(0).uniform(20, 80, 60).round(1)
    of = rows_of({"a": 60}, each=1, age=age)
    with pytest.raises(ConfigError, match=r"'age' measures something \(\d+ different numbers\).*--bins 4"):
        targets.read(of, "age")
    found = targets.read(of, "age", bins=4)
    assert np.bincount(found.label).tolist() == [15, 15, 15, 15]
    assert found.ordered
    middle = targets.numbers(found.classes)
    assert middle is not None
    assert middle == sorted(middle)
    low, high = (float(text) for text in found.classes[1].split(targets.RANGE))
    assert (age[found.label == 1] >= low - 0.01).all()
    assert (age[found.label == 1] <= high + 0.01).all()


def test_ranges_are_for_numbers() -> None:
    with pytest.raises(ConfigError, match="--bins is for numbers; target 'group' holds words such as 'a'"):
        targets.read(rows_of({"a": 3, "b": 3}), "group", bins=3)
    with pytest.raises(ConfigError, match="too few different numbers"):
        targets.read(rows_of({"a": 6}, each=1, x=[1] * 6), "x", bins=3)


@pytest.mark.parametrize(
    ("labels", "is_measured"),
    [
        (["0", "1", "2"] * 5, False),
        ([f"{n / 10}" for n in range(40)], True),
        ([f"{n / 10}" for n in range(12)], True),
        ([f"s{n}" for n in range(40)], False),
        ([str(n % 12) for n in range(60)], False),
    ],
)
def test_measurements_are_told_from_classes(labels: list[str], is_measured: bool) -> None:
    import pandas as pd

    assert targets.measured(pd.Series(labels)) == is_measured
