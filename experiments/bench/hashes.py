"""Did a refactor change a bit? Every command once, small, and a SHA-256 of everything that results consist of.

Works through the command line alone and never imports cellvision, so that it runs on any state of the code; the package
that is tested is the one of --tree, else the one Python finds. The same machine and libraries give the same hashes.

python experiments/bench/hashes.py WORK --tree BEFORE --save before.json        the reference; WORK is a new folder
python experiments/bench/hashes.py WORK --tree AFTER --against before.json      exit code 1 when anything differs

--preload starts every command as a copy of a process that has loaded the libraries: the same hashes in half the time.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

QUIET = {  # one thread, no GPU, no network, no window
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "MPLBACKEND": "Agg",
}  # fmt: skip
LIBRARIES = (
    "torch", "timm", "lightly.loss", "lightly.models.modules", "albumentations", "sklearn.ensemble",
    "sklearn.linear_model", "sklearn.neighbors", "scipy.stats", "skimage.measure", "matplotlib.pyplot", "pandas",
    "pyarrow.parquet", "anndata", "h5py", "tifffile", "jinja2",
)  # fmt: skip
QUIETLY = {"--workers": "0", "--threads": "1", "--device": "cpu"}  # where a command knows them
SCENE = "--height 128 --width 160 --contamination 0.2"
TRAIN = "--steps 3 --batch 16"
TRUTH = "--annotations simulated/truth/points.csv --truth simulated/truth/masks"
CELLS = "--items cells --splits plan --size 32"
TABLE = "--items inputs/table.csv --branch tabular --unit donor"
COUNTS = "--items inputs/counts.h5ad --branch rna --unit donor"

# run -> command; paths are relative to the work folder, and --out is the run's name
CUT = {
    "simulated": f"simulate --images 4 {SCENE}",
    "scalebar": f"simulate --images 1 --groups neuron,xylem --shortcut scalebar {SCENE}",
    "caption": f"simulate --images 1 --groups phloem,rbc --shortcut caption {SCENE}",
    "calcium": "simulate --kind calcium --noise 0.01,0.05 --samples 4 --side 3 --points 120",
    "cells": f"segment --raw simulated/raw --segmenter threshold {TRUTH}",
    "nano": f"segment --raw simulated/raw --segmenter nano {TRUTH}",
    "dropped": "segment --raw scalebar/raw --segmenter threshold --drop border,blurred,ragged",
    "modes": "segment --raw caption/raw --segmenter threshold --mode tile --set modes.rbc=object",
    "formats": "segment --raw inputs/formats --segmenter threshold",
    "ready": "segment --crops inputs/crops --metadata inputs/crops.csv --unit plate_well",
}
LEARNT = {
    "plan": "plan --items cells --folds 2",
    "plan-regex": r"plan --items cells --unit 'path~_(\d+)\.png' --folds units",
    "plan-ready": "plan --items ready",
    "plan-table": f"plan {TABLE}",
    "plan-rna": f"plan {COUNTS} --folds 3",
    "plan-calcium": "plan --items calcium/raw --branch trace --folds 2",
    "plan-fusion": "plan --items inputs/fusion.yaml --branch fusion --folds 2",
    "simclr": f"pretrain {CELLS} --fold 0 --encoder test_resnet --probes 2 {TRAIN}",
    "masked": f"pretrain {COUNTS} --fold 0 --method masked --encoder transformer-2x16x4 --probes 2 {TRAIN}",
    "embed-image": f"embed {CELLS} --encoder simclr",
    "embed-rna": f"embed {COUNTS} --target kind --encoder masked",
    "finetune-linear": f"finetune {CELLS} --encoder test_resnet {TRAIN}",
    "finetune-whole": f"finetune {CELLS} --encoder simclr --tune whole --fold 0 --poses 2 {TRAIN}",
    "finetune-annotation": f"finetune {CELLS} --encoder test_resnet --target annotation --ignore debris --tune last "
    f"--view masked --no-baselines {TRAIN}",
    "finetune-mil": f"finetune {CELLS} --encoder test_resnet --strategy mil --set strategy.min_bags=2 --view marked "
    f"--fold 1 {TRAIN}",
    "finetune-table": f"finetune {TABLE} --target y --encoder mlp-16-8 --tune whole {TRAIN}",
    "finetune-rna": f"finetune {COUNTS} --splits plan-rna --target kind --encoder mlp-16-8 --tune whole {TRAIN}",
    "finetune-trace": "finetune --items calcium/raw --branch trace --splits plan-calcium --target distance "
    f"--strategy ordinal --encoder cnn-8-8 --tune whole {TRAIN}",
    "finetune-fusion": "finetune --items inputs/fusion.yaml --branch fusion --splits plan-fusion --tune whole "
    f"--encoder late:image=test_resnet+table=mlp-16-8 {TRAIN}",
    "bundle": f"finetune {CELLS} --encoder simclr --tune whole --fold none {TRAIN}",
    "bundle-rna": f"finetune {COUNTS} --target kind --encoder masked --fold none {TRAIN}",
    "predict-raw": "predict --model bundle/model --raw scalebar/raw",
    "predict-items": "predict --model bundle/model --items nano",
    "predict-rna": "predict --model bundle-rna/model --items inputs/counts.h5ad",
    "ablate": f"ablate --config inputs/ablate.yaml {TABLE}",
    "study": "study --raw simulated/raw --annotations simulated/truth/points.csv --segmenter threshold --seeds 0 "
    "--encoder test_resnet --size 32 --folds 2 --steps 2 --pretrain-steps 2 --batch 16",
    "segmenter": "train_segmenter --raw simulated/raw/rbc --truth simulated/truth/masks/rbc --steps 2 --batch 2",
    "segmented-again": "segment --raw scalebar/raw --segmenter nano --weights segmenter/weights.safetensors",
    "export-geojson": "export cells --to geojson --predictions finetune-linear",
    "export-annotation": "export predict-raw --to geojson --object-type annotation",
    "export-cellprofiler": "export nano --to cellprofiler --predictions predict-items --channel-names red,green,blue",
    "export-labels": "export dropped --to labels",
    "export-cellpose": "export modes --to labels --naming cellpose",
    "extract": "extract --raw inputs/waves",
    "plan-trace": "plan --items extract --branch trace --folds 3",
    "cluster-rna": f"cluster {COUNTS} --target kind",
    "cluster-table": f"cluster {TABLE} --components 3 --target y",
    "cluster-image": "cluster --items cells --branch image --set branch.size=32 --encoder simclr --markers 0",
    "importance-rna": f"importance {COUNTS} --splits plan-rna --target kind --candidates 12 --repeats 2",
    "importance-table": "importance --items inputs/measured.csv --branch tabular --unit unit --model logistic",
    "report-study.html": "report study",
    "report-finetune.html": "report finetune-linear",
    "report-predict.html": "report predict-raw",
}

ROWS = 120  # of the table and of the counts, ten from each of twelve donors
GENES = 40
GRID = np.array([2, 1, 2, 1, 0, 1, 2, 1, 2])  # steps to the middle of a tissue of 3 x 3
BOOKKEEPING = {"run.json", "log.jsonl", "config.yaml"}  # times, process numbers, versions
FINGERPRINT = re.compile(r"(^|(?<=-))[0-9a-f]{16}(?=\.|$)")  # in the name of a child's folder or of a cached file
TEXTS = {".csv", ".json", ".geojson", ".html"}
PAGE_TIMES = re.compile(r"(started |configuration |<td>done</td><td>)[^<\s]+[^<\n·]*|<td>[0-9a-f]{16}</td>")
ABLATION = """
target: y
folds: 2
seeds: [0, 1]
by: batch
base: {loop: {steps: 3, batch: 16}}
pretrain: {tiny: {encoder: mlp-16-8, loop: {steps: 3, batch: 16}, probes: 1}}
factors: {encoder: [mlp-16-8, "pretrain:tiny"], tune: [linear, whole]}
arms: {half of the labels: {encoder: ft-8-1, label_fraction: 0.5}}
"""


# -- inputs -------------------------------------------------------------------------------------------------------


def make_inputs(folder: Path) -> None:
    """What cannot be simulated by a command, from fixed seeds."""
    folder.mkdir()
    (folder / "ablate.yaml").write_text(ABLATION)
    write_table(folder / "table.csv")
    write_counts(folder / "counts.h5ad")
    write_waves(folder / "waves")
    write_crops(folder / "crops", folder / "crops.csv")
    write_formats(folder / "formats")


def donors() -> tuple[list[str], npt.NDArray[np.int64]]:
    """The donor of each row, and the two classes of donors, (ROWS,)."""
    number = np.arange(ROWS) // 10
    return [f"donor{one:02d}" for one in number], number % 2


def write_table(path: Path) -> None:
    """Six features, two of which tell the class, and a missing value."""
    import pandas as pd

    donor, sick = donors()
    values = np.random.default_rng(0).normal(size=(ROWS, 6)).astype(np.float32)
    values[:, :2] += 2.5 * sick[:, None]
    values[3, 4] = np.nan
    named = {"donor": donor, "y": np.where(sick, "sick", "well"), "batch": np.where(np.arange(ROWS) % 3, "b", "a")}
    pd.DataFrame({**named, **{f"f{one}": values[:, one] for one in range(6)}}).to_csv(path, index=False)


def write_counts(path: Path) -> None:
    """An h5ad of sparse counts; six genes tell the kind of a cell."""
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(1)
    kind = np.arange(ROWS) % 2
    rate = np.tile(rng.gamma(2.0, 1.0, GENES), (ROWS, 1))
    rate[:, :6] *= np.where((kind[:, None] + np.arange(6)) % 2, 3.0, 0.3)
    counts = rng.poisson(rate * rng.uniform(0.6, 1.6, (ROWS, 1)))
    cells = {"donor": donors()[0], "kind": np.where(kind, "exc", "inh")}
    obs = pd.DataFrame(cells, index=[f"cell{one:03d}-1" for one in range(ROWS)])
    var = pd.DataFrame({"symbol": [f"Sym{one}" for one in range(GENES)]}, index=[f"g{one:03d}" for one in range(GENES)])
    anndata.AnnData(csr_matrix(counts.astype(np.float32)), obs=obs, var=var).write_h5ad(path)


def write_waves(folder: Path) -> None:
    """Traces as MATLAB writes them: a bump that comes later and lower the farther the cell is; and a damaged file."""
    import h5py

    folder.mkdir()
    for number, noise in enumerate((0.02, 0.2)):
        rng = np.random.default_rng(number)
        with h5py.File(folder / f"sim__beta_0.40_noise_{noise:.3f}_{number + 1}.h5", "w") as file:
            file["tissue/distanceToTarget"] = GRID.astype(float)
            for sample in range(1, 7):
                later = np.arange(60)[:, None] - rng.uniform(0, 2) - 12 - 12 * GRID
                bump = np.exp(-((later / 5) ** 2)) / (1 + GRID)
                file[f"timeTraces/{sample}"] = bump + rng.normal(0, noise, bump.shape)
    (folder / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))


def discs(height: int, width: int, count: int, seed: int) -> npt.NDArray[np.float64]:
    """(height, width) from 0 to 1: bright discs on a dim noisy ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    picture = rng.uniform(0, 0.1, (height, width))
    for cy, cx in rng.uniform((8, 8), (height - 8, width - 8), (count, 2)):
        picture[(y - cy) ** 2 + (x - cx) ** 2 < 25] = rng.uniform(0.4, 1)
    return picture


def write_crops(folder: Path, metadata: Path) -> None:
    """Ready crops of two sizes, grey and colour, from six wells."""
    import pandas as pd
    from PIL import Image

    rows = []
    for number in range(24):
        side, label = 24 + 8 * (number % 2), ("dim", "bright")[number // 4 % 2]
        grey = (discs(side, side, 1 + number % 3, number) * (120 if label == "dim" else 255)).astype(np.uint8)
        name = f"plate{number // 12}/{number:02d}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey if number % 5 else np.stack([grey, grey // 2, grey], axis=-1)).save(folder / name)
        rows.append({"image": name, "label": label, "plate_well": f"w{number // 4}", "dose": number % 4})
    pd.DataFrame(rows).to_csv(metadata, index=False)


def write_formats(folder: Path) -> None:
    """Images of several formats and depths, one that is damaged, one with two channels, and a file that is no image."""
    import tifffile
    from PIL import Image

    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    grey = [discs(96, 112, 14, seed) for seed in range(4)]
    bytes_ = [(255 * one).astype(np.uint8) for one in grey]
    words = [(4095 * one).astype(np.uint16) for one in grey]
    colour = Image.fromarray(np.stack(bytes_[:3], axis=-1))
    Image.fromarray(bytes_[0]).save(folder / "a" / "grey.png")
    Image.fromarray(words[1]).save(folder / "a" / "deep.png")
    colour.save(folder / "a" / "colour.jpg", quality=90)
    colour.convert("RGBA").save(folder / "a" / "alpha.png")
    colour.quantize(16).save(folder / "a" / "palette.gif")
    (folder / "a" / "damaged.png").write_bytes((folder / "a" / "grey.png").read_bytes()[:2000])
    (folder / "a" / "notes.txt").write_text("no image")
    tifffile.imwrite(folder / "b" / "stack.tif", np.stack(words), imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(folder / "b" / "real.tif", grey[2].astype(np.float32), compression="deflate")
    tifffile.imwrite(folder / "b" / "colour.tif", np.stack(bytes_[1:], axis=-1), photometric="rgb", compression="lzw")
    tifffile.imwrite(folder / "b" / "two.tif", np.stack(bytes_[:2]), imagej=True, metadata={"axes": "CYX"})


def write_fusion(folder: Path, cells: Path) -> None:
    """The cells, and a table of them that tells the group, lacks every fifth and has three more."""
    import pandas as pd

    own = pd.read_parquet(cells / "cells.parquet")[["item_id", "unit", "group"]]
    own = own[np.arange(len(own)) % 5 > 0]
    both = pd.concat([own, own.head(3).assign(item_id=["only0", "only1", "only2"])], ignore_index=True)
    code = both["group"].astype("category").cat.codes.to_numpy()
    noise = np.random.default_rng(2).normal(size=(len(both), 2)).round(3)
    measured = both.rename(columns={"item_id": "cell"}).assign(size=3 * (code % 2) + noise[:, 0], noise=noise[:, 1])
    measured.to_csv(folder / "measured.csv", index=False)
    image = {"items": "../cells", "branch": {"name": "image", "size": 32}}
    table = {"items": "measured.csv", "branch": {"name": "tabular"}, "key": "cell"}
    (folder / "fusion.yaml").write_text(json.dumps({"parts": {"image": image, "table": table}}))  # JSON is YAML


# -- running ------------------------------------------------------------------------------------------------------


def run_all(work: Path, commands: Mapping[str, str], preload: bool) -> list[str]:
    """Run each command in `work`, its words in logs/<run>.txt; -> the runs that failed."""
    failed = []
    for name, text in commands.items():
        words = shlex.split(text)
        arguments = [*words, *quietly(words[0], work), "--out", name]
        log = work / "logs" / f"{name}.txt"
        begun = time.monotonic()
        code = (in_copy if preload else in_process)(arguments, work, log)
        print(f"{time.monotonic() - begun:5.1f} s  {name}", file=sys.stderr, flush=True)
        if code:
            failed.append(name)
            last = log.read_text("utf-8", "replace").strip().splitlines()[-1:]
            print(f"         FAILED with {code}: {' '.join(last)}", file=sys.stderr, flush=True)
    return failed


@functools.cache
def quietly(command: str, work: Path) -> list[str]:
    """Those of QUIETLY that the command's help lists."""
    show = [sys.executable, "-m", "cellvision", command, "--help"]
    text = subprocess.run(show, cwd=work, capture_output=True, text=True, check=False).stdout
    return [word for flag, value in QUIETLY.items() if f"{flag} " in text for word in (flag, value)]


def in_process(arguments: list[str], work: Path, log: Path) -> int:
    with log.open("wb") as sink:
        command = [sys.executable, "-m", "cellvision", *arguments]
        return subprocess.run(command, cwd=work, stdout=sink, stderr=sink, check=False).returncode


def in_copy(arguments: list[str], work: Path, log: Path) -> int:
    """The same in a fork of this process, which has loaded the libraries but nothing of cellvision."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code: Any = 1
    try:
        with log.open("wb") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        os.chdir(work)
        sys.path[:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        sys.argv = ["cellvision", *arguments]
        runpy.run_module("cellvision", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    finally:
        if sys.exc_info()[0]:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)


def tested(work: Path) -> str:
    """Where the package lies that the commands will use."""
    command = [sys.executable, "-c", "import cellvision; print(cellvision.__file__)"]
    return subprocess.run(command, cwd=work, capture_output=True, text=True, check=True).stdout.strip()


# -- hashing ------------------------------------------------------------------------------------------------------


def hashes(path: Path, work: Path) -> dict[str, str]:
    """Relative name -> hash of every result below `path`; '' for a file itself.

    Names made of a fingerprint are numbered in the order of what is inside instead, since a fingerprint may change
    where no result does.
    """
    if path.is_file():
        return {"": content(path, work)}
    named: list[tuple[str, dict[str, str]]] = []
    unnamed: dict[str, list[dict[str, str]]] = {}
    for entry in sorted(path.iterdir()):
        if entry.name in BOOKKEEPING or entry.name.startswith("."):
            continue
        pattern = FINGERPRINT.sub("*", entry.name)
        if pattern == entry.name:
            named.append((entry.name, hashes(entry, work)))
        else:
            unnamed.setdefault(pattern, []).append(hashes(entry, work))
    for pattern, some in unnamed.items():
        ordered = sorted(some, key=lambda one: sorted(one.items()))
        named += [(pattern.replace("*", f"{number:02d}"), one) for number, one in enumerate(ordered)]
    return {f"{name}/{inner}".rstrip("/"): value for name, found in named for inner, value in found.items()}


def content(path: Path, work: Path) -> str:
    """Hash of what a file says: for containers the values, for texts without paths, fingerprints and times."""
    total = hashlib.sha256()
    for part in parts_of(path):
        total.update(part if isinstance(part, bytes) else without_places(part, work).encode("utf-8", "replace"))
        total.update(b"\0")
    return total.hexdigest()


def without_places(text: str, work: Path) -> str:
    """Text without the work folder's path, and without the fingerprints in the names of children."""
    return re.sub(r"(?<=-)[0-9a-f]{16}\b", "*", text.replace(str(work), "WORK"))


def parts_of(path: Path) -> Iterable[bytes | str]:
    kind = path.suffix.lower()
    if kind in TEXTS:
        text = path.read_text("utf-8")
        return [PAGE_TIMES.sub("", text) if kind == ".html" else text]
    if kind in (".parquet", ".arrow"):
        return of_table(path)
    if kind in (".h5", ".h5ad"):
        return of_hdf5(path)
    if kind == ".safetensors":
        data = path.read_bytes()
        size = 8 + int.from_bytes(data[:8], "little")
        return [json.dumps(json.loads(data[8:size]), sort_keys=True), data[size:]]
    return [path.read_bytes()]


def of_table(path: Path) -> Iterable[str]:
    """Names, types and values of the columns, every digit of them."""
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.parquet.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all()
    for field in table.schema:
        yield f"{field.name} {field.type}"
        yield repr(table.column(field.name).to_pylist())


def of_hdf5(path: Path) -> Iterable[bytes | str]:
    """Names, attributes, types and values of everything in the file."""
    import h5py

    with h5py.File(path) as file:
        names: list[str] = []
        file.visit(names.append)
        for name in ["/", *sorted(names)]:
            one = file[name]
            yield f"{name} {sorted((key, np.asarray(value).tolist()) for key, value in one.attrs.items())}"
            if isinstance(one, h5py.Dataset):
                values = np.asarray(one[()])
                yield f"{one.dtype} {one.shape}"
                yield repr(values.tolist()) if values.dtype == object else values.tobytes()


def compare(before: Mapping[str, str], after: Mapping[str, str]) -> int:
    """Print what differs, is missing or is new; -> how many."""
    kinds = {
        "differs": [name for name in before if name in after and before[name] != after[name]],
        "missing": [name for name in before if name not in after],
        "new": [name for name in after if name not in before],
    }
    for kind, names in kinds.items():
        for name in names:
            print(f"{kind:8} {name}")
    found = sum(map(len, kinds.values()))
    print(f"{len(before)} files before, {len(after)} now, {found} differences", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="a new folder for inputs and runs")
    parser.add_argument("--tree", type=Path, help="checkout whose cellvision is run")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the hashes as JSON")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with hashes that were saved")
    parser.add_argument("--preload", action="store_true", help="load the libraries once")
    given = parser.parse_args()
    before = json.loads(given.against.read_text()) if given.against else None
    os.environ |= QUIET | ({"PYTHONPATH": str(given.tree.resolve())} if given.tree else {})
    work = given.work.resolve()
    (work / "logs").mkdir(parents=True)  # fails where a run of this script has been
    print(f"testing {tested(work)}", file=sys.stderr)
    make_inputs(work / "inputs")
    if given.preload:
        for library in LIBRARIES:
            importlib.import_module(library)
    failed = run_all(work, CUT, given.preload)
    write_fusion(work / "inputs", work / "cells")
    failed += run_all(work, LEARNT, given.preload)
    names = [name for name in {**CUT, **LEARNT} if (work / name).exists()]
    found = {f"{name}/{inner}".rstrip("/"): one for name in names for inner, one in hashes(work / name, work).items()}
    found = dict(sorted(found.items()))
    if given.save:
        given.save.write_text(json.dumps(found, indent=1) + "\n")
    if before is None:
        print(json.dumps(found, indent=1))
    elif compare(before, found):
        raise SystemExit(1)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
