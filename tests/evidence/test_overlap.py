"""Label maps scored against label maps: the numbers of a slow obvious version, and a run told by group and metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment

from cellvision import report
from cellvision.core import files
from cellvision.core.errors import ConfigError, NoUsableInput, UnsafeInput
from cellvision.evidence import intervals, labelscores, overlap
from cellvision.io import labelmaps

SIDE = 24


def random_maps(seed: int, cells: int = 7) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Boxes painted one over the other, and the same boxes moved by a pixel or two."""
    rng = np.random.default_rng(seed)
    truth, found = np.zeros((2, SIDE, SIDE), np.int32)
    for number in range(1, cells + 1):
        (y, x), (h, w), (dy, dx) = rng.integers(0, SIDE - 4, 2), rng.integers(2, 9, 2), rng.integers(0, 3, 2)
        truth[y : y + h, x : x + w] = number
        found[y + dy : y + h, x + dx : x + w] = 100 - number
    return truth, found


def slow_score(truth: NDArray[np.int32], found: NDArray[np.int32], threshold: float) -> tuple[int, float]:
    """Hits by assignment over all pairs, and AP, as the cellpose package does it."""
    trues, founds = ([name for name in np.unique(labels) if name] for labels in (truth, found))
    iou = np.zeros((len(trues), len(founds)))
    for i, a in enumerate(trues):
        for j, b in enumerate(founds):
            iou[i, j] = ((truth == a) & (found == b)).sum() / ((truth == a) | (found == b)).sum()
    rows, columns = linear_sum_assignment((iou >= threshold) + iou / (2 * max(1, *iou.shape)), maximize=True)
    hits = int((iou[rows, columns] >= threshold).sum())
    return hits, hits / (len(trues) + len(founds) - hits)


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_the_slow_obvious_version(seed: int) -> None:
    truth, found = random_maps(seed)
    scored = overlap.score(truth, found)
    for threshold in overlap.THRESHOLDS:
        hits, ap = slow_score(truth, found, threshold)
        name = round(100 * threshold)
        assert scored[f"hits_{name}"] == hits
        assert scored[f"ap_{name}"] == pytest.approx(ap)
        assert scored[f"f1_{name}"] == pytest.approx(2 * hits / (scored["n_true"] + scored["n_found"]))


def test_halves_of_a_cell_are_one_match_and_not_two() -> None:
    truth, found = np.zeros((2, 4, 8), np.int32)
    truth[:, :4], found[:, :2], found[:, 2:4] = 1, 1, 2  # one cell found as two halves
    truth[:, 4:6], truth[:, 6:], found[:, 4:] = 2, 3, 3  # two cells found as one
    assert overlap.score(truth, found)["hits_50"] == 2 == slow_score(truth, found, 0.5)[0]


def test_numbers_of_labels_do_not_matter() -> None:
    truth, found = random_maps(3)
    big = np.where(truth > 0, truth + 2**30, 0)
    assert overlap.score(big, found) == overlap.score(truth, found)


def test_empty_maps_score_one_and_anything_against_nothing_zero() -> None:
    nothing, something = np.zeros((5, 5), np.int32), np.eye(5, dtype=np.int32)
    assert overlap.score(nothing, nothing)["ap_50"] == 1
    for pair in ((nothing, something), (something, nothing)):
        assert overlap.score(*pair)["ap_50"] == overlap.score(*pair)["f1_90"] == 0


def test_maps_of_two_sizes_are_not_compared() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        overlap.score(np.zeros((4, 5), np.int32), np.zeros((5, 4), np.int32))


def test_count_error_adds_up_misses_and_surplus() -> None:
    misses = overlap.score(np.array([[1, 2, 0]]), np.array([[1, 0, 0]]))
    surplus = overlap.score(np.array([[1, 0, 0]]), np.array([[1, 2, 3]]))
    assert overlap.summarise([misses, surplus])["count_error"] == pytest.approx((1 + 2) / 3)


# -- intervals ----------------------------------------------------------------------------------------------------


def test_interval_counts_units_and_not_images() -> None:
    rng = np.random.default_rng(0)
    level = np.clip(rng.normal(0.6, 0.1, 40), 0, 1)
    once = labelscores.mean_over_units(level, np.arange(40).astype(str))
    copies = labelscores.mean_over_units(np.repeat(level, 9), np.repeat(np.arange(40), 9).astype(str))
    assert once.units == copies.units == 40
    assert copies.value == pytest.approx(once.value)
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high))
    deviation = level.std(ddof=1) / np.sqrt(40) * 2.0227  # Student's t at 39 degrees of freedom
    assert once.high - once.value == pytest.approx(deviation, rel=1e-3)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        unit = np.repeat(np.arange(12), rng.integers(1, 6, 12))
        values = np.clip(0.5 + rng.normal(0, 0.1, 12)[unit] + rng.normal(0, 0.05, len(unit)), 0, 1)
        found = labelscores.mean_over_units(values, unit.astype(str))
        inside += found.low <= 0.5 <= found.high
    assert 0.91 <= inside / 400 <= 0.98


def test_perfect_scores_of_few_units_are_not_certain() -> None:
    found = labelscores.mean_over_units(np.ones(5), np.arange(5).astype(str))
    assert (found.low, found.high) == (intervals.exact_binomial(5, 5).low, 1)
    alone = labelscores.mean_over_units(np.array([0.7, 0.8]), np.array(["a", "a"]))
    assert (alone.low, alone.high, alone.units) == (0, 1, 1)


# -- a run against its truth --------------------------------------------------------------------------------------


def disc(y: int, x: int, radius: int = 4) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.hypot(rows - y, columns - x) <= radius


def two_cells() -> NDArray[np.int32]:
    return disc(6, 6) + 2 * disc(16, 16).astype(np.int32)


def make_run(out: Path, paths: list[str], skipped: tuple[str, ...] = ()) -> Path:
    """As much of a segment run as is scored: every image has found both cells of `two_cells`."""
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(paths):
        status = "skipped" if path in skipped else "ok"
        rows.append({
            "image_id": f"id{number}", "path": path, "group": path.split("/")[0], "status": status,
            "pixel_hash": f"hash{number}" if status == "ok" else None,
        })  # fmt: skip
        if status == "ok":
            labelmaps.write(out / "masks" / f"id{number}.tif", two_cells())
    files.write_parquet(out / "images.parquet", pd.DataFrame(rows))
    return out


def save_truth(path: Path, labels: NDArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(labels.astype(np.uint16)).save(path)
    else:
        labelmaps.write(path, labels.astype(np.int32))


def test_every_image_has_a_row_and_every_reason_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["a/mirror.png", "a/none.png", "a/twice.png", "b/flat.png", "b/half.jpg", "b/lost.png", "b/size.png"]
    out, truth = make_run(tmp_path / "run", paths, skipped=("b/lost.png",)), tmp_path / "truth"
    save_truth(truth / "a" / "mirror.tif", two_cells())
    save_truth(truth / "a" / "twice.tif", two_cells())
    save_truth(truth / "a" / "twice.png", two_cells())
    save_truth(truth / "flat_cp_masks.png", two_cells())
    save_truth(truth / "b" / "half.jpg.tif", np.where(disc(6, 6), 9, 0))
    save_truth(truth / "b" / "lost.tif", two_cells())
    save_truth(truth / "b" / "size.tif", two_cells()[:-1])
    save_truth(truth / "b" / "nobody.tif", two_cells())
    found = labelscores.score_run(out, labelscores.find(truth), workers=0)
    rows = pd.read_parquet(out / "truth.parquet").set_index("path")
    statuses = ["scored", "no_truth", "ambiguous", "scored", "scored", "not_segmented", "unreadable"]
    assert rows["status"].tolist() == statuses
    assert rows.loc[["a/mirror.png", "b/flat.png", "b/half.jpg"], "ap_50"].tolist() == [1, 1, 0.5]
    assert found["truth_unused"] == 1
    assert (found["images"], found["cells_true"], found["cells_found"]) == (3, 5, 6)
    assert found["ap_50"] == pytest.approx(2.5 / 3)
    said = capsys.readouterr().err
    assert "of 7 images 1 have no label map, 1 have several label maps" in said
    assert "1 label maps belong to no image" in said
    assert "size.tif is for 24 x 23 px, its image has 24 x 24 px" in said


def test_scores_are_told_by_group_and_column_over_the_units_of_the_metadata(tmp_path: Path) -> None:
    out, truth = make_run(tmp_path / "run", [f"{group}/{n}{group}.png" for group in "ab" for n in range(4)]), tmp_path
    for row in pd.read_parquet(out / "images.parquet")["path"]:
        save_truth(
            truth / "truth" / row.replace("png", "tif"), two_cells() if row[0] == "a" else two_cells() * disc(6, 6)
        )
    meta = [f"images/{n}{group}.png,{'odd' if n % 2 else 'even'},=p{n // 2}" for group in "ab" for n in range(4)]
    (tmp_path / "meta.csv").write_text("image,look,plate\n" + "\n".join(meta) + "\n")
    told = labelscores.find(truth / "truth", tmp_path / "meta.csv", ("look",), "plate")
    labelscores.score_run(out, told, workers=0)
    summary = pd.read_csv(out / "truth.csv").set_index(["by", "value"])
    assert summary.loc[("group", "a"), "ap_50"] == 1
    assert summary.loc[("group", "b"), "ap_50"] == 0.5
    assert summary.loc[("look", "odd"), ["images", "units"]].tolist() == [4, 2]
    assert summary.loc[("group", "b"), "count_error"] == 1
    shown = report.of_truth(out)
    assert [row["value"] for row in shown["truth_rows"] if row["by"] == "look"] == ["even", "odd"]


def test_modes_are_told_apart_and_tiles_are_no_cells(tmp_path: Path) -> None:
    out = make_run(tmp_path / "run", ["a/x.png", "a/y.png", "a/z.png"])
    table = pd.read_parquet(out / "images.parquet")
    files.write_parquet(out / "images.parquet", table.assign(mode=["cell", "object", "tile"]))
    for name in "xyz":
        save_truth(tmp_path / "truth" / f"{name}.tif", two_cells())
    found = labelscores.score_run(out, labelscores.find(tmp_path / "truth"), workers=0)
    assert (found["images"], found["tiles"]) == (2, 1)
    summary = pd.read_csv(out / "truth.csv").set_index("by")
    assert summary.loc["mode", "value"].tolist() == ["cell", "object"]


def test_a_scored_image_without_a_unit_is_no_unit_of_its_own(tmp_path: Path) -> None:
    out = make_run(tmp_path / "run", ["a/x.png", "a/y.png"])
    for name in "xy":
        save_truth(tmp_path / "truth" / f"{name}.tif", two_cells())
    (tmp_path / "meta.csv").write_text("image,plate\nx.png,p0\ny.png,\n")
    with pytest.raises(ConfigError, match=r"1 scored images have no 'plate'.*a/y\.png"):
        labelscores.score_run(out, labelscores.find(tmp_path / "truth", tmp_path / "meta.csv", (), "plate"), workers=0)


def test_one_label_map_is_the_truth_of_one_image(tmp_path: Path) -> None:
    out = make_run(tmp_path / "run", ["a/x.jpg", "a/x.png", "a/z.png", "b/z.png"])
    save_truth(tmp_path / "truth" / "a" / "x.tif", two_cells())
    save_truth(tmp_path / "truth" / "z.tif", two_cells())
    with pytest.raises(NoUsableInput, match="2 have no label map, 2 have several"):
        labelscores.score_run(out, labelscores.find(tmp_path / "truth"), workers=0)


def test_exact_duplicates_are_one_unit(tmp_path: Path) -> None:
    out = make_run(tmp_path / "run", ["a/x.png", "a/y.png", "a/z.png"])
    table = pd.read_parquet(out / "images.parquet")
    files.write_parquet(out / "images.parquet", table.assign(pixel_hash=["same", "same", "other"]))
    for name in "xyz":
        save_truth(tmp_path / "truth" / f"{name}.tif", two_cells())
    assert labelscores.score_run(out, labelscores.find(tmp_path / "truth"), workers=0)["units"] == 2


def test_a_binary_mask_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make_run(tmp_path / "run", ["a/x.png"])
    save_truth(tmp_path / "truth" / "x.png", np.where(two_cells() > 0, 255, 0))
    assert labelscores.score_run(out, labelscores.find(tmp_path / "truth"), workers=0)["one_label_in_pieces"] == 1
    assert "is it a binary mask?" in capsys.readouterr().err


def test_scores_do_not_depend_on_workers_and_repeat_bit_for_bit(tmp_path: Path) -> None:
    out = make_run(tmp_path / "run", [f"a/{n}.png" for n in range(5)])
    for n in range(5):
        save_truth(tmp_path / "truth" / f"{n}.tif", two_cells() * (disc(6, 6) | (n % 2 == 0)))
    told, written = labelscores.find(tmp_path / "truth"), []
    for workers in (0, 2):
        labelscores.score_run(out, told, workers)
        written.append([(out / name).read_bytes() for name in ("truth.parquet", "truth.csv", "truth.json")])
    assert written[0] == written[1]
    assert json.loads(written[0][2])["scored"] == 5


@pytest.mark.parametrize(
    ("files_there", "options", "message"),
    [
        ((), {}, "no label maps below"),
        (("x.txt",), {}, "no label maps below"),
        (("x.tif",), {"by": ("look",)}, "give --metadata"),
        (("x.tif",), {"by": ("look",), "metadata": "meta.csv"}, "lacks the columns look; it has image, plate"),
        (("x.tif",), {"by": ("path",), "metadata": "meta.csv"}, "is a column of the result itself"),
        (("x.tif",), {"by": ("plate",), "metadata": "none.csv"}, "no table at"),
    ],
)
def test_what_a_person_can_mend_is_said_before_the_work(
    tmp_path: Path, files_there: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    (tmp_path / "truth").mkdir()
    (tmp_path / "meta.csv").write_text("image,plate\nx.png,p0\n")
    for name in files_there:
        (tmp_path / "truth" / name).write_bytes(b"")
    if "metadata" in options:
        options = options | {"metadata": tmp_path / options["metadata"]}
    with pytest.raises(ConfigError, match=message):
        labelscores.find(tmp_path / "truth", **options)
    with pytest.raises(ConfigError, match="no folder of true label maps"):
        labelscores.find(tmp_path / "nowhere")


def test_pickled_truth_is_refused_with_the_safe_way_named(tmp_path: Path) -> None:
    (tmp_path / "x_seg.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UnsafeInput, match="Save masks as PNG/tif"):
        labelscores.find(tmp_path)
