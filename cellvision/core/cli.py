"""The command line of every stage, made from its Config; and the exit codes.

0 ok, 1 internal, 2 inputs rejected under --strict, 3 no usable input, 4 bad config or usage, 5 unsafe input,
28 disk full, 130/143 signals.
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
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel

from cellvision.core import config, signals
from cellvision.core.errors import CellvisionError, ConfigError
from cellvision.core.progress import say


class Parser(argparse.ArgumentParser):
    """argparse with this project's exit code for bad usage."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--\S+)", message)
        close = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1) if unknown else []
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"{message} ({hint}see {self.prog} --help)")


def stage_parser(name: str, module: Any) -> Parser:
    """A flag per option of the stage's Config; --config and --set reach every key."""
    model = module.Config
    parser = Parser(prog=f"cellvision {name}", description=described(module), formatter_class=argparse.HelpFormatter)
    positional = getattr(module, "POSITIONAL", None)
    for key, field in model.model_fields.items():
        if key == positional:
            parser.add_argument(key, help=field.description)
        elif config.field_traits(model, key).get("flag", True):
            _add_flag(parser, key, key, field)
    for flag, dotted in model.short.items():
        _add_flag(parser, flag, dotted, _nested_field(model, dotted))
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with any of the keys")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="set any key, also nested: a.b=1"
    )
    if getattr(module, "HAS_OUT", True):
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run directory")
    return parser


def described(module: Any) -> str:
    """The first paragraph of a module's docstring, without the word that says whether it is a stage."""
    return re.sub(r"^(?:Stage|Command|Command for RNA): ", "", " ".join(module.__doc__.split("\n\n")[0].split()))


def _add_flag(parser: Parser, flag: str, dest: str, field: Any) -> None:
    default = (
        ""
        if field is None or field.is_required() or field.default in (None, "", (), [])
        else f" [{_show(field.default)}]"
    )
    text = ((field.description or "" if field else f"sets {dest}") + default).replace("%", "%%")
    common: dict[str, Any] = {"dest": dest, "default": argparse.SUPPRESS, "help": text}
    if field is not None and field.annotation is bool:
        parser.add_argument(f"--{flag.replace('_', '-')}", action=argparse.BooleanOptionalAction, **common)
    elif field is not None and "tuple" in str(field.annotation):
        parser.add_argument(f"--{flag.replace('_', '-')}", type=lambda text: text.split(","), metavar="A,B", **common)
    else:
        parser.add_argument(f"--{flag.replace('_', '-')}", metavar=_metavar(field), **common)


def _show(default: Any) -> str:
    return default.name if isinstance(default, BaseModel) and hasattr(default, "name") else str(default)


def _metavar(field: Any) -> str:
    kind = str(field.annotation) if field is not None else ""
    words = (("Path", "PATH"), ("int", "N"), ("float", "X"))
    return next((word for part, word in words if part in kind), "NAME")


def _nested_field(model: type[BaseModel], dotted: str) -> Any:
    """The field behind a dotted key; None where it belongs to a plugin that is not chosen yet."""
    *parents, last = dotted.split(".")
    for part in parents:
        inner = model.model_fields[part].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return None
        model = inner
    return model.model_fields.get(last)


def read_config(name: str, argv: list[str]) -> tuple[Any, Any, Path | None]:
    """argv -> (stage module, its config, out)."""
    module = importlib.import_module(f"cellvision.{name}")
    given = vars(stage_parser(name, module).parse_args(argv))
    file, sets, out = given.pop("config"), given.pop("set"), given.pop("out", None)
    return module, config.load(module.Config, file, given, sets), out


def main(name: str, argv: list[str] | None = None) -> int:
    """Run one stage from the command line and return the exit code; what a person can mend is one line."""
    signals.install()
    try:
        module, cfg, out = read_config(name, sys.argv[1:] if argv is None else argv)
        module.run(cfg, out) if out is not None or getattr(module, "HAS_OUT", True) else module.run(cfg)
    except CellvisionError as error:
        say(f"cellvision {name}: {' '.join(str(error).split())}")
        return error.exit_code
    except signals.Interrupted as stop:
        say(f"cellvision {name}: {stop}; the same command goes on from here")
        return stop.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(out if out and out.exists() else Path.cwd()).free
        say(f"cellvision {name}: the disk is full ({free} bytes free at {out}); free some space and repeat the command")
        return 28
    return 0
