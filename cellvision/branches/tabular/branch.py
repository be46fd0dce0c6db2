"""Branch: rows of a table (CSV, Parquet, h5ad). Items are rows; the network input is (n, numbers + gaps + categories).

Numbers are features unless they are labels, units, excluded, or describe a row by their name (metadata, number,
place, parent or children: where a cell lies and in which order says nothing of what it is; `branches/descriptors`);
text is a feature only where `categorical` names it, since text is mostly a name, and names give the label away.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import Augment, Baseline, Branch, Sample, State, descriptors, labelnotes, signatures, twins
from cellvision.branches.items import Items, no_missed
from cellvision.branches.tabular import parts as tableparts
from cellvision.branches.tabular import telling
from cellvision.core.config import PluginConfig, option
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.core.progress import say
from cellvision.core.rng import generator
from cellvision.io import csvtables, tables

if TYPE_CHECKING:
    import pandas as pd

OWN = {csvtables.INDEX, "item_id", "unit", "group", "annotation"}  # never features, whatever the table means by them
MIN_OVERLAP = 80  # % of a model's features that new data must have
LEVELS = 200  # categories a column may have
FLAT = 1e-6  # standard deviation below which a feature is constant
DROP, NOISE = {"weak": 0.05, "strong": 0.3}, {"weak": 0.05, "strong": 0.2}  # share of features, standard deviations


class TabularBranch(Branch):
    """A table's rows, with everything fitted on training rows."""

    default_encoder = "mlp-256-128"

    class Config(PluginConfig):
        """Options of the tabular branch."""

        name: Literal["tabular"] = "tabular"
        exclude: tuple[str, ...] = option((), "columns that are no features")
        include: tuple[str, ...] = option(
            (), "columns that are features although their name says place, number or metadata; * stands for any part"
        )
        categorical: tuple[str, ...] = option((), "columns whose values are categories")
        group: str | None = option(None, "column that is the weak label, `group` when absent; else all are one group")
        separator: str | None = option(None, "of a CSV; found when absent", min_length=1, max_length=1)
        decimal: Literal[".", ","] | None = option(None, "decimal mark of a CSV; found when absent")
        controls: str | None = option(None, "COLUMN=VALUE: rows of untreated controls, such as Metadata_moa=DMSO")
        plate: str | None = option(None, "column within which the mean of the controls is subtracted")
        sphere: float = option(
            0.0, "above 0: whiten so that the controls of training plates vary alike in all directions; its ridge", ge=0
        )
        unit_length: bool = option(False, "scale each row to one length: the direction counts, not the strength")
        clip: float = option(10.0, "standard deviations beyond which a value counts as that far", gt=0)
        dropout: float = option(0.2, "of mlp and ft", ge=0, lt=1)

    def __init__(self, cfg: Config, path: Path, reserved: tuple[str, ...] = ()) -> None:
        self.cfg = cfg
        whole = tableparts.open_table(path, cfg.separator, cfg.decimal)
        table, frame = whole.table, whole.table.frame
        group = cfg.group or "group"
        labels = whole.labels({*reserved, group, _part(cfg.controls) or "", cfg.plate or "", *OWN}, cfg.separator)
        described = frame.drop(columns=[name for name in labels if name in frame]).assign(**labels)
        for name in filter(None, (_part(cfg.controls), cfg.plate)):
            if name not in described:
                raise ConfigError(f"{path} has no column {name!r}; columns: {csvtables.shorten(list(described))}")
        self.hidden = {*cfg.exclude, *reserved, cfg.group, _part(cfg.controls), cfg.plate, *OWN}
        self.features, self.categories = choose(frame, self.hidden, cfg)
        fault = next((text for name, text in table.faults.items() if self._measured(name)), None)
        if fault:
            raise ConfigError(f"{path}, {fault}; mend the cell, or name the column in branch.exclude or categorical")
        if not self.features and not self.categories:
            raise NoUsableInput(f"{path} has no numeric column left to learn from")
        notes = [*table.notes, *self._notes(frame), *labelnotes.of(labels, (*reserved, group), "rows", whole.lines)]
        stamps = [*telling.stamps(frame[self.features], labels, reserved)]
        self.items = items_of(described, frame, self.features, cfg, whole.content, notes, tuple(stamps))
        self.codes = {name: tables.words(described[name]) for name in self.categories}
        self.plates = plates_of(described, cfg)
        self._set(numbers(frame, self.features))
        self.items = replace(self.items, marked=functools.partial(marks_of, self.values, tuple(self.features)))
        notes += mark_twins(self.items.table, frame[self.features].to_numpy(np.float64, na_value=np.nan))
        if multiprocessing.parent_process() is None:
            for note in (*notes, *stamps):
                say_once(f"table: {note}")

    def _measured(self, name: str) -> bool:
        return name not in {*self.hidden, *self.cfg.categorical} and not descriptors.is_descriptor(
            name, self.cfg.include
        )

    def _notes(self, frame: pd.DataFrame) -> list[str]:
        """What was left out, and what is missing."""
        text = [name for name in frame.columns if self._measured(name) and name not in self.features]
        notes = [f"{len(self.features)} numeric and {len(self.categories)} categorical features"]
        absent = [
            name for name in (*self.cfg.exclude, *self.cfg.categorical, self.cfg.group) if name and name not in frame
        ]
        absent += [pattern for pattern in self.cfg.include if not fnmatch.filter(frame.columns, pattern)]
        if absent:
            notes.append(f"no such columns: {csvtables.shorten(absent)}")
        if text:
            notes.append(f"no features, since they are text: {csvtables.shorten(text)}; see branch.categorical")
        numeric = frame.select_dtypes("number").columns
        other = [name for name in numeric if name not in {*self.hidden, *self.cfg.categorical, *self.features}]
        empty = [name for name in other if frame[name].isna().all()]
        if empty:
            notes.append(f"no features, since they are empty: {csvtables.shorten(empty)}")
        describing = [name for name in other if name not in empty]
        if describing:
            notes.append(
                "no features, since by their names they describe rows (metadata, numbers, places, parents): "
                f"{csvtables.shorten(describing)}; see branch.include"
            )
        gaps = int(frame[self.features].isna().to_numpy().sum())
        return [*notes, f"{gaps} values are missing"] if gaps else notes

    def _set(self, values: NDArray[np.float32]) -> None:
        """Take these values, and what the controls of each plate have on average."""
        self.values = values
        plate, control = self.plates
        self.offset = np.zeros((int(plate.max()) + 1, values.shape[1]), np.float32)
        if self.cfg.plate:
            for number in range(len(self.offset)):
                controls = values[(plate == number) & control]
                measured = np.isfinite(controls).any(0)
                self.offset[number, measured] = np.nanmean(controls[:, measured], axis=0)

    @classmethod
    def sample(cls, folder: Path, other_half: bool = False) -> Sample:
        from cellvision.branches.tabular.sample import write

        return write(folder, other_half)

    def schema(self) -> dict[str, Any]:
        levels = {name: levels_of(codes) for name, codes in self.codes.items()}
        return {"features": self.features, "categories": levels}

    def align(self, schema: dict[str, Any]) -> list[str]:
        """Take the model's features by name, in its order; missing ones become missing values."""
        wanted, categories = list(schema["features"]), dict(schema["categories"])
        forbidden = [name for name in (*wanted, *categories) if name in self.hidden]
        if forbidden:
            raise ConfigError(
                f"the model learned from {csvtables.shorten(forbidden)}, which is a label or unit here, or excluded: "
                "it may know the answer; train it again with branch.exclude naming that column"
            )
        missing = [name for name in (*wanted, *categories) if name not in self.features and name not in self.codes]
        total = len(wanted) + len(categories)
        if 100 * (total - len(missing)) < MIN_OVERLAP * total:
            raise ConfigError(
                f"{len(missing)} of the model's {total} features are missing: {csvtables.shorten(missing)}; at least "
                f"{MIN_OVERLAP} % must be there, under the same names"
            )
        position = {name: number for number, name in enumerate(self.features)}
        values = np.full((len(self.values), len(wanted)), np.nan, np.float32)
        for number, name in enumerate(wanted):
            if name in position:
                values[:, number] = self.values[:, position[name]]
        nothing = np.full(len(values), None, dtype=object)
        self.codes = {name: self.codes.get(name, nothing) for name in categories}
        self.features, self.categories = wanted, list(categories)
        self._set(values)
        notes = [f"missing features, taken as unknown: {csvtables.shorten(missing)}"] if missing else []
        return notes + [note for name in categories if (note := unseen(name, self.codes[name], categories[name]))]

    def fit(self, rows: NDArray[np.int64]) -> State:
        """Median, mean and deviation of each feature, which ones have gaps, and the categories, on (n,) training rows.

        With `sphere` (typical variation normalisation: Ando, McLean and Berndl 2017) mean, deviation and whitening
        come from the controls of the plates the training rows stand on, or from all controls where no plate is named.
        """
        values = self._centred(rows)
        measured = np.isfinite(values)
        median = np.zeros(values.shape[1], np.float32)
        has_values = measured.any(0)
        median[has_values] = np.nanmedian(np.where(measured, values, np.nan)[:, has_values], axis=0)
        gap = np.flatnonzero(has_values & ~measured.all(0)).astype(np.int64)
        levels = [levels_of(codes[rows]) for codes in self.codes.values()]
        state: State = {
            "median": median,
            "gap": gap,
            "levels": np.frombuffer(json.dumps(levels).encode(), np.uint8).copy(),
        }
        if self.cfg.sphere:
            controls = self._control_values(rows)
            return state | whiten(np.where(np.isfinite(controls), controls, median), self.cfg.sphere)
        filled = np.where(measured, values, median)
        std = filled.std(0)
        return state | {"mean": filled.mean(0), "std": np.where(std > FLAT, std, 1).astype(np.float32)}

    def _centred(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.values[rows] - self.offset[self.plates[0][rows]]

    def _control_values(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        plate, control = self.plates
        return self._centred(np.flatnonzero(control & np.isin(plate, plate[rows])))

    def batch(self, rows: NDArray[np.int64], state: State, augment: Augment | None = None) -> NDArray[np.float32]:
        """(n, d + gaps + categories): numbers standardised, 1 where one was missing, codes (0 is no known category).

        Augmented rows have features dropped to the mean, categories to unknown, and a little noise.
        """
        values = self._centred(rows)
        measured = np.isfinite(values)
        scaled = (np.where(measured, values, state["median"]) - state["mean"]) / state["std"]
        if "sphere" in state:
            scaled = scaled @ state["sphere"]
        if self.cfg.unit_length:
            length = np.linalg.norm(scaled, axis=1, keepdims=True) / np.sqrt(scaled.shape[1])
            scaled = scaled / np.maximum(length, FLAT)
        scaled = np.clip(scaled, -self.cfg.clip, self.cfg.clip)
        codes = self._codes(rows, state)
        if augment is not None and augment.strength != "pose":
            chance = generator(0, *augment.key, "drop").random((len(rows), scaled.shape[1] + codes.shape[1]))
            lost = chance < DROP[augment.strength]
            noise = generator(0, *augment.key, "noise").normal(0, NOISE[augment.strength], scaled.shape)
            scaled = np.where(lost[:, : scaled.shape[1]], 0, scaled + noise)
            codes = np.where(lost[:, scaled.shape[1] :], 0, codes)
        return np.concatenate([scaled, ~measured[:, state["gap"]], codes], axis=1).astype(np.float32)

    def _codes(self, rows: NDArray[np.int64], state: State) -> NDArray[np.float32]:
        """(n, categories) number of each row's category, from 1; 0 for missing and unseen ones."""
        out = np.zeros((len(rows), len(self.codes)), np.float32)
        for number, (codes, levels) in enumerate(zip(self.codes.values(), read_levels(state), strict=True)):
            place = {level: at for at, level in enumerate(levels, 1)}
            out[:, number] = [place.get(value, 0) for value in codes[rows]]
        return out

    def feature_names(self, state: State) -> list[str]:
        """Numbers, which of them are missing, categories: the columns of a batch."""
        return [*self.features, *(f"{self.features[number]} missing" for number in state["gap"]), *self.categories]

    def network(self, name: str, state: State) -> Any:
        """`mlp-256-128`: hidden widths; `ft-32-2`: width and layers of a feature transformer; `linear`: no layers."""
        from cellvision.branches.tabular import networks as feature_nets

        counts = tuple(len(levels) for levels in read_levels(state))
        return feature_nets.build(name, len(state["mean"]), len(state["gap"]), counts, self.cfg.dropout)

    def baselines(self) -> dict[str, Baseline]:
        """On the table's own values, as they are in the file, categories one by one."""

        def values(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            parts = [self.values[rows]]
            for codes in self.codes.values():
                parts.append((codes[rows, None] == np.array(levels_of(codes), dtype=object)).astype(np.float32))
            return np.concatenate(parts, axis=1)

        return {kind: Baseline(kind, values) for kind in ("logistic", "forest", "boosting")}


@functools.cache
def say_once(text: str) -> None:
    """Not again by the same process, which may open a table for every fold and arm."""
    say(text)


def choose(frame: pd.DataFrame, hidden: set[str | None], cfg: TabularBranch.Config) -> tuple[list[str], list[str]]:
    """-> the numeric and the categorical features."""
    categories = [name for name in cfg.categorical if name in frame and name not in hidden]
    numeric = map(str, frame.select_dtypes("number").columns)
    open_to_view = [name for name in numeric if name not in {*hidden, *cfg.categorical}]
    places = descriptors.axes(open_to_view, cfg.include)
    empty = {str(name) for name in frame.columns[frame.isna().all()]}
    features = [
        name
        for name in open_to_view
        if name not in {*places, *empty} and not descriptors.is_descriptor(name, cfg.include)
    ]
    for name in categories:
        if (count := frame[name].nunique()) > LEVELS:
            raise ConfigError(f"column {name!r} has {count} categories, {LEVELS} at most make sense; leave it out")
    return features, categories


def numbers(frame: pd.DataFrame, features: list[str]) -> NDArray[np.float32]:
    """(n, d); what is missing, infinite or beyond float32 is NaN."""
    values = frame[features].to_numpy(np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):
        small = values.astype(np.float32)
    return np.where(np.isfinite(small), small, np.float32(np.nan))


def items_of(
    described: pd.DataFrame,
    frame: pd.DataFrame,
    features: list[str],
    cfg: TabularBranch.Config,
    content: str,
    notes: list[str],
    stamps: tuple[str, ...],
) -> Items:
    """The rows as items, with every column that is no feature, and labels as they were written."""
    import pandas as pd

    rest = described.drop(columns=features)
    for name in rest.select_dtypes("float"):
        rest[name] = tables.words(rest[name])  # so that labels 1 and 2 beside a gap are not called 1.0 and 2.0
    numbered = [f"row{number:06d}" for number in range(len(frame))]
    rest["item_id"] = described["item_id"].astype(str) if "item_id" in described else numbered
    rest["source_id"] = rest["item_id"]
    rest["source_hash"] = [str(value) for value in pd.util.hash_pandas_object(frame, index=False)]
    rest["unit"] = tables.words(described["unit"]) if "unit" in described else None  # rows are not independent alone
    group = cfg.group or "group"
    rest["group"] = pd.Series(tables.words(described[group])).fillna("unknown") if group in described else "all"
    return Items(rest, content, no_missed(), stamps, {"notes": notes}, numbered="item_id" not in described)


def mark_twins(table: pd.DataFrame, values: NDArray[np.float64]) -> list[str]:
    """Names, as source_twin in the items table, which rows of (n, d) values are one; -> the line about them."""
    number = twins.of_rows(values)
    table["source_twin"] = np.where(number >= 0, np.char.add("twin", number.astype(str)), "")
    first = np.flatnonzero(number == number.max())[:2]
    if number.max() < 0:
        return []
    names = " and ".join(map(repr, map(str, table["source_id"].iloc[first])))
    return [f"{int((number >= 0).sum())} rows repeat others, or are others rounded, such as {names}: they are one unit"]


def marks_of(values: NDArray[np.float32], names: tuple[str, ...]) -> signatures.Marks:
    """(n, d) values of named columns -> what each row is known by."""
    return {"values": signatures.of_columns(values, names)}


def plates_of(frame: pd.DataFrame, cfg: TabularBranch.Config) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(n,) number of each row's plate, and whether it is a control."""
    if cfg.plate and (nameless := int(frame[cfg.plate].isna().sum())):
        raise ConfigError(
            f"{nameless} rows have no {cfg.plate!r}, which branch.plate names; fill it in or leave them out"
        )
    plate = np.unique(frame[cfg.plate].astype(str), return_inverse=True)[1] if cfg.plate else np.zeros(len(frame), int)
    if not cfg.controls:
        if cfg.plate or cfg.sphere:
            raise ConfigError("branch.plate and branch.sphere need branch.controls, such as Metadata_moa=DMSO")
        return plate, np.zeros(len(frame), bool)
    column, equals, value = cfg.controls.partition("=")
    if not equals:
        raise ConfigError(f"branch.controls wants COLUMN=VALUE, got {cfg.controls!r}")
    control = tables.words(frame[column]) == value
    bare = np.setdiff1d(plate, plate[control])
    if cfg.plate and len(bare):
        first = frame[cfg.plate].iloc[int(np.flatnonzero(plate == bare[0])[0])]
        raise ConfigError(f"{len(bare)} plates have no control ({cfg.controls}), such as {first!r}")
    if not control.any():
        raise ConfigError(f"no row is a control ({cfg.controls})")
    return plate.astype(np.int64), control


def _part(controls: str | None) -> str | None:
    return controls.partition("=")[0] if controls else None


def whiten(controls: NDArray[np.float32], ridge: float) -> State:
    """(n, d) controls -> mean, deviation, and the symmetric (d, d) map after which they vary alike everywhere.

    The ridge is in units of a standardised feature's variance; it keeps directions without variation from exploding.
    """
    mean, std = controls.mean(0, dtype=np.float64), controls.std(0, dtype=np.float64)
    std = np.where(std > FLAT, std, 1)
    scaled = (controls - mean) / std
    value, vector = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    sphere = (vector / np.sqrt(np.maximum(value, 0) + ridge)) @ vector.T
    return {"mean": mean.astype(np.float32), "std": std.astype(np.float32), "sphere": sphere.astype(np.float32)}


def levels_of(codes: NDArray) -> list[str]:
    """(n,) categories, None where one is missing -> the distinct ones, sorted."""
    return sorted({code for code in codes if code is not None})


def read_levels(state: State) -> list[list[str]]:
    """The categories of each categorical feature, as `fit` found them."""
    return list(json.loads(np.asarray(state["levels"], np.uint8).tobytes() or b"[]"))


def unseen(name: str, codes: NDArray, levels: list[str]) -> str | None:
    """A note on those of (n,) categories, None where one is missing, that the model does not know."""
    new = [code for code in codes if code is not None and code not in set(levels)]
    if not new:
        return None
    return f"column {name!r}: {len(new)} rows hold categories never seen ({csvtables.shorten(sorted(set(new)))})"
