"""Stage: items -> an encoder learned without labels. Writes encoder/, curves.parquet.

The held-out fold is left out of everything that is fitted; it serves the kNN curve, which is watched, never used.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import BRANCHES, Branch
from cellvision.core import files
from cellvision.core.config import option
from cellvision.core.errors import NoUsableInput
from cellvision.core.progress import say
from cellvision.core.rng import torch_seed
from cellvision.core.rundir import RunDir
from cellvision.evidence import seen, splits
from cellvision.evidence.configs import SplitsConfig
from cellvision.evidence.splits import Splits
from cellvision.executors import local
from cellvision.models.batches import SourceBalanced
from cellvision.models.watch import Probe
from cellvision.runs.calls import stage
from cellvision.selfsup import METHOD_HELP, METHODS, MethodConfig
from cellvision.training.schedule import LoopConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cellvision.models.encoders import Trained
    from cellvision.selfsup import Method

REVISION = 2
LAST_STEPS = 20  # whose mean loss is reported


class Config(SplitsConfig):
    """Options of `pretrain`."""

    fold: str = option("0", "fold held out, or none to learn from everything")
    method: MethodConfig = option("simclr", METHOD_HELP)
    encoder: str | None = option(None, "network with random weights, or a trained encoder to go on from", runtime=True)
    probes: int = option(4, "how often rank, kNN and identity are measured", ge=1)
    loop: LoopConfig = option(LoopConfig(steps=600, batch=256), "length and rate", flag=False)
    short: ClassVar[dict[str, str]] = {
        **{name: f"loop.{name}" for name in ("steps", "batch", "lr")},
        **{name: f"branch.{name}" for name in ("view", "size")},
    }
    uses: ClassVar[tuple[str, ...]] = ("seed", "workers", "threads", "device")


@stage
def run(cfg: Config, out: Path) -> None:
    """Pretrain on every fold but the held-out one."""
    import torch

    from cellvision.models import encoders
    from cellvision.training import loop
    from cellvision.training.device import pick_device

    branch = BRANCHES.build(cfg.branch, path=cfg.items, reserved=cfg.reserved)
    split = splits.resolve(branch.items, cfg.splits, cfg.unit, cfg.units)
    held_out = np.isin(split.fold_of(branch.items), splits.test_folds(split, cfg.fold))
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    method = METHODS.build(cfg.method)
    spec = cfg.encoder or branch.default_encoder
    device = pick_device(cfg.device, cfg.threads)
    batch = min(cfg.loop.batch, len(train))
    if batch < 2:
        raise NoUsableInput("pretraining needs at least two training items")
    start = encoders.resolve(spec, branch, train, torch_seed(cfg.seed, "encoder"))
    inputs = {"items": branch.items.content, "splits": split.content, "encoder": encoders.content_hash(spec)}
    with RunDir.claim(out, "pretrain", cfg, inputs, REVISION) as claimed:
        if claimed.done:
            return
        claimed.note(device=str(device), threads=torch.get_num_threads(), held_out=cfg.fold)
        learner = build_learner(start, method, cfg.seed).to(device)
        encoder: Any = learner.encoder
        probe = Probe(branch, start.state, train, test)
        history = loop.train(
            learner,
            lambda module, views: method.step(module, in_order(views)),
            SourceBalanced(branch, start.state, train, method.views, batch, cfg.seed, method.augment),
            cfg.loop,
            seed=cfg.seed,
            folder=out / "checkpoints",
            what="pretrain",
            shown="pretrain: everything" if cfg.fold == "none" else f"pretrain: fold {cfg.fold} held out",
            workers=max(0, local.cores() - 1) if cfg.workers is None else cfg.workers,
            probe=lambda _: probe(encoder),
            probe_every=max(1, cfg.loop.steps // cfg.probes),
            after_step=lambda step: method.after_step(learner, step, cfg.loop.steps),
            frozen_statistics=False,
        )
        save_encoder(cfg, branch, split, start, encoder, train, out / "encoder")
        measured = method.validate(encoder, branch, start.state, train, test)
        summary = write_curves(history, measured.pop("chance", method.chance(batch)), out) | measured
        loop.forget(out / "checkpoints")
        summary |= {"batch": batch, "steps": cfg.loop.steps, **counted(branch, split, start, train)}
        claimed.finish(summary)
        chance = f" (chance {summary['chance']:.3f})" if "chance" in summary else ""
        say(f"pretrain: loss {summary['loss']:.3f}{chance}, effective rank {summary['rank']:.1f} -> {out}")


def counted(branch: Branch, made: Splits, start: Trained, train: NDArray[np.int64]) -> dict[str, Any]:
    """Of the (n,) training rows: how many, of how many units; and what the curves on the others have to say."""
    unit, others = made.unit_of(branch.items), np.setdiff1d(np.arange(len(branch.items.table)), train)
    what = f"the encoder it went on from, {start.name},"
    before = seen.guard(start.seen, branch.items, unit, others, what, transductive=True)
    stamps = sorted({*splits.stamps(branch.items, made), *before})
    return {"items": len(train), "units": len(set(unit[train])), "stamps": stamps}


def build_learner(start: Trained, method: Method, seed: int) -> nn.Module:
    """The encoder and whatever the method trains with it."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "projection"))
        return method.learner(start.module)


def in_order(views: dict[str, Tensor]) -> list[Tensor]:
    """Views by number, each (n, …) as the branch yields a batch -> them in that order."""
    return [views[str(view)] for view in range(len(views))]


def save_encoder(
    cfg: Config, branch: Branch, made: Splits, start: Trained, module: nn.Module, train: NDArray[np.int64], folder: Path
) -> None:
    """The encoder without its projection head, and the sources and units of the (n,) `train` rows that it has seen."""
    from cellvision.models import encoders

    facts = {
        "network": start.name,
        "branch": cfg.branch.name,
        "schema": branch.schema(),
        "held_out": cfg.fold,
        "steps_total": cfg.loop.steps + int(start.facts.get("steps_total", 0)),
        "origin": f"{cfg.method.name} on {len(train)} unlabelled items",
        "licence": "as the data it was trained on",
        "taught": list(start.facts.get("taught", [])),
    }
    history = start.seen | seen.of(branch.items, made.unit_of(branch.items), train)
    encoders.save(folder, module, start.state, facts, history)


def training_rate(cfg: Config, steps: int = 4) -> float:
    """Items per second of a training step on this machine, batches included: what turns a time budget into steps."""
    from cellvision.models import encoders
    from cellvision.training.device import autocast, pick_device

    branch = BRANCHES.build(cfg.branch, path=cfg.items)
    rows = np.arange(len(branch.items.table))
    batch = min(cfg.loop.batch, len(rows))
    device = pick_device(cfg.device, cfg.threads)
    method = METHODS.build(cfg.method)
    start = encoders.resolve(cfg.encoder or branch.default_encoder, branch, rows, 0)
    learner = build_learner(start, method, 0).to(device)
    draw = SourceBalanced(branch, start.state, rows, method.views, batch, 0, method.augment)
    times = []
    for step in range(steps):
        begun = time.perf_counter()
        views = {name: view.to(device) for name, view in draw(step).items()}
        with autocast(learner, cfg.loop.precision):
            value = method.step(learner, in_order(views))
        value.backward()
        times.append(time.perf_counter() - begun)
    return batch * method.views / float(np.median(times[1:]))


def write_curves(history: list[dict[str, float]], chance: float, out: Path) -> dict[str, Any]:
    """curves.parquet and curves.png; the last values as flat metrics, without a chance that is not known."""
    import pandas as pd

    from cellvision.plots.base import save
    from cellvision.plots.results import curves

    table = pd.DataFrame(history).assign(**({"chance": chance} if math.isfinite(chance) else {}))
    files.write_parquet(out / "curves.parquet", table)
    save(curves(table), out / "curves.png")
    last = table.ffill().iloc[-1]
    summary: dict[str, Any] = {key: float(last[key]) for key in table.columns if key not in ("step", "loss")}
    first = table.iloc[0]
    summary |= {f"{key}_random": float(first[key]) for key in ("rank", "knn", "identity") if key in table}
    return summary | {"loss": float(table["loss"].tail(LAST_STEPS).mean())}


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("pretrain"))
