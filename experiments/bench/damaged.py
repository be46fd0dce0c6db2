"""Randomly damaged files through every reader: images, tables, counts, traces, weights, JSON, YAML, GeoJSON, Parquet.

A mutant is a small sound file that was cut, had bytes flipped or pieces spliced (`mutants`), a word of its text or a
value of its JSON replaced by one that nobody expects, or an object of its HDF5 removed or replaced. What reads it runs
in a forked process with a bound on memory, so that a crash or a hang costs one mutant. It must read the file or say in
one line what is wrong: any other exception is a traceback, any silence longer than HANG_S a hang.

python experiments/bench/damaged.py [--count 10000] [--seed 0] [--only csv] [--keep DIR]
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import mutants
import numpy as np

from cellvision.core import files, rundir
from cellvision.core.errors import CellvisionError
from cellvision.core.rng import generator

HANG_S = 120.0  # on the wall, of a machine that may be busy
MEMORY = 8 << 30  # bytes of address space a reader may take
IMAGES_EVERY = 4  # every fourth mutant is an image
ODD_WORDS = (  # among them what obeys rules of its own in CSV, JSON, YAML or a terminal
    "", " ", "NaN", "nan", "NA", "None", "null", "inf", "-inf", "1e999", "-0", "0", "-1", "1", "2147483648", "9" * 30,
    "9" * 5000, "1.5", "1,5", "1.234,5", "0x10", "1e", "true", "[]", "{}", "[1]", '"', "'", ",", ";", "\t", "\r",
    "\r\n", "\n", "\0", "\x1b[2J", "\ufeff", "é", "\u202e", "=1+1", "../..", "/dev/zero", "x" * 3000, "\x85", "#",
    "&a", "*a", "!!python/name:os", "<<", ": ", "- ", "|", ">", "%", "@", "`",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**30, 1e308, "", "x", "\0", [], {}, [[]], [None], {"": None}, "a" * 5000, -(2**63),
    "../x",
)  # fmt: skip


class Kind(NamedTuple):
    """A sound file below a folder, what reads it, and how else it is damaged."""

    file: str
    read: Callable[[Path], Any]
    text: bool = False
    tree: bool = False
    hdf5: bool = False


# -- what reads ---------------------------------------------------------------------------------------------------


def of_branch(path: Path, *, name: str, **options: Any) -> None:
    """Open the items of a branch and take a batch of them."""
    from cellvision.branches import BRANCHES

    branch = BRANCHES.build({"name": name, **options}, path=path)
    rows = np.arange(min(8, len(branch.items.table)))
    branch.batch(rows, branch.fit(np.arange(len(branch.items.table))))


def of_extract(path: Path) -> None:
    from cellvision.branches.trace.files import Reader

    for _ in Reader(path).blocks():
        pass


def of_extraction(path: Path) -> None:
    from cellvision.branches.trace import store

    traces, _ = store.from_extraction(path)
    traces.take(np.arange(min(4, len(traces))))


def of_tables(path: Path) -> None:
    from cellvision.io import tables

    tables.read(path)
    tables.read_text(path)


def of_annotations(path: Path) -> None:
    import pandas as pd

    from cellvision.cells import annotate

    annotate.read(path, pd.DataFrame({"image_id": ["a"], "path": ["g/a.png"], "height": [90], "width": [90]}))


def of_config(path: Path) -> None:
    from cellvision import finetune
    from cellvision.core import config

    config.load(finetune.Config, path, {}, [])


def of_splits(path: Path) -> None:
    from cellvision.evidence import splits

    splits.read(path)


def of_crops(path: Path) -> None:
    from cellvision.cells.cropstore import Crops

    Crops(path.parent).take(np.arange(2))


def of_weights(path: Path) -> None:
    from cellvision.io import tensorfiles

    tensorfiles.read(path)


def of_encoder(path: Path) -> None:
    from cellvision.models import encoders

    encoders.read_facts(path.parent)


def of_bundle(path: Path) -> None:
    from cellvision import predict
    from cellvision.models import classifier

    bundle = classifier.read_bundle(path.parent)
    if bundle["segment"] is not None:
        predict.cut_like_training(predict.Config(model=path.parent, raw=path.parent), bundle)


def of_geojson(path: Path) -> None:
    from cellvision.io import geojson

    geojson.read_labels(path, (60, 80))


def of_map(path: Path) -> None:
    from cellvision.io import labelmaps

    labelmaps.read(path)


def of_record(path: Path) -> None:
    rundir.verify(path.parent)


def of_page(path: Path) -> None:
    """A page about a run whose metrics, tables or pictures are not those of its stage."""
    from cellvision import report

    record = files.read_json(path.parent / "run.json")
    files.write_json(path.parent / "run.json", record | {"content": rundir.seal(path.parent)})
    report.run(report.Config(run=path.parent), path.parent / "page.html")


KINDS: dict[str, Kind] = {
    "csv": Kind("table.csv", partial(of_branch, name="tabular"), text=True),
    "decimal comma": Kind("comma.csv", partial(of_branch, name="tabular"), text=True),
    "packed csv": Kind("table.csv.gz", partial(of_branch, name="tabular")),
    "csv as text": Kind("table.csv", of_tables, text=True),
    "annotations": Kind("points.csv", of_annotations, text=True),
    "splits": Kind("splits.csv", of_splits, text=True),
    "wide traces": Kind("wide.csv", partial(of_branch, name="trace"), text=True),
    "long traces": Kind("long.csv", partial(of_branch, name="trace"), text=True),
    "counts csv": Kind("counts.csv", partial(of_branch, name="rna", orient="cells"), text=True),
    "h5ad": Kind("cells.h5ad", partial(of_branch, name="rna"), hdf5=True),
    "dense h5ad": Kind("dense.h5ad", partial(of_branch, name="rna"), hdf5=True),
    "h5ad as table": Kind("dense.h5ad", of_tables, hdf5=True),
    "10x h5": Kind("10x.h5", partial(of_branch, name="rna"), hdf5=True),
    "10x matrix": Kind("10x/matrix.mtx", lambda path: of_branch(path.parent, name="rna"), text=True),
    "traces": Kind("waves.h5", of_extract, hdf5=True),
    "traces as items": Kind("waves.h5", partial(of_branch, name="trace"), hdf5=True),
    "extraction": Kind("traces.arrow", of_extraction),
    "parquet": Kind("table.parquet", partial(of_branch, name="tabular")),
    "parquet of a run": Kind("table.parquet", files.read_parquet),
    "safetensors": Kind("model/weights.safetensors", of_weights),
    "encoder": Kind("model/encoder.json", of_encoder, text=True, tree=True),
    "bundle": Kind("model/bundle.json", of_bundle, text=True, tree=True),
    "record": Kind("run/run.json", of_record, text=True, tree=True),
    "metrics": Kind("run/metrics.json", of_page, text=True, tree=True),
    "table of a run": Kind("run/clusters.csv", of_page, text=True),
    "yaml": Kind("config.yaml", of_config, text=True),
    "geojson": Kind("cells.geojson", of_geojson, text=True, tree=True),
    "label map": Kind("map.tif", of_map),
    "crops": Kind("crops/00000.npy", of_crops),
}


# -- sound files --------------------------------------------------------------------------------------------------


def write_sound(folder: Path) -> None:
    """Every file of KINDS."""
    write_tables(folder)
    write_counts(folder)
    write_traces(folder)
    write_runs(folder)


def write_tables(folder: Path) -> None:
    import pandas as pd

    rng = np.random.default_rng(0)
    names = {"donor": [f"d{row // 4}" for row in range(24)], "y": np.where(np.arange(24) % 2, "sick", "well")}
    table = pd.DataFrame(names | {f"f{number}": rng.normal(size=24).round(4) for number in range(4)})
    table.to_csv(folder / "table.csv", index=False)
    table.to_csv(folder / "comma.csv", index=False, sep=";", decimal=",", encoding="utf-16")
    (folder / "table.csv.gz").write_bytes(gzip.compress((folder / "table.csv").read_bytes(), mtime=0))
    files.write_parquet(folder / "table.parquet", table)
    (folder / "points.csv").write_text("image,x,y,label\n" + "".join(f"a.png,{n}.5,{n},k{n % 2}\n" for n in range(9)))
    rows = "".join(f"s{n},u{n // 2},{'ab'[n % 2]},{n // 4}\n" for n in range(8))
    (folder / "splits.csv").write_text(f"source_id,unit,group,fold\n{rows}")


def write_counts(folder: Path) -> None:
    import anndata
    import h5py
    import pandas as pd
    from scipy.io import mmwrite
    from scipy.sparse import csr_matrix

    counts = np.random.default_rng(0).poisson(1.0, (20, 12)).astype(np.float32)
    cells = pd.DataFrame({"donor": [f"d{row // 4}" for row in range(20)], "kind": pd.Categorical(["a", "b"] * 10)})
    cells.index = [f"c{row}" for row in range(20)]
    genes = pd.DataFrame({"symbol": [f"S{n}" for n in range(12)]}, index=[f"g{n}" for n in range(12)])
    anndata.AnnData(csr_matrix(counts), obs=cells, var=genes).write_h5ad(folder / "cells.h5ad")
    anndata.AnnData(counts, obs=cells, var=genes, layers={"raw": counts}).write_h5ad(folder / "dense.h5ad")
    pd.DataFrame(counts.astype(int), index=cells.index, columns=genes.index).to_csv(folder / "counts.csv")
    sparse = csr_matrix(counts.astype(np.int32))
    with h5py.File(folder / "10x.h5", "w") as file:
        matrix = file.create_group("matrix")
        matrix["data"], matrix["indices"], matrix["indptr"] = sparse.data, sparse.indices, sparse.indptr
        matrix["shape"], matrix["barcodes"] = np.array([12, 20]), np.array(cells.index, "S8")
        for name in ("id", "name", "feature_type", "genome"):
            matrix[f"features/{name}"] = np.array([f"{name}{n}" for n in range(12)], "S16")
    (folder / "10x").mkdir()
    mmwrite(folder / "10x" / "matrix.mtx", sparse.T)
    (folder / "10x" / "barcodes.tsv").write_text("".join(f"{name}\n" for name in cells.index))
    (folder / "10x" / "features.tsv").write_text("".join(f"{n}\tS{n}\tGene Expression\n" for n in genes.index))


def write_traces(folder: Path) -> None:
    import h5py
    import pandas as pd

    values = np.random.default_rng(0).normal(size=(9, 20)).round(3)
    wide = pd.DataFrame(values, columns=[f"ERK_{time}" for time in range(20)])
    wide.insert(0, "id", [f"t{row}" for row in range(9)])
    wide.to_csv(folder / "wide.csv", index=False)
    long = wide.melt("id", var_name="time", value_name="erk")
    long.assign(time=long["time"].str.removeprefix("ERK_").astype(int)).to_csv(folder / "long.csv", index=False)
    with h5py.File(folder / "waves.h5", "w") as file:
        file["tissue/distanceToTarget"] = np.arange(9.0)
        file["sim_ids"] = np.array(["one", "two"], "S4")
        file["params/beta"] = 0.4
        for sample in ("1", "2"):
            file[f"timeTraces/{sample}"] = values.T
    from cellvision import extract
    from cellvision.branches.trace.files import Reader

    extract.write(Reader(folder / "waves.h5").blocks(), folder / "traces.arrow")


def write_runs(folder: Path) -> None:
    import pandas as pd
    import torch

    from cellvision import cluster
    from cellvision.core.config import build
    from cellvision.io import geojson, labelmaps, tensorfiles
    from cellvision.models import encoders

    tensors = {"network.a": torch.arange(6.0).view(2, 3), "head.b": torch.ones(2, dtype=torch.int64)}
    tensorfiles.write(folder / "model" / "weights.safetensors", tensors)
    schema = {"geometry": {"size": 32, "scale": 1.0, "context": 0.1, "channels": 3}, "size": 32, "view": "context"}
    facts = {"network": "resnet10t", "branch": "image", "schema": schema, "seen": ["a"], "origin": "random"}
    files.write_json(folder / "model" / "encoder.json", {"schema_version": encoders.SCHEMA, **facts})
    cut = {"segmenter": {"name": "threshold"}, "mode": "cell", "modes": {"a": "object"}, "read": {"frames": "first"}}
    bundle = {"classes": ["a", "b"], "target": "group", "strategy": {"name": "inherit"}, "branch": {"name": "image"}}
    files.write_json(folder / "model" / "bundle.json", bundle | {"segment": cut, "segmenter": "t", "units": 4})
    options = {"items": folder / "table.csv", "branch": "tabular", "projections": ["pca"], "method": "louvain"}
    cluster.run(build(cluster.Config, options | {"repeats": 0}), folder / "run")
    for picture in (folder / "run").glob("*.png"):
        picture.unlink()
    record = files.read_json(folder / "run" / "run.json")
    files.write_json(folder / "run" / "run.json", record | {"content": rundir.seal(folder / "run")})
    (folder / "config.yaml").write_text(
        "items: a\nbranch: {name: image, size: 48}\nloop:\n  steps: 7\n  lr: 1e-3\nseed: 3\ntune: last # ok\n"
    )
    labels = np.zeros((60, 80), np.int32)
    labels[5:20, 5:20], labels[30:50, 40:70] = 1, 2
    labelmaps.write(folder / "map.tif", labels)
    cells = pd.DataFrame({"mask_label": [1, 2], "item_id": ["a", "b"], "classification": ["k", None]})
    features = geojson.features(labels, cells, "cell", [], [])
    geojson.write_geojson(folder / "cells.geojson", features, {"height": 60, "width": 80})
    (folder / "crops").mkdir()
    np.save(folder / "crops" / "00000.npy", np.zeros((3, 16, 16, 4), np.uint8))


# -- damage -------------------------------------------------------------------------------------------------------


def damaged(path: Path, kind: Kind, other: bytes, rng: np.random.Generator) -> str:
    """Damage the file in place; -> how."""
    data = path.read_bytes()
    ways = ["cut", "flip", "header", "splice", *3 * kind.text * ["word"], *4 * kind.tree * ["value"]]
    ways += 4 * kind.hdf5 * ["object"]
    way = ways[int(rng.integers(len(ways)))]
    if way == "word":
        path.write_bytes(with_word(data, rng))
    elif way == "value":
        path.write_text(with_value(data, rng), "utf-8", "surrogatepass")
    elif way == "object":
        with_object(path, rng)
    elif way == "splice":
        path.write_bytes(spliced(data, other, rng))
    else:
        path.write_bytes(mutants.DAMAGES[way](data, rng))
    return way


def with_word(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three words, lines or marks of a text replaced, doubled or left out."""
    for _ in range(rng.integers(1, 4)):
        bounds = [at for at, byte in enumerate(data) if byte in b",;\n\t :{}[]\"'"] or [0]
        begin = bounds[int(rng.integers(len(bounds)))]
        later = [at for at in bounds if at > begin] or [len(data)]
        end = later[min(int(rng.integers(3)), len(later) - 1)]
        word = ODD_WORDS[int(rng.integers(len(ODD_WORDS)))].encode("utf-8", "surrogatepass")
        middle = [word, data[begin:end] * 3, b"", data[begin : begin + 1] + word][int(rng.integers(4))]
        data = data[:begin] + middle + data[end:]
    return data


def with_value(data: bytes, rng: np.random.Generator) -> str:
    """One value of a JSON document replaced or left out, or its key renamed."""
    document = json.loads(data)
    places: list[tuple[Any, Any]] = list(places_in(document))
    home, key = places[int(rng.integers(len(places)))]
    way = int(rng.integers(3))
    if way == 0:
        del home[key]
    elif way == 1 and isinstance(home, dict):
        home[f"{key}?"] = home.pop(key)
    else:
        home[key] = ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
    return json.dumps(document)


def places_in(tree: Any) -> Iterator[tuple[Any, Any]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(inner):
        yield tree, key
        yield from places_in(value)


def with_object(path: Path, rng: np.random.Generator) -> None:
    """One object or attribute of an HDF5 file removed, or replaced by one of another length, shape or type."""
    import h5py

    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = names[int(rng.integers(len(names)))]
        node, way = file[name], int(rng.integers(9))
        if way == 0 or (isinstance(node, h5py.Group) and way < 7):
            del file[name]
        elif way < 7:
            values = node[()]
            del file[name]
            odd = [
                lambda: np.ravel(values)[: max(0, np.size(values) - 1)], lambda: np.stack([values, values]),
                lambda: np.float64(0.5), lambda: np.full(np.shape(values), -1), lambda: np.full(np.shape(values), b"x"),
                lambda: np.full(np.shape(values), np.nan),
            ]  # fmt: skip
            file[name] = odd[way - 1]()
        elif node.attrs:
            key = list(node.attrs)[int(rng.integers(len(node.attrs)))]
            del node.attrs[key]
            if way == 8:
                node.attrs[key] = [b"?", -1, np.arange(3), "", 2**40][int(rng.integers(5))]


def spliced(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A piece taken out, doubled, zeroed, or replaced by a piece of another file."""
    low, high = np.sort(rng.integers(0, len(data), 2))
    begin = int(rng.integers(len(other)))
    middle = [b"", data[low:high] * 2, bytes(high - low), other[begin : begin + high - low]][int(rng.integers(4))]
    return data[:low] + middle + data[high:]


# -- one mutant ---------------------------------------------------------------------------------------------------


def judge(number: int, seed: int, sound: Path, only: str = "", keep: Path | None = None) -> dict[str, Any]:
    """What became of mutant `number`: `outcome` read, told, or the name of an exception that should not be."""
    if number % IMAGES_EVERY == 0 and not only:
        row = mutants.judge((number // IMAGES_EVERY, seed))
        bad = row["half"] or ("E_INTERNAL" if row["reason"] == "E_INTERNAL" or "decoder ended" in row["text"] else "")
        hung = "HANG" if "was stopped after" in row["text"] else ""
        return {"kind": "image", "way": row["damage"], "outcome": hung or bad or "told", "text": row["text"]}
    names = [name for name in KINDS if only in name]
    rng = generator(seed, "damaged", number)
    name = names[int(rng.integers(len(names)))]
    kind, other = KINDS[name], KINDS[names[int(rng.integers(len(names)))]]
    with tempfile.TemporaryDirectory() as folder:
        path = copied(sound, Path(folder), kind.file)
        way = damaged(path, kind, (sound / other.file).read_bytes(), rng)
        outcome, text = read(kind, path)
        if keep and outcome not in ("read", "told"):
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{number}-{path.name}").write_bytes(path.read_bytes())
    return {"kind": name, "way": way, "outcome": outcome, "text": text}


def copied(sound: Path, folder: Path, file: str) -> Path:
    """The file, and those beside it where it lies in a folder of its own."""
    import shutil

    if "/" in file:
        shutil.copytree(sound / file.partition("/")[0], folder / file.partition("/")[0])
    else:
        shutil.copy(sound / file, folder / file)
    return folder / file


def read(kind: Kind, path: Path) -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(path)
    except CellvisionError as error:
        return ("told" if str(error).strip() else "no words"), str(error)
    except Exception as error:  # noqa: BLE001 - what is looked for
        return type(error).__name__, "".join(traceback.format_exception(error)[-3:])
    return "read", ""


# -- many ---------------------------------------------------------------------------------------------------------


def child(numbers: list[int], seed: int, sound: Path, only: str, keep: Path | None, sink: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.stderr = sys.stdout = open("/dev/null", "w")  # noqa: SIM115, PTH123 - until the process ends
    for number in numbers:
        sink.send(judge(number, seed, sound, only, keep) | {"number": number})


def outcomes(numbers: list[int], seed: int, sound: Path, only: str, keep: Path | None) -> Iterator[dict[str, Any]]:
    """Judged in a forked process, another one after a crash or a hang."""
    context = multiprocessing.get_context("fork")
    while numbers:
        source, sink = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(numbers[:500], seed, sound, only, keep, sink), daemon=True)
        process.start()
        sink.close()
        todo = numbers[:500]
        while todo:
            try:
                row = source.recv() if source.poll(HANG_S) else None
            except EOFError:
                row = {"kind": "?", "way": "?", "outcome": "CRASH", "text": "", "number": todo[0]}
            if row is None:
                row = {"kind": "?", "way": "?", "outcome": "HANG", "text": "", "number": todo[0]}
            yield row
            todo.pop(0)
            if row["outcome"] in ("CRASH", "HANG") and row["kind"] == "?":
                break
        process.kill()
        process.join()
        numbers = [*todo, *numbers[500:]]


def make_sound(folder: Path) -> None:
    """The sound files, made by a process of its own, whose libraries start threads."""
    process = multiprocessing.get_context("spawn").Process(target=write_sound, args=(folder,))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the sound files could not be made")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    parser.add_argument("--keep", type=Path, help="write the mutants that fail into this folder")
    given = parser.parse_args()
    begun = time.monotonic()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    bad: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        make_sound(Path(folder))
        numbers = list(range(given.first, given.first + given.count))
        for row in outcomes(numbers, given.seed, Path(folder), given.only, given.keep):
            counts[row["kind"]][row["outcome"]] += 1
            if row["outcome"] not in ("read", "told"):
                bad.append(row)
                print(f"{row['number']} {row['kind']}, {row['way']}: {row['outcome']}\n{row['text']}", flush=True)
    for name, counter in sorted(counts.items()):
        print(f"{name:18}", ", ".join(f"{outcome} {count}" for outcome, count in sorted(counter.items())))
    hung = sum(row["outcome"] == "HANG" for row in bad)
    seconds = time.monotonic() - begun
    print(f"{given.count} mutants in {seconds:.0f} s: {len(bad) - hung} tracebacks or crashes, {hung} hangs")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
