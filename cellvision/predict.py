"""Stage: a trained bundle and new raw images (or items) -> predictions.parquet, beside the segment artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cellvision import segment
from cellvision.branches import BRANCHES, Branch
from cellvision.cells import brightness
from cellvision.core import config, files
from cellvision.core.config import Only, StageConfig, build, option
from cellvision.core.errors import ConfigError, UnsafeInput
from cellvision.core.progress import say
from cellvision.core.rundir import RunDir
from cellvision.io import rawfolder
from cellvision.runs.calls import stage
from cellvision.segmenters import given as given_masks
from cellvision.strategies import STRATEGIES

if TYPE_CHECKING:
    from cellvision.models.encoders import Trained

REVISION = 4
OWN = ("max_megapixels", "follow_symlinks")  # of reading: what may harm this machine is not for a bundle to decide
GEOMETRY = {"size", "scale", "context"}
CUT = {  # what decides which cells there are
    name for name in segment.Config.model_fields if not config.field_traits(segment.Config, name).get("runtime")
}


class Config(StageConfig):
    """Options of `predict`."""

    model: Path = option(..., "the model/ folder that finetune left with --fold none or one fold", runtime=True)
    raw: Path | None = option(None, "folder of new images", runtime=True)
    items: Path | None = option(None, "a segment run or a table, instead of --raw", runtime=True)
    masks: Path | None = option(
        None, "label maps of the new images, in place of a segmenter, as in segment", runtime=True
    )
    weights: Path | None = option(None, "the segmenter's own weights, where training had some", runtime=True)
    metadata: tuple[Path, ...] = option((), "tables joined to new cells of the rna branch", runtime=True)
    max_megapixels: float = option(64, "larger images are refused before they are decoded", gt=0, le=10_000)
    follow_symlinks: bool = option(False, "also read links that leave the raw folder")
    uses: ClassVar[tuple[str, ...]] = ("workers", "threads", "device", "strict")
    rules: ClassVar[tuple[Only, ...]] = (
        Only(("masks", "weights", *OWN), lambda cfg: cfg.items is None, "with --raw"),
        Only(("metadata",), lambda cfg: cfg.items is not None, "with --items"),
        Only(("strict",), lambda cfg: cfg.items is None, "with --raw"),
        Only(("workers",), lambda cfg: cfg.items is None or not cfg.workers, "with --raw"),
    )


@stage
def run(cfg: Config, out: Path) -> None:
    """Cut new images the way the training images were cut, then classify every cell and every image."""
    import torch

    from cellvision.models import classifier, encoders

    bundle = classifier.read_bundle(cfg.model)
    if (cfg.raw is None) == (cfg.items is None):
        raise ConfigError("give --raw (new images) or --items (a segment run or a table), one of the two")
    if cfg.raw is not None and bundle["segment"] is None:
        raise ConfigError("this bundle was not trained on segmented images; give --items")
    how = cut_like_training(cfg, bundle) if cfg.raw else None
    where = cfg.items or out / "runs" / "segment"
    if how:
        content = rawfolder.fingerprint_of(segment.scan_images(how))
    else:
        content = open_branch(cfg, bundle, where).items.content
    inputs = {"data": content, "model": files.hash_tree(cfg.model)}
    if cfg.masks:
        inputs["masks"] = files.hash_tree(cfg.masks)
    with RunDir.claim(out, "predict", cfg, inputs, REVISION) as claimed:
        if not claimed.done:
            if how:
                segment.run(how, where)
            branch = open_branch(cfg, bundle, where)
            trained = encoders.load(cfg.model, branch)
            notes = [*trained.notes, *(notes_on_cut(bundle, where) if how else [])]
            claimed.note(threads=torch.get_num_threads(), notes=notes)
            claimed.finish(classify(cfg, bundle, branch, trained, out) | {"notes": notes})
    metrics = files.read_json(out / "metrics.json")
    for note in metrics["notes"]:
        say(f"predict: note: {note}")
    say(f"predict: {metrics['items']} items of {metrics['sources']} sources -> {out / 'predictions.parquet'}")


def cut_like_training(cfg: Config, bundle: dict[str, Any]) -> segment.Config:
    """Segment options of the training run, with its crop size and scale.

    Of the bundle only what decides which cells there are: paths, limits and links are for who predicts to decide.
    """
    from cellvision.models import encoders

    given = bundle["segment"]
    if strange := sorted({*given} - CUT):
        raise UnsafeInput(f"the bundle in {cfg.model} sets {', '.join(strange)[:200]}, which is not for it to decide")
    geometry = encoders.read_facts(cfg.model)["schema"].get("geometry")
    if not isinstance(geometry, dict) or GEOMETRY - {*geometry} or not isinstance(geometry.get("intensity", {}), dict):
        raise ConfigError(f"{cfg.model / 'encoder.json'} does not say how crops were cut; give --items")
    read = given.get("read")
    read = {key: value for key, value in read.items() if key not in OWN} if isinstance(read, dict) else {}
    options = {**given, **{name: geometry[name] for name in GEOMETRY}, "segmenter": segmenter_of(cfg, given)}
    options["read"] = read | {key: getattr(cfg, key) for key in OWN}
    options.pop("max_size", None)  # the size itself is known
    options["read"] = read_like_training(options["read"], geometry.get("intensity"))
    options |= {"raw": cfg.raw, "workers": cfg.workers, "strict": cfg.strict}
    if cfg.masks is not None:
        return build(segment.Config, options | {"segmenter": segment.Config().segmenter, "masks": cfg.masks})
    if bundle.get("segmenter") == given_masks.NAME:
        raise ConfigError(
            "the training images were cut by masks that somebody had; give those of the new ones: --masks"
        )
    how = build(segment.Config, options)
    return build(segment.Config, options | {"device": cfg.device}) if segment.on_device(how) else how


def segmenter_of(cfg: Config, given: dict[str, Any]) -> Any:
    """The segmenter of training, with official weights by name or with those of `--weights`: a bundle opens no file."""
    from cellvision.segmenters.cellpose import OFFICIAL

    segmenter = given.get("segmenter", {})
    weights = segmenter.get("weights") if isinstance(segmenter, dict) else None
    if weights is None or (weights in OFFICIAL and cfg.weights is None):
        return segmenter
    if cfg.weights is None:
        raise ConfigError(
            f"training cut its images with weights of its own ({weights!r:.200}); give them with --weights"
        )
    return segmenter | {"weights": str(cfg.weights)}


def open_branch(cfg: Config, bundle: dict[str, Any], path: Path) -> Branch:
    """The items at `path` as training read its own; tables that are joined to them are given here."""
    options = bundle["branch"] | ({"metadata": cfg.metadata} if cfg.metadata or "metadata" in bundle["branch"] else {})
    return BRANCHES.build(options, path=path, reserved=(bundle["target"],))


def read_like_training(read: dict[str, Any], intensity: dict[str, Any] | None) -> dict[str, Any]:
    """How the training images were read, with their range; a bundle that does not say it stretched each image."""
    trained = {name: facts for name, facts in intensity.items() if name != "mode"} if intensity else None
    return {"intensity": brightness.BEFORE} | read | {"trained": trained}


def notes_on_cut(bundle: dict[str, Any], cut: Path) -> list[str]:
    """Where these images were not cut as the training images were, or nobody can say."""
    if "segmenter" not in bundle:
        return [
            "the bundle is old and does not say the mode of training: cut with mode auto; where training had another, "
            "run segment with it and give --items"
        ]
    now = files.read_json(cut / "run.json")["inputs"]["segmenter"]
    return [] if now == bundle["segmenter"] else [f"cut by {now}, the training images by {bundle['segmenter']}"]


def classify(cfg: Config, bundle: dict[str, Any], branch: Branch, trained: Trained, out: Path) -> dict[str, Any]:
    """Probabilities of every item and, as the strategy pools them, of every source."""
    from cellvision.evidence import scoring, seen
    from cellvision.models import classifier, encoders
    from cellvision.training.device import pick_device

    strategy = STRATEGIES.build(bundle["strategy"])
    classes = tuple(bundle["classes"])
    device = pick_device(cfg.device, cfg.threads)
    head = classifier.load_head(cfg.model, strategy, trained.width, len(classes)).to(device)
    table = branch.items.table
    features = encoders.embed(trained.module.to(device), branch, trained.state, np.arange(len(table)))
    names, bag = np.unique(table["source_id"].to_numpy(str), return_inverse=True)
    item, pooled = classifier.head_probabilities(strategy, head, features, bag.astype(np.int64))
    common = seen.overlap(trained.seen, branch.items, None, np.arange(len(table)))
    stamps = [*branch.items.stamps, *seen.doubtful(trained.seen, common)]
    if common.count:
        say(
            f"predict: {common.count} of these {common.tested} sources were in the training data, known by their "
            f"{' and '.join(common.by)}; they say nothing about new ones"
        )
    kept = table[[name for name in ("item_id", "source_id", "path", "y", "x") if name in table]]
    files.write_parquet(out / "predictions.parquet", scoring.predictions(kept, item, classes, None))
    sources = table.drop_duplicates("source_id").set_index("source_id").loc[names].reset_index()[["source_id"]]
    files.write_parquet(out / "sources.parquet", scoring.predictions(sources, pooled, classes, None))
    counts = {f"predicted_{name}": int((item.argmax(1) == number).sum()) for number, name in enumerate(classes)}
    return {
        "items": len(table),
        "sources": len(names),
        "sources_seen_in_training": common.count,
        "stamps": stamps,
    } | counts


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("predict"))
