"""Command: a run directory -> one self-contained HTML page: what was run, how many units, how sure, what not to claim.

The words stand in report.html, a template with a block for each stage; this file gathers the numbers and pictures.
"""

from __future__ import annotations

import base64
import functools
import io
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cellvision.cells import account, brightness, modes
from cellvision.core import files, rundir
from cellvision.core.config import StageConfig, option
from cellvision.core.errors import ConfigError
from cellvision.core.progress import duration, say
from cellvision.evidence import scoring
from cellvision.runs.calls import command

if TYPE_CHECKING:
    import jinja2
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

POSITIONAL = "run"
OUT_REQUIRED = False
OUT_HELP = "the page; RUN/report.html when absent"
TEMPLATE = Path(__file__).with_name("report.html")
ORDER = ("study", "segment", "extract", "plan", "pretrain", "embed", "finetune", "ablate", "predict")  # of children
FIRST = 10  # rows of a table that the page shows
SMALL, LARGE = 1e-3, 1e5  # numbers beyond are written with an exponent
CROPS_SHOWN = 24  # a group
SKIPPED_SHOWN = 30  # files
SHORTCUT_SHARE = 0.8  # of the best network's score: from here on a shortcut is named
MARKERS_SHOWN = 3  # a cluster
MEGABYTE = 1e6  # bytes
LIMITS = {  # what no run of a stage shows
    "cluster": ("clusters are no finding by themselves; a classifier of them on the same values is circular",),
    "importance": (
        "features that go together share their importance: a low value is no proof that a feature means nothing",
    ),
}
Run = dict[str, Any]  # record (run.json), where, metrics, and what the template asks for


class Config(StageConfig):
    """Options of `report`."""

    run: Path = option(..., "the run directory to describe")
    uses: ClassVar[tuple[str, ...]] = ()


@command
def run(cfg: Config, out: Path | None = None) -> Path:
    """Write the page about a finished (or half finished) run."""
    if not rundir.is_run(cfg.run):
        raise ConfigError(f"{cfg.run} is no run directory (it has no run.json)")
    out = cfg.run if out is None else out
    page = out / "report.html" if out.is_dir() else out
    write(cfg.run, page)
    return page


def write(folder: Path, path: Path) -> None:
    """The page about the run in `folder` and its children. ConfigError for a run that lacks what its stage leaves."""
    import jinja2

    files.refuse_special(path)
    try:
        page = rendered(folder)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, jinja2.TemplateError) as error:
        what = f"{type(error).__name__}: {files.one_line(error)}"
        raise ConfigError(f"{folder} does not hold what its stages leave ({what}); repeat its command") from None
    files.write_text(path, page)
    say(f"report: {path}")


@functools.cache
def template() -> jinja2.Template:
    """The page, compiled once: that takes longer than filling it."""
    import jinja2

    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    page.globals |= {function.__name__: function for function in (score, difference, share, shown)}
    page.globals |= {"inflation": scoring.inflation_told, "weights": scoring.weights_told}
    return page.from_string(TEMPLATE.read_text("utf-8"))


def rendered(folder: Path) -> str:
    runs = list(runs_below(folder))
    limits = list(dict.fromkeys(line for entry in runs for line in cannot_claim(entry)))
    return template().render(top=runs[0], runs=runs, limits=limits)


def runs_below(folder: Path) -> Iterator[Run]:
    """The run itself, then its children in the order of the pipeline; an ablation speaks for its fine-tunings."""
    yield load(folder)
    children = sorted(folder.glob("runs/*/run.json")) + sorted(folder.glob("runs/ablate/runs/pretrain-*/run.json"))
    inside = [load(path.parent) for path in children]
    if files.read_json(folder / "run.json")["stage"] == "ablate":
        inside = [child for child in inside if child["stage"] == "pretrain"]
    yield from sorted(inside, key=lambda child: (place_of(child["stage"]), child["held_out"], child["folder"]))


def place_of(stage: str) -> int:
    """Where a stage stands on the page; one without a place comes last."""
    return ORDER.index(stage) if stage in ORDER else len(ORDER)


def load(where: Path) -> Run:
    """Everything the page says about one run."""
    rundir.verify(where)
    record = rundir.read_record(where)
    metrics = files.read_json(where / "metrics.json") if (where / "metrics.json").exists() else {}
    entry = {
        "record": record,
        "where": where,
        "folder": where.name,
        "stage": record["stage"],
        "held_out": record.get("held_out", ""),
        "took": took(record),
        "metrics": metrics,
        "command": repeated_by(where, record["stage"]),
        "pictures": pictures(where),
    }
    done = record["status"] == "done"
    gathered = GATHERED[record["stage"]](where) if done and record["stage"] in GATHERED else {}
    by_name = {f"picture_{name}": picture for name, picture in entry["pictures"].items()}
    return entry | gathered | by_name


def repeated_by(where: Path, stage: str) -> str:
    """The command that runs the stage again with the same options, into a new folder."""
    again = where.with_name(f"{where.resolve().name}-again")
    return shlex.join(["cellvision", stage, "--config", str(where / "config.yaml"), "--out", str(again)])


def took(record: dict[str, Any]) -> str:
    from datetime import datetime

    if "finished" not in record:
        return ""
    begun, ended = (datetime.fromisoformat(record[key]) for key in ("started", "finished"))
    return duration((ended - begun).total_seconds())


def pictures(where: Path) -> dict[str, str]:
    """The run's own pictures by name, as data for the page."""
    return {path.stem: of_bytes(path.read_bytes()) for path in sorted(where.glob("*.png"))}


# -- what each stage has to show ----------------------------------------------------------------------------------


def of_segment(where: Path) -> dict[str, Any]:

    cells, images = files.read_parquet(where / "cells.parquet"), files.read_parquet(where / "images.parquet")
    skipped = images[images["status"] == "skipped"]
    groups = []
    for group, group_cells in cells.groupby("group"):
        per = group_cells.groupby("source_id").size()
        groups.append(
            {
                "name": group,
                "sources": len(per),
                "items": len(group_cells),
                "words": modes.counted(group_cells["mode"].value_counts()),
                "per_source": f"{per.min()} to {per.max()}",
                "area": f"{group_cells['area_px'].median():.0f}",
                "border": f"{group_cells['touches_border'].mean():.0%}",
                "shown": min(len(group_cells), CROPS_SHOWN),
                "sheet": of_pixels(sheet(where, group_cells)),
            }
        )
    skipped_rows = skipped[["path", "reason", "note"]].head(SKIPPED_SHOWN).to_dict("records")
    counts = cells["mode"].value_counts()
    words = {"words": modes.counted(counts), "single": set(counts.index) == {"cell"}}
    geometry = files.read_json(where / "geometry.json")
    words |= {"brightness": brightness.told(geometry["intensity"])} if "intensity" in geometry else {}
    words["channels"] = ", ".join(geometry.get("channel_names") or map(str, range(geometry["channels"])))
    words["notes"] = account.choices(images)
    return {"groups": groups, "skipped": skipped_rows, **words, **of_truth(where)}


def of_truth(where: Path) -> dict[str, Any]:
    """The scores against label maps, where there are any."""

    if not (where / "truth.json").is_file():
        return {}
    summary = files.read_csv(where / "truth.csv", text=("value",))
    several = summary.groupby("by")["value"].transform("size") > 1
    rows = summary[several | (summary["by"] == "all")].to_dict("records")
    return {"truth": files.read_json(where / "truth.json"), "truth_rows": rows}


def sheet(where: Path, some: pd.DataFrame) -> NDArray[np.uint8]:
    """Crops of one group, every source in turn."""
    import numpy as np

    from cellvision.cells.cropstore import SHARD_ROWS, Crops
    from cellvision.core.rng import generator
    from cellvision.plots.cells import crop_sheet

    order = some.assign(luck=generator(0, "sheet").random(len(some))).sort_values("luck")
    order = order.assign(turn=order.groupby("source_id").cumcount()).sort_values(["turn", "luck"]).head(CROPS_SHOWN)
    rows = (order["crop_shard"] * SHARD_ROWS + order["crop_row"]).to_numpy(np.int64)
    return crop_sheet(Crops(where / "crops").take(rows), columns=8)


def of_plan(where: Path) -> dict[str, Any]:
    return {"plan": files.read_json(where / "plan.json")}


def of_finetune(where: Path) -> dict[str, Any]:
    """The recall of every class."""
    metrics = files.read_json(where / "metrics.json")
    return {"recalls": recalls(metrics, {"": "recall"})} if "scored_classes" in metrics else {}


def of_embed(where: Path) -> dict[str, Any]:
    """The recall of every class by both probes."""
    metrics = files.read_json(where / "metrics.json")
    probes = {"linear_": "recall, linear probe", "knn_": "recall, kNN"}
    return {"recalls": recalls(metrics, probes)} if "linear_scored_classes" in metrics else {}


def recalls(metrics: dict[str, Any], titles: dict[str, str]) -> dict[str, Any]:
    """A row a class: its recall with the interval over units, by each model; titles: start of its keys -> column."""
    import pandas as pd

    start = next(iter(titles))
    classes = metrics[f"{start}scored_classes"]
    columns = {title: [share(metrics, f"{key}recall_{name}") for name in classes] for key, title in titles.items()}
    units = [metrics[f"{start}recall_{name}_units"] for name in classes]
    weigh = [f"{metrics[f'{start}recall_{name}_effective_units']:.1f}" for name in classes]
    return first_rows(pd.DataFrame({"class": classes, **columns, "units": units, "weighing as": weigh}), len(classes))


def of_cluster(where: Path) -> dict[str, Any]:
    """How large the clusters are, and their first items and markers."""
    clusters = files.read_csv(where / "clusters.csv")
    sizes = clusters["cluster"].value_counts().sort_index().rename_axis("cluster").reset_index(name="items")
    sizes["% of the items"] = (100 * sizes["items"] / len(clusters)).round(1)
    tables = {"sizes": first_rows(sizes, len(sizes)), "rows": first_rows(clusters)}
    if (where / "markers.csv").exists():
        markers = files.read_csv(where / "markers.csv")
        tables["markers"] = first_rows(markers.groupby("cluster").head(MARKERS_SHOWN), len(markers))
    return tables


def of_importance(where: Path) -> dict[str, Any]:
    table = files.read_csv(where / "importance.csv")
    titles = {
        "importance": "importance, nats", "lowest": "lowest fold", "highest": "highest fold",
        "accuracy_drop": "accuracy lost", "folds_tried": "folds tried", "folds_above_zero": "folds above 0",
    }  # fmt: skip
    jaccard = {name.partition("_")[0].removeprefix("top"): value for name, value in
               files.read_json(where / "metrics.json").items() if name.endswith("_jaccard")}  # fmt: skip
    return {"rows": first_rows(table.rename(columns=titles), 2 * FIRST), "jaccard": jaccard}


def of_extract(where: Path) -> dict[str, Any]:
    """The first files, what was left out of them, and what their columns hold."""
    read = files.read_parquet(where / "files.parquet")
    read = read.assign(bytes=read["bytes"] / MEGABYTE).rename(columns={"bytes": "MB", "points": "time points"})
    faults, preview = (files.read_csv(where / f"{name}.csv") for name in ("faults", "preview"))
    first = preview[(preview["file"] == preview["file"].iloc[0]) & (preview["column"] != "source_hash")]
    columns = first_rows(first.drop(columns="file"), 2 * FIRST)
    return {"rows": first_rows(read), "faults": first_rows(faults), "columns": columns}


def of_train_segmenter(where: Path) -> dict[str, Any]:
    """Held-out scores before and after, over all images and for the first ones."""
    import pandas as pd

    metrics, scores = files.read_json(where / "metrics.json"), files.read_parquet(where / "scores.parquet")
    if "ap_50_after" not in metrics:
        return {"rows": first_rows(scores[["path", "unit"]])}
    titles = {
        "ap_50": "AP at IoU 0.5", "ap_75": "AP at IoU 0.75", "ap_90": "AP at IoU 0.9", "f1_50": "F1 at IoU 0.5",
        "count_error": "count error, share of the true cells",
    }  # fmt: skip
    rows = [
        {"score": title, **{when: share(metrics, f"{name}_{when}") for when in ("before", "after")}}
        for name, title in titles.items()
    ]
    held_out = scores.loc[scores["held_out"]]
    columns = {"path": "held-out image", "unit": "unit", "n_true_after": "true cells"}
    columns |= {f"ap_50_{when}": f"AP at IoU 0.5 {when}" for when in ("before", "after")}
    return {
        "summary": first_rows(pd.DataFrame(rows)),
        "rows": first_rows(held_out[list(columns)].rename(columns=columns)),
        "units": held_out["unit"].nunique(),
    }


def first_rows(table: pd.DataFrame, count: int = FIRST) -> dict[str, Any]:
    """A table as the page shows it: columns that hold anything, its first rows as text, how many rows there are."""
    table = table.dropna(axis=1, how="all")
    rows = [[shown(value) for value in row] for row in table.head(count).itertuples(index=False, name=None)]
    return {"columns": [str(name).replace("_", " ") for name in table.columns], "rows": rows, "total": len(table)}


def shown(value: Any) -> str:
    """A number with four digits, text as it was before it was written to a CSV, nothing for what is missing."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4f}".rstrip("0") if SMALL <= abs(value) < 1 else f"{value:.4g}"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) < LARGE else f"{value:.4g}"
    return str(files.alive(value))


def of_ablate(where: Path) -> dict[str, Any]:
    summary, differences = files.read_csv(where / "summary.csv"), files.read_csv(where / "differences.csv")
    pairs = {row["arm"]: difference(row, "difference") for row in differences.to_dict("records")}
    arms = [row | {"difference": pairs.get(row["arm"], "reference")} for row in summary.to_dict("records")]
    return {"arms": arms, "matrices": list(confusions(where))}


def confusions(where: Path) -> Iterator[dict[str, Any]]:
    """One matrix of counts for every arm that is no baseline, from its first seed."""

    from cellvision.plots.base import save
    from cellvision.plots.results import confusion_matrix

    scored = files.read_parquet(where / "scored.parquet")
    level = files.read_json(where / "metrics.json")["level"]
    for arm, rows in scored[~scored["arm"].str.startswith("baseline")].groupby("arm", sort=False):
        first = rows[rows["seed"] == rows["seed"].iloc[0]]
        buffer = io.BytesIO()
        save(confusion_matrix(first, level), buffer)
        yield {"arm": arm, "level": level, "units": first["unit"].nunique(), "picture": of_bytes(buffer.getvalue())}


GATHERED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "segment": of_segment,
    "train_segmenter": of_train_segmenter,
    "extract": of_extract,
    "plan": of_plan,
    "embed": of_embed,
    "finetune": of_finetune,
    "ablate": of_ablate,
    "cluster": of_cluster,
    "importance": of_importance,
}


# -- words --------------------------------------------------------------------------------------------------------


def score(found: dict[str, Any], name: str = "balanced_accuracy") -> str:
    """`0.812 (0.700 to 0.900), 24 units`, and what the class with least rests on where that is little."""
    return f"{scoring.told(found, name)}, {scoring.units_told(found, name)}"


def difference(found: dict[str, Any], name: str) -> str:
    return scoring.told(found, name, "+")


def share(found: dict[str, Any], name: str) -> str:
    """`0.812 (0.700 to 0.900)`, in a table broken before the interval alone; a number where there is no interval."""
    if f"{name}_low" not in found:
        return f"{found[name]:.3f}"
    return scoring.told(found, name).replace(" to ", "\xa0to\xa0")


def cannot_claim(one: Run) -> Iterator[str]:
    """Sentences about what these results do not show."""
    if "plan" in one:
        yield from one["plan"]["claims"]
    yield from LIMITS.get(one["stage"], ()) if one["metrics"] else ()
    yield from left_out(one["stage"], one["metrics"])
    yield from (f"not run: {line}" for line in one["metrics"].get("not_run", []))
    yield from one["metrics"].get("stamps", [])
    yield from one.get("truth", {}).get("stamps", [])
    yield from one["metrics"].get("notes", []) if one["stage"] in ("predict", "embed") else ()
    if one["metrics"].get("not_evaluated"):
        yield f"cannot be evaluated (no units in two folds): {', '.join(one['metrics']['not_evaluated'])}"
    if one["metrics"].get("left_out"):
        yield f"took no part, having too few items: {', '.join(one['metrics']['left_out'])}"
    yield from shortcuts(one)


def left_out(stage: str, metrics: dict[str, Any]) -> Iterator[str]:
    """What a stage could not read, or did not measure."""
    if stage == "extract" and metrics.get("skipped"):
        yield f"{metrics['skipped']} files, samples or cells were left out; faults.csv names each with its reason"
    if stage == "train_segmenter" and metrics:
        if "ap_50_after" not in metrics:
            yield "nothing was held out, so nobody knows how good these weights are on new images"
        elif metrics["ap_50_after"] < metrics["ap_50_before"]:
            yield "the segmenter has become worse on held-out images; keep the old weights, or correct more masks"
    if stage == "embed" and "not_probed" in metrics:
        yield f"the embedding was not probed: {metrics['not_probed']}"


def shortcuts(one: Run) -> Iterator[str]:
    """A plain model that does not see what the classes should be about but scores like the network."""
    metrics = one["metrics"]
    if "arms" in one:
        scores = {arm["arm"]: arm["balanced_accuracy"] for arm in one["arms"] if arm["status"] == "ok"}
        best = max((value for name, value in scores.items() if not name.startswith("baseline")), default=0.0)
        units = metrics["units"]
    else:
        scores = {name: metrics.get(f"baseline_{name}", 0.0) for name in metrics.get("shortcuts", [])}
        best, units = metrics.get("balanced_accuracy", 0.0), metrics.get("balanced_accuracy_units", 0)
    for name in metrics.get("shortcuts", []):
        value = scores.get(name, 0.0)
        if value >= SHORTCUT_SHARE * best > 0:
            plain = name.removeprefix("baseline: ")
            yield (
                f"shortcut: the plain model {plain!r}, which does not see what a cell is, reaches {value:.3f}, the "
                f"best network {best:.3f} ({units} units): the score need not be about the cells"
            )


# -- pictures inside the page -------------------------------------------------------------------------------------


def of_bytes(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def of_pixels(pixels: NDArray[np.uint8]) -> str:
    """(H, W, 3) RGB -> a PNG as data for the page."""
    from cellvision.plots.base import save_pixels

    buffer = io.BytesIO()
    save_pixels(buffer, pixels)
    return of_bytes(buffer.getvalue())


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("report"))
