r"""The embedded segmenter `nano`, from data to weights: pack, train, score, and what is missing.

python pretrain/nano.py pack  --data $CELLVISION_REALDATA --out runs/nano/pack
python pretrain/nano.py train --pack runs/nano/pack --out runs/nano/base --steps 6500 \
    --shares '{"usiigaci": 0}'
python pretrain/nano.py leave-one-out --data $CELLVISION_REALDATA --start runs/nano/base/nano.safetensors
python pretrain/nano.py train --pack runs/nano/pack --start runs/nano/base/nano.safetensors --out runs/nano/final \
    --steps 1500 --lr 1e-3
python pretrain/nano.py train --pack runs/nano/pack --start runs/nano/final/nano.safetensors --out runs/nano/longer \
    --steps 11000 --batch 8 --lr 1e-3 --workers 0 --shares '{"fluorescence": 0.6}'
python pretrain/nano.py score --data $CELLVISION_REALDATA --pack runs/nano/pack
python pretrain/nano.py ceiling --data $CELLVISION_REALDATA --pack runs/nano/pack

Of every kind of image a fifth of the units is held out of training, chosen by the hash of its name; a unit is a picture
or an image. Without --data only painted images are packed. Training needs torch, timm and numpy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HELD_OUT = 5  # every fifth unit of a kind
SHARES = {  # of the crops, by kind; only their ratios count
    "fluorescence": 0.36, "stained_purple_on_white": 0.10, "stained_purple_on_purple": 0.10, "brightfield_gray": 0.04,
    "usiigaci": 0.08, "chula": 0.05, "cbc": 0.10, "disease": 0.02, "neuron_pfc": 0.02, "plant": 0.01,
    "sim_neuron": 0.03, "sim_phloem": 0.03, "sim_rbc": 0.03, "sim_xylem": 0.03,
}  # fmt: skip
CLOSER = {"neuron_pfc": 3.0, "sim_neuron": 2.0, "usiigaci": 1.7}  # branching and thin cells are shown larger by this
NUCLEI = ("fluorescence", "stained_purple_on_white", "stained_purple_on_purple", "brightfield_gray")
PAINTED = 60  # images a group
MARKED = 0.95  # least share of the points of a smear that lie in a cell


@dataclass(frozen=True)
class Sample:
    """An image with its label map; `unknown` marks pixels that are neither cell nor background."""

    name: str
    kind: str
    unit: str
    pixels: NDArray[np.uint8]
    masks: NDArray[np.int32]
    unknown: NDArray[np.bool_] | None = None


# -- the sets -----------------------------------------------------------------------------------------------------


def labelled(data: Path) -> Iterator[Sample]:
    """Sets with instance masks."""
    import pandas as pd

    nuclei = pd.read_csv(data / "dsb2018" / "meta.csv", dtype=str)
    for row in nuclei.itertuples():
        folder = data / "dsb2018"
        masks = read_masks(folder / row.mask)
        yield Sample(row.image, row.modality, f"dsb {row.picture}", read_pixels(folder / row.image), masks)
    for kind, folder in (("usiigaci", data / "usiigaci_t98g"), ("neuron_pfc", data / "neuron_pfc")):
        for row in pd.read_csv(folder / "meta.csv", dtype=str).itertuples():
            yield Sample(row.image, kind, row.image, read_pixels(folder / row.image), read_masks(folder / row.mask))


def smears(data: Path) -> Iterator[Sample]:
    """Blood smears: masks of the threshold segmenter where all points agree; boxes as ellipses where there are some."""
    import pandas as pd

    from cellvision.segmenters import SEGMENTERS

    cut = SEGMENTERS.build({"name": "threshold"}, device="cpu")
    points = pd.read_csv(data / "rbc_chula12" / "points.csv")
    for name, rows in points.groupby("image"):
        pixels = read_pixels(data / "rbc_chula12" / "images" / str(name))
        masks = cut.segment(pixels).masks
        at = masks[rows["y"].clip(0, masks.shape[0] - 1), rows["x"].clip(0, masks.shape[1] - 1)]
        if (at > 0).mean() >= MARKED and len(np.unique(at[at > 0])) == (at > 0).sum():
            yield Sample(str(name), "chula", f"chula {name}", pixels, masks)
    for path in sorted((data / "rbc_disease_weak" / "images").glob("*/*.*")):
        pixels = read_pixels(path)
        yield Sample(path.name, "disease", f"disease {path.name}", pixels, cut.segment(pixels).masks)
    boxes = pd.read_csv(data / "blood_cbc" / "boxes.csv")
    for name, rows in boxes.groupby("image"):
        pixels = read_pixels(data / "blood_cbc" / "images" / str(name))
        masks, unknown = ellipses(rows, cut.segment(pixels).masks)
        yield Sample(str(name), "cbc", f"cbc {name}", pixels, masks, unknown)


def ellipses(boxes: Any, found: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Boxes filled by ellipses, the nearest one where they overlap; other cells where threshold finds whole ones.

    `found`, (H, W), holds threshold's labels; -> (H, W) labels, (H, W) bool: what is unknown.
    What threshold calls cell and neither of them explains is unknown. A box at the border keeps its far edges only.
    """
    height, width = found.shape
    y, x = np.mgrid[:height, :width]
    nearest, masks = np.ones((height, width)), np.zeros((height, width), np.int32)
    for number, box in enumerate(boxes.itertuples(), 1):
        x0, x1, y0, y1 = box.x0, box.x1, box.y0, box.y1
        side = max(x1 - x0, y1 - y0)
        x0, x1 = (x1 - side if x0 <= 1 else x0), (x0 + side if x1 >= width - 2 else x1)
        y0, y1 = (y1 - side if y0 <= 1 else y0), (y0 + side if y1 >= height - 2 else y1)
        far = ((x - (x0 + x1) / 2) / max(1, (x1 - x0) / 2)) ** 2 + ((y - (y0 + y1) / 2) / max(1, (y1 - y0) / 2)) ** 2
        closer = far < nearest
        masks[closer], nearest[closer] = number, far[closer]
    boxed = np.bincount(masks.ravel())[1:]
    low, high = 0.4 * np.median(boxed[boxed > 0]), 2 * np.median(boxed[boxed > 0])
    for label in range(1, found.max() + 1):
        here = found == label
        if low < here.sum() < high and (masks[here] > 0).mean() < 0.1:
            masks[here & (masks == 0)] = masks.max() + 1
    return masks, (found > 0) & (masks == 0)


def plants(data: Path) -> Iterator[Sample]:
    folder = data / "plant_morpholibj"
    for path in sorted((folder / "masks_auto").glob("*.*")):
        image = next((folder / "images").glob(f"{path.stem.split('_auto')[0].split('_labels')[0]}*"), None)
        if image is not None:
            yield Sample(image.name, "plant", image.name, read_pixels(image), read_masks(path))


def painted(out: Path, seed: int, images: int) -> Iterator[Sample]:
    """The simulator's groups."""
    from cellvision import simulate

    simulate.run(simulate.Config(images=images, seed=seed), out)
    for path in sorted((out / "raw").glob("*/*.png")):
        group = path.parent.name
        masks = read_masks(out / "truth" / "masks" / group / f"{path.stem}.tif")
        yield Sample(path.name, f"sim_{group}", f"seed {seed} {path.name}", read_pixels(path), masks)


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """(H, W, 1 or 3) uint8, as `segment` reads it."""
    from cellvision.cells.pixels import ReadConfig, in_8_bits, read_as

    how = ReadConfig()
    return in_8_bits(read_as(path, how), how)


def read_masks(path: Path) -> NDArray[np.int32]:
    import cv2

    masks = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.int32)
    masks = masks if masks.ndim == 2 else masks[..., 0]
    return np.unique(masks, return_inverse=True)[1].reshape(masks.shape).astype(np.int32)


def held_out(samples: list[tuple[str, str]]) -> set[str]:
    """(kind, unit) pairs -> the units held out: within each kind every fifth, in the order of their hashes."""
    kinds: dict[str, set[str]] = {}
    for kind, unit in samples:
        kinds.setdefault(kind, set()).add(unit)
    chosen: set[str] = set()
    for units in kinds.values():
        chosen |= set(sorted(units, key=lambda unit: hashlib.sha256(unit.encode()).hexdigest())[::HELD_OUT])
    return chosen


# -- pack ---------------------------------------------------------------------------------------------------------


def pack_one(sample: Sample, path: Path) -> None:
    """One sample's scene and native image as an .npz file, made once."""
    from cellvision.segmenters.nano.training import native_of, scene_of

    if path.exists() or not sample.masks.any():
        return
    closer = CLOSER.get(sample.kind, 1.0)
    scene = scene_of(sample.pixels, sample.masks, sample.unknown, closer)
    native, diameter = native_of(sample.pixels, sample.masks, closer)
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as handle:
        np.savez(handle, scene=scene, native=native, diameter=diameter)
    temporary.rename(path)


def pack(options: argparse.Namespace) -> None:
    """Write train/scenes, train/natives and the list of what is held out."""
    from cellvision.segmenters.nano.training import pack as write

    out: Path = options.out
    (out / "parts").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for sample in samples(options):
        name = hashlib.sha256(f"{sample.kind} {sample.name}".encode()).hexdigest()[:16]
        content = hashlib.sha256(sample.pixels.tobytes()).hexdigest()
        rows.append({"kind": sample.kind, "unit": sample.unit, "name": sample.name, "part": name, "sha256": content})
        pack_one(sample, out / "parts" / f"{name}.npz")
    kept_out = held_out([(row["kind"], row["unit"]) for row in rows])
    for row in rows:
        row["held_out"] = row["unit"] in kept_out
    train = [row for row in rows if not row["held_out"] and (out / "parts" / f"{row['part']}.npz").exists()]
    for store, key in (("scenes", "scene"), ("natives", "native")):
        samples_of_store = (
            (arrays[key], {**row, "diameter": float(arrays["diameter"])}) for row, arrays in loaded(out, train)
        )
        write(out / store, samples_of_store)
    (out / "sets.json").write_text(json.dumps(rows, indent=1))


def samples(options: argparse.Namespace) -> Iterator[Sample]:
    yield from painted(
        (options.pack if hasattr(options, "pack") else options.out) / "painted", seed=101, images=PAINTED
    )
    if options.data:
        yield from labelled(options.data)
        yield from plants(options.data)
        yield from smears(options.data)


def loaded(out: Path, rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Any]]:
    for row in rows:
        with np.load(out / "parts" / f"{row['part']}.npz") as arrays:
            yield row, arrays


def weigh(rows: list[dict[str, Any]], shares: dict[str, float]) -> None:
    """Every kind gets its share, every unit of it the same part, every image of a unit the same part of that."""
    for kind in {row["kind"] for row in rows}:
        kind_rows = [row for row in rows if row["kind"] == kind]
        units = [row["unit"] for row in kind_rows]
        for row in kind_rows:
            row["weight"] = shares[kind] / len(set(units)) / units.count(row["unit"])


# -- train --------------------------------------------------------------------------------------------------------


def train(options: argparse.Namespace) -> None:
    """Train with checkpoints; repeat the command to go on."""
    import torch

    from cellvision.segmenters.nano import network as nano_network
    from cellvision.segmenters.nano import training as nano_training
    from cellvision.training import loop
    from cellvision.training.device import pick_device
    from cellvision.training.schedule import LoopConfig

    device = pick_device(options.device, options.threads)
    torch.manual_seed(0)
    network = nano_network.load(options.start) if options.start else nano_network.NanoNetwork()
    network = network.to(device, memory_format=torch.channels_last)
    scenes, natives = (nano_training.Scenes(options.pack / name) for name in ("scenes", "natives"))
    for store in (scenes, natives):
        weigh(store.rows, SHARES | json.loads(options.shares))
    cfg = LoopConfig(
        steps=options.steps,
        batch=options.batch,
        lr=options.lr,
        weight_decay=0.02,
        warmup=0.05,
        ema=0.998,
        checkpoint_s=60,
    )
    draw = nano_training.Batches(scenes, natives, options.batch, seed=0)
    history = loop.train(
        network, nano_training.loss, draw, cfg, seed=0, folder=options.out / "checkpoints", what="nano",
        workers=options.workers,
    )  # fmt: skip
    (options.out / "history.json").write_text(json.dumps(history))
    nano_network.save(options.out / "nano.safetensors", network, {"steps": str(options.steps)})


# -- leave one out --


def leave_one_out(options: argparse.Namespace) -> None:
    """Of a kind with few images: fine-tune on all but one, score that one, for each of them."""
    import tempfile

    import torch

    from cellvision.evidence import overlap
    from cellvision.segmenters import SEGMENTERS
    from cellvision.segmenters.nano import network as nano_network
    from cellvision.segmenters.nano import training as nano_training
    from cellvision.training import loop
    from cellvision.training.device import pick_device
    from cellvision.training.schedule import LoopConfig

    of_kind = [sample for sample in labelled(options.data) if sample.kind == options.kind]
    scores = []
    for left_out in of_kind:
        pick_device("cpu", 1)
        torch.manual_seed(0)
        others = [sample for sample in of_kind if sample.unit != left_out.unit]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            closer = CLOSER.get(options.kind, 1.0)
            scenes = (
                (nano_training.scene_of(sample.pixels, sample.masks, closer=closer), {"weight": 1.0})
                for sample in others
            )
            nano_training.pack(folder / "scenes", scenes)
            natives = (nano_training.native_of(sample.pixels, sample.masks, closer) for sample in others)
            rows = ((image, {"weight": 1.0, "diameter": diameter}) for image, diameter in natives)
            nano_training.pack(folder / "natives", rows)
            draw = nano_training.Batches(
                *(nano_training.Scenes(folder / what) for what in ("scenes", "natives")), options.batch, seed=0
            )
            network = nano_network.load(options.start)
            cfg = LoopConfig(steps=options.steps, batch=options.batch, lr=options.lr, weight_decay=0.02, ema=0.98)
            loop.train(
                network, nano_training.loss, draw, cfg, seed=0, folder=folder / "checkpoints", what=left_out.name
            )
            nano_network.save(folder / "nano.safetensors", network, {})
            settings = {"name": "nano", "weights": str(folder / "nano.safetensors")} | json.loads(options.settings)
            cut = SEGMENTERS.build(settings, device="cpu")
            scores.append(overlap.score(left_out.masks, cut.segment(left_out.pixels).masks))
        print(left_out.name, json.dumps({key: round(value, 3) for key, value in scores[-1].items()}), flush=True)
    print(options.kind, json.dumps({key: round(value, 3) for key, value in overlap.summarise(scores).items()}))


# -- score --------------------------------------------------------------------------------------------------------


def score(options: argparse.Namespace) -> None:
    """AP of the held-out units, by kind; the recall of boxes and points where there are no masks."""
    import torch

    from cellvision.evidence import overlap
    from cellvision.segmenters import SEGMENTERS

    torch.set_num_threads(1)
    rows = json.loads((options.pack / "sets.json").read_text())
    wanted = {(row["kind"], row["name"]) for row in rows if row["held_out"]}
    settings = {"name": "nano", **({"weights": str(options.weights)} if options.weights else {})}
    cut = SEGMENTERS.build(settings | json.loads(options.settings), device="cpu")
    torch.set_num_threads(1)
    scores: dict[str, list[dict[str, float]]] = {}
    for sample in samples(options):
        if (sample.kind, sample.name) in wanted and (not options.kinds or sample.kind in options.kinds.split(",")):
            masks = cut.segment(sample.pixels).masks
            if sample.unknown is not None:
                masks = np.where(sample.unknown, 0, masks)
            scores.setdefault(sample.kind, []).append(overlap.score(sample.masks, masks) | {"unit": sample.unit})
    table = {kind: overlap.summarise(kind_scores) for kind, kind_scores in scores.items()}
    for kind, summary in table.items():
        print(kind, json.dumps({key: round(value, 3) for key, value in summary.items()}))
    nuclei = [row for kind in NUCLEI for row in scores.get(kind, [])]
    print("dsb2018", json.dumps({key: round(value, 3) for key, value in overlap.summarise(nuclei).items()}))
    if options.out:
        options.out.write_text(json.dumps(table, indent=1))


# -- ceiling ------------------------------------------------------------------------------------------------------


def ceiling(options: argparse.Namespace) -> None:
    """AP of images trained on, with parts of the truth in the place of what nano finds: where the rest is lost."""
    import cv2
    import torch

    from cellvision.evidence import overlap
    from cellvision.segmenters import SEGMENTERS
    from cellvision.segmenters.nano import dynamics
    from cellvision.segmenters.nano import network as nano_network
    from cellvision.segmenters.nano import segmenter as nano

    trained = {row["name"]: row["unit"] for row in json.loads((options.pack / "sets.json").read_text())
               if row["kind"] == options.kind and not row["held_out"]}  # fmt: skip
    units = sorted(set(trained.values()), key=lambda unit: hashlib.sha256(unit.encode()).digest())[: options.units]
    given = {"name": "nano"} | ({"weights": str(options.weights)} if options.weights else {})
    cut, truth = SEGMENTERS.build(given, device="cpu"), SEGMENTERS.build(given, device="cpu")
    torch.set_num_threads(1)
    scores: dict[str, list[dict[str, float]]] = {}
    seen: list[str] = []
    for sample in labelled(options.data):
        if sample.kind != options.kind or trained.get(sample.name) not in units or seen.count(sample.unit) == 2:
            continue
        seen.append(sample.unit)
        image, diameter = nano_network.normalise(sample.pixels), nano_network.typical_diameter(sample.masks)
        small = nano.resized(image, nano.scale_of(diameter))
        labels = cv2.resize(sample.masks, small.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        flow, log_odds = np.split(cut.predict(small), [2])
        true_flow = 5 * dynamics.masks_to_flow(labels)
        true_log_odds = np.where(labels > 0, 6, -6).astype(np.float32)[None]
        scores.setdefault("found", []).append(overlap.score(sample.masks, cut.segment(sample.pixels).masks))
        for what, parts in {
            "true diameter": (flow, log_odds), "and foreground": (flow, true_log_odds),
            "and flows": (true_flow, log_odds), "and both": (true_flow, true_log_odds),
        }.items():  # fmt: skip
            truth.predict = lambda _, parts=parts: np.concatenate(parts)
            scores.setdefault(what, []).append(overlap.score(sample.masks, truth.at_scale(image, diameter)[0]))
    for what, image_scores in scores.items():
        print(what, json.dumps({key: round(value, 3) for key, value in overlap.summarise(image_scores).items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(required=True)
    action = actions.add_parser("pack", help="scenes and flows of all sets")
    action.add_argument("--data", type=Path)
    action.add_argument("--out", type=Path, required=True)
    action.set_defaults(run=pack)
    action = actions.add_parser("train", help="weights from the packed scenes")
    action.add_argument("--pack", type=Path, required=True)
    action.add_argument("--out", type=Path, required=True)
    action.add_argument("--start", type=Path, help="weights to go on from")
    action.add_argument("--shares", default="{}", help="of kinds, as JSON, instead of SHARES; 0 leaves a kind out")
    action.add_argument("--steps", type=int, default=4000)
    action.add_argument("--batch", type=int, default=16)
    action.add_argument("--lr", type=float, default=2e-3)
    action.add_argument("--threads", type=int, default=1)
    action.add_argument("--workers", type=int, default=1)
    action.add_argument("--device", default="auto")
    action.set_defaults(run=train)
    action = actions.add_parser("leave-one-out", help="a kind with few images, from weights that have not seen it")
    action.add_argument("--data", type=Path, required=True)
    action.add_argument("--start", type=Path, required=True)
    action.add_argument("--kind", default="usiigaci")
    action.add_argument("--settings", default="{}", help="options of nano as JSON")
    action.add_argument("--steps", type=int, default=600)
    action.add_argument("--batch", type=int, default=8)
    action.add_argument("--lr", type=float, default=5e-4)
    action.set_defaults(run=leave_one_out)
    action = actions.add_parser("score", help="AP of the held-out units")
    action.add_argument("--data", type=Path)
    action.add_argument("--pack", type=Path, required=True, help="says what was held out")
    action.add_argument("--weights", type=Path)
    action.add_argument("--settings", default="{}", help="options of nano as JSON")
    action.add_argument("--kinds", help="only these, separated by commas")
    action.add_argument("--out", type=Path)
    action.set_defaults(run=score)
    action = actions.add_parser("ceiling", help="AP of images trained on, with parts of the truth given")
    action.add_argument("--data", type=Path, required=True)
    action.add_argument("--pack", type=Path, required=True, help="says what was held out")
    action.add_argument("--weights", type=Path)
    action.add_argument("--kind", default="fluorescence")
    action.add_argument("--units", type=int, default=60, help="pictures, of each at most two images")
    action.set_defaults(run=ceiling)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
