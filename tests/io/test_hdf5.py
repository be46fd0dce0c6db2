"""HDF5 of strangers: every trap is refused with its reason, and no other file is opened on the way."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5s, h5t

from cellvision.core.errors import NoUsableInput, UnsafeInput
from cellvision.io import hdf5

SECRET = b"the-secret-of-another-file"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside whose bytes must never appear: HDF5 with a dataset `x` of recognisable bytes."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = folder / "secret.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.frombuffer(SECRET * 4, np.uint8)
    return path


# -- traps: each makes a file at a path, with a secret at hand --


def external_link(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file["inner/x"] = h5py.ExternalLink(secret, "/x")


def soft_through_external(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = h5py.SoftLink("/zz/x")
        file["zz"] = h5py.ExternalLink(secret, "/")


def soft_nowhere(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = h5py.SoftLink("/not/there")


def raw_outside(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape=(8,), dtype="u1", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(path: Path, secret: Path) -> None:
    layout = h5py.VirtualLayout(shape=(len(SECRET) * 4,), dtype="u1")
    layout[:] = h5py.VirtualSource(secret, "x", shape=(len(SECRET) * 4,))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)


def virtual_without_end(path: Path, secret: Path) -> None:
    """Its shape depends on its sources, so that asking for the shape opens them."""
    shape, kind = (len(SECRET) * 4,), np.dtype("u1")
    layout = h5py.VirtualLayout(shape=shape, dtype=kind, maxshape=(None,))
    layout[: h5s.UNLIMITED] = h5py.VirtualSource(secret, "x", shape=shape, dtype=kind, maxshape=(None,))[
        : h5s.UNLIMITED
    ]
    with h5py.File(path, "w", libver="latest") as file:
        file.create_virtual_dataset("x", layout)


OUTSIDE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "external link": (external_link, "external link"),
    "soft link out": (soft_through_external, "external link"),
    "raw storage outside": (raw_outside, "raw file outside"),
    "virtual dataset": (virtual, "virtual dataset"),
    "virtual dataset without end": (virtual_without_end, "virtual dataset"),
}


def cycle(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a/b"] = file["/"]


def second_name(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a/b/x"] = 1
        file["c"] = file["a"]


def deep(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("/".join("g" * (hdf5.DEPTH + 2)))


def claims_terabytes(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape=(1 << 40,), dtype="f8", chunks=(1 << 16,))
    assert path.stat().st_size < 10_000


def claims_one_chunk(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape=(4,), maxshape=(None,), dtype="f8", chunks=(1 << 28,))


def bomb(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros(24 << 20), chunks=(3 << 20,), compression="gzip", compression_opts=9)


def many_small_claims(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        for number in range(60):
            file.create_dataset(f"x{number}", shape=(7 << 20,), dtype="f8", chunks=(1 << 20,))


def inner_bomb(path: Path, secret: Path) -> None:
    """A chunk whose stored bytes are far more than its shape needs: they may unfold to anything."""
    import zlib

    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", shape=(16,), dtype="u1", chunks=(16,), compression="gzip")
        noise = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
        data.id.write_direct_chunk((0,), zlib.compress(noise))


def stored_beyond_the_end(path: Path, secret: Path) -> None:
    """A contiguous dataset whose header says more bytes than the file has."""
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(1000, dtype="f8")
    content = path.read_bytes()
    for old, new in ((8000, 8 << 40), (1000, 1 << 40)):
        content = content.replace(struct.pack("<Q", old), struct.pack("<Q", new))
    path.write_bytes(content)


def vlen_objects(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape=(3,), dtype=h5py.vlen_dtype(np.uint8))


def opaque(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.array([b"abcd"], dtype="V4"))


def opaque_inside(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros(2, dtype=[("a", "f4"), ("b", "V4")]))


def committed(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file["kind"] = np.dtype("f8")


def big_attribute(path: Path, secret: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = 1
        file["x"].attrs["note"] = np.zeros(100_000, np.uint8)


def opaque_attribute(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["pickle"] = np.void(b"\x80\x04.")


def unknown_filter(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((10,))
        plan.set_filter(h5py.h5z.FILTER_SHUFFLE)
        space, kind = h5s.create_simple((10,)), h5t.NATIVE_INT32
        h5py.h5d.create(file.id, b"x", kind, space, plan)
    content = bytearray(path.read_bytes())
    place = content.index(b"shuffle\0") - 8  # before its name stand number, length of the name, flags, count of values
    assert struct.unpack_from("<H", content, place) == (2,)
    struct.pack_into("<H", content, place, 251)
    path.write_bytes(content)


INSIDE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "soft link nowhere": (soft_nowhere, "no object of this file"),
    "cycle": (cycle, "group inside itself"),
    "second name": (second_name, "second name"),
    "deep": (deep, "groups deep"),
    "terabytes": (claims_terabytes, "unfolds to"),
    "one huge chunk": (claims_one_chunk, "unfolds to"),
    "compression bomb": (bomb, "unfolds to"),
    "many small claims": (many_small_claims, "claims"),
    "bomb in a chunk": (inner_bomb, "more than the"),
    "vlen objects": (vlen_objects, "variable length"),
    "opaque": (opaque, "opaque"),
    "opaque in a compound": (opaque_inside, "opaque"),
    "committed type": (committed, "committed"),
    "big attribute": (big_attribute, "attribute 'note'"),
    "opaque attribute": (opaque_attribute, "opaque"),
    "unknown filter": (unknown_filter, "filter 251"),
}


@pytest.mark.parametrize(("make", "reason"), [*OUTSIDE.values(), *INSIDE.values()], ids=[*OUTSIDE, *INSIDE])
def test_a_trap_is_refused_with_its_reason(
    make: Callable[[Path, Path], None], reason: str, secret: Path, tmp_path: Path
) -> None:
    path = tmp_path / "trap.h5"
    make(path, secret)
    with pytest.raises(UnsafeInput, match=reason) as found:
        hdf5.audit(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


def test_stored_bytes_beyond_the_end_are_refused(secret: Path, tmp_path: Path) -> None:
    stored_beyond_the_end(tmp_path / "x.h5", secret)
    with pytest.raises((UnsafeInput, NoUsableInput), match=r"stored bytes|damaged|cut off"):
        hdf5.audit(tmp_path / "x.h5")


@contextmanager
def opened(path: Path) -> Iterator[list[bool]]:
    """Whether anybody opens or reads a file meanwhile, as the kernel sees it (inotify)."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK)
    assert handle >= 0
    assert libc.inotify_add_watch(handle, str(path).encode(), 0x20 | 0x1) >= 0  # IN_OPEN, IN_ACCESS
    seen: list[bool] = []
    try:
        yield seen
        try:
            seen.append(bool(os.read(handle, 4096)))
        except BlockingIOError:
            seen.append(False)
    finally:
        os.close(handle)


linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@linux
@pytest.mark.parametrize("make", [make for make, _ in OUTSIDE.values()], ids=OUTSIDE)
def test_no_other_file_is_opened_through_a_link(
    make: Callable[[Path, Path], None], secret: Path, tmp_path: Path
) -> None:
    path = tmp_path / "trap.h5"
    make(path, secret)
    with opened(secret) as seen, pytest.raises(UnsafeInput) as found:
        hdf5.audit(path)
    assert seen == [False]
    assert SECRET.decode() not in str(found.value)


@linux
@pytest.mark.parametrize("make", [external_link, raw_outside, virtual], ids=["link", "raw", "virtual"])
def test_h5py_alone_reads_the_other_file(make: Callable[[Path, Path], None], secret: Path, tmp_path: Path) -> None:
    """What the audit is for; and the watch of the test above does see it."""
    path = tmp_path / "trap.h5"
    make(path, secret)
    with opened(secret) as seen, h5py.File(path) as file:
        np.asarray(file["inner/x" if make is external_link else "x"])
    assert seen == [True]


# -- files that are not what they should be --


def test_what_is_no_sound_file_is_one_clean_error(tmp_path: Path) -> None:
    good = tmp_path / "good.h5"
    with h5py.File(good, "w") as file:
        file["x"] = np.arange(10_000.0)
    content = good.read_bytes()
    cases = {
        "no HDF5 file": b"just text",
        "cut off": content[: len(content) // 2],
        r"opened as HDF5|damaged|no HDF5": content[:8] + b"\xff" * 40 + content[48:],
    }
    for reason, data in cases.items():
        bad = tmp_path / "bad.h5"
        bad.write_bytes(data)
        with pytest.raises(NoUsableInput, match=reason):
            hdf5.audit(bad)
    with pytest.raises(NoUsableInput, match="no HDF5 file at"):
        hdf5.audit(tmp_path / "absent.h5")
    fifo = tmp_path / "fifo.h5"
    os.mkfifo(fifo)
    with pytest.raises(NoUsableInput, match="no HDF5 file at"):
        hdf5.audit(fifo)


def test_damage_anywhere_is_an_answer_and_never_a_crash(tmp_path: Path) -> None:
    good = tmp_path / "good.h5"
    with h5py.File(good, "w") as file:
        file["a/x"] = np.arange(40.0)
        file["a"].attrs["name"] = "text"
        file.create_dataset("b", data=np.arange(600).reshape(20, 30), chunks=(5, 5), compression="gzip")
    content, rng = bytearray(good.read_bytes()), np.random.default_rng(0)
    answers = set()
    for _ in range(150):
        spoilt = content.copy()
        for place in rng.integers(8, len(content), 3):
            spoilt[place] = int(rng.integers(256))
        bad = tmp_path / "bad.h5"
        bad.write_bytes(spoilt)
        try:
            with hdf5.open_h5(bad) as file:
                file["b"][()]
            answers.add("read")
        except (UnsafeInput, NoUsableInput, KeyError) as error:
            answers.add(type(error).__name__)
    assert {"read", "NoUsableInput"} <= answers


def test_a_file_that_is_being_written_is_a_clean_error(tmp_path: Path) -> None:
    path = tmp_path / "busy.h5"
    code = f"import h5py; f = h5py.File({str(path)!r}, 'w'); f['x'] = 1; f.flush(); print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(NoUsableInput, match="being written by another program"):
            hdf5.audit(path)
    finally:
        holder.stdin.close()
        holder.wait(20)


def test_too_many_objects_are_refused_before_they_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "OBJECTS", 50)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for number in range(60):
            file.create_group(f"g{number}")
    with pytest.raises(UnsafeInput, match="above 50 objects"):
        hdf5.audit(tmp_path / "x.h5")


# -- files as people have them --


def test_ordinary_files_pass(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", userblock_size=512) as file:  # as MATLAB's own files
        file["a/x"] = np.arange(12.0).reshape(3, 4)
        file["a/same"] = file["a/x"]
        file["soft"] = h5py.SoftLink("/a/x")
        file["a/beside"] = h5py.SoftLink("x")
        file["text"] = np.array(["one", "zwei"], dtype=h5py.string_dtype())
        file.create_dataset("packed", data=np.zeros((2000, 2000)), chunks=(100, 100), compression="gzip", shuffle=True)
        file.create_dataset("grows", shape=(0, 5), maxshape=(None, 5), chunks=(64, 5), dtype="f4")
        file["table"] = np.zeros(3, dtype=[("a", "f4"), ("b", "S3")])
        file["flag"] = np.array([True, False])
        file["a"].attrs["where"] = file["a/x"].ref
        file["a/x"].make_scale("axis")
        file["empty"] = h5py.Empty("f4")
        file.attrs["nothing"] = h5py.Empty("f4")
        file.attrs["none"] = np.zeros(0)
    hdf5.audit(path)
    with hdf5.open_h5(path) as file:
        assert file["a/x"][1, 2] == 6
        assert hdf5.strings(file["text"]) == ["one", "zwei"]


def test_anndata_files_pass(tmp_path: Path) -> None:
    import anndata
    import pandas as pd
    import scipy.sparse as sparse

    counts = sparse.random(40, 30, 0.2, format="csr", random_state=0)
    kinds = pd.Categorical(["a", "b"] * 20)
    obs = pd.DataFrame({"kind": kinds, "depth": np.arange(40.0)}, index=[f"c{n}" for n in range(40)])
    data = anndata.AnnData(
        counts, obs=obs, uns={"note": "text", "levels": np.arange(3)}, obsm={"pca": np.zeros((40, 2))}
    )
    data.write_h5ad(tmp_path / "x.h5ad", compression="gzip")
    hdf5.audit(tmp_path / "x.h5ad")


def test_text_is_read_whatever_its_kind(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["fixed"] = np.array([b"a\xc3\xa9", b"b"])
        file["numbers"] = np.arange(3)
        file["odd"] = np.array([b"\xff\xfe"])
        assert hdf5.strings(file["fixed"]) == ["aé", "b"]
        assert hdf5.strings(file["numbers"]) == ["0", "1", "2"]
        assert hdf5.strings(file["odd"]) == [r"\xff\xfe"]


def test_text_that_unfolds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many elements that share one long text: a small file that reads as a large one."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=["y" * 5000] * 400, dtype=h5py.string_dtype())
    monkeypatch.setattr(hdf5, "HARMLESS", 1000)
    with hdf5.open_h5(path) as file:
        monkeypatch.setattr(Path, "stat", lambda self: os.stat_result([0] * 6 + [1000] + [0] * 3))
        with pytest.raises(UnsafeInput, match="unfolds"):
            hdf5.strings(file["x"])
