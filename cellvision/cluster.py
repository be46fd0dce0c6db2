"""Stage: items -> clusters of the neighbour graph, projections, markers. Writes clusters.csv, projection.parquet.

The workflow people know from scanpy: quality, filters, log-normalised values, variable genes (all in the branch),
principal components or a trained encoder's features, neighbours, communities, projection, marker genes. A label made
here is circular when the same values predict it; with `branch.half=first` here and `second` there it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import BRANCH_HELP, BRANCHES, Branch, BranchConfig, State
from cellvision.core import files
from cellvision.core.config import Only, option
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.core.progress import say
from cellvision.core.rng import derive, generator, torch_seed
from cellvision.core.rundir import RunDir
from cellvision.evidence import seen
from cellvision.evidence.configs import ItemsConfig
from cellvision.models.neighbours import Communities, Projection
from cellvision.runs.calls import stage

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

    from cellvision.models.encoders import Trained

REVISION = 3
CHUNK = 4096  # items whose values are in memory at once
LIMIT = 10.0  # standard deviations a scaled value is clipped to
KEPT = 0.9  # share of the items each repetition of the clustering sees
MARKER_ITEMS = 5000  # items that markers are computed on
DEALT = 200  # times that labels are dealt to units by lot
DOTS = 3  # markers of each cluster in the picture


class Config(ItemsConfig):
    """Options of `cluster`."""

    branch: BranchConfig = option("rna", BRANCH_HELP)
    encoder: str | None = option(None, "features of a trained encoder instead of principal components", runtime=True)
    target: str | None = option(None, "column that the clusters are compared with")
    unit: str | None = option(None, "column of independent units, shown beside the clusters")
    components: int = option(30, "principal components", ge=2)
    neighbours: int = option(15, "of each item in the graph", ge=2)
    method: Communities = option("auto", "auto is leiden where igraph is installed, else louvain")
    resolution: float = option(1.0, "larger finds more clusters", gt=0)
    repeats: int = option(
        5, "clusterings of nine tenths of the items by chance: how stable clusters are", ge=0, le=1000
    )
    projections: tuple[Projection, ...] = option(("pca", "tsne"), "pictures in the plane; umap is an extra")
    markers: int = option(20, "marker genes of each cluster", ge=0)
    uses: ClassVar[tuple[str, ...]] = ("seed",)
    rules: ClassVar[tuple[Only, ...]] = (
        Only(("components",), lambda cfg: not cfg.encoder, "without --encoder, whose features are not reduced"),
        Only(("markers",), lambda cfg: cfg.branch.name not in ("image", "trace"), "where inputs are named features"),
    )


@stage
def run(cfg: Config, out: Path) -> None:
    """Represent, connect, cluster, project, describe."""
    from cellvision.models import encoders, neighbours

    branch = open_items(cfg)
    inputs = {"items": branch.items.content, "encoder": encoders.content_hash(cfg.encoder or "principal components")}
    with RunDir.claim(out, "cluster", cfg, inputs, REVISION) as claimed:
        if not claimed.done:
            trained = load_encoder(cfg, branch)
            state, points, share = represent(cfg, branch, trained)
            graph = neighbours.neighbour_graph(points, cfg.neighbours)
            cluster, how = neighbours.communities(graph, cfg.method, cfg.resolution, derive(cfg.seed, "clusters"))
            write_clusters(cfg, branch, points, cluster, out)
            if cfg.markers:
                describe(cfg, branch, state, cluster, out)
            metrics = {
                "items": len(points), "clusters": int(cluster.max()) + 1, "method": how, "features": points.shape[1],
            }  # fmt: skip
            metrics |= {"variance_explained": share} if share is not None else {}
            metrics |= facts_of(branch) | stability(cfg, graph, points, cluster)
            metrics |= compared(cfg, branch, cluster) if cfg.target else {"stamps": []}
            metrics["stamps"] += [*branch.items.stamps, *stamps_of(branch, cfg.target, trained)]
            if "genes" in state:
                metrics |= write_genes(branch, state, out)
            claimed.finish(metrics)
    report_to_person(cfg, out)


def open_items(cfg: Config) -> Branch:
    """The branch of the items. ConfigError for a column that is not there, NoUsableInput for fewer than four items."""
    reserved = tuple(filter(None, (cfg.target, cfg.unit)))
    branch = BRANCHES.build(cfg.branch, path=cfg.items, reserved=reserved)
    table = branch.items.table
    for name in reserved:
        if name not in table:
            raise ConfigError(f"no column {name!r}; columns: {', '.join(table.columns)}")
    if len(table) < 4:
        raise NoUsableInput(f"{len(table)} items are too few to cluster")
    return branch


def write_clusters(cfg: Config, branch: Branch, points: NDArray[np.float32], cluster: NDArray, out: Path) -> None:
    """clusters.csv, projection.parquet, a picture for each projection, and quality.png.

    points: (n, d) features; cluster: (n,) numbers from 0.
    """
    from cellvision.models import neighbours
    from cellvision.plots.points import histograms, projection

    table = branch.items.table
    labelled = table[["item_id"]].assign(cluster=cluster)
    quality = [name for name in ("qc_total", "qc_genes", "qc_mito") if name in table]
    files.write_csv(out / "clusters.csv", labelled.join(table[quality]))
    shown = {"cluster": cluster} | {name: table[name].to_numpy(str) for name in (cfg.target, cfg.unit) if name}
    for name in cfg.projections:
        plane = [f"{name}_1", f"{name}_2"]
        labelled[plane] = neighbours.project(points, name, torch_seed(cfg.seed, name))
        projection(labelled[plane].to_numpy(), shown, name, out / f"{name}.png")
    files.write_parquet(out / "projection.parquet", labelled)
    if quality:
        histograms(table[quality], out / "quality.png")


def facts_of(branch: Branch) -> dict[str, Any]:
    """What reading the items has found, flat."""
    facts = branch.items.facts
    kept: dict[str, Any] = {key: facts[key] for key in ("kind", "notes", "read") if key in facts}
    for when in ("sparsity_before", "sparsity_after"):
        kept |= {f"{when}_{key}": value for key, value in facts.get(when, {}).items()}
    return kept


def compared(cfg: Config, branch: Branch, cluster: NDArray) -> dict[str, Any]:
    """(n,) clusters -> their adjusted Rand index with the labels of a column, and what it reaches by lot over units."""
    from cellvision.evidence import comparison
    from cellvision.models import neighbours

    table = branch.items.table
    unit = table[cfg.unit] if cfg.unit else table["unit"]
    has_units = bool(unit.notna().any())
    unit = unit if has_units else table["source_id"]
    rows = (table[cfg.target].notna() & unit.notna()).to_numpy()
    label, units, clusters = table[cfg.target][rows].to_numpy(str), unit[rows].to_numpy(str), cluster[rows]
    rng = generator(cfg.seed, "labels by lot")
    lots = [neighbours.agreement(comparison.dealt_by_lot(label, units, rng), clusters) for _ in range(DEALT)]
    return {
        "ari": neighbours.agreement(label, clusters),
        "ari_by_lot": float(np.quantile(lots, 0.95)),
        "ari_units": len(set(units)),
        "stamps": [] if has_units else ["rows assumed independent"],
    }


def stamps_of(branch: Branch, target: str | None, trained: Trained | None) -> Iterator[str]:
    """What an encoder has seen of these items: clusters of its features are no discovery where it was taught them."""
    if trained is None:
        return
    common = seen.overlap(trained.seen, branch.items, None, np.arange(len(branch.items.table)))
    if common.count:
        yield f"transductive: the encoder has seen {common.count} of these {common.tested} sources"
    if target and target in trained.facts.get("taught", []):
        yield f"circular: the encoder was taught {target!r}, which the clusters are compared with"
    yield from seen.doubtful(trained.seen, common)


def write_genes(branch: Branch, state: State, out: Path) -> dict[str, int]:
    """genes.csv: the variable genes."""
    import pandas as pd

    files.write_csv(out / "genes.csv", pd.DataFrame({"gene": branch.feature_names(state)}))
    return {"genes": len(state["genes"])}


def load_encoder(cfg: Config, branch: Branch) -> Trained | None:
    """The encoder whose features are clustered; None for principal components."""
    from cellvision.models import encoders

    every = np.arange(len(branch.items.table))
    return encoders.resolve(cfg.encoder, branch, every, torch_seed(cfg.seed, "encoder")) if cfg.encoder else None


def represent(cfg: Config, branch: Branch, trained: Trained | None) -> tuple[State, NDArray[np.float32], float | None]:
    """Features of every item: an encoder's, standardised; or principal components and their share of the variance.

    Everything is fitted on all items: clusters describe these data and are tested on nothing.
    """
    every = np.arange(len(branch.items.table))
    if trained is not None:
        from cellvision.models import encoders

        features = encoders.embed(trained.module, branch, trained.state, every)
        return trained.state, (features - features.mean(0)) / np.maximum(features.std(0), 1e-6), None
    from cellvision.models import neighbours

    state = branch.fit(every)
    if "mean" not in state or branch.batch(every[:1], state).ndim != 2:
        raise ConfigError(f"items of the branch {branch.cfg.name!r} need --encoder to be clustered")
    raw = branch.cfg.name == "rna"  # other one-dimensional branches come standardised

    def parts() -> Iterator[NDArray]:
        for start in range(0, len(every), CHUNK):
            values = branch.batch(every[start : start + CHUNK], state)
            yield np.clip((values - state["mean"]) / state["std"], -LIMIT, LIMIT) if raw else values

    scores, share = neighbours.principal(parts, cfg.components)
    return state, scores, float(share.sum())


def stability(cfg: Config, graph: csr_matrix, points: NDArray[np.float32], cluster: NDArray) -> dict[str, Any]:
    """Adjusted Rand index of the clusters with those of random nine tenths of the items, clustered anew.

    graph: (n, n) weights; points: (n, d) features; cluster: (n,) numbers from 0.
    """
    from cellvision.models import neighbours

    scores = []
    for number in range(cfg.repeats):
        rng = generator(cfg.seed, "stability", number)
        rows = np.sort(rng.permutation(len(points))[: max(4, round(KEPT * len(points)))])
        again = neighbours.neighbour_graph(points[rows], cfg.neighbours)
        seed = derive(cfg.seed, "stability", number)
        scores.append(
            neighbours.agreement(cluster[rows], neighbours.communities(again, cfg.method, cfg.resolution, seed)[0])
        )
    inside = graph.multiply(cluster[:, None] == cluster[None, :]) if len(points) <= CHUNK else None
    measures: dict[str, Any] = (
        {"stability_ari": float(np.mean(scores)), "stability_ari_lowest": min(scores)} if scores else {}
    )
    if inside is not None:
        measures["weight_inside_clusters"] = float(inside.sum() / max(graph.sum(), 1e-12))
    return measures


def describe(cfg: Config, branch: Branch, state: State, cluster: NDArray[np.int64], out: Path) -> None:
    """markers.csv and markers.png, on a sample where there are many items; none where features have no names.

    cluster: (n,) numbers from 0, of every item.
    """
    from cellvision.models import neighbours
    from cellvision.plots.points import dots

    columns = branch.feature_names(state)
    if columns is None:
        return
    names = np.array(columns, object)
    rows = np.sort(generator(cfg.seed, "markers").permutation(len(cluster))[:MARKER_ITEMS])
    values = branch.batch(rows, state)
    table = neighbours.markers(values, cluster[rows], names, cfg.markers)
    files.write_csv(out / "markers.csv", table)
    if len(table):
        dots(levels(table, values, cluster[rows], names), out / "markers.png")


def levels(table: pd.DataFrame, values: NDArray, cluster: NDArray, names: NDArray) -> pd.DataFrame:
    """Share of cells and mean level, scaled per gene to 0..1, of the best markers in every cluster.

    table: what `neighbours.markers` returns; values: (n, genes); cluster: (n,); names: (genes,).
    """
    import pandas as pd

    genes = list(dict.fromkeys(table.groupby("cluster").head(DOTS)["gene"]))
    position = {name: number for number, name in enumerate(names)}
    rows = []
    for gene in genes:
        column = values[:, position[gene]]
        means = {number: column[cluster == number].mean() for number in np.unique(cluster)}
        low, high = min(means.values()), max(means.values())
        for number, mean in means.items():
            share = float((column[cluster == number] > 0).mean())
            rows.append(
                {"cluster": number, "gene": gene, "share": share, "level": (mean - low) / max(high - low, 1e-9)}
            )
    return pd.DataFrame(rows)


def against_lot(metrics: dict[str, Any]) -> str:
    """`0.310, more than labels dealt by lot to 12 units reach in 95 % of deals (0.280)`."""
    more = "more" if metrics["ari"] > metrics["ari_by_lot"] else "no more"
    units, reached = metrics["ari_units"], metrics["ari_by_lot"]
    return (
        f"{metrics['ari']:.3f}, {more} than labels dealt by lot to {units} units reach in 95 % of deals ({reached:.3f})"
    )


def report_to_person(cfg: Config, out: Path) -> None:
    metrics = files.read_json(out / "metrics.json")
    steady = f", stability {metrics['stability_ari']:.2f}" if "stability_ari" in metrics else ""
    against = f", ARI with {cfg.target} {against_lot(metrics)}" if "ari" in metrics else ""
    say(
        f"cluster: {metrics['items']} items, {metrics['clusters']} clusters ({metrics['method']})"
        f"{steady}{against} -> {out}"
    )
    for stamp in metrics["stamps"]:
        say(f"cluster: stamp: {stamp}")
    say("cluster: clusters are no finding by themselves; a classifier of them on the same values is circular")


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("cluster"))
