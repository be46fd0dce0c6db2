"""The command line: what `--help` says is what a run does, and what has no effect is refused."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from cellvision import finetune, segmenters
from cellvision.__main__ import COMMANDS, GROUPS, dispatch
from cellvision.branches import BRANCHES
from cellvision.commandline import cli, flags
from cellvision.core import config
from cellvision.core.config import Only, StageConfig, StageModel, option
from cellvision.core.errors import ConfigError
from cellvision.core.registry import Registry
from cellvision.segmenters import SEGMENTERS
from cellvision.selfsup import METHODS
from cellvision.strategies import STRATEGIES

FAMILIES: dict[str, Registry[Any]] = {
    "branch": BRANCHES,
    "segmenter": SEGMENTERS,
    "method": METHODS,
    "strategy": STRATEGIES,
}
ROOMS = {
    "branch": ("branches", "BRANCHES"),
    "segmenter": ("segmenters", "SEGMENTERS"),
    "method": ("selfsup", "METHODS"),
    "strategy": ("strategies", "STRATEGIES"),
}
PLUGINS = [(key, name) for key, family in FAMILIES.items() for name in family.names()]
REQUIRED = {
    "items": "i",
    "model": "m",
    "raw": "r",
    "truth": "t",
    "run": "r",
    "to": "geojson",
    "name": "cpsam",
    "shell": "zsh",
}
HEAVY = {"torch", "pandas", "scipy", "skimage", "cv2", "PIL", "timm", "lightly", "sklearn"}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenters, "cellpose_at_hand", lambda: False)


def parser_of(command: str, *argv: str) -> cli.Parser:
    return cli.stage_parser(command, importlib.import_module(f"cellvision.{command}"), argv)


def needed(command: str) -> dict[str, Any]:
    model = importlib.import_module(f"cellvision.{command}").Config
    return {key: REQUIRED[key] for key, field in model.model_fields.items() if field.is_required()}


def actions(command: str, *argv: str) -> Iterator[argparse.Action]:
    for action in parser_of(command, *argv)._actions:
        if action.dest not in ("help", "config", "set", "out") and action.help != argparse.SUPPRESS:
            yield action


def choices_of_plugins() -> Iterator[tuple[str, ...]]:
    for command in COMMANDS:
        families = flags.registries(importlib.import_module(f"cellvision.{command}").Config)
        yield command, ""
        for key, family in families.items():
            yield from ((command, f"--{key}={name}") for name in family.names())


# -- what the help says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "choice"), list(choices_of_plugins()))
def test_the_default_that_help_shows_is_the_one_a_run_records(command: str, choice: str) -> None:
    argv = [choice] if choice else []
    module = importlib.import_module(f"cellvision.{command}")
    chosen = dict([choice.removeprefix("--").split("=")]) if choice else {}
    recorded = config.build(module.Config, needed(command) | chosen)
    checked = 0
    for action in actions(command, *argv):
        value: Any = recorded
        for part in action.dest.split("."):
            value = getattr(value, part)
        shown = re.search(r" \[([^\[\]]*)\]$", (action.help or "") % {})
        if action.dest in chosen or action.dest in needed(command):
            continue
        if shown is None:
            assert value in (None, "", ()), action.dest
        elif isinstance(action, argparse.BooleanOptionalAction):
            assert shown[1] == ("yes" if value else "no"), action.dest
        else:  # typed as it is shown, it changes nothing
            data = needed(command) | chosen
            config.assign(data, action.dest, action.type(shown[1]) if callable(action.type) else shown[1])
            again: Any = config.build(module.Config, data)
            for part in action.dest.split("."):
                again = getattr(again, part)
            assert again == value, action.dest
        checked += 1
    assert checked or command in ("doctor", "fetch", "report", "completion")


@pytest.mark.parametrize(
    ("command", "flag", "default"),
    [("pretrain", "--steps N, --loop.steps N", "600"), ("pretrain", "--batch", "256"),
     ("train_segmenter", "--steps", "200"), ("train_segmenter", "--batch", "8"), ("train_segmenter", "--lr", "0.0003"),
     ("finetune", "--steps", "300")],
)  # fmt: skip
def test_short_flags_show_the_default_of_their_own_stage(command: str, flag: str, default: str) -> None:
    name = flag.partition(" ")[0].rstrip(",")
    text = " ".join(parser_of(command).format_help().split())
    assert re.search(rf"{name}, --loop\.\S+ \S+ [^\[]*\[{re.escape(default)}\]", text)


@pytest.mark.parametrize("command", ["plan", "pretrain", "embed", "finetune", "ablate", "cluster", "importance"])
def test_every_branch_is_listed_with_a_line_of_its_own(command: str) -> None:
    text = parser_of(command).format_help()
    assert f"{{{','.join(BRANCHES.names())}}}" in text
    for name in BRANCHES.names():
        assert re.search(rf"^  {name} +\w+", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "flag", "words"),
    [("segment", "drop", ["border", "uncertain"]), ("segment", "mode", ["auto", "cell", "object", "tile"]),
     ("cluster", "projections", ["pca", "tsne", "umap"]), ("cluster", "method", ["leiden", "louvain", "auto"]),
     ("segment", "segmenter", ["auto", "nano", "threshold", "cellpose"]), ("plan", "folds", ["N", "units"]),
     ("finetune", "strategy", ["inherit", "mil", "ordinal"]), ("pretrain", "method", ["simclr", "masked"])],
)  # fmt: skip
def test_every_choice_stands_beside_its_flag(command: str, flag: str, words: list[str]) -> None:
    shown = next(str(action.metavar) for action in actions(command) if action.dest == flag)
    assert set(words) <= set(re.findall(r"\w+", shown))


def test_options_of_the_chosen_plugin_are_flags_and_no_others() -> None:
    text = parser_of("finetune", "--branch", "rna", "--strategy=mil").format_help()
    for name in ("metadata", "layer", "max-mito", "genes", "half", "orient"):
        assert f"--branch.{name} " in text
    assert re.search(r"branch\.keep +column", text)
    assert "--strategy.bag-items" in text
    assert "--view" not in text
    assert "--strategy.smoothing" not in text
    assert "--view, --branch.view {" in parser_of("finetune").format_help()


@pytest.mark.parametrize(
    "argv", [("--set", "branch.name=rna"), ("--set", "branch=rna"), ("--config", "FILE")], ids=["key", "name", "file"]
)
def test_a_plugin_may_be_chosen_by_set_or_by_a_file(argv: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("branch: {name: rna}\n")
    assert "--branch.genes" in parser_of("plan", *(word.replace("FILE", str(file)) for word in argv)).format_help()


def test_dotted_flags_and_underscores_reach_plugins() -> None:
    argv = ["--items", "x", "--branch", "rna", "--branch.max_mito", "0.2", "--branch.metadata=a.csv,b.csv",
            "--strategy", "mil", "--strategy.bag-items", "7", "--loop.warmup", "0.3", "--steps", "9",
            "--out", "o"]  # fmt: skip
    cfg = cli.read_config("finetune", argv)[1]
    assert (cfg.branch.max_mito, cfg.branch.metadata) == (0.2, (Path("a.csv"), Path("b.csv")))
    assert (cfg.strategy.bag_items, cfg.loop.warmup, cfg.loop.steps) == (7, 0.3, 9)
    dotted = ["--items", "x", "--branch", "rna", "--set", "branch.max_mito=0.2", "--out", "o"]
    assert cli.read_config("finetune", dotted)[1].branch.max_mito == 0.2


READ = """
import json, sys
from cellvision.commandline import sources
from cellvision.{room} import {family}
model = sources.options({family}, {name!r})
fields = [f"{{key}}: {{field!r}}" for key, field in model.model_fields.items()]
print(json.dumps([fields, [*sys.modules], sources.about({family}, {name!r})]))
"""


@pytest.mark.parametrize(("key", "name"), PLUGINS)
def test_options_are_read_from_the_source_without_the_plugin(key: str, name: str) -> None:
    room, family = ROOMS[key]
    code = READ.format(room=room, family=family, name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    fields, modules, about = json.loads(done.stdout)
    model = FAMILIES[key].load(name).Config
    assert fields == [f"{field}: {what!r}" for field, what in model.model_fields.items()]
    assert not HEAVY & set(modules)
    assert about


# -- what has no effect -------------------------------------------------------------------------------------------


class Sized(StageConfig):
    size: int | None = option(None, "px")
    scale: float = option(1.0, "with a size")
    uses: ClassVar[tuple[str, ...]] = ("seed",)
    rules: ClassVar[tuple[Only, ...]] = (Only(("scale",), lambda cfg: cfg.size is not None, "with --size"),)


def test_a_value_without_effect_is_an_error_and_a_default_is_none() -> None:
    assert config.build(Sized, {"size": 3, "scale": 2.0}).scale == 2.0
    with pytest.raises(ConfigError, match=r"^--scale has an effect only with --size$"):
        config.build(Sized, {"scale": 2.0})
    every = config.build(Sized, {}).model_dump()
    assert config.build(Sized, every) == Sized()


def test_a_typed_default_without_effect_is_an_error_too() -> None:
    with pytest.raises(ConfigError, match="--scale has an effect only with --size"):
        config.load(Sized, None, {"scale": "1.0"}, [])
    with pytest.raises(ConfigError, match="--threads has no effect in this command"):
        config.load(Sized, None, {}, ["threads=1"])


WITHOUT_EFFECT = [
    ("plan", "--units a --unit b", "--unit"),
    ("plan", "--threads 1", "--threads"),
    ("embed", "--transductive", "--transductive"),
    ("embed", "--workers 1", "--workers"),
    ("finetune", "--fold none --baselines", "--baselines"),
    ("finetune", "--fold none --poses 4", "--poses"),
    ("finetune", "--transductive", "--transductive"),
    ("finetune", "--fold 1 --workers 3", "--workers"),
    ("finetune", "--branch rna --branch.strata 2", "strata"),
    ("finetune", "--branch rna --view masked", "--view"),
    ("finetune", "--strategy mil --strategy.smoothing 0.1", "--strategy.smoothing"),
    ("segment", "--raw a --unit b", "--unit"),
    ("segment", "--raw a --metadata b", "--metadata"),
    ("segment", "--raw a --truth-by b", "--truth-by"),
    ("segment", "--raw a --truth-unit b", "--truth-unit"),
    ("segment", "--raw a --scale 0.5", "--scale"),
    ("segment", "--raw a --size 32", "--size"),
    ("segment", "--raw a --size 32 --scale 0.5 --max-size 64", "--max-size"),
    ("segment", "--crops a --metadata b --annotations c", "--annotations"),
    ("segment", "--crops a --metadata b --segmenter threshold", "--segmenter"),
    ("segment", "--crops a --metadata b --diameter 9", "--segmenter.diameter"),
    ("segment", "--raw a --threads 2", "--threads"),
    ("study", "--units a --unit b", "--unit"),
    ("export", "--to geojson --naming cellpose", "--naming"),
    ("export", "--to labels --object-type cell", "--object-type"),
    ("export", "--to labels --classify-by a", "--classify-by"),
    ("export", "--to labels --channel-names a", "--channel-names"),
    ("export", "--to geojson --raw a", "--raw"),
    ("export", "--to labels --predictions a", "--predictions"),
    ("predict", "--items a --strict", "--strict"),
    ("predict", "--items a --workers 2", "--workers"),
    ("cluster", "--encoder a --components 4", "--components"),
    ("cluster", "--branch image --encoder a --markers 4", "--markers"),
    ("simulate", "--kind calcium --images 3", "--images"),
    ("simulate", "--side 3", "--calcium.side"),
    ("extract", "--seed 2", "--seed"),
    ("report", "--strict", "--strict"),
]


@pytest.mark.parametrize(("command", "line", "flag"), WITHOUT_EFFECT, ids=[" ".join(case) for case in WITHOUT_EFFECT])
def test_a_flag_without_effect_is_one_line_and_exit_code_4(
    command: str, line: str, flag: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = {key: value for key, value in needed(command).items() if f"--{key} " not in f"{line} "}
    argv = [word for key, value in given.items() for word in ([value] if key == "run" else [f"--{key}", value])]
    assert cli.main(command, [*argv, *line.split(), "--out", str(tmp_path / "out")]) == 4
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert flag in said[0]
    assert "no effect" in said[0] or "effect only" in said[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("command", "choice"), list(choices_of_plugins()))
def test_a_config_that_a_run_has_written_can_be_run_again(command: str, choice: str, tmp_path: Path) -> None:
    model = importlib.import_module(f"cellvision.{command}").Config
    chosen = dict([choice.removeprefix("--").split("=")]) if choice else {}
    for extra in ({}, {"crops": "c", "metadata": "m"} if command == "segment" else {}):
        cfg = config.build(model, needed(command) | chosen | (extra if not chosen else {}))
        (tmp_path / "config.yaml").write_text(config.to_yaml(cfg))
        again = config.load(model, tmp_path / "config.yaml", {}, [])
        assert again == cfg


@pytest.mark.parametrize("command", COMMANDS)
def test_every_rule_names_keys_of_its_config(command: str) -> None:
    model = importlib.import_module(f"cellvision.{command}").Config
    rules = [rule for base in model.__mro__ for rule in base.__dict__.get("rules", ())]
    assert {key for rule in rules for key in rule.keys} <= set(model.model_fields)
    assert set(getattr(model, "uses", ())) <= set(StageConfig.model_fields)


# -- shared parts, messages ---------------------------------------------------------------------------------------


def test_a_fingerprint_is_that_of_the_keys_and_values_alone() -> None:
    keys = config.result_keys(config.build(finetune.Config, {"items": "a", "unit": None, "branch": "tabular"}))
    assert config.fingerprint(keys) == config.fingerprint(dict(reversed(keys.items())))
    assert config.fingerprint(keys) == FINETUNE_TABULAR


FINETUNE_TABULAR = "53f4e33b3e70fed7"  # of the options as they are: it changes with them alone


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_the_first_screen_names_every_command_in_its_group(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(argv) == (0 if argv else 4)
    shown = capsys.readouterr().out
    assert all(f"{group}:" in shown for group in GROUPS)
    assert all(re.search(rf"^  {name} +\w", shown, re.MULTILINE) for name in COMMANDS)
    assert max(map(len, shown.splitlines())) <= 110


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["segmnt"], "did you mean 'segment'"), (["segment", "--drp", "border"], "did you mean --drop"),
     (["finetune", "--branch", "rns"], "did you mean 'rna'"), (["plan", "--branch", "x.y"], "known: image"),
     (["finetune", "--branch.max_mito", "1"], "only with --branch rna"),
     (["plan", "--item", "x"], "did you mean --items")],
)  # fmt: skip
def test_an_unknown_word_is_answered_with_the_nearest(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(argv) == 4
    assert words in capsys.readouterr().err


def test_choices_are_found_inside_tuples_unions_and_optionals() -> None:
    class Example(StageModel):
        a: tuple[Literal["x", "y"], ...] | None = None
        b: int | Literal["all"] = 1
        c: Literal["p", None] = None
        d: bool | None = None
        e: tuple[Path, ...] = ()
        f: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - a model copies it

    shown = {key.dotted: key for key in flags.keys(Example, {})}
    assert [shown[name].choices for name in "abcd"] == [("x", "y"), ("all",), ("p",), ("true", "false")]
    assert [shown[name].value for name in "abe"] == ["{x,y},…", "N|{all}", "PATH,…"]
    assert [shown[name].is_list for name in "abef"] == [True, False, True, False]
