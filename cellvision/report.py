"""Command: a run directory -> one self-contained HTML page: what was run, on how many units, how sure, and what not to claim."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellvision.core import files, plots
from cellvision.core.config import StageConfig, option
from cellvision.core.errors import ConfigError
from cellvision.core.items import Crops
from cellvision.core.progress import duration, say
from cellvision.core.rng import generator

POSITIONAL = "run"
TEMPLATE = Path(__file__).with_name("report.html")
CROPS_SHOWN = 24  # a group
SHORTCUTS = {
    "background": "sees only what surrounds the cells", "size": "knows only the cells' size", "colour": "knows only colour statistics",
}  # fmt: skip


class Config(StageConfig):
    """Options of `report`."""

    run: Path = option(..., "the run directory to describe")


def run(cfg: Config, out: Path) -> None:
    """Write the page about a finished (or half finished) run."""
    if not (cfg.run / "run.json").is_file():
        raise ConfigError(f"{cfg.run} is no run directory (it has no run.json)")
    write(cfg.run, out / "report.html" if out.is_dir() else out)


def write(folder: Path, path: Path) -> None:
    import jinja2

    runs = list(runs_below(folder))
    sections = [section for record, where in runs if (section := describe(record, where))]
    limits = list(dict.fromkeys(line for _, where in runs for line in cannot_claim(where)))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text("utf-8"))
    top = runs[0][0]
    files.write_text(
        path,
        page.render(
            top=top, ran=[what_ran(*pair) for pair in runs], sections=sections, limits=limits, headline=headline(runs)
        ),
    )
    say(f"report: {path}")


def runs_below(folder: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """The run and its children, in the order of the pipeline; the many children of an ablation are left to it."""
    order = {
        name: number
        for number, name in enumerate(
            ("study", "simulate", "segment", "plan", "pretrain", "embed", "finetune", "ablate", "predict")
        )
    }
    found = [(files.read_json(folder / "run.json"), folder)]
    for path in folder.glob("runs/*/run.json"):
        record = files.read_json(path)
        if found[0][0]["stage"] != "ablate" or record["stage"] == "pretrain":
            found.append((record, path.parent))
        if record["stage"] == "ablate":
            found += [
                (files.read_json(inner), inner.parent) for inner in sorted(path.parent.glob("runs/pretrain-*/run.json"))
            ]
    return iter([found[0], *sorted(found[1:], key=lambda pair: (order.get(pair[0]["stage"], 99), pair[1].name))])


def what_ran(record: dict[str, Any], where: Path) -> dict[str, Any]:
    versions = record.get("versions", {})
    took = ""
    if "finished" in record:
        begun, ended = (pd.Timestamp(record[key]) for key in ("started", "finished"))
        took = duration((ended - begun).total_seconds())
    return {
        "stage": record["stage"], "folder": where.name, "status": record["status"], "took": took, "seed": record["seed"],
        "device": record.get("device", "cpu"), "fingerprint": record["fingerprint"], "torch": versions.get("torch", ""),
    }  # fmt: skip


# -- sections -----------------------------------------------------------------------------------------------------


def describe(record: dict[str, Any], where: Path) -> dict[str, Any] | None:
    """Title, paragraphs, tables and pictures of one run."""
    writers: dict[str, Callable[[Path], dict[str, Any]]] = {
        "segment": about_segment, "plan": about_plan, "pretrain": about_pretrain, "finetune": about_finetune,
        "ablate": about_ablate, "embed": about_embed, "predict": about_predict,
    }  # fmt: skip
    if record["status"] != "done" or record["stage"] not in writers:
        return None
    return writers[record["stage"]](where)


def about_segment(where: Path) -> dict[str, Any]:
    found = files.read_json(where / "metrics.json")
    cells = pd.read_parquet(where / "cells.parquet")
    text = [f"{found['files']} files: {found.get('images_ok', 0)} read, {found.get('images_skipped', 0)} skipped, {found.get('images_ignored', 0)} ignored. "
            f"{found['cells']} cells; {found.get('images_without_cells', 0)} images without any. Crops are stored at {found['scale']:.2f} px per image pixel."]  # fmt: skip
    if "annotations" in found:
        text.append(
            f"{found['annotations_matched_share']:.1%} of {found['annotations']} annotations lie alone in a cell."
        )
    tables = [groups_of_cells(cells)]
    if (where / "images.parquet").exists():
        images = pd.read_parquet(where / "images.parquet")
        lost = images[images["status"] == "skipped"][["path", "reason", "note"]]
        if len(lost):
            tables.append(
                {
                    "caption": "Skipped files",
                    "head": ["file", "reason", "what happened"],
                    "rows": lost.head(30).to_numpy(str).tolist(),
                }
            )
    pictures = (
        [{"caption": "Outlines of the cells in up to twelve images", "data": embed_file(where / "preview.png")}]
        if (where / "preview.png").exists()
        else []
    )
    pictures += [
        {
            "caption": f"{group}: {min(len(some), CROPS_SHOWN)} of {len(some)} cells, drawn evenly over the images",
            "data": sheet(where, some),
        }
        for group, some in cells.groupby("group")
    ]
    return {"title": "Cells", "text": text, "tables": tables, "pictures": pictures}


def groups_of_cells(cells: pd.DataFrame) -> dict[str, Any]:
    rows = []
    for group, some in cells.groupby("group"):
        per = some.groupby("source_id").size()
        rows.append(
            [
                group,
                len(per),
                len(some),
                f"{per.min()} to {per.max()}",
                f"{some['area_px'].median():.0f}",
                f"{some['touches_border'].mean():.0%}",
            ]
        )
    return {
        "caption": "Cells by group",
        "head": ["group", "sources", "cells", "cells a source", "median area, px", "at the border"],
        "rows": rows,
    }


def sheet(where: Path, some: pd.DataFrame) -> str:
    """Crops of one group, every source in turn."""
    from cellvision.core.items import SHARD_ROWS

    order = some.assign(luck=generator(0, "sheet").random(len(some))).sort_values("luck")
    order = order.assign(turn=order.groupby("source_id").cumcount()).sort_values(["turn", "luck"]).head(CROPS_SHOWN)
    rows = (order["crop_shard"] * SHARD_ROWS + order["crop_row"]).to_numpy(np.int64)
    return embed_pixels(plots.crop_sheet(Crops(where / "crops").take(rows), columns=8))


def about_plan(where: Path) -> dict[str, Any]:
    found = files.read_json(where / "plan.json")
    rows = [
        [
            name,
            group["units"],
            group["sources"],
            group["items"],
            group["annotated"],
            "yes" if group["evaluated"] else "cannot be evaluated",
        ]
        for name, group in found["groups"].items()
    ]
    table = {
        "caption": "Units and items by group",
        "head": ["group", "units", "sources", "items", "annotated", "tested on unseen units"],
        "rows": rows,
    }
    return {
        "title": "Units and folds",
        "text": [
            f"Protocol: {found['protocol']}. The unit is what is independent; items of one unit never stand on both sides of a split."
        ],
        "tables": [table],
        "pictures": [],
    }


def about_pretrain(where: Path) -> dict[str, Any]:
    found, record = (files.read_json(where / name) for name in ("metrics.json", "run.json"))
    text = [f"{found['steps']} steps of {found['batch']} items from {found['units']} units; fold {record.get('held_out')} held out. "
            f"Loss {found['loss']:.3f}, chance {found['chance']:.3f}; effective rank {found['rank']:.1f} ({found['rank_random']:.1f} at the start)."]  # fmt: skip
    if "knn" in found:
        text.append(
            f"kNN of the group on held-out units: {found['knn']:.3f} ({found['knn_random']:.3f} at the start). Watched, never used to choose."
        )
    if "identity" in found:
        text.append(
            f"The source of a cell can be told from its features with {found['identity']:.3f} (chance {found['identity_chance']:.3f}): what the encoder knows about the image rather than the cell."
        )
    return {
        "title": f"Pretraining, fold {record.get('held_out')} held out",
        "text": text,
        "tables": [],
        "pictures": [{"caption": "", "data": embed_file(where / "curves.png")}],
    }


def about_finetune(where: Path) -> dict[str, Any] | None:
    found = files.read_json(where / "metrics.json")
    if "balanced_accuracy" not in found:
        return {"title": "Classifier for new images", "text": ["Trained on every unit, so it has no score of its own; the ablation's estimate is for classifiers trained on fewer units."], "tables": [], "pictures": []}  # fmt: skip
    text = [
        f"Balanced accuracy {score(found, 'balanced_accuracy')}, {found['scored']} {found['level']}s scored, chance {found['chance']:.3f}."
    ]
    if found["level"] == "source":
        text.append(
            f"Agreement of single cells with their folder: {score(found, 'agreement')}. Agreement is not accuracy: the folder's name is no cell's truth."
        )
    if "cell_accuracy" in found:
        text.append(
            f"Against {found['cells_annotated']} true cell labels: accuracy {score(found, 'cell_accuracy')}; the folder's name itself is true of {found['purity']:.1%} of them."
        )
    if "probe_item_random" in found:
        text.append(
            f"A linear probe scores {found['probe_unit_out']:.3f} on unseen units and {found['probe_item_random']:.3f} when items are split at random: the difference is inflation."
        )
    rows = [
        [name.removeprefix("baseline_"), f"{value:.3f}", signed(found, f"above_{name.removeprefix('baseline_')}")]
        for name, value in found.items()
        if name.startswith("baseline_")
    ]
    tables = (
        [
            {
                "caption": f"Plain baselines on the same folds ({found['balanced_accuracy_units']} units)",
                "head": ["baseline", "balanced accuracy", "the network is above it by"],
                "rows": rows,
            }
        ]
        if rows
        else []
    )
    return {
        "title": "Classifier",
        "text": text,
        "tables": tables,
        "pictures": [{"caption": "Confusion matrix, counts", "data": embed_file(where / "confusion.png")}],
    }


def about_embed(where: Path) -> dict[str, Any]:
    found = files.read_json(where / "metrics.json")
    text = [f"{found['items']} items, {found['features']} features, effective rank {found['rank']:.1f}."]
    text += [
        f"{name}: {score(found, f'{name}_balanced_accuracy')}"
        for name in ("knn", "linear")
        if f"{name}_balanced_accuracy" in found
    ]
    return {"title": "Embedding", "text": text, "tables": [], "pictures": []}


def about_predict(where: Path) -> dict[str, Any]:
    found = files.read_json(where / "metrics.json")
    rows = [[name.removeprefix("predicted_"), count] for name, count in found.items() if name.startswith("predicted_")]
    return {"title": "Predictions", "text": [f"{found['items']} items of {found['sources']} sources, {found['sources_seen_in_training']} of them seen in training."],
            "tables": [{"caption": "Predicted classes", "head": ["class", "items"], "rows": rows}], "pictures": []}  # fmt: skip


def about_ablate(where: Path) -> dict[str, Any]:
    summary, differences = pd.read_csv(where / "summary.csv"), pd.read_csv(where / "differences.csv")
    found, config = files.read_json(where / "metrics.json"), files.read_json(where / "run.json")["config"]
    pairs = (
        {row.arm: signed(row._asdict(), "difference") for row in differences.itertuples()} if len(differences) else {}
    )
    rows = []
    for row in summary.to_dict("records"):
        if row["status"] != "ok":
            rows.append([row["arm"], row["status"], "", "", "", ""])
            continue
        steps = "" if pd.isna(row["steps_total"]) else f"{row['steps_total']:.0f}"
        spread = "" if pd.isna(row["sd_over_seeds"]) else f"{row['sd_over_seeds']:.3f}"
        rows.append(
            [
                row["arm"],
                score(row, "balanced_accuracy", units=False),
                int(row["units"]),
                pairs.get(row["arm"], "reference" if pairs else ""),
                spread,
                steps,
            ]
        )
    head = [
        "arm",
        "balanced accuracy (95 % over units)",
        "units",
        "difference, paired",
        "sd over seeds",
        "steps with pretraining",
    ]
    text = [
        f"Target {config['target']!r}: every arm on the same {found['folds']} folds and {found['seeds']} seeds, {found['units']} units in all."
    ]
    pictures = [
        {"caption": caption, "data": embed_file(where / name)}
        for name, caption in (
            ("summary.png", "Arms and baselines"),
            ("differences.png", "Differences, paired over units"),
        )
        if (where / name).exists()
    ]
    pictures += list(confusions(where))
    return {
        "title": "Ablation",
        "text": text,
        "tables": [{"caption": "Arms", "head": head, "rows": rows}],
        "pictures": pictures,
    }


def confusions(where: Path) -> Iterator[dict[str, str]]:
    """One matrix of counts for every arm, from its first seed."""
    scored = pd.read_parquet(where / "scored.parquet")
    level = "source" if files.read_json(where / "run.json")["config"]["target"] == "group" else "item"
    for arm, rows in scored.groupby("arm", sort=False):
        rows = rows[rows["seed"] == rows["seed"].iloc[0]]
        path = where / "runs" / "confusion.png"
        plots.confusion_matrix(rows, path, level)
        yield {"caption": f"{arm}: counts of {level}s, {rows['unit'].nunique()} units", "data": embed_file(path)}


# -- words --------------------------------------------------------------------------------------------------------


def score(found: dict[str, Any], name: str, units: bool = True) -> str:
    text = f"{found[name]:.3f} ({found[f'{name}_low']:.3f} to {found[f'{name}_high']:.3f})"
    return f"{text} over {int(found[f'{name}_units'])} units" if units else text


def signed(found: dict[str, Any], name: str) -> str:
    return f"{found[name]:+.3f} ({found[f'{name}_low']:+.3f} to {found[f'{name}_high']:+.3f})"


def headline(runs: list[tuple[dict[str, Any], Path]]) -> list[str]:
    """The one or two sentences a reader takes away, with units."""
    for record, where in runs:
        if record["stage"] == "ablate" and record["status"] == "done":
            ok = pd.read_csv(where / "summary.csv").query("status == 'ok'")
            lines = [
                f"{row['arm']}: balanced accuracy {score(row, 'balanced_accuracy')}"
                for row in ok.to_dict("records")
                if not row["arm"].startswith("baseline")
            ]
            return [
                *lines[:1],
                "All arms, their intervals and the plain baselines stand below; the best of several arms is flattered by the choice.",
            ]
    return []


def cannot_claim(where: Path) -> Iterator[str]:
    """Sentences about what these results do not show."""
    if (where / "plan.json").exists():
        yield from files.read_json(where / "plan.json")["claims"]
    if (where / "schedule.json").exists():
        yield from (f"not run: {line}" for line in files.read_json(where / "schedule.json")["not_run"])
    metrics = files.read_json(where / "metrics.json") if (where / "metrics.json").exists() else {}
    yield from metrics.get("stamps", [])
    if metrics.get("not_evaluated"):
        yield f"cannot be evaluated (fewer than two units): {', '.join(metrics['not_evaluated'])}"
    if (where / "summary.csv").exists():
        yield from shortcuts(pd.read_csv(where / "summary.csv"))


def shortcuts(summary: pd.DataFrame) -> Iterator[str]:
    """A model that cannot see the cells and still scores far above chance says that the score may not be about cells."""
    ok = summary[summary["status"] == "ok"]
    networks = ok[~ok["arm"].str.startswith("baseline")]
    for name, what in SHORTCUTS.items():
        row = ok[ok["arm"] == f"baseline: {name}"]
        if len(row) and len(networks):
            value, best = float(row["balanced_accuracy"].iloc[0]), float(networks["balanced_accuracy"].max())
            if value >= 0.8 * best:
                yield f"shortcut: a model that {what} reaches {value:.3f} over {int(row['units'].iloc[0])} units, the best network {best:.3f}; the score need not be about the cells"


# -- pictures inside the page -------------------------------------------------------------------------------------


def embed_file(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def embed_pixels(pixels: Any) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    from cellvision.core.cli import main

    raise SystemExit(main("report"))
