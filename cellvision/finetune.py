"""Stage: items, splits and an encoder -> a classifier, tested on units it never saw. Writes predictions.parquet.

`--fold all` pools the predictions of every fold and scores them beside the plain baselines; a single fold, or none,
also leaves `model/`, a bundle that predicts on its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellvision.branches import BRANCHES, Augment, Baseline, Branch, BranchConfig
from cellvision.core import (
    baselines,
    classifier,
    encoders,
    files,
    loop,
    metrics,
    parallel,
    plots,
    scoring,
    splits,
    targets,
)
from cellvision.core.classifier import Classifier, Head
from cellvision.core.config import StageConfig, fingerprint, option
from cellvision.core.encoders import Trained
from cellvision.core.errors import StrategyRefused
from cellvision.core.loop import LoopConfig
from cellvision.core.progress import say
from cellvision.core.rng import generator, torch_seed
from cellvision.core.rundir import RunDir
from cellvision.core.splits import Splits
from cellvision.core.targets import Target
from cellvision.strategies import STRATEGIES, Labelled, StrategyConfig

if TYPE_CHECKING:
    from cellvision.strategies import Strategy

REVISION = 1
INFLATION_ITEMS = 4000  # items the item-random comparison is made on


class Config(StageConfig):
    """Options of `finetune`."""

    items: Path = option(..., "a segment run, or a file of a one-dimensional branch", runtime=True)
    branch: BranchConfig = option("image", "image or tabular")  # type: ignore[valid-type]
    target: str = option("group", "group (weak), annotation (true), or a column")
    ignore: tuple[str, ...] = option((), "labels that are no class")
    splits: Path | None = option(None, "splits.csv of a plan run; made the same way when absent", runtime=True)
    unit: str | None = option(None, "column of independent units, or COLUMN~REGEX, or row")
    units: Path | None = option(None, "CSV source_id,unit that coarsens the units", runtime=True)
    fold: str = option("all", "all, none (train on everything, no score), or one fold")
    encoder: str | None = option(
        None,
        "network, NAME@imagenet, NAME@FILE, embedded name or pretrain run; {fold} in a path is filled in",
        runtime=True,
    )
    strategy: StrategyConfig = option("inherit", "inherit or mil")  # type: ignore[valid-type]
    tune: Literal["linear", "last", "whole"] = option("linear", "what is trained: the head, the last block too, or all")
    label_fraction: float = option(1.0, "share of the training units whose labels are used", gt=0, le=1)
    transductive: bool = option(False, "allow an encoder that saw test sources; stamps the result")
    baselines: bool = option(True, "score the plain baselines, and what a split by item would have claimed")
    cache: Path | None = option(None, "folder for features shared between runs", runtime=True, flag=False)
    loop: LoopConfig = option(LoopConfig(), "length and rate", flag=False)
    short = {
        "steps": "loop.steps",
        "batch": "loop.batch",
        "lr": "loop.lr",
        "view": "branch.view",
        "size": "branch.size",
    }


class Job:
    """Everything the folds of one run share, loaded and checked."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        reserved = tuple(filter(None, (cfg.target, (cfg.unit or "").partition("~")[0])))
        self.branch: Branch = BRANCHES.load(cfg.branch.name)(cfg.branch, cfg.items, reserved)  # type: ignore[attr-defined]
        self.items = self.branch.items
        self.made: Splits = splits.resolve(self.items, cfg.splits, cfg.unit, cfg.units)
        self.target: Target = targets.read(self.items, cfg.target, cfg.ignore)
        self.strategy: Strategy = STRATEGIES.build(cfg.strategy)
        self.spec = cfg.encoder or self.branch.default_encoder
        self.fold = self.made.fold_of(self.items)
        self.unit = self.made.unit_of(self.items)
        self.folds = splits.test_folds(self.made, cfg.fold)
        self.device = loop.pick_device(cfg.device, cfg.threads)

    def encoder_of(self, fold: int | None) -> str:
        return self.spec.replace("{fold}", "none" if fold is None else str(fold))

    def train_rows(self, fold: int | None) -> NDArray[np.int64]:
        """Labelled items outside the fold; with a label fraction, of that share of the units of each class."""
        rows = np.flatnonzero((self.target.label >= 0) & (self.fold != (-2 if fold is None else fold)))
        if self.cfg.label_fraction < 1:
            rows = rows[np.isin(self.unit[rows], self._labelled_units(rows, fold))]
        refusal = self.strategy.refusal(self.labelled(rows), self.target.level) if len(rows) else "no labelled items"
        if refusal:
            raise StrategyRefused(f"strategy {self.cfg.strategy.name!r} refused: {refusal}")  # type: ignore[attr-defined]
        return rows

    def _labelled_units(self, rows: NDArray[np.int64], fold: int | None) -> list[str]:
        """A nested choice: a larger fraction holds every unit of a smaller one; each class keeps at least one."""
        order = generator(self.cfg.seed, "label fraction", fold).permutation(np.unique(self.unit[rows]))
        home = {str(unit): int(self.target.label[rows][self.unit[rows] == unit][0]) for unit in order}
        kept: list[str] = []
        for number in set(home.values()):
            members = [unit for unit in home if home[unit] == number]
            kept += members[: max(1, round(self.cfg.label_fraction * len(members)))]
        return kept

    def test_rows(self, fold: int) -> NDArray[np.int64]:
        return np.flatnonzero((self.target.label >= 0) & (self.fold == fold))

    def labelled(self, rows: NDArray[np.int64]) -> Labelled:
        return Labelled(classifier.bags_of(self.branch, rows)[0], self.target.label[rows])

    def identity(self, rows: NDArray[np.int64]) -> pd.DataFrame:
        """The columns that say whose prediction a row is, with the cell's true label where somebody gave one."""
        names = [name for name in ("item_id", "source_id", "annotation") if name in self.items.table]
        return self.items.table[names].iloc[rows].assign(unit=self.unit[rows])

    def fingerprints(self) -> dict[str, str]:
        inputs = {"items": self.items.content, "splits": self.made.content}
        return inputs | {f"encoder_{k}": encoders.describe(self.encoder_of(k)) for k in self.folds or [None]}


def run(cfg: Config, out: Path) -> None:
    """Train and test fold by fold; then score what was pooled."""
    job = Job(cfg)
    with RunDir.claim(out, "finetune", cfg, job.fingerprints(), REVISION) as claimed:
        if claimed.done:
            return report_to_person(out)
        claimed.note(device=str(job.device), threads=torch.get_num_threads())
        stamps: set[str] = set(splits.stamps(job.items, job.made))
        for fold in job.folds or [None]:
            stamps |= set(run_fold(job, fold, out))
        found: dict[str, Any] = {"stamps": sorted(stamps), "steps": cfg.loop.steps, "steps_total": steps_total(job)}
        if job.folds:
            found |= score(job, out)
        loop.forget(out / "checkpoints")
        claimed.finish(found)
    return report_to_person(out)


def run_baselines(cfg: Config, out: Path, folds: int) -> None:
    """Only the plain baselines, on the first `folds` folds, for an ablation to set its arms beside."""
    job = Job(cfg)
    job.folds = job.folds[:folds]
    write_baselines(job, out)


def steps_total(job: Job) -> int:
    """Optimiser steps behind the result: its own, and those of the pretraining it starts from."""
    folder = encoders.find(job.encoder_of(job.folds[0] if job.folds else None))
    before = files.read_json(folder / "encoder.json").get("steps_total", 0) if folder else 0
    return job.cfg.loop.steps + int(before)


# -- one fold -----------------------------------------------------------------------------------------------------


def run_fold(job: Job, fold: int | None, out: Path) -> list[str]:
    """Train without the fold, predict it, write its part; a part that is there is kept. -> stamps."""
    part = out / "folds" / f"{fold}.json"
    if part.exists():
        return list(files.read_json(part))
    train = job.train_rows(fold)
    seed = torch_seed(job.cfg.seed, "finetune", fold)
    trained = encoders.resolve(job.encoder_of(fold), job.branch, train, torch_seed(job.cfg.seed, "encoder"))
    test = np.empty(0, np.int64) if fold is None else job.test_rows(fold)
    tested = set(job.items.table["source_hash"].iloc[test])
    stamp = splits.guard(set(trained.seen), tested, f"encoder {job.spec!r}", job.cfg.transductive)
    trained.module.to(job.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(
            job.strategy.head(int(trained.module.num_features), len(job.target.classes)),
            int(trained.module.num_features),
        )  # type: ignore[arg-type]
    fit = fit_linear if job.cfg.tune == "linear" else fit_deep
    model = fit(job, trained, head.to(job.device), train, out / "checkpoints" / str(fold), seed)
    if fold is not None:
        items, sources = predict(job, model, trained, test)
        files.write_parquet(out / "folds" / f"{fold}-items.parquet", items.assign(fold=fold))
        files.write_parquet(out / "folds" / f"{fold}-sources.parquet", sources.assign(fold=fold))
    if job.cfg.fold != "all":
        save_bundle(job, model, trained, train, out / "model")
    files.write_json(part, [stamp] if stamp else [])
    return [stamp] if stamp else []


def features_of(job: Job, trained: Trained, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Frozen features, taken from the cache where another run has computed them."""
    if job.cfg.cache is None:
        return encoders.embed(trained.module, job.branch, trained.state, rows)
    weights = {key: files.plain(value.double().sum()) for key, value in trained.module.state_dict().items()}
    key = fingerprint(
        [job.items.content, job.cfg.branch.model_dump(mode="json"), trained.name, weights, files.plain(trained.state)]
    )
    path = job.cfg.cache / f"{key}.npy"
    if not path.exists():
        features = encoders.embed(trained.module, job.branch, trained.state, np.arange(len(job.items.table)))
        with files.atomic(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, features, allow_pickle=False)
    return np.load(path, allow_pickle=False)[rows]


def fit_linear(job: Job, trained: Trained, head: Head, train: NDArray[np.int64], folder: Path, seed: int) -> Classifier:
    """The head alone, on features computed once."""
    features = features_of(job, trained, train)
    head.standardise(features)
    labelled = job.labelled(train)

    def make(step: int) -> loop.Batch:
        chosen = job.strategy.draw(generator(seed, "batch", step), labelled, job.cfg.loop.batch)
        return {
            "features": torch.from_numpy(features[chosen]),
            "bag": torch.from_numpy(labelled.bag[chosen]),
            "label": torch.from_numpy(labelled.label[chosen]),
        }

    def loss(module: nn.Module, batch: loop.Batch) -> Tensor:
        return job.strategy.loss(module.inner, module(batch["features"]), batch["bag"], batch["label"])  # type: ignore[arg-type]

    loop.train(head, loss, make, job.cfg.loop, seed=seed, folder=folder, what="finetune")
    return Classifier(trained.module, head)


class AugmentedBatches:
    """The batch of a step: items drawn by the strategy, varied, with their bags and labels."""

    def __init__(self, job: Job, trained: Trained, train: NDArray[np.int64], seed: int) -> None:
        self.branch, self.strategy, self.batch = job.branch, job.strategy, job.cfg.loop.batch
        self.state, self.train, self.seed, self.labelled = trained.state, train, seed, job.labelled(train)

    def __call__(self, step: int) -> loop.Batch:
        chosen = self.strategy.draw(generator(self.seed, "batch", step), self.labelled, self.batch)
        items = self.branch.batch(self.train[chosen], self.state, Augment("weak", (self.seed, step)))
        bag, label = (torch.from_numpy(part[chosen]) for part in (self.labelled.bag, self.labelled.label))
        return {"items": torch.from_numpy(items), "bag": bag, "label": label}


def fit_deep(job: Job, trained: Trained, head: Head, train: NDArray[np.int64], folder: Path, seed: int) -> Classifier:
    """Encoder and head together; with `last`, only the encoder's last block."""
    model = Classifier(trained.module, head)
    if job.cfg.tune == "last":
        last = encoders.last_layer(trained.module)
        for name, parameter in trained.module.named_parameters():
            parameter.requires_grad_(name in last)

    def loss(module: nn.Module, batch: loop.Batch) -> Tensor:
        features = module.head(module.encoder(batch["items"]))  # type: ignore[operator]
        return job.strategy.loss(module.head.inner, features, batch["bag"], batch["label"])  # type: ignore[union-attr, arg-type]

    workers = max(0, parallel.cores() - 1) if job.cfg.workers is None else job.cfg.workers
    make = AugmentedBatches(job, trained, train, seed)
    loop.train(model, loss, make, job.cfg.loop, seed=seed, folder=folder, what="finetune", workers=workers)
    return model


def predict(
    job: Job, model: Classifier, trained: Trained, rows: NDArray[np.int64]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions of items, and of their sources as the strategy pools them."""
    if job.cfg.tune == "linear":
        features = features_of(job, trained, rows)
    else:
        features = encoders.embed(model.encoder, job.branch, trained.state, rows)
    bag, names = classifier.bags_of(job.branch, rows)
    item, pooled = classifier.head_probabilities(job.strategy, model.head, features, bag)
    truth = job.target.text(rows)
    items = scoring.predictions(job.identity(rows), item, job.target.classes, truth)
    first = items.drop_duplicates("source_id").set_index("source_id").loc[names, ["unit", "truth"]].reset_index()
    return items, scoring.predictions(
        first[["source_id", "unit"]], pooled, job.target.classes, first["truth"].to_numpy()
    )


def save_bundle(job: Job, model: Classifier, trained: Trained, train: NDArray[np.int64], folder: Path) -> None:
    """Everything `predict` needs, and the hashes of all sources the weights have seen."""
    seen = sorted({*trained.seen, *job.items.table["source_hash"].iloc[train]})
    facts = {
        "network": trained.name, "branch": job.cfg.branch.name, "schema": job.branch.schema(), "seen": seen,  # type: ignore[attr-defined]
        "origin": f"{trained.origin}, fine-tuned on {job.cfg.target}", "licence": "as the data it was trained on",
        "steps_total": job.cfg.loop.steps + int(trained.facts.get("steps_total", 0)),
    }  # fmt: skip
    bundle = {
        "classes": job.target.classes, "target": job.cfg.target, "level": job.target.level,
        "strategy": job.cfg.strategy.model_dump(mode="json"), "branch": job.cfg.branch.model_dump(mode="json"),
        "units": len(set(job.unit[train])), "segment": segmentation_of(job.cfg.items),
    }  # fmt: skip
    classifier.save(folder, model, trained, facts, bundle)


def segmentation_of(items: Path) -> dict[str, Any] | None:
    """The options of the segment run the items come from, so that new images are cut the same way."""
    record = files.read_json(items / "run.json") if (items / "run.json").is_file() else {}
    return record.get("config") if record.get("stage") == "segment" else None


# -- all folds ----------------------------------------------------------------------------------------------------


def score(job: Job, out: Path) -> dict[str, Any]:
    """Pool the folds, score them, and set the plain baselines beside."""
    items, sources = (
        pd.concat([pd.read_parquet(out / "folds" / f"{fold}-{what}.parquet") for fold in job.folds], ignore_index=True)
        for what in ("items", "sources")
    )
    files.write_parquet(out / "predictions.parquet", items)
    files.write_parquet(out / "sources.parquet", sources)
    missed = missed_in(job, job.folds)
    scored = scoring.scored_rows(job.target, items, sources, missed)
    files.write_parquet(out / "scored.parquet", scored)
    found = scoring.summarise(job.target, scored, items)
    found["not_evaluated"] = scoring.not_evaluated(job.target, scored)
    plots.confusion_matrix(scored, out / "confusion.png", job.target.level)
    if job.cfg.baselines and len(job.folds) > 1:
        found |= score_baselines(job, scored, out) | inflation(job)
    return found


def missed_in(job: Job, folds: list[int]) -> pd.DataFrame:
    """Annotations without an item, in the sources of these folds, with their unit."""
    table = job.made.table[job.made.table["fold"].isin(folds)][["source_id", "unit"]]
    return job.items.missed.merge(table, on="source_id")


def score_baselines(job: Job, scored: pd.DataFrame, out: Path) -> dict[str, Any]:
    """Every plain baseline on the same folds, and how far the network is above it, paired over units."""
    found: dict[str, Any] = {}
    for name, path in write_baselines(job, out).items():
        rows = pd.read_parquet(path)
        value = metrics.balanced_accuracy(rows["truth"].to_numpy(str), rows["predicted"].to_numpy(str))
        found |= {f"baseline_{name}": value, **scoring.compare(scored, rows).flat(f"above_{name}")}
    return found


def write_baselines(job: Job, out: Path) -> dict[str, Path]:
    """name -> file with the scored rows of each plain baseline; one that is there is kept."""
    found = {}
    for name, baseline in job.branch.baselines().items():
        found[name] = out / f"baseline-{name}.parquet"
        if not found[name].exists():
            files.write_parquet(found[name], baseline_rows(job, name, baseline))
    return found


def baseline_rows(job: Job, name: str, baseline: Baseline) -> pd.DataFrame:
    """Fit on training units and predict the rest, fold by fold."""
    every = np.flatnonzero(job.target.label >= 0)
    known = baseline.features(every)
    features = np.zeros((len(job.target.label), known.shape[1]), np.float32)
    features[every] = known
    parts = []
    for fold in job.folds:
        train, test = job.train_rows(fold), job.test_rows(fold)
        seed = torch_seed(job.cfg.seed, name, fold)
        known = features[train], job.target.label[train]
        probability = baselines.fit_predict(
            baseline.estimator, *known, features[test], len(job.target.classes), seed, job.cfg.threads
        )
        parts.append(
            scoring.predictions(job.identity(test), probability, job.target.classes, job.target.text(test)).assign(
                fold=fold
            )
        )
    items = pd.concat(parts, ignore_index=True)
    return scoring.scored_rows(
        job.target, items, scoring.of_sources(items, job.target.classes), missed_in(job, job.folds)
    )


def inflation(job: Job) -> dict[str, Any]:
    """The same linear probe on frozen features, tested on unseen units and on random items: the gap is the inflation."""
    chosen = np.flatnonzero((job.target.label >= 0) & (job.fold >= 0))
    rng = generator(job.cfg.seed, "inflation")
    chosen = np.sort(rng.permutation(chosen)[:INFLATION_ITEMS])
    trained = encoders.resolve(
        job.encoder_of(job.folds[0]), job.branch, job.train_rows(job.folds[0]), torch_seed(job.cfg.seed, "encoder")
    )
    trained.module.to(job.device)
    features, label = features_of(job, trained, chosen), job.target.label[chosen]
    found = {}
    random_folds = baselines.item_random_folds(len(chosen), len(job.folds), rng)
    for name, fold in (("probe_unit_out", job.fold[chosen]), ("probe_item_random", random_folds)):
        hit = np.zeros(len(chosen), bool)
        for number in np.unique(fold):
            train, test = fold != number, fold == number
            if len(np.unique(label[train])) < 2:
                continue
            guess = baselines.fit_predict(
                "logistic", features[train], label[train], features[test], len(job.target.classes), 0
            )
            hit[test] = guess.argmax(1) == label[test]
        found[name] = float(np.mean([hit[label == number].mean() for number in np.unique(label)]))
    return found | {"probe_items": len(chosen)}


def report_to_person(out: Path) -> None:
    found = files.read_json(out / "metrics.json")
    if "balanced_accuracy" not in found:
        say(f"finetune: trained on everything, so there is no score; the bundle is {out / 'model'}")
        return
    low, high, units = (found[f"balanced_accuracy_{part}"] for part in ("low", "high", "units"))
    say(
        f"finetune: balanced accuracy {found['balanced_accuracy']:.3f} ({low:.3f} to {high:.3f}) over {found['scored']} "
        f"{found['level']}s of {units} units; chance {found['chance']:.3f} -> {out}"
    )
    for key in sorted(key for key in found if key.startswith("baseline_")):
        name = key.removeprefix("baseline_")
        interval = [found[f"above_{name}{part}"] for part in ("", "_low", "_high")]
        say(
            "finetune: baseline {} {:.3f}; the network is {:+.3f} ({:+.3f} to {:+.3f}) above".format(
                name, found[key], *interval
            )
        )
    if "probe_item_random" in found:
        say(
            f"finetune: linear probe {found['probe_unit_out']:.3f} on unseen units, {found['probe_item_random']:.3f} if items were split at random"
        )
    for stamp in found["stamps"]:
        say(f"finetune: stamp: {stamp}")


if __name__ == "__main__":
    from cellvision.core.cli import main

    raise SystemExit(main("finetune"))
