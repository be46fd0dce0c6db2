"""Stage: HDF5 files of traces -> traces.arrow, one row a cell with its trace as a fixed-size list; a preview beside.

Files are audited before they are read and streamed sample by sample. files.parquet has a row for every file, whatever
became of it; faults.csv says what was left out, to the sample and the cell; preview.csv sums up the first samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cellvision.branches.trace import store as tracestore
from cellvision.branches.trace.files import Block, Reader
from cellvision.core import files
from cellvision.core.config import StageConfig, fingerprint, option
from cellvision.core.errors import NoUsableInput, RejectedInput
from cellvision.core.progress import say
from cellvision.core.rundir import RunDir
from cellvision.runs.calls import stage

if TYPE_CHECKING:
    import pyarrow as pa

REVISION = 3
DRAWN = 12  # traces in the picture
BATCH = 4 << 20  # bytes of traces in a record batch
FAULT = ["file", "status", "reason", "sample", "cell"]
DROPPED = "first_block"  # a column of the reader that is no fact about a cell


class Config(StageConfig):
    """Options of `extract`."""

    raw: Path = option(..., "an HDF5 file, or a folder of them at any depth", runtime=True)
    preview: int = option(3, "samples of each file that preview.csv sums up", ge=1)
    uses: ClassVar[tuple[str, ...]] = ("strict",)


@stage
def run(cfg: Config, out: Path) -> None:
    """Stream every file into one table. RejectedInput under --strict when something was left out."""
    import pandas as pd

    reader = Reader(cfg.raw)
    paths = reader.paths
    if not paths:
        raise NoUsableInput(f"no HDF5 files in {cfg.raw}")
    listing = [[reader.name_of(path), files.hash_or_reason(path)] for path in paths]
    with RunDir.claim(out, "extract", cfg, {"raw": fingerprint(listing)}, REVISION) as claimed:
        if not claimed.done:
            preview = Preview(cfg.preview)
            shape = write(preview.watch(reader.blocks()), out / "traces.arrow")
            files.write_parquet(out / "files.parquet", pd.DataFrame(reader.files))
            files.write_csv(out / "faults.csv", pd.DataFrame([vars(fault) for fault in reader.faults], columns=FAULT))
            files.write_csv(out / "preview.csv", pd.DataFrame(preview.rows))
            draw(out / "traces.arrow", out / "preview.png")
            good = sum(row["status"] == "ok" for row in reader.files)
            skipped = sum(fault.status != "note" for fault in reader.faults)
            claimed.finish({"files": len(reader.files), "files_ok": good, "skipped": skipped, **shape})
    metrics = files.read_json(out / "metrics.json")
    cells, points, good, every = (metrics[name] for name in ("cells", "points", "files_ok", "files"))
    say(f"extract: {cells} cells of {points} points from {good} of {every} files -> {out / 'traces.arrow'}")
    if metrics["skipped"]:
        say(f"extract: {metrics['skipped']} files, samples or cells were left out; {out / 'faults.csv'} says why")
        if cfg.strict:
            raise RejectedInput(f"{metrics['skipped']} inputs were left out; {out / 'faults.csv'} names them")


# -- the table ----------------------------------------------------------------------------------------------------


def write(blocks: Iterable[Block], path: Path) -> dict[str, int]:
    """Blocks -> an Arrow file; -> its cells and points. Memory holds two batches.

    A later file with longer traces or further columns makes what was written be copied once with room for them.
    """
    cells, samples = 0, 0
    writer: Writer | None = None
    with files.atomic(path) as temporary, ThreadPoolExecutor(1) as thread:  # one batch is written, the next is read
        pending: Future[None] | None = None
        for group in batches(blocks):
            if pending:
                pending.result()
            points = max(block.values.shape[1] for block in group)
            fields = {
                name: kind_of(value) for block in group for name, value in block.columns.items() if name != DROPPED
            }
            if writer is None:
                writer = Writer(temporary, points, fields)
            elif points > writer.points or not fields.keys() <= writer.fields.keys():
                writer = writer.wider(points, fields)
            pending = thread.submit(writer.add, group)
            cells += sum(len(block.values) for block in group)
            samples += sum(block.columns[DROPPED] for block in group)
        if writer is None or pending is None:
            raise NoUsableInput("no traces to write")
        pending.result()
        writer.close()
    return {"cells": cells, "samples": samples, "points": writer.points}


def batches(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Blocks gathered until they hold BATCH bytes."""
    gathered: list[Block] = []
    size = 0
    for block in blocks:
        if len(block.values):
            gathered.append(block)
            size += block.values.nbytes
        if size >= BATCH:
            yield gathered
            gathered, size = [], 0
    if gathered:
        yield gathered


def kind_of(value: Any) -> str:
    """The Arrow type of a column, by name."""
    if isinstance(value, np.ndarray):
        return "list" if value.ndim > 1 else "double" if value.dtype.kind == "f" else "int64"
    return {str: "string", int: "int64"}.get(type(value), "double")


class Writer:
    """An Arrow file that is being written: `points` time points, and typed columns beside the trace."""

    def __init__(self, path: Path, points: int, fields: dict[str, str]) -> None:
        import pyarrow as pa

        kinds = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "list": pa.list_(pa.float32())}
        self.path, self.points, self.fields = path, points, fields
        columns = [pa.field(name, kinds[kind]) for name, kind in fields.items()]
        self.schema = pa.schema([*columns, pa.field(tracestore.TRACE, pa.list_(pa.float32(), points))])
        self.writer = pa.ipc.new_file(str(path), self.schema)

    def add(self, group: list[Block]) -> None:
        import pyarrow as pa

        values = tracestore.padded(group, self.points)
        counts = [len(block.values) for block in group]
        arrays = [self._column(group, counts, name) for name in self.fields]
        trace = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), self.points)
        self.writer.write_batch(pa.record_batch([*arrays, trace], schema=self.schema))

    def _column(self, group: list[Block], counts: list[int], name: str) -> pa.Array:
        import pyarrow as pa

        kind = self.schema.field(name).type
        values = [block.columns.get(name) for block in group]
        if not any(isinstance(value, np.ndarray) for value in values):
            return pa.array(values, kind).take(pa.array(np.repeat(np.arange(len(group)), counts)))
        parts = [
            pa.nulls(count, kind) if value is None else pa.array(list(value) if value.ndim > 1 else value).cast(kind)
            for value, count in zip(values, counts, strict=True)
        ]
        return pa.concat_arrays(parts)

    def wider(self, points: int, fields: dict[str, str]) -> Writer:
        """The same table with room for longer traces or further columns, copied batch by batch."""
        import pyarrow as pa

        self.close()
        old = self.path.with_suffix(".old.tmp")
        self.path.replace(old)
        wide = Writer(self.path, max(points, self.points), self.fields | fields)
        for values, batch in tracestore.mapped(old):
            longer = np.full((len(values), wide.points), np.nan, np.float32)
            longer[:, : self.points] = values[:, 0]
            trace = pa.FixedSizeListArray.from_arrays(pa.array(longer.reshape(-1)), wide.points)
            names = batch.schema.names
            kept = [
                batch.column(names.index(field.name)) if field.name in names else pa.nulls(len(values), field.type)
                for field in wide.schema
                if field.name != tracestore.TRACE
            ]
            wide.writer.write_batch(pa.record_batch([*kept, trace], schema=wide.schema))
        old.unlink()
        return wide

    def close(self) -> None:
        self.writer.close()


def draw(arrow: Path, path: Path) -> None:
    """A few traces, evenly spread over the table."""
    from cellvision.plots.results import traces

    every, table = tracestore.from_extraction(arrow)
    rows = np.linspace(0, len(table) - 1, min(len(table), DRAWN)).astype(np.int64)
    traces(every.take(rows)[:, 0], [str(name) for name in table["source_id"].iloc[rows]], path)


# -- the preview --------------------------------------------------------------------------------------------------


class Preview:
    """A summary of every column over the first samples of each file, gathered while the blocks go by."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.rows: list[dict[str, Any]] = []

    def watch(self, blocks: Iterable[Block]) -> Iterator[Block]:
        gathered: list[Block] = []
        file = None
        for block in blocks:
            if block.columns["file"] != file:
                self._close(gathered)
                file, gathered = block.columns["file"], []
            if len({earlier.columns["sample"] for earlier in gathered} | {block.columns["sample"]}) <= self.samples:
                gathered.append(block)
            yield block
        self._close(gathered)

    def _close(self, gathered: list[Block]) -> None:
        filled = [block for block in gathered if len(block.values)]
        if not filled:
            return
        shared = {"file": filled[0].columns["file"], "samples": len({block.columns["sample"] for block in filled})}
        names = dict.fromkeys(name for block in filled for name in block.columns if name not in (DROPPED, "file"))
        for name in [*names, tracestore.TRACE]:
            facts = summary([column_of(block, name) for block in filled])
            self.rows.append({**shared, "cells": sum(len(block.values) for block in filled), "column": name, **facts})


def column_of(block: Block, name: str) -> np.ndarray:
    """The values of a column for the cells of a block, a constant once a cell."""
    if name == tracestore.TRACE:
        return block.values
    value = block.columns.get(name, np.nan)
    return value if np.ndim(value) > 1 else np.broadcast_to(value, len(block.values))


def summary(parts: list[np.ndarray]) -> dict[str, Any]:
    """Kind, share missing, number of different values, and range and mean of numbers.

    parts: values of one column, (n,) or (n, time) for each block.
    """
    values = np.concatenate([np.ravel(block) for block in parts])
    first = values[0].item() if hasattr(values[0], "item") else values[0]
    if values.dtype.kind not in "iuf":
        return {"kind": "text", "missing": 0.0, "different": len(set(values.tolist())), "first": str(first)}
    finite = values[np.isfinite(values)]
    facts = {"kind": "number", "missing": float(1 - len(finite) / len(values)), "different": len(np.unique(finite))}
    if len(finite):
        facts |= {"least": float(finite.min()), "mean": float(finite.mean()), "most": float(finite.max())}
    return {**facts, "first": str(first)}


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("extract"))
