"""Damaged files of every kind are read or told in one line. Ten thousand of them: experiments/bench/damaged.py."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "experiments" / "bench"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import damaged

    folder = tmp_path_factory.mktemp("sound")
    damaged.write_sound(folder)
    return folder


def test_every_sound_file_is_read(sound: Path, tmp_path: Path) -> None:
    import damaged

    for number, (name, kind) in enumerate(damaged.KINDS.items()):
        (tmp_path / str(number)).mkdir()
        path = damaged.copied(sound, tmp_path / str(number), kind.file)
        assert damaged.read(kind, path) == ("read", ""), name


def test_a_damaged_file_is_read_or_told_in_one_line(sound: Path) -> None:
    import damaged

    rows = [damaged.judge(number, 7, sound) for number in range(320) if number % damaged.IMAGES_EVERY]
    bad = [row for row in rows if row["outcome"] not in ("read", "told")]
    assert not bad, bad[0]["text"]
    assert len({row["kind"] for row in rows}) == len(damaged.KINDS)
    assert {"read", "told"} == set(Counter(row["outcome"] for row in rows))


def test_the_judge_knows_a_traceback(tmp_path: Path) -> None:
    import damaged

    (tmp_path / "x").write_text("x")
    outcome, text = damaged.read(damaged.Kind("x", lambda path: int(path.read_text())), tmp_path / "x")
    assert outcome == "ValueError"
    assert "invalid literal" in text
