"""Pictures of cells as points: projections by label, quality, chosen genes, markers and importances."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellvision.plots.base import figure, plain, save

if TYPE_CHECKING:
    import pandas as pd

COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000", "#999999", "#7f3c8d",
)  # fmt: skip
SHAPES = "osD^vPX<>*"
NARROWEST = 5.0  # inches, so that the axis' words find room
SHOWN = 20  # labels that get a colour and a shape of their own


def projection(points: NDArray[np.float32], labels: dict[str, NDArray], axis_name: str, path: Path) -> None:
    """The same (n, 2) points once for every kind of label: title -> (n,) text. Shapes tell labels apart in grey."""
    drawing, axes = figure(4.6 * len(labels), 4.0, ncols=len(labels), squeeze=False)
    for axis, (title, label) in zip(axes.flat, labels.items(), strict=True):
        names, count = np.unique(label.astype(str), return_counts=True)
        names = names[np.argsort(-count, kind="stable")]
        for number, name in enumerate(names):
            at = label.astype(str) == name
            distinct = number < SHOWN
            axis.scatter(
                points[at, 0], points[at, 1], s=6, linewidths=0,
                color=COLOURS[number % len(COLOURS)] if distinct else "0.8",
                marker=SHAPES[number % len(SHAPES)] if distinct else ".",
                label=plain(f"{name} ({at.sum()})") if distinct else None,
            )  # fmt: skip
        axis.set(
            title=f"{plain(title)}: {len(names)}, {len(label)} items",
            xlabel=f"{axis_name} 1",
            ylabel=f"{axis_name} 2",
        )
        axis.set_xticks([])
        axis.set_yticks([])
        axis.legend(frameon=False, fontsize=6, markerscale=2, loc="best")
        axis.title.set_fontsize(9)
    save(drawing, path)


def histograms(table: pd.DataFrame, path: Path) -> None:
    """Histograms of total counts, genes detected and mitochondrial share."""
    panels = {"qc_total": "total of the values", "qc_genes": "genes detected", "qc_mito": "mitochondrial share"}
    shown = {name: title for name, title in panels.items() if name in table and table[name].notna().any()}
    drawing, axes = figure(3.2 * len(shown), 2.6, ncols=len(shown), squeeze=False)
    for axis, (name, title) in zip(axes.flat, shown.items(), strict=True):
        values = table[name].dropna().to_numpy(float)
        axis.hist(values, bins=40, color="0.35")
        axis.axvline(np.median(values), color="0.7", ls="--", lw=1)
        axis.set(xlabel=f"{title}\nmedian {np.median(values):.4g}", ylabel=f"cells (n = {len(values)})")
    save(drawing, path)


def dots(table: pd.DataFrame, path: Path) -> None:
    """Markers: rows are clusters, columns genes; the size is the share of cells, the shade the difference of means.

    table: cluster, gene, share, level (rows of every pair).
    """
    genes, clusters = list(dict.fromkeys(table["gene"])), list(dict.fromkeys(table["cluster"]))
    drawing, axis = figure(max(NARROWEST, 1.6 + 0.22 * len(genes)), 1.4 + 0.26 * len(clusters))
    x = [genes.index(name) for name in table["gene"]]
    y = [clusters.index(name) for name in table["cluster"]]
    axis.scatter(x, y, s=60 * table["share"], c=table["level"], cmap="Greys", edgecolors="0.4", linewidths=0.4)
    axis.set_xticks(range(len(genes)), [plain(name) for name in genes], rotation=90, fontsize=6)
    axis.set_yticks(range(len(clusters)), [f"cluster {name}" for name in clusters], fontsize=7)
    axis.margins(x=0.6 / len(genes), y=0.6 / len(clusters))
    axis.set_xlabel("marker genes; size: share of the cluster's cells, shade: mean level scaled per gene", fontsize=7)
    axis.invert_yaxis()
    save(drawing, path)
