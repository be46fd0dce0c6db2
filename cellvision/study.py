"""Stage: a raw folder in, a report out. Runs segment, plan, pretrain, finetune, ablate, and writes report.html.

What will be run is decided once, by a timed probe where a budget is given, written to schedule.json, and kept.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cellvision.cells.brightness import DEFAULT, Intensity
from cellvision.cells.modes import Mode
from cellvision.cells.pixels import ChannelList
from cellvision.cells.quality import Flag
from cellvision.core import files
from cellvision.core.config import Only, StageConfig, build, option
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.core.progress import duration, say
from cellvision.core.rundir import RunDir, content_of
from cellvision.evidence import splits
from cellvision.executors import local
from cellvision.io import rawfolder
from cellvision.runs.calls import stage
from cellvision.segmenters import SegmenterConfig

if TYPE_CHECKING:  # each is imported where it is run, so that --help need not wait for them
    from cellvision import pretrain, segment

REVISION = 3
MIN_SSL_STEPS = 300  # a fold; with fewer, self-supervision is not worth its name
SSL = "simclr"
TRAINING_SHARE = 0.8  # of a budget; a tenth is kept for probes, baselines and the report, and a tenth in reserve
MAX_SSL_SHARE = 0.6  # of the training; where the fewest steps want more, self-supervision is not run
SSL_SHARE = 0.55  # of the training goes to self-supervision where it is run
SSL_VIEWS = 2  # of every item in a step
FEW_STEPS, FEWEST_STEPS = 100, 20  # of a fine-tuning: with fewer one seed is enough; never fewer than the second
SHARED = (
    "raw",
    "join_channels",
    "masks",
    "annotations",
    "drop",
    "mode",
    "modes",
    "workers",
    "strict",
    "seed",
)  # as in segment


class Config(StageConfig):
    """Options of `study`."""

    raw: Path = option(..., "folder with a sub-folder of images for each group", runtime=True)
    join_channels: bool = option(False, "files that differ only in their channel (_w1 _w2 …) are one image")
    masks: Path | None = option(None, "folder of label maps in place of a segmenter, as in segment", runtime=True)
    segmenter: SegmenterConfig = option(
        "auto", "what finds the cells; auto: cellpose on a GPU with its weights, else nano"
    )
    annotations: Path | None = option(
        None, "CSV of true labels: image,x,y,label or image,x0,y0,x1,y1,label", runtime=True
    )
    drop: tuple[Flag, ...] = option((), "leave out cells with these flags")
    mode: Literal["auto"] | Mode = option("auto", "what an item is, as in segment")
    modes: dict[str, Mode] = option({}, "mode of single groups, such as neuron: object", flag=False)
    channels: ChannelList | None = option(None, "channels to keep, by number from 0 or by the file's name")
    segment_channels: ChannelList | None = option(None, "channels that the segmenter sees; those kept when absent")
    intensity: Intensity = option(DEFAULT, "whose range the crops have, as in segment")
    range: tuple[float, ...] | None = option(None, "LO,HI with --intensity fixed, as in segment")
    target: Literal["group", "annotation"] = option(
        "group", "what the classifiers learn: group (weak) or annotation (true)"
    )
    unit: str | None = option(None, "column of independent units, or COLUMN~REGEX; the image when absent")
    units: Path | None = option(None, "CSV source_id,unit that coarsens the units", runtime=True)
    encoder: str = option("resnet10t", "timm network of every arm")
    size: int = option(64, "px, side the network sees", ge=16, le=1024)
    folds: int = option(3, "folds by unit", ge=2)
    seeds: tuple[int, ...] = option((0, 1), "repetitions of every arm")
    steps: int = option(300, "optimiser steps of a fine-tuning", ge=1)
    pretrain_steps: int = option(600, "optimiser steps of a pretraining, one for each fold", ge=1)
    probe_steps: int = option(300, "optimiser steps of a linear probe on frozen features", ge=1)
    batch: int = option(64, "items a step", ge=2, le=65_536)
    budget: str | None = option(None, "time for all of it, such as 20min; sets the steps")
    short: ClassVar[dict[str, str]] = {"diameter": "segmenter.diameter", "weights": "segmenter.weights"}
    uses: ClassVar[tuple[str, ...]] = ("seed", "workers", "threads", "device", "strict")
    rules: ClassVar[tuple[Only, ...]] = (
        Only(("segmenter",), lambda cfg: cfg.masks is None, "without --masks, which takes its place"),
        Only(("range",), lambda cfg: cfg.intensity == "fixed", "with --intensity fixed"),
        Only(("unit",), lambda cfg: cfg.units is None, "without --units, which names the units already"),
    )


@stage
def run(cfg: Config, out: Path) -> None:
    """Everything, child by child; each finished child is kept, so the same command goes on where it stopped."""
    from cellvision import plan, report, segment

    seconds = parse_budget(cfg.budget)
    if cfg.target == "annotation" and cfg.annotations is None:
        raise ConfigError("--target annotation needs --annotations, a CSV of true labels; or give --target group")
    cutting = cut_with(cfg)
    inputs = {"raw": rawfolder.fingerprint_of(segment.scan_images(cutting))}
    if cfg.masks:
        inputs["masks"] = files.hash_tree(cfg.masks)
    for name in ("annotations", "units"):
        if getattr(cfg, name):
            inputs[name] = content_of(getattr(cfg, name))
    with RunDir.claim(out, "study", cfg, inputs, REVISION) as claimed:
        if claimed.done and (out / "report.html").exists():
            return say(f"study: {out / 'report.html'}")
        begun = time.monotonic()
        cells, planned = out / "runs" / "segment", out / "runs" / "plan"
        segment.run(cutting, cells)
        plan.run(plan.Config(items=cells, **_only(cfg, "target", "unit", "units", "folds", "seed")), planned)
        schedule = decide(cfg, cells, planned, seconds and seconds - (time.monotonic() - begun), out)
        metrics = compare(cfg, cells, planned, schedule, out)
        bundle = train_bundle(cfg, cells, planned, schedule, out)
        claimed.finish(metrics | {"bundle": bundle, "not_run": schedule["not_run"]})
    report.write(out, out / "report.html")
    return say(f"study: {out / 'report.html'}")


def cut_with(cfg: Config) -> segment.Config:
    """The options of its `segment`."""
    from cellvision import segment

    network = cfg.masks is None and getattr(cfg.segmenter, "on_device", True)
    of_segmenter = [*(["segmenter"] if cfg.masks is None else []), *(["device"] if network else [])]
    read = _only(cfg, "channels", "segment_channels", "intensity", "range")
    return segment.Config(**_only(cfg, *SHARED, *of_segmenter), read=read)


def _only(cfg: Config, *names: str) -> dict[str, Any]:
    return {name: getattr(cfg, name) for name in names}


def parse_budget(text: str | None) -> float | None:
    """`20min`, `1.5h`, `90s` -> seconds. ConfigError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|min|m|h)\s*", text)
    if not match:
        raise ConfigError(f"--budget is a time such as 20min or 1.5h, got {text!r}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2][0]]


# -- what will be run ---------------------------------------------------------------------------------------------


def decide(cfg: Config, cells: Path, planned: Path, seconds: float | None, out: Path) -> dict[str, Any]:
    """Steps of every part, decided once and kept in schedule.json; -> the schedule."""
    path = out / "schedule.json"
    if path.exists():
        return dict(files.read_json(path))
    folds = files.read_json(planned / "plan.json")["folds"]
    schedule: dict[str, Any] = {
        "steps": cfg.steps,
        "pretrain_steps": cfg.pretrain_steps,
        "seeds": list(cfg.seeds),
        "not_run": [],
    }
    schedule["classify"] = can_classify(cfg, cells, planned)
    if not schedule["classify"]:
        schedule["not_run"].append("classifiers: fewer than two classes can be tested on unseen units")
    if seconds is not None:
        schedule |= fit_budget(cfg, cells, max(1, folds), seconds, schedule["not_run"])
    files.write_json(path, schedule)
    return schedule


def can_classify(cfg: Config, cells: Path, planned: Path) -> bool:
    """Whether two classes can be tested on unseen units. NoUsableInput where they are annotations and cannot be."""
    facts = files.read_json(planned / "plan.json")
    if cfg.target == "group":
        return facts["folds"] >= 2 and sum(group["evaluated"] for group in facts["groups"].values()) >= 2
    classes = annotated_classes(cells, planned)
    if facts["folds"] < 2 or len(classes) < 2:
        raise NoUsableInput(
            f"--target annotation: two classes annotated in two units each are needed, there are {len(classes)}; "
            "annotate cells of more images, or give --target group"
        )
    return True


def annotated_classes(cells: Path, planned: Path) -> list[str]:
    """The labels that cells of at least two units carry."""
    unit = splits.read(planned).table.set_index("source_id")["unit"]
    labelled = files.read_parquet(cells / "cells.parquet")[["source_id", "annotation"]].dropna()
    units = labelled["source_id"].map(unit).groupby(labelled["annotation"]).nunique()
    return [str(name) for name in units.index[units >= 2]]


def fit_budget(cfg: Config, cells: Path, folds: int, seconds: float, not_run: list[str]) -> dict[str, Any]:
    """Seconds -> steps, by the measured rate of training: linear probes always, then SSL, then whole networks."""
    from cellvision import pretrain

    jobs = local.cores() if cfg.workers is None else max(1, cfg.workers)
    rate = jobs * pretrain.training_rate(pretrain_config(cfg, cells, 1, "0", 2))
    items = TRAINING_SHARE * seconds * rate
    folds += jobs  # the bundle is trained on everything, in one process
    ssl_batch = cfg.batch * SSL_VIEWS * folds  # items in a step of every fold
    ssl_items = MIN_SSL_STEPS * ssl_batch
    say(f"study: {rate:.0f} items/s in training; {duration(seconds)} left of the budget")
    if ssl_items > MAX_SSL_SHARE * items:
        needed = duration(ssl_items / rate / (TRAINING_SHARE * MAX_SSL_SHARE))
        not_run.append(f"self-supervision: too little budget ({MIN_SSL_STEPS} steps a fold want {needed})")
        ssl_steps, share, arms = 0, 1.0, 1
    else:
        ssl_steps = min(cfg.pretrain_steps, int(SSL_SHARE * items / ssl_batch))
        share, arms = 1 - ssl_steps * ssl_batch / items, 2
    seeds = list(cfg.seeds)
    steps = int(share * items / (cfg.batch * folds * arms * len(seeds)))
    if steps < FEW_STEPS and len(seeds) > 1:
        seeds, steps = seeds[:1], steps * len(seeds)
        not_run.append("a second seed: too little budget")
    return {
        "steps": max(FEWEST_STEPS, min(cfg.steps, steps)),
        "pretrain_steps": ssl_steps,
        "seeds": seeds,
        "rate": rate,
    }


def pretrain_config(cfg: Config, cells: Path, steps: int, fold: str, probes: int = 4) -> pretrain.Config:
    from cellvision import pretrain

    return build(
        pretrain.Config,
        recipe(cfg, steps)
        | {
            "items": cells,
            "fold": fold,
            "probes": probes,
            **_only(cfg, "unit", "units", "workers", "threads", "device", "seed"),
        },
    )


def recipe(cfg: Config, steps: int) -> dict[str, Any]:
    return {
        "encoder": cfg.encoder,
        "branch": {"name": "image", "size": cfg.size},
        "loop": {"steps": steps, "batch": cfg.batch},
    }


# -- running it ---------------------------------------------------------------------------------------------------


def compare(cfg: Config, cells: Path, planned: Path, schedule: dict[str, Any], out: Path) -> dict[str, Any]:
    """The ablation of the schedule's arms; without classes, pretraining alone."""
    from cellvision import ablate, pretrain

    ssl_steps = schedule["pretrain_steps"]
    if not schedule["classify"]:
        if ssl_steps:
            pretrain.run(pretrain_config(cfg, cells, ssl_steps, "none"), out / "runs" / "pretrain")
        return {}
    options = {
        "items": cells,
        "splits": planned / "splits.csv",
        "arms": arms(cfg, schedule),
        "seeds": schedule["seeds"],
        "base": {"encoder": cfg.encoder, "loop": {"steps": schedule["steps"], "batch": cfg.batch}},
        "branch": {"name": "image", "size": cfg.size},
        "pretrain": {SSL: recipe(cfg, ssl_steps)} if ssl_steps else {},
        **_only(cfg, "target", "unit", "units", "folds", "workers", "threads", "device", "seed"),
    }
    where = out / "runs" / "ablate"
    ablate.run(build(ablate.Config, options), where)
    return dict(files.read_json(where / "metrics.json"))


def arms(cfg: Config, schedule: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Frozen and whole networks, random and self-supervised where time allows; bags for labels of the source."""
    from cellvision import ablate

    frozen: dict[str, Any] = {"tune": "linear", "loop": {"steps": cfg.probe_steps, "batch": 128}}
    by_name: dict[str, dict[str, Any]] = {"random, linear probe": frozen, "random, whole": {"tune": "whole"}}
    best = {}
    if schedule["pretrain_steps"]:
        best = {"encoder": f"{ablate.RECIPE}{SSL}"}
        by_name |= {f"{SSL}, linear probe": frozen | best, f"{SSL}, whole": {"tune": "whole"} | best}
    if cfg.target == "group":
        by_name["bags (mil), linear probe"] = frozen | best | {"strategy": {"name": "mil"}}
    return by_name


def train_bundle(cfg: Config, cells: Path, planned: Path, schedule: dict[str, Any], out: Path) -> str | None:
    """A classifier trained on everything, for `predict`; its recipe is fixed beforehand, not chosen by score."""
    from cellvision import finetune, pretrain

    if not schedule["classify"]:
        return None
    common = {"items": cells, "splits": planned / "splits.csv", "fold": "none"}
    common |= _only(cfg, "unit", "units", "workers", "threads", "device", "seed")
    encoder = cfg.encoder
    if schedule["pretrain_steps"]:
        encoder = str(out / "runs" / "pretrain")
        pretrain.run(build(pretrain.Config, recipe(cfg, schedule["pretrain_steps"]) | common), Path(encoder))
    tuned = recipe(cfg, schedule["steps"]) | common | {"encoder": encoder, "tune": "whole", "target": cfg.target}
    finetune.run(build(finetune.Config, tuned), out / "runs" / "bundle")
    return "runs/bundle/model"


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("study"))
