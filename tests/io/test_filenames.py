"""Names in tables find the files they mean, and no others."""

from __future__ import annotations

import pytest

from cellvision.core.errors import ConfigError
from cellvision.io import filenames

THERE = ["a/1.png", "b/1.png", "b/2.tif", "NA/f 1.ome.tif", "b/caf\u00e9.png", "x/Deep/3.PNG", "x/v1.2.png"]


@pytest.mark.parametrize(
    ("name", "at"),
    [("a/1.png", 0), ("1.png", None), ("2.tif", 2), ("b\\2.tif", 2), ("./b/2.tif", 2), ("b/2", 2), ("2", 2),
     ("2.png", 2), ("B/2.TIF", 2), ("C:\\data\\raw\\b\\2.tif", 2), ("/home/me/raw/a/1.png", 0), ("NA/f 1", 3),
     ("NA\\f 1.ome.tiff", 3), ("b/cafe\u0301.png", 4), ("Deep/3.png", 5), ("3", 5), (" 2.tif ", 2), ("v1.2", 6),
     ("v1", None), ("c/1.png", None), ("ep/3.PNG", None), ("", None)],
)  # fmt: skip
def test_a_name_finds_its_file_or_none(name: str, at: int | None) -> None:
    assert filenames.match([name], THERE) == [at]


def test_strangers_stop_with_an_example_of_both_sides() -> None:
    with pytest.raises(ConfigError, match=r"none of its 2 names .* it says 'q.png', the files are called 'a/1.png'"):
        filenames.refuse_strangers(["q.png", "r.png"], [None, None], THERE, "points.csv")
    filenames.refuse_strangers(["q.png", "2.tif"], [None, 2], THERE, "points.csv")
