"""Limits of the machine: a full disk, little memory, unreadable files, few file handles."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import corpus
import pandas as pd
import pytest
from corpus import pillow
from raw_images import PLAIN, discs, put, segmented

from cellvision.commandline.cli import main
from cellvision.core import files, rundir

GIB = 1 << 30


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for number in range(3):
        put(tmp_path / "raw" / "ab"[number % 2] / f"{number}.png", pillow(discs(3 + number), "PNG"))
    return tmp_path / "raw"


def contents(out: Path) -> str:
    return str(files.read_json(out / "run.json")["content"])


def test_a_full_disk_says_what_was_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cellvision.core.files.os.fsync", fsync)
    with pytest.raises(OSError, match=r"No space left on device: data.bin needs 1000 bytes") as error:
        files.write_bytes(tmp_path / "data.bin", bytes(1000))
    assert error.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("writes", [0, 2, 4, 7, 9, 11])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], writes: int
) -> None:
    segmented(raw, tmp_path / "whole")
    real, left = os.fsync, [writes]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr("cellvision.core.files.os.fsync", fsync)
    command = [*PLAIN, "--raw", str(raw), "--out", str(tmp_path / "cells")]
    assert main("segment", command) == 28
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("cellvision segment: the disk is full (")
    monkeypatch.undo()
    rundir._let_go()  # as the end of the process would
    assert not (tmp_path / "cells" / "metrics.json").exists()
    segmented(raw, tmp_path / "cells")
    assert contents(tmp_path / "cells") == contents(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a tmpfs of so many KiB."""
    folder = tmp_path / "small"
    folder.mkdir()

    def mounted(kib: int) -> Path:
        how = f"remount,size={kib}k" if folder.is_mount() else f"size={kib}k"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(folder)], capture_output=True).returncode:
            pytest.skip("a disk can only be mounted by an administrator")
        return folder

    yield mounted
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def test_a_disk_that_grows_step_by_step_ends_with_the_same_run(
    raw: Path, tmp_path: Path, small_disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    segmented(raw, tmp_path / "whole")
    codes = []
    for kib in (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 4096):
        out = small_disk(kib) / "cells"
        codes.append(main("segment", [*PLAIN, "--raw", str(raw), "--out", str(out)]))
        if codes[-1] == 0:
            break
        assert "the disk is full (" in capsys.readouterr().err
        rundir._let_go()
    assert codes[-1] == 0
    assert set(codes[:-1]) == {28}
    assert len(codes) > 5
    assert contents(out) == contents(tmp_path / "whole")


def limited(command: list[str], limit: int, value: int) -> subprocess.CompletedProcess[str]:
    """The command of cellvision with one resource limit."""
    return subprocess.run(
        [sys.executable, "-m", "cellvision", *command], capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(limit, (value, value)),
    )  # fmt: skip


def test_a_picture_larger_than_the_memory_costs_its_row(raw: Path, tmp_path: Path) -> None:
    put(raw / "a" / "huge.png", corpus.png_bomb(10_000))
    command = ["segment", *PLAIN, "--raw", str(raw), "--out", str(tmp_path / "cells")]
    answer = limited(command, resource.RLIMIT_AS, 2 * GIB)
    assert answer.returncode == 0, answer.stderr
    images = pd.read_parquet(tmp_path / "cells" / "images.parquet").set_index("path")
    assert images["reason"].to_dict() == {
        "a/0.png": "OK",
        "a/2.png": "OK",
        "a/huge.png": "E_TOO_LARGE",
        "b/1.png": "OK",
    }


def test_a_picture_that_does_not_fit_is_refused_when_the_limit_is_raised(tmp_path: Path) -> None:
    put(tmp_path / "huge.png", corpus.png_bomb(30_000))
    code = (
        "import sys; from cellvision.io.images.reader import *\n"
        "try: read_image(sys.argv[1], limits=Limits(max_megapixels=1000, max_decoded_mb=8000))\n"
        "except ImageError as error: print(error.reason)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "huge.png")], capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 * GIB, 2 * GIB)),
    )  # fmt: skip
    assert (answer.returncode, answer.stdout.strip()) == (0, "E_TOO_LARGE"), answer.stderr


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read_costs_its_row(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.open

    def refuse(path: Any, *others: Any, **named: Any) -> int:
        if str(path).endswith("1.png"):
            raise OSError(number, os.strerror(number))
        return real(path, *others, **named)

    monkeypatch.setattr("cellvision.io.images.reader.os.open", refuse)
    images = segmented(raw, tmp_path / "cells")
    assert images["reason"].to_dict() == {"a/0.png": "OK", "a/2.png": "OK", "b/1.png": "E_IO"}
    assert os.strerror(number) in images.loc["b/1.png", "note"]


@pytest.mark.usefixtures("true_pictures")  # as in the process of the command
def test_64_file_handles_are_enough(raw: Path, tmp_path: Path) -> None:
    command = ["segment", *PLAIN, "--raw", str(raw), "--workers", "2", "--out", str(tmp_path / "cells")]
    answer = limited(command, resource.RLIMIT_NOFILE, 64)
    assert answer.returncode == 0, answer.stderr
    segmented(raw, tmp_path / "whole")
    assert contents(tmp_path / "cells") == contents(tmp_path / "whole")
