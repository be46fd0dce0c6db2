"""Branch: expression of single cells. Items are cells; the network input is (n, genes) float32, log-normalised.

Genes, their order, and the bin edges are chosen on training cells and saved with the model; networks standardise or bin
inside, so that pretraining, probes and new data go through the same preprocessing.
"""

from __future__ import annotations

import functools
import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import Augment, Baseline, Branch, Sample, State, labelnotes
from cellvision.branches.items import Items, no_missed
from cellvision.branches.rna import cellset, counts, kinds, tenx
from cellvision.branches.rna import genes as genes
from cellvision.branches.rna import metadata as celltables
from cellvision.branches.rna import values as values_of_cells
from cellvision.core import files, rundir
from cellvision.core.config import Only, PluginConfig, fingerprint, option
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.core.progress import say
from cellvision.core.rng import generator
from cellvision.core.yamlfiles import read_yaml

MIN_OVERLAP = 0.8  # share of a model's genes new data must have
FIT_CELLS = 20_000  # training cells that quantiles are taken from
BASELINE_GENES = 5000  # of more, the plain models see those detected in most cells
CLUSTER_COLUMN = re.compile(
    r"(?i)leiden|louvain|seurat_clusters|snn_res|k-?means|phenograph|^clusters?$|cluster_(id|alias|label)$"
)
CLUSTER_VALUE = re.compile(r"(?i)^(cluster|clust|c)[ _-]?\d+$")


class RnaBranch(Branch):
    """Cells of an h5ad file, a 10x folder or h5, or a CSV; a large file stays on disk."""

    default_encoder = "mlp-256-64"

    class Config(PluginConfig):
        """Options of the rna branch."""

        name: Literal["rna"] = "rna"
        group: str | None = option(None, "column that is the weak label; one group when absent")
        layer: str = option("auto", "X, raw or a layer's name; auto prefers counts")
        orient: Literal["auto", "cells", "genes"] = option("auto", "what stands in the rows of a CSV")
        backed: bool | None = option(None, "leave values in the file; absent, where they are large", runtime=True)
        metadata: tuple[Path, ...] = option((), "tables or folders joined by cell, then by shared column", runtime=True)
        keep: dict[str, tuple[str, ...]] = option({}, "column -> values; other cells are left out", flag=False)
        cells: int | None = option(None, "subsample of cells, the same share of every stratum of depth", ge=1)
        strata: int = option(4, "quantiles of the total counts that a subsample keeps in proportion", ge=1)
        min_genes: int = option(1, "genes a cell must show", ge=1)
        min_total: float = option(0, "counts a cell must have", ge=0)
        max_mito: float = option(1.0, "largest mitochondrial share of the counts", gt=0, le=1)
        genes: int = option(2000, "genes chosen on the training cells", ge=1)
        select: Literal["variable", "informative"] = option(
            "variable", "variable: variance above the trend; informative: detected often and varying"
        )
        target_sum: float = option(1e4, "counts every cell is scaled to before the log", gt=0)
        bins: int = option(20, "bins a gene's expression falls into, bin 0 being silence", ge=3, le=256)
        half: cellset.Half | None = option(None, "which half of split counts is used: first or second")
        rules: ClassVar[tuple[Only, ...]] = (
            Only(("strata",), lambda cfg: cfg.cells is not None, "with cells, which subsamples"),
        )

    def __init__(self, cfg: Config, path: Path, reserved: tuple[str, ...] = ()) -> None:
        self.cfg = cfg
        labels = tuple(filter(None, (*reserved, cfg.group)))
        expression = counts.read(path, cfg.layer, cfg.backed, cfg.orient, labels)
        self.data = cellset.CellSet(expression, cfg.half)
        data = self.data
        data.cells, notes = celltables.join(data.cells, cfg.metadata)
        data.notes += notes
        self._choose_cells()
        self._features = list(map(str, data.genes))
        self._align(np.arange(len(data.genes)))
        table = self._table()
        data.notes += labelnotes.of(table, labels, "cells")
        data.facts["notes"] = list(data.notes)
        stamps = tuple(self._stamps(table, reserved))
        marked = functools.partial(cellset.marks_of, data)
        self.items = Items(table, self._content(path), no_missed(), stamps, data.facts, marked=marked)
        self._checked: dict[str, Any] | None = None
        self._aligned: list[str] = []
        for note in data.notes:
            say_once(f"rna: {path.name}: {note}")

    def _choose_cells(self) -> None:
        """Filters, quality and subsample, in this order; what goes is counted."""
        cfg, data = self.cfg, self.data
        read = data.shape[0]
        if cfg.keep:
            data.keep(cellset.matching(data.cells, cfg.keep))
        survey = data.survey()
        before = cellset.sparsity(survey.detected, survey.cells_per_gene)
        reasons = {
            "few_genes": survey.detected < cfg.min_genes,
            "few_counts": (survey.total < cfg.min_total) & (data.kind != "scaled"),
            "mitochondrial": np.nan_to_num(survey.mito) > cfg.max_mito,
        }
        good = np.flatnonzero(~np.any(list(reasons.values()), axis=0))
        if not len(good):
            raise NoUsableInput(f"no cell is left of {data.shape[0]}: {_reasons(reasons)}")
        if len(good) < data.shape[0]:
            data.notes.append(f"{data.shape[0] - len(good)} of {data.shape[0]} cells left out: {_reasons(reasons)}")
        if cfg.cells and cfg.cells < len(good):
            good = good[cellset.by_depth(survey.total[good], cfg.cells, cfg.strata, 0)]
            data.notes.append(f"{len(good)} cells drawn, the same share of every stratum of depth")
        if len(good) < data.shape[0]:
            data.keep(good)
            survey = data.survey()
        after = cellset.sparsity(survey.detected, survey.cells_per_gene)
        self.survey = survey
        data.facts |= {"kind": data.kind, "read": read, "sparsity_before": before, "sparsity_after": after}
        data.facts |= {"notes": list(data.notes), **{key: int(value.sum()) for key, value in reasons.items()}}

    def _table(self) -> Any:
        """The items table: the cells' columns, and their quality."""
        data, survey = self.data, self.survey
        table = data.cells.rename(columns=str).reset_index(drop=True)
        table = table.drop(columns=[name for name in ("item_id", "source_id", "source_hash", "unit") if name in table])
        table = table.assign(qc_total=survey.total, qc_genes=survey.detected, qc_mito=survey.mito)
        if self.cfg.group and self.cfg.group not in table:
            raise ConfigError(f"no column {self.cfg.group!r}; columns: {', '.join(table.columns)}")
        group = table[self.cfg.group].astype(str) if self.cfg.group else "all"
        fixed = {"item_id": data.names, "source_id": data.names, "source_hash": survey.content}
        unit = table[tenx.SAMPLE_COLUMN] if "samples" in data.facts else None
        return table.assign(**fixed, unit=unit, group=group)

    def _content(self, path: Path) -> str:
        """What the file and every joined table hold."""
        file_hash = files.hash_tree(path) if path.is_dir() else rundir.content_of(path)
        beside = [files.sha256_file(table) for table in celltables.files_of(self.cfg.metadata)]
        return fingerprint([file_hash, *beside]) if beside else file_hash

    def _stamps(self, table: Any, reserved: tuple[str, ...]) -> Iterator[str]:
        """A target that was made by clustering expression is circular, unless the other half of the counts made it."""
        target = reserved[0] if reserved else ""
        if target not in table:
            return
        origin = clustered_on(self.cfg.metadata)
        if origin is not None and target == "cluster":
            if self.cfg.half and origin and origin != self.cfg.half:
                yield f"labels {target!r} were clustered on the {origin} half of the counts, scored on the other"
            else:
                yield f"circular: labels {target!r} are clusters of the expression that predicts them"
            return
        reason = cluster_derived(table, target)
        if reason:
            yield f"circular: labels {target!r} {reason}, made from expression"

    # -- the contract --

    @classmethod
    def sample(cls, folder: Path, other_half: bool = False) -> Sample:
        from cellvision.branches.rna.sample import write

        return write(folder, other_half)

    def schema(self) -> dict[str, Any]:
        return {"features": self._features, "kind": self.data.kind, "target_sum": self.cfg.target_sum}

    def align(self, schema: dict[str, Any]) -> list[str]:
        """Take the model's genes by name, in its order; missing ones count as not expressed."""
        wanted = schema["features"]
        if self._checked == schema:
            return self._aligned
        names, matched_by = self._best_names(wanted)
        position = {str(name): number for number, name in reversed(list(enumerate(names)))}
        missing = [name for name in wanted if name not in position]
        if len(missing) > (1 - MIN_OVERLAP) * len(wanted):
            raise ConfigError(
                f"{len(missing)} of the model's {len(wanted)} genes are missing, such as {missing[0]!r}; at least "
                f"{MIN_OVERLAP:.0%} must be there"
            )
        notes = [f"genes are matched by {matched_by}"] if matched_by else []
        if missing:
            examples = ", ".join(missing[:10]) + (" …" if len(missing) > 10 else "")
            notes.append(
                f"{len(missing)} of the model's {len(wanted)} genes are missing and count as silent: {examples}"
            )
        if (schema["kind"] == "scaled") != (self.data.kind == "scaled"):
            raise ConfigError(f"the model was trained on {schema['kind']} values, these are {self.data.kind}")
        if schema["kind"] != self.data.kind:
            notes.append(f"the model was trained on {schema['kind']} values, these are {self.data.kind}")
        self.cfg = self.cfg.model_copy(update={"target_sum": schema["target_sum"]})
        self._align(np.array([position.get(name, -1) for name in wanted]))
        self._checked, self._aligned, self._features = schema, notes, wanted
        return notes

    def _best_names(self, wanted: list[str]) -> tuple[NDArray[np.object_], str]:
        """The names of these genes that the model knows most of: their own, another column, or without versions."""
        tries = {"": self.data.genes, **{f"column {key!r}": value for key, value in self.data.aliases.items()}}
        tries["names without version"] = np.array(
            [re.sub(r"\.\d+$", "", str(name)) for name in self.data.genes], object
        )
        matches = {key: len(set(map(str, value)) & set(wanted)) for key, value in tries.items()}
        best = max(matches, key=lambda key: matches[key])
        return tries[best], best

    def _align(self, columns: NDArray[np.int64]) -> None:
        """Columns of the data, -1 where there is none; totals are over these genes, so that they mean the same."""
        self._columns = columns
        if np.array_equal(columns, np.arange(len(self.data.genes))):
            self._total, self._detected = self.survey.total, self.survey.detected.astype(np.float64)
            return
        self._total, self._detected = np.zeros(self.data.shape[0]), np.zeros(self.data.shape[0])
        for rows, values in values_of_cells.chunks(self.data, np.arange(self.data.shape[0])):  # type: ignore[arg-type]
            aligned = genes.columns_of(values, columns)
            self._total[rows] = np.asarray(aligned.sum(1, dtype=np.float64)).ravel()
            self._detected[rows] = np.diff(aligned.indptr)

    def normalised(self, rows: NDArray[np.int64], thinned: Augment | None = None) -> Any:
        """(n,) -> sparse (n, genes) log-normalised values of all genes of the model."""
        values, total = genes.columns_of(self.data.take(rows), self._columns), self._total[rows]
        if thinned is not None and self.data.kind == "counts":
            values, total = genes.thinned(values, total, thinned)
        return kinds.log_normalised(values, self.data.kind, total, self.cfg.target_sum)

    def fit(self, rows: NDArray[np.int64]) -> State:
        """Of the (n,) training cells: genes, mean and spread, bin edges, the share of each bin, principal axes."""
        mean, var, seen = genes.moments(self.normalised(chunk) for chunk in _parts(rows))
        chosen = genes.choose(mean, var, seen, self.cfg.genes, self.cfg.select)
        sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), FIT_CELLS)).astype(int)]
        state: State = {
            "genes": chosen,
            "mean": mean[chosen].astype(np.float32),
            "std": np.where(var[chosen] > 1e-8, np.sqrt(var[chosen]), 1).astype(np.float32),
        }
        if self.data.kind == "scaled":
            return state
        values = np.concatenate([self.normalised(chunk)[:, chosen].toarray() for chunk in _parts(sample)])
        return state | genes.bin_edges(values, self.cfg.bins) | {"axes": genes.principal_axes(values, state)}

    def batch(self, rows: NDArray[np.int64], state: State, augment: Augment | None = None) -> NDArray[np.float32]:
        """(n, genes) log-normalised; augmented cells lose counts (binomial thinning) and genes (silenced)."""
        if augment is None or augment.strength == "pose":
            return self.normalised(rows)[:, state["genes"]].toarray()
        values = self.normalised(rows, augment)[:, state["genes"]].toarray()
        silent = {"weak": 0.05, "strong": 0.2}[augment.strength]
        shape = values.shape
        return np.where(generator(0, *augment.key, "silence").random(shape, np.float32) < silent, 0, values)

    def feature_names(self, state: State) -> list[str]:
        """The genes chosen on the training cells: their symbols, where the data has them."""
        shown = self.data.symbols()
        return [shown.get(self._features[number], self._features[number]) for number in state["genes"]]

    def network(self, name: str, state: State) -> Any:
        """`mlp-256-64`, `cnn-32-64`, or `transformer-3x64x4` (layers, width, heads)."""
        from cellvision.branches.rna import networks as rna_networks

        return rna_networks.build(name, state)

    def baselines(self) -> dict[str, Baseline]:
        """Logistic regression and forest on log counts; depth alone (total and genes detected) as a shortcut."""
        column = np.arange(len(self._columns))
        if len(column) > BASELINE_GENES:
            often = np.argsort(-self.survey.cells_per_gene[np.maximum(self._columns, 0)], kind="stable")
            column = np.sort(often[:BASELINE_GENES])
            say_once(f"rna: the plain models see the {BASELINE_GENES} genes detected in most cells")

        def values(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            out = np.empty((len(rows), len(column)), np.float32)
            for start in range(0, len(rows), values_of_cells.CHUNK):
                out[start : start + values_of_cells.CHUNK] = self.normalised(
                    rows[start : start + values_of_cells.CHUNK]
                )[:, column].toarray()
            return out

        def depth(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            return np.stack([np.log1p(np.maximum(self._total[rows], 0)), np.log1p(self._detected[rows])], 1).astype(
                "f4"
            )

        return {
            "logistic": Baseline("logistic", values),
            "forest": Baseline("forest", values),
            "depth": Baseline("logistic", depth, shortcut=True),
        }


def _parts(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    ordered = np.sort(rows)  # sums do not depend on it, and a file is read forwards
    return (ordered[start : start + values_of_cells.CHUNK] for start in range(0, len(ordered), values_of_cells.CHUNK))


def _reasons(reasons: dict[str, NDArray[np.bool_]]) -> str:
    return ", ".join(f"{int(value.sum())} {key.replace('_', ' ')}" for key, value in reasons.items() if value.any())


@functools.cache
def say_once(text: str) -> None:
    """A line for the person, once, and not again from every worker."""
    if multiprocessing.parent_process() is None:
        say(text)


def clustered_on(metadata: tuple[Path, ...]) -> str | None:
    """Which half of the counts a joined clustering was made on, '' for all of them; None without a clustering."""
    for path in metadata:
        if path.is_dir() and rundir.is_run(path, "cluster"):
            return str(read_yaml(path / "config.yaml")["branch"].get("half") or "")
    return None


def cluster_derived(table: Any, target: str) -> str:
    """Why a column looks like clusters of the expression; '' where it does not.

    Its name or its values say so, or it only renames the clusters of another column.
    """
    if CLUSTER_COLUMN.search(target):
        return "are clusters by their name"
    labels = table[target].dropna().astype(str)
    if len(labels) and labels.map(lambda value: bool(CLUSTER_VALUE.match(value))).all():
        return f"are clusters by their values (such as {labels.iloc[0]!r})"
    for column in table:
        if column == target or not CLUSTER_COLUMN.search(str(column)):
            continue
        labelled = table[[column, target]].dropna().astype(str)
        mixed = labelled.groupby(column)[target].nunique()
        if 2 <= len(mixed) < len(labelled) / 2 and (mixed == 1).all():
            return f"rename the clusters of column {column!r}"
    return ""
