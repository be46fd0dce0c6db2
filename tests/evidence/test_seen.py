"""The leak guard: copies are known in whatever form they come back, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from item_rows import rows_of
from numpy.typing import NDArray
from small_counts import h5ad

from cellvision.branches import BRANCHES, Branch
from cellvision.branches.items import Items
from cellvision.core.errors import ConfigError, LeakError
from cellvision.evidence import independence, seen
from cellvision.evidence.seen import Common, Seen
from cellvision.io.images import prints

DONORS, EACH, COLUMNS = 12, 10, 8
Change = Callable[[pd.DataFrame], pd.DataFrame]


def noise(seed: int, rows: int = DONORS * EACH, columns: int = COLUMNS) -> pd.DataFrame:
    """Rows of noise, ten of each donor, features of several sizes."""
    values = np.random.default_rng(seed).normal(size=(rows, columns)) * 10.0 ** (np.arange(columns) % 4)
    table = pd.DataFrame(values, columns=[f"f{number}" for number in range(columns)])
    return table.assign(donor=[f"donor{number // EACH}" for number in range(rows)], y=np.arange(rows) % 2)


def opened(table: pd.DataFrame, folder: Path, unit: str = "donor") -> tuple[Branch, NDArray[np.str_]]:
    """The table as items, and the unit of each."""
    path = folder / f"{len(list(folder.iterdir()))}.csv"
    table.to_csv(path, index=False)
    branch = BRANCHES.build({"name": "tabular"}, path=path, reserved=("y", unit))
    return branch, independence.unit_column(branch.items, unit).to_numpy(str)


def history(table: pd.DataFrame, folder: Path) -> Seen:
    branch, unit = opened(table, folder)
    return seen.of(branch.items, unit, np.arange(len(unit)))


def common(was_seen: Seen, table: pd.DataFrame, folder: Path, unit: str = "donor") -> Common:
    """What the last two donors of a table share with a history."""
    branch, units = opened(table, folder, unit)
    tested = np.flatnonzero(np.isin(units, np.unique(units)[-2:]))
    return seen.overlap(was_seen, branch.items, units, tested)


def other_donors(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(donor="new " + table["donor"])


COPIES: dict[str, Change] = {
    "as it was": lambda t: t,
    "rows in another order": lambda t: t.sample(frac=1, random_state=0),
    "columns in another order": lambda t: t[t.columns[::-1]],
    "one more column": lambda t: t.assign(more=np.random.default_rng(9).normal(size=len(t))),
    "three more columns": lambda t: t.assign(g0=np.sin(t["f0"]), g1=np.sin(t["f1"]), g2=np.sin(t["f2"])),
    "one column less": lambda t: t.drop(columns="f3"),
    "rounded to three decimals": lambda t: t.round(3),
    "rounded to two decimals": lambda t: t.round(2),
    "rounded, one more column, rows in another order": lambda t: t.round(3).assign(more=1.5).sample(frac=1),
    "single precision": lambda t: t.astype({f"f{n}": np.float32 for n in range(COLUMNS)}),
    "half of the rows": lambda t: t.iloc[::2],
    "a constant column": lambda t: t.assign(batch=7),
    "columns renamed": lambda t: t.rename(columns={f"f{n}": f"feature {n}" for n in range(COLUMNS)}),
    "columns in capitals": lambda t: t.rename(columns={f"f{n}": f"F{n}" for n in range(COLUMNS)}),
    "a tenth of the values missing": lambda t: t.mask(np.random.default_rng(1).random(t.shape) < 0.05).assign(
        donor=t["donor"], y=t["y"]
    ),
    "other labels": lambda t: t.assign(y=1 - t["y"]),
    "an id": lambda t: t.assign(item_id=[f"x{n}" for n in range(len(t))]),
}  # fmt: skip


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_table_is_known(tmp_path: Path, change: Change) -> None:
    table = noise(0)
    copy = other_donors(change(table))
    shared = common(history(table, tmp_path), copy, tmp_path)
    assert shared.count >= 0.6 * shared.tested, shared


STRANGERS: dict[str, Change] = {
    "other noise": lambda t: other_donors(noise(1)),
    "other noise with one column in common": lambda t: other_donors(noise(1)).assign(f0=t["f0"]),
    "other noise, rounded": lambda t: other_donors(noise(1)).round(1),
    "whole numbers": lambda t: other_donors(noise(1)).round(0),
    "numbered rows": lambda t: other_donors(noise(1)).assign(item_id=[f"row{n}" for n in range(len(t))]),
    "one latent variable": lambda t: other_donors(noise(1)).assign(
        **{f"f{n}": 2 * noise(1)["f0"] + noise(2)[f"f{n}"] / 10.0 ** (n % 4 + 1) for n in range(COLUMNS)}
    ),
}
COARSE: dict[str, Change] = {
    "as it is": lambda t: t,
    "whole numbers": lambda t: t.round(0),
    "three values": lambda t: t.clip(-1, 1).round(0),
}


@pytest.mark.parametrize("coarse", COARSE.values(), ids=COARSE)
@pytest.mark.parametrize("change", STRANGERS.values(), ids=STRANGERS)
def test_another_table_is_not_taken_for_a_copy(tmp_path: Path, change: Change, coarse: Change) -> None:
    first = coarse(noise(0).drop(columns="donor")).assign(donor=noise(0)["donor"])
    other = change(first)
    words = other[other.columns.intersection(["donor", "item_id"])]
    other = coarse(other.drop(columns=words.columns)).join(words)
    shared = common(history(first, tmp_path), other, tmp_path)
    assert shared.count == 0, shared


def test_rows_too_alike_to_be_known_are_said_to_be(tmp_path: Path) -> None:
    few = noise(0)[["f0", "f4", "donor", "y"]].assign(f4=lambda t: t["f4"].round(), f0=lambda t: t["f0"].round())
    few = pd.concat([few] * 5).assign(third=np.arange(5 * len(few)) % 3)
    other = other_donors(few.assign(f0=-few["f0"], third=few["third"] + 0.5)[::-1])
    assert common(history(few, tmp_path), other, tmp_path).doubts[0].startswith("rows of different units")


# -- units and names ----------------------------------------------------------------------------------------------

NAMES = {
    "ACGTACGTACGTAAAC-1": True, "sample3_ACGTACGTACGTAAAC": True, "3f9a1c77be02d41a": True, "P-2019-0483": True,
    "20190483": True, "7": False, "A": False, "B02": False, "donor 12": False, "row000123": False,
    "image_0001_crop_003": False, "2019-04-03": False, "plate1_A01_f03": False, "control": False,
}  # fmt: skip


@pytest.mark.parametrize(("name", "nobody_elses"), NAMES.items(), ids=NAMES)
def test_a_name_that_anybody_gives_is_no_evidence(name: str, nobody_elses: bool) -> None:
    assert seen.specific(name) is nobody_elses


def patients(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table.assign(donor=[name.format(int(donor.removeprefix("donor"))) for donor in table["donor"]])


def test_other_rows_of_the_same_patients_are_known_by_their_unit(tmp_path: Path) -> None:
    was_seen = history(patients(noise(0), "P-2019-36{:02d}"), tmp_path)
    assert common(was_seen, patients(noise(1), "P-2019-36{:02d}"), tmp_path).by == ("unit",)
    assert common(was_seen, patients(noise(1), "P-2019-37{:02d}"), tmp_path) == Common(0, 20, ())


def test_units_of_common_names_are_a_doubt_unless_the_data_are_the_same(tmp_path: Path) -> None:
    """Donor 7 of another table is another donor; of a table that shares rows with the first it is the same one."""
    was_seen = history(noise(0), tmp_path)
    other = common(was_seen, noise(1), tmp_path)
    assert other.count == 0
    assert other.doubts == ("2 test units are named as training units were, such as 'donor8'; they may be others",)
    mixed = pd.concat([noise(0).iloc[: 4 * EACH], noise(1).iloc[4 * EACH :]])
    assert common(was_seen, mixed, tmp_path) == Common(20, 20, ("unit",))


def test_a_unit_is_seen_when_one_of_its_rows_is(tmp_path: Path) -> None:
    """The encoder held out rows, the test holds out donors."""
    table = noise(0)
    branch, units = opened(table, tmp_path)
    rows = np.arange(len(table))
    was_seen = seen.of(branch.items, rows.astype(str), rows[rows % EACH < 5])
    tested = np.flatnonzero((units == "donor3") & (rows % EACH >= 5))
    assert seen.overlap(was_seen, branch.items, units, tested) == Common(5, 5, ("unit",))


def test_what_was_held_out_is_free(tmp_path: Path) -> None:
    branch, units = opened(noise(0), tmp_path)
    held_out = units == "donor3"
    was_seen = seen.of(branch.items, units, np.flatnonzero(~held_out))
    assert seen.guard(was_seen, branch.items, units, np.flatnonzero(held_out), "it", transductive=False) == []
    mixed = np.flatnonzero(np.isin(units, ["donor3", "donor4"]))
    with pytest.raises(LeakError, match="it has seen 10 of the 20 test sources, known by their content"):
        seen.guard(was_seen, branch.items, units, mixed, "it", transductive=False)
    stamps = seen.guard(was_seen, branch.items, units, mixed, "it", transductive=True)
    assert stamps == ["transductive: it has seen 10 of 20 test sources, known by their content"]


def test_histories_add_up_and_come_back_from_arrays(tmp_path: Path) -> None:
    both = history(noise(0), tmp_path) | Seen(unknown=("somewhere",)) | history(other_donors(noise(1)), tmp_path)
    back = seen.unpacked(seen.packed(both))
    assert (back.sources, back.unknown) == (240, ("somewhere",))
    for number in (0, 1):
        assert common(back, noise(number), tmp_path).count == 20
    branch, units = opened(noise(2), tmp_path)
    stamps = seen.guard(back, branch.items, units, np.arange(5), "it", transductive=False)
    assert stamps[0] == "history unknown: somewhere"
    with pytest.raises(ConfigError, match="history cannot be read"):
        seen.unpacked({"facts": np.zeros(3, np.uint8)})


# -- cells and traces ---------------------------------------------------------------------------------------------


def counts(seed: int, cells: int = 120, genes: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rate = np.random.default_rng(99).lognormal(-1.5, 1.2, genes)
    names = ["".join(rng.choice(list("ACGT"), 16)) + "-1" for _ in range(cells)]
    columns = [f"Gene{number}" for number in range(genes)]
    return pd.DataFrame(rng.poisson(rate, (cells, genes)), index=names, columns=columns)


def cells_of(table: pd.DataFrame, folder: Path) -> tuple[Branch, NDArray[np.str_]]:
    from scipy.sparse import csr_matrix

    path = folder / f"{len(list(folder.iterdir()))}.h5ad"
    h5ad(path, csr_matrix(table.to_numpy(np.float32)), table.index, list(table.columns))
    branch = BRANCHES.build({"name": "rna"}, path=path)
    return branch, np.array([f"d{row // 10}" for row in range(len(table))])


def renamed(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_axis([f"cell{row}" for row in range(len(table))])


def scaled(table: pd.DataFrame) -> pd.DataFrame:
    return np.log1p(table.div(table.sum(axis=1), axis=0) * 1e4)


CELLS: dict[str, tuple[Change, str]] = {
    "as they were": (lambda t: t, "content"),
    "cells renamed": (renamed, "content"),
    "five genes filtered": (lambda t: renamed(t.drop(columns=[f"Gene{n}" for n in range(3, 8)])), "values"),
    "rare genes filtered": (lambda t: renamed(t.loc[:, (t > 0).sum() >= 3]), "values"),
    "genes in another order": (lambda t: renamed(t[t.columns[::-1]]), "values"),
    "normalised": (lambda t: renamed(scaled(t)), "values"),
    "normalised and filtered, half of the cells": (lambda t: renamed(scaled(t).iloc[::2, 5:]), "values"),
    "half of the genes, barcodes without suffix": (
        lambda t: t.iloc[:, ::2].set_axis(t.index.str.removesuffix("-1")), "name",
    ),
    "other counts of the same barcodes": (
        lambda t: counts(1).set_axis("sample1_" + t.index), "name",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "by"), CELLS.values(), ids=CELLS)
def test_copies_of_cells_are_known(tmp_path: Path, change: Change, by: str) -> None:
    branch, unit = cells_of(counts(0), tmp_path)
    was_seen = seen.of(branch.items, unit, np.arange(len(unit)))
    copy, units = cells_of(change(counts(0)), tmp_path)
    shared = seen.overlap(was_seen, copy.items, np.char.add("new ", units), np.arange(20))
    assert by in shared.by, shared
    assert shared.count >= 15
    other, units = cells_of(change(counts(2)) if by != "name" else counts(2), tmp_path)
    assert seen.overlap(was_seen, other.items, np.char.add("new ", units), np.arange(20)).count == 0


def traces(seed: int, points: int = 60) -> pd.DataFrame:
    """Forty noisy waves, a trace a row."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(points) / 5 + rng.random((40, 1)) * 6) + rng.normal(0, 0.3, (40, points))
    table = pd.DataFrame(wave, columns=[f"ERK_{point}" for point in range(points)])
    return table.assign(ID=[f"t{row}" for row in range(40)], donor=[f"d{row // 4}" for row in range(40)])


def points_of(table: pd.DataFrame, keep: slice) -> pd.DataFrame:
    """Some time points, numbered from 0."""
    wave = table.filter(like="ERK").iloc[:, keep]
    return table[["ID", "donor"]].join(wave.set_axis([f"ERK_{point}" for point in range(wave.shape[1])], axis=1))


TRACES: dict[str, Change] = {
    "as they were": lambda t: t,
    "under other ids": lambda t: t.assign(ID="x" + t["ID"]),
    "rounded": lambda t: t.round(3),
    "cut at both ends": lambda t: points_of(t, slice(10, 50)),
    "cut at the front and rounded": lambda t: points_of(t, slice(15, None)).round(3),
    "in another order": lambda t: t[::-1],
}


@pytest.mark.parametrize("change", TRACES.values(), ids=TRACES)
def test_copies_of_traces_are_known(tmp_path: Path, change: Change) -> None:
    def of(table: pd.DataFrame) -> Branch:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.csv"
        table.to_csv(path, index=False)
        return BRANCHES.build({"name": "trace"}, path=path, reserved=("donor",))

    branch, unit = of(traces(0)), traces(0)["donor"].to_numpy(str)
    was_seen = seen.of(branch.items, unit, np.arange(40))
    tested = np.arange(40)
    assert seen.overlap(was_seen, of(change(traces(0))).items, np.char.add("new ", unit), tested).count >= 36
    assert seen.overlap(was_seen, of(change(traces(1))).items, np.char.add("new ", unit), tested).count == 0


# -- images -------------------------------------------------------------------------------------------------------


def picture(seed: int) -> NDArray[np.uint8]:
    """(120, 160, 3) blobs of a stain: its channels are alike, not the same."""
    import cv2

    rng = np.random.default_rng(seed)
    blobs = cv2.resize(rng.random((12, 16)), (160, 120), interpolation=cv2.INTER_CUBIC)[..., None]
    stain = 230 - blobs * np.array([60.0, 150.0, 100.0]) + rng.normal(0, 2, (120, 160, 3))
    return np.clip(stain, 0, 255).astype(np.uint8)


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.rint(pixels.mean(axis=2, keepdims=True)).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8]) -> NDArray[Any]:
    import cv2

    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))


def resized(pixels: NDArray[np.uint8]) -> NDArray[Any]:
    import cv2

    return np.asarray(cv2.resize(pixels, (110, 83), interpolation=cv2.INTER_AREA))


LOOKS: dict[str, Callable[[NDArray[np.uint8]], NDArray[Any]]] = {
    "encoded anew": jpeg,
    "resized": resized,
    "cropped by a pixel": lambda p: p[1:, :-1],
    "mirrored": lambda p: p[:, ::-1],
    "turned": lambda p: np.rot90(p),
    "grey": grey,
    "the green channel": lambda p: p[..., 1:2],
    "the red channel": lambda p: p[..., :1],
    "brighter": lambda p: np.clip(p * 1.2 + 5, 0, 255).astype(np.uint8),
    "mirrored, grey, encoded anew": lambda p: grey(jpeg(p[::-1].copy())),
}


@pytest.mark.parametrize("change", LOOKS.values(), ids=LOOKS)
def test_copies_of_images_are_known(change: Callable[[NDArray[np.uint8]], NDArray[Any]]) -> None:
    def of(pictures: list[NDArray[Any]], name: str) -> Items:
        made = rows_of({name: len(pictures)})
        by_source = [prints.print_of(np.ascontiguousarray(pixels)) for pixels in pictures]
        made.table["path"] = made.table["source_id"]
        made.table["source_print"] = np.repeat(by_source, 2)
        return made

    shown = of([picture(seed) for seed in range(4)], "a")
    was_seen = seen.of(shown, shown.table["unit"].to_numpy(str), np.arange(8))
    back = seen.unpacked(seen.packed(was_seen))
    copies = of([change(picture(seed)) for seed in range(4)] + [change(picture(seed)) for seed in range(9, 12)], "b")
    for first, last, count in ((0, 8, 4), (8, 14, 0)):
        shared = seen.overlap(back, copies, copies.table["unit"].to_numpy(str), np.arange(first, last))
        assert shared.count == count
