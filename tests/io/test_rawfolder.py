"""The raw folder: one row for every file, groups by a stated rule, safe ids, special files never opened."""

import os
import re
import socket
import time
import unicodedata
from pathlib import Path

import pytest

from cellvision.core.errors import NoUsableInput
from cellvision.io.rawfolder import image_id, scan


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "raw"
    path.mkdir()
    return path


def put(raw, *names, data=b"x"):
    for name in names:
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def rows(raw, **options):
    return {entry.relative: entry for entry in scan(raw, **options)}


def test_group_is_the_first_folder_and_rows_are_sorted(raw):
    put(raw, "b/2.png", "b/1.png", "a/plate/well/3.png", "a/1.png")
    found = scan(raw)
    assert [(entry.relative, entry.group, entry.status) for entry in found] == [
        ("a/1.png", "a", "ok"),
        ("a/plate/well/3.png", "a", "ok"),
        ("b/1.png", "b", "ok"),
        ("b/2.png", "b", "ok"),
    ]
    assert all(entry.path.is_absolute() and entry.path.read_bytes() == b"x" for entry in found)


def test_files_in_the_root_are_a_group_only_when_there_is_no_other(raw):
    put(raw, "1.png", "2.png", "notes/about.txt")
    assert {entry.group for entry in scan(raw) if entry.status == "ok"} == {"raw"}
    put(raw, "a/3.png")
    found = rows(raw)
    assert [found[name].status for name in ("1.png", "2.png", "a/3.png")] == ["ignored", "ignored", "ok"]
    assert "beside the group folders" in found["1.png"].note


def test_junk_has_a_row_each_and_images_by_any_name_are_candidates(raw):
    junk = [
        ".DS_Store",
        "Thumbs.db",
        "._x.png",
        ".hidden.png",
        "m.npy",
        "z.zip",
        "README",
        "readme.md",
        "t.csv",
        "empty",
        "a~",
    ]
    put(raw, *(f"g/{name}" for name in junk))
    put(raw, "g/empty", data=b"")
    put(raw, "g/__MACOSX/x.png", "g/.git/config")
    put(raw, "g/lost.png", data=b"")
    images = ["a.PNG", "b.Tif", "c.JPEG", "d.jpe", "none", "wrong.dat", "README.png", "trailing.", "csv"]
    put(raw, *(f"g/{name}" for name in images))
    found = rows(raw)
    assert {name for name, entry in found.items() if entry.status == "ok"} == {f"g/{name}" for name in images}
    ignored = {name for name, entry in found.items() if entry.status == "ignored"}
    assert ignored == {f"g/{name}" for name in [*junk, "__MACOSX", ".git"]}
    assert found["g/lost.png"].status == "skipped"
    assert all(entry.reason == "E_NOT_IMAGE" and entry.note for entry in found.values() if entry.status != "ok")


NAMES = [
    "caf\u00e9.png", "cafe\u0301.png", "\U0001f9eb.png", "\u7d30\u80de.png", "\u05ea\u05d0\u202e.png", "a b  c.png",
    "q'\"q.png", "50%.png", "#1.png", "[x].png", "new\nline.png", "-rf.png", "CON", "CON.png", "dot.",
    "x" * 251 + ".png", "<b>&.png", "=1+1.png",
]  # fmt: skip


def test_any_name_is_listed_with_a_safe_id(raw):
    put(raw, *(f"g/{name}" for name in NAMES))
    folder = os.fsencode(raw / "g")
    Path(os.fsdecode(folder + b"/\xff\xfe.png")).write_bytes(b"x")
    found = scan(raw)
    assert len(found) == len(NAMES) + 1
    assert all(entry.status == "ok" and entry.path.read_bytes() == b"x" for entry in found)
    assert "g/\\xff\\xfe.png" in [entry.relative for entry in found]
    for entry in found:
        entry.relative.encode("utf-8")
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]{0,79}-[0-9a-f]{8}", entry.image_id)
    assert len({entry.image_id.lower() for entry in found}) == len(found)


def test_image_id_depends_on_the_path_alone(raw):
    assert image_id("g/img 1.png") == "g_img_1_png-" + image_id("g/img 1.png")[-8:]
    assert image_id("g/A.png")[-8:] != image_id("g/a.png")[-8:]
    put(raw, "g/1.png")
    before = rows(raw)["g/1.png"].image_id
    put(raw, "g/0.png", "f/1.png")
    assert rows(raw)["g/1.png"].image_id == before == image_id("g/1.png")


def test_links_stay_inside_unless_followed(raw, tmp_path):
    put(tmp_path, "outside/o.png")
    put(raw, "g/real.png")
    (raw / "g/inside.png").symlink_to(raw / "g/real.png")
    (raw / "g/out.png").symlink_to(tmp_path / "outside/o.png")
    (raw / "g/broken.png").symlink_to(raw / "nowhere")
    (raw / "g/self.png").symlink_to("self.png")
    (raw / "g/up").symlink_to(raw)
    (raw / "h").symlink_to(tmp_path / "outside")
    (raw / "zero").symlink_to("/dev/zero")
    os.link(raw / "g/real.png", raw / "g/hard.png")
    outcome = {name: (entry.status, str(entry.reason)) for name, entry in rows(raw).items()}
    assert outcome == {
        "g/real.png": ("ok", "OK"),
        "g/inside.png": ("ok", "OK"),
        "g/hard.png": ("ok", "OK"),
        "g/out.png": ("skipped", "E_UNSAFE"),
        "g/broken.png": ("skipped", "E_IO"),
        "g/self.png": ("skipped", "E_IO"),
        "g/up": ("skipped", "E_DUPLICATE"),
        "h": ("skipped", "E_UNSAFE"),
        "zero": ("skipped", "E_UNSAFE"),
    }
    followed = rows(raw, follow_symlinks=True)
    assert {name for name, entry in followed.items() if entry.status == "ok"} == {
        "g/real.png", "g/inside.png", "g/hard.png", "g/out.png", "h/o.png",
    }  # fmt: skip
    assert followed["h/o.png"].group == "h"
    assert followed["g/up"].reason == "E_DUPLICATE"
    assert followed["zero"].reason == "E_UNSAFE"


def test_a_sibling_whose_name_begins_alike_is_outside(raw, tmp_path):
    put(tmp_path, "raw2/o.png")
    put(raw, "g/1.png")
    (raw / "g/l.png").symlink_to(tmp_path / "raw2/o.png")
    assert rows(raw)["g/l.png"].reason == "E_UNSAFE"


def test_special_files_are_never_opened(raw, monkeypatch):
    put(raw, "g/1.png")
    os.mkfifo(raw / "g/fifo.png")
    monkeypatch.chdir(raw / "g")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock.png")
        found = rows(raw)
    assert found["g/fifo.png"].reason == found["g/sock.png"].reason == "E_UNSAFE"


def test_folders_without_files_or_permission_have_a_row(raw, monkeypatch):
    put(raw, "a/1.png", "locked/1.png")
    (raw / "nothing").mkdir()
    (raw / "a/x.zarr/0").mkdir(parents=True)
    real = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("cellvision.io.rawfolder.os.scandir", refuse)
    found = rows(raw)
    assert (found["nothing"].status, found["nothing"].group) == ("ignored", "nothing")
    assert (found["locked"].reason, found["locked"].group) == ("E_IO", "locked")
    assert found["a/x.zarr"].reason == "E_NOT_IMAGE"


def test_groups_spelled_in_two_ways_are_one_and_noted(raw):
    put(raw, "Wild/1.png", "wild/1.png", "mutant/1.png", "mutant /1.png", "other/1.png")
    found = rows(raw)
    assert {entry.group for entry in found.values()} == {"Wild", "mutant", "other"}
    assert {name for name, entry in found.items() if entry.reason == "OK_NOTE"} == {"wild/1.png", "mutant /1.png"}
    assert "taken as 'Wild'" in found["wild/1.png"].note


def test_no_folder_is_one_clear_line(tmp_path):
    with pytest.raises(NoUsableInput, match="no folder"):
        scan(tmp_path / "absent")


def test_listing_time_grows_with_the_number_of_files(raw):
    (raw / "g").mkdir()
    for index in range(5000):
        (raw / "g" / f"{index}.png").touch()
    start = time.perf_counter()
    assert len(scan(raw)) == 5000
    assert time.perf_counter() - start < 3  # 100,000 in a minute at the very most


def test_names_in_two_unicode_forms_are_two_files(raw):
    names = [unicodedata.normalize(form, "g/\u00e9.png") for form in ("NFC", "NFD")]
    put(raw, *names)
    assert len({entry.image_id for entry in scan(raw)}) == 2
