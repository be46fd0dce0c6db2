"""Branch: time traces of cells. Items are cells; the network input is (n, 2 channels, time) float32.

Reads calcium simulations (HDF5 files, folders of them, or an `extract` run), where the unit is the simulation, and wide
or long tables, where somebody has to say what the unit is.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import Augment, Baseline, Branch, Sample, State, labelnotes, signatures
from cellvision.branches.items import Items, no_missed
from cellvision.branches.trace import matlab
from cellvision.branches.trace import tables as tracetables
from cellvision.branches.trace.files import DISTANCE, SUFFIXES, Fault, Reader, is_simulation
from cellvision.branches.trace.store import TRACE, Traces, collected, from_extraction
from cellvision.core import files, rundir
from cellvision.core.config import PluginConfig, fingerprint, option
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.core.progress import say
from cellvision.core.rng import generator

if TYPE_CHECKING:
    import pandas as pd

MIN_OVERLAP = 0.8  # share of a model's channels new data must have
KERNELS = 1000  # random kernels of the baseline
CHUNK = 512  # traces whose features are computed at once
SHOWN = 5  # faults that are said one by one


class TraceBranch(Branch):
    """Every channel is standardised with training statistics; unknown points are zero, and masked."""

    default_encoder = "inception-16-3"

    class Config(PluginConfig):
        """Options of the trace branch."""

        name: Literal["trace"] = "trace"
        channels: tuple[str, ...] = option((), "channels to read, all when absent")
        id_column: str | None = option(None, "column of a table that names the trace; a usual name when absent")
        time_column: str | None = option(None, "column of a long table that holds the time; a usual name when absent")
        variable: str | None = option(None, "matrix or cell array of a MATLAB file that holds the traces")
        layout: Literal["auto", "wide", "long", "columns"] = option(
            "auto", "of a table or matrix: wide a row a trace, long a row a trace and time, columns a column a trace"
        )
        group: str | None = option(None, "column that is the weak label; one group when absent")
        scale: Literal["train", "trace", "both"] = option(
            "both", "what a network sees: values by training statistics, by the trace's own, or both as channels"
        )
        points: int = option(256, "time points a network sees at most; longer traces are averaged in equal bins", ge=8)
        crop: float = option(0.3, "largest share of a trace hidden at its ends when training", ge=0, lt=1)

    def __init__(self, cfg: Config, path: Path, reserved: tuple[str, ...] = ()) -> None:
        self.cfg = cfg
        self.traces, table, self.channels, content, stamps = _read(cfg, path, reserved)
        if cfg.group is not None and cfg.group not in table:
            raise ConfigError(f"no column {cfg.group!r}; columns: {', '.join(map(str, table.columns))}")
        group = table[cfg.group].where(table[cfg.group].notna(), "unknown").astype(str) if cfg.group else "all"
        for note in labelnotes.of(table, (*reserved, *filter(None, [cfg.group])), "traces"):
            say(f"trace: {note}")
        marked = functools.partial(marks_of, self.traces)
        self.items = Items(table.assign(group=group), content, no_missed(), stamps, marked=marked)

    @classmethod
    def sample(cls, folder: Path, other_half: bool = False) -> Sample:
        from cellvision.branches.trace.sample import write

        return write(folder, other_half)

    def schema(self) -> dict[str, Any]:
        return {"channels": list(self.channels), "points": self.traces.shape[1], "scale": self.cfg.scale}

    def align(self, schema: dict[str, Any]) -> list[str]:
        """Take the model's channels by name; missing ones are unknown. Traces are cut or filled at the end."""
        wanted, notes = tuple(schema["channels"]), []
        missing = [name for name in wanted if name not in self.channels]
        if len(wanted) - len(missing) < MIN_OVERLAP * len(wanted):
            raise ConfigError(
                f"{len(missing)} of the model's {len(wanted)} channels are missing, such as {missing[0]!r}; "
                f"these traces have {', '.join(self.channels)}"
            )
        if self.cfg.scale != schema["scale"]:
            raise ConfigError(
                f"the model was trained with scale {schema['scale']!r}, this run asks for {self.cfg.scale!r}"
            )
        if missing:
            notes.append(f"missing channels, taken as unknown: {', '.join(missing)}")
        if self.traces.shape[1] > schema["points"]:
            notes.append(f"traces of {self.traces.shape[1]} points are cut to the model's {schema['points']}")
        return notes

    def fit(self, rows: NDArray[np.int64]) -> State:
        """(channels,) mean and standard deviation over the known points of the (n,) training rows."""
        count, total, square = (np.zeros(len(self.channels)) for _ in range(3))
        for start in range(0, len(rows), CHUNK):
            values = self.traces.take(rows[start : start + CHUNK]).astype(np.float64)
            count += np.isfinite(values).sum((0, 2))
            total += np.nansum(values, (0, 2))
            square += np.nansum(values**2, (0, 2))
        mean = total / np.maximum(count, 1)
        std = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 0))
        std = np.where(std > 1e-12, std, 1)
        return {
            "mean": mean.astype(np.float32), "std": std.astype(np.float32),
            "points": np.array(self.traces.shape[1]), "names": np.frombuffer(_joined(self.channels), np.uint8).copy(),
        }  # fmt: skip

    def batch(self, rows: NDArray[np.int64], state: State, augment: Augment | None = None) -> NDArray[np.float32]:
        """(n, 2 channels, time): values, then 1 where they are known; with scale `both`, channels twice."""
        values = binned(self._aligned(rows, state), self.cfg.points)
        scaled = (values - state["mean"][:, None]) / state["std"][:, None]
        if augment is not None and augment.strength != "pose":
            scaled = vary(scaled, augment, self.cfg.crop)
        parts = [scaled] if self.cfg.scale == "train" else [own_scale(scaled)]
        parts = [scaled, *parts] if self.cfg.scale == "both" else parts
        shown = np.concatenate(parts, axis=1)
        observed = np.isfinite(shown)
        return np.concatenate([np.clip(np.where(observed, shown, 0), -10, 10), observed], axis=1, dtype=np.float32)

    def _aligned(self, rows: NDArray[np.int64], state: State) -> NDArray[np.float32]:
        """(n, channels, time) with the channels and the length of the state."""
        values = self.traces.take(rows)
        names, points = tuple(bytes(state["names"]).decode().split("\n")), int(state["points"])
        if names == self.channels and points == values.shape[2]:
            return values
        out = np.full((len(rows), len(names), points), np.nan, np.float32)
        kept = min(points, values.shape[2])
        for number, name in enumerate(names):
            if name in self.channels:
                out[:, number, :kept] = values[:, self.channels.index(name), :kept]
        return out

    def feature_names(self, state: State) -> None:
        """A time point has no name."""

    def network(self, name: str, state: State) -> Any:
        """A network of `trace_networks` for the channels and time points a batch has."""
        from cellvision.branches.trace import networks as trace_networks

        seen = len(state["mean"]) * (2 if self.cfg.scale == "both" else 1)
        return trace_networks.network(name, seen, bins(int(state["points"]), self.cfg.points)[0])

    def baselines(self) -> dict[str, Baseline]:
        """Random kernels, summary statistics, features the files bring; a shortcut: where traces begin and end."""
        from cellvision.branches.trace import features as trace_features

        baselines = {
            "kernels": Baseline("ridge", lambda rows: self._chunked(self._kernels(), rows)),
            "summary": Baseline("forest", lambda rows: self._chunked(trace_features.summary, rows)),
            "logistic": Baseline("logistic", lambda rows: self._chunked(trace_features.summary, rows)),
        }
        given = [name for name in self.items.table if str(name).startswith("feature_")]
        if given:
            numbers = self.items.table[given].to_numpy(np.float32)
            baselines["given"] = Baseline("forest", lambda rows: numbers[rows])
        if any(np.isnan(chunk).any() for chunk in self.traces.chunks):
            baselines["ends"] = Baseline("forest", lambda rows: self._chunked(trace_features.ends, rows), shortcut=True)
        return baselines

    def _chunked(self, function: Any, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.concatenate(
            [function(self.traces.take(rows[start : start + CHUNK])) for start in range(0, len(rows), CHUNK)]
        )

    def _kernels(self) -> Any:
        """Features of random kernels on whole traces, nothing fitted."""
        import torch

        from cellvision.branches.trace.networks import RandomKernels

        kernels = RandomKernels(len(self.channels), self.traces.shape[1], KERNELS).eval()

        def features(traces: NDArray[np.float32]) -> NDArray[np.float32]:
            observed = np.isfinite(traces)
            values_and_mask = np.concatenate([np.where(observed, traces, 0), observed], axis=1, dtype=np.float32)
            with torch.inference_mode():
                return np.concatenate([kernels(chunk).numpy() for chunk in torch.from_numpy(values_and_mask).split(32)])

        return features


# -- reading ------------------------------------------------------------------------------------------------------


def _joined(channels: tuple[str, ...]) -> bytes:
    return "\n".join(channels).encode()


def _read(
    cfg: TraceBranch.Config, path: Path, reserved: tuple[str, ...]
) -> tuple[Traces, pd.DataFrame, tuple[str, ...], str, tuple[str, ...]]:
    """Traces, items without a group, channels, content hash and stamps of whatever lies at the path."""
    if rundir.is_run(path, "extract"):
        content = rundir.content_of(path)
        traces, table = from_extraction(path / "traces.arrow")
        skipped = files.read_json(path / "metrics.json")["skipped"]
        return traces, simulated(table), (TRACE,), content, left_out(skipped)
    source = tracetables.find(path)
    if source is None or source.suffix.lower() in SUFFIXES:
        reader = Reader(path)
        if reader.paths and not any(map(is_simulation, reader.paths)):
            return _read_matrices(cfg, reader)
        traces, table = collected(reader.blocks())
        tell(reader.faults)
        table = simulated(table)
        content = fingerprint(table[["item_id", "source_hash"]].to_numpy().tolist())
        return traces, table, (TRACE,), content, left_out(sum(fault.status != "note" for fault in reader.faults))
    labels = (*reserved, *filter(None, [cfg.group]))
    trace_table = tracetables.read(source, cfg.id_column, cfg.time_column, cfg.channels, labels, cfg.layout)
    table, empty = trace_table.table, ~np.isfinite(trace_table.values).any((1, 2))
    if empty.all():
        raise NoUsableInput(f"{source} has no trace with a finite value")
    table = table.assign(item_id=table[trace_table.id_column].astype(str), unit=None)
    if empty.any():
        first = table["item_id"][empty].iloc[0]
        say(f"trace: {int(empty.sum())} traces without a finite value left out, such as {first!r}")
    values = trace_table.values[~empty]
    table = table[~empty].reset_index(drop=True)
    table["source_id"] = table["item_id"]
    table["source_hash"] = [fingerprint(trace.tobytes().hex()) for trace in values]
    content = fingerprint([rundir.content_of(source), table.astype(str).to_numpy().tolist()])
    return Traces([values]), table, trace_table.channels, content, left_out(int(empty.sum()))


def _read_matrices(
    cfg: TraceBranch.Config, reader: Reader
) -> tuple[Traces, pd.DataFrame, tuple[str, ...], str, tuple[str, ...]]:
    """The matrices of MATLAB and other programs; samples, or files where there are several, are units."""
    import pandas as pd

    samples = [(path, part) for path in reader.paths for part in matlab.read(path, cfg.variable, cfg.layout)]
    if not samples:
        raise NoUsableInput(f"no traces at {reader.root}; expected HDF5 files")
    channels = samples[0][1].channels
    other = next((path for path, part in samples if part.channels != channels), None)
    if other is not None:
        raise ConfigError(f"{other} has other channels than the first file, which has {', '.join(channels)}")
    points = max(part.values.shape[2] for _, part in samples)
    values = np.concatenate([
        np.pad(part.values, ((0, 0), (0, 0), (0, points - part.values.shape[2])), constant_values=np.nan)
        for _, part in samples
    ])  # fmt: skip
    several = len(reader.paths) > 1
    frames = []
    for path, part in samples:
        sample = part.columns.get("sample", [""] * len(part.values))
        home = [f"{reader.name_of(path)}:{name}".rstrip(":") if several else name for name in sample]
        frames.append(pd.DataFrame({**part.columns, "file": reader.name_of(path), "home": home}))
    table = pd.concat(frames, ignore_index=True)
    number = table.groupby("home", sort=False).cumcount() + 1
    known = np.isfinite(values).any((1, 2))
    if not known.any():
        raise NoUsableInput(f"{reader.root} has no trace with a finite value")
    table = table.assign(item_id=(table["home"] + ":" + number.astype(str)).str.removeprefix(":"))
    table = table.assign(source_id=table["item_id"], unit=table["home"] if table["home"].nunique() > 1 else None)
    table, values = table.drop(columns="home")[known].reset_index(drop=True), values[known]
    table["source_hash"] = [fingerprint(trace.tobytes().hex()) for trace in values]
    content = fingerprint([[files.sha256_file(path) for path in reader.paths], table.astype(str).to_numpy().tolist()])
    say(f"trace: {len(values)} traces of {points} points, channels {', '.join(channels)}")
    return Traces([values]), table, channels, content, left_out(int((~known).sum()))


def marks_of(traces: Traces) -> signatures.Marks:
    """What each trace is known by: some of its points in a row."""
    return {"values": signatures.of_traces(traces.take, len(traces))}


def left_out(count: int) -> tuple[str, ...]:
    return (f"{count} files, samples or cells could not be read and were left out",) if count else ()


def simulated(table: pd.DataFrame) -> pd.DataFrame:
    """The columns every stage reads: a cell is an item, a simulation its source and its unit."""
    lists = [name for name in table if isinstance(table[name].iloc[0], (list, np.ndarray))]
    table = table.drop(columns=[*lists, *(name for name in ("first_block",) if name in table)])
    if (table[DISTANCE] % 1 == 0).all():
        table[DISTANCE] = table[DISTANCE].astype(int)
    return table.assign(item_id=table["source_id"] + ":" + table["cell"].astype(str), unit=table["source_id"])


def tell(faults: list[Fault]) -> None:
    """The first faults, and how many more there are."""
    for fault in faults[:SHOWN]:
        say(f"trace: {fault.status}: {fault.where}: {fault.reason}")
    if len(faults) > SHOWN:
        say(f"trace: and {len(faults) - SHOWN} more; cellvision extract lists them all")


# -- views --------------------------------------------------------------------------------------------------------


def bins(length: int, most: int) -> tuple[int, int]:
    """Number of bins, and time points in each."""
    size = -(-length // most)
    return -(-length // size), size


def binned(values: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """(n, c, time) -> (n, c, at most `most`), the mean of what is known in each bin."""
    count, size = bins(values.shape[2], most)
    if size == 1:
        return values
    filled = np.full((*values.shape[:2], count * size), np.nan, np.float32)
    filled[:, :, : values.shape[2]] = values
    observed = np.isfinite(filled)
    shape = (*values.shape[:2], count, size)
    seen = observed.reshape(shape).sum(3)
    total = np.where(observed, filled, 0).reshape(shape).sum(3)
    return np.where(seen > 0, total / np.maximum(seen, 1), np.nan).astype(np.float32)


def own_scale(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, c, time) -> the same shape, with mean 0 and deviation 1 over the known points; a constant becomes 0."""
    observed = np.isfinite(values)
    count = np.maximum(observed.sum(2, keepdims=True), 1)
    centred = values - np.where(observed, values, 0).sum(2, keepdims=True) / count
    deviation = np.sqrt((np.where(observed, centred, 0) ** 2).sum(2, keepdims=True) / count)
    return centred / np.where(deviation > 1e-4, deviation, 1)


def vary(values: NDArray[np.float32], augment: Augment, crop: float) -> NDArray[np.float32]:
    """(n, c, time) standardised values, each trace varied by its own numbers.

    Weak, for learning classes: ends hidden, a little noise, gain and offset; time keeps its place. Strong, for views:
    more of each, moved in time, and with gaps.
    """
    count, channels, points = values.shape
    strong = augment.strength == "strong"
    draw = generator(0, *augment.key, "trace").random((count, 7 + 2 * channels))
    noise = generator(0, *augment.key, "noise").standard_normal(values.shape).astype(np.float32)
    width = 0.3 if strong else 0.1
    gain = 1 + width * (2 * draw[:, 7 : 7 + channels, None] - 1)
    offset = width * (2 * draw[:, 7 + channels :, None] - 1)
    out = values * gain + offset + (0.2 if strong else 0.05) * draw[:, :1, None] * noise
    if strong:
        out = moved(out, np.rint((2 * draw[:, 1] - 1) * 0.1 * points).astype(int))
    out[hidden(values, draw, crop, strong)] = np.nan
    return out.astype(np.float32)


def moved(values: NDArray, steps: NDArray[np.int64]) -> NDArray:
    """(n, c, time), (n,) time points -> each trace moved later by its own number; what comes in is unknown."""
    place = np.arange(values.shape[2])[None] - steps[:, None]
    inside = (place >= 0) & (place < values.shape[2])
    taken = np.take_along_axis(values, np.clip(place, 0, values.shape[2] - 1)[:, None], 2)
    return np.where(inside[:, None], taken, np.nan)


def hidden(values: NDArray, draw: NDArray[np.float64], crop: float, gap: bool) -> NDArray[np.bool_]:
    """(n, c, time) where to hide: up to `crop` of what is known at the ends, and with `gap` a tenth inside."""
    observed = np.isfinite(values).any(1)
    points = observed.shape[1]
    first, last = observed.argmax(1), points - observed[:, ::-1].argmax(1)
    length, share = last - first, crop * draw[:, 2]
    begin = first + np.floor(share * draw[:, 3] * length).astype(int)
    end = last - np.floor(share * (1 - draw[:, 3]) * length).astype(int)
    time = np.arange(points)[None]
    mask = (time < begin[:, None]) | (time >= end[:, None])
    if gap:
        start = (first + draw[:, 4] * 0.9 * length)[:, None]
        mask |= (time >= start) & (time < start + 0.1 * draw[:, 5][:, None] * length[:, None])
    return np.broadcast_to(mask[:, None], values.shape)
