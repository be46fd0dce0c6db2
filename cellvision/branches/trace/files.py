"""Simulated calcium traces in HDF5 files: audited, read sample by sample, every fault reported with its place.

A file has `timeTraces/<1..n>` (one matrix a sample), `tissue/distanceToTarget` (one value a cell), optionally
`sim_ids` or `id`, `tissue/*`, `stim/*`, `params/*` and `features/<name>/<sample>`; its name may carry parameters. Two
traps: MATLAB's files read as [time, cell], so the axis of the cells is the one as long as distanceToTarget, and sample
keys sort as numbers.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.core.errors import NoUsableInput, UnsafeInput
from cellvision.io import hdf5

if TYPE_CHECKING:
    import h5py

SUFFIXES = (".h5", ".hdf5", ".mat")
BLOCK = 32 << 20  # bytes of a matrix held at once
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
PARAMETER = re.compile(rf"([A-Za-z]\w*?)_({NUMBER})(?=_|$)")
REPLICATE = re.compile(r"_(\d+)$")
TISSUE = {"nTissueRows": "rows", "nTissueCols": "columns", "stimCell": "stim_cell"}
DISTANCE = "distance"


@dataclass(frozen=True)
class Fault:
    """What was left out or noted, and where: a file, a sample of it, a cell of that (numbers from 1; 0 is all)."""

    file: str
    status: str  # skipped, or note
    reason: str
    sample: str = ""
    cell: int = 0

    @property
    def where(self) -> str:
        sample, cell = (f", sample {self.sample}" if self.sample else ""), (f", cell {self.cell}" if self.cell else "")
        return f"{self.file}{sample}{cell}"


@dataclass(frozen=True)
class Block:
    """Traces of one sample: values (cells, time) float32, and a column a cell or a constant for everything else."""

    values: NDArray[np.float32]
    columns: dict[str, Any]


@dataclass
class Reader:
    """Reads the files one after the other; `faults` and `files` grow as it goes."""

    root: Path
    faults: list[Fault] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def paths(self) -> list[Path]:
        """HDF5 files at or below the root, sorted by name with numbers as numbers; links out of it are left out."""
        if self.root.is_file():
            return [self.root]
        home = self.root.resolve()
        every = (path for path in self.root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        return sorted(
            (path for path in every if path.resolve().is_relative_to(home)), key=lambda path: natural(str(path))
        )

    def name_of(self, path: Path) -> str:
        return path.name if self.root.is_file() else path.relative_to(self.root).as_posix()

    def blocks(self) -> Iterator[Block]:
        """Every readable sample, in blocks of cells. A file that cannot be read is a fault and a row, never silence.

        NoUsableInput, or UnsafeInput, when nothing could be read.
        """
        refused: UnsafeInput | None = None
        for path in self.paths:
            row: dict[str, Any] = {
                "file": self.name_of(path),
                "bytes": path.stat().st_size if path.is_file() else 0,
                "status": "ok",
                "reason": "",
            }
            row |= {"samples": 0, "cells": 0, "points": 0}
            self.files.append(row)
            try:
                for block in read_file(path, row["file"], self.faults):
                    row["samples"] += block.columns["first_block"]
                    row["cells"] += len(block.values)
                    row["points"] = max(row["points"], block.values.shape[1])
                    yield block
            except (UnsafeInput, NoUsableInput) as error:
                refused = error if isinstance(error, UnsafeInput) else refused
                reason = str(error).removeprefix(f"{path} ").removeprefix("is refused: ")
                row |= {"status": "unsafe" if isinstance(error, UnsafeInput) else "skipped", "reason": reason}
                self.faults.append(Fault(row["file"], row["status"], reason))
        if not any(row["cells"] for row in self.files):
            first = f"; the first: {self.faults[0].file}: {self.faults[0].reason}" if self.faults else ""
            if refused:
                raise refused
            raise NoUsableInput(f"no traces in the {len(self.files)} HDF5 files of {self.root}{first}")


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key with numbers as numbers: 2 before 10."""
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in re.split(r"(\d+)", text) if piece]


def parameters(stem: str) -> dict[str, float]:
    """`sim_data__stimMag_0.50_beta_0.40_5` -> {stimMag: 0.5, beta: 0.4, replicate: 5}; empty without any."""
    replicate = REPLICATE.search(stem)
    rest = stem
    if replicate and PARAMETER.search(stem[: replicate.start()]) and not _names_it(stem, replicate.start()):
        rest = stem[: replicate.start()]
    parsed = {name: float(value) for name, value in PARAMETER.findall(rest.rpartition("__")[2])}
    return parsed | ({"replicate": float(replicate[1])} if replicate and rest != stem else {})


def _names_it(stem: str, end: int) -> bool:
    """Whether the text before the last number is a parameter's name instead of its value."""
    return not re.search(rf"_{NUMBER}$", stem[:end])


def is_simulation(path: Path) -> bool:
    """Whether a file has samples in `timeTraces`, or cannot be opened, which its reading will say."""
    try:
        with hdf5.open_h5(path) as file:
            return "timeTraces" in file
    except (NoUsableInput, UnsafeInput):
        return True


def read_file(path: Path, name: str, faults: list[Fault]) -> Iterator[Block]:
    """The samples of one file. NoUsableInput or UnsafeInput when the whole file has to be left out."""
    with hdf5.open_h5(path) as file:
        head = Head.read(file, path, name, faults)
        for key in head.keys:
            yield from head.sample(key, faults)


@dataclass(frozen=True)
class Head:
    """What the samples of a file share; matrices are read past h5py's objects, which take longer than the reading."""

    name: str
    distance: NDArray[np.float64]
    keys: tuple[str, ...]
    ids: dict[str, str]
    constants: dict[str, Any]
    matrices: Any  # the group timeTraces, as HDF5's own handle
    features: dict[str, h5py.Group]
    scratch: dict[Any, NDArray] = field(default_factory=dict)  # the room a matrix is read into, used again

    @classmethod
    def read(cls, file: h5py.File, path: Path, name: str, faults: list[Fault]) -> Head:
        import h5py

        group, distance = file.get("timeTraces"), file.get("tissue/distanceToTarget")
        if not isinstance(group, h5py.Group) or not len(group):
            raise NoUsableInput(f"{path} has no group timeTraces with samples")
        if not isinstance(distance, h5py.Dataset) or distance.dtype.kind not in "iuf" or not distance.size:
            raise NoUsableInput(f"{path} has no numbers in tissue/distanceToTarget, one a cell")
        keys = _sample_keys(list(group), name, faults)
        constants: dict[str, Any] = parameters(path.stem)
        if not constants:
            faults.append(Fault(name, "note", "the file's name carries no parameters"))
        for home in ("params", "stim", "tissue"):
            constants = _scalars(file.get(home), home) | constants
        given = file.get("features")
        features = {key: inner for key, inner in given.items() if isinstance(inner, h5py.Group)} if given else {}
        far = np.asarray(distance[()], np.float64).ravel()
        return cls(name, far, tuple(keys), _ids(file, keys, name, faults), constants, group.id, features)

    def sample(self, key: str, faults: list[Fault]) -> Iterator[Block]:
        """Blocks of the cells of one sample; a sample that does not fit is a fault."""
        import h5py

        data = h5py.h5o.open(self.matrices, key.encode())
        matrix = isinstance(data, h5py.h5d.DatasetID)
        shape: tuple[int, ...] = data.shape if matrix else ()
        kind = data.dtype if matrix else np.dtype(object)
        reason = self._misfit(shape, kind)
        if reason:
            faults.append(Fault(self.name, "skipped", f"the matrix {reason}", key))
            return
        cells = len(self.distance)
        turned = shape[1] == cells  # as MATLAB writes it: [time, cell]
        step = max(1, BLOCK // (shape[1 - turned] * kind.itemsize))
        for start in range(0, cells, step):
            stop = min(cells, start + step)
            whole = stop - start == cells
            raw = self._whole(data, shape, kind) if whole else _part(data, start, stop, turned)
            yield self._block(
                key, np.array(raw.T if turned else raw, np.float32, order="C"), slice(start, stop), faults
            )

    def _whole(self, data: Any, shape: tuple[int, ...], kind: np.dtype) -> NDArray:
        """The matrix, in room that the next one takes again."""
        import h5py

        key = (shape, kind == np.float32)
        if key not in self.scratch:
            self.scratch[key] = np.empty(shape, np.float32 if key[1] else np.float64)
        data.read(h5py.h5s.ALL, h5py.h5s.ALL, self.scratch[key])
        return self.scratch[key]

    def _misfit(self, shape: tuple[int, ...], kind: np.dtype) -> str | None:
        """Why this is no matrix of cells and time; None where it is one."""
        if len(shape) != 2 or kind.kind not in "iuf":
            return "is no matrix of numbers"
        cells = len(self.distance)
        if cells not in shape:
            return f"has the shape {shape}, but distanceToTarget has {cells} cells"
        if shape == (cells, cells):
            return f"has the shape {shape}: the axis of the cells cannot be told from that of the time"
        return "has one time point" if math.prod(shape) == cells else None

    def _block(self, key: str, values: NDArray[np.float32], span: slice, faults: list[Fault]) -> Block:
        cell = np.arange(span.start, span.stop)
        columns = {
            "source_id": f"{self.name}:{key}", "source_hash": content(values), "file": self.name, "sample": int(key),
            "sim_id": self.ids.get(key, key), "cell": cell + 1, DISTANCE: self.distance[span], **self.constants,
            **_features(self.features, key, len(self.distance), span), "first_block": int(span.start == 0),
        }  # fmt: skip
        empty = ~np.isfinite(values[:, 0])  # most often settled by the first point
        empty[empty] = ~np.isfinite(values[empty]).any(1)
        empty |= ~np.isfinite(columns[DISTANCE])
        if not empty.any():
            return Block(values, columns)
        for number in cell[empty]:
            what = "has no finite value" if np.isfinite(self.distance[number]) else "has no distance"
            faults.append(Fault(self.name, "skipped", what, key, int(number) + 1))
        return Block(values[~empty], {name: _subset(value, ~empty) for name, value in columns.items()})


def content(values: NDArray[np.float32]) -> str:
    """(cells, time) -> a hash that tells copies of a sample, of at most 256 evenly spaced time points of every cell."""
    step = max(1, values.shape[1] // 128)
    return hashlib.sha256(values[:, ::step].tobytes()).hexdigest()[:32]


def _subset(value: Any, keep: NDArray[np.bool_]) -> Any:
    return value[keep] if isinstance(value, np.ndarray) else value


def _part(data: Any, start: int, stop: int, turned: bool) -> NDArray:
    """The cells start..stop-1 of a dataset, given by its handle."""
    import h5py

    return h5py.Dataset(data)[:, start:stop] if turned else h5py.Dataset(data)[start:stop]


def _sample_keys(names: list[str], name: str, faults: list[Fault]) -> list[str]:
    """Keys that are numbers, in their order; others and a number's second writing are faults."""
    key_of_number: dict[int, str] = {}
    for key in sorted(names, key=lambda text: (len(text), text)):
        if not key.isascii() or not key.isdigit():
            faults.append(Fault(name, "skipped", "the sample's key is no number", key))
        elif int(key) in key_of_number:
            faults.append(Fault(name, "skipped", f"the sample's key repeats {key_of_number[int(key)]!r}", key))
        else:
            key_of_number[int(key)] = key
    return [key_of_number[number] for number in sorted(key_of_number)]


def _ids(file: h5py.File, keys: list[str], name: str, faults: list[Fault]) -> dict[str, str]:
    """Sample key -> the simulation's own name, where `sim_ids` or `id` has as many entries as there are samples."""
    import h5py

    for home in ("sim_ids", "id"):
        data = file.get(home)
        if not isinstance(data, h5py.Dataset):
            continue
        texts = hdf5.strings(data) if data.ndim == 1 else [str(value) for value in np.ravel(data[()]).tolist()]
        if len(texts) == len(keys):
            return dict(zip(keys, texts, strict=True))
        faults.append(Fault(name, "note", f"{home} has {len(texts)} entries for {len(keys)} samples and is not used"))
    return {}


def _scalars(group: Any, home: str) -> dict[str, float]:
    """Single numbers of a group, by name; those of the tissue under names that say what they are."""
    import h5py

    scalars = {}
    for name, data in group.items() if isinstance(group, h5py.Group) else ():
        if isinstance(data, h5py.Dataset) and data.size == 1 and data.dtype.kind in "iuf":
            scalars[TISSUE.get(name, name)] = float(np.ravel(data[()])[0])
    return scalars


def _features(groups: dict[str, h5py.Group], key: str, cells: int, span: slice) -> dict[str, NDArray]:
    """`features/<name>/<sample>` of these cells: one number, or a NaN-padded list as (cells, k)."""
    import h5py

    features: dict[str, NDArray] = {}
    for name, group in groups.items():
        data = group.get(key)
        if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "iuf" or cells not in data.shape:
            continue
        values = np.asarray(data[()], np.float32)
        values = values if values.shape[0] == cells else values.T
        values = values.reshape(cells, -1)[span]
        features[f"feature_{name}"] = values[:, 0] if values.shape[1] == 1 else values
    return features
