"""Stage: items, splits and an encoder -> a classifier, tested on units it never saw. Writes predictions.parquet.

`--fold all` pools the predictions of every fold and scores them beside the plain baselines; a single fold, or none,
also leaves `model/`, a bundle that predicts on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import BRANCHES, Augment
from cellvision.core import files
from cellvision.core.config import Only, option
from cellvision.core.errors import StrategyRefused
from cellvision.core.progress import say, track
from cellvision.core.rng import torch_seed
from cellvision.core.rundir import RunDir, is_run
from cellvision.core.yamlfiles import read_yaml
from cellvision.evidence import scoring, seen, splits
from cellvision.evidence.configs import TargetConfig
from cellvision.evidence.problem import Supervised
from cellvision.executors import local
from cellvision.models import fit
from cellvision.models.fit import Recipe
from cellvision.runs.calls import stage
from cellvision.strategies import STRATEGIES, Labelled, StrategyConfig
from cellvision.training.schedule import LoopConfig

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from cellvision.models.classifier import Classifier
    from cellvision.models.encoders import Trained

REVISION = 6


class Config(TargetConfig):
    """Options of `finetune`."""

    ignore: tuple[str, ...] = option((), "labels that are no class")
    only: str | None = option(None, "COLUMN=VALUE: the items that train and are tested")
    fold: str = option("all", "all, none (train on everything, no score), or one fold")
    encoder: str | None = option(
        None, "network, NAME@imagenet, NAME@FILE, embedded name or run; {fold} in a path is filled in", runtime=True
    )
    strategy: StrategyConfig = option("inherit", "how the label of a source teaches its items")
    tune: Literal["linear", "last", "whole"] = option("linear", "what is trained: the head, the last block too, or all")
    label_fraction: float = option(1.0, "share of the training units whose labels are used", gt=0, le=1)
    poses: int = option(1, "label-keeping poses a test item is shown in, their probabilities averaged", ge=1, le=8)
    transductive: bool = option(False, "allow an encoder that saw test sources; stamps the result")
    baselines: bool = option(True, "score the plain baselines, and what a split by item would have claimed")
    cache: Path | None = option(None, "folder for features shared between runs", runtime=True, flag=False)
    loop: LoopConfig = option(LoopConfig(), "length and rate", flag=False)
    short: ClassVar[dict[str, str]] = {
        **{name: f"loop.{name}" for name in ("steps", "batch", "lr")},
        **{name: f"branch.{name}" for name in ("view", "size")},
    }
    uses: ClassVar[tuple[str, ...]] = ("seed", "workers", "threads", "device")
    rules: ClassVar[tuple[Only, ...]] = (
        Only(("transductive",), lambda cfg: not cfg.transductive or (cfg.encoder and cfg.fold != "none"),
             "with a trained --encoder, and folds to test"),
        Only(("baselines",), lambda cfg: not cfg.baselines or cfg.fold == "all", "with --fold all"),
        Only(("poses",), lambda cfg: cfg.fold != "none", "where something is tested, not with --fold none"),
        Only(("cache",), lambda cfg: cfg.tune == "linear" or (cfg.baselines and cfg.fold == "all"),
             "on frozen features: with --tune linear, or with --baselines"),
        Only(("workers",), lambda cfg: cfg.fold == "all" or cfg.tune != "linear" or not cfg.workers,
             "with --fold all, or where more than the head is trained"),
    )  # fmt: skip


class Job(Supervised):
    """The supervised problem of a config, with its strategy and encoder."""

    def __init__(self, cfg: Config) -> None:
        from cellvision.evidence import targets
        from cellvision.training.device import pick_device

        self.cfg = cfg
        branch = BRANCHES.build(cfg.branch, path=cfg.items, reserved=cfg.reserved)
        target = targets.read(branch.items, cfg.target, cfg.ignore, cfg.only, bins=cfg.bins, least=cfg.min_examples)
        split = splits.resolve(branch.items, cfg.splits, cfg.unit, cfg.units, cfg.target)
        super().__init__(branch, split, target, cfg.fold, cfg.seed, cfg.label_fraction)
        self.strategy = STRATEGIES.build(cfg.strategy)
        self.spec = cfg.encoder or branch.default_encoder
        self.device: torch.device = pick_device(cfg.device, cfg.threads)

    @property
    def tested(self) -> Sequence[int | None]:
        """The folds to train for: those to test, or one training on everything."""
        return self.folds or [None]

    def encoder_of(self, fold: int | None) -> str:
        return self.spec.replace("{fold}", "none" if fold is None else str(fold))

    def trained_on(self, fold: int | None) -> NDArray[np.int64]:
        """Training rows; StrategyRefused where the strategy cannot be used on them."""
        rows = self.train_rows(fold)
        refusal = self.strategy.refusal(self.labelled(rows), self.target.level) if len(rows) else "no labelled items"
        if not refusal and self.strategy.ordered and not self.target.ordered:
            refusal = f"the classes of {self.target.name!r} are not three or more numbers"
        if refusal:
            raise StrategyRefused(f"strategy {self.cfg.strategy.name!r} refused: {refusal}")
        return rows

    def labelled(self, rows: NDArray[np.int64]) -> Labelled:
        """(n,) rows of the items table -> (n,) bags and (n,) labels."""
        return Labelled(self.bags(rows)[0], self.target.label[rows])

    def load_encoder(self, fold: int | None, rows: NDArray[np.int64]) -> Trained:
        """The encoder of a fold, on the device; its preprocessing is fitted on these (n,) rows where it has none."""
        from cellvision.models import encoders

        spec, seed = self.encoder_of(fold), torch_seed(self.cfg.seed, "encoder")
        trained = encoders.resolve(spec, self.branch, rows, seed)
        trained.module.to(self.device)
        return trained

    def inputs(self) -> dict[str, str]:
        from cellvision.models import encoders

        inputs = {"items": self.items.content, "splits": self.made.content}
        return inputs | {f"encoder_{fold}": encoders.content_hash(self.encoder_of(fold)) for fold in self.tested}


@stage
def run(cfg: Config, out: Path) -> None:
    """Train and test fold by fold; then score what was pooled."""
    import torch

    job = Job(cfg)
    unlabelled = int(job.items.table[cfg.target].isna().sum())
    if unlabelled and cfg.target != "annotation":
        say(f"finetune: {unlabelled} of {len(job.items.table)} items have no {cfg.target!r} and are left out")
    if job.target.left_out:
        few = f"left out, fewer than {cfg.min_examples} items: {', '.join(job.target.left_out)}"
        say(f"finetune: {few}; --min-examples 1 keeps them")
    with RunDir.claim(out, "finetune", cfg, job.inputs(), REVISION) as claimed:
        if not claimed.done:
            claimed.note(device=str(job.device), threads=torch.get_num_threads())
            stamps = set(splits.stamps(job.items, job.made)).union(*run_folds(job, out))
            metrics: dict[str, Any] = {"stamps": sorted(stamps), "steps": cfg.loop.steps}
            metrics["steps_total"] = steps_total(job)
            metrics |= score(job, out) if job.folds else {}
            metrics["stamps"] = sorted({*stamps, *metrics.pop("probe_stamps", [])})
            claimed.finish(metrics)
    report_to_person(out)


def steps_total(job: Job) -> int:
    """Optimiser steps behind the result: its own, and those of the pretraining it starts from."""
    from cellvision.models import encoders

    folder = encoders.find(job.encoder_of(job.tested[0]))
    before = files.read_json(folder / "encoder.json").get("steps_total", 0) if folder else 0
    return job.cfg.loop.steps + int(before)


# -- one fold -----------------------------------------------------------------------------------------------------


def run_folds(job: Job, out: Path) -> Iterator[list[str]]:
    """The folds, one process and one thread each where there are several; -> the stamps of each."""
    if len(job.tested) == 1 or job.device.type != "cpu":
        yield from (run_fold(job, fold, out) for fold in job.tested)
        return
    jobs = local.cores() if job.cfg.workers is None else job.cfg.workers
    tasks = [(job.cfg.model_copy(update={"workers": 0, "threads": 1}), fold, out) for fold in job.folds]
    yield from track(local.ordered_map(fold_task, tasks, min(jobs, len(tasks))), "finetune", len(tasks), "folds")


def fold_task(task: tuple[Config, int, Path]) -> list[str]:
    cfg, fold, out = task
    return run_fold(Job(cfg), fold, out)


def run_fold(job: Job, fold: int | None, out: Path) -> list[str]:
    """Train without the fold, predict it, write its part; a part that is there is kept. -> stamps."""
    from cellvision.training import loop

    stamps_file = out / "folds" / f"{fold}.json"
    if stamps_file.exists():
        return list(files.read_json(stamps_file))
    train = job.trained_on(fold)
    test = np.empty(0, np.int64) if fold is None else job.test_rows(fold)
    trained = job.load_encoder(fold, train)
    stamps = seen.guard(trained.seen, job.items, job.unit, test, f"encoder {job.spec!r}", job.cfg.transductive)
    checkpoints = out / "checkpoints" / str(fold)
    recipe = recipe_for(job, fold, train, checkpoints)
    if job.cfg.tune == "linear":
        model = fit.fit_linear(recipe, trained)
    else:
        model = fit.fit_deep(recipe, trained, last_block=job.cfg.tune == "last")
    if fold is not None:
        items, sources = predict(job, model, trained, test)
        files.write_parquet(out / "folds" / f"{fold}-items.parquet", items.assign(fold=fold))
        files.write_parquet(out / "folds" / f"{fold}-sources.parquet", sources.assign(fold=fold))
    if job.cfg.fold != "all":
        save_bundle(job, model, trained, train, out / "model")
    files.write_json(stamps_file, stamps)
    loop.forget(checkpoints)
    return stamps


def recipe_for(job: Job, fold: int | None, train: NDArray[np.int64], checkpoints: Path) -> Recipe:
    """How the rows of `train`, (n,) of the items table, teach a classifier."""
    return Recipe(
        branch=job.branch,
        strategy=job.strategy,
        rows=train,
        labelled=job.labelled(train),
        classes=len(job.target.classes),
        loop=job.cfg.loop,
        seed=torch_seed(job.cfg.seed, "finetune", fold),
        device=job.device,
        workers=max(0, local.cores() - 1) if job.cfg.workers is None else job.cfg.workers,
        checkpoints=checkpoints,
        cache=job.cfg.cache,
        shown="finetune: everything" if fold is None else f"finetune: fold {fold}",
    )


def predict(
    job: Job, model: Classifier, trained: Trained, rows: NDArray[np.int64]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(n,) rows of the items table -> predictions of n items, and of their sources as the strategy pools them."""
    from cellvision.models import classifier, encoders

    bag, names = job.bags(rows)
    shown = []
    for pose in range(job.cfg.poses):
        if job.cfg.tune == "linear" and pose == 0:
            features = fit.frozen_features(job.branch, trained, rows, job.cfg.cache)
        else:
            features = encoders.embed(model.encoder, job.branch, trained.state, rows, Augment("pose", (pose,)))
        shown.append(classifier.head_probabilities(job.strategy, model.head, features, bag))
    item, pooled = (np.mean(parts, axis=0) for parts in zip(*shown, strict=True))
    items = scoring.predictions(job.identity(rows), item, job.target.classes, job.target.text(rows))
    first = items.drop_duplicates("source_id").set_index("source_id").loc[names, ["unit", "truth"]].reset_index()
    truth = first["truth"].to_numpy()
    return items, scoring.predictions(first[["source_id", "unit"]], pooled, job.target.classes, truth)


def save_bundle(job: Job, model: Classifier, trained: Trained, train: NDArray[np.int64], folder: Path) -> None:
    """Everything `predict` needs, and what the weights have seen; `train`, (n,), holds rows."""
    from cellvision.models import classifier

    facts = {
        "network": trained.name,
        "branch": job.cfg.branch.name,
        "schema": job.branch.schema(),
        "origin": f"{trained.origin}, fine-tuned on {job.cfg.target}",
        "licence": "as the data it was trained on",
        "steps_total": steps_total(job),
        "taught": sorted({*trained.facts.get("taught", []), job.cfg.target}),
    }
    bundle = {
        "classes": job.target.classes,
        "target": job.cfg.target,
        "level": job.target.level,
        "strategy": job.cfg.strategy.model_dump(mode="json"),
        "branch": job.cfg.branch.model_dump(mode="json"),
        "units": len(set(job.unit[train])),
        "segment": segmentation_of(job.cfg.items),
        "segmenter": segmenter_of(job.cfg.items),
    }
    history = trained.seen | seen.of(job.items, job.unit, train)
    classifier.save(folder, model, trained.state, facts, history, bundle)


def segmentation_of(items: Path) -> dict[str, Any] | None:
    """Every option of the segment run that can change its cells, so that new images are cut the same way.

    None for items that were not cut from images. Which options those are, the run's own record says; their values come
    from its config, which also holds paths, such as that of weights.
    """
    if not is_run(items, "segment"):
        return None
    record, cut = files.read_json(items / "run.json"), read_yaml(items / "config.yaml")
    if "segmenter" not in record["inputs"]:
        return None
    return {name: cut[name] for name in record["config"]}


def segmenter_of(items: Path) -> Any:
    """What tells the segmenter of these items, with its weights, from any other; None where there was none."""
    return files.read_json(items / "run.json")["inputs"].get("segmenter") if is_run(items, "segment") else None


# -- all folds ----------------------------------------------------------------------------------------------------


def score(job: Job, out: Path) -> dict[str, Any]:
    """Pool the folds, score them, and set the plain baselines beside."""
    import pandas as pd

    from cellvision.evidence import baselines
    from cellvision.plots.base import save
    from cellvision.plots.results import confusion_matrix

    items, sources = (
        pd.concat([files.read_parquet(out / "folds" / f"{k}-{what}.parquet") for k in job.folds], ignore_index=True)
        for what in ("items", "sources")
    )
    scored = scoring.scored_rows(job, items, sources)
    for name, table in (("predictions", items), ("sources", sources), ("scored", scored)):
        files.write_parquet(out / f"{name}.parquet", table)
    metrics = scoring.summarise(job.target, scored, items)
    metrics |= {
        "not_evaluated": sorted(set(job.target.classes) - job.evaluated()),
        "left_out": list(job.target.left_out),
    }
    save(confusion_matrix(scored, job.target.level), out / "confusion.png")
    if job.cfg.baselines and len(job.folds) > 1:
        plain = baselines.write_all(job, out, job.cfg.threads)
        metrics |= scoring.beside(scored, {name: files.read_parquet(path) for name, path in plain.items()})
        metrics |= item_random(job) | {"shortcuts": baselines.shortcuts(job.branch)}
    return metrics


def item_random(job: Job) -> dict[str, Any]:
    """The linear probe of the frozen encoder on unseen units, and what it would score if items were split at random."""
    from cellvision.evidence import baselines

    rows = baselines.inflation_rows(job)
    stamps: set[str] = set()

    def features_of(fold: int) -> NDArray[np.float32]:
        trained = job.load_encoder(fold, job.train_rows(fold))
        what = f"encoder {job.spec!r}"
        stamps.update(seen.guard(trained.seen, job.items, job.unit, job.test_rows(fold), what, transductive=True))
        return fit.frozen_features(job.branch, trained, rows, job.cfg.cache)

    scores = {"probe_encoder": job.spec} | baselines.inflation(job, rows, features_of)
    return scores | {"probe_stamps": sorted(stamps)}


def report_to_person(out: Path) -> None:
    """The headline, the baselines beside it, the inflation and the stamps."""
    metrics = files.read_json(out / "metrics.json")
    if "balanced_accuracy" not in metrics:
        say(f"finetune: trained on everything, so there is no score; the bundle is {out / 'model'}")
        return
    units = scoring.units_told(metrics, "balanced_accuracy")
    say(
        f"finetune: balanced accuracy {scoring.told(metrics, 'balanced_accuracy')} over "
        f"{metrics['scored']} {metrics['level']}s of {units}; chance {metrics['chance']:.3f} -> {out}"
    )
    for name in metrics.get("plain_models", []):
        value, above = metrics[f"baseline_{name}"], scoring.told(metrics, f"above_{name}", "+")
        say(f"finetune: baseline {name} {value:.3f}; the network is {above} above")
    if "probe_item_random" in metrics:
        say(f"finetune: linear probe of {metrics['probe_encoder']}: {scoring.inflation_told(metrics)}")
    for stamp in metrics["stamps"]:
        say(f"finetune: stamp: {stamp}")


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("finetune"))
