"""Stage: items -> an encoder learned without labels. Writes encoder/, curves.parquet.

The held-out fold is left out of everything that is fitted; it serves the kNN curve, which is watched, never used.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellvision.branches import BRANCHES, Augment, Branch, BranchConfig, State
from cellvision.core import encoders, files, loop, metrics, parallel, plots, splits
from cellvision.core.config import StageConfig, option
from cellvision.core.errors import NoUsableInput
from cellvision.core.loop import LoopConfig
from cellvision.core.progress import say
from cellvision.core.rng import generator, torch_seed
from cellvision.core.rundir import RunDir
from cellvision.core.splits import Splits
from cellvision.selfsup import METHODS, MethodConfig

if TYPE_CHECKING:
    from cellvision.selfsup import Method

REVISION = 1
PROBE_ITEMS = 2000  # items that kNN, rank and identity are measured on


class Config(StageConfig):
    """Options of `pretrain`."""

    items: Path = option(..., "a segment run, or a file of a one-dimensional branch", runtime=True)
    branch: BranchConfig = option("image", "image or tabular")  # type: ignore[valid-type]
    splits: Path | None = option(None, "splits.csv of a plan run; made the same way when absent", runtime=True)
    unit: str | None = option(None, "column of independent units, or COLUMN~REGEX, or row")
    units: Path | None = option(None, "CSV source_id,unit that coarsens the units", runtime=True)
    fold: str = option("0", "fold held out, or none to learn from everything")
    method: MethodConfig = option("simclr", "simclr")  # type: ignore[valid-type]
    encoder: str | None = option(None, "network with random weights, or a trained encoder to go on from", runtime=True)
    probes: int = option(4, "how often rank, kNN and identity are measured", ge=1)
    loop: LoopConfig = option(LoopConfig(steps=600, batch=256), "length and rate", flag=False)
    short = {
        "steps": "loop.steps",
        "batch": "loop.batch",
        "lr": "loop.lr",
        "view": "branch.view",
        "size": "branch.size",
    }


class Learner(nn.Module):
    """Encoder and projection head, trained together."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head


def run(cfg: Config, out: Path) -> None:
    """Pretrain on every fold but the held-out one."""
    branch: Branch = BRANCHES.load(cfg.branch.name)(cfg.branch, cfg.items)  # type: ignore[attr-defined]
    made = splits.resolve(branch.items, cfg.splits, cfg.unit, cfg.units)
    fold = made.fold_of(branch.items)
    held = splits.test_folds(made, cfg.fold)
    train, test = np.flatnonzero(~np.isin(fold, held)), np.flatnonzero(np.isin(fold, held))
    method: Method = METHODS.build(cfg.method)
    spec = cfg.encoder or branch.default_encoder
    device = loop.pick_device(cfg.device, cfg.threads)
    batch = min(cfg.loop.batch, len(train))
    if batch < 2:
        raise NoUsableInput("pretraining needs at least two training items")
    start = encoders.resolve(spec, branch, train, torch_seed(cfg.seed, "encoder"))
    inputs = {"items": branch.items.content, "splits": made.content, "encoder": encoders.describe(spec)}
    with RunDir.claim(out, "pretrain", cfg, inputs, REVISION) as claimed:
        if claimed.done:
            return
        claimed.note(device=str(device), threads=torch.get_num_threads(), held_out=cfg.fold)
        learner = build_learner(start.module, method, cfg.seed).to(device)
        probe = Probe(branch, start.state, made, train, test)
        draw = SourceBalanced(branch, start.state, train, method.views, batch, cfg.seed)

        def loss(module: nn.Module, views: loop.Batch) -> Tensor:
            return method.loss(module.encoder(torch.cat([views[str(v)] for v in range(method.views)])), module.head)  # type: ignore[operator, arg-type]

        history = loop.train(
            learner, loss, draw, cfg.loop, seed=cfg.seed, folder=out / "checkpoints", what="pretrain",
            workers=max(0, parallel.cores() - 1) if cfg.workers is None else cfg.workers,
            probe=lambda _: probe(learner.encoder), probe_every=max(1, cfg.loop.steps // cfg.probes),
        )  # fmt: skip
        seen = sorted({*branch.items.table["source_hash"].iloc[train], *start.seen})
        facts = {
            "network": start.name, "branch": cfg.branch.name, "schema": branch.schema(), "seen": seen,  # type: ignore[attr-defined]
            "units": sorted(set(made.unit_of(branch.items)[train])), "held_out": cfg.fold, "steps": cfg.loop.steps,
            "steps_total": cfg.loop.steps + int(start.facts.get("steps_total", 0)),
            "origin": f"{cfg.method.name} on {len(train)} unlabelled items", "licence": "as the data it was trained on",  # type: ignore[attr-defined]
        }  # fmt: skip
        encoders.save(out / "encoder", learner.encoder, start.state, facts)
        summary = write_curves(history, method.chance(batch), out)
        loop.forget(out / "checkpoints")
        claimed.finish(
            summary | {"items": len(train), "units": len(facts["units"]), "batch": batch, "steps": cfg.loop.steps}
        )
        say(
            f"pretrain: loss {summary['loss']:.3f} (chance {summary['chance']:.3f}), rank {summary['rank']:.1f} -> {out}"
        )


def build_learner(encoder: nn.Module, method: Method, seed: int) -> Learner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "projection"))
        return Learner(encoder, method.head(int(encoder.num_features)))  # type: ignore[arg-type]


def training_rate(cfg: Config, steps: int = 4) -> float:
    """Items per second of a training step on this machine, batches included: what a time budget is turned into steps with."""
    branch: Branch = BRANCHES.load(cfg.branch.name)(cfg.branch, cfg.items)  # type: ignore[attr-defined]
    rows = np.arange(len(branch.items.table))
    batch = min(cfg.loop.batch, len(rows))
    start = encoders.resolve(cfg.encoder or branch.default_encoder, branch, rows, 0)
    method: Method = METHODS.build(cfg.method)
    learner = build_learner(start.module, method, 0).to(loop.pick_device(cfg.device, cfg.threads))
    draw = SourceBalanced(branch, start.state, rows, method.views, batch, 0)
    context, times = loop.autocast(learner, cfg.loop.precision), []
    for step in range(steps):
        begun = time.perf_counter()
        views = draw(step)
        with context:
            value = method.loss(learner.encoder(torch.cat([views[str(v)] for v in range(method.views)])), learner.head)
        value.backward()
        times.append(time.perf_counter() - begun)
    return batch * method.views / float(np.median(times[1:]))


class SourceBalanced:
    """The batch of a step: items drawn evenly over their sources, without repeats, in `views` variations each.

    Sources are balanced so that one image with many cells does not rule, and negatives come from many images.
    """

    def __init__(
        self, branch: Branch, state: State, rows: NDArray[np.int64], views: int, batch: int, seed: int
    ) -> None:
        self.branch, self.state, self.rows, self.views, self.batch, self.seed = branch, state, rows, views, batch, seed
        source = np.unique(branch.items.table["source_id"].iloc[rows], return_inverse=True)[1]
        weight = 1.0 / np.bincount(source)[source]
        self.log_weight = np.log(weight / weight.sum())

    def chosen(self, step: int) -> NDArray[np.int64]:
        """(batch,) rows, drawn without replacement: the largest of log weight + Gumbel noise (Efraimidis 2006)."""
        key = self.log_weight + generator(self.seed, "pretrain batch", step).gumbel(size=len(self.rows))
        top = np.argpartition(-key, self.batch - 1)[: self.batch]
        return self.rows[np.sort(top)]

    def __call__(self, step: int) -> loop.Batch:
        rows = self.chosen(step)
        return {
            str(view): torch.from_numpy(self.branch.batch(rows, self.state, Augment("strong", (self.seed, step, view))))
            for view in range(self.views)
        }


class Probe:
    """What an encoder has learned, measured in evaluation mode on fixed items: rank, kNN and identity of the source."""

    def __init__(
        self, branch: Branch, state: State, made: Splits, train: NDArray[np.int64], test: NDArray[np.int64]
    ) -> None:
        self.branch, self.state = branch, state
        rng = generator(0, "probe")
        self.train, self.test = (np.sort(rng.permutation(rows)[:PROBE_ITEMS]) for rows in (train, test))
        table = branch.items.table
        self.group = table["group"].to_numpy(str)
        self.source = table["source_id"].to_numpy(str)

    def __call__(self, encoder: nn.Module) -> dict[str, float]:
        training = encoder.training
        features = encoders.embed(encoder, self.branch, self.state, self.train)
        found = {"rank": metrics.effective_rank(features), "std": float(features.std(0).mean())}
        if len(self.test) and len(np.unique(self.group)) > 1:
            others = encoders.embed(encoder, self.branch, self.state, self.test)
            guess = metrics.knn_predict(features, self.group[self.train], others)
            found["knn"] = metrics.balanced_accuracy(self.group[self.test], guess)
        half = np.arange(len(self.train)) % 2 == 0
        source = self.source[self.train]
        if len(np.unique(source[half])) > 1 and half.sum() < len(half):
            guess = metrics.knn_predict(features[half], source[half], features[~half])
            found["identity"] = float(np.mean(guess == source[~half]))
            found["identity_chance"] = float(np.unique(source, return_counts=True)[1].max() / len(source))
        encoder.train(training)
        return found


def write_curves(history: list[dict[str, float]], chance: float, out: Path) -> dict[str, Any]:
    """curves.parquet and curves.png; the last values as flat metrics."""
    import pandas as pd

    table = pd.DataFrame(history).assign(chance=chance)
    files.write_parquet(out / "curves.parquet", table)
    plots.curves(table, out / "curves.png")
    last = table.ffill().iloc[-1]
    found: dict[str, Any] = {key: float(last[key]) for key in table.columns if key not in ("step", "loss")}
    first = table.iloc[0]
    found |= {f"{key}_random": float(first[key]) for key in ("rank", "knn", "identity") if key in table}
    return found | {"loss": float(table["loss"].tail(20).mean())}


if __name__ == "__main__":
    from cellvision.core.cli import main

    raise SystemExit(main("pretrain"))
