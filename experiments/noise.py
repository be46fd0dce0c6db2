"""Data without any signal, through the commands: how often a score's interval leaves chance out, with no stamp.

    python experiments/noise.py [--runs 200] [--first 0] [--only crops] [--out DIR]

Every run makes a small data set whose labels were drawn by lot - tables, counts, traces, ready crops, images, frames
of fields saved as files - with strong effects of the donor, slide, dish or field, names the unit as a user would (or
lets the command find it), and goes through finetune, embed, importance, ablate or pretrain and embed. Prints a line a
run, then the share of runs whose headline leaves chance out, and of all scores that do. About half an hour on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from cellvision import ablate, embed, finetune, importance, pretrain, segment
from cellvision.core import files
from cellvision.core.config import build
from cellvision.core.rng import generator

LOOP = {"steps": 40, "batch": 32}
COMMON = {"threads": 1, "device": "cpu"}
SHARE = 0.05  # of the runs may leave chance out


class Data(NamedTuple):
    """A data set without signal, and what a user says of it."""

    options: dict[str, Any]  # of every stage after segmentation
    encoder: str


class Units(NamedTuple):
    """(n,) unit and label of every row: units of unequal size, labels by lot, of the unit or of the row."""

    unit: NDArray[np.int64]
    label: NDArray[np.str_]


def drawn(rng: np.random.Generator, most: int = 20, rows: float = 1.8) -> Units:
    count, classes = int(rng.integers(6, most + 1)), int(rng.integers(2, 4))
    sizes = np.maximum(1, np.exp(rng.normal(rows, 0.7, count))).astype(int)
    unit = np.repeat(np.arange(count), sizes)
    of_unit = rng.permutation(np.arange(count) % classes)
    label = of_unit[unit] if rng.random() < 0.6 else rng.integers(0, classes, len(unit))
    return Units(unit, np.array([f"class {number}" for number in label]))


def values(rng: np.random.Generator, unit: NDArray[np.int64], width: int) -> NDArray[np.float64]:
    """(n, width) noise, most of it common to the rows of a unit."""
    return rng.normal(size=(unit.max() + 1, width))[unit] * 2 + rng.normal(size=(len(unit), width))


def table(rng: np.random.Generator, folder: Path) -> Data:
    unit, label = drawn(rng)
    frame = pd.DataFrame(values(rng, unit, 8).round(4), columns=[f"f{n}" for n in range(8)])
    files.write_csv(folder / "table.csv", frame.assign(donor=[f"d{n}" for n in unit], y=label))
    return Data({"items": folder / "table.csv", "branch": "tabular", "target": "y", "unit": "donor"}, "mlp-16")


def rows(rng: np.random.Generator, folder: Path) -> Data:
    """Donors that nobody mentions: every row is taken as independent, which has to be stamped."""
    made = table(rng, folder)
    frame = pd.read_csv(folder / "table.csv").drop(columns="donor")
    files.write_csv(folder / "table.csv", frame)
    return Data(made.options | {"unit": "row"}, made.encoder)


def counts(rng: np.random.Generator, folder: Path) -> Data:
    import anndata

    unit, label = drawn(rng)
    rate = np.exp(values(rng, unit, 30) / 2)
    obs = pd.DataFrame({"donor": [f"d{n}" for n in unit], "y": label}, index=[f"c{n}" for n in range(len(unit))])
    var = pd.DataFrame(index=[f"G{n}" for n in range(30)])
    matrix = rng.poisson(rate).astype(np.float32) + (np.arange(30) == 0)
    anndata.AnnData(matrix.astype(np.float32), obs=obs, var=var).write_h5ad(folder / "counts.h5ad")
    return Data({"items": folder / "counts.h5ad", "branch": "rna", "target": "y", "unit": "donor"}, "mlp-16")


def traces(rng: np.random.Generator, folder: Path) -> Data:
    unit, label = drawn(rng)
    time = np.arange(24)
    phase = rng.uniform(0, 6, unit.max() + 1)[unit]
    wave = np.sin(time / 3 + phase[:, None]) + rng.normal(0, 0.5, (len(unit), 24))
    frame = pd.DataFrame(wave.round(4), columns=[f"ERK_{n}" for n in time])
    frame = frame.assign(ID=[f"t{n}" for n in range(len(unit))], dish=[f"dish{n}" for n in unit], y=label)
    files.write_csv(folder / "traces.csv", frame)
    return Data({"items": folder / "traces.csv", "branch": "trace", "target": "y", "unit": "dish"}, "cnn-8")


def crops(rng: np.random.Generator, folder: Path) -> Data:
    unit, label = drawn(rng, 12)
    colour = rng.uniform(60, 200, (unit.max() + 1, 3))
    (folder / "crops").mkdir()
    names = [f"{number:04d}.png" for number in range(len(unit))]
    for name, slide in zip(names, unit, strict=True):
        pixels = np.clip(colour[slide] + rng.normal(0, 25, (24, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "crops" / name)
    slides = [f"s{n}" for n in unit]
    files.write_csv(folder / "meta.csv", pd.DataFrame({"image": names, "label": label, "slide": slides}))
    cells = folder / "cells"
    cut = {"crops": folder / "crops", "metadata": folder / "meta.csv", "unit": "slide", "workers": 0}
    segment.run(build(segment.Config, cut), cells)
    return Data({"items": cells, "branch": {"name": "image", "size": 32}, "target": "annotation"}, "test_resnet")


def images(rng: np.random.Generator, folder: Path, frames: int = 1) -> Data:
    """Fields of discs in two groups that do not differ; with frames, each field is saved as so many files."""
    fields, looks = int(rng.integers(3, 7)), rng.uniform(40, 120, (2, 6, 3))
    for group, name in enumerate("ab"):
        (folder / "raw" / name).mkdir(parents=True)
        for field in range(fields):
            picture = disc_field(rng, looks[group, field % 6])
            for frame in range(frames):
                shown = np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
                ending = f"_t{frame:02d}" if frames > 1 else ""
                Image.fromarray(shown).save(folder / "raw" / name / f"{name}field{field}{ending}.png")
    cut = {"raw": folder / "raw", "segmenter": "threshold", "workers": 0}
    segment.run(build(segment.Config, cut), folder / "cells")
    return Data({"items": folder / "cells", "branch": {"name": "image", "size": 32}}, "test_resnet")


def frames(rng: np.random.Generator, folder: Path) -> Data:
    return images(rng, folder, frames=4)


def disc_field(rng: np.random.Generator, colour: NDArray[np.float64], side: int = 120) -> NDArray[np.float64]:
    """(side, side, 3) discs of one colour and random sizes on a grid."""
    y, x = np.mgrid[:side, :side]
    picture = np.full((side, side, 3), 225.0)
    for row in range(4):
        for column in range(4):
            centre = 15 + 30 * np.array([row, column]) + rng.uniform(-3, 3, 2)
            picture[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < rng.uniform(6, 10) ** 2] = colour
    return picture


MAKERS: dict[str, Callable[[np.random.Generator, Path], Data]] = {
    "table": table, "rows": rows, "counts": counts, "traces": traces, "crops": crops, "images": images,
    "frames": frames,
}  # fmt: skip


# -- through the commands -----------------------------------------------------------------------------------------


class Score(NamedTuple):
    """One printed score: its interval and what it would be without signal."""

    name: str
    low: float
    high: float
    chance: float

    @property
    def leaves_chance_out(self) -> bool:
        return self.low > self.chance or self.high < self.chance


def run_finetune(data: Data, out: Path, seed: int) -> None:
    options = data.options | {"encoder": data.encoder, "loop": LOOP, "workers": 0, "seed": seed, **COMMON}
    tune = ["linear", "whole"][seed % 2]  # the plain models, which take most of the time, beside one of them
    finetune.run(build(finetune.Config, options | {"tune": tune, "baselines": tune == "linear"}), out)


def run_embed(data: Data, out: Path, seed: int) -> None:
    embed.run(build(embed.Config, data.options | {"encoder": data.encoder, "seed": seed, **COMMON}), out)


def run_pretrained(data: Data, out: Path, seed: int) -> None:
    """pretrain with fold 0 held out, then the probe of its encoder on fold 0, both by group."""
    given = {name: value for name, value in data.options.items() if name != "target"}
    loop = {"steps": 20, "batch": 16}
    options = given | {"encoder": data.encoder, "fold": "0", "loop": loop, "workers": 0, "seed": seed, **COMMON}
    pretrain.run(build(pretrain.Config, options), out.with_name("pretrained"))
    encoder = str(out.with_name("pretrained"))
    embed.run(build(embed.Config, given | {"encoder": encoder, **COMMON}), out)


def run_importance(data: Data, out: Path, seed: int) -> None:
    options = data.options | {"candidates": 4, "repeats": 1, "seed": seed, "threads": 1}
    importance.run(build(importance.Config, options), out)


def run_ablate(data: Data, out: Path, seed: int) -> None:
    arms = {"frozen": {"tune": "linear"}, "whole": {"tune": "whole"}}
    base = {"encoder": data.encoder, "loop": LOOP}
    options = data.options | {"arms": arms, "base": base, "seeds": (seed, seed + 1), "workers": 0, **COMMON}
    ablate.run(build(ablate.Config, options), out)


def stages_of(kind: str) -> list[Callable[[Data, Path, int], None]]:
    more = {"crops": [run_pretrained], "images": [run_pretrained], "frames": [run_pretrained], "traces": []}
    return [run_finetune, run_embed, run_ablate, *more.get(kind, [run_importance])]


def scores_of(out: Path) -> list[Score]:
    """The headline first, then every other score and difference that the page shows."""
    metrics = files.read_json(out / "metrics.json")
    if (out / "summary.csv").is_file():
        arms, pairs = files.read_csv(out / "summary.csv"), files.read_csv(out / "differences.csv")
        chance = 1 / len(set(files.read_parquet(out / "scored.parquet")["truth"]))
        scores = [Score(row.arm, row.balanced_accuracy_low, row.balanced_accuracy_high, chance)
                  for row in arms[arms["status"] == "ok"].itertuples()]  # fmt: skip
        return scores + [Score(f"{row.arm} minus", row.difference_low, row.difference_high, 0.0)
                         for row in pairs.itertuples()]  # fmt: skip
    chance = metrics.get("chance", metrics.get("linear_chance", np.nan))
    names = [name.removesuffix("_low") for name in metrics if name.endswith("_low")]
    accuracies = [name for name in names if name.endswith("balanced_accuracy") or name.startswith("baseline_")]
    accuracies += [name for name in names if name in ("agreement", "probe_unit_out")]
    zeros = [name for name in names if name.startswith("above_")]
    levels = [*((name, chance) for name in accuracies), *((name, 0.0) for name in zeros)]
    return [Score(name, metrics[f"{name}_low"], metrics[f"{name}_high"], level) for name, level in levels]


def stamps_of(out: Path) -> list[str]:
    return [stamp for stamp in files.read_json(out / "metrics.json").get("stamps", []) if stamp != ablate.ONE_SEED]


def one_run(number: int, only: str | None, folder: Path) -> tuple[str, list[Score], list[str]]:
    """-> what was run, its scores, its stamps."""
    rng = generator(number, "noise")
    kinds = [only] if only else list(MAKERS)
    kind = kinds[number % len(kinds)]
    stages = stages_of(kind)
    stage = stages[number // len(kinds) % len(stages)]
    with contextlib.redirect_stderr(io.StringIO()):
        data = MAKERS[kind](rng, folder)
        stage(data, folder / "run", number % 2)
    return f"{kind:7} {stage.__name__.removeprefix('run_'):10}", scores_of(folder / "run"), stamps_of(folder / "run")


def main() -> None:
    parser = argparse.ArgumentParser(description="How often a score on data without signal leaves chance out.")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", choices=list(MAKERS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tally: Counter[str] = Counter()
    for number in range(options.first, options.first + options.runs):
        folder = (options.out or Path(tempfile.mkdtemp())) / f"{number:04d}"
        folder.mkdir(parents=True)
        what, scores, stamps = one_run(number, options.only, folder)
        outside = [score for score in scores if score.leaves_chance_out]
        tally.update(runs=1, scores=len(scores), unscored=not scores, stamped=bool(stamps))
        if not stamps:
            tally.update(headlines=bool(scores[:1]) and scores[0].leaves_chance_out, outside=len(outside))
        shown = "; ".join(f"{score.name} {score.low:.2f} to {score.high:.2f}" for score in outside[:3])
        print(f"{number:4} {what} {'stamped ' if stamps else ''}{'OUTSIDE ' + shown if outside else ''}", flush=True)
        if options.out is None:
            shutil.rmtree(folder.parent)
    share = tally["headlines"] / tally["runs"]
    print(f"{tally['runs']} runs, {tally['stamped']} stamped, {tally['unscored']} without a score: "
          f"{tally['headlines']} headlines ({share:.1%}, bar {SHARE:.0%}) and {tally['outside']} of {tally['scores']} "
          "scores leave chance out without a stamp")  # fmt: skip


if __name__ == "__main__":
    main()
