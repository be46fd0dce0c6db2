"""Completion in shells: commands, flags and choices come from the parsers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cellvision import completion
from cellvision.__main__ import COMMANDS
from cellvision.commandline.cli import main
from cellvision.core.registry import Registry
from cellvision.segmenters import SEGMENTERS
from cellvision.strategies import STRATEGIES


def options_of(key: str, registry: Registry) -> set[str]:
    """The flags of every plugin of a family."""
    names = {option for plugin in registry.names() for option in registry.load(plugin).Config.model_fields}
    return {f"--{key}.{name.replace('_', '-')}" for name in names - {"name"}}


COMPLETED = [
    (["seg"], ["segment"]),
    (["segment", "--mode", "o"], ["object"]),
    (["segment", "--segmenter", ""], ["auto", *SEGMENTERS.names()]),
    (["finetune", "--strat"], ["--strategy", *options_of("strategy", STRATEGIES)]),
    (["plan", "--branch.max-mi"], ["--branch.max-mito"]),
    (["cluster", "--projections", "u"], ["umap"]),
    (["finetune", "--no-bas"], ["--no-baselines"]),
    (["completion", "b"], ["bash"]),
    (["segment", "--raw", ""], []),
    (["plan", "--threa"], []),
]  # fmt: skip


@pytest.fixture(scope="module")
def known() -> completion.Known:
    return completion.known_flags()


@pytest.fixture(scope="module")
def script(known: completion.Known, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bash") / "cellvision.bash"
    path.write_text(completion.bash(known))
    return path


@pytest.mark.parametrize(("words", "expected"), COMPLETED, ids=[" ".join(words) for words, _ in COMPLETED])
def test_bash_completes(script: Path, words: list[str], expected: list[str]) -> None:
    code = f'source {script}; COMP_WORDS=(cellvision "$@"); COMP_CWORD=$#; _cellvision; echo ${{COMPREPLY[@]}}'
    done = subprocess.run(["bash", "-c", code, "bash", *words], capture_output=True, text=True, check=True)
    assert not done.stderr
    assert set(done.stdout.split()) == set(expected)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command_prints_a_script_that_the_shell_can_read(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("completion", [shell]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert name in text
    assert "branch.max-mito" in text
    path = tmp_path / "script"
    path.write_text(text)
    if program := shutil.which(shell):
        checked = subprocess.run([program, "-n", str(path)], capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_no_quotes_are_left_open(known: completion.Known) -> None:
    for make in (completion.bash, completion.zsh, completion.fish):
        for line in make(known).splitlines():
            assert line.count("'") % 2 == 0
            assert line.count('"') % 2 == 0 or make is completion.fish  # texts of fish stand in single quotes


def test_every_flag_of_every_parser_is_known(known: completion.Known) -> None:
    assert set(known) == set(COMMANDS)
    names = {flag.name for flag in known["finetune"]}
    assert {"--view", "--branch.view", "--branch.max-mito", "--branch.sphere", "--out", "--no-baselines"} <= names
    assert "--strict" not in names
