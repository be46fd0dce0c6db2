"""What real folders do to a run of segment: names, links, copies, files that change; a row for each file, no hang."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from corpus import pillow, tiff
from raw_images import discs, put, segmented, some_discs

from cellvision import segment
from cellvision.core import files
from cellvision.core.errors import NoUsableInput
from cellvision.io import rawfolder

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

    pictures = [some_discs(number) for number in range(8)]
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
