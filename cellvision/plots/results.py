"""Pictures of results: curves, confusion matrices, intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellvision.evidence import metrics, targets
from cellvision.plots.base import figure, plain, save

if TYPE_CHECKING:
    import pandas as pd

    from cellvision.plots.base import Figure


def curves(table: pd.DataFrame) -> Figure:
    """Pretraining: loss against chance; kNN on held-out units; effective rank; identity of the source."""
    panels = [name for name in ("loss", "knn", "rank", "identity") if name in table]
    titles = {
        "loss": "loss", "knn": "kNN, held-out units\n(balanced accuracy)",
        "rank": "effective rank", "identity": "kNN of the source\n(identity, lower is better)",
    }  # fmt: skip
    drawing, axes = figure(3 * len(panels), 2.7, ncols=len(panels), squeeze=False)
    for axis, name in zip(axes.flat, panels, strict=True):
        seen = table.dropna(subset=[name])
        axis.plot(seen["step"], seen[name], color="0.1", lw=1, marker="" if name == "loss" else "o", ms=3)
        chance = {"loss": "chance", "identity": "identity_chance"}.get(name)
        if chance in table:
            axis.axhline(float(table[chance].dropna().iloc[0]), color="0.5", ls="--", lw=1, label="chance")
            axis.legend(frameon=False, fontsize=8)
        axis.set(title=titles[name], xlabel="step")
        axis.title.set_fontsize(9)
    return drawing


def traces(values: NDArray[np.float32], names: list[str], path: Path) -> None:
    """(n, time) traces one below the other, each with its source's name and its range."""
    drawing, axes = figure(8, 0.6 + 0.55 * len(values), nrows=len(values), sharex=True, squeeze=False)
    for axis, trace, name in zip(axes.flat, values, names, strict=True):
        axis.plot(trace, color="0.1", lw=0.8)
        finite = trace[np.isfinite(trace)]
        reach = f"{finite.min():.3g} to {finite.max():.3g}" if len(finite) else "no value"
        axis.set_yticks([])
        axis.set_ylabel(f"{plain(name)[-28:]}\n{reach}", fontsize=6, rotation=0, ha="right", va="center")
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes.flat[-1].set_xlabel("time point")
    save(drawing, path)


def confusion_matrix(scored: pd.DataFrame, level: str) -> Figure:
    """Counts, rows shaded by their share; rows are the label, columns the prediction."""
    classes = targets.in_order(set(scored["truth"]))
    columns = [*classes, *sorted(set(scored["predicted"]) - set(classes))]
    counts = metrics.confusion(scored["truth"].to_numpy(), scored["predicted"].to_numpy(), columns)[: len(classes)]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 1.6 + 0.42 * len(columns)
    drawing, axis = figure(size + 1, 1.4 + 0.36 * len(classes))
    axis.imshow(share, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        axis.text(
            column,
            row,
            str(count),
            ha="center",
            va="center",
            fontsize=7,
            color="w" if share[row, column] > 0.55 else "k",
        )
    units = scored.groupby("truth")["unit"].nunique()
    labels = [plain(name) or "not found" for name in columns]
    axis.set_xticks(range(len(columns)), labels, rotation=45, ha="right", fontsize=8)
    axis.set_yticks(range(len(classes)), [f"{plain(name)} ({units[name]} units)" for name in classes], fontsize=8)
    axis.set_xlabel(f"predicted (number of {level}s)", fontsize=9)
    axis.set_ylabel("label", fontsize=9)
    return drawing


def forest_plot(
    rows: list[tuple[str, float, float, float]], path: Path, xlabel: str, line: float | None = None
) -> None:
    """One row an arm: name, value, low, high; with a line for chance or for no difference."""
    drawing, axis = figure(7, 0.9 + 0.32 * len(rows))
    y = np.arange(len(rows))[::-1]
    value, low, high = np.array([row[1:] for row in rows], float).T
    reach = [np.maximum(value - low, 0), np.maximum(high - value, 0)]
    axis.errorbar(value, y, xerr=reach, fmt="o", color="0.1", ms=4, capsize=3, lw=1)
    if line is not None:
        axis.axvline(line, color="0.5", ls="--", lw=1)
    axis.set_yticks(y, [plain(row[0]) for row in rows], fontsize=8)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlabel(xlabel, fontsize=9)
    axis.grid(axis="x", color="0.9")
    save(drawing, path)


def by_value(table: pd.DataFrame, column: str, order: list[str], path: Path) -> None:
    """Balanced accuracy of every arm against the values of a column, with intervals over units; baselines in grey."""
    drawing, axis = figure(8.5, 4)
    markers, lines = ("o", "s", "^", "D", "v", "X", "P"), ("--", ":", "-.")
    colours = [f"C{number}" for number in range(10) if number != 7]  # C7 is grey
    place = {value: number for number, value in enumerate(order)}
    arms = sorted(table.groupby("arm", sort=False), key=lambda pair: str(pair[0]).startswith("baseline: "))
    for number, (arm, rows) in enumerate(arms):
        x = rows[column].astype(str).map(place) + 0.6 * ((number + 0.5) / len(arms) - 0.5)
        marker = markers[number % len(markers)]
        if str(arm).startswith("baseline: "):
            style = {"color": "0.6", "ls": lines[number % len(lines)]}
        else:
            style = {"color": colours[number % len(colours)], "ls": "-"}
            axis.vlines(x, rows["balanced_accuracy_low"], rows["balanced_accuracy_high"], color=style["color"], lw=0.8)
        axis.plot(x, rows["balanced_accuracy"], marker=marker, ms=4, lw=1, label=plain(arm), **style)
    axis.set_xticks(range(len(order)), order)
    axis.set_xlabel(column, fontsize=9)
    axis.set_ylabel(
        f"balanced accuracy, 95 % over up to {table['balanced_accuracy_units'].max():.0f} units", fontsize=8
    )
    axis.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    axis.grid(axis="y", color="0.9")
    save(drawing, path)
