"""Damaged images: no crash, no hang, no half images."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "experiments" / "bench"))


def test_damaged_files_neither_crash_nor_hang_nor_become_half_images() -> None:
    import mutants

    found = [mutants.judge((number, 1)) for number in range(150)]
    assert not [row for row in found if row["half"]]
    assert not [row for row in found if row["reason"] == "E_INTERNAL"]
    assert not [row for row in found if "stopped after" in row["text"] or "its decoder ended" in row["text"]]
    reasons = {row["reason"] for row in found}
    assert {"OK", "OK_NOTE", "E_TRUNCATED", "E_CORRUPT"} <= reasons
    assert not {row["reason"] for row in found if row["damage"] == "cut"} & {"OK", "OK_NOTE"}


def test_the_judge_of_damaged_files_knows_a_half_image() -> None:
    import mutants

    whole = mutants.original("grey.bmp")
    half = whole.pixels.copy()
    half[48:] = 128
    made = mutants.Mutant(0, "grey.bmp", "flip", b"")
    image = mutants.Image(half, "uint8", None, (), "")
    assert "flat" in mutants.what_is_missing(made, whole, image)
    assert not mutants.what_is_missing(made, whole, whole)
