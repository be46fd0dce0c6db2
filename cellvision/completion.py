"""Command: a script that completes commands, flags and choices in bash, zsh or fish, made from the same parsers.

bash and zsh: source <(cellvision completion bash); fish: cellvision completion fish | source
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from cellvision.commandline import cli, flags
from cellvision.core.config import StageModel, option
from cellvision.runs.calls import command

POSITIONAL = "shell"
HAS_OUT = False


class Config(StageModel):
    """Options of `completion`."""

    shell: Literal["bash", "zsh", "fish"] = option(..., "whose script is printed")


class Flag(NamedTuple):
    """A flag of a command, "" for its first word; the words it takes, and whether anything follows it."""

    name: str
    text: str
    words: tuple[str, ...]
    takes: bool


Known = Mapping[str, list[Flag]]  # the flags of each command


@command
def run(cfg: Config) -> None:
    """Print the script."""
    print({"bash": bash, "zsh": zsh, "fish": fish}[cfg.shell](known_flags()))


def known_flags() -> dict[str, list[Flag]]:
    from cellvision.__main__ import COMMANDS

    return {name: list(flags_of(name)) for name in COMMANDS}


def flags_of(command: str) -> Iterator[Flag]:
    """The flags of a command, and those of every plugin it may choose."""
    module = importlib.import_module(f"cellvision.{command}")
    families = flags.registries(module.Config)
    choices = [[f"--{key}={name}"] for key, family in families.items() for name in family.names()]
    seen: set[str] = set()
    for argv in choices or [[]]:
        for action in cli.stage_parser(command, module, argv)._actions:
            for name in action.option_strings or [""]:
                if name not in seen and action.help != argparse.SUPPRESS:
                    seen.add(name)
                    text = (action.help or "").replace("%%", "%")
                    yield Flag(name, text, getattr(action, "words", ()), action.nargs != 0)


def quoted(text: str) -> str:
    """For any of the three shells: nothing in it is expanded; an apostrophe becomes a typographic one."""
    return "'" + text.replace("\\", "").replace("'", "\u2019") + "'"


def listed(names: list[str]) -> str:
    return " ".join(filter(None, names))


def cases(known: Known) -> Iterator[tuple[str, str]]:
    """("segment --mode", "auto cell …") for each flag with choices."""
    for name, each in known.items():
        yield from ((f"{name} {flag.name}", listed(list(flag.words))) for flag in each if flag.words and flag.name)


def paths(known: Known) -> list[str]:
    """ "segment --raw" for each flag that takes something that cannot be listed, which may be a path."""
    return [f"{name} {flag.name}" for name, each in known.items() for flag in each
            if flag.takes and flag.name and not flag.words]  # fmt: skip


def first_words(each: list[Flag]) -> str:
    return listed([word for flag in each if not flag.name for word in flag.words])


def bash(known: Known) -> str:
    """A function for `complete`; where it has nothing to say, bash completes paths."""
    lines = [
        "_cellvision() {",
        '  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"',
        '  local words=""',
        "  COMPREPLY=()",
        f'  if [ "$COMP_CWORD" -le 1 ]; then words="{listed(list(known))} --help --version"',
        '  else case "$command $before" in',
        *(f'    {quoted(case)}) words="{words}" ;;' for case, words in cases(known)),
        f"    {'|'.join(map(quoted, paths(known)))}) return ;;",
        '    *) case "$command:$current" in',
        *(f'      {name}:-*) words="{listed([flag.name for flag in each])}" ;;' for name, each in known.items()),
        *(f'      {name}:*) words="{first_words(each)}" ;;' for name, each in known.items() if first_words(each)),
        "    esac ;;",
        "  esac; fi",
        '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        "complete -o default -F _cellvision cellvision",
    ]
    return "\n".join(lines)


def zsh(known: Known) -> str:
    """The same for `compdef`."""
    lines = [
        "#compdef cellvision",
        "_cellvision() {",
        "  local command=$words[2] before=$words[CURRENT-1]",
        f"  if (( CURRENT == 2 )); then compadd -- {listed(list(known))} --help --version; return; fi",
        '  case "$command $before" in',
        *(f"    ({quoted(case)}) compadd -- {words}; return ;;" for case, words in cases(known)),
        f"    ({'|'.join(map(quoted, paths(known)))}) _files; return ;;",
        "  esac",
        '  case "$command:$PREFIX" in',
        *(f"    ({name}:-*) compadd -- {listed([flag.name for flag in each])} ;;" for name, each in known.items()),
        *(f"    ({name}:*) compadd -- {first_words(each)} ;;" for name, each in known.items() if first_words(each)),
        "    (*) _files ;;",
        "  esac",
        "}",
        "compdef _cellvision cellvision",
    ]
    return "\n".join(lines)


def fish(known: Known) -> str:
    """A line for each command and flag, with what it does."""
    from cellvision.__main__ import COMMANDS

    lines = [
        f"complete -c cellvision -n __fish_use_subcommand -f -a {name} -d {quoted(COMMANDS[name])}" for name in known
    ]
    for name, each in known.items():
        there = f"complete -c cellvision -n '__fish_seen_subcommand_from {name}'"
        for flag in each:
            choice = f" -x -a {quoted(listed(list(flag.words)))}" if flag.words else " -r" if flag.takes else ""
            if len(flag.name) == 2:
                lines.append(f"{there} -s {flag.name[1:]} -d {quoted(flag.text)}")
            elif flag.name:
                lines.append(f"{there} -l {flag.name[2:]}{choice} -d {quoted(flag.text)}")
            elif flag.words:
                lines.append(f"{there} -f -a {quoted(listed(list(flag.words)))}")
    return "\n".join(lines)


if __name__ == "__main__":
    from cellvision.commandline.cli import main

    raise SystemExit(main("completion"))
