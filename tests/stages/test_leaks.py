"""The leak guard: an encoder that saw the test fold is refused under any name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_runs import STEPS, metrics_of, run

from cellvision import ablate, cluster, embed, finetune, pretrain, report, segment
from cellvision.branches import BRANCHES
from cellvision.commandline.cli import main
from cellvision.core.errors import LeakError
from cellvision.evidence import seen, splits
from cellvision.io import tensorfiles
from cellvision.models import encoders


def test_an_encoder_that_saw_the_test_fold_is_refused(
    cells: Path, planned: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {
        "items": cells,
        "splits": planned,
        "encoder": str(pretrained),
        "fold": "1",
        "baselines": False,
    }
    with pytest.raises(LeakError, match="has seen 8 of the 8 test sources"):
        run(finetune, tmp_path / "refused", **options)
    arguments = [f"--{name}={options[name]}" for name in ("items", "splits", "encoder", "fold")]
    assert main("finetune", [*arguments, "--size=32", "--workers=0", f"--out={tmp_path / 'cli'}"]) == 4
    message = capsys.readouterr().err.splitlines()[-1]
    assert "pretrain it with this fold held out, or give --transductive" in message
    stamped = run(finetune, tmp_path / "run", **options, transductive=True)
    assert metrics_of(stamped)["stamps"] == [
        f"transductive: encoder {str(pretrained)!r} has seen 8 of 8 test sources, known by their content"
    ]


def test_a_renamed_copy_of_a_test_image_does_not_slip_through(
    simulated: Path, pretrained: Path, tmp_path: Path
) -> None:
    """The guard compares contents, so images the encoder saw are known under any name and in any folder."""
    shutil.copytree(simulated / "raw", tmp_path / "raw")
    for path in (tmp_path / "raw").rglob("*.png"):
        path.rename(path.with_name(f"new_{path.name}"))
    segment.run(segment.Config(segmenter="threshold", raw=tmp_path / "raw", workers=0), tmp_path / "cells")
    with pytest.raises(LeakError):
        run(finetune, tmp_path / "run", items=tmp_path / "cells", encoder=str(pretrained))


def saved(path: Path, pixels: Any, **how: Any) -> None:
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **how)


FORMS: dict[str, Callable[[Path, Path], object]] = {
    "under another group": lambda old, to: shutil.copy(old, to / "other.png"),
    "in a deeper folder": lambda old, to: shutil.copytree(old.parent, to / "deep" / "er", ignore=all_but(old.name)),
    "a TIFF": lambda old, to: saved(to / "t.tif", Image.open(old)),
    "a JPEG": lambda old, to: saved(to / "j.jpg", Image.open(old), quality=85),
    "mirrored": lambda old, to: saved(to / "m.png", np.asarray(Image.open(old))[:, ::-1]),
    "cropped by a pixel": lambda old, to: saved(to / "c.png", np.asarray(Image.open(old))[1:, 1:]),
    "resized": lambda old, to: saved(to / "r.png", Image.open(old).resize((200, 160))),
    "a grey JPEG": lambda old, to: saved(to / "g.jpg", Image.open(old).convert("L"), quality=90),
}  # fmt: skip


def all_but(name: str) -> Callable[[Any, list[str]], list[str]]:
    return lambda folder, names: [other for other in names if other != name]


def test_images_are_known_in_every_form(
    simulated: Path, cells: Path, planned: Path, pretrained: Path, tmp_path: Path
) -> None:
    """A run of images that the encoder saw, each in another form, and of one that it did not see."""
    table = splits.read(planned).table.set_index("source_id")["fold"]
    path = pd.read_parquet(cells / "cells.parquet").groupby("source_id")["path"].first()
    trained = [simulated / "raw" / name for name in path[table[path.index].to_numpy() == 1]]
    unseen = simulated / "raw" / path[table[path.index].to_numpy() == 0].iloc[0]
    for (form, write), old in zip({**FORMS, "new": FORMS["a TIFF"]}.items(), [*trained, unseen], strict=True):
        (tmp_path / "raw" / form).mkdir(parents=True)
        write(old, tmp_path / "raw" / form)
    segment.run(segment.Config(segmenter="threshold", raw=tmp_path / "raw", workers=0), tmp_path / "cells")
    items = BRANCHES.build({"name": "image"}, path=tmp_path / "cells").items
    history = encoders.resolve(str(pretrained), BRANCHES.build({"name": "image"}, path=cells), np.arange(1), 0).seen
    known = set(seen.overlap(history, items, None, np.arange(len(items.table))).names)
    found = items.table.assign(known=items.table["source_id"].isin(known)).groupby("group")["known"].all()
    assert found.to_dict() == {**dict.fromkeys(FORMS, True), "new": False}


def test_an_ablation_and_its_page_say_what_an_arm_has_seen(
    cells: Path, planned: Path, pretrained: Path, tmp_path: Path
) -> None:
    arms = {"saw": {"encoder": str(pretrained), "transductive": True}, "random": {}}
    base = {"encoder": "test_resnet", "loop": STEPS}
    out = run(ablate, tmp_path / "run", items=cells, splits=planned, folds=2, seeds=[0], arms=arms, base=base)
    (stamp,) = [stamp for stamp in metrics_of(out)["stamps"] if "transductive" in stamp]
    assert stamp.startswith("arm 'saw': transductive: encoder")
    page = report.run(report.Config(run=out)).read_text("utf-8")
    assert "has seen 8 of 8 test sources, known by their content" in page


def test_the_probe_of_an_ablation_has_the_encoder_of_its_base(cells: Path, tmp_path: Path) -> None:
    """A recipe that every arm starts from is what the page tells of, fold by fold."""
    options: dict[str, Any] = {
        "items": cells, "folds": 2, "seeds": [0], "arms": {"linear": {}},
        "base": {"encoder": "pretrain:tiny", "loop": STEPS},
        "pretrain": {"tiny": {"encoder": "test_resnet", "loop": STEPS, "probes": 1}},
    }  # fmt: skip
    found = metrics_of(run(ablate, tmp_path / "run", **options))
    assert found["probe_encoder"] == "pretrain:tiny"
    assert not [stamp for stamp in found["stamps"] if "transductive" in stamp]


def test_weights_copied_out_tell_what_they_have_seen_and_others_are_stamped(
    cells: Path, planned: Path, pretrained: Path, tmp_path: Path
) -> None:
    """A plain file under any name; without its history, it is stamped, and so are the children of its children."""
    shutil.copy(pretrained / "encoder" / "weights.safetensors", tmp_path / "mine.safetensors")
    options: dict[str, Any] = {"items": cells, "splits": planned, "baselines": False}
    with pytest.raises(LeakError, match="has seen 8 of the 8 test sources"):
        run(finetune, tmp_path / "no", **options, fold="1", encoder=f"test_resnet@{tmp_path / 'mine.safetensors'}")
    tensors = tensorfiles.read(tmp_path / "mine.safetensors")[0]
    bare = {key.removeprefix("network.backbone."): value for key, value in tensors.items() if "backbone" in key}
    tensorfiles.write(tmp_path / "bare.safetensors", bare)
    told = "history unknown: the weights in bare.safetensors do not say what they have seen"
    spec = f"test_resnet@{tmp_path / 'bare.safetensors'}"
    child = run(pretrain, tmp_path / "child", items=cells, splits=planned, fold="0", encoder=spec, probes=1)
    assert told in metrics_of(child)["stamps"]
    grandchild = run(finetune, tmp_path / "grandchild", **options, fold="0", encoder=str(child))
    assert metrics_of(grandchild)["stamps"] == [told]
    embedded = run(embed, tmp_path / "embedded", items=cells, splits=planned, encoder=str(grandchild))
    assert told in metrics_of(embedded)["stamps"]
    assert metrics_of(embedded)["folds_probed"] == 1


def test_clusters_say_what_their_encoder_has_seen_and_was_taught(cells: Path, bundle: Path, tmp_path: Path) -> None:
    found = metrics_of(run(cluster, tmp_path / "run", items=cells, encoder=str(bundle), target="group", repeats=0))
    assert "transductive: the encoder has seen 16 of these 16 sources" in found["stamps"]
    assert "circular: the encoder was taught 'group', which the clusters are compared with" in found["stamps"]
