"""Branch: the same things seen by several branches, joined by their id: crop, table row, trace …

`--items` is a YAML file that names the parts; a thing may lack any of them:

    parts:
      image: {items: runs/cells, branch: {name: image, size: 48}}
      table: {items: cells.csv, branch: {name: tabular, exclude: [y]}, key: cell_id}

Fusion is late: each part has its own encoder; their features stand side by side, with a flag for each part there is.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import BRANCHES, Augment, Baseline, Branch, Sample, State, signatures
from cellvision.branches.items import COLUMNS, Items
from cellvision.branches.names import parse
from cellvision.core.config import PluginConfig, StageModel, build, fingerprint, option
from cellvision.core.errors import ConfigError
from cellvision.core.rng import generator
from cellvision.core.yamlfiles import read_yaml
from cellvision.io.components import linked

if TYPE_CHECKING:
    import pandas as pd

DTYPES = ("uint8", "int64", "float32")  # of the parts' batches; their place is saved with the weights
DEFAULT = "late"


class Part(StageModel):
    """One part as the YAML file names it; paths are relative to that file."""

    items: Path = option(..., "a segment run, or a file of a one-dimensional branch")
    branch: Any = option(..., "the branch and its options")
    key: str = option("item_id", "column with the id that joins the parts")


class Parts(StageModel):
    """The YAML file."""

    parts: dict[str, Part] = option(..., "the parts by name; the first that has a thing says its source and group")


@dataclass(frozen=True)
class Joined:
    """A part: its branch, and for each fused item the row there, -1 where there is none."""

    branch: Branch
    row: NDArray[np.int64]


class FusionBranch(Branch):
    """Items are the ids of all parts together."""

    default_encoder = DEFAULT

    class Config(PluginConfig):
        """Options of fusion."""

        name: Literal["fusion"] = "fusion"
        use: tuple[str, ...] = option((), "parts the model sees; all when empty; one alone is an arm of an ablation")
        drop: float = option(0.1, "chance that a varied item is shown without one of the parts it has", ge=0, lt=1)

    def __init__(self, cfg: Config, path: Path, reserved: tuple[str, ...] = ()) -> None:
        self.cfg = cfg
        named = read_parts(path)
        unknown = [name for name in cfg.use if name not in named]
        if unknown:
            raise ConfigError(f"{path} has no part {unknown[0]!r}; parts: {', '.join(named)}")
        plain = (*reserved, *(name.partition(".")[2] for name in reserved if name.partition(".")[0] in named))
        opened: dict[str, Branch] = {
            name: BRANCHES.build(modality.branch, path=path.parent / modality.items, reserved=(*plain, modality.key))
            for name, modality in named.items()
        }
        table, rows = join({name: (opened[name].items.table, modality.key) for name, modality in named.items()})
        self.parts = {name: Joined(opened[name], rows[name]) for name in named}
        first = next(iter(opened.values())).items
        stamps = tuple(dict.fromkeys(stamp for branch in opened.values() for stamp in branch.items.stamps))
        inputs = {
            name: [modality.key, options_of(opened[name]), opened[name].items.content]
            for name, modality in named.items()
        }
        content = fingerprint(inputs)
        counts = {name: len(branch.items.table) for name, branch in opened.items()}
        marked = functools.partial(marks_of, self.parts)
        self.items = Items(table, content, first.missed, stamps, counts, marked=marked)

    @property
    def used(self) -> dict[str, Joined]:
        """The parts the model sees."""
        return {name: joined for name, joined in self.parts.items() if not self.cfg.use or name in self.cfg.use}

    @classmethod
    def sample(cls, folder: Path, other_half: bool = False) -> Sample:
        from cellvision.branches.fusion.sample import write

        return write(folder, other_half)

    def schema(self) -> dict[str, Any]:
        return {
            "parts": {name: [options_of(joined.branch), joined.branch.schema()] for name, joined in self.used.items()}
        }

    def align(self, schema: dict[str, Any]) -> list[str]:
        """Each part against its own schema."""
        wanted = schema["parts"]
        if list(wanted) != list(self.used):
            raise ConfigError(
                f"the model was trained on the parts {', '.join(wanted)}, these are {', '.join(self.used)}"
            )
        notes = []
        for name, joined in self.used.items():
            options, inner = wanted[name]
            if options_of(joined.branch) != options:
                raise ConfigError(f"part {name!r} was trained with the options {options}; give the same ones")
            notes += [f"{name}: {note}" for note in joined.branch.align(inner)]
        lost = {name: int((joined.row < 0).sum()) for name, joined in self.used.items()}
        return notes + [f"{count} items have no {name}" for name, count in lost.items() if count]

    def fit(self, rows: NDArray[np.int64]) -> State:
        """What each part fits on those of the (n,) training rows that it has, and the form of its batches."""
        state: State = {}
        for name, joined in self.used.items():
            part_rows = joined.row[rows]
            part_rows = part_rows[part_rows >= 0]
            if not len(part_rows):
                raise ConfigError(f"no training item has a {name}; leave it out with branch.use")
            fitted = joined.branch.fit(part_rows)
            first_batch = joined.branch.batch(part_rows[:1], fitted)
            state |= {f"{name}.{key}": value for key, value in fitted.items()}
            state[f"{name}:form"] = np.array([DTYPES.index(first_batch.dtype.name), *first_batch.shape[1:]], np.int64)
        return state

    def batch(self, rows: NDArray[np.int64], state: State, augment: Augment | None = None) -> NDArray[np.uint8]:
        """(n, bytes): a flag for each part there is, then the bytes of each part's own batch, 0 where it is not."""
        there = np.stack([joined.row[rows] >= 0 for joined in self.used.values()], axis=1)
        if augment is not None and augment.strength != "pose":
            there &= ~lost_parts(there, self.cfg.drop, augment)
        columns = [there.astype(np.uint8)]
        for at, (name, joined) in enumerate(self.used.items()):
            dtype, shape = form_of(name, state)
            values = np.zeros((len(rows), *shape), dtype)
            if there[:, at].any():
                values[there[:, at]] = joined.branch.batch(
                    joined.row[rows][there[:, at]], own_state(name, state), augment
                )
            columns.append(values.reshape(len(rows), -1).view(np.uint8))
        return np.concatenate(columns, axis=1)

    def feature_names(self, state: State) -> None:
        """A batch is bytes of several parts."""

    def network(self, name: str, state: State) -> Any:
        """`late`, each part's default encoder, or `late:image=resnet10t+table=mlp-64` with those named."""
        from cellvision.branches.fusion.network import LateFusion

        chosen = encoders_of(name, {key: joined.branch for key, joined in self.used.items()})
        networks = {key: joined.branch.network(chosen[key], own_state(key, state)) for key, joined in self.used.items()}
        return LateFusion(networks, {key: form_of(key, state) for key in self.used})

    def baselines(self) -> dict[str, Baseline]:
        """Each part's own, missing values where it is not there, and one forest on everything but the shortcuts."""
        baselines: dict[str, Baseline] = {}
        every = []
        for name, joined in self.used.items():
            part_baselines = {key: plain_of(plain, joined.row) for key, plain in joined.branch.baselines().items()}
            baselines |= {f"{name}-{key}": plain for key, plain in part_baselines.items()}
            honest = [plain for plain in part_baselines.values() if not plain.shortcut]
            honest.sort(key=lambda plain: plain.estimator != "forest")
            every += [plain.features for plain in honest[:1]]
        if len(every) > 1:
            baselines["joined"] = Baseline("forest", lambda rows: np.concatenate([of(rows) for of in every], axis=1))
        return baselines


def read_parts(path: Path) -> dict[str, Part]:
    """ConfigError for a file that names no parts, or a name that would not stay apart from others."""
    if not path.is_file():
        raise ConfigError(f"no file at {path}; the fusion branch reads a YAML file with `parts`")
    parts = build(Parts, read_yaml(path)).parts
    if not parts:
        raise ConfigError(f"{path} names no parts")
    for name in parts:
        if not name.isidentifier():
            raise ConfigError(f"{path}: a part's name is made of letters, digits and _, not {name!r}")
    return parts


def join(parts: dict[str, tuple[pd.DataFrame, str]]) -> tuple[pd.DataFrame, dict[str, NDArray[np.int64]]]:
    """Part -> (table, key column) to one table with a row for every id, and each part's row of every id or -1.

    A column that several parts have is one where they agree; else the first part's stands, and the later one is kept
    as `part.column`; source, unit and group are those of the first part that has the thing. Things that share content
    in any part share a source_hash, so that no split can part them.
    """
    import pandas as pd

    ids = {name: keys_of(name, table, key) for name, (table, key) in parts.items()}
    every = pd.Index(sorted({item_id for part_ids in ids.values() for item_id in part_ids}))
    row = {name: pd.Index(part_ids).get_indexer(every).astype(np.int64) for name, part_ids in ids.items()}
    out = pd.DataFrame({"item_id": every})
    for name, (table, _) in parts.items():
        aligned = table.iloc[np.maximum(row[name], 0)].reset_index(drop=True)
        source = aligned["source_id"]
        alone = source == aligned["item_id"]  # a table's rows: their numbers mean nothing in other parts
        if name != next(iter(parts)):
            source = f"{name}:" + source.astype(str)
        aligned["source_id"] = source.where(~alone, out["item_id"])
        lacking = pd.Series(row[name] < 0)
        for column in aligned.columns.drop("item_id"):
            values = aligned[column].astype(object).where(~lacking, None)
            first = out.get(column, values)
            comparable = first.notna() & values.notna()
            same = bool((first[comparable] == values[comparable]).all())
            if same or column in COLUMNS:
                out[column] = first.where(first.notna(), values)
            if not same and column not in ("source_id", "source_hash"):
                out[f"{name}.{column}"] = values
    hashes = [table["source_hash"].to_numpy(str)[np.maximum(row[name], 0)] for name, (table, _) in parts.items()]
    out["source_hash"] = shared_hash(hashes, [row[name] >= 0 for name in parts])
    return out.infer_objects(), row


def marks_of(parts: dict[str, Joined]) -> signatures.Marks:
    """What each thing is known by: the contents and the signatures of all its parts, whichever the model sees."""
    marks: dict[str, list[NDArray[np.uint64]]] = {}
    for joined in parts.values():
        items = joined.branch.items
        content = signatures.hash_texts(items.table["source_hash"])[:, None]
        for kind, of_part in {**items.marks, "content": content}.items():
            there = (joined.row >= 0)[:, None]
            marks.setdefault(kind, []).append(np.where(there, of_part[np.maximum(joined.row, 0)], 0).astype(np.uint64))
    return {kind: np.concatenate(of_parts, axis=1) for kind, of_parts in marks.items()}


def options_of(branch: Branch) -> dict[str, Any]:
    """All options of a part's branch: they decide what its encoder is shown."""
    return dict(branch.cfg.model_dump(mode="json"))


def keys_of(name: str, table: pd.DataFrame, key: str) -> list[str]:
    """ConfigError for a key that is not there, empty, or not unique."""
    if key not in table:
        raise ConfigError(f"part {name!r} has no column {key!r} to join by; columns: {', '.join(table.columns)}")
    ids = table[key]
    wrong = ids.isna() | ids.duplicated()
    if wrong.any():
        raise ConfigError(f"part {name!r}: the ids in {key!r} must be there and unique; {ids[wrong].iloc[0]!r} is not")
    return [str(item_id) for item_id in ids]


def shared_hash(hashes: list[NDArray[np.str_]], there: list[NDArray[np.bool_]]) -> list[str]:
    """(parts) of (n,) content hashes -> (n,) the smallest hash among all items that are connected by equal ones."""
    count = len(hashes[0])
    items = np.concatenate([np.flatnonzero(present) for present in there])
    hashes_there = [part_hashes[present] for part_hashes, present in zip(hashes, there, strict=True)]
    values, code = np.unique(np.concatenate(hashes_there), return_inverse=True)
    component = linked(items, count + code, count + len(values))
    smallest = {which: str(value) for which, value in zip(component[count:][::-1], values[::-1], strict=True)}
    return [smallest[which] for which in component[:count]]


def lost_parts(there: NDArray[np.bool_], chance: float, augment: Augment) -> NDArray[np.bool_]:
    """(n, parts): at most one part of an item that has several is hidden, so that the model learns to do without."""
    luck = generator(0, *augment.key, "parts").random((len(there), 1 + there.shape[1]))
    which = np.where(there, luck[:, 1:], -1).argmax(1)
    hidden = (luck[:, 0] < chance) & (there.sum(1) > 1)
    return hidden[:, None] & (np.arange(there.shape[1]) == which[:, None])


def own_state(name: str, state: State) -> State:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def form_of(name: str, state: State) -> tuple[str, tuple[int, ...]]:
    """dtype and shape of one item of a part's batch."""
    number, *shape = np.asarray(state[f"{name}:form"]).tolist()
    return DTYPES[number], tuple(shape)


def encoders_of(name: str, branches: dict[str, Branch]) -> dict[str, str]:
    """Part -> encoder."""
    parsed = parse(name)
    chosen = parsed.parts()
    wrong = [key for key in chosen if key not in branches]
    if parsed.kind != DEFAULT or wrong or (name != DEFAULT and not chosen):
        defaults = "+".join(f"{key}={branch.default_encoder}" for key, branch in branches.items())
        raise ConfigError(f"the fusion branch has the encoders late, or late:{defaults} and the like, not {name!r}")
    return {key: chosen.get(key, branch.default_encoder) for key, branch in branches.items()}


def plain_of(plain: Baseline, row: NDArray[np.int64]) -> Baseline:
    """A part's baseline on fused rows, its features NaN where the part is not there.

    row: (items,) the part's row of each fused item, -1 where there is none.
    """

    def features(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        part_row = row[rows]
        part_features = plain.features(part_row[part_row >= 0])
        out = np.full((len(rows), part_features.shape[1]), np.nan, np.float32)
        out[part_row >= 0] = part_features
        return out

    return replace(plain, features=features)
