"""What real folders do to a run of segment: names, links, sizes, limits of the machine; a row for each file, no hang.

CELLVISION_FILES sets how many files the listing test makes (10,000; the bound is for 100,000).
"""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pandas as pd
import pytest
from corpus import pillow, tiff

from cellvision import segment
from cellvision.cells import crop, cropstore
from cellvision.core import files, rundir
from cellvision.core.cli import main
from cellvision.core.errors import NoUsableInput
from cellvision.io import labelmaps, rawfolder
from cellvision.io.images import process
from cellvision.io.images.reader import ImageError, Limits, Reason, read_image
from cellvision.segmenters import Segmentation

sys.path.append(str(Path(__file__).parents[2] / "experiments" / "bench"))
PLAIN = ["--segmenter", "threshold", "--workers", "0"]
FILES = int(os.environ.get("CELLVISION_FILES", "10000"))
GIB = 1 << 30


def discs(count: int = 2, pitch: int = 32, radius: float = 9.0, dtype: Any = np.uint8) -> Any:
    """(count x pitch)^2 pixels of count^2 dark discs on a bright ground, with a little noise."""
    line = (np.arange(count * pitch) % pitch - pitch / 2 + 0.5) ** 2
    inside = line[:, None] + line <= radius**2
    noise = np.random.default_rng(count).integers(-6, 7, inside.shape)
    return (np.where(inside, 60, 200) + noise).astype(dtype)


def put(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pillow(discs(), "PNG") if data is None else data)
    return path


def segmented(raw: Path, out: Path, *flags: str) -> pd.DataFrame:
    """Run the command in this process; -> images.parquet by path. The tables must add up."""
    assert main("segment", [*PLAIN, "--raw", str(raw), "--out", str(out), *flags]) == 0
    images, cells = (pd.read_parquet(out / f"{name}.parquet") for name in ("images", "cells"))
    assert images["n_cells"].sum() == (cells["mode"] == "cell").sum() == len(cropstore.Crops(out / "crops"))
    return images.set_index("path")


# -- names, kinds and links (I02 to I05) --------------------------------------------------------------------------

NAMES = [
    "café.png", "cafe\u0301.png", "\U0001f9eb.png", "細胞.png", "\u05ea\u05d0\u202e.png", "a b  c.png", "q'\"q.png",
    "50%.png", "#1.png", "[x].png", "new\nline.png", "-rf.png", "CON", "CON.png", "dot.", "x" * 251 + ".png",
    "<b>&.png", "=1+1.png", "@sum.png",
]  # fmt: skip


def test_images_of_any_name_are_processed(tmp_path: Path) -> None:
    for name in NAMES:
        put(tmp_path / "raw" / "g" / name)
    raw_name = os.fsdecode(os.fsencode(tmp_path / "raw" / "g") + b"/\xff\xfe.png")
    put(Path(raw_name))
    images = segmented(tmp_path / "raw", tmp_path / "cells")
    assert len(images) == len(NAMES) + 1
    assert (images["n_cells"] == 4).all()
    assert {path.stem for path in (tmp_path / "cells" / "masks").iterdir()} == set(images["image_id"])
    files.write_csv(tmp_path / "images.csv", images.reset_index()[["path", "group"]])
    back = pd.read_csv(tmp_path / "images.csv", keep_default_na=False)
    assert back["path"].tolist() == images.index.tolist()  # every path begins with the group, so none is a formula
    assert files.inert("=1+1.png") == "'=1+1.png"


def test_a_group_named_like_a_formula_is_inert_in_csv(tmp_path: Path) -> None:
    put(tmp_path / "raw" / "=cmd" / "1.png")
    images = segmented(tmp_path / "raw", tmp_path / "cells")
    files.write_csv(tmp_path / "images.csv", images.reset_index()[["path", "group"]])
    assert (tmp_path / "images.csv").read_text().splitlines()[1] == '"\'=cmd/1.png","\'=cmd"'


def test_content_decides_what_a_file_is(tmp_path: Path) -> None:
    kinds = {
        "a.PNG": "PNG", "b.Tif": "TIFF", "c.JPEG": "JPEG", "d.jpe": "JPEG", "none": "PNG", "wrong.jpg": "BMP",
        "odd.dat": "GIF",
    }  # fmt: skip
    for name, kind in kinds.items():
        put(tmp_path / "raw" / "g" / name, pillow(discs(), kind))
    images = segmented(tmp_path / "raw", tmp_path / "cells")
    assert images["n_cells"].to_dict() == {f"g/{name}": 4 for name in kinds}
    spited = images["note"].str.contains("in spite of its name")
    assert spited[spited].index.tolist() == ["g/odd.dat", "g/wrong.jpg"]


def test_links_and_special_files_neither_hang_nor_leave_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "outside.png")
    real = put(tmp_path / "raw" / "g" / "real.png")
    os.mkfifo(tmp_path / "raw" / "g" / "fifo.png")
    os.link(real, tmp_path / "raw" / "g" / "hard.png")
    links: dict[str, Path | str] = {
        "in.png": real,
        "out.png": tmp_path / "outside.png",
        "up": tmp_path / "raw",
        "zero.png": "/dev/zero",
        "broken.png": "nowhere",
    }
    for name, target in links.items():
        (tmp_path / "raw" / "g" / name).symlink_to(target)
    expected = {
        "g/real.png": "OK", "g/hard.png": "OK", "g/in.png": "OK", "g/out.png": "E_UNSAFE", "g/up": "E_DUPLICATE",
        "g/zero.png": "E_UNSAFE", "g/broken.png": "E_IO", "g/fifo.png": "E_UNSAFE",
    }  # fmt: skip
    assert segmented(tmp_path / "raw", tmp_path / "cells")["reason"].to_dict() == expected
    followed = segmented(tmp_path / "raw", tmp_path / "followed", "--follow-symlinks")
    assert followed["reason"].to_dict() == expected | {"g/out.png": "OK"}


def test_junk_has_a_row_each_and_costs_nothing(tmp_path: Path) -> None:
    put(tmp_path / "raw" / "g" / "1.png")
    junk = [".DS_Store", "Thumbs.db", "._x.png", "m.npy", "z.zip", "README", "empty"]
    for name in junk:
        put(tmp_path / "raw" / "g" / name, b"" if name == "empty" else b"x")
    put(tmp_path / "raw" / "g" / "__MACOSX" / "1.png")
    images = segmented(tmp_path / "raw", tmp_path / "cells", "--strict")  # what is ignored was not rejected
    assert images["status"].value_counts().to_dict() == {"ignored": len(junk) + 1, "ok": 1}


# -- copies, groups, images without cells (I06 to I09) ------------------------------------------------------------


def test_copies_are_found_in_any_encoding_and_stay_together(tmp_path: Path) -> None:
    from cellvision import plan

    rng = np.random.default_rng(0)
    pictures = [np.clip(discs() + rng.integers(-9, 9, (64, 64)), 0, 255).astype(np.uint8) for _ in range(8)]
    for number, picture in enumerate(pictures):
        put(tmp_path / "raw" / "ab"[number % 2] / f"{number}.png", pillow(picture, "PNG"))
    put(tmp_path / "raw" / "a" / "bytes.png", pillow(pictures[0], "PNG"))
    put(tmp_path / "raw" / "a" / "encoding.tif", tiff(pictures[2]))
    put(tmp_path / "raw" / "b" / "conflict.bmp", pillow(pictures[4], "BMP"))
    images = segmented(tmp_path / "raw", tmp_path / "cells")
    assert images.loc["a/0.png", "sha256"] == images.loc["a/bytes.png", "sha256"]
    sets = [["a/0.png", "a/bytes.png"], ["a/2.png", "a/encoding.tif"], ["a/4.png", "b/conflict.bmp"]]
    assert sorted(map(sorted, images.groupby("pixel_hash").groups.values())) == sorted(
        sets + [[f"{'ab'[number % 2]}/{number}.png"] for number in (1, 3, 5, 6, 7)]
    )
    plan.run(plan.Config(items=tmp_path / "cells"), tmp_path / "plan")
    found = files.read_json(tmp_path / "plan" / "plan.json")
    ids = images["image_id"]
    assert sorted(map(sorted, found["duplicates"])) == sorted(sorted(ids[names]) for names in sets)
    assert [sorted(conflict) for conflict in found["label_conflicts"]] == [sorted(ids[sets[2]])]
    units = pd.read_csv(tmp_path / "plan" / "splits.csv").set_index("source_id")["unit"]
    assert all(units[ids[names]].nunique() == 1 for names in sets)


def test_groups_of_any_number_and_size_are_listed_and_worked_on(tmp_path: Path) -> None:
    small = pillow(discs(1), "PNG")
    for number in range(1000):
        put(tmp_path / "many" / f"g{number:04d}" / "1.png", small)
    entries = rawfolder.scan_folder(tmp_path / "many")
    assert len({entry.group for entry in entries}) == len(entries) == 1000
    (tmp_path / "raw" / "nothing").mkdir(parents=True)
    put(tmp_path / "raw" / "one" / "1.png")
    for number in range(5):
        put(tmp_path / "raw" / "five" / "plate" / f"{number}.png")
    images = segmented(tmp_path / "raw", tmp_path / "cells")
    assert images.loc["nothing", ["status", "note"]].tolist() == ["ignored", "empty folder"]
    assert images.groupby("group")["n_cells"].sum().to_dict() == {"five": 20, "nothing": 0, "one": 4}


def test_images_without_cells_have_rows_and_a_count(tmp_path: Path) -> None:
    blank = pillow(np.full((64, 64), 128, np.uint8), "PNG")
    put(tmp_path / "raw" / "some" / "1.png")
    put(tmp_path / "raw" / "some" / "2.png", blank)
    put(tmp_path / "raw" / "none" / "1.png", blank)
    images = segmented(tmp_path / "raw", tmp_path / "cells")
    assert images["n_cells"].to_dict() == {"none/1.png": 0, "some/1.png": 4, "some/2.png": 0}
    assert images["reason"].to_dict() == {"none/1.png": "E_NO_CELLS", "some/1.png": "OK", "some/2.png": "E_NO_CELLS"}
    assert files.read_json(tmp_path / "cells" / "metrics.json")["images_without_cells"] == 2
    put(tmp_path / "blank" / "g" / "1.png", blank)
    put(tmp_path / "blank" / "g" / "2.png", blank)
    with pytest.raises(NoUsableInput, match=r"2 E_NO_CELLS.*--diameter, --channels and --segmenter"):
        segment.run(
            segment.Config(raw=tmp_path / "blank", segmenter="threshold", workers=0),
            tmp_path / "nothing",
        )


# -- many cells, cells of any shape, images of any shape (I10 to I14) ---------------------------------------------


class Labeller:
    """Every dark blob is a cell, so that a crowd takes no time."""

    def segment(self, pixels: Any) -> Segmentation:
        import cv2

        labels = cv2.connectedComponents((pixels[..., 0] < 130).astype(np.uint8))[1]
        return Segmentation(labels.astype(np.int32), {}, ())

    def identity(self) -> str:
        return "dark blobs"


@pytest.mark.parametrize(("count", "pitch", "radius"), [(114, 18, 6.0), (257, 8, 2.6)], ids=["12996", "66049"])
def test_every_cell_of_a_crowd_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, pitch: int, radius: float
) -> None:
    put(tmp_path / "raw" / "g" / "crowd.png", pillow(discs(count, pitch, radius), "PNG"))
    monkeypatch.setattr(segment, "_segmenter", lambda cfg: Labeller())
    images = segmented(tmp_path / "raw", tmp_path / "cells")
    assert images.loc["g/crowd.png", "n_cells"] == count**2
    labels = labelmaps.read(tmp_path / "cells" / "masks" / f"{images.loc['g/crowd.png', 'image_id']}.tif")
    cells = pd.read_parquet(tmp_path / "cells" / "cells.parquet").set_index("mask_label")
    assert labels.max() == len(cells) == cells.index.nunique()
    assert cells["item_id"].is_unique
    last = cells.loc[count**2]
    assert labels[round(last["y"]), round(last["x"])] == count**2, "a label above 65,535 is not cut to 16 bits"
    crops = cropstore.Crops(tmp_path / "cells" / "crops").take(np.arange(len(cells))[:: len(cells) // 50])
    assert ((crops[..., -1] > 0).sum((1, 2)) == cells["area_px"].to_numpy()[:: len(cells) // 50]).all()


def test_cells_at_borders_of_one_pixel_nested_and_touching_are_measured() -> None:
    labels = np.zeros((40, 50), np.int32)
    labels[0:6, 10:20] = 1  # at the border
    labels[20, 30] = 2  # one pixel
    labels[10:19, 5:15] = 3
    labels[13:15, 8:10] = 4  # inside of 3
    labels[10:19, 15:25] = 5  # touches 3
    table = crop.measure(labels)
    cells = table.set_index("mask_label")
    assert cells["touches_border"].to_dict() == {1: True, 2: False, 3: False, 4: False, 5: False}
    assert cells["area_px"].to_dict() == {1: 60, 2: 1, 3: 86, 4: 4, 5: 90}
    table["scale"] = np.float32(1)
    crops = crop.cut(np.zeros((40, 50, 1), np.uint8), labels, table, 32)
    assert ((crops[..., -1] > 0).sum((1, 2)) == table["area_px"]).all()


def test_one_cell_that_fills_the_image_is_measured_and_cut() -> None:
    table = crop.measure(np.ones((40, 50), np.int32))
    assert table["touches_border"].all()
    table["scale"] = np.float32(0.5)
    mask = crop.cut(np.zeros((40, 50, 1), np.uint8), np.ones((40, 50), np.int32), table, 32)[0, ..., -1]
    assert (mask > 0).sum() == pytest.approx(20 * 25, rel=0.05)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8), np.full((64, 64), 65535, np.uint16),
        np.full((64, 64, 3), 255, np.uint8), np.zeros((10, 30_000), np.uint8), np.zeros((30_000, 10), np.uint8),
        np.full((64, 64), 0.5, np.float32), np.full((8, 8), 7, np.uint8),
    ],
    ids=lambda picture: f"{picture.shape}-{picture.dtype}-{picture.flat[0]}",
)  # fmt: skip
def test_flat_pictures_of_any_shape_divide_by_nothing(tmp_path: Path, picture: Any) -> None:
    put(tmp_path / "raw" / "g" / "flat.tif", tiff(picture))
    put(tmp_path / "raw" / "g" / "cells.png")
    with np.errstate(all="raise"):
        images = segmented(tmp_path / "raw", tmp_path / "cells")
    assert images.loc["g/flat.tif", ["reason", "n_cells"]].tolist() == ["E_NO_CELLS", 0]


def test_saturated_cells_are_found(tmp_path: Path) -> None:
    put(tmp_path / "raw" / "g" / "hot.tif", tiff(np.where(discs() < 100, 65535, 40).astype(np.uint16)))
    assert segmented(tmp_path / "raw", tmp_path / "cells").loc["g/hot.tif", "n_cells"] == 4


def test_channels_are_taken_where_they_are_clear_and_asked_for_where_not(tmp_path: Path) -> None:
    for count in (1, 2, 3, 4, 5, 9):
        planes = np.stack([discs(dtype=np.uint16)] * count)
        put(tmp_path / "raw" / "g" / f"{count}.ome.tif", tiff(planes, ome=True, metadata={"axes": "CYX"}))
    images = segmented(tmp_path / "raw", tmp_path / "cells")
    unclear = {f"g/{count}.ome.tif" for count in (2, 4, 5, 9)}
    assert set(images.index[images["reason"] == "E_CHANNELS"]) == unclear
    assert images.loc[sorted(unclear), "note"].str.contains("--channels").all()
    assert images.loc["g/3.ome.tif", "n_cells"] == images.loc["g/1.ome.tif", "n_cells"] == 4
    first = segmented(tmp_path / "raw", tmp_path / "first", "--channels", "0")
    assert (first["n_cells"] == 4).all()


def test_pixel_sizes_are_recorded_as_far_as_they_are_known(tmp_path: Path) -> None:
    options: dict[str, dict[str, Any]] = {
        "none": {}, "half": {"imagej": True, "resolution": (2, 2), "metadata": {"unit": "um"}},
        "inch": {"resolution": (25_400, 25_400), "resolutionunit": "INCH"},
        "print": {"resolution": (300, 300), "resolutionunit": "INCH"},
    }  # fmt: skip
    for name, given in options.items():
        put(tmp_path / "raw" / "g" / f"{name}.tif", tiff(discs(), **given))
    sizes = segmented(tmp_path / "raw", tmp_path / "cells")["pixel_size_um"]
    assert sizes["g/half.tif"] == pytest.approx(0.5)
    assert sizes["g/inch.tif"] == pytest.approx(1.0)
    assert sizes[["g/none.tif", "g/print.tif"]].isna().all()


# -- many files, files that change (I15, I16, K09) ----------------------------------------------------------------

LISTING = """
import re, sys, time
from pathlib import Path
from cellvision.core.rawfolder import scan
begun = time.process_time()
found = scan(Path(sys.argv[1]))
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(len(found), time.process_time() - begun, int(peak[1]) / 1024)
"""


def test_a_hundred_thousand_files_are_listed_in_a_minute_within_half_a_gigabyte(tmp_path: Path) -> None:
    (tmp_path / "raw" / "g").mkdir(parents=True)
    for number in range(FILES):
        (tmp_path / "raw" / "g" / f"{number}.png").write_bytes(b"x")
    answer = subprocess.run(
        [sys.executable, "-c", LISTING, str(tmp_path / "raw")], capture_output=True, text=True, check=True
    )
    count, seconds, mib = map(float, answer.stdout.split())
    assert count == FILES
    assert seconds < 60 * FILES / 100_000
    assert mib < 500


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_file_that_goes_or_changes_after_the_listing_costs_its_row(tmp_path: Path, change: str) -> None:
    put(tmp_path / "raw" / "g" / "still.png")
    moving = put(tmp_path / "raw" / "g" / "moving.png")
    cfg = segment.Config(raw=tmp_path / "raw", segmenter="threshold", workers=0)
    entries = segment.scan_images(cfg)
    moving.unlink()
    if change == "replaced":
        put(moving, pillow(discs(1, 64), "PNG"))
    images, _ = segment.find_cells(cfg, entries, tmp_path / "cells")
    reasons = images.set_index("path")["reason"].to_dict()
    assert reasons == {"g/moving.png": "E_IO" if change == "deleted" else "E_CHANGED", "g/still.png": "OK"}


# -- limits of decoding: time, memory, crashes --------------------------------------------------------------------


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A TIFF of 3,000 pages that share one strip of 6,000 x 6,000 zeros: 0.3 MB that take minutes to decode."""
    return put(tmp_path / "slow.tif", corpus.time_bomb(side=6000, pages=3000))


def test_a_decode_that_takes_too_long_ends_in_a_row(slow: Path) -> None:
    begun = time.process_time()
    with pytest.raises(ImageError, match="stopped after 1 s") as error:
        read_image(slow, limits=Limits(max_seconds=1, max_seconds_per_mb=0))
    assert error.value.reason is Reason.E_TOO_LARGE
    assert time.process_time() - begun < 1, "the waiting costs nothing"
    put(slow)
    assert read_image(slow).pixels.shape == (64, 64, 1), "the next picture gets a new decoder"


def test_a_decode_that_waits_for_nothing_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that sleeps uses no processor time."""
    path = put(tmp_path / "1.png")
    package = tmp_path / "stuck" / "sitecustomize.py"
    put(package, b"import time, zlib\nzlib.crc32 = lambda data: time.sleep(1000)\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(process, "_running", None)
    with pytest.raises(ImageError, match="stopped after"):
        read_image(path, limits=Limits(max_seconds=0.02, max_seconds_per_mb=0))
    monkeypatch.undo()
    assert read_image(path).pixels.shape == (64, 64, 1)


@pytest.mark.parametrize("times", [1, 2])
def test_a_decoder_that_somebody_kills_is_started_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    path, asked, real = put(tmp_path / "1.png"), [], process._ask

    def ask(process: subprocess.Popen[bytes], *others: Any) -> Any:
        asked.append(process.pid)
        if len(asked) <= times:
            process.kill()
            process.wait()
        return real(process, *others)

    monkeypatch.setattr(process, "_ask", ask)
    if times == 1:
        assert (read_image(path).pixels[..., 0] == discs()).all()
    else:
        with pytest.raises(ImageError, match="ended with code -9") as error:
            read_image(path)
        assert error.value.reason is Reason.E_TOO_LARGE
    assert len(set(asked)) == 2


def test_memory_is_capped_where_a_picture_is_decoded(tmp_path: Path) -> None:
    """The mean of two planes of 49 MB is taken in 8 bytes a pixel."""
    path = put(tmp_path / "stack.tif", corpus.time_bomb(side=7000, pages=2))
    with pytest.raises(ImageError, match="more memory is needed") as error:
        read_image(path, frames="mean", limits=Limits(max_decoded_mb=50))
    assert error.value.reason is Reason.E_TOO_LARGE
    assert read_image(path, frames="mean").pixels.shape == (7000, 7000, 1)


def test_a_transparent_picture_takes_no_more_memory_than_an_opaque_one(tmp_path: Path) -> None:
    """64 MB of pixels; mixing them with the border at once would take 1.5 GB."""
    path = put(tmp_path / "clear.png", pillow(np.zeros((4000, 4000, 4), np.uint8), "PNG", compress_level=1))
    assert read_image(path, limits=Limits(max_decoded_mb=80)).pixels.shape == (4000, 4000, 3)


# -- limits of the machine (R01, R03 to R05) ----------------------------------------------------------------------


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
        "import sys; from cellvision.core.images import *\n"
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


def test_64_file_handles_are_enough(raw: Path, tmp_path: Path) -> None:
    command = ["segment", *PLAIN, "--raw", str(raw), "--workers", "2", "--out", str(tmp_path / "cells")]
    answer = limited(command, resource.RLIMIT_NOFILE, 64)
    assert answer.returncode == 0, answer.stderr
    segmented(raw, tmp_path / "whole")
    assert contents(tmp_path / "cells") == contents(tmp_path / "whole")


# -- damaged files ------------------------------------------------------------------------------------------------


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
