"""Every command in the documents parses as it is written, and runs: with tiny settings behind it, on simulated data."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import TINY_STUDY
from corpus import pillow

from cellvision.__main__ import COMMANDS, dispatch
from cellvision.commandline.cli import read_config

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "cellvision/README.md", "pretrain/README.md", "data/README.md")
BLOCK, INLINE = re.compile(r"^```.*?\n(.*?)^```", re.DOTALL | re.MULTILINE), re.compile(r"`([^`]+)`")


def snippets(document: str) -> list[str]:
    """Lines of code blocks, without their comments, and inline code."""
    text = (ROOT / document).read_text("utf-8")
    lines = [line.split(" #")[0] for block in BLOCK.findall(text) for line in block.splitlines()]
    inline = [" ".join(code.split()) for code in INLINE.findall(BLOCK.sub("", text))]
    return [step.strip() for snippet in lines + inline for step in snippet.split("&&")]


def variants(command: str) -> list[str]:
    """`--branch a|b` is two commands."""
    choice = re.search(r"\S+\|\S+", command)
    options = choice[0].split("|") if choice else []
    return [command.replace(choice[0], option) for option in options] if choice else [command]


SNIPPETS = [snippet for document in DOCUMENTS for snippet in snippets(document)]
CALLS = sorted(
    {
        variant
        for snippet in SNIPPETS
        for variant in variants(re.sub(r"^python -m cellvision[ .]", "cellvision ", snippet))
        if variant.startswith("cellvision ")
    }
)
NAMED = [call for call in CALLS if "…" in call or "COMMAND" in call]  # what stands for many commands
EXACT = [call for call in CALLS if call not in NAMED]
QUICK = ["--workers", "0", "--device", "cpu"]
TINY = {  # behind the options of the document
    "simulate": ["--images", "1", "--height", "64", "--width", "64", "--workers", "0"],
    "segment": QUICK,
    "study": [f"--set={key}={json.dumps(value)}" for key, value in TINY_STUDY.items() if key != "segmenter"],
    "pretrain": ["--encoder", "test_resnet", "--size", "32", "--steps", "2", "--batch", "16", *QUICK],
    "finetune": ["--steps", "2", "--batch", "16", *QUICK],
    "predict": QUICK,
    "train_segmenter": ["--steps", "2", "--batch", "2", *QUICK],
}


def arguments_of(call: str) -> list[str]:
    return shlex.split(call)[1:]


def test_the_commands_of_the_documents_are_seen() -> None:
    assert len(EXACT) >= 13
    assert {"study", "predict", "finetune", "pretrain", "simulate", "segment"} <= {arguments_of(c)[0] for c in EXACT}
    assert variants("cellvision plan --branch rna|trace") == [
        "cellvision plan --branch rna",
        "cellvision plan --branch trace",
    ]


@pytest.mark.parametrize("call", EXACT)
def test_a_command_parses_as_it_is_written(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the recipes stand where the documents say
    stage, *arguments = arguments_of(call)
    assert stage in COMMANDS
    read_config(stage, arguments)  # raises for a flag or a value that does not exist


@pytest.mark.parametrize("call", NAMED)
def test_what_stands_for_many_commands_names_some(call: str) -> None:
    assert arguments_of(call)[0] in {*COMMANDS, "COMMAND"}


def flags_of(stage: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit) as ended:
        dispatch([stage, "--help"])
    assert ended.value.code == 0
    return set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out.replace("[no-]", "")))


def test_every_flag_in_the_documents_exists_and_help_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    flags = set().union(*(flags_of(stage, capsys) for stage in COMMANDS))
    named = {flag for snippet in SNIPPETS for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", snippet)}
    assert len(named) > 20
    assert not named - flags


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {snippet.split()[1] for snippet in SNIPPETS if snippet.startswith("make ")}
    assert {"setup", "demo", "test"} <= named <= targets


def test_the_commands_of_the_demo_parse() -> None:
    recipes = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    calls = [shlex.split(line) for line in re.findall(r"^\t\$\(BIN\)/cellvision (.*)", recipes, re.MULTILINE)]
    assert {stage for stage, *_ in calls} == {"doctor", "simulate", "study"}
    for stage, *arguments in calls:
        read_config(stage, arguments)


# -- they run --


def write_tables(folder: Path) -> None:
    """`FILE` for each branch: four donors of ten rows; every feature tells y."""
    import anndata

    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    labels = pd.DataFrame({"donor": [f"d{row // 10}" for row in range(40)], "y": np.where(y, "sick", "well")})
    values = rng.poisson(3, (40, 12)) + 3 * y[:, None]
    labels.join(pd.DataFrame(values + 0.5).add_prefix("f")).to_csv(folder / "tabular.csv", index=False)
    obs = labels.set_index(pd.Index([f"cell{row}" for row in range(40)]))
    anndata.AnnData(values.astype(np.float32), obs=obs).write_h5ad(folder / "rna.h5ad")
    labels.insert(0, "ID", obs.index)
    labels.join(pd.DataFrame(values).add_prefix("A_")).to_csv(folder / "trace.csv", index=False)


def write_crops(folder: Path) -> None:
    (folder / "DIR").mkdir()
    for number in range(4):
        pixels = np.full((20, 20), 40 * number, np.uint8)
        (folder / "DIR" / f"{number}.png").write_bytes(pillow(pixels, "PNG"))
    rows = "".join(f"{number}.png,{'ab'[number % 2]},p{number // 2}_A1\n" for number in range(4))
    (folder / "meta.csv").write_text(f"image,label,plate_well\n{rows}")


def write_images(folder: Path, simulated: Path) -> None:
    """`raw`, `new` and `masks`: an image of each group."""
    for image in (simulated / "raw").glob("*/*_0000.png"):
        mask = next((simulated / "truth" / "masks" / image.parent.name).glob(f"{image.stem}*"))
        for source, place in ((image, "raw"), (image, "new"), (mask, "masks")):
            (folder / place / image.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / place / image.parent.name)


FILES = {"tabular": "tabular.csv", "rna": "rna.h5ad", "trace": "trace.csv"}  # of each branch
INPUTS: dict[str, Callable[[pytest.FixtureRequest], Path]] = {  # runs that a command reads by name
    "runs/cells": lambda request: request.getfixturevalue("cells"),
    "runs/study": lambda request: request.getfixturevalue("studied"),
}


@pytest.fixture
def workplace(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds what the documents' commands read, under the names they give it."""
    write_images(tmp_path, simulated)
    write_tables(tmp_path)
    write_crops(tmp_path)
    shutil.copytree(ROOT / "pretrain", tmp_path / "pretrain", ignore=shutil.ignore_patterns("*.py"))
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUNNABLE = [call for call in EXACT if arguments_of(call)[0] not in ("fetch", "doctor")]  # network; make setup runs it


@pytest.mark.parametrize("call", RUNNABLE)
def test_a_command_runs(call: str, workplace: Path, request: pytest.FixtureRequest) -> None:
    stage, *arguments = arguments_of(call)
    options: dict[str, Any] = dict(pairwise(arguments))
    for name, fixture in INPUTS.items():
        if any(argument.startswith(name) for argument in arguments) and options.get("--out") != name:
            shutil.copytree(fixture(request), workplace / name)
    if "FILE" in arguments:
        arguments[arguments.index("FILE")] = FILES[options["--branch"]]
    assert dispatch([stage, *arguments, *TINY.get(stage, [])]) == 0
    if "--out" in options:
        assert (workplace / options["--out"]).exists()
