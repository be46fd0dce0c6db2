"""Stage: items and an encoder -> embeddings.h5ad (obs = the items table), kNN and linear probes on unseen units."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import BRANCHES, Branch
from cellvision.core import files
from cellvision.core.config import Only, option
from cellvision.core.progress import say
from cellvision.core.rng import generator, torch_seed
from cellvision.core.rundir import RunDir
from cellvision.evidence import metrics, scoring, seen, splits
from cellvision.evidence.configs import TargetConfig
from cellvision.evidence.problem import Supervised
from cellvision.evidence.splits import Splits
from cellvision.runs.calls import stage

if TYPE_CHECKING:
    import pandas as pd

    from cellvision.models.encoders import Trained

REVISION = 6
DRAWN = 5000  # items in the picture


class Config(TargetConfig):
    """Options of `embed`."""

    encoder: str | None = option(None, "network, NAME@imagenet, NAME@FILE, embedded name or pretrain run", runtime=True)
    transductive: bool = option(False, "probe on folds the encoder has seen, too; stamps the result")
    neighbours: int = option(10, "of the kNN probe", ge=1)
    short: ClassVar[dict[str, str]] = {"view": "branch.view", "size": "branch.size"}
    uses: ClassVar[tuple[str, ...]] = ("seed", "threads", "device")
    rules: ClassVar[tuple[Only, ...]] = (
        Only(("transductive",), lambda cfg: not cfg.transductive or cfg.encoder, "with a trained --encoder"),
    )


@stage
def run(cfg: Config, out: Path) -> None:
    """Embed every item once; probe the embedding on units that the encoder has not seen."""
    import torch

    from cellvision.models import encoders
    from cellvision.training.device import pick_device

    branch = BRANCHES.build(cfg.branch, path=cfg.items, reserved=cfg.reserved)
    split = splits.resolve(branch.items, cfg.splits, cfg.unit, cfg.units, cfg.target)
    spec = cfg.encoder or branch.default_encoder
    device = pick_device(cfg.device, cfg.threads)
    inputs = {"items": branch.items.content, "splits": split.content, "encoder": encoders.content_hash(spec)}
    with RunDir.claim(out, "embed", cfg, inputs, REVISION) as claimed:
        if not claimed.done:
            claimed.note(device=str(device), threads=torch.get_num_threads())
            every = np.arange(len(branch.items.table))
            trained = encoders.resolve(spec, branch, every, torch_seed(cfg.seed, "encoder"))
            features = encoders.embed(trained.module.to(device), branch, trained.state, every)
            write_h5ad(out / "embeddings.h5ad", features, branch, split)
            draw(cfg, branch, features, out / "embedding.png")
            summary = {"items": len(features), "features": trained.width, "rank": metrics.effective_rank(features)}
            claimed.finish(summary | {"notes": trained.notes} | probe(cfg, branch, split, trained, features))
    report_to_person(out)


def probe(cfg: Config, branch: Branch, made: Splits, trained: Trained, features: NDArray[np.float32]) -> dict[str, Any]:
    """kNN and balanced logistic regression on (n, d) features, fitted on training units, scored on unseen ones.

    The branch's plain features go through the same regression. An encoder that was not trained has its preprocessing
    fitted again in every fold.
    """
    from cellvision.evidence import baselines, targets

    table = branch.items.table
    if cfg.target not in table or table[cfg.target].nunique() < 2:
        return {"not_probed": "fewer than two classes"}
    alone = {"not_probed": f"no class of {cfg.target!r} has two units, so none can be scored on unseen ones"}
    if made.folds < 2:
        return alone
    target = targets.read(branch.items, cfg.target, bins=cfg.bins, least=cfg.min_examples)
    problem = Supervised(branch, made, target, "all", cfg.seed)
    stamps = set(splits.stamps(branch.items, made))
    parts: dict[str, list[pd.DataFrame]] = {"knn": [], "linear": []}
    tested = []
    for fold in problem.folds:
        train, test = problem.train_rows(fold), problem.test_rows(fold)
        common = seen.overlap(trained.seen, branch.items, problem.unit, test)
        if common.count and not cfg.transductive:
            continue
        stamps |= set(seen.guard(trained.seen, branch.items, problem.unit, test, "the encoder", transductive=True))
        if not trained.seen:
            features = fitted_again(cfg, branch, train)
        training = features[train], target.label[train]
        votes = metrics.knn_predict(*training, features[test], cfg.neighbours)
        model = baselines.estimator("logistic", 0)
        linear = baselines.fit_predict(model, *training, features[test], len(target.classes))
        tested.append(fold)
        for name, guess in (("knn", np.eye(len(target.classes))[votes]), ("linear", linear)):
            parts[name].append(scoring.predictions(problem.identity(test), guess, target.classes, target.text(test)))
    if not tested:
        return {"not_probed": "the encoder has seen every fold; pretrain it with a fold held out"}
    if not problem.evaluated():
        return alone
    problem.folds = tested
    return {"stamps": sorted(stamps), "folds_probed": len(tested)} | scores(problem, parts)


def scores(problem: Supervised, parts: dict[str, list[pd.DataFrame]]) -> dict[str, Any]:
    """Predictions of the folds by each probe -> their scores, beside those of the same regression on plain features."""
    import pandas as pd

    from cellvision.evidence import baselines

    summary: dict[str, Any] = {}
    for name, tables in parts.items():
        items = pd.concat(tables, ignore_index=True)
        scored = scoring.scored_rows(problem, items, scoring.of_sources(items, problem.target.classes))
        summary |= {f"{name}_{key}": value for key, value in scoring.summarise(problem.target, scored, items).items()}
    plain = {
        name: baselines.scored_rows(problem, name, baseline, None)
        for name, baseline in problem.branch.baselines().items()
        if baseline.estimator == "logistic"  # the same probe on plain features
    }
    return summary | scoring.beside(scored, plain)


def fitted_again(cfg: Config, branch: Branch, train: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n,) training rows -> (items, d) features of an untrained encoder, its preprocessing fitted to those rows."""
    from cellvision.models import encoders

    again = encoders.resolve(cfg.encoder or branch.default_encoder, branch, train, torch_seed(cfg.seed, "encoder"))
    return encoders.embed(again.module, branch, again.state, np.arange(len(branch.items.table)))


def draw(cfg: Config, branch: Branch, features: NDArray[np.float32], path: Path) -> None:
    """(n, d) features on their first two principal axes, by target and by group; a sample where there are many."""
    from cellvision.models import neighbours
    from cellvision.plots.points import projection

    table = branch.items.table
    rows = np.sort(generator(cfg.seed, "drawn").permutation(len(table))[:DRAWN])
    shown = {name: table[name].iloc[rows].to_numpy(str) for name in (cfg.target, "group") if name in table}
    plane = neighbours.project(features[rows], "pca", torch_seed(cfg.seed, "drawn"))
    projection(plane, shown, "principal axis", path)


def write_h5ad(path: Path, features: NDArray[np.float32], branch: Branch, made: Splits) -> None:
    """X (items, features) float32; obs the items table with unit and fold as used."""
    import anndata

    table = branch.items.table.assign(unit=made.unit_of(branch.items), fold=made.fold_of(branch.items))
    table = table.set_index(table.pop("item_id").astype(str))
    for name in table.columns:
        if table[name].dtype == object:
            table[name] = table[name].astype("string").astype("category")
    with files.atomic(path) as temporary:
        anndata.AnnData(features, obs=table).write_h5ad(temporary)


def report_to_person(out: Path) -> None:
    summary = files.read_json(out / "metrics.json")
    for note in summary["notes"]:
        say(f"embed: note: {note}")
    if "not_probed" in summary:
        say(f"embed: {summary['items']} items -> {out}; not probed: {summary['not_probed']}")
        return
    linear = "linear_balanced_accuracy"
    say(
        f"embed: linear {scoring.told(summary, linear)}, kNN {summary['knn_balanced_accuracy']:.3f}, "
        f"chance {summary['linear_chance']:.3f}; {summary['linear_level']}s of "
        f"{scoring.units_told(summary, linear)}, unseen -> {out}"
    )
    if summary["plain_models"]:
        plain = (f"{name} {summary[f'baseline_{name}']:.3f}" for name in summary["plain_models"])
        say(f"embed: the same probe on {', '.join(plain)}")
    for stamp in summary["stamps"]:
        say(f"embed: stamp: {stamp}")


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("embed"))
