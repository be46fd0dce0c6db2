"""The command line of every stage, made from its Config; and the exit codes.

0 ok, 1 internal, 2 inputs rejected under --strict, 3 no usable input, 4 bad config or usage, 5 unsafe input,
28 disk full, 130/143 signals. A path that cannot be read or written, and what does not fit into memory, count as usage.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from cellvision.commandline import flags, sources
from cellvision.commandline.flags import Key
from cellvision.core import config, files, signals
from cellvision.core.config import StageConfig, StageModel
from cellvision.core.errors import CellvisionError, ConfigError, DiskFull
from cellvision.core.progress import say

WIDTH, INDENT = 110, 30  # of the help, and where its texts begin
EVERYWHERE = "running it"
OUT_OF_MEMORY = re.compile(r"out of memory|allocate memory|bad_alloc", re.IGNORECASE)  # in words of libraries
ADVICE = {  # for what the system refuses
    errno.EACCES: "check who may read and write it",
    errno.EPERM: "check who may read and write it",
    errno.EROFS: "this disk is read-only; give an --out on another one",
    errno.EMFILE: "raise the limit with ulimit -n, or use fewer --workers",
    errno.ENFILE: "close other programs, or use fewer --workers",
    errno.ENAMETOOLONG: "use shorter names",
    errno.ELOOP: "these links point at each other; remove them",
    errno.EFBIG: "this disk takes no file of that size; use another one",
    errno.ENOENT: "it is not there, or no longer",
    errno.EISDIR: "a file was expected, not a folder",
    errno.ENOTDIR: "a folder was expected, not a file",
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO),
                    "check that its disk or network share is there and sound, and repeat the command"),
}  # fmt: skip


class Formatter(argparse.RawDescriptionHelpFormatter):
    """The value stands once, after all names of a flag; a switch is --[no-]name."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=INDENT, width=width())

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = [name for name in action.option_strings if not name.startswith("--no-")]
        if isinstance(action, argparse.BooleanOptionalAction):
            return ", ".join(f"--[no-]{name[2:]}" for name in names)
        if not names or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(names)} {action.metavar}"


class Parser(argparse.ArgumentParser):
    """argparse with this project's exit code for bad usage; `--max_size` is `--max-size`; nothing is abbreviated."""

    model: type[StageModel] | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=Formatter, add_help=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args([dashed(word) for word in args or ()], namespace)

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        raise ConfigError(f"{message} ({self.hint(unknown[1]) if unknown else ''}see {self.prog} --help)")

    def refuse_unknown(self, argv: Sequence[str]) -> None:
        """Name an unknown flag before what is missing."""
        for word in argv:
            flag = dashed(word).partition("=")[0]
            if flag.startswith("--") and flag not in self._option_string_actions:
                self.error(f"unrecognized arguments: {flag}")

    def hint(self, flag: str) -> str:
        """What an unknown flag may have meant."""
        key = flag.removeprefix("--").replace("-", "_")
        if self.model and (have := flags.owners(self.model, key)):
            return f"it has an effect only with {have}; "
        close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        return f"did you mean {close[0]}? " if close else ""


def width() -> int:
    return min(WIDTH, shutil.get_terminal_size().columns)


def dashed(word: str) -> str:
    """A flag with its underscores as dashes; other words as they are."""
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if re.match(r"--\w", word) else word


def stage_parser(name: str, module: Any, argv: Sequence[str] = ()) -> Parser:
    """A flag for each key of the stage's Config and of the plugins that `argv` chooses; --config and --set besides."""
    model, positional = module.Config, getattr(module, "POSITIONAL", None)
    chosen = flags.chosen_plugins(model, choices_in(model, argv))
    keys = list(flags.keys(model, chosen))
    parser = Parser(prog=f"cellvision {name}", usage=usage(name, module, keys), description=described(module))
    parser.model = model
    groups: dict[str, Any] = {}
    for key in sorted(keys, key=lambda key: (bool(key.group), not key.field.is_required())):
        if key.flag and key.dotted not in StageConfig.model_fields:
            if key.group not in groups:
                groups[key.group] = parser.add_argument_group(**heading(model, key.group, chosen))
            add_flag(groups[key.group], key, positional)
    common = parser.add_argument_group(EVERYWHERE)
    for key in keys:
        if key.dotted in StageConfig.model_fields:
            add_flag(common, key, positional, hidden=key.dotted not in model.uses)
    add_files(common, module)
    add_nested(parser, [key for key in keys if not key.flag])
    return parser


def described(module: Any) -> str:
    """The first paragraph of a module's docstring, without the word that says whether it is a stage."""
    text = " ".join(module.__doc__.split("\n\n")[0].split())
    return textwrap.fill(re.sub(r"^(?:Stage|Command|Command for RNA): ", "", text), width())


def usage(name: str, module: Any, keys: list[Key]) -> str:
    """What must be given."""
    positional = getattr(module, "POSITIONAL", None)
    must = [key for key in keys if key.field.is_required()]
    words = [key.dotted.upper() if key.dotted == positional else f"{key.flags[0]} {key.value}" for key in must]
    if getattr(module, "HAS_OUT", True):
        words.append("--out DIR" if getattr(module, "OUT_REQUIRED", True) else "[--out FILE]")
    return " ".join(["cellvision", name, *words, "[options]"]).replace("%", "%%")


def heading(model: type[StageModel], group: str, chosen: Mapping[str, str]) -> dict[str, str]:
    """Title of the options below a key; for a plugin, with a line for every plugin of its family."""
    registry = flags.registries(model).get(group)
    if not group:
        return {"title": "options"}
    if registry is None:
        return {"title": f"{group}: {model.model_fields[group].description}"}
    longest = max(map(len, registry.names()))
    indent = " " * (longest + 2)
    about = [
        textwrap.fill(f"{name:{longest}}  {sources.about(registry, name)}", width() - 2, subsequent_indent=indent)
        for name in registry.names()
    ]
    auto = " (auto)" if model.model_fields[group].default == "auto" else ""
    options = f"options of --{group} {chosen[group]}{auto}; another choice has its own: --{group} NAME --help"
    return {"title": f"--{group}", "description": "\n".join([*about, "", options])}


def add_flag(group: Any, key: Key, positional: str | None, *, hidden: bool = False) -> None:
    """One flag; its value is checked later, by the config, which refuses a hidden one that cannot be obeyed."""
    text = argparse.SUPPRESS if hidden else key.help.replace("%", "%%")
    common: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS}
    if key.dotted == positional:
        action = group.add_argument(key.dotted, metavar=key.dotted.upper(), help=common["help"])
    elif key.field.annotation is bool:
        action = group.add_argument(*key.flags, dest=key.dotted, action=argparse.BooleanOptionalAction, **common)
    else:
        split = {"type": lambda text: text.split(",") if text else []} if key.is_list else {}
        action = group.add_argument(*key.flags, dest=key.dotted, metavar=key.value, **split, **common)
    action.words = key.choices


def add_files(group: Any, module: Any) -> None:
    group.add_argument("-h", "--help", action="help", help="show this and stop")
    group.add_argument("--config", type=Path, metavar="FILE", help="YAML file with any of the keys")
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="set any key, also nested: a.b=1"
    )
    if getattr(module, "HAS_OUT", True):
        required = getattr(module, "OUT_REQUIRED", True)
        text = getattr(module, "OUT_HELP", "the run directory")
        group.add_argument("--out", type=Path, required=required, metavar="DIR" if required else "FILE", help=text)


def add_nested(parser: Parser, keys: list[Key]) -> None:
    """What only a file or --set can say."""
    if not keys:
        return
    longest = max(len(key.dotted) for key in keys)
    lines = [f"{key.dotted:{longest}}  {key.help}" for key in keys]
    wrapped = [textwrap.fill(line, width() - 2, subsequent_indent=" " * (longest + 2)) for line in lines]
    parser.add_argument_group("keys for --config and --set alone", "\n".join(wrapped))


def choices_in(model: type[StageModel], argv: Sequence[str]) -> dict[str, Any]:
    """What the file, the flags and the sets say about plugins; everything else is left aside."""
    parser = Parser(prog="cellvision")
    for key in (*flags.registries(model), *model.guessed_from):
        parser.add_argument(f"--{key}", default=argparse.SUPPRESS)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", action="append", default=[])
    given = vars(parser.parse_known_args(list(argv))[0])
    file, sets = given.pop("config"), given.pop("set")
    return config.gather(file, given, sets)


def read_config(name: str, argv: list[str]) -> tuple[Any, Any, Path | None]:
    """argv -> (stage module, its config, out)."""
    module = importlib.import_module(f"cellvision.{name}")
    parser = stage_parser(name, module, argv)
    parser.refuse_unknown(argv)
    given = vars(parser.parse_args(argv))
    file, sets, out = given.pop("config"), given.pop("set"), given.pop("out", None)
    return module, config.load(module.Config, file, given, sets), out


def main(name: str, argv: list[str] | None = None) -> int:
    """Run one stage from the command line and return the exit code; what a person can mend is one line."""
    signals.install()
    try:
        module, cfg, out = read_config(name, sys.argv[1:] if argv is None else argv)
        module.run(cfg) if out is None else module.run(cfg, out)
    except CellvisionError as error:
        return ended(name, str(error), error.exit_code)
    except signals.Interrupted as stop:
        return ended(name, f"{stop}; the same command goes on from here", stop.exit_code)
    except BrokenPipeError:  # who read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return ended(name, *of_system(error, out))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        text = (
            f"the memory does not suffice ({error}); use fewer --workers, a smaller --batch or --size, or fewer items"
        )
        return ended(name, text, ConfigError.exit_code)
    return 0


def ended(name: str, text: str, code: int) -> int:
    """Say in one line why a command ends; -> its exit code."""
    say(f"cellvision {name}: {' '.join(text.split())}")
    return code


def of_system(error: OSError, out: Path | None) -> tuple[str, int]:
    """What the system refused, what to do about it, and the exit code."""
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if error.errno in files.FULL:
        disk, free = files.disk_of(Path(place) if place else out or Path.cwd())
        needs = (error.strerror or "").partition(": ")[2]
        what = "; ".join(filter(None, (needs, f"{free} bytes are free on {disk}")))
        return f"the disk is full ({what}); free some space and repeat the command", DiskFull.exit_code
    advice = ADVICE.get(error.errno or 0, "check it and repeat the command")
    what = ": ".join(filter(None, (place, error.strerror or str(error))))
    return f"{what}; {advice}", ConfigError.exit_code
