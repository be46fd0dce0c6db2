"""A finished run is verified before it is reused or read; one of a stranger reaches nothing outside of itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from example_stage import Example

from cellvision.core import files, rundir
from cellvision.core.errors import ConfigError, UnsafeInput
from cellvision.core.rundir import RunDir

DATA = bytes(range(256)) * 64


def finish(out: Path) -> list[str]:
    """A finished run of two files; -> what was made now."""
    made = []
    with RunDir.claim(out, "example", Example()) as run:
        if not run.done:
            for name in ("a.bin", "parts/b.bin"):
                files.write_bytes(out / name, DATA)
                made.append(name)
            run.finish({"answer": 42})
    return made


def zero(path: Path) -> None:
    path.write_bytes(bytes(100) + DATA[100:])


def without_list(run: Path) -> None:
    (run / rundir.CONTENTS).unlink()
    zero(run / "a.bin")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gone": (lambda run: (run / "a.bin").unlink(), "a.bin is gone"),
    "zeroed": (lambda run: zero(run / "parts" / "b.bin"), "parts/b.bin has changed"),
    "cut": (lambda run: (run / "a.bin").write_bytes(DATA[:-1]), "a.bin has changed"),
    "another score": (lambda run: files.write_json(run / "metrics.json", {"answer": 43}), "metrics.json has changed"),
    "another list": (lambda run: files.write_json(run / rundir.CONTENTS, {"a.bin": "0"}), "is not the list"),
    "no list": (without_list, "its files have changed"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_finished_run_whose_files_are_not_what_they_were_is_not_used(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    finish(out)
    content = rundir.content_of(out)
    damage, words = DAMAGE[kind]
    damage(out)
    with pytest.raises(ConfigError, match=words):
        rundir.content_of(out)
    assert finish(out) == ["a.bin", "parts/b.bin"], "it is made again"
    assert words in capsys.readouterr().err
    assert rundir.content_of(out) == content
    assert finish(out) == []


def test_files_that_came_later_do_no_harm(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    content = rundir.content_of(tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("looked at by me")
    assert rundir.content_of(tmp_path / "run") == content


@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "pipe", "link among children"])
def test_a_run_that_points_outside_of_itself_is_unsafe(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    finish(out)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    (out / "runs").mkdir()
    if kind == "pipe":
        os.mkfifo(out / "parts" / "pipe.png")
    elif kind == "link to a file":
        (out / "curves.png").symlink_to(tmp_path / "secret" / "key")
    else:
        (out / ("runs" if "children" in kind else ".") / "more").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeInput, match="link, pipe or device"):
        rundir.content_of(out)


def test_a_list_that_names_files_elsewhere_is_unsafe(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    hashes = {"../key": "0" * 64}
    files.write_json(tmp_path / "run" / rundir.CONTENTS, hashes)
    record = files.read_json(tmp_path / "run" / "run.json")
    files.write_json(tmp_path / "run" / "run.json", record | {"content": files.hash_of(hashes)})
    with pytest.raises(UnsafeInput, match="outside of the run"):
        rundir.content_of(tmp_path / "run")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "7", "{", '{"schema": 1}', '{"schema": 1, "stage": 3, "status": "done"}', "[" * 9999,
             '{"schema": 1, "stage": "example", "status": "done"}', '{"schema": 2, "versions": 3}', "\x00"],
)  # fmt: skip
def test_a_record_that_no_stage_wrote_is_one_line(text: str, tmp_path: Path) -> None:
    finish(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json|run schema"):
        rundir.content_of(tmp_path / "run")
