"""Run directories: claim, resume, reuse, refuse."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from example_stage import Example, Inner

from cellvision.core import files, rundir
from cellvision.core.config import StageConfig
from cellvision.core.errors import ConfigError
from cellvision.core.rundir import RunDir


def finish(out: Path, cfg: StageConfig, **inputs: str) -> RunDir:
    with RunDir.claim(out, "example", cfg, inputs) as run:
        if not run.done:
            files.write_text(out / "result.txt", "42")
            run.finish({"answer": 42})
    return run


def test_a_finished_twin_is_reused(tmp_path: Path) -> None:
    finish(tmp_path / "run", Example())
    before = (tmp_path / "run" / "run.json").stat().st_mtime_ns
    assert finish(tmp_path / "run", Example(workers=2)).done
    assert (tmp_path / "run" / "run.json").stat().st_mtime_ns == before


def test_another_config_is_refused_with_the_difference(tmp_path: Path) -> None:
    finish(tmp_path / "run", Example(), items="aaa")
    with pytest.raises(ConfigError, match=r"inner\.rate: 0\.1 there, 0\.5 now"):
        RunDir.claim(tmp_path / "run", "example", Example(inner=Inner(rate=0.5)), {"items": "aaa"})
    with pytest.raises(ConfigError, match=r"inputs\.items: 'aaa' there, 'bbb' now"):
        RunDir.claim(tmp_path / "run", "example", Example(), {"items": "bbb"})
    assert finish(tmp_path / "run", Example(), items="aaa").done


def test_a_second_claim_names_the_process_that_holds_the_run(tmp_path: Path) -> None:
    with (
        RunDir.claim(tmp_path / "run", "example", Example()),
        pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"),
    ):
        RunDir.claim(tmp_path / "run", "example", Example())
    assert not RunDir.claim(tmp_path / "run", "example", Example()).done


def test_a_broken_run_says_why_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match="invalid literal"), RunDir.claim(out, "example", Example()) as run:
        run.note(device="cpu", number=int("mishap"))
    record = files.read_json(out / "run.json")
    assert record["status"] == "broken"
    assert record["error"].startswith("ValueError: invalid literal")
    with pytest.raises(ConfigError, match="is broken; repeat its command"):
        rundir.content_of(out)
    finish(out, Example())
    assert files.read_json(out / "run.json")["status"] == "done"
    assert "error" not in files.read_json(out / "run.json")


def test_a_refusal_leaves_nothing_in_the_way_of_the_corrected_command(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="no such"), RunDir.claim(out, "example", Example(), {"encoder": "wrong"}):
        raise ConfigError("no such encoder")
    with RunDir.claim(out, "example", Example(), {"encoder": "right"}) as run:
        assert not run.done


def test_a_killed_run_resumes_without_what_it_was_writing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    RunDir.claim(out, "example", Example()).__exit__(None, None, None)  # no word, no finish: as after kill -9
    assert files.read_json(out / "run.json")["status"] == "running"
    half = out / "parts" / ".a.json.123.tmp"
    files.write_text(half.with_name("a.json"), "{}")
    half.write_text("{")
    finish(out, Example())
    assert not half.exists()
    assert half.with_name("a.json").exists()


def test_a_run_killed_while_it_claims_resumes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".lock", ".run.json.123.tmp"):
        (tmp_path / "run" / name).touch()
    assert finish(tmp_path / "run", Example()).done


def test_content_depends_on_results_alone(tmp_path: Path) -> None:
    for name, workers in (("a", 0), ("b", 2)):
        finish(tmp_path / name, Example(workers=workers)).log("note", of=name)
    contents = {rundir.content_of(tmp_path / name) for name in "ab"}
    assert len(contents) == 1
    files.write_text(tmp_path / "a" / "result.txt", "43")
    assert files.hash_tree(tmp_path / "a", rundir.BOOKKEEPING) not in contents


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    (tmp_path / ".notes.tmp").touch()
    with pytest.raises(ConfigError, match="not empty and is no run directory"):
        RunDir.claim(tmp_path, "example", Example())
    assert (tmp_path / ".notes.tmp").exists()
    with pytest.raises(ConfigError, match="is no run directory"):
        rundir.content_of(tmp_path)


def test_a_damaged_record_is_one_clear_line(tmp_path: Path) -> None:
    finish(tmp_path / "run", Example())
    (tmp_path / "run" / "run.json").write_text('{"schema": 1,')
    with pytest.raises(ConfigError, match="damaged; delete the folder"):
        RunDir.claim(tmp_path / "run", "example", Example())


def test_the_record_of_a_run_is_complete(tmp_path: Path) -> None:
    finish(tmp_path / "run", Example(seed=3))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    expected = {
        "schema",
        "stage",
        "status",
        "fingerprint",
        "inputs",
        "versions",
        "seed",
        "started",
        "finished",
        "git",
        "content",
    }
    assert expected <= set(record)
    assert record["seed"] == 3
    assert (
        record["versions"]["torch"] == torch.__version__.split("+")[0]
        or record["versions"]["torch"] == torch.__version__
    )
