"""Progress: a line names whose child is at work, what it does, and what is counted."""

from __future__ import annotations

import pytest

from cellvision.core import progress
from cellvision.core.progress import say, track, within


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUIET_S", 0.0)


@pytest.mark.usefixtures("often")
def test_a_line_of_progress_says_whose_what_and_how_many_of_what(capsys: pytest.CaptureFixture[str]) -> None:
    with within("ablate: simclr, seed 0"):
        assert list(track(range(6), "finetune: fold 1", 6, "steps")) == [*range(6)]
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("ablate: simclr, seed 0: finetune: fold 1: ") for line in lines)
    assert lines[0].startswith("ablate: simclr, seed 0: finetune: fold 1: 3/6 steps, ")
    assert lines[0].endswith(" left")


def test_names_are_nested_and_end_with_their_block(capsys: pytest.CaptureFixture[str]) -> None:
    with within("study"):
        with within("ablate"):
            say("one")
        say("two")
    with pytest.raises(ValueError, match="stop"), within("broken"):
        raise ValueError("stop")
    say("three")
    assert capsys.readouterr().err.splitlines() == ["study: ablate: one", "study: two", "three"]
