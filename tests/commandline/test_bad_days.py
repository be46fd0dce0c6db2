"""What the system refuses ends in one line and an exit code; what strangers wrote is shown and not obeyed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cellvision import doctor
from cellvision.__main__ import dispatch
from cellvision.commandline.cli import main
from cellvision.core import files, progress
from cellvision.core.errors import ConfigError, DiskFull
from cellvision.io import tensorfiles

Text = pytest.CaptureFixture[str]
REFUSALS = (
    "EACCES", "EPERM", "EIO", "ENAMETOOLONG", "ESTALE", "EISDIR", "ENOTDIR", "ELOOP", "EROFS", "EMFILE", "ENFILE",
    "EFBIG", "ENOENT", "ENXIO", "ETIMEDOUT", "EBUSY",
)  # fmt: skip


def raising(error: BaseException) -> Any:
    def run(*_: Any) -> None:
        raise error

    return run


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_system_refuses_is_one_line_that_names_the_path(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: Text
) -> None:
    number = getattr(errno, name)
    monkeypatch.setattr(doctor, "run", raising(OSError(number, os.strerror(number), "/some/where")))
    assert main("doctor", []) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cellvision doctor: /some/where: ")
    assert os.strerror(number) in line


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate 7 TiB"), torch.OutOfMemoryError("CUDA out of memory"),
     RuntimeError("DefaultCPUAllocator: can't allocate memory"), OSError("a library's own words")],
)  # fmt: skip
def test_what_a_library_cannot_have_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: Text
) -> None:
    monkeypatch.setattr(doctor, "run", raising(error))
    assert main("doctor", []) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "run", raising(RuntimeError("a tensor of another shape")))
    with pytest.raises(RuntimeError, match="another shape"):
        main("doctor", [])


def test_a_full_disk_is_named_with_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: Text, tmp_path: Path
) -> None:
    full = DiskFull(errno.ENOSPC, "No space left on device: a.bin needs 9 bytes", str(tmp_path / "no" / "a.bin"))
    monkeypatch.setattr(doctor, "run", raising(full))
    assert main("doctor", []) == 28
    disk, _ = files.disk_of(tmp_path)
    line = capsys.readouterr().err
    assert "the disk is full (a.bin needs 9 bytes; " in line
    assert f"bytes are free on {disk})" in line


@pytest.mark.parametrize("words", [OSError("HDF5 says no"), RuntimeError("encoder error"), ValueError("short write")])
def test_a_full_disk_is_told_where_a_library_hides_it(
    words: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(full: bool) -> None:
        monkeypatch.setattr(files, "_is_full", lambda folder: full)
        with files.atomic(tmp_path / "x.png") as temporary:
            temporary.write_bytes(b"half")
            raise words

    with pytest.raises(DiskFull, match=r"x\.png needs more than 4 bytes"):
        save(True)
    with pytest.raises(type(words)):
        save(False)
    assert not list(tmp_path.iterdir())


def test_weights_say_how_much_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cellvision.core.files.os.fsync", refuse)
    with pytest.raises(DiskFull, match=r"w\.safetensors needs 4\d\d\d bytes"):
        tensorfiles.write(tmp_path / "w.safetensors", {"a": torch.zeros(1000)})


@pytest.mark.parametrize("kind", ["/dev/null", "fifo"])
def test_no_device_or_pipe_is_replaced_by_a_file(kind: str, tmp_path: Path, capsys: Text) -> None:
    target = Path(kind)
    if kind == "fifo":
        target = tmp_path / "fifo"
        os.mkfifo(target)
    with pytest.raises(ConfigError, match="device, pipe or socket"):
        files.write_bytes(target, b"x")
    assert main("simulate", ["--images", "1", "--out", str(target)]) == 4
    assert "device, pipe or socket" in capsys.readouterr().err
    assert target.exists()
    assert not target.is_file()


def test_escapes_of_a_terminal_are_shown_and_not_obeyed(capsys: Text) -> None:
    assert dispatch(["segment", "--raw", "a\x1b[2J\x1b]0;owned\x07\rb\u202ec\udc80", "--out", "x"]) == 3
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert r"a\x1b[2J\x1b]0;owned\x07\rb\u202ec\udc80" in line or r"a\x1b[2J\x1b]0;owned\x07" in line
    with progress.within("\x1b[31m"):
        progress.say("ü µm ≥ 3")
    assert capsys.readouterr().err == "\\x1b[31m: ü µm ≥ 3\n"


def test_nobody_need_read_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> None:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stderr", Closed())
    progress.say("words")
    assert list(progress.track([1, 2], "x", 2, "y")) == [1, 2]


def test_help_may_be_cut_off_by_its_reader() -> None:
    command = f"{sys.executable} -m cellvision segment --help | head -1; exit ${{PIPESTATUS[0]}}"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (0, "")
