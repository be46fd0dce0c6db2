"""Run folders of strangers, halves and doubles: export and report end in one line and lose nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from test_export import content, make_run, sealed, told

from cellvision import export, report
from cellvision.commandline.cli import main
from cellvision.core import files, rundir
from cellvision.core.errors import ConfigError, UnsafeInput
from cellvision.io import labelmaps


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return make_run(tmp_path)


@pytest.mark.parametrize("to", ["geojson", "cellprofiler", "labels"])
def test_an_export_that_was_killed_is_repeated(made: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = content(told(made, to, raw=made.parent / "raw") if to == "cellprofiler" else told(made, to))
    real, left = export.export_one, [2]

    def killed(job: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(export, "export_one", killed)
    out = made.parent / "half"
    cfg = export.Config.model_validate({"run": made, "to": to, "workers": 0})
    with pytest.raises(KeyboardInterrupt):
        export.run(cfg, out)
    assert files.read_json(out / export.RECORD)["status"] == "running"
    (out / ".Cells.csv.1.tmp").touch()
    monkeypatch.undo()
    export.run(cfg, out)
    assert content(out) == whole


def test_the_second_of_two_exports_to_one_folder_is_refused(made: Path) -> None:
    out = made.parent / "as-labels"
    with rundir.locked(out), pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        told(made, "labels")
    assert not list(out.iterdir())
    told(made, "labels")


def test_a_lock_that_its_holder_removed_holds_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def remove(handle: Any) -> None:
        (tmp_path / ".lock").unlink()
        (tmp_path / ".lock").touch()

    monkeypatch.setattr(rundir, "_lock_file", remove)
    with pytest.raises(ConfigError, match="in use"), rundir.locked(tmp_path):
        pass


def test_an_export_of_a_run_with_links_or_strange_names_is_unsafe(made: Path) -> None:
    (made / "masks" / "more.tif").symlink_to("/etc/hostname")
    with pytest.raises(UnsafeInput, match="link, pipe or device"):
        told(made, "labels")
    (made / "masks" / "more.tif").unlink()
    images = files.read_parquet(made / "images.parquet")
    files.write_parquet(made / "images.parquet", images.replace({"image_id": {"id0": "../../id0"}}))
    sealed(made)
    with pytest.raises(UnsafeInput, match="no name of a file"):
        told(made, "labels")


@pytest.mark.parametrize(
    ("name", "data"),
    [("metrics.json", b"[]"), ("metrics.json", b"{"), ("metrics.json", b'{"stamps": 3}'), ("cells.parquet", b"PAR1"),
     ("cells.parquet", b""), ("geometry.json", b"["),
     ("run.json", b'{"schema": 1, "stage": "plan", "status": "done"}')],
)  # fmt: skip
def test_a_page_about_a_run_that_lacks_what_its_stage_leaves_is_one_line(
    made: Path, name: str, data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / name).write_bytes(data)
    if name != "run.json":
        sealed(made)
    assert main("report", [str(made), "--out", str(tmp_path / "page.html")]) in (3, 4)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("metrics", [{"stamps": 3}, {"not_evaluated": 1}, [1], {"": {"a": [None]}}])
def test_a_page_about_a_run_with_odd_numbers_is_one_line_or_a_page(
    simulated: Path, metrics: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(simulated, tmp_path / "run")
    files.write_json(run / "metrics.json", metrics)
    sealed(run, stage="embed")
    assert main("report", [str(run)]) in (0, 4)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_page_follows_no_link_and_waits_for_no_pipe(made: Path, tmp_path: Path) -> None:
    (made / "secret.png").symlink_to("/etc/hostname")
    with pytest.raises(UnsafeInput, match="link, pipe or device"):
        report.run(report.Config(run=made), tmp_path / "page.html")
    (made / "secret.png").unlink()
    os.mkfifo(made / "secret.png")
    with pytest.raises(UnsafeInput, match="link, pipe or device"):
        report.run(report.Config(run=made), tmp_path / "page.html")
    with pytest.raises(ConfigError, match="device"):
        report.run(report.Config(run=made), Path(os.devnull))


def test_a_map_that_is_none_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    good = np.arange(12, dtype=np.int32).reshape(3, 4)
    labelmaps.write(path, good)
    np.testing.assert_array_equal(labelmaps.read(path), good)
    whole = path.read_bytes()
    for data in (b"", whole[:40], whole[:-20], b"II*\0" + bytes(40)):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match="label map"):
            labelmaps.read(path)
    for other in (good.astype(float), np.stack([good, good]), good - 20, good + 10**6):
        tifffile.imwrite(path, other)
        with pytest.raises(ConfigError, match="label map"):
            labelmaps.read(path)
